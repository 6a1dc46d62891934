"""What a running service holds, and the limits that it keeps."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from flawforge.serve.access import Person, Tokens
from flawforge.serve.judging import judge
from flawforge.serve.live import Live
from flawforge.serve.logs import log
from flawforge.serve.shelf import Served, Shelf
from flawforge.serve.work import Job, Line, Recorder
from flawforge.store.not_judged import NotJudged, note
from flawforge.store.opening import Store, Unreachable
from flawforge.store.verdicts import Verdict, get

LEAST_FREE = 64 << 20  # bytes of disk below which the service is not ready
SESSION = 12 * 3600.0  # seconds that a session of the page lasts
MOST_SESSIONS = 1000
DRAWN = 2  # kept pictures that are decoded or drawn again at a time
FAILURES = 5  # of the watched folder, that the live page lists


@dataclass(frozen=True)
class Settings:
    """Limits and habits of a service.

    places        pictures per model that may wait or be judged at a time; more are answered 503
    most_bytes    of one request's body; most_files of its pictures
    budget        bytes of all bodies that are in memory at a time
    body_seconds  that a body may take to arrive; answer_seconds that a request waits for its verdicts
    keep          which pictures and overlays are kept: all, rejects or none
    sample_every  about one picture in this many is chosen for review at random; 0 = none
    seed          of that choice
    station       of pictures that name none
    watch         folder whose pictures the first model judges as they come; None = none
    retain_days   results older than that are pruned every hour; retain_bytes: the oldest are, until the kept files have at
                  most this many bytes; None = kept. Reviewed ones stay
    hosts         names that a request may be sent to; empty = any. Without tokens a web page elsewhere could else reach a
                  service on loopback through the browser (DNS rebinding)
    """

    places: int = 32
    most_bytes: int = 64 << 20
    most_files: int = 16
    budget: int = 512 << 20
    body_seconds: float = 30.0
    answer_seconds: float = 60.0
    keep: str = "all"
    sample_every: int = 50
    seed: int = 0
    station: str = ""
    watch: Path | None = None
    retain_days: float | None = None
    retain_bytes: int | None = None
    hosts: tuple[str, ...] = ()


class Figures:
    """Prometheus metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.verdicts = Counter("flawforge_verdicts", "Recorded verdicts", ["model", "verdict", "source"], registry=own)
        self.unlike = Counter("flawforge_unlike", "Verdicts on pictures unlike every good one", ["model"], registry=own)
        self.errors = Counter("flawforge_not_judged", "Pictures that could not be judged", ["model", "source"], registry=own)
        self.refused = Counter("flawforge_refused", "Requests that were refused, by HTTP status", ["status"], registry=own)
        self.seconds = Histogram(
            "flawforge_judging_seconds",
            "Seconds from the bytes of a picture to its verdict",
            ["model"],
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=own,
        )
        self.taken = Gauge("flawforge_queue_taken", "Places of the queue that are taken", ["model"], registry=own)
        self.places = Gauge("flawforge_queue_places", "Places of the queue", ["model"], registry=own)

    def count(self, verdict: Verdict) -> None:
        """A verdict that was recorded."""
        self.verdicts.labels(verdict.model, verdict.verdict, verdict.source).inc()
        self.seconds.labels(verdict.model).observe(verdict.seconds)
        if not verdict.valid:
            self.unlike.labels(verdict.model).inc()


class Sessions:
    """The page's sessions: random names in a cookie, kept in memory alone."""

    def __init__(self) -> None:
        self._lock, self._known = threading.Lock(), dict[str, tuple[float, Person]]()

    def begin(self, person: Person) -> str:
        """A new session's name."""
        name, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._known = {key: each for key, each in self._known.items() if each[0] > now}
            while len(self._known) >= MOST_SESSIONS:
                self._known.pop(next(iter(self._known)))
            self._known[name] = (now + SESSION, person)
        return name

    def person(self, name: str) -> Person | None:
        """Whose session this is; None where it is over or never was."""
        end, person = self._known.get(name, (0.0, None))
        return person if end > time.monotonic() else None

    def end(self, name: str) -> None:
        """Forget a session."""
        with self._lock:
            self._known.pop(name, None)


