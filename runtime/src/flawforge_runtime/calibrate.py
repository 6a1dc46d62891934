"""Scores of n good calibration pictures -> thresholds, p-values, or an honest refusal. No torch, no distribution assumed.

On average   split-conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021): when a fresh good picture is
             exchangeable with the n calibration pictures, its score exceeds their k-th largest with probability k / (n + 1)
             (less where scores are equal). So the threshold for a rate is the k-th largest with k = floor(rate * (n + 1)),
             and n pictures do not support a rate below 1 / (n + 1): 5 % takes 19, 1 % takes 99.
With         one model's rate is not the average: behind the k-th largest it varies with the calibration pictures as
confidence   Beta(k, n + 1 - k) (Vovk 2012, prop. 2a). It is at most `rate` with probability at least `confidence` for the
             largest k with P(Binomial(n, rate) <= k - 1) <= 1 - confidence (a tolerance limit, Wilks 1941): 5 % takes 59,
             1 % takes 299.

Every statement of a rate gives both numbers (`ExpectedRate`): the average, and the bound that this model keeps with 95 %
confidence. For 12, 20 and 99 pictures at their lowest limit: 7.7 and 22 %, 4.8 and 14 %, 1 and 3 %.

Where parts are photographed several times, pictures of one part are not exchangeable with those of another, but parts are:
then a "score" here is the highest of one part's pictures, n counts parts, and the rates are of parts (`per_part`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from flawforge_runtime.drawing import Scale
from flawforge_runtime.rates import ExpectedRate, expected_rate, percent, percent_up, rank
from flawforge_runtime.types import OK_BY_RULE, CalibrationError, ImageError

MOST_REGIONS = 1000  # a rule that accepts more accepts any part


def _marked(count: int) -> str:
    return f"{count} marked region{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Rules:
    """What a marked region must be to count, applied after the thresholds: rules only ever turn a verdict into OK.

    So they never raise the false-alarm rate, but may raise escapes: measure the model with its rules on.

    min_area      regions of less are not counted: px, or mm2 where mm_per_pixel is given
    max_count     a part with this many counted regions, or fewer, is OK
    mm_per_pixel  side of a pixel in mm; None = areas are px
    """

    min_area: float = 0.0
    max_count: int = 0
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_area) and self.min_area >= 0.0):
            raise CalibrationError(f"A least area of {self.min_area:g} was given; give 0 or more.")
        if not 0 <= self.max_count <= MOST_REGIONS:
            raise CalibrationError(f"A count of {self.max_count} regions was given; give 0 to {MOST_REGIONS}.")
        if self.mm_per_pixel is not None and not 0.0 < self.mm_per_pixel < 1e3:
            raise CalibrationError(f"A scale of {self.mm_per_pixel:g} was given; give the millimetres of one pixel.")

    @property
    def _of_size(self) -> str:
        unit = "px" if self.mm_per_pixel is None else "mm2"
        return f" of {self.min_area:g} {unit} or more" if self.min_area else ""

    @property
    def text(self) -> str:
        """For people: which parts these rules turn into OK; "" where they turn none."""
        if self.min_area == 0 and self.max_count == 0:
            return ""
        count = "no marked region" if self.max_count == 0 else f"at most {_marked(self.max_count)}"
        scale = "" if self.mm_per_pixel is None or not self.min_area else f" (a pixel is {self.mm_per_pixel:g} mm wide)"
        return f"a part with {count}{self._of_size}{scale} is OK by rule, whatever its score"

    def counted(self, areas: Sequence[float]) -> int:
        """How many regions of these areas in px count."""
        least = self.min_area * (1 - 1e-9)  # 100 px of 0.7 mm are 49 mm2, whatever the last bit says
        return sum(area * (self.mm_per_pixel or 1.0) ** 2 >= least for area in areas)

    def judge(self, verdict: str, areas: Sequence[float], pixels: float = math.inf) -> tuple[str, str]:
        """(verdict after the rules, a sentence where they changed it or "").

        pixels  area of the picture; a least area above it could reject no part at all, so the rules are put aside
        """
        if verdict == "OK" or self == Rules() or self.counted(areas) > self.max_count:
            return verdict, ""
        if not self.counted([pixels]):
            return verdict, f"the rules are put aside: no region can be{self._of_size} on a picture of {pixels:g} px"
        return (
            "OK",
            f"{verdict} by its score, {OK_BY_RULE}: {_marked(self.counted(areas))}{self._of_size}, {self.max_count} allowed",
        )


@dataclass(frozen=True)
class Calibration:
    """What the good calibration pictures allow us to say. Higher score = more anomalous.

    scores       ascending scores of the n calibration pictures (or parts)
    peaks        ascending highest map values of the same
    false_alarm  share of good parts judged NG that was asked for; `rate_ng` says what to expect
    review       share of good parts judged REVIEW or NG that was asked for; at least `false_alarm`
    confidence   None: the shares hold on average over calibrations; else each holds with this probability
    per_part     a score is the highest of one part's pictures
    rules        area and count rules, applied after the thresholds
    fixed        an NG threshold of the user's own instead of the calibrated one; see `carried`
    folds        0: the pictures were held back; k: cross-conformal in k folds, an estimate that is not guaranteed
                 (flawforge/fitting/folds.py)
    looks        statistics of the calibration pictures by name, for a drift check; they decide nothing
    pictures     first 12 hex digits of the sha256 of each file that was scored, so that none of them is taken for a fresh
                 one later; empty where that is not known
    doubts       sentences on calibration pictures that may not be good; they decide nothing
    batches      a score is the highest of one batch's pictures, as scores within a batch are more alike than chance allows
    mark_rate    share of good pictures that may get a mark, where it is above `false_alarm`; None = `false_alarm`
    again        what `flawforge calibrate MODEL` was given when it set these limits; None = the fit set them
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    false_alarm: float
    review: float
    confidence: float | None = None
    per_part: bool = False
    rules: Rules = Rules()
    fixed: float | None = None
    looks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    folds: int = 0
    pictures: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    batches: bool = False
    mark_rate: float | None = None
    again: str | None = None

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def rank(self) -> int:
        """k: the NG threshold is the k-th largest score."""
        return rank(self.n, self.false_alarm, self.confidence)

    @property
    def threshold(self) -> float:
        """A picture is NG when its score is above this."""
        return self.scores[-self.rank] if self.fixed is None else self.fixed

    @property
    def review_threshold(self) -> float:
        """A picture is REVIEW when its score is above this, and not NG."""
        promised = self.scores[-rank(self.n, self.review, self.confidence)]
        return promised if self.fixed is None else min(promised, self.fixed)

    @property
    def pixel_threshold(self) -> float:
        """A pixel is marked when the map is above this; `rate_marked` says how many good pictures get a mark."""
        return self.peaks[-self._mark_rank]

    @property
    def _mark_rank(self) -> int:
        return rank(len(self.peaks), max(self.mark_rate or 0.0, self.false_alarm), self.confidence)

    @property
    def rate_marked(self) -> ExpectedRate:
        """Good parts with a mark, whatever the verdict."""
        return expected_rate(len(self.peaks), self._mark_rank, self.confidence, self.of)

    @cached_property
    def scale(self) -> Scale:
        """The colours of all heat maps of a model: clear up to the median of `peaks`, marked from the pixel threshold on."""
        low, threshold = float(np.median(self.peaks)), self.pixel_threshold
        # With few or equal pictures the two coincide; a step of a hundredth keeps the ramp defined.
        step = max(abs(threshold) * 0.01, 1e-6)
        return Scale(min(low, threshold - step), threshold)

    @property
    def of(self) -> str:
        """What n counts: "pictures", "parts" where several pictures show one part, or "batches" of alike pictures."""
        return "batches" if self.batches else "parts" if self.per_part else "pictures"

    @property
    def rate_ng(self) -> ExpectedRate:
        """Good parts that are judged NG."""
        k = self.rank if self.fixed is None else self._rank_of(self.fixed)
        return expected_rate(self.n, k, self.confidence, self.of)

    @property
    def rate_flagged(self) -> ExpectedRate:
        """Good parts that are judged NG or REVIEW."""
        k = rank(self.n, self.review, self.confidence)
        if self.fixed is not None and self.fixed < self.scores[-k]:
            k = self._rank_of(self.fixed)
        return expected_rate(self.n, k, self.confidence, self.of)

    def _rank_of(self, threshold: float) -> int:
        """The k of a threshold of any value: one more than the calibration scores above it."""
        return 1 + self.n - bisect_right(self.scores, threshold)

    def lines(self) -> list[str]:
        """For people: each limit with the share of good parts above it, and what these rest on."""
        lines = [f"NG (rejected) above score {self.threshold:.4g}: {self.rate_ng.text}"]
        if self.review_threshold < self.threshold:
            flagged = self.rate_flagged
            lines.append(
                f"REVIEW above score {self.review_threshold:.4g}: {percent(flagged.expected)} of good parts NG or REVIEW on "
                f"average, up to {percent(flagged.bound)} for this model"
            )
        elif self.fixed is None and self.rank < self.n:
            least = percent_up((self.rank + 1) / (self.n + 1))
            lines.append(f"no REVIEW band: with {self.n} calibration {self.of} it takes a --review rate of {least} or more")
        if self.mark_rate is not None:
            marked = self.rate_marked
            lines.append(
                f"pixels are marked above {self.pixel_threshold:.4g}: {percent(marked.expected)} of good parts get a mark "
                f"on average, up to {percent(marked.bound)} for this model"
            )
        if self.rules.text:
            lines.append(f"rules: {self.rules.text}")
        how = f" in {self.folds} folds, an estimate and not a guarantee" if self.folds else ""
        lines.append(
            f"from {self.n} calibration {self.of}{how}; valid for good parts made and photographed like these; "
            "higher score = more anomalous"
        )
        return lines

    @property
    def text(self) -> str:
        """`lines` as one."""
        return "; ".join(self.lines())

    def p_value(self, score: float) -> float:
        """Conformal p-value in (0, 1]: (1 + calibration scores >= score) / (n + 1). Raises ImageError for NaN."""
        _refuse_nan(score)
        return (1 + self.n - bisect_left(self.scores, score)) / (self.n + 1)

    def normalised(self, score: float) -> float:
        """The score on one scale for all models, in [0, 1]; it rises with the score.

        0.5 + z / (2 (1 + |z|)) with z = (score - threshold) / (threshold - median of the held-back scores): 0.25 for a score
        as the median good picture has it, 0.5 at the NG threshold, 0.75 as far above it. Where a threshold of the user's own
        lies at or below that median, the spread of the held-back scores takes the place of the difference.
        """
        width = self.threshold - float(np.median(self.scores))
        if width <= 0.0:
            width = max(self.scores[-1] - self.scores[0], abs(self.threshold) * 0.01, 1e-6)
        z = min(max((score - self.threshold) / width, -1e12), 1e12)
        return 0.5 + z / (2.0 * (1.0 + abs(z)))

    def carried(self, threshold: float) -> float:
        """The false-alarm rate to expect of a threshold, on average: (1 + calibration scores above it) / (n + 1)."""
        return self._rank_of(threshold) / (self.n + 1)

    def verdict(self, score: float) -> str:
        """ "NG", "REVIEW" or "OK", before the rules. Raises ImageError for NaN, which is above no threshold."""
        _refuse_nan(score)
        if score > self.threshold:
            return "NG"
        return "REVIEW" if score > self.review_threshold else "OK"

    @property
    def beyond(self) -> float:
        """A score above every calibration picture's and both thresholds, by as much as the calibration scores spread."""
        highest = max(self.scores[-1], self.threshold)
        return highest + max(highest - self.scores[0], abs(highest), 1e-6)

    def moved(
        self,
        false_alarm: float | None = None,
        review: float | None = None,
        *,
        confidence: float | None = None,
        threshold: float | None = None,
        rules: Rules | None = None,
    ) -> Calibration:
        """The same calibration scores with other rates, a threshold of one's own, or other rules; None = as it is.

        A review rate that is not given is raised to the false-alarm rate where it would lie below it. Raises
        CalibrationError where the scores are too few for the rates.
        """
        alarm = self.false_alarm if false_alarm is None else false_alarm
        above = max(self.review, alarm) if review is None else review
        confidence = self.confidence if confidence is None else confidence
        new = calibrate(
            self.scores,
            alarm,
            review=above,
            peaks=self.peaks,
            confidence=confidence,
            per_part=self.per_part,
            rules=self.rules if rules is None else rules,
            mark_rate=self.mark_rate,
        )
        if threshold is not None and not math.isfinite(threshold):
            raise CalibrationError(f"A threshold of {threshold:g} was given; give a finite score.")
        return replace(
            new,
            fixed=self.fixed if threshold is None else float(threshold),
            looks=self.looks,
            folds=self.folds,
            pictures=self.pictures,
            doubts=self.doubts,
            batches=self.batches,
            again=self.again,
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, thresholds included for readers in other languages."""
        told = {"mark_rate": self.mark_rate, "again": self.again}
        return {
            "n": self.n,
            "false_alarm": self.false_alarm,
            "review": self.review,
            "confidence": self.confidence,
            "expected": {"ng": self.rate_ng.as_dict(), "flagged": self.rate_flagged.as_dict()},
            "per_part": self.per_part,
            "folds": self.folds,
            "rules": asdict(self.rules),
            "fixed": self.fixed,
            "threshold": self.threshold,
            "review_threshold": self.review_threshold,
            "pixel_threshold": self.pixel_threshold,
            "scores": list(self.scores),
            "peaks": list(self.peaks),
            "looks": {name: list(values) for name, values in self.looks.items()},
            "pictures": list(self.pictures),
            "doubts": list(self.doubts),
            "batches": self.batches,
        } | {name: value for name, value in told.items() if value is not None}


def calibrate(
    scores: Sequence[float],
    rate: float,
    *,
    review: float | None = None,
    peaks: Sequence[float] | None = None,
    confidence: float | None = None,
    per_part: bool = False,
    rules: Rules | None = None,
    mark_rate: float | None = None,
) -> Calibration:
    """Thresholds from the scores of good pictures that training did not use.

    scores  n picture scores, any order, finite; rate  false-alarm rate in (0, 1), kept on average or with `confidence`
    review  rate of REVIEW or NG, at least `rate`; None = `rate`, which leaves no REVIEW band
    peaks   the highest map value of each picture; None = the scores themselves
    confidence, per_part, rules, mark_rate  see Calibration
    Raises CalibrationError: no scores, a score that is not finite, a rate that n pictures do not support.
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
    for share in (rate, review):
        rank(len(scores), share, confidence)
    ordered = tuple(sorted(map(float, scores))), tuple(sorted(map(float, peaks)))
    made = Calibration(ordered[0], ordered[1], float(rate), float(review), confidence, per_part, rules or Rules())
    return replace(made, mark_rate=mark_rate)


def calibrated(calibration: Calibration | None) -> Calibration:
    """The calibration of a model, where it has one. Raises CalibrationError where it has none."""
    if calibration is None:
        raise CalibrationError("The model has no thresholds yet; run `flawforge calibrate MODEL GOOD` first.")
    return calibration


def _refuse_nan(score: float) -> None:
    if math.isnan(score):
        raise ImageError("The score of this picture is not a number, so there is no verdict; check picture and model.")


def calibration_from_dict(data: Mapping[str, Any]) -> Calibration:
    """The inverse of `Calibration.as_dict`; the thresholds are derived again, so a hand-edited one has no effect."""
    calibration = calibrate(
        data["scores"],
        data["false_alarm"],
        review=data["review"],
        peaks=data["peaks"],
        confidence=data.get("confidence"),
        per_part=bool(data.get("per_part", False)),
        rules=Rules(**data.get("rules", {})),
        mark_rate=data.get("mark_rate"),
    )
    looks = {str(name): tuple(map(float, values)) for name, values in data.get("looks", {}).items()}
    pictures = tuple(map(str, data.get("pictures", ())))
    return replace(
        calibration.moved(threshold=data.get("fixed")),
        looks=looks,
        folds=int(data.get("folds", 0)),
        pictures=pictures,
        doubts=tuple(map(str, data.get("doubts", ()))),
        batches=bool(data.get("batches", False)),
        again=data.get("again"),
    )
