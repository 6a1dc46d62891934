"""How many calibration pictures state which false-alarm rate, and how sure that is: the arithmetic behind `calibrate`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flawforge_runtime.types import CalibrationError

UNSTATED = 0.2  # an expected rate above this is no statement that anyone can plan with (assumption)
CONFIDENCE = 0.95  # of the bound that stands beside an expected rate
ROUNDED = 1e-4  # a rate that lies below the lowest by this share of it is that one, typed from where it was printed


def strictest_rate(n: int, confidence: float | None = None) -> float:
    """The lowest false-alarm rate that n calibration pictures support; 1 / (n + 1) without a confidence; 1 for none."""
    if confidence is None:
        return 1.0 / (n + 1)
    return 1.0 - (1.0 - confidence) ** (1.0 / n) if n else 1.0


def pictures_needed(rate: float, confidence: float | None = None) -> int:
    """How many calibration pictures a `rate` in (0, 1) needs: the least n whose lowest rate is no higher."""
    if confidence is None:
        return math.ceil(1.0 / rate - 1e-9) - 1
    return math.ceil(math.log(1.0 - confidence) / math.log(1.0 - rate) - 1e-9)


def rank(n: int, rate: float, confidence: float | None = None) -> int:
    """k for the k-th largest of n. Raises CalibrationError where a share is outside (0, 1) or n is too few for the rate.

    confidence  None: the rate holds on average over calibrations; else it holds with this probability
    A rate that is the lowest of n but for its rounding is taken for that one.
    """
    if not 0.0 < rate < 1.0:
        raise CalibrationError(f"A false-alarm rate of {rate:g} was given; give a share between 0 and 1, for example 0.05.")
    if confidence is not None and not 0.5 <= confidence < 1.0:
        raise CalibrationError(f"A confidence of {confidence:g} was given; give one from 0.5 to below 1, for example 0.95.")
    # 0.29 * 100 is 28.999...: without the nudge a rate that n carries exactly would lose one rank.
    k = math.floor(rate * (n + 1) + 1e-9) if confidence is None else _rank_with_confidence(n, rate, confidence)
    lowest = strictest_rate(n, confidence)
    if k < 1 and n and rate >= lowest * (1.0 - ROUNDED):
        return 1
    if k < 1:
        sure = "" if confidence is None else f" with {confidence:.4g} confidence"
        asked, least = percent(rate), percent_up(lowest)
        for digits in range(2, 7):
            if asked == least:
                asked, least = f"{100 * rate:.{digits}f} %", percent_up(lowest, digits)
        pictures = "1 calibration picture does" if n == 1 else f"{n} calibration pictures do"
        raise CalibrationError(
            f"{pictures} not support a false-alarm rate of {asked}{sure}: the lowest is {least}; ask for a higher rate, or "
            f"calibrate on {pictures_needed(rate, confidence)} pictures."
        )
    return k


def _rank_with_confidence(n: int, rate: float, confidence: float) -> int:
    """The largest k with P(Binomial(n, rate) <= k - 1) <= 1 - confidence; 0 where even k = 1 has it not."""
    below, log_odds = 0.0, math.log(rate) - math.log1p(-rate)
    log_term = n * math.log1p(-rate)
    for k in range(n):
        below += math.exp(log_term)
        if below > (1.0 - confidence) * (1.0 + 1e-9):
            return k
        log_term += math.log(n - k) - math.log(k + 1) + log_odds
    return n


@dataclass(frozen=True)
class ExpectedRate:
    """The share of good parts above a limit, in two numbers, as far as n calibration pictures can say.

    expected    in (0, 1]: on average over models that are calibrated so; a single model's own share varies about it
    bound       in (0, 1]: this model's own share is at most this, with `confidence`
    confidence  of the bound
    rank        k: the limit is the k-th largest of the n scores; n + 1 = below all of them
    n, of       how many were counted, and what: "pictures", or "parts" where several pictures show one part
    """

    expected: float
    bound: float
    confidence: float
    rank: int
    n: int
    of: str = "pictures"

    @property
    def unstated(self) -> bool:
        """Whether the n are so few that not even the highest of them is a limit that anyone can plan with."""
        return self.expected > UNSTATED and self.rank == 1

    @property
    def text(self) -> str:
        """For people: 4.8 % of good parts on average, up to 13.9 % for this model (95 % confidence)."""
        if self.unstated:
            return f"rate not known: {self.n} calibration {noun(self.n, self.of)} cannot support one (10 % needs 9)"
        return (
            f"{percent(self.expected)} of good parts on average, up to {percent(self.bound)} for this model "
            f"({percent(self.confidence)} confidence)"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def expected_rate(n: int, k: int, confidence: float | None = None, of: str = "pictures") -> ExpectedRate:
    """What n calibration pictures (or parts) say of the share of good parts above their k-th largest score.

    n, k        n >= 1, 1 <= k <= n + 1; k = n + 1 is a limit below all scores
    confidence  of the bound, from 0.5 to below 1; None = 0.95
    The share varies with the calibration pictures as Beta(k, n + 1 - k): its mean, and its quantile at `confidence`.
    """
    sure = CONFIDENCE if confidence is None else confidence
    bound = highest_share(k - 1, n, 2.0 * sure - 1.0)  # the quantile of that Beta is an exact binomial bound
    return ExpectedRate(k / (n + 1), bound, sure, k, n, of)


def noun(n: int, of: str) -> str:
    """What n of "pictures", "parts" or "batches" are called: 1 -> "picture"."""
    return {"pictures": "picture", "parts": "part", "batches": "batch"}[of] if n == 1 else of


def percent(share: float) -> str:
    """A share in [0, 1] for people: 0.025 -> '2.5 %'; whole numbers and the ends without a decimal."""
    text = f"{100 * share:.1f}".removesuffix(".0")
    if text in ("0", "100") and share not in (0.0, 1.0):
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{text} %"


def percent_up(share: float, digits: int = 1) -> str:
    """A share in (0, 1] for people, rounded up, so that the printed one can be asked for: 1 / 61 -> '1.7 %'."""
    text = f"{math.ceil(100 * share * 10**digits - 1e-7) / 10**digits:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.')} %"


def highest_share(events: int, of: int, confidence: float = 0.95) -> float:
    """Upper end of the exact (Clopper-Pearson) interval of `events` / `of`."""

    def at_most_events(p: float) -> float:
        """P(Binomial(of, p) <= events)."""
        logs = (
            math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * math.log(p) + (of - k) * math.log1p(-p)
            for k in range(events + 1)
        )
        return math.fsum(map(math.exp, logs))

    low, high = events / of, 1.0
    while high - low > 1e-9 and events < of:
        p = (low + high) / 2
        low, high = (p, high) if at_most_events(p) > (1 - confidence) / 2 else (low, p)
    return high


def share_interval(events: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of `events` / `of`; of >= 1."""
    return 1.0 - highest_share(of - events, of, confidence), highest_share(events, of, confidence)
