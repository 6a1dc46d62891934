"""What each part of AnoSeg buys, one factor at a time from the cpu profile.

    FLAWFORGE_DATA=... python benchmarks/anoseg_ablation.py [--data mvtec_bottle magnetic_tile] [--minutes 10 | --steps N]
        [--size 256] [--seeds 0 1 2] [--variant NAME ...] [--set KEY=VALUE ...] [--trunk none] [--forged-only]

One row per product, variant and seed in results/anoseg_ablation.csv, written as soon as it is known; rows that are there
already are not measured again, so a stopped run goes on where it was. Every variant has the same minutes of processor time,
all threads together, or with --steps the same number of steps; a busy machine changes neither. Coordinates are also tried
on products that lie anyhow (UNALIGNED), where they may hurt. A fit that its own watch stops gives a row too, with the
reason under `stopped`.

`..._top` is the picture's score as the mean of the map's highest 0.1 %, `..._detector` by the detector, where there is one:
both are read off the same net, whose detector took its share of the minutes. `iou_calibrated` is at the threshold that
held-back good pictures gave, as a user would have it; `iou_best` at the best of all thresholds, which only labels can tell.
`iou_marks_R` and `forged_iou_marks_R` are at the threshold that marks a share R of good pictures, 0 = the false-alarm rate,
all pixels of all pictures together. `steps` are those of all stages, `trunk` is the encoder's start, empty = none.

`forged_...`: on the held-back good pictures and forged copies of them, by families that training never used (texture and
physical; training pastes); settings may be chosen by these. The other figures are those of the labelled test pictures;
nothing may be chosen by them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ablation import budget, key_of, missing, parser, show
from flawforge import config, fitting
from flawforge.methods import METHODS
from flawforge.pictures import dataset
from flawforge.proving import evaluate
from flawforge.types import ScoreRule, TrainingError
from flawforge_runtime import images, inspector
from judging import forged_figures, forged_iou, forged_pairs, test_pairs
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "anoseg_ablation.csv"
PROOF = ("perlin", "scratch", "stain", "missing", "dent", "crack")
UNALIGNED = ("aws_cookies",)
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "forging: plain CutPaste": {"forging": "cutpaste"},
    "forging: + rotation and permutation": {"forging": "rotate_permute"},
    "rebuild not masked": {"masked": False},
    "no adversary": {"adversarial": 0.0},
    "L_Seg not balanced": {"balance": False},
    "no coordinates": {"coordinates": False},
    "published critic": {"critic_norm": "batch", "critic_rate": 1.0},
    "no skips": {"skips": False},
    "trunk not trained": {"encoder_rate": 0.0},
    "with the detector": {"score": "detector"},
    "with the detector, classes by a head of their own": {"score": "detector", "class_head": True},
}
RATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)  # of marks
ON_UNALIGNED = ("as shipped", "no coordinates")


def ious(model: inspector.Inspector, pairs: Iterable[tuple[Any, Any]]) -> dict[float, float]:
    """IoU at the threshold of each of RATES, pixels of all pictures together; pairs are (picture, mask of its defects)."""
    assert model.calibration is not None
    limits = [dataclasses.replace(model.calibration, mark_rate=rate).pixel_threshold for rate in RATES]
    both, either = np.zeros(len(RATES)), np.zeros(len(RATES))
    for picture, mask in pairs:
        surface = model.judge(images.as_picture(picture)).anomaly_map
        for at, limit in enumerate(limits):
            both[at] += (mask & (surface > limit)).sum()
            either[at] += (mask | (surface > limit)).sum()
    return {rate: float(share) for rate, share in zip(RATES, both / np.maximum(either, 1), strict=True)}


def figures(model: inspector.Inspector, plan: fitting.Plan, root: Path, forged_only: bool) -> dict[str, Any]:
    """One row's figures; the map's are the same whatever the picture's score is read from."""
    rules = {"top": ScoreRule("top", plan.settings.smooth, plan.settings.top)}
    if plan.settings.score == "detector":
        rules["detector"] = model.rule
    forged = forged_pairs(plan.held, model.canvas, plan.request.seed, PROOF)
    row: dict[str, Any] = {f"forged_iou_marks_{rate:g}": each for rate, each in ious(model, forged).items()}
    row["forged_iou"] = forged_iou(model, plan.held, plan.request.seed, PROOF)
    if not forged_only:
        row |= {f"iou_marks_{rate:g}": each for rate, each in ious(model, test_pairs(root)).items()}
    entries = [entry for entry in dataset.read_entries(root) if entry.split == "test"]
    for name, rule in rules.items():
        read_off = dataclasses.replace(model, rule=rule)  # its thresholds are the first rule's: only rates without one hold
        found = forged_figures(read_off, plan.held, plan.request.seed, PROOF)
        row[f"forged_image_auroc_{name}"] = found.pop("forged_image_auroc")
        row |= found
        if forged_only:
            continue
        test = evaluate.evaluate(read_off, entries, bootstrap=0).as_dict()
        row[f"image_auroc_{name}"] = test["image"]["auroc"]["value"]
        pixel = {key: (test["pixel"][key] or {}).get("value") for key in ("auroc", "ap", "aupro_0.3", "iou", "f1_max")}
        row |= {f"pixel_{key}": pixel[key] for key in ("auroc", "ap", "aupro_0.3")}
        best = pixel["f1_max"]
        row |= {"iou_calibrated": pixel["iou"], "iou_best": None if best is None else best / (2 - best)}
        row["peak_on_defect"] = test["pixel"]["peak_on_defect"]["value"]
    return row


def measure(variant: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    root = Path(os.environ["FLAWFORGE_DATA"]) / name
    settings = {**VARIANTS[variant], **config.parse_pairs(options.set)}
    with tempfile.TemporaryDirectory() as folder:
        request = fitting.Request(
            root, Path(folder) / "m", method="anoseg", seed=seed, size=options.size, settings=settings, **budget(options)
        )
        request = dataclasses.replace(request, trunk=options.trunk)
        plan = fitting.plan(request)
        try:
            model = fitting.run(request, made=plan)
        except TrainingError as error:
            return {"stopped": str(error)}
        assert model.content is not None
        training, notes = model.content.config["training"], model.content.config["notes"]
        cost = {"train_seconds": training["seconds"], "steps": training["steps"], "told": "; ".join(notes[-1:])}
        return {**figures(model, plan, root, options.forged_only), **cost}


def main() -> None:
    asked = parser(__doc__ or "", VARIANTS, RESULTS)
    asked.add_argument("--forged-only", action="store_true", help="leave the test pictures alone")
    asked.add_argument("--trunk", default="", help="as `flawforge fit` takes it; the method's own where not given")
    options = asked.parse_args()
    trunk = {"trunk": "" if options.trunk == "none" else options.trunk or METHODS["anoseg"].profiles["cpu"].backbone}
    wanted = [(name, variant) for name in options.data for variant in options.variant]
    wanted += [(name, v) for name in UNALIGNED if name not in options.data for v in options.variant if v in ON_UNALIGNED]
    for seed in options.seeds:
        for key in missing(options.out, [key_of(name, v, seed, options) | trunk for name, v in wanted]):
            row = measure(key["variant"], key["data"], seed, options)
            record(options.out, {**key, **row})
            show(key["data"], key["variant"], seed, row=row)


if __name__ == "__main__":
    main()
