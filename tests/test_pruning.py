"""Pruning beside everything else that goes on: reviews, pictures that are being recorded, other prunings, wrong clocks."""

from __future__ import annotations

import datetime
import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from flawforge.serve import app
from flawforge.serve.service import Settings
from flawforge.serve.shelf import open_shelf
from flawforge.store import kept, not_judged, retention, reviews, verdicts
from flawforge.store.opening import Store, open_store
from flawforge.types import ConfigError, DataError
from flawforge_runtime import bundle
from flawforge_runtime.inspector import Inspector, from_content
from serving import Running, picture, serving
from test_store import DAY, aged, keep, missed, put, verdict

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    with open_store(store_url, tmp_path / "files") as opened:
        yield opened


def there(store: Store) -> list[str]:
    """Every file below the store's folder."""
    assert store.files is not None
    return sorted(path.relative_to(store.files).as_posix() for path in store.files.rglob("*") if path.is_file())


def once(store: Store, event: str, when: Callable[[str], bool], do: Callable[[], object]) -> None:
    """Do something at the first SQL statement, or the first commit, for which `when` holds."""
    left = [do]

    def hear(*about: Any) -> None:
        text = str(about[2]) if len(about) > 2 else ""
        if left and when(text):
            left.pop()()

    sa.event.listen(store.engine, event, hear)


def waiting(store: Store, reviewer: threading.Thread) -> None:
    """Return when the thread has ended, or waits for a lock of the database."""
    query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    end = time.monotonic() + 20
    while reviewer.is_alive() and time.monotonic() < end:
        with store.engine.connect() as connection:
            if connection.execute(query).scalar_one():
                return
        time.sleep(0.01)


# ---- reviews


@pytest.mark.line
@pytest.mark.parametrize("statement", ["SELECT verdicts.id", "DELETE FROM verdicts"])
def test_an_acknowledged_review_is_never_pruned(postgresql: Any, statement: str) -> None:
    """It comes at any moment of a pruning, and is either refused or kept together with its verdict."""
    with open_store(postgresql.url()) as store:
        number = put(store, time=NOW - 2 * DAY).id
        said: list[object] = []

        def review() -> None:
            try:
                said.append(reviews.add(store, number, "anna", "defect").id)
            except DataError as error:
                said.append(error)

        reviewer = threading.Thread(target=review)

        def begin() -> None:
            reviewer.start()
            waiting(store, reviewer)

        name = "before_cursor_execute" if statement.startswith("DELETE") else "after_cursor_execute"
        once(store, name, lambda text: text.startswith(statement), begin)
        retention.prune(store, before=NOW - DAY)
        reviewer.join(20)
        kept_ = [each.id for each in reviews.of(store, number)]
        assert len(said) == 1
        assert kept_ == [each for each in said if isinstance(each, int)]
        assert (verdicts.get(store, number) is not None) == bool(kept_)


@pytest.mark.line
def test_a_review_that_is_being_written_is_waited_for_by_nobody(postgresql: Any) -> None:
    with open_store(postgresql.url()) as store:
        mine, other = put(store, time=NOW - 2 * DAY), put(store, time=NOW - 2 * DAY)
        with store.engine.begin() as reviewer:
            reviewer.execute(sa.text("SELECT id FROM verdicts WHERE id = :id FOR UPDATE"), {"id": mine.id})
            assert retention.prune(store, before=NOW - DAY).verdicts == 1
            columns = "verdict_id, time, who, verdict, boxes, note"
            values = {"id": mine.id, "time": NOW}
            reviewer.execute(
                sa.text(f"INSERT INTO reviews ({columns}) VALUES (:id, :time, 'anna', 'good', '[]', '')"), values
            )
        assert [each.id for each in verdicts.each(store)] == [mine.id]
        assert verdicts.get(store, other.id) is None
        assert retention.prune(store, before=NOW - DAY).reviewed_left == 1
        assert len(reviews.of(store, mine.id)) == 1


def test_what_another_pruning_has_freed_is_not_freed_twice(store_url: str, store: Store) -> None:
    recorded = [keep(store, bytes([number]) * 10, time=NOW - DAY * (number > 3)) for number in range(6)]

    def other() -> None:
        with open_store(store_url, store.files) as second:
            assert retention.prune(second, before=NOW).verdicts == 2

    once(store, "commit", lambda _: True, other)  # that of the transaction that planned to delete three
    assert retention.prune(store, most_bytes=30).verdicts == 1
    assert [each.id for each in verdicts.each(store)] == [each.id for each in recorded[3:0:-1]]


# ---- files


