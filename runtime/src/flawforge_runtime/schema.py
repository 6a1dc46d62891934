"""What a model folder's JSON files may say, with bounds: manifest, config and calibration, as pydantic models.

A folder is written by us, so whatever does not fit is damage or another program's work, and is refused in one sentence
before anything is computed from it. Keys that are not named here are left alone: a newer flawforge may write more.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

DEEPEST = 64  # levels of nesting; ours have fewer than ten
LARGEST_CANVAS = 64_000_000  # pixels

Finite = float
Share = Annotated[float, Gt(0), Lt(1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Ge(1), Le(65_536)]
Pair = Annotated[list[Annotated[int, Ge(1), Le(10**9)]], Len(2, 2)]


class Strict(BaseModel):
    """No conversions (a string is no number, true is no 1) and no number that is not finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


class Listed(Strict):
    """One file in the manifest."""

    sha256: Sha256
    bytes: Annotated[int, Ge(0)]


class Manifest(Strict):
    """manifest.json."""

    format: Annotated[int, Ge(1)]
    made_by: Literal["flawforge"]
    files: dict[Name, Listed]


class Rule(Strict):
    """How a map becomes a score; see types.ScoreRule."""

    reduce: Literal["max", "top", "network"]
    smooth: Annotated[int, Ge(1), Le(4096)] = 1
    top: Annotated[float, Gt(0), Le(1)] = 0.001
    mark_rate: Annotated[float, Gt(0), Lt(1)] | None = None


class Align(Strict):
    least: Annotated[float, Ge(-1), Le(1)]


class Sizes(Strict):
    min: Pair
    max: Pair


class DataReport(Strict):
    sizes: Sizes | None = None
    notes: list[str] = []


class Training(Strict):
    pictures: Annotated[int, Ge(0)] = 0
    steps: Annotated[int, Ge(0)] = 0
    seconds: Annotated[float, Ge(0)] = 0.0
    fingerprints: list[str] = []
    forgers: list[str] = []


class Export(Strict):
    to: Literal["onnx", "openvino"]
    precision: Literal["float32", "int8"]


class Config(Strict):
    """config.json: what judging reads of it."""

    method: Name
    canvas: Annotated[list[Side], Len(2, 2)]
    score_rule: Rule
    settings: dict[str, Any] = {}
    profile: str = ""
    tile: Annotated[int, Ge(16), Le(65_536)] | None = None
    align: Align | None = None
    max_pixels: Annotated[int, Ge(1), Le(10**12)] = 100_000_000
    depth: Annotated[int, Ge(8), Le(16)] | None = None
    seed: Annotated[int, Ge(0)] = 0
    tolerate: str = ""
    flawforge_version: str = ""
    created: str = ""
    training: Training | None = None
    data_report: DataReport | None = None
    held_back: list[str] | None = None
    notes: list[str] = []
    history: list[dict[str, Any]] = []
    export: Export | None = None


class RulesOf(Strict):
    min_area: Annotated[float, Ge(0)] = 0.0
    max_count: Annotated[int, Ge(0)] = 0
    mm_per_pixel: Annotated[float, Gt(0), Lt(1e3)] | None = None


class CalibrationOf(Strict):
    """calibration.json."""

    scores: Annotated[list[Finite], Len(1)]
    peaks: Annotated[list[Finite], Len(1)]
    false_alarm: Share
    review: Share
    confidence: Annotated[float, Ge(0.5), Lt(1)] | None = None
    per_part: bool = False
    folds: Annotated[int, Ge(0)] = 0
    rules: RulesOf = RulesOf()
    fixed: Finite | None = None
    looks: dict[str, list[Finite]] = {}
    pictures: list[str] = []
    doubts: list[str] = []
    batches: bool = False
    mark_rate: Share | None = None
    again: str | None = None


Kind = TypeVar("Kind", bound=BaseModel)


def parse(data: bytes) -> Any:
    """JSON without NaN, infinities, repeated keys or deep nesting. Raises ValueError with a phrase."""
    text = data.decode("utf-8")
    if _depth(text) > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)


def checked(kind: type[Kind], data: Any) -> Kind:
    """`data` as a model of `kind`. Raises ValueError with a phrase that names the first field that does not fit."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"{place}: {message}") from None


def check_config(data: Any) -> Config:
    """config.json's content, with the bounds that hold between its fields. Raises ValueError with a phrase."""
    config = checked(Config, data)
    height, width = config.canvas
    if height * width > LARGEST_CANVAS:
        raise ValueError(f"canvas: {height} x {width} pixels, at most {LARGEST_CANVAS:,} are allowed")
    if config.score_rule.smooth > 2 * max(height, width):
        raise ValueError(f"score_rule.smooth: {config.score_rule.smooth} on a canvas of {height} x {width}")
    return config


def check_calibration(data: Any) -> CalibrationOf:
    """calibration.json's content. Raises ValueError with a phrase."""
    calibration = checked(CalibrationOf, data)
    if len(calibration.scores) != len(calibration.peaks):
        raise ValueError(f"peaks: {len(calibration.peaks)} for {len(calibration.scores)} scores")
    return calibration


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it holds a key twice")
    return values


def _depth(text: str) -> int:
    """The deepest nesting, or more where brackets stand in strings, which is as good for a bound."""
    depth = deepest = 0
    for letter in text:
        if letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest
