"""What `evaluate`, `pod` and `drift` left in a model folder for the report, with bounds, as pydantic models.

Only what the report computes with is named; other keys are shown as they are.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Loose(BaseModel):
    """No conversions; a number that is not finite is shown as none."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Estimate(Loose):
    """A value with its 95 % interval; None where it could not be had."""

    value: float | None
    low: float | None
    high: float | None


class OperatingPoint(Loose):
    threshold: float
    false_alarm_rate: Estimate
    escape_rate: Estimate


class Row(Loose):
    """One judged picture."""

    path: str
    label: int | None = None
    score: float | None = None
    verdict: str = ""
    kind: str = ""


class Evaluation(Loose):
    """evaluation.json."""

    image: dict[str, Estimate | None]
    pixel: dict[str, Any] | None
    operating_point: OperatingPoint
    kinds: dict[str, dict[str, Any]] | None = None
    counts: dict[str, int]
    pictures: list[Row] | None = None
    overlays: list[dict[str, Any]] | None = None
    notes: list[str] | None = None


class Curve(Loose):
    kind: str
    contrast: float
    a50: float | None = None
    a90: float | None = None
    a90_95: float | None = None


class Proof(Loose):
    """proof.json."""

    curves: list[Curve]
    unit: str = "px"
    overlays: list[dict[str, Any]] | None = None


class Drift(Loose):
    """drift.json."""

    alarm: bool
    n: int
    rejected: int
    level: float
    wealth: list[float]
    text: str
    looks: list[dict[str, Any]] | None = None


KINDS: dict[str, type[BaseModel]] = {"evaluation": Evaluation, "proof": Proof, "drift": Drift}
COMMANDS = {"evaluation": "evaluate MODEL DATA", "proof": "pod MODEL GOOD", "drift": "drift MODEL PATHS"}
