"""How pictures are judged: one bounded queue and one judging thread per model, and one thread that records.

    request -> Line.submit -> judging thread -> Recorder -> the request's answer

A picture is acknowledged when its row is on the disk. While one is judged, the recorder writes all verdicts that wait in
one transaction, so a slow disk costs one wait for many. Pictures go through the network one at a time: a batch can change
the last bits of a score, and a verdict must not depend on what else was in the queue (docs/decisions/0046).
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flawforge.serve.logs import log
from flawforge.store.opening import Store, Unreachable
from flawforge.store.verdicts import Verdict, record
from flawforge.types import ConfigError, FlawforgeError, ImageError

GROUP = 64  # verdicts of one transaction, at most
RECENT = 10.0  # seconds that a verdict which could not be recorded counts as a fault of the service
END: Any = None


class Full(FlawforgeError):
    """The queue has no place now. `wait`: seconds after which it may."""

    def __init__(self, sentence: str, wait: int) -> None:
        super().__init__(sentence)
        self.wait = wait


@dataclass(frozen=True)
class Job:
    """One picture to judge.

    data      the bytes of its file
    picture, station, part_id, source, key, sha256  as in `Verdict`
    done      gives the recorded Verdict, or raises what went wrong
    """

    data: bytes = field(repr=False)
    sha256: str
    picture: str
    station: str = ""
    part_id: str = ""
    source: str = "http"
    key: str | None = None
    done: Future[Verdict] = field(default_factory=Future, repr=False)


class Recorder:
    """The one thread that writes verdicts, those that wait in one transaction."""

    def __init__(self, store: Store, published: Callable[[Verdict], None]) -> None:
        self._store, self._published = store, published
        self._failed: tuple[float, str] = (-math.inf, "")
        self._waiting: queue.Queue[tuple[Verdict, Future[Verdict]]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str:
        """Why the last verdict could not be recorded, for RECENT seconds: then only another picture can tell; else ""."""
        when, why = self._failed
        return why if time.monotonic() - when < RECENT else ""

    def put(self, verdict: Verdict, done: Future[Verdict]) -> None:
        """Record soon; `done` gives the recorded verdict or raises. Bounded by the queues' places."""
        self._waiting.put((verdict, done))

    def stop(self) -> None:
        """Record what waits, then end."""
        self._waiting.put(END)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            group = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(group) < GROUP:
                    group.append(self._waiting.get_nowait())
            ended = END in group
            work = [each for each in group if each is not END]
            if work:
                self._record(work)

    def _record(self, work: Sequence[tuple[Verdict, Future[Verdict]]]) -> None:
        try:
            recorded = record(self._store, [verdict for verdict, _ in work])
        except ConfigError as error:  # one of them: find out which
            if len(work) > 1:
                for each in work:
                    self._record([each])
                return
            fail(work[0][1], error)
        except Unreachable as error:
            log("store unreachable", 40, reason=str(error), lost=0, refused=len(work))
            self._failed = time.monotonic(), str(error)
            for _, done in work:
                fail(done, error)
        except Exception as error:
            log("verdicts could not be recorded", 40, error=error)
            self._failed = time.monotonic(), type(error).__name__
            for _, done in work:
                fail(done, Unreachable("The verdict could not be recorded; try again."))
        else:
            self._failed = -math.inf, ""
            for verdict, (_, done) in zip(recorded, work, strict=True):
                with suppress(InvalidStateError):
                    done.set_result(verdict)
                with suppress(Exception):  # who watches must not stop who records
                    self._published(verdict)


class Line:
    """The bounded queue of one model.

    places  pictures that may wait, be judged or be recorded at a time; more are refused at once
    judge   gives the verdict of a job, not recorded yet
    """

    def __init__(self, name: str, places: int, judge: Callable[[Job], Verdict], recorder: Recorder) -> None:
        self.name, self.places = name, places
        self._judge, self._recorder = judge, recorder
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._lock, self._taken, self._open = threading.Lock(), 0, True
        self._mean = 0.05  # seconds per picture, so far
        self._thread = threading.Thread(target=self._run, name=f"line {name}", daemon=True)
        self._thread.start()

    @property
    def taken(self) -> int:
        """Places that are taken now."""
        return self._taken

    @property
    def wait(self) -> int:
        """Whole seconds until the queue as it is now is worked off, at least 1."""
        return max(1, round(self._taken * self._mean))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all of them or none. Raises Full where there is no place, or where the line is stopping."""
        with self._lock:
            if not self._open:
                raise Full("The service is stopping; ask again when it runs.", 5)
            if self._taken + len(jobs) > self.places:
                raise Full(
                    f"{self._taken} of {self.places} places of model {self.name} are taken; ask again in {self.wait} s.",
                    self.wait,
                )
            self._taken += len(jobs)
            for job in jobs:
                job.done.add_done_callback(self._leave)
                self._jobs.put(job)

    def stop(self) -> None:
        """Take no more, and end when all that was taken is judged."""
        with self._lock:
            self._open = False
            self._jobs.put(END)
        self._thread.join()

    def _leave(self, done: Future[Verdict]) -> None:
        if not done.cancelled():  # such a job holds its bytes, and so its place, until its turn comes
            self._free()

    def _free(self) -> None:
        with self._lock:
            self._taken -= 1

    def _run(self) -> None:
        while (job := self._jobs.get()) is not END:
            if not job.done.set_running_or_notify_cancel():  # who asked gave up before its turn
                self._free()
                continue
            start = time.perf_counter()
            try:
                verdict = self._judge(job)
            except FlawforgeError as error:
                fail(job.done, error)
            except MemoryError:
                fail(job.done, ImageError("The picture takes more memory than there is; give a smaller picture."))
            except OSError as error:
                log("kept file could not be written", 40, reason=str(error))
                fail(job.done, Unreachable(f"The picture could not be kept ({error.strerror}); free some space."))
            except Exception as error:  # of a library, or ours: it costs this picture and no other
                log("picture could not be judged", 40, error=error)
                fail(job.done, ImageError("The picture could not be judged; the service's log says why."))
            else:
                self._mean += 0.1 * (time.perf_counter() - start - self._mean)
                self._recorder.put(verdict, job.done)


def fail(done: Future[Verdict], error: Exception) -> None:
    """Raise `error` to whoever waits, if somebody still does."""
    with suppress(InvalidStateError):
        done.set_exception(error)
