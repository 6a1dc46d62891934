"""What judging and fitting cost as they grow: points for the cost model of docs/cost-of-scale.md. `scale.py points` runs it.

    what       grows                            seconds and bytes of one
    pictures   pictures judged                  picture: on Ray with one worker, and in the plain process; bytes of its row
    side       pixels of a picture's side       picture, in the plain process; bytes that are read of it
    good       good pictures of a fit           fit, import and calibration included; bytes of the model folder
    fit side   pixels of a picture's side       fit, likewise
    products   products of `fit --products`     product; bytes of the model folders
    commit     rows of a part                   part that the driver writes down (`ledger.commit`); bytes of a row

Every point is one command, measured once, so `start` (the same with one picture) can be taken off. `cpu` is processor time
of the command, user and system, which other programs hardly change; `seconds` is by the clock. On Ray there is the clock
alone, for its workers are no children of the command. A row is written as soon as it is known.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from flawforge.scale import ledger
from flawforge.scale.worker import COUNTS, parquet

OURS = [sys.executable, "-c", "from flawforge.cli import main; main()"]
RAY = ["--ray", "local", "--ray-workers", "1"]
PARTS = 16  # commits that are timed for each number of rows
PRODUCT = '[products.p{number}]\ndata = "good"\n'

Row = dict[str, Any]


def points(options: argparse.Namespace, pictures: Sequence[Path], good: Sequence[Path], place: Path) -> Iterator[Row]:
    """A row for each point of each of options.axes. pictures: to judge; good: to fit."""
    axes = {
        "pictures": judged,
        "side": by_side,
        "good": fitted,
        "fit side": fitted_by_side,
        "products": many,
        "commit": commits,
    }
    for what in options.axes:
        for row in axes[what](options, pictures if what in ("pictures", "side", "commit") else good, place):
            yield {"what": what, "seed": 0, "load": round(os.getloadavg()[0], 1)} | row


def judged(options: argparse.Namespace, pictures: Sequence[Path], place: Path) -> Iterator[Row]:
    """Over the number of pictures; as they come, from the first again where they are too few."""
    begun, idle = timed(options.model, pictures[:1], RAY, place), timed(options.model, pictures[:1], [], place)
    for count in options.counts:
        some = [pictures[number % len(pictures)] for number in range(count)]
        plain, ray = timed(options.model, some, [], place), timed(options.model, some, RAY, place)
        yield {
            "x": count,
            "ray_seconds": ray.seconds,
            "ray_start": begun.seconds,
            "seconds": plain.seconds,
            "start": idle.seconds,
            "cpu": plain.cpu,
            "cpu_start": idle.cpu,
            "peak_bytes": plain.peak,
            "bytes_each": ray.size / count,
        }


def by_side(options: argparse.Namespace, pictures: Sequence[Path], place: Path) -> Iterator[Row]:
    """Over the side of square pictures, so many of each as the least of options.counts."""
    for side in options.sides:
        some = resized(pictures, side, options.counts[0], place / f"side{side}")
        start, whole = timed(options.model, some[:1], [], place), timed(options.model, some, [], place)
        size = sum(path.stat().st_size for path in some) / len(some)
        times = {"seconds": whole.seconds, "start": start.seconds, "cpu": whole.cpu, "cpu_start": start.cpu}
        yield {"x": side, "n": len(some), **times, "peak_bytes": whole.peak, "bytes_each": size}


def fitted(options: argparse.Namespace, good: Sequence[Path], place: Path) -> Iterator[Row]:
    """Over the number of good pictures."""
    for count in options.good:
        if count > len(good):
            raise SystemExit(f"{count} good pictures were asked for and there are {len(good)}; give fewer with --good.")
        folder = linked([good[number * len(good) // count] for number in range(count)], place / f"good{count}")
        yield {"x": count} | _fit(options, folder, place / f"model{count}")


def fitted_by_side(options: argparse.Namespace, good: Sequence[Path], place: Path) -> Iterator[Row]:
    """Over the side of the good pictures, so many of each as the least of options.good; the canvas stays."""
    for side in options.sides:
        folder = place / f"fit{side}"
        resized(good, side, options.good[0], folder)
        yield {"x": side, "n": options.good[0]} | _fit(options, folder, place / f"model-side{side}")


def many(options: argparse.Namespace, good: Sequence[Path], place: Path) -> Iterator[Row]:
    """Over the number of products, each with so many good pictures as the least of options.good; fit and POD."""
    for count in options.products:
        folder = place / f"products{count}"
        linked(good[: options.good[0]], folder / "good")
        head = '[defaults]\nmethod = "patchstats"\nsize = 128\ncount = 4\n'
        text = head + "".join(PRODUCT.format(number=number) for number in range(count))
        (folder / "products.toml").write_text(text)
        command = ["fit", "--products", str(folder / "products.toml"), "-o", str(folder / "models"), "--ray", "local"]
        seconds = run(command).seconds
        yield {"x": count, "n": options.good[0], "seconds": seconds, "bytes_each": _size(folder / "models") / count}


def commits(options: argparse.Namespace, pictures: Sequence[Path], place: Path) -> Iterator[Row]:
    """Over the rows of a part; the rows are those of a few pictures, under other names, and so take less than others'."""
    rows = [json.loads(line) for line in _lines(options.model, pictures[:4])]
    _committed(rows, options.rows[0], place)  # the first takes longer: libraries are loaded
    for size in options.rows:
        seconds, bytes_each = _committed(rows, size, place)
        yield {"x": size, "n": PARTS, "seconds": seconds, "bytes_each": bytes_each}


