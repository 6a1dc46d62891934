"""Attack the product: mutated pictures and model folders, kills, full disks, odd names, threads, numerics. attack.csv.

    python tools/attack.py [--only pictures folders ...] [--pictures 10000] [--folders 10000] [--kills 200] [--seed 0]

Everything is seeded and bounded, works in a temporary folder on parts that it renders and models that it fits itself, and
writes a row a test: how many cases, how many of them were

    crashes        an exception that is not one of ours, or a process that died
    hangs          over 5 s for a picture, 30 s for a folder
    wrong          a verdict that harm turned from NG to OK without a word, a PNG read with other pixels, a harmed folder
                   with its old hashes accepted, a value that is not finite in a verdict, a blank picture judged OK
    lost           rows of pictures that were judged and are not there
    half_written   a file or folder at its target name that is neither the old nor the new one

`noted` counts what cannot be told from a file: lossy formats without checksums whose damage turned NG into OK, and rehashed
folders that judge otherwise (who can rehash can also set thresholds).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawforge import fitting
from flawforge.demo.washers import render_good, write_demo_parts
from flawforge.judging import export, loading
from flawforge.methods import METHODS
from flawforge.types import FlawforgeError
from flawforge_runtime import bundle, decode
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.types import ScoreRule

ROOT = Path(__file__).resolve().parents[1]
SLOW_PICTURE, SLOW_FOLDER, PATIENCE = 5.0, 30.0, 90.0  # seconds
SIZE = 96
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
Found = Counter[str]
Case = Callable[[int], dict[str, int]]


# ---- what is attacked


def prepare(work: Path) -> None:
    """Parts, a model of statistics and a trained one, and their exports."""
    parts = write_demo_parts(work / "parts", good=60, test_good=10, per_kind=5, size=SIZE)
    fitting.run(fitting.Request(parts, work / "stats", method="patchstats", size=SIZE))
    tiny = asdict(METHODS["draem"].tiny)
    fitting.run(fitting.Request(parts, work / "draem", method="draem", steps=6, size=SIZE, settings=tiny))
    for to in ("onnx", "openvino"):
        export.export(work / "stats", work / f"stats_{to}", to)


def defective(work: Path) -> list[Path]:
    return sorted(path for path in (work / "parts" / "test").rglob("*.png") if path.parent.name != "good")


def one_case(case: Case, places: Any, out: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    for place in iter(places.get, None):
        out.put((place, "begin", None))
        try:
            out.put((place, "end", case(place)))
        except BaseException as error:
            out.put((place, "end", {"crashes": 1, f"crash {type(error).__name__}: {str(error)[:160]}": 1}))


def in_processes(case: Case, count: int, workers: int = 2) -> Found:
    """Run case(0) .. case(count - 1) in processes that may die or hang; each death or hang costs its own case."""
    context = multiprocessing.get_context("fork")
    places, out, total = context.Queue(), context.Queue(), Counter({"count": count})
    for place in range(count):
        places.put(place)
    for _ in range(workers):
        places.put(None)
    began: dict[int, float] = {}
    running = [context.Process(target=one_case, args=(case, places, out), daemon=True) for _ in range(workers)]
    for each in running:
        each.start()
    done = 0
    while done < count:
        try:
            place, what, found = out.get(timeout=1.0)
        except Exception:
            late = [place for place, at in began.items() if time.monotonic() - at > PATIENCE]
            dead = [each for each in running if not each.is_alive() and each.exitcode not in (0, None)]
            if late or dead or not any(each.is_alive() for each in running):
                for each in running:
                    each.kill()
                total.update({"hangs" if late else "crashes": max(1, len(late) or len(dead))})
                done += max(1, len(began))
                began.clear()
                running = [context.Process(target=one_case, args=(case, places, out), daemon=True) for _ in range(workers)]
                for each in running:
                    places.put(None)
                    each.start()
            continue
        if what == "begin":
            began[place] = time.monotonic()
        else:
            began.pop(place, None)
            total.update(found)
            done += 1
    for each in running:
        each.join(timeout=5)
        each.kill()
    return total


# ---- pictures


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not made:
            break
        at, span = int(rng.integers(len(made))), int(rng.integers(1, 64))
        kind = int(rng.integers(6))
        if kind <= 1:
            made[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del made[at : at + span]
        elif kind == 3:
            made[at:] = bytes(len(made) - at)
        elif kind == 4:
            del made[at:]
        else:
            made[at : at + span] = rng.bytes(len(made[at : at + span]))
    return bytes(made)


def pictures(work: Path, options: argparse.Namespace) -> Found:
    model, sources = loading.load(work / "stats_onnx", threads=1), defective(work)
    # Those that are NG for what is in them, not for being unlike the product: harm could turn their verdict.
    paths = [path for path in sources if model(path).verdict == "NG"] or sources
    whole: dict[tuple[int, str], tuple[bytes, Any, str]] = {}
    for index, path in enumerate(paths):
        for form in FORMATS:
            buffer = io.BytesIO()
            Image.open(path).save(buffer, form, **({"quality": 95} if form in ("JPEG", "WEBP") else {}))
            picture = decode.as_picture(buffer.getvalue())
            whole[index, form] = buffer.getvalue(), picture.pixels, model(picture.pixels).verdict

    def case(place: int) -> dict[str, int]:
        rng = np.random.default_rng([options.seed, place])
        data, pixels, verdict = whole[place % len(paths), FORMATS[place // len(paths) % len(FORMATS)]]
        form, start, found = FORMATS[place // len(paths) % len(FORMATS)], time.monotonic(), Counter[str]()
        try:
            picture = decode.as_picture(mutated(data, rng))
            other = picture.pixels.shape != pixels.shape or not np.array_equal(picture.pixels, pixels)
            decision = model(picture.pixels)
            found["wrong"] += form == "PNG" and other
            found["wrong"] += not math.isfinite(decision.pred_score)
            found["noted"] += other and form != "PNG" and verdict == "NG" and decision.verdict == "OK"
            found["read"] += 1
        except FlawforgeError:
            found["refused"] += 1
        found["hangs"] += time.monotonic() - start > SLOW_PICTURE
        return found

    return in_processes(case, options.pictures)


# ---- folders


def harm_json(data: Any, rng: random.Random) -> Any:
    """One value somewhere in it changed to another type, an extreme, or away."""
    odd = [None, True, -1, 0, 1, 3.7, 10**30, 1e308, "", "x" * 3000, [], {}, [[]], {"a": {"b": 1}}, float("nan"), "\ud800"]
    if isinstance(data, dict) and data and rng.random() < 0.85:
        key = rng.choice(sorted(data))
        if rng.random() < 0.15:
            return {name: value for name, value in data.items() if name != key}
        return data | {key: harm_json(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.85:
        place = rng.randrange(len(data))
        return [*data[:place], harm_json(data[place], rng), *data[place + 1 :]]
    if isinstance(data, (int, float)) and rng.random() < 0.5:
        return data * rng.choice([-1, 1000, 1e9, 1e-9])
    return rng.choice(odd)


def rehash(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def folders(work: Path, options: argparse.Namespace) -> Found:
    bases = ["stats", "stats", "stats", "draem", "draem", "stats_onnx", "stats_onnx", "stats_openvino"]
    good, bad = render_good(500, size=SIZE), decode.read_picture(defective(work)[0]).pixels
    before: dict[str, Any] = {}  # of each process: networks and forks do not go together

    def judged(folder: Path) -> tuple[tuple[str, float], ...]:
        model = loading.load(folder, threads=1 if "openvino" in folder.name or "onnx" in folder.name else None)
        return tuple((each.verdict, each.pred_score) for each in map(model, (good, bad)))

    def case(place: int) -> dict[str, int]:
        rng, numbers = random.Random(f"{options.seed} {place}"), np.random.default_rng([options.seed, place])
        base, found, start = rng.choice(bases), Counter[str](), time.monotonic()
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
            folder = Path(name) / base
            if base not in before:
                before[base] = judged(work / base)
            shutil.copytree(work / base, folder)
            target = folder / rng.choice(sorted(path.name for path in folder.iterdir() if path.suffix != ".jpg"))
            old, hashed = target.read_bytes(), rng.random() < 0.2
            if target.suffix == ".json" and rng.random() < 0.8:
                data = json.dumps(harm_json(json.loads(old), rng)).encode()
            else:
                data = mutated(old, numbers)
            target.write_bytes(data)
            changed = data != old
            if not hashed and target.name != "manifest.json":
                rehash(folder)
            try:
                after = judged(folder)
                found["wrong"] += not all(math.isfinite(score) for _, score in after)
                accepted = changed and hashed and target.name != "manifest.json"
                found["wrong"] += accepted
                found["noted"] += after != before[base]
                found["read"] += 1
            except FlawforgeError as error:
                found["crashes"] += "\n" in str(error)  # one sentence
                found["refused"] += 1
        found["hangs"] += time.monotonic() - start > SLOW_FOLDER
        return found

    return in_processes(case, options.folders)


# ---- kills


def command(*words: Any) -> list[str]:
    return [sys.executable, "-m", "flawforge", *map(str, words)]


def whole_model(folder: Path) -> bool:
    try:
        bundle.read(folder)
    except FlawforgeError:
        return False
    return True


def whole_rows(path: Path) -> bool:
    """Whether every line of a CSV of results is whole."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return all(len(row) == len(rows[0]) for row in rows)


