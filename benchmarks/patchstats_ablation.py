"""What each part of `patchstats` buys: one row per variant and data set in results/patchstats_ablation.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/patchstats_ablation.py [--data NAME ...] [--variant NAME ...]

"as shipped" is the method; "all" lacks only the scale of every position's covariance (`widen`), and every other variant
departs from "all" in the one thing that names it. Settings are the same for all products and nothing is chosen by these
numbers' labels. A fifth of the good training pictures is held back as `fit` would. Pixel figures are taken at every second
pixel of every second row. `cpu_seconds` is what the fit cost on one thread, without reading the pictures; `fit_seconds` is
the same by the clock, on a machine that may be shared. Rows that are there already are not measured again.

Three variants of the results file can no longer be run: "harmonic mean of p", "distance instead of density" and "letterbox
border judged" changed functions that the method no longer calls when it judges.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ablation import inspector_of, missing, pair_figures, parser, show, trained
from flawforge import fitting
from flawforge.nn import gaussians, patchstats, patchstats_fit
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "patchstats_ablation.csv"
SETS = ("mvtec_bottle", "aws_cookies", "kolektorsdd", "magnetic_tile")
KEY = ("variant", "dataset", "seed")


def one_prior(index: int) -> Any:
    """In place of `best_priors`: the same strength of the priors in every block."""

    def chosen(branch: Any, seen: Any, moments: Any, *_: Any) -> torch.Tensor:
        return torch.full((len(moments[0]),), index)

    return chosen


def no_spread(branch: patchstats.Branch, squared: torch.Tensor, held: torch.Tensor) -> None:
    """In place of `widen`: covariances as they were fitted."""
    known = branch.known
    branch.usual.fill_(float(((2.0 * branch.width + branch.width_of) * known).sum() / known.sum().clamp_min(1)))


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings, and functions that take another's place
    "as shipped": ({}, {}),
    "all": ({}, {"widen": no_spread}),
    "normalised, scales 1 2": ({"raw": (), "normalised": (1, 2)}, {"widen": no_spread}),
    "normalised, scales 1 2 4": ({"raw": ()}, {"widen": no_spread}),
    "raw, scales 1 2 4": ({"normalised": ()}, {"widen": no_spread}),
    "one Gaussian for all positions": ({}, {"widen": no_spread, "best_priors": one_prior(len(gaussians.PRIORS) - 1)}),
    "own Gaussians, least shrinkage": ({}, {"widen": no_spread, "best_priors": one_prior(0)}),
    "covariance of its own (block 1)": ({"block": 1}, {"widen": no_spread}),
}


@contextlib.contextmanager
def replaced(functions: dict[str, Any]) -> Iterator[None]:
    """For a while, let these functions of `patchstats_fit` be others."""
    before = {name: getattr(patchstats_fit, name) for name in functions}
    try:
        for name, other in functions.items():
            setattr(patchstats_fit, name, other)
        yield
    finally:
        for name, own in before.items():
            setattr(patchstats_fit, name, own)


def measure(folder: Path, variant: str, seed: int, size: int) -> dict[str, Any]:
    """Fit one variant on one product and judge its test pictures."""
    settings, functions = VARIANTS[variant]
    plan = fitting.plan(
        fitting.Request(folder, Path("unused"), method="patchstats", settings=settings, seed=seed, size=size)
    )
    pictures, (net, _) = fitting.load_pictures(plan), fitting.new_net(plan)
    with replaced(functions):
        clock, cpu = time.perf_counter(), time.process_time()
        trained(net, plan, pictures, plan.method.stages(net, plan.settings), seed)
        row = {"fit_seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    return row | pair_figures(inspector_of(net, plan), folder)


def main() -> None:
    asked = parser(__doc__ or "", VARIANTS, RESULTS, seeds=(0,))
    asked.set_defaults(data=list(SETS))
    options = asked.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.data:
            wanted = [dict(zip(KEY, (variant, name, str(seed)), strict=True)) for variant in options.variant]
            for key in missing(options.out, wanted):
                row = measure(Path(os.environ["FLAWFORGE_DATA"]) / name, key["variant"], seed, options.size)
                record(options.out, {**key, **row})
                show(key["variant"], name, row=row)


if __name__ == "__main__":
    main()
