"""What stands before every route: a request id, who may reach the service, limits of a body, headers, the log."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flawforge.serve.logs import REQUEST, log
from flawforge.serve.service import Service

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SAFE = ("GET", "HEAD", "OPTIONS")
SMALL = 8 << 20  # bytes of a body without pictures: a review with a mask
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Refused(HTTPException):
    """An answer in place of the one that was asked for: status, one sentence, and seconds after which to ask again."""

    def __init__(
        self, status: int, sentence: str, wait: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, sentence, dict(headers or {}) | ({"Retry-After": str(wait)} if wait is not None else {}))


def answer(refused: Refused) -> JSONResponse:
    """The refusal as JSON."""
    content = {"error": refused.detail, "request_id": REQUEST.get()}
    return JSONResponse(content, refused.status_code, dict(refused.headers or {}))


class Gate:
    """ASGI middleware; the outermost, so that nothing unhandled leaves without headers and a line in the log."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        REQUEST.set(asked if _ID.fullmatch(asked) else secrets.token_hex(8))
        visit = _Visit(self.service, scope, headers, receive, send)
        try:
            refused = visit.refusal()
            if refused is not None:
                await answer(refused)(scope, visit.receive, visit.send)
            else:
                await self.app(scope, visit.receive, visit.send)
        except Exception as error:
            log("request failed", 40, error=error)
            if visit.status:
                raise
            await answer(Refused(500, "The service failed; its log says why."))(scope, visit.receive, visit.send)
        finally:
            visit.end()


class _Visit:
    """One request on its way through the gate."""

    def __init__(self, service: Service, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        self.service, self.scope, self.headers = service, scope, headers
        self._receive, self._send = receive, send
        self.start, self.status, self.held = time.perf_counter(), 0, 0
        self.judges = scope["method"] == "POST" and scope["path"] == "/v1/inspect"
        self.most = service.settings.most_bytes if self.judges else SMALL
        self.counted = self.whole = False

    def refusal(self) -> Refused | None:
        """Why the request is not let in at all, before a byte of its body is read."""
        settings = self.service.settings
        host = self.headers.get("host", "")
        if settings.hosts and _name(host) not in settings.hosts:
            return Refused(403, "The request was sent to a name that this service does not have; use its own address.")
        if self.scope["method"] not in SAFE:
            origin, site = self.headers.get("origin"), self.headers.get("sec-fetch-site", "same-origin")
            foreign = origin is not None and origin.partition("://")[2] != host
            if foreign or site not in ("same-origin", "none"):
                return Refused(403, "The request comes from another site's page; use this service's own.")
        length = self.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return Refused(400, "The length of the body is no number; send a whole number of bytes.")
        if int(length) > self.most:
            return self._too_large()
        if self.judges:
            if not self.service.running:
                return Refused(503, "The service is stopping; ask again when it runs.", 5)
            if self.service.requests_held >= self.service.most_requests:
                wait = max((line.wait for line in self.service.lines.values()), default=1)
                return Refused(503, f"As many requests as there are places wait already; ask again in {wait} s.", wait)
            self.service.requests_held += 1
            self.counted = True
        return None

    def _too_large(self) -> Refused:
        return Refused(
            413,
            f"The body is larger than {self.most:,} bytes; send fewer or smaller pictures.",
            headers={"Connection": "close"},
        )

    async def receive(self) -> Message:
        """The next part of the body, within its limits. Raises Refused."""
        left = self.start + self.service.settings.body_seconds - time.perf_counter()
        if self.status or self.whole:  # the body is there: what comes now is that the client has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            seconds = self.service.settings.body_seconds
            raise Refused(
                408, f"The body took more than {seconds:g} s to arrive; send it faster.", headers={"Connection": "close"}
            ) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.held += size
            self.service.bytes_held += size
            self.whole = not message.get("more_body", False)
            if self.held > self.most:
                raise self._too_large()
            if self.service.bytes_held > self.service.settings.budget:
                raise Refused(503, "The pictures of all requests take too much memory now; ask again in 2 s.", 2)
        return message

    async def send(self, message: Message) -> None:
        """The answer, with the headers that every one has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            out = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                out.setdefault(name, value)
            out.setdefault("cache-control", "no-store")
            out["x-request-id"] = REQUEST.get()
        await self._send(message)

    def end(self) -> None:
        """Give back what was held, and write the log."""
        self.service.bytes_held -= self.held
        self.service.requests_held -= self.counted
        if self.status >= 400:
            self.service.figures.refused.labels(str(self.status)).inc()
        facts: dict[str, Any] = self.scope.get("state", {})
        log(
            "request",
            method=self.scope["method"],
            path=self.scope["path"],
            status=self.status,
            seconds=round(time.perf_counter() - self.start, 4),
            bytes=self.held,
            who=facts.get("who", ""),
        )


def _name(host: str) -> str | None:
    """The name in a Host header, without the port; None where it has another form."""
    match = re.fullmatch(r"([A-Za-z0-9.\-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", host)
    return match[1].strip("[]").lower() if match else None
