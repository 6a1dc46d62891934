"""`make serve-demo`: the web page on the demo's model, with a line that brings a part every few seconds.

The model is that of `make demo` (made here where it is not there yet). Everything lies in flawforge-demo: the result store
in line/, and the folder that the service watches in line/parts. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DEMO = Path("flawforge-demo")
SHARE = 0.15  # of defective parts on this line
COMMAND = [sys.executable, "-m", "flawforge"]


def main() -> int:
    """Make the demo where it is missing, serve its model, and bring parts until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="0 = any free port")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two parts")
    parser.add_argument("--parts", type=int, default=0, help="end after so many parts; 0 = never")
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of the demo")
    given = parser.parse_args()
    if not (given.demo / "model" / "manifest.json").is_file():
        print("making the demo's model first; this takes some minutes", flush=True)
        subprocess.run([*COMMAND, "demo", "--out", str(given.demo)], check=True)
    line = given.demo / "line"
    parts = line / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    command = [
        *COMMAND,
        "serve",
        f"washer={given.demo / 'model'}",
        "--port",
        str(given.port),
        "--db",
        str(line / "results.db"),
    ]
    with (line / "service.log").open("w") as log:
        service = subprocess.Popen(
            [*command, "--watch", str(parts), "--station", "washer line", "--sample-every", "10"], stderr=log
        )
        try:
            print(
                f"\nTo try your own: drop a picture of {given.demo / 'parts' / 'test'} on the page. Ctrl-C ends it.\n",
                flush=True,
            )
            bring(given.demo / "parts" / "test", parts, given.every, given.parts, service)
        except KeyboardInterrupt:
            pass
        finally:
            service.terminate()
            service.wait()
    return 0 if service.returncode in (0, -15) else 1


def bring(source: Path, parts: Path, every: float, count: int, service: subprocess.Popen[bytes]) -> None:
    """Copy pictures of good parts, and now and then of a defective one, into the watched folder, one by one."""
    numbers: Iterator[int] = itertools.count(1) if count == 0 else iter(range(1, count + 1))
    draw = random.Random(0)
    good = sorted((source / "good").iterdir())
    defective = [path for kind in sorted(source.iterdir()) if kind.name != "good" for path in sorted(kind.iterdir())]
    for number in numbers:
        picture = draw.choice(defective if draw.random() < SHARE else good)
        target = parts / f"part-{number:04d}{picture.suffix}"
        shutil.copyfile(picture, target.with_suffix(".part"))
        target.with_suffix(".part").rename(target)  # the service never sees half a picture
        try:
            service.wait(every)
        except subprocess.TimeoutExpired:
            continue
        return
    time.sleep(every)


if __name__ == "__main__":
    raise SystemExit(main())
