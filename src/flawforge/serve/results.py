"""Routes that read results, add reviews, and show models, rates and the service's state."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BeforeValidator

from flawforge.serve import answers, judging, who
from flawforge.serve.answers import faults
from flawforge.serve.gate import Refused
from flawforge.serve.logs import log
from flawforge.serve.service import Service
from flawforge.serve.who import COOKIE, Admin, Operator, The
from flawforge.store import not_judged, rates, reviews, verdicts
from flawforge.store.opening import Unreachable
from flawforge.types import ConfigError, DataError, FlawforgeError

ROUTER = APIRouter()
AGAIN = 2  # seconds
COMMON = faults(401, 403, 422, 503)
Number = Annotated[int, Path(ge=1, le=2**63 - 1, examples=[4711])]


def _iso(text: object) -> object:
    """Refuses numbers, which pydantic would take for seconds since 1970."""
    if isinstance(text, str) and not re.match(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("give a time in ISO 8601, such as 2026-11-26T14:30:00Z")
    return text


Time = Annotated[datetime.datetime, BeforeValidator(_iso)]
Since = Annotated[Time | None, Query(description="From this time on; without an offset: UTC.")]
Until = Annotated[Time | None, Query(description="Before this time; without an offset: UTC.")]
Text = Annotated[str, Query(max_length=200)]
Said = Literal["good", "defect", "unsure", "against"]
Limit = Annotated[int, Query(ge=1, le=verdicts.MOST)]


@contextmanager
def stored() -> Iterator[None]:
    """What the store refuses, as an answer."""
    try:
        yield
    except Unreachable as error:
        raise Refused(503, str(error), AGAIN) from None
    except ConfigError as error:
        raise Refused(422, str(error)) from None
    except DataError as error:
        raise Refused(404, str(error)) from None


def with_reviews(service: Service, found: Sequence[verdicts.Verdict]) -> list[answers.Result]:
    """Results with their newest reviews."""
    said = reviews.latest(service.store, [verdict.id for verdict in found])
    return [answers.result_of(verdict, said.get(verdict.id)) for verdict in found]


def _filter(since: datetime.datetime | None, until: datetime.datetime | None, **more: Any) -> verdicts.Filter:
    return verdicts.Filter(since=_aware(since), until=_aware(until), **more)


def _aware(time: datetime.datetime | None) -> datetime.datetime | None:
    if time is None:
        return None
    try:
        return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except OverflowError:
        raise Refused(422, f"The time {time} is outside of the years 1 to 9999; give another.") from None


def _found(service: Service, number: int) -> verdicts.Verdict:
    verdict = verdicts.get(service.store, number)
    if verdict is None:
        raise Refused(404, f"There is no result {number}; it may have been pruned.")
    return verdict


@ROUTER.get("/v1/results", responses=COMMON, summary="List results, the newest first")
def list_results(
    service: The,
    _: Operator,
    since: Since = None,
    until: Until = None,
    verdict: Annotated[list[Literal["OK", "REVIEW", "NG"]] | None, Query(max_length=3)] = None,
    station: Text = "",
    part_id: Text = "",
    model: Text = "",
    sha256: Text = "",
    reviewed: bool | None = None,
    sampled: bool | None = None,
    named: Annotated[str, Query(max_length=200, description="Part of the part's id or of the file name.")] = "",
    said: Annotated[Said | None, Query(description="The newest review; against = it contradicts the verdict.")] = None,
    cursor: Annotated[str | None, Query(max_length=18, pattern="^[0-9]+$", description="Of the page before.")] = None,
    limit: Limit = 50,
) -> answers.ResultPage:
    """Results, the newest first, in pages. New results never move the pages that follow."""
    with stored():
        which = _filter(
            since,
            until,
            verdicts=tuple(verdict or ()),
            station=station,
            part_id=part_id,
            model=model,
            sha256=sha256,
            reviewed=reviewed,
            sampled=sampled,
            named=named,
            said=said or "",
        )
        page = verdicts.listed(service.store, which, cursor=cursor, limit=limit)
        return answers.ResultPage(results=with_reviews(service, page.verdicts), cursor=page.cursor)


@ROUTER.get("/v1/not-judged", responses=COMMON, summary="List pictures that could not be judged, the newest first")
def list_not_judged(
    service: The,
    _: Operator,
    since: Since = None,
    until: Until = None,
    station: Text = "",
    part_id: Text = "",
    model: Text = "",
    sha256: Text = "",
    named: Annotated[str, Query(max_length=200, description="Part of the part's id or of the file name.")] = "",
    cursor: Annotated[str | None, Query(max_length=18, pattern="^[0-9]+$", description="Of the page before.")] = None,
    limit: Limit = 50,
) -> answers.WithoutVerdictPage:
    """Pictures that could not be judged and why, in pages as those of results. A part without a verdict is not OK; a later
    try with the same picture may have one."""
    with stored():
        which = _filter(since, until, station=station, part_id=part_id, model=model, sha256=sha256, named=named)
        page = not_judged.listed(service.store, which, cursor=cursor, limit=limit)
        found = [answers.WithoutVerdict.model_validate(each.as_dict()) for each in page.pictures]
        return answers.WithoutVerdictPage(pictures=found, cursor=page.cursor)


@ROUTER.get("/v1/results/{number}", responses=COMMON | faults(404), summary="One result")
def one_result(service: The, _: Operator, number: Number) -> answers.Result:
    """One result with its newest review."""
    with stored():
        return with_reviews(service, [_found(service, number)])[0]


PNG: dict[str, Any] = {
    "response_class": Response,
    "responses": COMMON | faults(404, 410) | {200: {"content": {"image/png": {}}, "description": "A PNG."}},
}


@ROUTER.get("/v1/results/{number}/overlay.png", summary="Picture and heat map", **PNG)
def overlay(service: The, _: Operator, number: Number) -> Response:
    """The picture with its marks at the left, 4 pixels of gap, the heat map on the picture at the right; same size.

    It was drawn when a reject was judged. That of an OK part is drawn now, from the kept picture, by the model that judged
    it; where one of the two is gone the answer is 410.
    """
    with stored():
        verdict = _found(service, number)
        data = judging.kept_bytes(service.store, verdict.overlay)
        if data is None:
            served = service.shelf.with_manifest(verdict.manifest)
            if served is None:
                raise Refused(410, f"The model that judged result {number} is not served any more, so nothing can be drawn.")
            try:
                with service.drawing:
                    data = judging.drawn_again(served, verdict, _picture(service, verdict))
            except FlawforgeError as error:
                raise Refused(410, str(error)) from None
        return _png(data)


@ROUTER.get("/v1/results/{number}/picture.png", summary="The picture that was judged", **PNG)
def picture(service: The, _: Operator, number: Number) -> Response:
    """The kept picture as a PNG of at most 1600 pixels a side; 410 where it was not kept."""
    with stored():
        verdict = _found(service, number)
        most = max(served.inspector.max_pixels for served in map(service.shelf.get, service.shelf.names))
        with service.drawing:
            return _png(judging.shown(_picture(service, verdict), most))


def _picture(service: Service, verdict: verdicts.Verdict) -> bytes:
    data = judging.kept_bytes(service.store, verdict.kept)
    if data is None:
        raise Refused(410, f"The picture of result {verdict.id} was not kept, or has been deleted.")
    return data


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@ROUTER.get("/v1/results/{number}/reviews", responses=COMMON | faults(404), summary="Every review of a result")
def reviews_of(service: The, _: Operator, number: Number) -> answers.Reviews:
    """Every review, the newest first; the first one counts."""
    with stored():
        found = _found(service, number)
        said = reviews.of(service.store, found.id)
        return answers.Reviews(reviews=[answers.Review.model_validate(each.as_dict()) for each in said])


@ROUTER.post("/v1/reviews", status_code=201, responses=COMMON | faults(400, 404, 408, 409, 413), summary="Add a review")
def add_review(service: The, person: Operator, new: answers.NewReview) -> answers.Review:
    """Say whether a part is good or defective. The token's name signs it. Nothing is overwritten: the newest counts."""
    try:
        mask = None if new.mask is None else base64.b64decode(new.mask, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "The mask is not in base64; send the bytes of a PNG in base64.") from None
    boxes = [reviews.Box(box.x, box.y, box.w, box.h) for box in new.boxes]
    how: dict[str, Any] = {"boxes": boxes, "mask": mask, "note": new.note, "seen": new.seen}
    with stored():
        try:
            added = reviews.add(service.store, new.result, person.name, new.verdict, **how)
        except reviews.Overtaken as overtaken:
            raise Refused(409, str(overtaken)) from None
    return answers.Review.model_validate(added.as_dict())


