"""Which families of statistics are used, by forgeries on reserved good pictures. No label or test picture is involved.

The good pictures of the first fold are judged by statistics fitted without them; on them the gate's forgers forge defects.
Each sum of families is measured twice: by how well it separates forged from good pictures (AUROC), and how well it ranks
forged places above all places of good pictures (average precision). The mean of both is its worth. Other families are added
to the memory only where the lower confidence bound of the mean gain per picture exceeds the gate's MARGIN (one-sided 95 %,
corrected for the number of sums). The memory is always used: a forgery keeps the picture's own light and position, which
favours filters and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flawforge.nn.gains import MARGIN, SURE, Proof, average_precision, least_gains, top_mean
from flawforge.nn.guided import LEAST, Config, inner_of, reserved
from flawforge.nn.normality import SUMS, counts_of
from flawforge.nn.patchstats_fit import spaced
from flawforge.types import Batch, Collect, Forger, Prove, Stage

JUDGES = 32  # reserved good pictures at most


def sums_of(net: Any, images: Tensor, inner: Tensor | None) -> Tensor:
    """n 3 h w of the first fold -> the maps of each of SUMS, n sums gh gw."""
    families = net.stats.families(net.stats.surprises(images, [0] * len(images), inner))
    weights = torch.stack([counts_of(channels) / len(channels) for channels in SUMS]).to(families)
    return torch.einsum("nfhw,sf->nshw", families, weights)


Maps = list[tuple[Tensor, Tensor]]  # of good pictures: what each of SUMS says, sums gh gw, and where it counts, gh gw


def look_at_good(net: Any, good: Maps, batch: Batch) -> None:
    """Append the maps of the first fold's good pictures in this batch."""
    for i, index in enumerate(batch.index.tolist()):
        rank, other = divmod(index, net.stats.folds)
        if other == 0 and spaced(rank, int(net.first), JUDGES):
            maps = sums_of(net, batch.clean[i : i + 1], inner_of(batch, i))[0].cpu()
            good.append((maps, _coarse(batch.valid[i], maps)))


def keep(net: Any, good: Maps) -> None:
    """Store the maps in the net, for the forgeries of the next stage."""
    net.reserved = good


def _coarse(mask: Tensor, maps: Tensor) -> Tensor:
    """1 h w -> gh gw bool: cells that hold any of it."""
    return F.adaptive_max_pool2d(mask[None].contiguous(), maps.shape[-2:])[0, 0].cpu() > 0


def begin(net: Any, top: float) -> Proof:
    """Scores and map values of each sum on the reserved good pictures."""
    scores = torch.stack([top_mean(maps, valid, top) for maps, valid in net.reserved])
    quiet = torch.cat([maps[:, valid] for maps, valid in net.reserved], dim=1).sort(dim=1).values
    net.reserved = []
    return Proof(scores, quiet)


def prove(net: Any, proof: Proof, batch: Batch, top: float) -> None:
    """Append to `proof`, for each forged picture, the worth of each of SUMS in [0, 1]."""
    maps = sums_of(net, batch.forged, batch.inner).cpu()
    for i, index in enumerate(batch.index.tolist()):
        mask, valid = _coarse(batch.mask[i], maps[i]), _coarse(batch.valid[i], maps[i])
        if not mask.any():
            continue
        score, others = top_mean(maps[i], valid, top), proof.scores
        placement = ((score > others).double() + 0.5 * (score == others)).mean(dim=0)
        precision = average_precision(maps[i][:, valid], mask[valid], proof.quiet)
        proof.rows.append((index, (placement + precision) / 2))


def decide(net: Any, rows: Sequence[tuple[int, Tensor]]) -> None:
    """Use the sum whose lower bound of the gain over the memory is the highest, if it exceeds MARGIN; else the memory.

    rows  (index of the good picture, worth of each sum), one for each forged picture
    """
    pictures = sorted({index for index, _ in rows})
    if len(pictures) < LEAST:
        return
    values = torch.stack([torch.stack([row for index, row in rows if index == picture]).mean(dim=0) for picture in pictures])
    # Of many alternatives one will seem to gain by chance: Bonferroni's correction.
    gains = torch.from_numpy(least_gains(values.numpy(), 1 - (1 - SURE) / (len(SUMS) - 1)))
    best = int(gains.argmax())
    net.stats.counts.copy_(counts_of(SUMS[best if gains[best] > MARGIN else 0]))
    net.stats.settle()


def evidence(config: Config, forger: Forger) -> list[Stage]:
    """A pass over the reserved good pictures, then forgeries on them; no stage without a trunk."""
    if not config.backbone:
        return []

    def proved(pictures: int) -> list[int]:
        first = reserved(config, pictures)
        return list(first) if len(first) >= LEAST else []

    return [
        Collect("evidence", lambda net: [], look_at_good, keep),
        Prove(
            "evidence",
            forger,
            config.choices,
            lambda net: begin(net, config.top),
            lambda net, proof, batch: prove(net, proof, batch, config.top),
            lambda net, proof: decide(net, proof.rows),
            proved,
            share=0.02,
        ),
        Collect(
            "ready",
            lambda net: None,
            lambda net, state, batch: None,
            lambda net, state: None,
            usable=config.use != "statistics",
        ),
    ]
