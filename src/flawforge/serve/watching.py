"""New pictures in a watched folder: judged and recorded one by one, each once, also after a restart."""

from __future__ import annotations

import datetime
import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flawforge.serve.judging import judge, not_judged
from flawforge.serve.logs import log
from flawforge.serve.service import Service
from flawforge.serve.shelf import Served
from flawforge.serve.work import Full, Job
from flawforge.store.kept import sha256_of
from flawforge.store.not_judged import note
from flawforge.store.opening import Store, Unreachable
from flawforge.store.verdicts import Verdict, record, with_key
from flawforge.types import Decision, FlawforgeError, ImageError
from flawforge_runtime.feed import watched
from flawforge_runtime.files import read_regular
from flawforge_runtime.names import shown

MAX_BYTES = 1 << 30  # of a picture's file
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between two tries at a store that cannot be written; the last one stays


def read_job(path: Path, source: str, station: str = "", *, once: bool = False) -> Job:
    """A picture's file as a job. once: with a key of its path, time of change and bytes, so that it is recorded once.

    Raises ImageError for a file that cannot be read or is too large, and for what is no regular file.
    """
    try:
        facts = path.stat()
        if facts.st_size > MAX_BYTES:
            raise ImageError(f"{path} has {facts.st_size:,} bytes, at most {MAX_BYTES:,} are read; give a smaller file.")
        data = read_regular(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error
    sha256 = sha256_of(data)
    key = f"{source} {_place(path)} {facts.st_mtime_ns} {sha256}" if once else None
    return Job(data, sha256, shown(path.name)[:200], station=station, source=source, key=key)


def unread(path: Path, source: str, station: str, *, once: bool = False) -> Job:
    """A file that could not be read, as a job without bytes; once: with a key of its path and the day."""
    key = f"{source} {_place(path)} {datetime.datetime.now(datetime.UTC):%Y-%m-%d}" if once else None
    return Job(b"", "", shown(path.name)[:200], station=station, source=source, key=key)


def _place(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]


def patiently(record_it: Callable[[], Any], go_on: Callable[[], bool], say: Callable[[str], None]) -> Any:
    """Try until the store can be written, or `go_on` says no; `say` is told once when it cannot, and once when it can."""
    tries = 0
    while True:
        try:
            recorded = record_it()
        except Unreachable as error:
            if tries == 0:
                say(f"{error} The picture waits until it can be.")
            if not go_on():
                raise
            time.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        else:
            if tries:
                say("The result store can be written again.")
            return recorded


class Keeper:
    """Judges a path and records the verdict, or why there is none: what `inspect --db` does with each picture.

    once  a file that was recorded gives the recorded verdict, and the run waits for a store that is away: --watch
    say   is told of a store that is away
    """

    def __init__(
        self,
        store: Store,
        served: Served,
        *,
        station: str = "",
        keep: str = "none",
        sample_every: int = 0,
        seed: int = 0,
        once: bool = False,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._store, self._served, self._station, self._keep = store, served, station, keep
        self._sample_every, self._seed, self._once, self._say = sample_every, seed, once, say

    def __call__(self, path: Path) -> Decision:
        """The Decision, once its verdict is recorded. Raises ImageError, Unreachable."""
        source = "watch" if self._once else "inspect"
        job = unread(path, source, self._station, once=self._once)
        try:
            job = read_job(path, source, self._station, once=self._once)
            judge_it = partial(self._recorded, job)
            decision = patiently(judge_it, lambda: True, self._say) if self._once else judge_it()
        except Unreachable:
            raise
        except Exception as error:  # of a library, or for want of memory: whoever called goes on with the next picture
            self._missed(job, str(error) or type(error).__name__)
            raise
        return replace(decision, image_path=str(path))

    def _recorded(self, job: Job) -> Decision:
        try:
            decision, verdict = judge(
                self._served, job, self._store, keep=self._keep, sample_every=self._sample_every, seed=self._seed
            )
        except OSError as error:
            raise Unreachable(f"{job.picture} could not be kept ({error.strerror}); free some space.") from error
        (recorded,) = record(self._store, [verdict])
        return decision if replace(recorded, id=verdict.id) == verdict else _as_recorded(decision, recorded)

    def _missed(self, job: Job, why: str) -> None:
        try:
            note(self._store, [not_judged(job, self._served.name, why)])
        except Unreachable as error:  # the picture has no verdict that could be lost, and its row says why
            self._say(str(error))


def _as_recorded(decision: Decision, recorded: Verdict) -> Decision:
    """What the store says of a file that was judged before, by other limits perhaps: nobody is told anything else."""
    return replace(
        decision,
        pred_score=recorded.score,
        score_normalised=recorded.score_normalised,
        p_value=recorded.p_value,
        threshold=recorded.threshold,
        review_threshold=recorded.review_threshold,
        verdict=recorded.verdict,
        pred_label=recorded.verdict == "NG",
        valid=recorded.valid,
        regions=recorded.regions,
        notes=(*recorded.notes, f"judged before: this is result {recorded.id} of {recorded.time:%Y-%m-%d %H:%M}"),
    )


class Watcher:
    """A thread that gives the pictures of a folder to a line of the service, one after the other."""

    def __init__(self, service: Service, folder: Path, model: str) -> None:
        self._service, self._model = service, model
        # Wherever the process stands later; not resolved, since a link may be pointed elsewhere.
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; pictures that lie there already come first."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the picture at hand, then end."""
        self._stopping.set()
        self._thread.join()

    def _go_on(self) -> bool:
        return not self._stopping.is_set()

    def _run(self) -> None:
        """Watch, and begin anew after whatever ends it: a folder that is mounted late, for example."""
        said = ""
        while self._go_on():
            try:
                self._watch()
            except Exception as error:
                reason = str(error) or type(error).__name__
                if reason != said:
                    log("watch", 40, reason=reason, next="it is tried again until it can be watched")
                said = reason
                self._stopping.wait(PAUSES[1])

    def _watch(self) -> None:
        for path in watched(self._folder, go_on=self._go_on, say=lambda sentence: log("watch", reason=sentence)):
            job = unread(path, "watch", self._service.settings.station, once=True)
            try:
                job = read_job(path, "watch", job.station, once=True)
                patiently(partial(self._verdict, job), self._go_on, lambda sentence: log("watch", 30, reason=sentence))
            except FlawforgeError as error:
                if not self._go_on() and isinstance(error, Full | Unreachable):
                    return  # stopping: the picture is judged after the restart
                self._service.missed([not_judged(job, self._model, str(error))])
            except Exception as error:  # costs this picture and no other
                log("picture could not be judged", 40, error=error)
                self._service.missed([not_judged(job, self._model, f"{type(error).__name__}; the log says more")])
            if not self._go_on():
                return

    def _verdict(self, job: Job) -> Verdict:
        known = with_key(self._service.store, job.key or "")
        if known is not None:  # judged before a restart
            return known
        again = replace(job, done=type(job.done)())
        while True:
            try:
                self._service.lines[self._model].submit([again])
                return again.done.result()
            except Full as full:
                if not self._go_on():
                    raise
                self._stopping.wait(min(full.wait, 1))
