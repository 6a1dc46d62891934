"""The service as an ASGI app."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from flawforge import __version__
from flawforge.serve import inspecting, pages, results
from flawforge.serve.access import Tokens
from flawforge.serve.gate import Gate, Refused, answer
from flawforge.serve.logs import log
from flawforge.serve.service import Service, Settings
from flawforge.serve.shelf import Shelf
from flawforge.serve.watching import Watcher
from flawforge.store.opening import Store
from flawforge.store.retention import clock_doubt, prune
from flawforge.types import FlawforgeError

HOUR = 3600.0  # seconds
DAY = 24  # hours between two looks at every kept file
NONE, DEFAULT = Tokens(), Settings()
ABOUT = """Judge pictures of parts, and read what was judged. A higher score is more anomalous; `score_normalised` is 0.5
at the NG threshold of every model. What could not be judged is never OK. Errors are one sentence: what was
given, what is allowed, what to do."""


def create_app(shelf: Shelf, store: Store, tokens: Tokens = NONE, settings: Settings = DEFAULT) -> FastAPI:
    """The service over open models and an open store, which the caller closes after it.

    tokens  empty = nobody is asked who they are; bind it to loopback alone then (`access.check_host`)
    `app.state.service` is the Service. It judges from the lifespan's start to its end.
    """
    service = Service(shelf, store, tokens, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        service.live.begin()
        watcher = Watcher(service, settings.watch, shelf.names[0]) if settings.watch is not None else None
        if watcher is not None:
            watcher.start()
        pruning = asyncio.create_task(_prune_hourly(service))
        log("started", models=list(shelf.names), store=store.name)
        try:
            yield
        finally:
            pruning.cancel()
            service.live.close()
            if watcher is not None:
                await run_in_threadpool(watcher.stop)
            await run_in_threadpool(service.stop)  # what was accepted is finished
            log("stopped")

    app = FastAPI(
        title="flawforge", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.include_router(inspecting.ROUTER)
    app.include_router(results.ROUTER)
    pages.mount(app)
    return app


async def _prune_hourly(service: Service) -> None:
    settings = service.settings
    if settings.retain_days is None and settings.retain_bytes is None:
        return
    for hour in itertools.count():
        await run_in_threadpool(_prune, service, hour % DAY == 0)
        await asyncio.sleep(HOUR)


def _prune(service: Service, sweep: bool) -> None:
    """One round. Raises nothing: what fails is in the log, and the next round tries again."""
    settings, before = service.settings, None
    try:
        if settings.retain_days is not None:
            now = datetime.datetime.now(datetime.UTC)
            before = now - datetime.timedelta(days=settings.retain_days)
            if doubt := clock_doubt(service.store, before, now):
                log("not pruned by age", 40, reason=doubt)
                before, sweep = None, False
        if before is not None or settings.retain_bytes is not None:
            done = prune(service.store, before=before, most_bytes=settings.retain_bytes, who="service", sweep=sweep)
            log("pruned", **done.as_dict())
    except FlawforgeError as error:  # such as Unreachable
        log("not pruned", 40, reason=str(error))
    except Exception as error:  # of the disk, the driver, or ours: it must not end the rounds
        log("not pruned", 40, error=error)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        return answer(error)
    sentences = {
        404: "There is no such address here; see /openapi.json.",
        405: "The address does not take this method; see /openapi.json.",
    }
    sentence = sentences.get(error.status_code, f"{str(error.detail).rstrip('.')}; see /openapi.json.")
    refused = Refused(error.status_code, sentence)
    refused.headers = dict(error.headers or {})
    if error.status_code == 405:
        refused.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer(refused)


def _methods(request: Request) -> set[str]:
    """The methods of every route with this path: the router names those of the first one alone."""
    paths = request.app.openapi()["paths"]
    fits = [path for path in paths if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path)]
    return {method.upper() for path in fits for method in paths[path]}


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str | int))
    malformed = first["type"] == "json_invalid"
    sentence = f"{place or 'The body'}: {first['msg']}; see /openapi.json for what is allowed."
    return answer(Refused(400 if malformed else 422, sentence))