def kills(work: Path, options: argparse.Namespace) -> Found:
    good, test = work / "parts" / "train" / "good", work / "parts" / "test"
    kinds = ("fit", "calibrate", "inspect", "export", "evaluate", "pod", "calibrate", "inspect")

    def case(place: int) -> dict[str, int]:
        rng, found = random.Random(f"{options.seed} kill {place}"), Counter[str]()
        kind, here = kinds[place % len(kinds)], work / "kills" / str(place)
        here.mkdir(parents=True)
        out, model = here / "out", here / "model"
        shutil.copytree(work / "stats", model)
        words: dict[str, tuple[Any, ...]] = {
            "fit": ("fit", good, "-o", out, "--method", "patchstats", "--size", SIZE),
            "calibrate": ("calibrate", model, test / "good"),
            "inspect": ("inspect", model, test, good, "-o", out, "--overlays"),
            "export": ("export", model, "-o", out, "--to", "onnx"),
            "evaluate": ("evaluate", model, work / "parts"),
            "pod": ("pod", model, good, "--count", 3, "--json", out),
        }
        until = {"fit": 9, "calibrate": 5, "inspect": 6, "export": 25, "evaluate": 7, "pod": 9}[kind]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command(*words[kind]), env=os.environ | {"OMP_NUM_THREADS": "1"}, **quiet)
        try:
            process.wait(timeout=1.0 + rng.random() * until)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            found["killed"] += 1
        found["half_written"] += not whole_model(model)
        if kind in ("fit", "export") and out.exists():
            found["half_written"] += not whole_model(out)
        if kind == "inspect" and (out / "results.csv").exists():
            found["half_written"] += not whole_rows(out / "results.csv")
        if kind == "pod" and out.exists():
            json.loads(out.read_text())
        if kind == "calibrate":
            fitting.recalibrate(model, test / "good", None, None)  # the next one works
            found["half_written"] += sorted(path.name for path in here.iterdir()) != ["model"]
        shutil.rmtree(here)
        return found

    return in_processes(case, options.kills)


