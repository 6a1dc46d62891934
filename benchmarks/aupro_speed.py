"""AUPRO on the 83 MVTec bottle test masks at 256 x 256: flawforge beside anomalib, same maps, same machine, one run.

    FLAWFORGE_DATA=... python benchmarks/aupro_speed.py --anomalib-python PATH [--maps FILE.npz] [--repeats 9]

The maps are made from the masks and smooth noise by a seed, so no model is needed; --maps takes others (arrays `maps`
n h w float32 and `masks` n h w bool). Both sides get them as an npz in a temporary folder, each in a process of its
own, one after the other; each gives the median and the fastest seconds of `repeats` calls after one that is not
counted, from arrays in memory to the number. anomalib's torch takes the cores that it likes, ours uses one.
`times_faster` compares the fastest calls, because other work on the machine only ever adds to a time.

Definitions, after reading anomalib 2.x, metrics/aupro.py: regions are the same (OpenCV's components, 8 neighbours,
per picture); the false-positive rate is pooled over the good pixels of all pictures, as here; every distinct value is
a threshold, without binning; the curve is cut at the limit by linear interpolation, and its area by trapezoids
divided by the limit. So the two numbers should agree up to anomalib's float32; the run fails when they differ by
more than 1e-4, or when ours is not ten times faster. The row is written in either case.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.proving import metrics
from record import record

LIMITS = (0.3, 0.05)
AGREE = 1e-4
TARGET = 10.0
SIDE = 256
RESULTS = Path(__file__).resolve().parent / "results" / "aupro_speed.csv"

THEIRS = """
import json, statistics, sys, time
from importlib.metadata import version
import numpy as np, torch
from anomalib.metrics.aupro import _AUPRO
data = np.load(sys.argv[1])
maps, masks = torch.from_numpy(data["maps"]), torch.from_numpy(data["masks"].astype(np.int64))
def once(limit):
    start = time.perf_counter()
    metric = _AUPRO(fpr_limit=limit)
    metric.update(maps, masks)
    value = float(metric.compute())
    return value, time.perf_counter() - start
found = {"versions": f"anomalib {version('anomalib')}; torch {torch.__version__}", "threads": torch.get_num_threads()}
for limit in json.loads(sys.argv[2]):
    once(limit)
    runs = [once(limit) for _ in range(int(sys.argv[3]))]
    seconds = [each for _, each in runs]
    found[str(limit)] = {"value": runs[0][0], "median": statistics.median(seconds), "fastest": min(seconds)}
print("RESULT" + json.dumps(found))
"""


def main() -> int:
    options = _options()
    if options.measure:
        print("RESULT" + json.dumps(measure(options.measure, options.repeats)))
        return 0
    maps, masks = _given(options.maps) if options.maps else synthetic(_bottle_masks(), options.seed)
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "maps.npz"
        np.savez(shared, maps=maps, masks=masks)
        repeats = str(options.repeats)
        ours = _result([sys.executable, __file__, "--measure", str(shared), "--repeats", repeats])
        theirs = _result([options.anomalib_python, "-c", THEIRS, str(shared), json.dumps(LIMITS), repeats])
    failed = False
    for limit in LIMITS:
        row = compare(ours[str(limit)], theirs[str(limit)])
        failed |= row["difference"] > AGREE or row["times_faster"] < TARGET
        maps_from = Path(options.maps).name if options.maps else "masks and noise"
        facts = {"limit": limit, "pictures": len(maps), "height": maps.shape[1], "width": maps.shape[2]}
        peer = {"anomalib_versions": theirs["versions"], "anomalib_threads": theirs["threads"]}
        record(options.out, {**facts, "maps": maps_from, "seed": options.seed, "repeats": options.repeats, **row, **peer})
        print(f"AUPRO at {limit}: " + ", ".join(f"{name} {value:.6g}" for name, value in row.items()))
    return int(failed)


def measure(shared: str, repeats: int) -> dict[str, Any]:
    """Our side: value and median seconds per limit, each picture an array of its own."""
    with np.load(shared) as data:
        maps, masks = list(data["maps"]), list(data["masks"])
    found = {}
    for limit in LIMITS:
        seconds, value = [], None
        for _ in range(repeats + 1):
            start = time.perf_counter()
            value = metrics.aupro(maps, masks, limit)
            seconds.append(time.perf_counter() - start)
        found[str(limit)] = {"value": value, "median": statistics.median(seconds[1:]), "fastest": min(seconds[1:])}
    return found


def compare(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    return {
        "aupro": ours["value"],
        "aupro_anomalib": theirs["value"],
        "difference": abs(ours["value"] - theirs["value"]),
        "seconds": ours["median"],
        "seconds_anomalib": theirs["median"],
        "fastest": ours["fastest"],
        "fastest_anomalib": theirs["fastest"],
        "times_faster": theirs["fastest"] / ours["fastest"],
    }


def synthetic(masks: NDArray[np.bool_], seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Maps n h w that find most defects, blurred and shifted, over smooth noise: an AUPRO well inside (0, 1)."""
    rng = np.random.default_rng(seed)
    maps = np.empty(masks.shape, np.float32)
    for surface, mask in zip(maps, masks, strict=True):
        noise = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), 4) * 8
        strength, (dy, dx) = rng.uniform(0.2, 2.5), rng.integers(-4, 5, 2)
        shifted = np.roll(mask.astype(np.float32), (int(dy), int(dx)), (0, 1))
        surface[:] = noise + np.float32(strength) * cv2.GaussianBlur(shifted, (0, 0), 5)
    return maps, masks


def _bottle_masks() -> NDArray[np.bool_]:
    """The 83 masks n 256 256, by nearest neighbour; those of good pictures are all False."""
    root = os.environ.get("FLAWFORGE_DATA")
    if not root or not (Path(root) / "mvtec_bottle").is_dir():
        raise SystemExit("FLAWFORGE_DATA names no folder with mvtec_bottle in it; set it, or give --maps FILE.npz.")
    folder = Path(root) / "mvtec_bottle"
    masks = []
    for picture in sorted(folder.glob("test/*/*")):
        mask = np.zeros((SIDE, SIDE), bool)
        if picture.parent.name != "good":
            path = folder / "ground_truth" / picture.parent.name / f"{picture.stem}_mask.png"
            own = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            mask = cv2.resize(own, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 127
        masks.append(mask)
    return np.stack(masks)


def _given(path: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    with np.load(path) as data:
        return data["maps"].astype(np.float32), data["masks"].astype(bool)


def _result(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not lines:
        raise SystemExit(f"{command[0]} gave no result:\n{done.stderr[-2000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT")))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="AUPRO: flawforge beside anomalib.")
    parser.add_argument("--anomalib-python", default=os.environ.get("ANOMALIB_PYTHON", "python"))
    parser.add_argument("--maps", help="npz with maps n h w and masks n h w")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
