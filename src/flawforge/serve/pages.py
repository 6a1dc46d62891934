"""The web page: server-rendered, with plain script modules. Mounted last, so that /v1 is never hidden.

Scripts judge and review through /v1, with the cookie of a session where tokens are needed. A form that changes something is
taken from this service's own pages alone: the gate compares the Origin header, and the cookie is SameSite=Strict.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import importlib.resources
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from flawforge.reporting.page import unbroken
from flawforge.serve import judging, texts, views
from flawforge.serve.access import Person
from flawforge.serve.gate import Refused
from flawforge.serve.logs import log
from flawforge.serve.service import Service
from flawforge.serve.who import BEARER, COOKIE, Admin, Operator, The, begin_session, person_of
from flawforge.store import exports, not_judged, reviews, verdicts
from flawforge.store.not_judged import NotJudged
from flawforge.store.opening import Unreachable
from flawforge.types import FlawforgeError
from flawforge_runtime.decode import as_picture
from flawforge_runtime.rates import percent

LATEST = 12  # results of the live page's list
ROWS = 50  # of a page of the history
QUEUED = 500  # results that the queue looks at; more wait unseen
HEARTBEAT = 15.0  # seconds between two signs of life of the live stream
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {"Referrer-Policy": "same-origin"}  # under no-referrer, browsers send forms with the Origin null


class PageRoute(APIRoute):
    """What goes wrong becomes a page for people; who must log in is sent there."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except Refused as error:
                if error.status_code == 401:
                    where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                    return RedirectResponse(f"/login?{QueryParams(next=where)}", 303)
                return failed(request, str(error.detail), error.status_code, error.headers)
            except Unreachable as error:
                return failed(request, str(error), 503, {"Retry-After": "2"})
            except RequestValidationError:
                return failed(request, texts.NOT_FOUND, 404)

        return handle


ROUTER = APIRouter(route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Query(max_length=200)]


@cache
def static_files() -> tuple[str, Mapping[str, tuple[bytes, str]]]:
    """(hash of all, {name: (content, type)}) of what the page loads beside its HTML."""
    folder = importlib.resources.files("flawforge.serve") / "static"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        kind = TYPES.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            found[file.name] = (file.read_bytes(), kind)
    digest = hashlib.sha256(b"".join(content for content, _ in found.values())).hexdigest()[:12]
    return digest, found


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flawforge.serve", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: unbroken(percent(share))
    environment.filters["when"] = views.when
    environment.filters["unbroken"] = unbroken
    environment.globals["t"] = texts
    environment.globals["static"] = f"/static/{static_files()[0]}/"
    return environment


def fragment(template: str, **facts: Any) -> str:
    """A part of a page as HTML."""
    return _templates().get_template(template).render(**facts)


def page(request: Request, template: str, title: str, status: int = 200, **facts: Any) -> HTMLResponse:
    """A whole page."""
    service: Service = request.app.state.service
    name = getattr(request.state, "person", None)
    shared = {
        "title": title,
        "path": request.url.path,
        "person": name if service.tokens.known else None,
        "models": service.shelf.names,
        "script_texts": json.dumps(texts.SCRIPT),
    }
    return HTMLResponse(fragment(template, **shared, **facts), status, headers=HEADERS)


