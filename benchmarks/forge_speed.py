"""Pictures forged per second at 256 x 256 on one core: flawforge's `perlin` beside anomalib's PerlinAnomalyGenerator.

    python benchmarks/forge_speed.py --anomalib-python PATH [--pictures 200] [--rounds 5]

Both sides forge the demo's rendered washers, each in its own layout and type (ours h w 3 uint8, theirs 3 h w float32 in
[0, 1]), in a process of its own that is bound to one core and one thread, with `probability=1`, that is every picture is
forged. The sides take turns, `rounds` times, so that other work on the machine meets both; a side's figure is the median
over all its pictures. Two tasks: `own` (each side makes its texture itself) and `given` (both get the same folder of
eight procedural textures of 320 x 320; ours has them decoded already, theirs decodes one per picture, as its code does).

Then our other forgers alone, and a batch of 16 beside one training step (forward, loss, backward, update, on all cores) of
DRAEM's `cpu` profile. The run fails when `own` is not ten times faster, or a batch costs more than a tenth of a step. Rows
are written in either case.
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

from flawforge.demo.washers import render_good
from flawforge.forge import FORGERS, noise
from flawforge.types import Batch, Sample
from record import record

SIDE = 256
BATCH = 16
TARGET = 10.0
RESULTS = Path(__file__).resolve().parent / "results" / "forge_speed.csv"

THEIRS = """
import json, statistics, sys, time
from importlib.metadata import version
import numpy as np, torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[4]))
goods = torch.from_numpy(np.load(sys.argv[1])).permute(0, 3, 1, 2).float() / 255
generator = PerlinAnomalyGenerator(anomaly_source_path=sys.argv[3] or None, probability=1)
seconds = []
for i in range(int(sys.argv[2]) + 10):
    start = time.perf_counter()
    generator(goods[i % len(goods)])
    seconds.append(time.perf_counter() - start)
versions = f"anomalib {version('anomalib')}; torch {torch.__version__}"
print("RESULT" + json.dumps({"seconds": seconds[10:], "versions": versions}))
"""


def main() -> int:
    options = _options()
    if options.measure:
        print(
            "RESULT" + json.dumps(measure(options.measure, options.goods, options.pictures, options.textures, options.seed))
        )
        return 0
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        goods, textures = _inputs(Path(folder), options.seed)
        for task, given in (("own", ""), ("given", str(textures))):
            row = beside(options, goods, task, given)
            failed |= task == "own" and row["times_faster"] < TARGET
            _write(options, row)
        for name in FORGERS:
            if name != "perlin":
                ours = _ours(options, name, goods, "")
                _write(options, {"forger": name, "task": "own", **_rate(ours)})
    step, per_batch = step_seconds(), batch_seconds(options.seed)
    failed |= per_batch > step / 10.0
    _write(options, {"forger": "perlin", "task": f"batch of {BATCH}", "seconds_batch": per_batch, "seconds_step": step})
    return int(failed)


def beside(options: argparse.Namespace, goods: Path, task: str, given: str) -> dict[str, Any]:
    """Ours and theirs in turns."""
    ours: list[float] = []
    theirs: list[float] = []
    versions = ""
    for turn in range(options.rounds):
        ours += _ours(options, "perlin", goods, given)
        command = [options.anomalib_python, "-c", THEIRS, str(goods), str(options.pictures), given, str(options.seed + turn)]
        found = _result(command)
        theirs += found["seconds"]
        versions = found["versions"]
    row = {"forger": "perlin", "task": task, **_rate(ours)}
    row["per_second_anomalib"] = 1.0 / statistics.median(theirs)
    row["times_faster"] = row["per_second"] * statistics.median(theirs)
    return {**row, "rounds": options.rounds, "anomalib_versions": versions}


def _ours(options: argparse.Namespace, name: str, goods: Path, given: str) -> list[float]:
    command = [sys.executable, __file__, "--measure", name, "--goods", str(goods), "--pictures", str(options.pictures)]
    return list(_result([*command, "--textures", given, "--seed", str(options.seed)])["seconds"])


def _rate(seconds: list[float]) -> dict[str, Any]:
    middle = statistics.median(seconds)
    return {"pictures": len(seconds), "milliseconds": middle * 1e3, "per_second": 1.0 / middle}


def measure(name: str, goods: Path, pictures: int, textures: str, seed: int) -> dict[str, Any]:
    """Seconds per forgery, after ten that are not counted."""
    cv2.setNumThreads(1)
    images = np.load(goods)
    given = (
        [cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in sorted(Path(textures).glob("*.png"))]
        if textures
        else []
    )
    forger = FORGERS[name]()
    seconds = []
    for i in range(pictures + 10):
        other, texture = images[(i + 1) % len(images)], given[i % len(given)] if given else None
        start = time.perf_counter()
        forger(Sample(images[i % len(images)], other=other, texture=texture), np.random.default_rng([seed, i]))
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[10:]}


def batch_seconds(seed: int) -> float:
    """Median seconds for forging one batch of 16 with `perlin`, on one thread."""
    cv2.setNumThreads(1)
    images, forger = [render_good(i, seed, SIDE) for i in range(BATCH)], FORGERS["perlin"]()
    seconds = []
    for turn in range(20):
        start = time.perf_counter()
        for i, image in enumerate(images):
            forger(Sample(image), np.random.default_rng([seed, turn, i]))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def step_seconds() -> float:
    """Median seconds for a training step of DRAEM's `cpu` profile with a batch of 16 at 256 x 256, in its own precision."""
    import torch

    from flawforge.methods import METHODS

    method = METHODS["draem"]
    config = method.profiles["cpu"]
    net = method.build(config).train()
    turn = method.stages(net, config)[0].turns[0]
    optimiser = turn.optimiser(turn.parameters(net))
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    ones = torch.ones(BATCH, 1, SIDE, SIDE)
    batch = Batch(images, images, (images[:, :1] > 0.95).float(), ones)
    half = str(config.precision).startswith("bf16")
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total = sum(turn.loss(net, batch).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _inputs(folder: Path, seed: int) -> tuple[Path, Path]:
    """An npy of eight washers n 256 256 3 uint8, and a folder of eight procedural textures."""
    goods, textures = folder / "goods.npy", folder / "textures"
    np.save(goods, np.stack([render_good(i, seed, SIDE) for i in range(8)]))
    textures.mkdir()
    for i in range(8):
        rng = np.random.default_rng([seed, i])
        made = (noise.noise_texture, noise.stripe_texture)[i % 2]
        cv2.imwrite(str(textures / f"{i}.png"), noise.paint(*made((320, 320), rng, False)))
    return goods, textures


def _result(command: list[str]) -> dict[str, Any]:
    """Run on one core with one thread, and read what it prints."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    core = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else None
    bind = (lambda: os.sched_setaffinity(0, core)) if core else None
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **single}, preexec_fn=bind
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not lines:
        raise SystemExit(f"{command[0]} gave no result:\n{done.stderr[-2000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT")))


def _write(options: argparse.Namespace, row: dict[str, Any]) -> None:
    record(options.out, {"height": SIDE, "width": SIDE, "seed": options.seed, **row})
    print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Forging: flawforge beside anomalib.")
    parser.add_argument("--anomalib-python", default=os.environ.get("ANOMALIB_PYTHON", "python"))
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--goods", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--textures", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
