"""Acceptance criteria: which share of false alarms and of escapes is acceptable, and whether the figures show it.

Decided by the exact 95 % interval of the measured share: PASS where all of it lies at or below what is accepted, FAIL where
all of it lies above, NOT ENOUGH DATA otherwise. Nothing measured is never a PASS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flawforge.types import ConfigError
from flawforge_runtime.rates import highest_share, percent

PASS, FAIL, NOT_ENOUGH = "PASS", "FAIL", "NOT ENOUGH DATA"
EXIT_CODES = {PASS: 0, NOT_ENOUGH: 5, FAIL: 6}
# criterion: (of the pictures, key of the measured rate, what happened to those that count, the same in one word)
CRITERIA = {
    "false alarms": ("good", "false_alarm_rate", "rejected", "rejected"),
    "escapes": ("defective", "escape_rate", "not rejected", "missed"),
}


@dataclass(frozen=True)
class Criterion:
    """One criterion against what was measured.

    name          "false alarms" or "escapes"
    accepted      highest share that is acceptable, in (0, 1)
    events, of    pictures that count against it, of how many; 0 of 0 where nothing was measured
    low, high     exact 95 % interval of the share; None where nothing was measured
    """

    name: str
    accepted: float
    events: int
    of: int
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """ "PASS", "FAIL" or "NOT ENOUGH DATA"."""
        if self.low is None or self.high is None:
            return NOT_ENOUGH
        if self.high <= self.accepted:
            return PASS
        return FAIL if self.low > self.accepted else NOT_ENOUGH

    @property
    def text(self) -> str:
        """The finding in a sentence."""
        what, _, verb, word = CRITERIA[self.name]
        head = f"{self.verdict}: {self.name} of {percent(self.accepted)} or less"
        if self.low is None or self.high is None:
            least = enough(0, self.accepted)
            return f"{head}: not measured at these limits; {least} {what} pictures, none of them {word}, would pass."
        counts = f"{self.events} of {self.of} {what} pictures {verb}"
        text = f"{head}: {counts} (95 % interval {percent(self.low)} to {percent(self.high)})"
        if self.verdict == NOT_ENOUGH:
            these = "this one" if self.events == 1 else f"these {self.events}"
            with_them = f" with no more than {these} {word}" if self.events else f", none of them {word},"
            text += f"; {enough(self.events, self.accepted)} {what} pictures{with_them} would pass"
        return f"{text}."

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        names = ("name", "accepted", "verdict", "events", "of", "low", "high", "text")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Acceptance:
    """The criteria that were given, and what they say together."""

    criteria: tuple[Criterion, ...]

    @property
    def verdict(self) -> str:
        """FAIL where one fails, else NOT ENOUGH DATA where one lacks data, else PASS."""
        verdicts = {criterion.verdict for criterion in self.criteria}
        return next(verdict for verdict in (FAIL, NOT_ENOUGH, PASS) if verdict in verdicts)

    @property
    def exit_code(self) -> int:
        """0 PASS, 5 NOT ENOUGH DATA, 6 FAIL."""
        return EXIT_CODES[self.verdict]

    def lines(self) -> list[str]:
        """For people, one per criterion."""
        return [criterion.text for criterion in self.criteria]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "criteria": [criterion.as_dict() for criterion in self.criteria],
        }


def accept(
    rates: Mapping[str, Any],
    counts: Mapping[str, int],
    false_alarms: float | None = None,
    escapes: float | None = None,
) -> Acceptance | None:
    """Hold measured rates against what is accepted; None where no criterion is given.

    rates   "false_alarm_rate" and "escape_rate", each {"value", "low", "high"}; what is absent or None was not measured
    counts  "good" and "defective" pictures behind them
    false_alarms, escapes  highest acceptable shares; None = no criterion. Raises ConfigError outside (0, 1).
    """
    criteria = []
    for name, accepted in (("false alarms", false_alarms), ("escapes", escapes)):
        if accepted is None:
            continue
        if not 0.0 < accepted < 1.0:
            raise ConfigError(
                f"{percent(accepted)} of {name} was given as acceptable; give a share between 0 and 100 %, for example 2%."
            )
        what, key, *_ = CRITERIA[name]
        rate = rates.get(key) or {}
        value, low, high = (rate.get(part) for part in ("value", "low", "high"))
        of = counts.get(what, 0) if value is not None else 0
        criteria.append(Criterion(name, accepted, round((value or 0.0) * of), of, low, high))
    return Acceptance(tuple(criteria)) if criteria else None


def enough(events: int, accepted: float) -> int:
    """How many pictures, `events` of them counting against it, pass: the least n with an interval up to `accepted`."""
    low, high = events, max(2 * events, 1)
    while highest_share(events, high) > accepted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if highest_share(events, middle) <= accepted else (middle, high)
    return high