# ---- runs


def odd_names(work: Path) -> tuple[Path, int]:
    """A folder of pictures with names and files that end runs; and how many rows it owes."""
    folder = work / "odd"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    data = defective(work)[0].read_bytes()
    names = [b"plain.png", b"\xe4.png", b"=1+1.png", b"+1.png", b"-dash.png", b"@SUM(1).png", b"a\x1b[31mred.png"]
    names += [b"tab\t.png", b"line\nbreak.png", b"n" * 250 + b".png", "öß中.png".encode(), b"same.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    Image.open(io.BytesIO(data)).convert("RGB").save(folder / "same.bmp")
    for name, harmed in (("cut.png", data[:200]), ("empty.png", b""), ("text.png", b"no picture")):
        (folder / name).write_bytes(harmed)
    (folder / "huge.png").write_bytes(data[:16] + b"\x00\x00\x27\x10" * 2 + data[24:])
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return folder, len(names) + 5  # a dangling link is no picture


def runs(work: Path, options: argparse.Namespace) -> Found:
    found = Counter({"count": 0})
    folder, owed = odd_names(work)
    for model in ("stats", "stats_onnx", "draem"):
        for form in ("csv", "jsonl"):
            out = work / f"run_{model}_{form}"
            shutil.rmtree(out, ignore_errors=True)
            done = subprocess.run(
                command("inspect", work / model, folder, "-o", out, "--overlays", "--format", form),
                capture_output=True,
                check=False,
            )
            found["count"] += owed
            found["crashes"] += b"Traceback" in done.stderr
            text = (out / f"results.{form}").read_text(encoding="utf-8") if out.exists() else ""
            rows = len(list(csv.reader(io.StringIO(text)))) - 1 if form == "csv" else len(text.splitlines())
            found["lost"] += max(0, owed - rows)
            found["wrong"] += b"\x1b[31m" in done.stdout + done.stderr or "\x1b" in text
            drawn = len(list((out / "overlays").iterdir())) if (out / "overlays").is_dir() else 0
            found["lost"] += max(0, 13 - drawn)
    return found


def full_disk(work: Path, options: argparse.Namespace) -> Found:
    """No file may grow beyond a few bytes: every command is one sentence, and nothing is at its target."""
    good, found = work / "parts" / "train" / "good", Counter({"count": 0})
    cases = {
        "fit": ("fit", good, "-o", work / "f1", "--method", "patchstats", "--size", SIZE),
        "export": ("export", work / "stats", "-o", work / "f2", "--to", "onnx"),
        "report": ("report", work / "stats", "-o", work / "f3.html"),
        "pod": ("pod", work / "stats", good, "--count", 3, "--json", work / "f4.json"),
        "calibrate": ("calibrate", work / "stats", work / "parts" / "test" / "good"),
    }
    for words in cases.values():
        before = bundle.read(work / "stats").card
        done = subprocess.run(
            command(*words),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)),
        )
        found["count"] += 1
        found["crashes"] += "Traceback" in done.stderr or done.returncode != 1
        found["half_written"] += any((work / name).exists() for name in ("f1", "f2", "f3.html", "f4.json"))
        found["half_written"] += bundle.read(work / "stats").card != before
    return found


