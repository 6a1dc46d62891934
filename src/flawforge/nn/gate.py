"""The gate of `auto`: is the sum of statistics and segmenter better than the statistics on forgeries? Uses no test picture.

The question is decided separately for the picture's score and for the map. A map must also rank the defect's pixels above
those of the reserved good pictures, because the highest values of good pictures set the pixel threshold. The sum is used
only where the lower confidence bound of the mean gain per picture (one-sided 95 %) exceeds MARGIN; else the statistics are
used alone. The segmenter alone is no candidate: forgeries overrate a detector that was trained on forgeries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flawforge.nn.gains import MARGIN, Proof, average_precision, least_gains, top_mean
from flawforge.nn.guided import AIMS, CANDIDATES, LEAST, THIN, USES, Config, Guided, reserved
from flawforge.types import Batch, Forger, Prove, Stage


def candidates(net: Guided, maps: Tensor) -> Tensor:
    """Both maps 2 h w -> CANDIDATES 3 h w, each map standardised on good pictures."""
    scaled = (maps - net.unit[:, :1, None].cpu()) / net.unit[:, 1:, None].cpu()
    return torch.cat([scaled, scaled.sum(dim=0, keepdim=True)])


def begin(net: Guided, top: float) -> Proof:
    """Scores and map values of the candidates on the reserved good pictures."""
    thin, scores, quiet = np.s_[..., ::THIN, ::THIN], [], []
    for good, valid in net.reserved:
        maps = candidates(net, good)
        scores.append(top_mean(maps, valid, top))
        quiet.append(maps[thin][:, valid[thin]])
    net.reserved = []
    return Proof(torch.stack(scores), torch.cat(quiet, dim=1).sort(dim=1).values)


def prove(net: Guided, proof: Proof, batch: Batch, top: float) -> None:
    """Append, for each forged picture and candidate: AUROC against the good pictures, average precision of its pixels."""
    statistics, segmenter = net.both(batch.forged, [0] * len(batch.forged), batch.inner)
    for i, index in enumerate(batch.index.tolist()):
        mask, valid = batch.mask[i, 0].cpu() > 0, batch.valid[i, 0].cpu() > 0
        if not mask.any():
            continue
        maps = candidates(net, torch.stack([statistics[i], segmenter[i]]).cpu())
        score, others = top_mean(maps, valid, top), proof.scores
        placement = ((score > others).double() + 0.5 * (score == others)).mean(dim=0)
        precision = average_precision(maps[:, valid], mask[valid], proof.quiet, THIN**2)
        proof.rows.append((index, torch.stack([placement, precision])))


def decide(net: Guided, rows: Sequence[tuple[int, Tensor]]) -> None:
    """For picture and map: use the sum where its gain over the statistics surely exceeds MARGIN. rows: see `Proof`."""
    pictures = sorted({index for index, _ in rows})
    if len(pictures) < LEAST:
        return
    means = torch.stack([torch.stack([row for index, row in rows if index == picture]).mean(dim=0) for picture in pictures])
    for place in range(len(AIMS)):
        values = means[:, place].numpy()
        net.evidence[place] = torch.from_numpy(np.stack([values.mean(axis=0), least_gains(values)], axis=1))
        gains = dict(zip(CANDIDATES, net.evidence[place, :, 1].tolist(), strict=True))
        net.use[place] = torch.tensor(USES["sum" if gains["sum"] > MARGIN else "statistics"])
    net.settle()


def gate(config: Config, forger: Forger) -> list[Stage]:
    """`prove`, then `decide`, on forgeries of a held-out family; no stage unless `use` is "gate"."""
    if config.use != "gate":
        return []

    def proved(pictures: int) -> Sequence[int]:
        first = reserved(config, pictures)
        return first if len(first) >= LEAST else []

    return [
        Prove(
            "gate",
            forger,
            config.proofs,
            lambda net: begin(net, config.top),
            lambda net, proof, batch: prove(net, proof, batch, config.top),
            lambda net, proof: decide(net, proof.rows),
            proved,
        )
    ]
