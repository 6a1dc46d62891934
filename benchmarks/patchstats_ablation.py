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

import torch

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.nn import gaussians, patchstats, patchstats_fit
from flawforge_runtime import inspector
from judging import figures, test_pairs
from record import record

RESULTS = Path(__file__).parent / "results" / "patchstats_ablation.csv"
SETS = ("mvtec_bottle", "aws_cookies", "kolektorsdd", "magnetic_tile")


def one_prior(index: int) -> Any:
    def chosen(branch: Any, moments: Any, *_: Any) -> torch.Tensor:
        return torch.full((len(moments[0]),), index)

    return mock.patch.object(patchstats_fit, "best_priors", chosen)


def harmonic(surprises: torch.Tensor) -> torch.Tensor:
    return surprises.logsumexp(dim=1, keepdim=True) - math.log(surprises.shape[1])


def distance(
    self: patchstats.Branch, squared: torch.Tensor, told: torch.Tensor, gaussians: patchstats.Gaussians
) -> torch.Tensor:
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
            net,
            plan.method.stages(net, plan.settings),
            fitting.batches(plan, pictures),
            plan.budget,
            engine.Run(device="cpu"),
            clean=lambda: pictures.clean_batches(plan.settings.batch),
        )
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        judge = inspector.Inspector(
            loading.numpy_network(net, torch.device("cpu")), plan.canvas, plan.method.score(plan.settings)
        )
        found = figures(judge, test_pairs(root / name), every=2)
    row = {"variant": variant, "dataset": name, **found, "fit_seconds": clock, "cpu_seconds": cpu, "seed": 0}
    record(RESULTS, row)
    print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or VARIANTS:
        for each in SETS:
            run(chosen, each, Path(os.environ["FLAWFORGE_DATA"]))
