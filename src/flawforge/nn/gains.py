"""Is one detector significantly better than another on forged pictures? The figures by which gates decide, without labels.

`top_mean`           the score of a picture, as by `ScoreRule(reduce="top")`
`average_precision`  how well a map ranks forged pixels above all others, including those of good pictures
`least_gains`        the lower confidence bound of the mean gain per picture (Student's t)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

SURE = 0.95  # one-sided
MARGIN = 0.02  # by which a sum must surely gain, for forgeries flatter what has learnt from forgeries (assumption)


def top_mean(maps: Tensor, valid: Tensor, top: float) -> Tensor:
    """k h w, valid h w bool -> k: the mean of the highest `top` share, in (0, 1], of the valid pixels, at least one."""
    values = maps[:, valid]
    return values.topk(max(1, round(top * values.shape[1])), dim=1).values.mean(dim=1)


def average_precision(maps: Tensor, mask: Tensor, quiet: Tensor | None = None, times: int = 1) -> Tensor:
    """Values k n, mask n bool with some True -> k in (0, 1]: average precision of the values as detectors of the mask.

    quiet  k m, ascending: values of other places, none of them in a mask; each counts `times` times
    """
    precisions = []
    for place, row in enumerate(maps):
        hits, others = row[mask].sort().values, row[~mask].sort().values
        # At a hit's own value: all hits and all other values that are not below it (ties count against the detector).
        right = len(hits) - torch.searchsorted(hits, hits)
        wrong = len(others) - torch.searchsorted(others, hits)
        if quiet is not None:
            wrong = wrong + times * (quiet.shape[1] - torch.searchsorted(quiet[place], hits))
        precisions.append((right.double() / (right + wrong)).mean())
    return torch.stack(precisions)


@dataclass
class Proof:
    """The measurements that a gate decides by.

    scores  pictures candidates: scores of the reserved good pictures
    quiet   candidates m, ascending: values of their maps
    rows    for each forged picture: the good picture's index, and what the gate measured of each candidate
    """

    scores: Tensor
    quiet: Tensor
    rows: list[tuple[int, Tensor]] = field(default_factory=list)


def least_gains(values: NDArray[np.float64], sure: float = SURE) -> NDArray[np.float64]:
    """pictures candidates -> candidates: lower bound of the mean gain over the first candidate (Student's t, one-sided).

    sure  confidence level in (0, 1)
    At least two pictures.
    """
    gains = values - values[:, :1]
    error = gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
    return np.asarray(gains.mean(axis=0) - stats.t.ppf(sure, len(gains) - 1) * error)