def _committed(rows: Sequence[Row], size: int, place: Path) -> tuple[float, float]:
    """Seconds of PARTS commits of so many rows, and bytes of a row."""
    names = [f"/data/line/2026-01-01/{number:012d}.png" for number in range(size * PARTS)]
    named = [rows[k % len(rows)] | {"image_path": name} for k, name in enumerate(names)]
    parts = [parquet(named[n * size : (n + 1) * size]) for n in range(PARTS)]
    with tempfile.TemporaryDirectory(dir=place) as folder:
        book = ledger.begin(Path(folder) / "run", {}, names, size)
        start = time.perf_counter()
        for number, data in enumerate(parts):
            book.commit(number, data, [size, *(0 for _ in COUNTS[1:])])
        return time.perf_counter() - start, sum(map(len, parts)) / len(names)


class Ran(NamedTuple):
    """What a command took: seconds by the clock and of the processor, bytes of memory at most; size: bytes of its rows."""

    seconds: float
    cpu: float
    peak: int
    size: int = 0


def timed(model: Path, pictures: Sequence[Path], how: Sequence[str], place: Path) -> Ran:
    """`inspect` on these pictures. how: as on Ray; nothing = the plain process."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        table, out = Path(folder) / "list.csv", Path(folder) / "out"
        paths = [str(path) for path in pictures]
        if how:
            with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([["image_path"], *([path] for path in paths)])
            paths = [str(table)]
        rows = ["-o", str(out), *how] if how else ["--format", "jsonl"]  # with -o the plain run would draw thumbnails too
        ran = run(["inspect", str(model), "--threads", "1", *rows, *paths])
        return ran._replace(size=sum(path.stat().st_size for path in (out / "parts").iterdir())) if how else ran


def run(command: Sequence[str]) -> Ran:
    """One of our commands. SystemExit with its last words where it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen([*OURS, *command], stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode(errors="replace"))
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _fit(options: argparse.Namespace, data: Path, model: Path) -> Row:
    command = ["fit", str(data), "-o", str(model), "--method", options.method, "--minutes", f"{options.minutes:g}"]
    ran = run([*command, "--clock", "cpu", "--false-alarm", "0.5", "--review", "0.5"])
    told = {"method": options.method, "minutes": options.minutes, "seconds": ran.seconds, "cpu": ran.cpu}
    return {**told, "bytes_each": _size(model), "peak_bytes": ran.peak}


def _lines(model: Path, pictures: Sequence[Path]) -> list[str]:
    command = [*OURS, "inspect", str(model), "--format", "jsonl", *map(str, pictures)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def linked(pictures: Sequence[Path], folder: Path) -> Path:
    """A folder with links to these pictures."""
    folder.mkdir(parents=True)
    for number, path in enumerate(pictures):
        (folder / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
    return folder


def resized(pictures: Sequence[Path], side: int, count: int, folder: Path) -> list[Path]:
    """So many of the pictures as squares of `side` pixels, in a new folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture = cv2.imread(str(pictures[number % len(pictures)]))
        cv2.imwrite(str(folder / f"{number:05d}.png"), cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))
    return sorted(folder.iterdir())
