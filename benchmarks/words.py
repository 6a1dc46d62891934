"""Does counting visual words find what is absent? results/words.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/words.py [--data NAME ...] [--seeds 0] [--count 8]
        [--words 32 128] [--out FILE]

A memory of good patches cannot see a missing part where what lies beneath is itself good. Here every patch of the trunk's
features is given the nearest of K words (k-means over good patches), and a picture is described by how often each word
occurs. The score is the Mahalanobis distance of the square roots of these shares under a Gaussian of the good training
pictures (Ledoit and Wolf's shrinkage). It is compared with the picture score of the default's memory, and with the sum of
both, each standardised by the good training pictures. Judged on held-back good pictures and on synthetic defects in them;
no test picture is read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster import vq
from sklearn.covariance import LedoitWolf

from ablation import missing, show
from flawforge.proving import metrics, specimens
from flawforge_runtime import images
from flawforge_runtime.maps import lay, to_network
from record import record
from trunk_ablation import SETS, fit, held_back

FOLDS = 5
Array = np.ndarray[Any, Any]


def patches_of(net: Any, canvas: tuple[int, int], picture: Array) -> tuple[Array, float]:
    """The components of the trunk's features, patches 96, and the memory's highest -log p."""
    laid = lay(*images.letterbox(picture, canvas))
    x = torch.from_numpy(to_network(laid.pixels))
    inner = torch.tensor(laid.inner[None], dtype=torch.float32)
    trunk = net.stats.trunk
    with torch.inference_mode():
        parts = trunk.components(trunk.embed(x))[0].flatten(1).T
        return parts.numpy(), float(trunk.sum_of(x, inner, ("memory",)).max())


def shares(patches: Array, words: Array) -> Array:
    """Patches n d, words k d -> square roots of the share of the patches that each word is nearest to, k."""
    nearest, _ = vq.vq(patches, words)
    return np.sqrt(np.bincount(nearest, minlength=len(words)) / len(patches))


def distances(train: Array, others: Array) -> tuple[Array, Array]:
    """Rows n k -> Mahalanobis distances of the training rows, each without its fold, and of the others."""

    def of(fitted: Array, judged: Array) -> Array:
        return np.asarray(np.sqrt(LedoitWolf().fit(fitted).mahalanobis(judged)))

    fold = np.arange(len(train)) % FOLDS
    left_out = np.empty(len(train))
    for one in range(FOLDS):
        left_out[fold == one] = of(train[fold != one], train[fold == one])
    return left_out, of(train, others)


def figures(scores: Sequence[float], kinds: Sequence[str]) -> dict[str, float]:
    """Image AUROC against the good pictures, over all kinds and by kind."""

    def against(chosen: Sequence[str]) -> float:
        pairs = [(score, kind != "good") for score, kind in zip(scores, kinds, strict=True) if kind in ("good", *chosen)]
        return metrics.auroc([score for score, _ in pairs], [label for _, label in pairs])

    return {"auroc": against(specimens.KINDS)} | {
        f"auroc_{kind}": against([kind]) for kind in specimens.KINDS if kind in kinds
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--words", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "words.csv")
    options = parser.parse_args()
    for seed, name in ((s, d) for s in options.seeds for d in options.data):
        if not missing(options.out, [{"data": name, "seed": str(seed), "words": str(count)} for count in options.words]):
            continue
        plan, net = fit(Path(os.environ["FLAWFORGE_DATA"]) / name, "as shipped", seed)
        train = [patches_of(net, plan.canvas, images.read_picture(entry.path).pixels) for entry in plan.train]
        pairs = [(kind, *patches_of(net, plan.canvas, picture)) for kind, picture, _ in held_back(plan, options.count)]
        kinds = [kind for kind, _, _ in pairs]
        drawn = np.concatenate([patches[:: max(1, len(patches) // 128)] for patches, _ in train])
        apart = np.array([score for _, score in train])
        memory = np.array([score for _, _, score in pairs])
        for count in options.words:
            words, _ = vq.kmeans2(drawn.astype(np.float64), count, minit="++", seed=seed)
            good = np.stack([shares(patches, words) for patches, _ in train])
            left_out, counted = distances(good, np.stack([shares(patches, words) for _, patches, _ in pairs]))
            summed = (counted - left_out.mean()) / left_out.std() + (memory - apart.mean()) / apart.std()
            for judge, scores in {"memory": memory, "words": counted, "sum": summed}.items():
                row = {
                    "data": name,
                    "seed": seed,
                    "words": count,
                    "score": judge,
                    "train": len(train),
                    "held": len(plan.held),
                }
                row |= figures(scores.tolist(), kinds)
                record(options.out, row)
                show(row=row)


if __name__ == "__main__":
    main()
