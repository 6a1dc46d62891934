"""What each part of ISSTAD buys, one factor at a time from the cpu profile.

    FLAWFORGE_DATA=... python benchmarks/isstad_ablation.py [--data mvtec_bottle magnetic_tile] [--minutes 10 | --steps N]
        [--size 256] [--seeds 0 1 2] [--variant NAME ...] [--set KEY=VALUE ...] [--trunk none] [--forged-only]

One row per product, variant and seed in results/isstad_ablation.csv, written as soon as it is known; rows that are there
already are not measured again, so a stopped run goes on where it was. Every variant has the same minutes of processor time,
all threads together, or with --steps the same number of steps; a busy machine changes neither.

OVER_A_TRUNK are not measured with --trunk none; `trunk` is empty there. SIZES say which net learns most in the time; they
are for --forged-only.

"product" is the method as it ships; the other scores (SCORES) are read off the same trained net, so they cost no training.
"stage 2 on another's encoder" starts with --init from a "product" model of another product and has only stage 2's part of
the budget; what that saves is in `train_seconds`.

`forged_...`: on the held-back good pictures and forged copies of them, by families that training never used (paste and
physical; training corrupts); settings may be chosen by these. The other figures are those of the labelled test pictures;
nothing may be chosen by them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

from ablation import budget, key_of, missing, parser, show, test_figures
from flawforge import config, fitting
from flawforge.judging import loading
from flawforge.methods import METHODS
from flawforge_runtime import inspector
from judging import forged_figures
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "isstad_ablation.csv"
SCORES = ("product", "probability", "error", "sum", "release")
TRAINED: dict[str, dict[str, Any]] = {
    "identity target": {"target": "identity"},
    "no stage 1": {"masked_share": 0.0},
    "encoder frozen in stage 2": {"freeze": True},
    "no stage 1, encoder frozen as drawn": {"masked_share": 0.0, "freeze": True},
    "old corruption": {"corruption": "old"},
    "classifier on the last block only": {"supervise": "last"},
}
OVER_A_TRUNK: dict[str, dict[str, Any]] = {
    "stage 1 guesses pixels": {"masked": "pixels", "masked_share": 0.2},
    "stage 1 guesses features": {"masked": "features", "masked_share": 0.2},
    "patch 8 over the trunk": {"patch": 8},
}
SIZES: dict[str, dict[str, Any]] = {
    "convolutional stem": {"stem": "convolutional"},
    "larger": {"width": 192, "heads": 3, "decoder_width": 128, "decoder_heads": 4, "decoder_depth": 3, "masked_depth": 2},
    "patch 8": {"patch": 8},
}
INIT = "stage 2 on another's encoder"
VARIANTS = (*SCORES, *TRAINED, *OVER_A_TRUNK, *SIZES, INIT)
DONOR = "kolektorsdd"  # gives its encoder to the others


def scored_by(model: inspector.Inspector, combine: str) -> inspector.Inspector:
    """The same weights with another score; the thresholds are the old score's, so only threshold-free figures hold."""
    assert model.content is not None
    settings = model.content.config["settings"] | {"combine": combine}
    method = METHODS[model.content.config["method"]]
    rule = method.score(config.settings_from_dict(type(method.tiny), settings))
    about = dict(model.content.config) | {"settings": settings, "score_rule": dataclasses.asdict(rule)}
    content = dataclasses.replace(model.content, config=about)
    return inspector.from_content(content, loading.torch_network(content))


def fitted(root: Path, folder: Path, settings: dict[str, Any], seed: int, budget: dict[str, Any], init: Path | None) -> Any:
    """`budget` is whatever of a request says how long, at what size and over which trunk."""
    request = fitting.Request(root, folder, method="isstad", seed=seed, settings=settings, init=init, **budget)
    plan = fitting.plan(request)
    return plan, fitting.run(request, made=plan)


def figures(model: inspector.Inspector, plan: fitting.Plan, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    row: dict[str, Any] = forged_figures(model, plan.held, plan.request.seed)
    if not options.forged_only:
        row |= test_figures(model, root)
    return row


def measure(variants: list[str], name: str, seed: int, options: argparse.Namespace) -> Any:
    """(variant, figures) for variants that share one trained net: all SCORES, or one of the others."""
    root, given = Path(os.environ["FLAWFORGE_DATA"]), config.parse_pairs(options.set)
    request = budget(options) | {"size": options.size, "trunk": options.trunk}
    with tempfile.TemporaryDirectory() as folder:
        init = None
        if variants == [INIT]:
            init = Path(folder) / "donor"
            fitted(root / DONOR, init, given, seed, request, None)
            share = 1.0 - given.get("masked_share", METHODS["isstad"].profiles["cpu"].masked_share)
            request |= {"steps": round(options.steps * share)} if options.steps else {"minutes": options.minutes * share}
        settings = {**(TRAINED | OVER_A_TRUNK | SIZES).get(variants[0], {}), **given}
        plan, model = fitted(root / name, Path(folder) / "model", settings, seed, request, init)
        training = model.about["training"]
        for variant in variants:
            judged = scored_by(model, variant) if variant in SCORES else model
            cost = {"train_seconds": training["seconds"], "steps": training["steps"]}
            yield variant, {**cost, **figures(judged, plan, root / name, options)}


def main() -> None:
    asked = parser(__doc__ or "", VARIANTS, RESULTS)
    asked.add_argument("--forged-only", action="store_true", help="leave the test pictures alone")
    asked.add_argument("--trunk", default="", help="as `flawforge fit` takes it; the method's own where not given")
    asked.set_defaults(variant=[each for each in VARIANTS if each not in SIZES])
    options = asked.parse_args()
    trunk = {"trunk": "" if options.trunk == "none" else options.trunk or METHODS["isstad"].profiles["cpu"].backbone}
    if not trunk["trunk"]:
        options.variant = [variant for variant in options.variant if variant not in OVER_A_TRUNK]
    scores = [variant for variant in options.variant if variant in SCORES]
    groups = [scores, *([variant] for variant in options.variant if variant not in SCORES)]
    for seed, name, group in itertools.product(options.seeds, options.data, groups):
        keys = missing(options.out, [key_of(name, variant, seed, options) | trunk for variant in group])
        if not keys:
            continue
        for variant, row in measure([key["variant"] for key in keys], name, seed, options):
            record(options.out, {**key_of(name, variant, seed, options), **trunk, **row})
            show(name, variant, seed, row=row)


if __name__ == "__main__":
    main()