def test_a_picture_that_is_being_recorded_keeps_its_file(store: Store) -> None:
    """The same picture comes again: its file is found before the pruning, and its row is written after it."""
    assert store.files is not None
    old = keep(store, b"the same", time=NOW - 2 * DAY)
    assert kept.keep_picture(store.files, b"the same", old.sha256) == old.kept
    done = retention.prune(store, before=NOW - DAY)
    assert (done.verdicts, done.files) == (1, 0)
    again = put(store, kept=old.kept, size=8, time=NOW)
    aged(store.files / old.kept)
    assert retention.prune(store, before=NOW - DAY).files == 0
    path = kept.kept_path(store.files, again.kept)
    assert path is not None
    assert path.read_bytes() == b"the same"


def test_a_picture_that_comes_between_look_and_deletion_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, rename = b"the same", Path.rename
    name = kept.keep_picture(tmp_path, data, kept.sha256_of(data))
    aged(tmp_path / name)

    def late(path: Path, target: Path) -> Path:
        monkeypatch.undo()
        kept.keep_picture(tmp_path, data, kept.sha256_of(data))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert kept.discard(tmp_path, [name], kept.disk_time(tmp_path)) == (0, 0)
    assert Path.rename is rename
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_size_leaves_what_was_kept_a_moment_ago(store: Store) -> None:
    """Its file could not be deleted now, so to delete its results would free nothing."""
    assert store.files is not None
    old, new = keep(store, b"old"), keep(store, b"new")
    kept.keep_picture(store.files, b"new", new.sha256)
    done = retention.prune(store, most_bytes=0)
    assert (done.verdicts, done.files, done.fresh_left) == (1, 1, 1)
    assert "1 results of the last 10 minutes stay" in done.lines()[1]
    assert list(verdicts.each(store)) == [new]
    assert there(store) == [new.kept]
    assert old.kept != new.kept


def test_a_file_counts_once_however_many_results_name_it(store: Store) -> None:
    assert store.files is not None
    same = [keep(store, b"0123456789", part_id=str(number)) for number in range(10)]
    other = keep(store, b"abcdefghij")
    overlay = kept.keep_overlay(store.files, b"overlay", same[0].sha256, "b" * 64)
    aged(store.files / overlay)
    marked = put(store, sha256=same[0].sha256, kept=same[0].kept, overlay=overlay, size=17)
    assert sum((store.files / name).stat().st_size for name in there(store)) == 27
    assert retention.prune(store, most_bytes=27) == retention.Pruned()
    done = retention.prune(store, most_bytes=26)  # of the two pictures the other is longer unused
    assert (done.verdicts, done.files, done.size) == (1, 1, 10)
    assert verdicts.get(store, other.id) is None
    assert verdicts.count(store) == 11
    done = retention.prune(store, most_bytes=16)
    assert (done.verdicts, done.files, done.size) == (11, 2, 17)
    assert verdicts.get(store, marked.id) is None
    assert there(store) == []


def test_a_name_that_is_none_of_ours_and_a_disk_that_refuses_stop_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    put(store, kept="../mine.png", size=4, time=NOW - 2 * DAY)
    bad, good = keep(store, b"bad", time=NOW - 2 * DAY), keep(store, b"good", time=NOW - 2 * DAY)
    is_file = Path.is_file

    def stale(path: Path) -> bool:
        if path.name == Path(bad.kept).name:
            raise OSError(errno.ESTALE, "Stale file handle")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", stale)
    done = retention.prune(store, before=NOW - DAY)
    monkeypatch.undo()
    assert (done.verdicts, done.files) == (3, 1)
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert there(store) == [bad.kept]
    assert good.kept not in there(store)


def test_files_are_not_forgotten_where_no_folder_was_given(store_url: str, store: Store) -> None:
    old = keep(store, b"old", time=NOW - 2 * DAY)
    without = replace(store, files=None)
    with pytest.raises(ConfigError, match=r"name kept pictures, and no folder of them was given; give it with --files\.$"):
        retention.prune(without, before=NOW - DAY)
    assert list(verdicts.each(store)) == [old]


def test_old_files_without_a_result_are_swept(store: Store) -> None:
    """A kill after the commit and a row that could not be recorded leave files; a kill while writing leaves drafts."""
    assert store.files is not None
    named = [keep(store, bytes([number])) for number in range(30)]
    stray, young = (kept.keep_picture(store.files, data, kept.sha256_of(data)) for data in (b"stray", b"young"))
    draft, fresh = (store.files / named[0].kept).with_name, (store.files / named[1].kept).with_name
    left = draft(f".{Path(named[0].kept).name}.01234567.tmp")
    begun = fresh(f".{Path(named[1].kept).name}.01234567.tmp")
    other = store.files / "pictures" / "notes.txt"
    for path in (left, begun, other):
        path.write_bytes(b"half")
    for path in (store.files / stray, left, other):
        aged(path, 2 * retention.STRAY)
    aged(store.files / young, retention.STRAY / 2)
    assert retention.prune(store, most_bytes=1000, sweep=False) == retention.Pruned()
    assert retention.prune(store, most_bytes=1000) == retention.Pruned(files=1, size=5)
    stay = {young, *(each.kept for each in named), *(path.relative_to(store.files).as_posix() for path in (begun, other))}
    assert set(there(store)) == stay