def failed(request: Request, sentence: str, status: int, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """A page that says what went wrong."""
    answer = page(request, "error.html.jinja", texts.ERROR, status, sentence=sentence)
    answer.headers.update(dict(headers or {}))
    return answer


def _visitor(request: Request, person: Operator) -> Person:
    request.state.person = person
    return person


Visitor = Annotated[Person, Depends(_visitor)]


def _found(service: Service, number: int) -> verdicts.Verdict:
    verdict = verdicts.get(service.store, number) if 0 < number < 2**63 else None
    if verdict is None:
        raise Refused(404, f"There is no result {number}; it may have been pruned.")
    return verdict


@ROUTER.get("/")
def live(request: Request, service: The, _: Visitor) -> HTMLResponse:
    """Drop pictures, or watch the line."""
    newest = verdicts.listed(service.store, limit=LATEST).verdicts
    shown = views.detail(service, newest[0]) if newest else None
    return page(request, "live.html.jinja", texts.LIVE, rows=newest, detail=shown, missed=list(service.not_judged))


@ROUTER.get("/events")
async def events(request: Request, service: The, _: Visitor, last: Text = "") -> StreamingResponse:
    """Server-sent events: every result that is recorded from now on, and those since Last-Event-ID or `last`, as rows; and,
    as the event `missed`, the list of pictures that could not be judged, at first and when it grows.
    """
    seen = request.headers.get("last-event-id", last)
    token = await BEARER(request)

    async def stream() -> AsyncIterator[str]:
        watcher = service.live.watch()
        try:
            yield "retry: 2000\n\n"
            if service.not_judged:
                yield _missed(service)
            if seen.isascii() and seen.isdigit() and len(seen) < 19:
                newest = (await run_in_threadpool(verdicts.listed, service.store, limit=LATEST)).verdicts
                for verdict in reversed([each for each in newest if each.id > int(seen)]):
                    yield _event(verdict)
            while True:
                try:
                    new = await asyncio.wait_for(watcher.get(), HEARTBEAT)
                except TimeoutError:
                    if not _still_there(request, token):
                        return
                    yield ": still here\n\n"
                    continue
                if new is None:
                    return
                yield _missed(service, new) if isinstance(new, NotJudged) else _event(new)
        finally:
            service.live.leave(watcher)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(verdict: verdicts.Verdict) -> str:
    data = {
        "id": verdict.id,
        "verdict": verdict.verdict,
        "name": texts.name_of(verdict),
        "row": fragment("_row.html.jinja", verdict=verdict),
    }
    return f"id: {verdict.id}\ndata: {json.dumps(data)}\n\n"


def _missed(service: Service, now: NotJudged | None = None) -> str:
    html = fragment("_missed.html.jinja", missed=list(service.not_judged))
    data = {"html": html, "now": None if now is None else {"name": now.picture, "why": now.reason}}
    return f"event: missed\ndata: {json.dumps(data)}\n\n"


def _still_there(request: Request, token: HTTPAuthorizationCredentials | None) -> bool:
    """Whether the session is still open: a stream must not outlive it."""
    try:
        person_of(request, token)
    except Refused:
        return False
    return True


@ROUTER.get("/results/{number}")
def result(request: Request, service: The, _: Visitor, number: int) -> HTMLResponse:
    """One result on a page of its own."""
    shown = views.detail(service, _found(service, number))
    return page(request, "result.html.jinja", shown.name, detail=shown)


@ROUTER.get("/results/{number}/part")
def result_part(service: The, _: Visitor, number: int) -> HTMLResponse:
    """One result without a page around it, for the live page."""
    return HTMLResponse(fragment("_detail.html.jinja", detail=views.detail(service, _found(service, number))))


@ROUTER.get("/results/{number}/small.jpg")
def small(service: The, _: Visitor, number: int) -> Response:
    """A thumbnail; 410 where the picture was not kept."""
    verdict = _found(service, number)
    data = judging.kept_bytes(service.store, verdict.kept)
    if data is None:
        raise Refused(410, f"The picture of result {number} was not kept, or has been deleted.")
    most = max(served.inspector.max_pixels for served in map(service.shelf.get, service.shelf.names))
    with service.drawing:
        data = views.thumbnail(as_picture(data, max_pixels=most).pixels)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


@dataclass(frozen=True)
class Asked:
    """What the form of the history says: its fields as they stay filled in, the verdicts, and the filter."""

    given: Mapping[str, str]
    some: Sequence[str]
    which: verdicts.Filter

    @property
    def query(self) -> list[tuple[str, str]]:
        """The same for an address."""
        return [(name, text) for name, text in self.given.items() if text] + [("verdict", word) for word in self.some]


def _asked(
    verdict: Annotated[list[str] | None, Query(max_length=3)] = None,
    model: Text = "",
    station: Text = "",
    named: Text = "",
    since: Text = "",
    until: Text = "",
    reviewed: Text = "",
) -> Asked:
    """A filter that means nothing is left out."""
    some = [word for word in verdicts.WORDS if word in (verdict or ())]
    given = {
        "model": model,
        "station": station.strip(),
        "named": named.strip(),
        "since": since if views.moment(since) else "",
        "until": until if views.moment(until) else "",
        "reviewed": reviewed if reviewed in texts.REVIEW_STATES else "",
    }
    which = verdicts.Filter(
        since=views.moment(since),
        until=views.moment(until),
        verdicts=tuple(some),
        station=given["station"],
        named=given["named"],
        model=model,
        reviewed={"yes": True, "no": False}.get(reviewed),
        said=given["reviewed"] if given["reviewed"] not in ("yes", "no") else "",
    )
    return Asked(given, some, which)


Filtered = Annotated[Asked, Depends(_asked)]


@ROUTER.get("/history")
def history(
    request: Request,
    service: The,
    _: Visitor,
    asked: Filtered,
    cursor: Annotated[str | None, Query(max_length=18, pattern="^[0-9]+$")] = None,
) -> HTMLResponse:
    """Results by filter, and the rates over time beside the promise."""
    which, query = asked.which, asked.query
    found = verdicts.listed(service.store, which, cursor=cursor, limit=ROWS)
    said = reviews.latest(service.store, [each.id for each in found.verdicts])
    over_time = verdicts.Filter(since=which.since, until=which.until, station=which.station, model=which.model)
    names, model = service.shelf.names, which.model
    served = service.shelf.get(model) if model in names else service.shelf.get() if len(names) == 1 and not model else None
    older = str(QueryParams([*query, ("cursor", found.cursor)])) if found.cursor else ""
    return page(
        request,
        "history.html.jinja",
        texts.HISTORY,
        found=found.verdicts,
        said=said,
        count=verdicts.count(service.store, which),
        given=asked.given,
        chosen=asked.some,
        filtered=bool(query),
        query=str(QueryParams(query)),
        reversed=which.since is not None and which.until is not None and which.since >= which.until,
        stations=sorted({each.station for each in found.verdicts if each.station} | {service.settings.station} - {""}),
        older=older,
        newest=str(QueryParams(query)) if cursor else None,
        line=views.line(service, over_time, served),
        missed=not_judged.listed(service.store, which, limit=ROWS).pictures if cursor is None else (),
        missed_count=not_judged.count(service.store, which),
        times=views.times(),
    )


@ROUTER.get("/history.csv")
def history_csv(service: The, _: Visitor, asked: Filtered) -> StreamingResponse:
    """All results of the history's filters with their newest reviews, as `flawforge results export` writes them."""
    name = f"results-{views.when(datetime.datetime.now(datetime.UTC))[:10]}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(exports.csv_text(service.store, asked.which), media_type="text/csv", headers=headers)


@ROUTER.get("/review")
def review(request: Request, service: The, _: Visitor, after: int = 0, number: int = 0, said: int = 0) -> HTMLResponse:
    """One part that waits for a review, with what a person may say of it.

    after   begin behind this result; number: this very result, also where it was reviewed; said: the result that was
            reviewed last, to confirm it
    """
    waiting = reviews.queue(service.store, limit=QUEUED)
    if number:
        verdict: verdicts.Verdict | None = _found(service, number)
    else:
        verdict = next((each for each in waiting if each.id > after), waiting[0] if waiting else None)
    before = _said(service, said)
    shown = views.detail(service, verdict) if verdict is not None else None
    return page(
        request,
        "review.html.jinja",
        texts.REVIEW,
        detail=shown,
        waiting=len(waiting),
        many=len(waiting) == QUEUED,
        before=before,
        regions=json.dumps(_boxes(verdict) if verdict is not None else []),
        drawn=json.dumps([asdict(box) for box in shown.review.boxes] if shown and shown.review else []),
        strokes=base64.b64encode(shown.review.mask).decode() if shown and shown.review and shown.review.mask else "",
    )


def _boxes(verdict: verdicts.Verdict) -> list[dict[str, int]]:
    """The marked regions as boxes of a review."""
    return [{"x": region.x, "y": region.y, "w": region.w, "h": region.h} for region in verdict.regions][: reviews.MOST_BOXES]


def _said(service: Service, number: int) -> dict[str, Any] | None:
    verdict = verdicts.get(service.store, number) if 0 < number < 2**63 else None
    newest = reviews.latest(service.store, [number]).get(number) if verdict is not None else None
    if newest is None:
        return None
    words = texts.SAID.format(name=texts.name_of(verdict), verdict=texts.REVIEWS[newest.verdict])
    return {"text": words, "id": number}


@ROUTER.get("/models")
def models(service: The, _: Visitor) -> RedirectResponse:
    """The first model."""
    return RedirectResponse(f"/models/{service.shelf.names[0]}", 303)


@ROUTER.get("/models/{name}")
def model(request: Request, service: The, person: Visitor, name: str, reloaded: bool = False) -> HTMLResponse:
    """A model: its promise, its proof, its drift, and the hardest good parts."""
    if name not in service.shelf.names:
        raise Refused(404, f"There is no model {name[:80]!r} here; known are {', '.join(service.shelf.names)}.")
    view = views.model_view(service, service.shelf.get(name))
    return page(
        request,
        "model.html.jinja",
        name,
        view=view,
        days=views.LINE_DAYS,
        admin=person.may("admin"),
        reloaded=reloaded,
    )


@ROUTER.post("/models/{name}/reload")
def reload(service: The, person: Admin, name: str) -> RedirectResponse:
    """Serve what the model's folder holds now, as POST /v1/models/{name}/reload does."""
    if name not in service.shelf.names:
        raise Refused(404, f"There is no model {name[:80]!r} here; known are {', '.join(service.shelf.names)}.")
    try:
        served, changed = service.shelf.reload(name)
    except (FlawforgeError, OSError) as error:
        log("model not reloaded", 40, model=name, reason=str(error), who=person.name)
        raise Refused(422, f"The model was not reloaded, the old one stays: {error}") from None
    log("model reloaded", model=name, manifest=served.manifest, changed=changed, who=person.name)
    return RedirectResponse(f"/models/{name}?reloaded=1", 303)


@ROUTER.get("/login")
def login(request: Request, service: The, next: Text = "/") -> Response:
    """The form that takes a token."""
    if not service.tokens.known:
        return RedirectResponse("/", 303)
    return page(request, "login.html.jinja", texts.LOGIN, where=_inside(next), wrong=False)


@ROUTER.post("/login")
async def enter(request: Request, service: The) -> Response:
    """Take a token, and answer with the cookie of a session."""
    form = await request.form(max_files=0, max_fields=2)
    token, where = str(form.get("token", "")).strip(), _inside(str(form.get("next", "")))
    person = service.tokens.person(token)
    if person is None:
        log("login refused", 30)
        return page(request, "login.html.jinja", texts.LOGIN, 401, where=where, wrong=True)
    answer = RedirectResponse(where, 303)
    begin_session(request, answer, service, person)
    return answer


@ROUTER.post("/logout")
def leave(request: Request, service: The) -> RedirectResponse:
    """End the session."""
    service.sessions.end(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


def _inside(where: str) -> str:
    """An address of this service; "/" for one that leads elsewhere."""
    own = where.startswith("/") and not where.startswith(("//", "/\\")) and where.isprintable()
    return where if own else "/"


@ROUTER.get("/static/{digest}/{name}")
def static(digest: str, name: str) -> Response:
    """A style sheet, a script or a picture of the page; its address changes with its content."""
    known, files = static_files()
    if digest != known or name not in files:
        raise Refused(404, texts.NOT_FOUND)
    content, kind = files[name]
    return Response(content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


def mount(app: FastAPI) -> None:
    """Add the page's routes; `app.state.service` holds what they need."""
    app.include_router(ROUTER)
