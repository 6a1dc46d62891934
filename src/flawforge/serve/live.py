"""Verdicts as they are recorded, and pictures that could not be judged, for pages that watch the line."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flawforge.store.not_judged import NotJudged
from flawforge.store.verdicts import Verdict

WAITING = 100  # news that a slow watcher may be behind; older ones are left out


News = Verdict | NotJudged
Watcher = asyncio.Queue[News | None]


class Live:
    """Gives all news to every watcher. None tells a watcher that the service stops."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False

    def begin(self) -> None:
        """To be called in the event loop that watchers live in."""
        self._loop, self.closed = asyncio.get_running_loop(), False

    def publish(self, news: News) -> None:
        """From any thread."""
        if self._loop is not None and self._watchers:
            self._loop.call_soon_threadsafe(self._give, news)

    def watch(self) -> Watcher:
        """A queue of what happens from now on; give it back with `leave`."""
        watcher: Watcher = asyncio.Queue(WAITING)
        if self.closed:
            watcher.put_nowait(None)
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        self._watchers.discard(watcher)

    def close(self) -> None:
        """Tell every watcher to go; in the event loop."""
        self.closed = True
        self._give(None)

    def _give(self, news: News | None) -> None:
        for watcher in self._watchers:
            if watcher.full():
                with suppress(asyncio.QueueEmpty):
                    watcher.get_nowait()
            watcher.put_nowait(news)
