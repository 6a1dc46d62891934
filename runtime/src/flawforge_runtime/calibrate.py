"""Scores of held-back good pictures -> thresholds, p-values, or an honest refusal. No torch, no distribution assumed.

Split-conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021): when a fresh good picture is exchangeable
with the n held-back ones, its score exceeds their k-th largest with probability at most k / (n + 1). So the threshold
for a promised rate is the k-th largest with k = floor(rate * (n + 1)), and a rate below 1 / (n + 1) cannot be
promised by n pictures.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flawforge_runtime.types import CalibrationError


def strictest_rate(n: int) -> float:
    """The lowest false-alarm rate that n held-back pictures can promise: 1 / (n + 1)."""
    return 1.0 / (n + 1)


def pictures_needed(rate: float) -> int:
    """How many held-back good pictures a promised `rate` in (0, 1) needs: the least n with rate * (n + 1) >= 1."""
    return math.ceil(1.0 / rate - 1e-9) - 1


def rank(n: int, rate: float) -> int:
    """k for the k-th largest of n. Raises CalibrationError where rate is outside (0, 1) or n cannot promise it."""
    if not 0.0 < rate < 1.0:
        raise CalibrationError(f"A false-alarm rate of {rate:g} was given; give a share between 0 and 1, for example 0.05.")
    # 0.29 * 100 is 28.999...: without the nudge a rate that n carries exactly would lose one rank.
    k = math.floor(rate * (n + 1) + 1e-9)
    if k < 1:
        raise CalibrationError(
            f"{n} held-back good pictures cannot promise a false-alarm rate of {rate:g}: they carry "
            f"{strictest_rate(n):.3g} or more; hold back {pictures_needed(rate)} pictures or ask for a higher rate."
        )
    return k


@dataclass(frozen=True)
class Calibration:
    """What the held-back good pictures allow us to say. Higher score = stranger.

    scores       ascending picture scores of the n held-back good pictures
    peaks        ascending highest map values of the same pictures
    false_alarm  promised share of good parts judged NG, on average over calibrations
    review       promised share of good parts judged REVIEW or NG; at least `false_alarm`
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    false_alarm: float
    review: float

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def threshold(self) -> float:
        """A picture is NG when its score is above this."""
        return self.scores[-rank(self.n, self.false_alarm)]

    @property
    def review_threshold(self) -> float:
        """A picture is REVIEW when its score is above this, and not NG."""
        return self.scores[-rank(self.n, self.review)]

    @property
    def pixel_threshold(self) -> float:
        """A pixel is marked when the map is above this; at most `false_alarm` of good pictures get any mark."""
        return self.peaks[-rank(len(self.peaks), self.false_alarm)]

    def p_value(self, score: float) -> float:
        """Conformal p-value in (0, 1]: (1 + number of held-back scores >= score) / (n + 1)."""
        return (1 + self.n - bisect_left(self.scores, score)) / (self.n + 1)

    def verdict(self, score: float) -> str:
        """ "NG", "REVIEW" or "OK"."""
        if score > self.threshold:
            return "NG"
        return "REVIEW" if score > self.review_threshold else "OK"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, thresholds included for readers in other languages."""
        return {
            "n": self.n, "false_alarm": self.false_alarm, "review": self.review, "threshold": self.threshold,
            "review_threshold": self.review_threshold, "pixel_threshold": self.pixel_threshold,
            "scores": list(self.scores), "peaks": list(self.peaks),
        }  # fmt: skip


def calibrate(
    scores: Sequence[float], rate: float, *, review: float | None = None, peaks: Sequence[float] | None = None
) -> Calibration:
    """Thresholds from the scores of held-back good pictures.

    scores  n picture scores, any order, finite; rate  promised false-alarm rate in (0, 1)
    review  promised rate of REVIEW or NG, at least `rate`; None = `rate`, which leaves no REVIEW band
    peaks   the highest map value of each picture; None = the scores themselves
    Raises CalibrationError: no scores, a score that is not finite, a rate that n pictures cannot promise.
    """
    review = rate if review is None else review
    peaks = scores if peaks is None else peaks
    if len(peaks) != len(scores):
        raise CalibrationError(f"{len(scores)} scores and {len(peaks)} peaks were given; give one peak per score.")
    for name, values in (("scores", scores), ("peaks", peaks)):
        if not np.isfinite(np.asarray(values, dtype=float)).all():
            raise CalibrationError(f"The {name} hold a value that is not finite; find its picture and leave it out.")
    if review < rate:
        raise CalibrationError(f"The review rate {review:g} is below the false-alarm rate {rate:g}; give at least {rate:g}.")
    for each in (rate, review):
        rank(len(scores), each)
    return Calibration(tuple(sorted(map(float, scores))), tuple(sorted(map(float, peaks))), float(rate), float(review))


def calibration_from_dict(data: Mapping[str, Any]) -> Calibration:
    """The inverse of `Calibration.as_dict`; the thresholds are derived again, so a hand-edited one has no effect."""
    return calibrate(data["scores"], data["false_alarm"], review=data["review"], peaks=data["peaks"])
