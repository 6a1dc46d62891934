"""Train a method's paper profile, however long it takes and however often it is stopped, and write its row.

    FLAWFORGE_DATA=... python benchmarks/paper_profiles.py --method isstad --data mvtec_bottle --models FOLDER
        [--limit MINUTES] [--checkpoint-every 3] [--size 224] [--seeds 0] [--device auto|cpu|cuda] [--init WEIGHTS]
        [--trunk lite0] [--steps N] [--set KEY=VALUE ...]

The length is the profile's own number of passes over the good pictures (--steps: other). A GPU is used where there is one.
The weights are kept every few minutes in FOLDER, and when the time limit is reached, on Ctrl-C and on SIGTERM. The same
command then goes on from there, to the same bits as a run that was never stopped, on a machine of the same kind.

At the limit (minutes of this call, judging left out) the net is calibrated and judged as it stands, and a row says what
share of the training is done (`progress`). Rows in results/paper_profiles.csv with `progress` 1 are final, and are not
measured again. `device` is the GPU's name or "cpu", `machine` the processor's. A fit that stops itself gives its reason
under `stopped`. `train_seconds` counts the training of all calls together. Test pictures are judged, never chosen by.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ablation import missing, show
from accuracy import columns
from flawforge import config, fitting
from flawforge.fitting import checkpoints, engine, pipeline
from flawforge.methods import METHODS
from flawforge.pictures import dataset
from flawforge.proving import evaluate
from flawforge.types import Train, TrainingError
from flawforge_runtime import bundle
from flawforge_runtime.inspector import Inspector
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "paper_profiles.csv"
KEY = ("method", "data", "size", "seed", "steps_asked", "settings", "init", "trunk")
SIZES = {"isstad": 224}  # of the paper; the others' is 256
ABLE = [name for name, method in METHODS.items() if "paper" in method.profiles]


@dataclass
class Progress:
    """How far a fit is; asks it to stop, with a checkpoint, at the end of a step after `until` (time.monotonic's clock).

    trained  seconds of each Train stage, those of earlier calls included
    """

    stages: Sequence[Any]
    until: float
    share: float = 0.0
    steps: dict[str, int] = field(default_factory=dict)
    trained: dict[str, float] = field(default_factory=dict)
    limit_reached: bool = False

    def remember(self, history: Sequence[Mapping[str, Any]]) -> None:
        """What earlier calls did, as the checkpoint tells it."""
        for row in history:
            self.steps[row["stage"]], self.trained[row["stage"]] = row["step"], row["seconds"]

    def __call__(self, tick: engine.Tick) -> None:
        trains = [stage for stage in self.stages if isinstance(stage, Train)]
        names = [stage.name for stage in trains]
        if tick.stage not in names:  # a look at the pictures is short, and keeps no checkpoint of its own
            return
        at = names.index(tick.stage)
        done = sum(stage.share for stage in trains[:at]) + trains[at].share * tick.progress
        self.share = done / sum(stage.share for stage in trains)
        self.steps[tick.stage], self.trained[tick.stage] = tick.step, tick.seconds
        if time.monotonic() > self.until and self.share < 1.0 and not self.limit_reached:
            self.limit_reached = True
            signal.raise_signal(signal.SIGINT)  # the engine finishes the step and writes a checkpoint


def request_of(options: argparse.Namespace, name: str, seed: int) -> fitting.Request:
    """What `fit` is asked for."""
    size = options.size or SIZES.get(options.method, 256)
    words = (options.method, name, str(size), str(seed), *([f"{options.steps}steps"] if options.steps else []))
    return fitting.Request(
        Path(os.environ["FLAWFORGE_DATA"]) / name,
        options.models / "_".join(words),
        method=options.method,
        profile="paper",
        steps=options.steps,
        size=size,
        seed=seed,
        init=options.init,
        trunk=options.trunk,
        device=options.device,
        workers=options.workers,
        checkpoint_every=60.0 * options.checkpoint_every,
        settings=config.parse_pairs(options.set),
    )


def measure(request: fitting.Request, limit: float | None) -> dict[str, Any]:
    """Train, or go on, until the end or for `limit` minutes; calibrate, judge, and give the row's measured columns.

    The model folder is written at the end only; before it, the checkpoint stays. Raises KeyboardInterrupt where somebody
    else stops it, after a checkpoint.
    """
    with bundle.hold(request.out):
        job = pipeline.opened(fitting.plan(request), None, None, lambda line: print(line, flush=True))
        progress = Progress(job.stages, time.monotonic() + 60.0 * limit if limit else float("inf"))
        fitting.work_folder(request.out).mkdir(parents=True, exist_ok=True)
        checkpoint, history = fitting.checkpoint_file(request.out), list[dict[str, Any]]()
        if checkpoint.exists():
            progress.remember(checkpoints.history_of(checkpoint))
        row: dict[str, Any] = {"device": device_name(request.device), "epochs": job.plan.settings.epochs}
        try:
            history = pipeline.train(job, checkpoint.exists(), progress)
        except TrainingError as error:
            return row | costs(progress) | {"stopped": str(error)}
        except KeyboardInterrupt:
            if not progress.limit_reached:
                raise
        job.net.to("cpu").eval()
        if history:
            progress.share = 1.0
        fitted = pipeline.calibrated(job, history)
        row |= costs(progress) | figures(fitted, request.data)
        if progress.share == 1.0:
            pipeline.save(fitted, request.out)
            shutil.rmtree(fitting.work_folder(request.out))
        return row


def costs(progress: Progress) -> dict[str, Any]:
    """How much of the training is done, and what it took."""
    return {
        "progress": progress.share,
        "steps": sum(progress.steps.values()),
        "train_seconds": sum(progress.trained.values()),
    }


def figures(model: Inspector, root: Path) -> dict[str, Any]:
    """On the labelled test pictures."""
    entries = [entry for entry in dataset.read_entries(root) if entry.split == "test"]
    return columns(evaluate.evaluate(model, entries).as_dict())


def device_name(asked: str) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if config.torch_device(asked) == "cuda" else "cpu"


def key_of(request: fitting.Request, options: argparse.Namespace) -> dict[str, str]:
    """What tells a final row from the others, see KEY."""
    init = "" if options.init is None else options.init.name
    settings = " ".join(sorted(options.set))
    values = (options.method, request.data.name, request.size, request.seed, options.steps or "", settings, init)
    return dict(zip(KEY, (*map(str, values), options.trunk), strict=True))


def parsed() -> argparse.Namespace:
    """The command line."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--method", required=True, choices=ABLE)
    asked.add_argument("--data", nargs="+", required=True, metavar="NAME", help="folders of FLAWFORGE_DATA")
    asked.add_argument("--models", type=Path, required=True, help="folder for checkpoints and finished models")
    asked.add_argument("--limit", type=float, metavar="MINUTES", help="of this call, for each fit; none where not given")
    asked.add_argument("--checkpoint-every", type=float, default=3.0, metavar="MINUTES")
    asked.add_argument("--size", type=int, help="of the canvas; the paper's where not given")
    asked.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    asked.add_argument("--workers", type=int, default=1, help="threads that forge ahead")
    asked.add_argument("--init", type=Path, help="as `flawforge fit` takes it")
    asked.add_argument("--trunk", default="", help="as `flawforge fit` takes it")
    asked.add_argument("--steps", type=int, help="instead of the profile's epochs")
    asked.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    asked.add_argument("--out", type=Path, default=RESULTS)
    return asked.parse_args()


def main() -> None:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    for seed in options.seeds:
        for name in options.data:
            request = request_of(options, name, seed)
            key = key_of(request, options)
            if not missing(options.out, [key | {"progress": "1"}]):
                continue
            row = measure(request, options.limit)
            record(options.out, {**key, **row})
            told = ("progress", "image_auroc", "pixel_ap", "iou", "stopped")
            show(options.method, name, seed, row={column: row.get(column) for column in told})


if __name__ == "__main__":
    main()
