"""What the default's statistics over a trunk should be made of: results/trunk_ablation.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/trunk_ablation.py [--variant NAME ...] [--data NAME ...]
        [--seeds 0] [--count 8] [--tests] [--out FILE]

Each variant changes one factor. The statistics are fitted as `fit` does, and judged on held-back good pictures and on
synthetic defects in them (`--count` of each kind and contrast): one row for each sum of families of statistics, with image
AUROC over all kinds and by kind, pixel AP and the peak on the defect. No test picture is read unless --tests asks for it:
then each row has the same figures for the labelled test pictures beside them, which choose nothing. Rows that are in the
results file are not measured again.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from ablation import missing, show, trained
from flawforge import fitting
from flawforge.nn import trunkstats
from flawforge.nn.normality import SUMS, counts_of
from flawforge.proving import metrics, specimens
from flawforge_runtime import images
from flawforge_runtime.maps import lay, to_network
from judging import test_pairs
from record import record

SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
JUDGED = (("memory",), ("positions",), ("memory", "positions"), ("filters", "memory"), ("filters", "memory", "positions"))
# Of each variant: fields of the request, settings, and constants of nn.trunkstats
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "as shipped": ({}, {}, {}),
    "grid of 4": ({}, {}, {"GRID": 4, "REACH": 4}),
    "grid of 16": ({}, {}, {"GRID": 16, "REACH": 16}),
    "stages 8 and 16": ({}, {}, {"STAGES": (2, 3)}),
    "stages 4, 8, 16 and 32": ({}, {}, {"STAGES": (1, 2, 3, 4)}),
    "lite2": ({"trunk": "lite2"}, {}, {}),
    "320 pixels": ({"size": 320}, {}, {}),
    "384 pixels": ({"size": 384}, {}, {}),
    "memory of 300": ({}, {"memory": 300}, {}),
    "memory of 3000": ({}, {"memory": 3000}, {}),
}
Pair = tuple[str, Any, Any]  # "good" or the kind of defect, picture, mask


@contextmanager
def changed(constants: dict[str, Any]) -> Iterator[None]:
    """Constants of nn.trunkstats with other values, as long as the context lasts."""
    grid = constants.get("GRID", trunkstats.GRID)
    with mock.patch.dict(vars(trunkstats), constants), mock.patch.object(trunkstats._Size, "cell", grid):
        yield


def fit(source: Path, variant: str, seed: int) -> tuple[fitting.Plan, Any]:
    """The plan, and the net with its statistics."""
    request, settings, constants = VARIANTS[variant]
    asked = {"method": "auto", "align": "off", "seed": seed, "settings": {"use": "statistics"} | settings} | request
    with changed(constants):
        plan = fitting.plan(fitting.Request(source, Path("unused"), **asked))
        pictures = fitting.load_pictures(plan)
        net, _ = fitting.new_net(plan)
        trained(net, plan, pictures, fitting.stages_of(plan, net, pictures), seed)
    return plan, net


def held_back(plan: fitting.Plan, count: int) -> Iterator[Pair]:
    """Held-back good pictures, and synthetic defects in them."""
    paths = [entry.path for entry in plan.held]
    for path in paths:
        good = images.read_picture(path).pixels
        yield "good", good, np.zeros(good.shape[:2], bool)
    for each in specimens.proof_pictures(paths, specimens.Recipe(count=count)):
        yield each.kind, each.image, each.mask


def judge(plan: fitting.Plan, net: Any, variant: str, pairs: Iterable[Pair]) -> dict[tuple[str, ...], dict[str, float]]:
    """For each sum of JUDGED its figures; pixels at every second one of every second row."""
    kinds: list[str] = []
    masks: list[Any] = []
    scores: dict[tuple[str, ...], list[float]] = {each: [] for each in JUDGED}
    maps: dict[tuple[str, ...], list[Any]] = {each: [] for each in JUDGED}
    peaks: dict[tuple[str, ...], list[float]] = {each: [] for each in JUDGED}
    with torch.inference_mode(), changed(VARIANTS[variant][2]):
        for kind, picture, mask in pairs:
            laid = lay(*images.letterbox(picture, plan.canvas))
            x = torch.from_numpy(to_network(laid.pixels))
            families = net.stats.families(net.stats.look(x, torch.tensor(laid.inner[None], dtype=torch.float32))[0])
            kinds.append(kind)
            masks.append(mask[::2, ::2].copy())
            for names in JUDGED:
                fused = (families * (counts_of(names) / len(names))[:, None, None]).sum(dim=1, keepdim=True)
                surface = torch.nn.functional.interpolate(fused, plan.canvas, mode="bilinear", align_corners=False)
                inner = np.where(laid.valid, surface[0, 0].numpy(), -np.inf)[laid.placement.inner]
                own = cv2.resize(np.ascontiguousarray(inner), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
                scores[names].append(float(inner.max()))
                maps[names].append(own[::2, ::2].copy())
                if mask.any():
                    peaks[names].append(metrics.peak_on_defect(own, mask))
    labels = [kind != "good" for kind in kinds]
    return {
        names: {
            "image_auroc": metrics.auroc(scores[names], labels),
            "pixel_ap": metrics.pixel_average_precision(maps[names], masks),
            "peak_on_defect": float(np.mean(peaks[names])),
        }
        | {
            f"auroc_{kind}": metrics.auroc(
                [s for s, k in zip(scores[names], kinds, strict=True) if k in ("good", kind)],
                [k != "good" for k in kinds if k in ("good", kind)],
            )
            for kind in specimens.KINDS
            if kind in kinds
        }
        for names in JUDGED
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "trunk_ablation.csv")
    options = parser.parse_args()
    for seed, name, variant in ((s, d, v) for s in options.seeds for d in options.data for v in options.variant):
        if not missing(options.out, [{"variant": variant, "data": name, "seed": str(seed)}]):
            continue
        source = Path(os.environ["FLAWFORGE_DATA"]) / name
        start = time.process_time()
        plan, net = fit(source, variant, seed)
        seconds = time.process_time() - start
        forged = judge(plan, net, variant, held_back(plan, options.count))
        tested = (
            judge(plan, net, variant, (("test" if m.any() else "good", p, m) for p, m in test_pairs(source)))
            if options.tests
            else {}
        )
        chosen = next(each for each in SUMS if torch.equal(counts_of(each), net.stats.counts))
        for names in JUDGED:
            row = {
                "data": name,
                "variant": variant,
                "seed": seed,
                "sum": "+".join(names),
                "chosen": names == chosen,
                "held_back": len(plan.held),
                "fit_cpu_seconds": seconds,
                **{f"forged_{key}": value for key, value in forged[names].items()},
                **{f"test_{key}": value for key, value in tested.get(names, {}).items()},
            }
            record(options.out, row)
            show(row=row)


if __name__ == "__main__":
    main()