@dataclass
class Service:
    """Models, store, queues: all that the routes need. `start` and `stop` belong to the app's lifespan.

    not_judged  the last pictures of the watched folder that could not be judged, since the start
    drawing     held while a kept picture is decoded or drawn again: a page asks for fifty at a time, and so many large
                pictures in memory would end the process that judges
    """

    shelf: Shelf
    store: Store
    tokens: Tokens
    settings: Settings
    figures: Figures = field(default_factory=Figures)
    live: Live = field(default_factory=Live)
    sessions: Sessions = field(default_factory=Sessions)
    lines: Mapping[str, Line] = field(default_factory=dict)
    not_judged: deque[NotJudged] = field(default_factory=lambda: deque(maxlen=FAILURES))
    drawing: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(DRAWN))
    running: bool = False
    bytes_held: int = 0
    requests_held: int = 0
    _recorder: Recorder | None = None

    @property
    def most_requests(self) -> int:
        """Requests with pictures that are let in at a time."""
        return sum(line.places for line in self.lines.values())

    def start(self) -> None:
        """Begin to judge."""
        recorder = Recorder(self.store, self._recorded)
        settings = self.settings
        self._recorder = recorder
        self.lines = {name: Line(name, settings.places, partial(self._judge, name), recorder) for name in self.shelf.names}
        for name, line in self.lines.items():
            self.figures.taken.labels(name).set_function(partial(_taken, line))
            self.figures.places.labels(name).set(line.places)
        self.running = True

    def stop(self) -> None:
        """Finish what was accepted, and end."""
        self.running = False
        for line in self.lines.values():
            line.stop()
        if self._recorder is not None:
            self._recorder.stop()

    def _judge(self, name: str, job: Job) -> Verdict:
        served: Served = self.shelf.get(name)
        settings = self.settings
        return judge(served, job, self.store, keep=settings.keep, sample_every=settings.sample_every, seed=settings.seed)[1]

    def _recorded(self, verdict: Verdict) -> None:
        self.figures.count(verdict)
        self.live.publish(verdict)

    def missed(self, pictures: Sequence[NotJudged]) -> None:
        """Count, log and record pictures that could not be judged; those of the watched folder are shown to who watches.

        Raises nothing: what cannot be recorded is in the log.
        """
        for each in pictures:
            self.figures.errors.labels(each.model, each.source).inc()
            log("not judged", 40, picture=each.picture, reason=each.reason, source=each.source)
        try:
            note(self.store, pictures)
        except Unreachable as error:
            log("pictures that were not judged could not be recorded", 40, reason=str(error), lost=len(pictures))
        except Exception as error:  # of the driver: it must stop neither the watcher nor an answer
            log("pictures that were not judged could not be recorded", 40, error=error, lost=len(pictures))
        for each in pictures:
            if each.source == "watch":
                self.not_judged.appendleft(each)
                self.live.publish(each)

    def hindrances(self) -> list[str]:
        """Why nothing can be judged now; empty = ready."""
        reasons = [] if self.running else ["the service is stopping"]
        try:
            get(self.store, 0)
        except Unreachable as error:
            reasons.append(str(error))
        if self._recorder is not None and self._recorder.fault:
            reasons.append(f"a verdict could not be recorded: {self._recorder.fault}")
        reasons += [f"the queue of model {name} is full" for name, line in self.lines.items() if line.taken >= line.places]
        for what, place in (("kept pictures", self.store.files), ("the result store", self.store.path)):
            if place is not None and free_bytes(place) < LEAST_FREE:
                reasons.append(f"the disk of {what} is full")
        return reasons


def _taken(line: Line) -> float:
    return line.taken


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder, which need not exist yet, lies on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