@ROUTER.get("/v1/queue", responses=COMMON, summary="Results that wait for a review, the oldest first")
def queue(service: The, _: Operator, station: Text = "", model: Text = "", limit: Limit = 50) -> answers.ResultPage:
    """REVIEW, NG and those chosen by chance, without a review."""
    with stored():
        found = reviews.queue(service.store, limit=limit, station=station, model=model)
        return answers.ResultPage(results=with_reviews(service, found), cursor=None)


@ROUTER.get("/v1/rates", responses=COMMON, summary="Counts per hour or day")
def list_rates(
    service: The,
    _: Operator,
    since: Since = None,
    until: Until = None,
    station: Text = "",
    model: Text = "",
    step: Literal["hour", "day"] = "day",
) -> answers.Rates:
    """Verdicts and reviews per hour or day in UTC, to stand beside the rate to expect of good parts."""
    with stored():
        found = rates.rates(service.store, _filter(since, until, station=station, model=model), step=step)
        return answers.Rates(rates=[answers.Counts.model_validate(each.as_dict()) for each in found])


@ROUTER.get("/v1/models", responses=COMMON, summary="The served models")
def models(service: The, _: Operator) -> answers.Models:
    """The served models with their thresholds and rates, the default first."""
    found = [service.shelf.get(name) for name in service.shelf.names]
    return answers.Models(models=[answers.Model.model_validate(served.as_dict()) for served in found])


