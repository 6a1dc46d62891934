"""Judging on Ray: two workers against one, one worker against the plain process, and seconds and bytes per picture.

    FLAWFORGE_DATA=... python benchmarks/scale.py speed --model EXPORT [--pictures FOLDER ...]
    python benchmarks/scale.py points --model EXPORT --pictures FOLDER [--counts 50 100 200 400] [--sides 128 256 512 1024]

`speed` judges all pictures of the data sets (of FLAWFORGE_DATA where no folder is given) three times, one after the other on
the same machine: without Ray in one process with one thread, which prints JSON lines and draws nothing, with one worker and
with two. `two_to_one` and `one_to_plain` are of the seconds of the command less those of a start with one picture, which is
recorded beside them: that is what a long run has of it. `points` measures seconds and bytes of rows per picture over the
number of pictures and over their size. `load` is the machine's load at the start: no claim rests on rows of a busy machine.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from flawforge_runtime.feed import Source
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "scale.csv"
OURS = [sys.executable, "-c", "from flawforge.cli import main; main()", "inspect"]


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        pictures = list(Source([Path(folder) for folder in options.pictures or _data()]))
        rows = speed(options, pictures, place) if options.what == "speed" else points(options, pictures, place)
        for row in rows:
            record(options.out, row)
            print(row, flush=True)
    return 0


def speed(options: argparse.Namespace, pictures: Sequence[Path], place: Path) -> list[dict[str, Any]]:
    """One row with the seconds of each way, and their ratios."""
    load = round(os.getloadavg()[0], 1)
    ways = {"plain": [], "one": ["--ray", "local", "--ray-workers", "1"], "two": ["--ray", "local", "--ray-workers", "2"]}
    starts = {name: timed(options.model, pictures[:1], how, place)[0] for name, how in ways.items()}
    whole = {name: timed(options.model, pictures, how, place)[0] for name, how in ways.items()}
    judging = {name: max(whole[name] - starts[name], 1e-9) for name in ways}
    row: dict[str, Any] = {"what": "speed", "pictures": len(pictures), "load": load}
    row |= {f"{name}_seconds": seconds for name, seconds in whole.items()} | {
        f"{name}_start": s for name, s in starts.items()
    }
    return [row | {"two_to_one": judging["one"] / judging["two"], "one_to_plain": judging["plain"] / judging["one"]}]


def points(options: argparse.Namespace, pictures: Sequence[Path], place: Path) -> list[dict[str, Any]]:
    """A row for each number of pictures, and for each side that they are resized to."""
    rows = []
    for count in options.counts:
        some = [pictures[number % len(pictures)] for number in range(count)]
        rows.append(_point("pictures", count, 0, some, options.model, place))
    for side in options.sides:
        folder = place / f"side{side}"
        folder.mkdir()
        for number in range(options.counts[0]):
            picture = cv2.imread(str(pictures[number % len(pictures)]))
            cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))
        rows.append(_point("side", options.counts[0], side, sorted(folder.iterdir()), options.model, place))
    return rows


def _point(what: str, count: int, side: int, pictures: Sequence[Path], model: Path, place: Path) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 1)
    how = ["--ray", "local", "--ray-workers", "1"]
    start, _ = timed(model, pictures[:1], how, place)
    seconds, size = timed(model, pictures, how, place)
    row = {"what": what, "pictures": count, "side": side or None, "load": load, "one_seconds": seconds, "one_start": start}
    return row | {"seconds_per_picture": max(seconds - start, 0.0) / max(count - 1, 1), "bytes_per_picture": size / count}


def timed(model: Path, pictures: Sequence[Path], how: Sequence[str], place: Path) -> tuple[float, int]:
    """Seconds of the whole command, and bytes that its rows take."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        table, out = Path(folder) / "list.csv", Path(folder) / "out"
        paths = [str(path) for path in pictures]
        if how:
            with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([["image_path"], *([path] for path in paths)])
            paths = [str(table)]
        rows = ["-o", str(out), *how] if how else ["--format", "jsonl"]  # with -o the plain run would draw thumbnails too
        command = [*OURS, str(model), "--threads", "1", *rows, *paths]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stderr)
        return seconds, sum(path.stat().st_size for path in (out / "parts").iterdir()) if how else len(done.stdout)


def _data() -> list[str]:
    root = Path(os.environ.get("FLAWFORGE_DATA", ""))
    found = sorted(str(path.parent.parent) for path in root.glob("*/train/good")) if str(root) != "." else []
    if not found:
        raise SystemExit("FLAWFORGE_DATA names no folder with data sets; set it, or give --pictures.")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and cost of judging on Ray.")
    parser.add_argument("what", choices=("speed", "points"))
    parser.add_argument("--model", type=Path, required=True, help="an export")
    parser.add_argument("--pictures", nargs="+", metavar="FOLDER")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