# ---- threads and numerics


def threads(work: Path, options: argparse.Namespace) -> Found:
    some, found = [render_good(index, size=SIZE) for index in range(500)], Counter({"count": 0})
    for name in ("stats", "draem", "stats_onnx", "stats_openvino"):
        model = loading.load(work / name, threads=1 if "_" in name else None)
        alone = [model(each) for each in some]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(model, some))
        found["count"] += len(some)
        for one, other in zip(alone, together, strict=True):
            same = one.pred_score == other.pred_score and one.verdict == other.verdict
            found["wrong"] += not (same and np.array_equal(one.anomaly_map, other.anomaly_map))
    return found


def odd_pictures() -> dict[str, Any]:
    """Pictures that no camera in order gives; none of them may be OK."""
    rng, wide = np.random.default_rng(0), np.linspace(0, 255, SIZE).astype(np.uint8)
    across = np.broadcast_to(wide[None, :, None], (SIZE, SIZE, 3)).copy()
    made: dict[str, Any] = {f"flat {value}": np.full((SIZE, SIZE, 3), value, np.uint8) for value in range(0, 256, 15)}
    made |= {"across": across, "down": across.swapaxes(0, 1).copy(), "noise": rng.integers(0, 256, across.shape, np.uint8)}
    board = (np.indices((SIZE, SIZE)).sum(axis=0) // 8 % 2 * 255).astype(np.uint8)
    made |= {"board": np.dstack([board] * 3), "one white pixel": np.zeros_like(across), "1 x 1": across[:1, :1]}
    made["one white pixel"][3, 3] = 255
    made |= {"1 x 160": np.resize(across, (1, 160, 3)), "2 x 20000": np.resize(across, (2, 20_000, 3))}
    made |= {"deep dark": (across.astype(np.uint16)), "float dark": np.zeros((SIZE, SIZE), np.float32)}
    good = render_good(700, size=SIZE)
    made |= {"inverted": 255 - good, "smeared": np.repeat(good[::24], 24, axis=0)}
    return made | {"half": np.vstack([good[:48], good[:1].repeat(48, 0)])}


def numerics(work: Path, options: argparse.Namespace) -> Found:
    found = Counter({"count": 0})
    for name in ("stats", "draem", "stats_onnx", "stats_openvino"):
        model = loading.load(work / name, threads=1 if "_" in name else None)
        for picture in odd_pictures().values():
            found["count"] += 1
            try:
                decision = model(picture)
                found["wrong"] += decision.verdict == "OK" or not math.isfinite(decision.pred_score)
            except FlawforgeError:
                found["refused"] += 1
    calibration, good = loading.load(work / "stats").calibration, render_good(9, size=SIZE)
    for value in (3e38, -3e38, 1e300, float("nan"), float("inf")):
        for rule in (ScoreRule(), ScoreRule("top", 5), ScoreRule("network"), ScoreRule("max", 9)):
            values = np.zeros((1, SIZE, SIZE), np.float64 if value == 1e300 else np.float32)
            values[0, 3:9, 3:9] = value
            values[0, 50:60] = -value

            def network(batch: Any, values: Any = values, value: float = value) -> Any:
                return values, np.array([value], values.dtype)

            judge = replace(Inspector(network, (SIZE, SIZE), rule, calibration))
            found["count"] += 1
            try:
                with np.errstate(all="ignore"):
                    decision = judge(good)
                found["wrong"] += not (math.isfinite(decision.pred_score) and np.isfinite(decision.anomaly_map).all())
            except FlawforgeError:
                found["refused"] += 1
    return found


TESTS: dict[str, Callable[[Path, argparse.Namespace], Found]] = {
    "numerics": numerics,
    "runs": runs,
    "threads": threads,
    "full disk": full_disk,
    "pictures": pictures,
    "folders": folders,
    "kills": kills,
}
COLUMNS = ("count", "crashes", "hangs", "wrong", "lost", "half_written", "noted", "read", "refused", "killed")


def alone(test: str, work: Path, options: argparse.Namespace, out: Any) -> None:
    """One test in a process of its own, which no network's threads have been in before."""
    out.put(TESTS[test](work, options))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(TESTS), default=list(TESTS))
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "attack.csv")
    options = parser.parse_args()
    sys.path.append(str(ROOT / "benchmarks"))
    from record import record

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    failed, context = 0, multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="flawforge-attack-") as name:
        work = Path(name)
        making = context.Process(target=prepare, args=(work,))
        making.start()
        making.join()
        for test in options.only:
            start = time.monotonic()
            out = context.Queue()
            running = context.Process(target=alone, args=(test, work, options, out))
            running.start()
            found = out.get()
            running.join()
            for key in sorted(set(found) - set(COLUMNS)):
                print(f"  {key}: {found[key]}")
            row = {"test": test, "seed": options.seed} | {key: found.get(key, 0) for key in COLUMNS}
            record(options.out, row | {"seconds": round(time.monotonic() - start, 1)})
            print(test, {key: value for key, value in row.items() if value}, flush=True)
            failed += sum(row[key] for key in ("crashes", "hangs", "wrong", "lost", "half_written"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
