"""Which of many values stand out, and how that is told of good pictures; `fitting.questions` compares the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 0.05  # share of clean folders in which any picture is proposed, if good scores have no heavier a tail than assumed
LEAST = 10  # pictures below which nothing is proposed: too few to know how good ones vary
SHOWN = 3  # of the most anomalous pictures that are named whether or not they are proposed
TINY = 1e-9


@dataclass(frozen=True)
class Screening:
    """What a comparison of the good pictures with each other found.

    scores     (picture, score), most anomalous first; a score is a distance, in the features' own units
    limit      pictures above it are proposed to be left out; None = there are too few pictures to tell
    features   what they were compared by, for people
    """

    scores: tuple[tuple[Path, float], ...]
    limit: float | None
    features: str

    @property
    def suspects(self) -> tuple[tuple[Path, float], ...]:
        """The pictures above the limit, most anomalous first."""
        return tuple(row for row in self.scores if self.limit is not None and row[1] > self.limit)

    def lines(self) -> list[str]:
        """For people: the suspects, or the most anomalous pictures where there are none."""
        if self.limit is None:
            return [f"{len(self.scores)} good pictures are too few to tell which of them are unlike the others"]
        typical = float(np.median([score for _, score in self.scores]))
        lines = []
        if typical == 0:  # a plain background, say, in a region of interest that misses the part
            lines.append(
                f"{sum(score == 0 for _, score in self.scores)} of {len(self.scores)} good pictures equal others where they "
                "are judged, so there is nothing to learn from them; check that the region of interest shows the part"
            )
        elif not self.suspects:
            named = ", ".join(f"{path.name} ({score / typical:.1f})" for path, score in self.scores[:SHOWN])
            lines.append(
                f"no good picture stands out from the others; the most anomalous, as multiples of a typical one's score: "
                f"{named}"
            )
        if self.suspects:
            count, it = len(self.suspects), "it, and leave it out if it is"
            stand, them = ("stands", it) if count == 1 else ("stand", "them, and leave out those that are")
            lines.append(
                f"{count} of {len(self.scores)} good pictures {stand} out from all others (by chance, about 1 folder in "
                f"{round(1 / RATE)} of good pictures alone gets this warning); look at {them} not good:"
            )
        for path, score in self.suspects:
            lines.append(f"  {path}: {score / typical:.1f} times a typical score" if typical else f"  {path}: {score:.3g}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "count": len(self.scores),
            "features": self.features,
            "limit": self.limit,
            "rate": RATE,
            "suspects": [{"path": str(path), "score": score} for path, score in self.suspects],
            "most_anomalous": [{"path": str(path), "score": score} for path, score in self.scores[:SHOWN]],
        }


def outlier_limit(values: Sequence[float], rate: float = RATE) -> float | None:
    """The value above which one of `values` stands out from the others; None for fewer than LEAST.

    Measured from the median in units of the median distance of the upper half to it, so that a quarter of outliers hardly
    moves it. The multiple allowed is such that of samples whose distances above the median are exponential (an assumption;
    in `screen`, of the scores' logarithms) a share of `rate` has any value above it, found by simulation for their number.
    """
    x = np.sort(np.asarray(values, np.float64))
    if len(x) < LEAST:
        return None
    middle, unit = _middle_and_unit(x)
    return float(middle + _multiple(len(x), rate) * unit)


def _middle_and_unit(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted values ... n -> their median, and the median of the upper half's distances to it, never zero; both ...."""
    middle = np.median(x, axis=-1)
    above = x[..., x.shape[-1] // 2 :] - middle[..., None]
    return middle, np.maximum(np.median(above, axis=-1), TINY * (1 + np.abs(middle)))


@cache
def _multiple(count: int, rate: float) -> float:
    """By simulation of 4,000 samples: the multiple of the unit that the largest of `count` exceeds at `rate`."""
    rng = np.random.default_rng(0)
    # The lower half mirrors the upper: of it only counts where the median lies among so many values.
    x = np.sort(rng.laplace(size=(4000, count)), axis=1)
    middle, unit = _middle_and_unit(x)
    return float(np.quantile((x[:, -1] - middle) / unit, 1 - rate))
