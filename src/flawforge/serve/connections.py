"""Open connections: how many there may be, and how long one may wait without a request."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from flawforge.serve.logs import log

if sys.platform != "win32":
    import resource

MOST = 1000  # connections, however many files the process may open
PERIOD = 60.0  # seconds between two lines in the log
SENTENCE = b'{"error": "As many connections as the service takes are busy; ask again in 2 s."}'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 2\r\ncontent-type: application/json\r\n"
BUSY += b"content-length: %d\r\n\r\n%s" % (len(SENTENCE), SENTENCE)
NO_FILES = "socket.accept() out of system resource"  # asyncio's words for a process that may open no more files


def open_files() -> int:
    """How many files this process may have open."""
    if sys.platform == "win32":
        return 2 * MOST
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * MOST if soft == resource.RLIM_INFINITY else soft


@dataclass
class Bounds:
    """most: connections, by default half of the files that may be open; head_seconds: for a request's head."""

    most: int = field(default_factory=lambda: max(1, min(MOST, open_files() // 2)))
    head_seconds: float = 10.0
    _closed: int = 0
    _told: float = float("-inf")

    @property
    def backlog(self) -> int:
        """Connections that asyncio accepts in one go, before any of them can be closed: a quarter of the open files."""
        return max(1, min(256, self.most // 2))

    def note(self) -> None:
        """One more was closed or not taken for want of room: the log says so at once, then once a period."""
        self._closed += 1
        if time.monotonic() - self._told >= PERIOD:
            log("connections full", 30, most=self.most, closed=self._closed)
            self._closed, self._told = 0, time.monotonic()

    def without_files(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's handler of exceptions, which would write a traceback for each connection that it cannot accept."""
        if context.get("message") == NO_FILES:
            self.note()
        else:
            loop.default_exception_handler(context)


class Connection(H11Protocol):
    """uvicorn's, which is closed where no request comes, and gives its place to a new one where all are taken."""

    bounds: ClassVar[Bounds]
    since = 0.0  # when it began to wait for a request
    _head: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        """uvicorn's, within the bounds: of those that wait for a request, the one that waits longest is closed."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._expect_head()
        if len(self.connections) > self.bounds.most:
            self.bounds.note()
            idle = [each for each in self.connections if isinstance(each, Connection) and each is not self and each.idle]
            out = min(idle, key=lambda each: each.since, default=self)
            self.connections.discard(out)
            if out is self:
                transport.write(BUSY)
                transport.close()
            else:
                out.transport.abort()

    def data_received(self, data: bytes) -> None:
        """uvicorn's; it stops its own clock at the first byte, and half a head would stay for ever."""
        super().data_received(data)
        if self.idle:
            self._expect_head()
        else:
            self._stop_clock()

    def on_response_complete(self) -> None:
        """uvicorn's, which waits `timeout_keep_alive` for the next request to begin."""
        self.since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn's."""
        self._stop_clock()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.bounds.head_seconds, self.timeout_keep_alive_handler)

    def _stop_clock(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def protocol(bounds: Bounds) -> type[Connection]:
    """A class for uvicorn's setting `http`."""
    return type("Bounded", (Connection,), {"bounds": bounds})