def test_the_files_of_another_store_are_not_swept(store: Store, tmp_path: Path) -> None:
    assert store.files is not None
    named = [keep(store, bytes([number])) for number in range(3)]
    for each in named:
        aged(store.files / each.kept, 2 * retention.STRAY)
    with open_store(tmp_path / "other.db", store.files) as other:
        put(other, time=NOW - 2 * DAY)
        done = retention.prune(other, before=NOW - DAY)
    assert (done.verdicts, done.files, done.strays_left) == (1, 0, 3)
    assert "3 files belong to no result and stay" in done.lines()[1]
    assert len(there(store)) == 3


# ---- the service


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [getattr(each, "facts", {}) | {"error": each.exc_info} for each in caplog.records if each.getMessage() == event]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


@contextmanager
def service(folder: Path, retain_days: float) -> Iterator[Running]:
    """One with a golden model whose network finds nothing."""

    def load(model: Path) -> Inspector:
        return from_content(bundle.read(model), lambda x: (np.zeros((len(x), *x.shape[2:])), np.zeros(len(x))))

    shelf = open_shelf({"part": Path(__file__).parent / "golden" / "models" / "auto"}, load)
    with (
        open_store(folder / "r.db") as store,
        serving(shelf, store, settings=Settings(retain_days=retain_days)) as running,
    ):
        yield running


def test_a_round_that_fails_is_not_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "HOUR", 0.05)
    caplog.set_level("INFO", "flawforge.serve")
    with service(tmp_path, 10.0) as running:
        store = running.service.store
        until(lambda: logged(caplog, "pruned"))

        def fail() -> None:
            raise OSError(errno.EIO, "Input/output error")

        once(store, "before_cursor_execute", lambda text: "max(verdicts.time)" in text, fail)
        until(lambda: logged(caplog, "not pruned"))
        put(store, time=NOW - 6 * DAY)
        old = put(store, time=NOW - 11 * DAY).id
        until(lambda: verdicts.get(store, old) is None)
        assert verdicts.count(store) == 1
    assert logged(caplog, "not pruned")[0]["error"][1].errno == errno.EIO


def test_a_clock_that_is_ahead_deletes_nothing_until_a_person_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All that was recorded seems older than it may be, also after the first results by that clock."""
    monkeypatch.setattr(app, "HOUR", 0.05)
    caplog.set_level("INFO", "flawforge.serve")
    with open_store(tmp_path / "r.db") as before_it:
        old = [put(before_it, time=NOW - (3650 - number) * DAY) for number in range(3)]
        not_judged.note(before_it, [missed(time=NOW - 3600 * DAY)])
    with service(tmp_path, 365.0) as running:
        store = running.service.store
        until(lambda: logged(caplog, "not pruned by age"))
        answer = running.judge(picture(1))
        assert answer.status_code == 200, answer.text
        before = len(logged(caplog, "not pruned by age"))
        until(lambda: len(logged(caplog, "not pruned by age")) > before + 1)
        assert verdicts.count(store) == 4
        assert not_judged.count(store) == 1
        reason = logged(caplog, "not pruned by age")[-1]["reason"]
        assert reason.startswith("Nothing was judged between 2")
        assert reason.endswith("set the clock, or delete with `flawforge results prune`.")
        done = retention.prune(store, before=NOW - 365 * DAY)
        assert (done.verdicts, done.not_judged) == (len(old), 1)


@pytest.mark.parametrize(
    ("days", "doubted"),
    [
        ([], False),
        ([1, 5], False),
        ([1, 9, 12, 30], False),  # the line went on
        ([11], True),
        ([11, 12, 13], True),
        ([0.5, 11], True),  # the first result by a clock that is wrong
        ([9, 12], False),
    ],
)
def test_a_clock_is_doubted_where_all_would_be_old_at_once(store: Store, days: list[float], doubted: bool) -> None:
    verdicts.record(store, [verdict(time=NOW - day * DAY) for day in days])
    assert bool(retention.clock_doubt(store, NOW - 10 * DAY, NOW)) is doubted


def test_the_last_prunings_speak_for_the_clock(store: Store) -> None:
    """The line stands still, the service goes on: the last results go when their time has come."""
    put(store, time=NOW - 11 * DAY)
    row = {"who": "service", "rule": "", "verdicts": 1, "reviews": 0, "done": True}
    with store.writing() as connection:
        for day in (10.5, 9.5):
            connection.execute(sa.insert(retention.PRUNINGS).values(time=NOW - day * DAY, **row))
    assert retention.clock_doubt(store, NOW - 10 * DAY, NOW) == ""
