"""How often labelled pictures got which verdict: counts and shares of rows, as `evaluate` judges and `again` judges again.

A row is a mapping with at least "label" (0 good, 1 defective) and "verdict".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flawforge.proving import intervals
from flawforge.proving.intervals import Estimate
from flawforge_runtime.calibrate import Calibration

VERDICTS = ("OK", "REVIEW", "NG")
Rows = Sequence[Mapping[str, Any]]


def _share(rows: Rows, *verdicts: str) -> Estimate:
    return intervals.rate(sum(row["verdict"] in verdicts for row in rows), len(rows))


def confusion_of(pictures: Rows) -> dict[str, dict[str, int]]:
    """See `Evaluation.confusion`; of rows as in `Evaluation.pictures`."""
    groups = {
        name: [row["verdict"] for row in pictures if row["label"] == label]
        for label, name in enumerate(("good", "defective"))
    }
    return {name: {verdict: verdicts.count(verdict) for verdict in VERDICTS} for name, verdicts in groups.items()}


def operating_point(calibration: Calibration, rates: Mapping[str, Estimate]) -> dict[str, Any]:
    """The limits in use, what they promise, and the rates that were measured with them, JSON-able."""
    return {
        "threshold": calibration.threshold,
        "review_threshold": calibration.review_threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "promised_false_alarm": calibration.false_alarm,
        "promised_review": calibration.review,
        "expected": calibration.as_dict()["expected"],
        "calibration_pictures": calibration.n,
        **plain(rates),
    }


def escape_rate(defective: Rows) -> Estimate:
    """The share of defective pictures that are not judged NG."""
    return _share(defective, "OK", "REVIEW")


def rates_of(good: Rows, defective: Rows) -> dict[str, Estimate]:
    """See `Evaluation.rates`."""
    return {
        "false_alarm_rate": _share(good, "NG"),
        "escape_rate": escape_rate(defective),
        "passed_rate": _share(defective, "OK"),
        "review_rate_good": _share(good, "REVIEW"),
        "review_rate_defective": _share(defective, "REVIEW"),
    }


def plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """JSON-able."""
    return {name: estimate._asdict() for name, estimate in estimates.items()}
