"""What each part of `guided` buys, and whether the gate chooses well: results/guided_ablation.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/guided_ablation.py [--variant NAME ...] [--data NAME ...]
        [--minutes 2] [--seeds 0] [--out FILE]

Minutes are processor time. Each fit is judged three times on the labelled test pictures: by the statistics, by the segmenter
and by their sum, one row each. `chosen` says for what the gate, which saw no test picture, took that candidate;
`proof_picture` and `proof_map` are what it went by. One factor changes at a time. Rows that are there already are not
measured again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from ablation import inspector_of, missing, show, trained
from flawforge import fitting
from flawforge.nn import guided
from flawforge.types import Batch
from judging import figures, test_pairs
from record import record

shipped_loss = guided.loss
SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
IN_FEATURES = "half the batches forged in feature space"
NOISE = 0.5  # deviation of the noise, in standardised features; SimpleNet (Liu et al. 2023) has .015 in its own
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    IN_FEATURES: {},
    "no head start": {"head_start": False},
    "a quarter of the learning rate": {"learning_rate": 5e-4},
    "forgeries that nothing sees count": {"seen": 0.0},
    "half the width, no head start": {"width": 8, "head_start": False},
}


def fit(source: Path, settings: dict[str, Any], minutes: float, seed: int) -> tuple[fitting.Plan, Any, list[dict[str, Any]]]:
    """The plan, the net as the gate left it, and the history."""
    unused = Path("unused")
    request = fitting.Request(source, unused, method="auto", minutes=minutes, clock="cpu", seed=seed, settings=settings)
    plan = fitting.plan(request)
    pictures = fitting.load_pictures(plan)
    net, _ = fitting.new_net(plan)
    stages = fitting.stages_of(plan, net, pictures)
    history = trained(net, plan, pictures, stages, seed)
    return plan, net, history


def feature_loss(net: Any, batch: Batch, config: guided.Config, known: guided.Fused) -> dict[str, Tensor]:
    """`guided.loss`, but every second batch is a good one with Gaussian noise on the trunk's features inside the mask.

    As in SimpleNet (arXiv 2303.15140) and GLASS (arXiv 2407.09359). The picture, its filters and the fused map stay good, so
    only the trunk's branch can tell; the difference to the nearest good patch is that of the noisy features.
    """
    if int(batch.index.sum()) % 2:
        return shipped_loss(net, batch, config, known)
    folds, trunk = [index % config.folds for index in batch.index.tolist()], net.stats.trunk
    looked = net.look(batch.clean, folds, batch.inner)
    half = looked.features.shape[1] // 2
    where = F.adaptive_max_pool2d(batch.mask, looked.features.shape[-2:])
    noise = torch.randn(looked.features[:, :half].shape, generator=torch.Generator().manual_seed(int(batch.index.sum())))
    noisy = 4 * looked.features[:, :half] + NOISE * noise * where
    with torch.no_grad():
        features = torch.cat([noisy, trunk.difference(noisy, folds)], dim=1).clamp(-8, 8) / 4
    guide = guided.enlarge(guided.guide_of(looked.fused), batch.clean)
    picture = looked.picture.contiguous(memory_format=torch.channels_last)
    logit = net.segment(picture, guide, looked.maps, features).float()
    return guided.losses(logit, batch.mask, batch.valid, config)


def judge(plan: fitting.Plan, net: Any, source: Path) -> dict[str, float]:
    """Test pictures, judged by the net as it stands."""
    return figures(inspector_of(net, plan), test_pairs(source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "guided_ablation.csv")
    options = parser.parse_args()
    for seed, variant, name in ((s, v, d) for s in options.seeds for v in options.variant for d in options.data):
        key = {"variant": variant, "data": name, "minutes": f"{options.minutes:g}", "seed": str(seed)}
        if not missing(options.out, [key]):
            continue
        source = Path(os.environ["FLAWFORGE_DATA"]) / name
        load, start = os.getloadavg()[0], time.monotonic()
        with mock.patch.object(guided, "loss", feature_loss if variant == IN_FEATURES else shipped_loss):
            plan, net, history = fit(source, VARIANTS[variant], options.minutes, seed)
        fitted = time.monotonic() - start
        chosen = net.use.tolist()
        for place, candidate in enumerate(guided.CANDIDATES):
            weights = list(guided.USES[candidate])
            aims = [aim for aim, each in zip(guided.AIMS, chosen, strict=True) if each == weights]
            net.use[:] = torch.tensor(weights)
            net.settle()
            proof = {f"proof_{aim}": float(net.evidence[i, place, 0]) for i, aim in enumerate(guided.AIMS)}
            proof |= {f"least_gain_{aim}": float(net.evidence[i, place, 1]) for i, aim in enumerate(guided.AIMS)}
            row = {
                "variant": variant,
                "data": name,
                "minutes": options.minutes,
                "seed": seed,
                "candidate": candidate,
                "chosen": " and ".join(aims),
                **judge(plan, net, source),
                **proof,
                "steps": history[-1]["step"] if history else 0,
                "fit_seconds": fitted,
                "load": load,
                "threads": torch.get_num_threads(),
            }
            record(options.out, row)
            show(row=row)


if __name__ == "__main__":
    main()
