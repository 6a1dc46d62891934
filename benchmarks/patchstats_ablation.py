"""What each part of `patchstats` buys: one row per variant and data set in results/patchstats_ablation.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/patchstats_ablation.py [VARIANT ...]

"as shipped" is the method; "all" lacks only the scale of every position's covariance (`widen`), and every other variant
departs from "all" in the one thing that names it. Settings are the same for all products and nothing is chosen by these
numbers' labels. A fifth of the good training pictures is held back as `fit` would. Pixel figures are taken at every second
pixel of every second row. `cpu_seconds` is what the fit cost on one thread, without reading the pictures; `fit_seconds` is
the same by the clock, on a machine that may be shared.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from flawforge import data, engine, fitting, loading, metrics
from flawforge.nn import gaussians, patchstats, patchstats_fit
from flawforge_runtime import images, inspector
from record import record

RESULTS = Path(__file__).parent / "results" / "patchstats_ablation.csv"
SETS = ("mvtec_bottle", "aws_cookies", "kolektorsdd", "magnetic_tile")


def one_prior(index: int) -> Any:
    def chosen(branch: Any, moments: Any, *_: Any) -> torch.Tensor:
        return torch.full((len(moments[0]),), index)

    return mock.patch.object(patchstats_fit, "best_priors", chosen)


def harmonic(surprises: torch.Tensor) -> torch.Tensor:
    return surprises.logsumexp(dim=1, keepdim=True) - math.log(surprises.shape[1])


def distance(self: patchstats.Branch, squared: torch.Tensor, told: torch.Tensor,
             gaussians: patchstats.Gaussians) -> torch.Tensor:  # fmt: skip
    d = 2.0 * self.width
    told = told * gaussians.known
    return patchstats.smooth((squared * told + d * (1 - told))[:, None])[:, 0]


def no_border(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    n, _, h, w = pictures.shape
    return pictures.new_zeros(n, h), pictures.new_zeros(n, w)


def no_spread(branch: patchstats.Branch, squared: torch.Tensor, held: torch.Tensor) -> None:
    known = branch.known
    branch.usual.fill_(float(((2.0 * branch.width + branch.width_of) * known).sum() / known.sum().clamp_min(1)))


def border_judged() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for module in (patchstats, patchstats_fit):
        stack.enter_context(mock.patch.object(module, "border", no_border))
    return stack


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[], Any] | None]] = {
    "as shipped": ({}, None),
    "all": ({}, None),
    "normalised, scales 1 2": ({"raw": (), "normalised": (1, 2)}, None),
    "normalised, scales 1 2 4": ({"raw": ()}, None),
    "raw, scales 1 2 4": ({"normalised": ()}, None),
    "one Gaussian for all positions": ({}, lambda: one_prior(len(gaussians.PRIORS) - 1)),
    "own Gaussians, least shrinkage": ({}, lambda: one_prior(0)),
    "distance instead of density": ({}, lambda: mock.patch.object(patchstats.Branch, "finished", distance)),
    "harmonic mean of p": ({}, lambda: mock.patch.object(patchstats, "fuse", harmonic)),
    "letterbox border judged": ({}, border_judged),
    "covariance of its own (block 1)": ({"block": 1}, None),
}


def run(variant: str, name: str, root: Path) -> None:
    settings, patch = VARIANTS[variant]
    request = fitting.Request(root / name, Path("unused"), method="patchstats", settings=settings)
    plan = fitting.plan(request)
    pictures = fitting.load_pictures(plan)
    net = fitting.seeded(plan.method.build, plan.settings, 0)
    with contextlib.ExitStack() as stack:
        if variant != "as shipped":
            stack.enter_context(mock.patch.object(patchstats_fit, "widen", no_spread))
        if patch:
            stack.enter_context(patch())
        clock, cpu = time.perf_counter(), time.process_time()
        engine.fit(
            net, plan.method.stages(net, plan.settings), fitting.batches(plan, pictures), plan.budget,
            engine.Run(device="cpu"), clean=lambda: pictures.clean_batches(plan.settings.batch),
        )  # fmt: skip
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        judge = inspector.Inspector(
            loading.numpy_network(net, torch.device("cpu")), plan.canvas, plan.method.score(plan.settings)
        )
        scores, labels, maps, masks, peaks, seconds = [], [], [], [], [], []
        for entry in (each for each in data.read_entries(root / name) if each.split == "test"):
            picture = images.read_picture(entry.path)
            start = time.process_time()
            judged = judge.judge(picture)
            seconds.append(time.process_time() - start)
            size = judged.anomaly_map.shape
            mask = images.read_mask(entry.mask_path, size=size) if entry.mask_path else np.zeros(size, bool)
            scores.append(judged.score)
            labels.append(bool(entry.label))
            if entry.label:
                peaks.append(metrics.peak_on_defect(judged.anomaly_map, mask))
            maps.append(judged.anomaly_map[::2, ::2].copy())
            masks.append(mask[::2, ::2].copy())
    row = {
        "variant": variant, "dataset": name, "image_auroc": metrics.auroc(scores, labels),
        "pixel_ap": metrics.pixel_average_precision(maps, masks), "aupro_0.3": metrics.aupro(maps, masks, 0.3),
        "peak_on_defect": float(np.mean(peaks)), "fit_seconds": clock, "cpu_seconds": cpu,
        "ms_per_picture": 1e3 * float(np.median(seconds)), "seed": 0,
    }  # fmt: skip
    record(RESULTS, row)
    print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or VARIANTS:
        for each in SETS:
            run(chosen, each, Path(os.environ["FLAWFORGE_DATA"]))
