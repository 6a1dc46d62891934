"""The queue of a model and the recorder behind it: order, bounds, what a failure costs, and what a stop leaves."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.serve.work import Full, Job, Line, Recorder
from flawforge.store import verdicts
from flawforge.store.opening import Store, Unreachable, open_store
from flawforge.store.verdicts import Verdict
from flawforge.types import ConfigError, FlawforgeError, ImageError
from test_store import verdict

SECONDS = 20.0  # that a test waits for what must come


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "r.db") as opened:
        yield opened


@pytest.fixture
def published() -> list[Verdict]:
    return []


@pytest.fixture
def recorder(store: Store, published: list[Verdict]) -> Iterator[Recorder]:
    running = Recorder(store, published.append)
    yield running
    running.stop()


def job(number: int = 0) -> Job:
    return Job(data=b"", sha256=f"{number:064x}", picture=f"{number}.png")


def judged(work: Job) -> Verdict:
    return verdict(picture=work.picture, sha256=work.sha256)


class Stopped:
    """A judge that waits until it may go on, and remembers whom it judged."""

    def __init__(self, judge: Callable[[Job], Verdict] = judged) -> None:
        self.judge, self.go, self.seen = judge, threading.Event(), list[str]()

    def __call__(self, work: Job) -> Verdict:
        assert self.go.wait(SECONDS)
        self.seen.append(work.picture)
        return self.judge(work)


def free(line: Line) -> None:
    """Wait until no place is taken."""
    end = time.monotonic() + SECONDS
    while line.taken:
        assert time.monotonic() < end
        time.sleep(0.001)


# ---- the line


def test_what_goes_in_comes_out_recorded_in_its_order(store: Store, recorder: Recorder, published: list[Verdict]) -> None:
    line = Line("part", 100, judged, recorder)
    jobs = [job(number) for number in range(30)]
    line.submit(jobs[:10])
    line.submit(jobs[10:])
    found = [each.done.result(SECONDS) for each in jobs]
    line.stop()
    recorder.stop()
    assert [each.picture for each in found] == [each.picture for each in jobs]
    assert found == list(verdicts.each(store))[::-1] == published
    assert line.taken == 0


@settings(max_examples=20, deadline=None)
@given(groups=st.lists(st.integers(1, 5), max_size=8), places=st.integers(1, 9))
def test_a_group_is_taken_whole_or_not_at_all(groups: list[int], places: int) -> None:
    """The law of `places`, with a recorder that is never reached."""

    def refuses(_: Job) -> Verdict:
        raise ImageError("This is no picture.")

    judge = Stopped(refuses)
    line = Line("part", places, judge, recorder=None)  # type: ignore[arg-type]
    taken = 0
    for count in groups:
        jobs = [job(number) for number in range(count)]
        if taken + count <= places:
            line.submit(jobs)
            taken += count
        else:
            with pytest.raises(Full, match=f"{taken} of {places} places of model part are taken") as full:
                line.submit(jobs)
            assert full.value.wait >= 1
            assert not any(each.done.running() or each.done.done() for each in jobs)
        assert line.taken == taken
    judge.go.set()
    line.stop()
    assert line.taken == 0


def test_a_place_is_free_when_the_verdict_is_recorded_and_not_before(store: Store, recorder: Recorder) -> None:
    line = Line("part", 1, judged, recorder)
    with store.writing():  # nobody else can write now
        first = job()
        line.submit([first])
        time.sleep(0.05)
        assert line.taken == 1
        with pytest.raises(Full):
            line.submit([job(1)])
    first.done.result(SECONDS)
    free(line)
    line.submit([job(1)])
    line.stop()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ImageError("This is no picture."), ImageError, r"^This is no picture\.$"),
        (ConfigError("The key is taken."), ConfigError, r"^The key is taken\.$"),
        (MemoryError(), ImageError, "takes more memory than there is"),
        (OSError(28, "No space left on device"), Unreachable, r"could not be kept \(No space left on device\); free some"),
        (RuntimeError("of a library"), ImageError, "could not be judged; the service's log says why"),
    ],
)
def test_a_failure_costs_its_own_picture_and_no_other(
    recorder: Recorder, error: Exception, kind: type[FlawforgeError], words: str
) -> None:
    def judge(work: Job) -> Verdict:
        if work.picture == "1.png":
            raise error
        return judged(work)

    line = Line("part", 9, judge, recorder)
    jobs = [job(number) for number in range(3)]
    line.submit(jobs)
    with pytest.raises(kind, match=words):
        jobs[1].done.result(SECONDS)
    assert [jobs[place].done.result(SECONDS).picture for place in (0, 2)] == ["0.png", "2.png"]
    free(line)
    line.stop()


def test_who_gives_up_before_its_turn_is_not_judged_and_frees_its_place(recorder: Recorder) -> None:
    judge = Stopped()
    line = Line("part", 3, judge, recorder)
    jobs = [job(number) for number in range(3)]
    line.submit(jobs)
    while not jobs[0].done.running():
        time.sleep(0.001)
    assert jobs[1].done.cancel()
    assert not jobs[0].done.cancel()  # it is being judged
    assert line.taken == 3  # its bytes are still there
    judge.go.set()
    jobs[2].done.result(SECONDS)
    free(line)
    assert judge.seen == ["0.png", "2.png"]
    line.stop()


def test_a_stop_judges_what_was_taken_and_takes_no_more(store: Store, recorder: Recorder) -> None:
    judge = Stopped()
    line = Line("part", 9, judge, recorder)
    jobs = [job(number) for number in range(4)]
    line.submit(jobs)
    stopping = threading.Thread(target=line.stop)
    stopping.start()
    end = time.monotonic() + SECONDS
    while line._open:
        assert time.monotonic() < end
    with pytest.raises(Full, match=r"^The service is stopping; ask again when it runs\.$"):
        line.submit([job(9)])
    judge.go.set()
    stopping.join(SECONDS)
    assert not stopping.is_alive()
    assert [each.done.result(SECONDS).picture for each in jobs] == [f"{number}.png" for number in range(4)]


@given(taken=st.integers(0, 500), mean=st.floats(0, 100))
def test_the_wait_is_the_time_to_work_off_the_queue(taken: int, mean: float) -> None:
    line = Line.__new__(Line)  # no thread: only the arithmetic
    line._taken, line._mean = taken, mean
    assert line.wait >= 1
    assert abs(line.wait - max(1.0, taken * mean)) <= 0.5


# ---- the recorder


def waiting(recorder: Recorder, given_: list[Verdict]) -> list[Future[Verdict]]:
    """Hand over the verdicts while the store is locked, so that all but the first are one transaction."""
    futures: list[Future[Verdict]] = [Future() for _ in given_]
    for each, done in zip(given_, futures, strict=True):
        recorder.put(each, done)
    return futures


def test_a_verdict_outside_its_bounds_costs_no_other_of_its_transaction(store: Store, recorder: Recorder) -> None:
    numbers = list(range(6))
    with store.writing():
        wrong = {3: {"verdict": "PERHAPS"}, 5: {"sha256": "short"}}
        futures = waiting(recorder, [verdict(part_id=str(number), **wrong.get(number, {})) for number in numbers])
        time.sleep(0.02)
    for number in numbers:
        if number in wrong:
            with pytest.raises(ConfigError, match=r"PERHAPS|'short'"):
                futures[number].result(SECONDS)
        else:
            assert futures[number].result(SECONDS).part_id == str(number)
    assert sorted(each.part_id for each in verdicts.each(store)) == ["0", "1", "2", "4"]


def test_one_key_twice_in_a_transaction_is_one_row(store: Store, recorder: Recorder) -> None:
    with store.writing():
        futures = waiting(recorder, [verdict(key=key) for key in ("first", "k", "k", "k")])
        time.sleep(0.02)
    found = [each.result(SECONDS).id for each in futures]
    assert found[1] == found[2] == found[3] != found[0]
    assert verdicts.count(store) == 2


def test_a_store_that_fails_is_said_to_everyone_who_waits(store: Store, recorder: Recorder, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "r.db") as raw:
        raw.execute("ALTER TABLE verdicts RENAME TO elsewhere")
    raw.close()
    for done in waiting(recorder, [verdict(), verdict()]):
        with pytest.raises(Unreachable, match="cannot be used now"):
            done.result(SECONDS)
    with sqlite3.connect(tmp_path / "r.db") as raw:
        raw.execute("ALTER TABLE elsewhere RENAME TO verdicts")
    raw.close()
    (done,) = waiting(recorder, [verdict()])
    assert done.result(SECONDS).id == 1  # it goes on, and nothing was recorded meanwhile


def test_who_watches_does_not_stop_who_records(store: Store) -> None:
    def falls(_: Verdict) -> None:
        raise RuntimeError("the page is gone")

    recorder = Recorder(store, falls)
    futures = waiting(recorder, [verdict(), verdict()])
    recorder.stop()
    assert [each.result(0).id for each in futures] == [1, 2]  # a stop records what waits


def test_a_verdict_that_nobody_waits_for_is_recorded(store: Store, recorder: Recorder) -> None:
    given_up: Future[Verdict] = Future()
    given_up.set_exception(TimeoutError())
    recorder.put(verdict(part_id="late"), given_up)
    (done,) = waiting(recorder, [verdict(part_id="next")])
    done.result(SECONDS)
    assert {each.part_id for each in verdicts.each(store)} == {"late", "next"}
