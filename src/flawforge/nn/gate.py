"""The gate of `auto`: does the sum of statistics and segmenter beat the statistics on forgeries? No test picture counts.

It is asked once for the picture and once for the map. A map must find the defect's pixels among those of the reserved good
pictures too, for the highest values of good pictures set a pixel's threshold. Only a gain that the spread over these
pictures does not explain is taken (one-sided 95 %, and MARGIN more); else the statistics stand. The segmenter alone is no
candidate: forgeries flatter what has learnt from forgeries.
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
    """Both maps 2 h w -> CANDIDATES 3 h w, in units of good pictures."""
    scaled = (maps - net.unit[:, :1, None].cpu()) / net.unit[:, 1:, None].cpu()
    return torch.cat([scaled, scaled.sum(dim=0, keepdim=True)])


def begin(net: Guided, top: float) -> Proof:
    """What the candidates say of the reserved good pictures."""
    thin, scores, quiet = np.s_[..., ::THIN, ::THIN], [], []
    for good, valid in net.reserved:
        maps = candidates(net, good)
        scores.append(top_mean(maps, valid, top))
        quiet.append(maps[thin][:, valid[thin]])
    net.reserved = []
    return Proof(torch.stack(scores), torch.cat(quiet, dim=1).sort(dim=1).values)


def prove(net: Guided, proof: Proof, batch: Batch, top: float) -> None:
    """For each forged picture: how well each candidate tells it from the good pictures, and its pixels from all others."""
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
    """For picture and map: the sum, where it surely gains over the statistics. rows: as in `Proof`."""
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
    """`prove`, then `decide`, on forgeries of a family that training never used; nothing where the settings decide."""
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
