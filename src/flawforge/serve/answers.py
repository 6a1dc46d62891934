"""What the service answers and takes, for FastAPI and its OpenAPI page."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flawforge.store import reviews, verdicts

EXAMPLE: dict[str, Any] = {
    "id": 4711,
    "time": "2026-11-26T19:34:45.123456+00:00",
    "source": "http",
    "station": "press 3",
    "part_id": "A-0815",
    "picture": "part.png",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "height": 900,
    "width": 900,
    "model": "washer",
    "model_id": "3f1c0a9b7e2d",
    "manifest": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
    "score": 8.21,
    "score_normalised": 0.71,
    "p_value": 0.016,
    "threshold": 5.9,
    "review_threshold": 4.8,
    "verdict": "NG",
    "valid": True,
    "notes": [],
    "regions": [{"x": 120, "y": 88, "w": 40, "h": 12, "area": 311, "peak": 9.4}],
    "overlay": True,
    "seconds": 0.041,
    "sampled": False,
    "review": None,
}
Key = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Region(BaseModel):
    """A marked region, in the picture's own pixels."""

    x: int
    y: int
    w: int
    h: int
    area: int
    peak: float


class Box(BaseModel):
    """Where a defect lies, in the picture's own pixels."""

    model_config = ConfigDict(extra="forbid")
    x: int = Field(ge=0, le=1_000_000)
    y: int = Field(ge=0, le=1_000_000)
    w: int = Field(ge=1, le=1_000_000)
    h: int = Field(ge=1, le=1_000_000)


class Review(BaseModel):
    """What a person said of a result. mask: whether one was drawn."""

    id: int
    verdict_id: int
    who: str
    verdict: Literal["good", "defect", "unsure"]
    time: datetime.datetime
    boxes: list[Box]
    mask: bool
    note: str


class Result(BaseModel):
    """One judged picture. A higher score is more anomalous; score_normalised is 0.5 at the NG threshold."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, protected_namespaces=())
    id: int
    time: datetime.datetime
    source: Literal["http", "watch", "inspect"]
    station: str
    part_id: str
    picture: str
    sha256: str
    height: int
    width: int
    model: str
    model_id: str
    manifest: str
    score: float
    score_normalised: float | None
    p_value: float
    threshold: float
    review_threshold: float | None
    verdict: Literal["OK", "REVIEW", "NG"]
    valid: bool
    notes: list[str]
    regions: list[Region]
    overlay: bool = Field(description="Whether the overlay was drawn when the picture was judged.")
    seconds: float
    sampled: bool = Field(description="Sampled at random for review, whatever its score.")
    review: Review | None = Field(description="The newest review; null = none yet.")


class NotJudged(BaseModel):
    """A picture that was not judged, and so is not OK."""

    picture: str
    error: str


class WithoutVerdict(BaseModel):
    """A picture that could not be judged then, as it is kept; a later try may have a result.

    sha256: "" where the file could not be read.
    """

    id: int
    time: datetime.datetime
    source: Literal["http", "watch", "inspect"]
    station: str
    part_id: str
    picture: str
    sha256: str
    model: str
    reason: str


class WithoutVerdictPage(BaseModel):
    """Pictures, the newest first. cursor: of the next page; null = this is the last."""

    pictures: list[WithoutVerdict]
    cursor: str | None


class Inspected(BaseModel):
    """One entry per picture, in the order that they came in."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"results": [EXAMPLE]}]})
    results: list[Result | NotJudged]


class ResultPage(BaseModel):
    """Results, the newest first. cursor: of the next page; null = this is the last."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"results": [EXAMPLE], "cursor": "4711"}]})
    results: list[Result]
    cursor: str | None


class NewReview(BaseModel):
    """A review to add. A correction is another review: the newest counts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"result": 4711, "verdict": "defect", "boxes": [{"x": 120, "y": 88, "w": 40, "h": 12}], "note": ""}]
        },
    )
    result: Key
    verdict: Literal["good", "defect", "unsure"]
    boxes: list[Box] = Field(default=[], max_length=reviews.MOST_BOXES)
    mask: str | None = Field(
        default=None,
        description="An opaque PNG of the picture's own size in base64; above 127 (white) = defect, at least one pixel.",
        max_length=reviews.LARGEST_MASK * 4 // 3 + 4,
    )
    note: str = Field(default="", max_length=reviews.LONGEST_NOTE)
    seen: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
        description="Id of the newest review that you know, 0 for none; 409 where another has come since.",
    )


class Reviews(BaseModel):
    """Reviews of a result, the newest first."""

    reviews: list[Review]


class Model(BaseModel):
    """A served model: facts, thresholds with the rate that they promise, and the guard."""

    model_config = ConfigDict(extra="allow")
    name: str
    manifest: str
    since: datetime.datetime


class Models(BaseModel):
    """The served models, the default first."""

    models: list[Model]


class Reloaded(BaseModel):
    """The model as it is served now."""

    changed: bool
    model: Model


class Counts(BaseModel):
    """Counts of one hour or day, as `flawforge.store.rates.Rates`."""

    start: datetime.datetime
    count: int
    ok: int
    review: int
    ng: int
    unlike: int
    reviewed: int
    false_alarms: int
    escapes: int
    sampled_good: int
    sampled_alarms: int
    reject_rate: float


class Rates(BaseModel):
    """The oldest first; hours or days without a result are left out."""

    rates: list[Counts]


class Ready(BaseModel):
    """Whether pictures are judged now, and if not, why."""

    ready: bool
    reasons: list[str]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Who(BaseModel):
    """Whom the token or session belongs to."""

    name: str
    role: Literal["operator", "admin"]


class Fault(BaseModel):
    """What was given, what is allowed, what to do."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "There is no result 4711.", "request_id": "5b0e3c1f9a2d4e67"}]}
    )
    error: str
    request_id: str


def result_of(verdict: verdicts.Verdict, review: reviews.Review | None) -> Result:
    """A stored verdict with its newest review."""
    return Result.model_validate(verdict.as_dict() | {"review": review.as_dict() if review is not None else None})


def faults(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for OpenAPI."""
    return {code: {"model": Fault, "description": WORDS[code]} for code in codes}


WORDS = {
    400: "The request is malformed.",
    401: "No token, or an unknown one.",
    403: "The token's role may not do this, or the request comes from another site.",
    404: "There is no such thing.",
    408: "The body took too long to arrive.",
    409: "The idempotency key was used for another picture, or somebody has reviewed the part in the meantime.",
    410: "The file was not kept, or has been deleted.",
    413: "Too many bytes or pictures.",
    415: "The body is neither a picture nor multipart/form-data.",
    422: "A value is outside of what is allowed.",
    503: "Not now: the queue is full, the service is stopping, or the store cannot be written. Ask again after Retry-After.",
}