@ROUTER.post("/v1/models/{name}/reload", responses=COMMON | faults(404), summary="Open a model's folder again")
def reload(service: The, person: Admin, name: Annotated[str, Path(max_length=200)]) -> answers.Reloaded:
    """Serve what the model's folder holds now. Pictures that are being judged end with the old one. Needs the role admin."""
    if name not in service.shelf.names:
        raise Refused(404, f"There is no model {name[:80]!r} here; known are {', '.join(service.shelf.names)}.")
    try:
        served, changed = service.shelf.reload(name)
    except (FlawforgeError, OSError) as error:
        log("model not reloaded", 40, model=name, reason=str(error), who=person.name)
        raise Refused(422, f"The model was not reloaded, the old one stays: {error}") from None
    log("model reloaded", model=name, manifest=served.manifest, changed=changed, who=person.name)
    return answers.Reloaded(changed=changed, model=answers.Model.model_validate(served.as_dict()))


@ROUTER.post("/v1/session", responses=COMMON, summary="Begin a session of the web page")
def begin_session(request: Request, response: Response, service: The, person: Operator) -> answers.Who:
    """Give a token once and get a cookie for the page, which no script can read."""
    who.begin_session(request, response, service, person)
    return answers.Who(name=person.name, role=person.role)  # type: ignore[arg-type]


@ROUTER.get("/v1/session", responses=COMMON, summary="Who is there")
def session(_: The, person: Operator) -> answers.Who:
    """The name and role of the token or session."""
    return answers.Who(name=person.name, role=person.role)  # type: ignore[arg-type]


@ROUTER.delete("/v1/session", status_code=204, responses=COMMON, summary="End the session")
def end_session(request: Request, response: Response, service: The, _: Operator) -> None:
    """Forget the cookie."""
    service.sessions.end(request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE)


@ROUTER.get("/v1/health", summary="Whether the process answers")
async def health() -> answers.Alive:
    """Always ok while the process answers; no token needed."""
    return answers.Alive()


@ROUTER.get(
    "/v1/ready",
    summary="Whether pictures are judged now",
    responses={503: {"model": answers.Ready, "description": "Not now."}},
)
def ready(service: The, response: Response) -> answers.Ready:
    """503 with the reasons where a picture would not be judged now; no token needed."""
    reasons = service.hindrances()
    if reasons:
        response.status_code = 503
        response.headers["Retry-After"] = str(AGAIN)
    return answers.Ready(ready=not reasons, reasons=reasons)


@ROUTER.get(
    "/v1/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=COMMON | {200: {"content": {"text/plain": {}}, "description": "In Prometheus's text format."}},
)
def metrics(service: The, _: Operator) -> Response:
    """Counters of verdicts, refusals and errors, judging times, and the queues' places."""
    return Response(generate_latest(service.figures.registry), media_type=CONTENT_TYPE_LATEST)
