"""The result store, on SQLite and on PostgreSQL: what is recorded stays, once and unchanged."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flawforge.store import exports, kept, not_judged, rates, retention, reviews, verdicts
from flawforge.store.opening import Store, Unreachable, open_store, open_to_upgrade, parse_url, upgrade
from flawforge.store.tables import METADATA, Moment
from flawforge.store.verdicts import Filter, KeyTaken, Verdict
from flawforge.types import ConfigError, DataError, Region

NOON = datetime.datetime(2026, 11, 26, 12, 0, 0, 250_000, tzinfo=datetime.UTC)
BERLIN = datetime.timezone(datetime.timedelta(hours=1))
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)


def verdict(**changes: Any) -> Verdict:
    """A verdict that is not recorded yet, with every field away from its default."""
    plain = Verdict(
        time=NOON,
        source="http",
        station="press 3",
        part_id="A-0815",
        picture="part.png",
        sha256="ab" * 32,
        height=10,
        width=20,
        model="washer",
        model_id="3f1c0a9b7e2d",
        manifest="cd" * 32,
        score=1.25,
        score_normalised=0.75,
        p_value=0.1,
        threshold=1.0,
        review_threshold=0.5,
        verdict="NG",
        valid=True,
        notes=("a note", "and another"),
        regions=(Region(1, 2, 3, 4, 12, 1.5), Region(5, 6, 1, 1, 1, 1.25)),
        seconds=0.125,
        kept="",
        overlay="",
        size=0,
        sampled=True,
        key=None,
    )
    return replace(plain, **changes)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


def put(store: Store, **changes: Any) -> Verdict:
    return verdicts.record(store, [verdict(**changes)])[0]


# ---- recording


def test_a_verdict_comes_back_as_it_was_recorded(store: Store) -> None:
    given_ = verdict(time=NOON.astimezone(BERLIN), score_normalised=None, review_threshold=None, key="k")
    recorded = verdicts.record(store, [given_])[0]
    assert recorded.id >= 1
    back = verdicts.get(store, recorded.id)
    assert back is not None
    assert replace(back, id=0) == given_  # times compare as points in time
    assert back.time.utcoffset() == datetime.timedelta(0)
    assert verdicts.get(store, recorded.id + 1) is None
    assert verdicts.with_key(store, "k") == back
    assert verdicts.with_key(store, "other") is None


def test_another_connection_sees_what_is_acknowledged(store_url: str, store: Store) -> None:
    recorded = put(store)
    with open_store(store_url, create=False) as other:
        assert verdicts.get(other, recorded.id) == recorded


def test_ids_grow_in_the_order_of_a_group(store: Store) -> None:
    group = verdicts.record(store, [verdict(part_id=str(number)) for number in range(5)])
    assert [each.part_id for each in group] == list("01234")
    assert [each.id for each in group] == sorted(each.id for each in group)


def test_one_key_is_one_row(store: Store) -> None:
    first = put(store, key="k")
    assert put(store, key="k", time=NOON + HOUR, score=2.0) == first
    assert verdicts.count(store) == 1
    assert len({each.id for each in verdicts.record(store, [verdict(key="twice"), verdict(key="twice")])}) == 1
    put(store), put(store)  # no key: two rows
    assert verdicts.count(store) == 4


def test_a_key_of_something_else_is_refused_and_costs_the_group(store: Store) -> None:
    first = put(store, key="k")
    others = ({"sha256": "ef" * 32}, {"model": "other"}, {"part_id": "B"}, {"part_id": ""}, {"station": "press 4"})
    for changes in others:
        with pytest.raises(
            KeyTaken, match=r"^The idempotency key 'k' was used for another (picture|model|part_id|station) \("
        ):
            verdicts.record(store, [verdict(), verdict(key="k", **changes)])
    assert verdicts.count(store) == 1
    assert put(store, key="k", station="renamed", source="watch") == first  # a watched file is known by path and bytes


def test_one_key_from_many_threads_is_one_row(store: Store) -> None:
    found, start = [], threading.Barrier(6)

    def send() -> None:
        start.wait()
        found.extend(put(store, key=key).id for key in ("a", "b", "c"))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 18
    assert len(set(found)) == verdicts.count(store) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"part_id": "x" * 201}, r"part_id has 201 characters, at most 200"),
        ({"part_id": "a\x00b"}, r"part_id 'a\\x00b' holds characters that cannot be printed"),
        ({"station": "a\nb"}, r"station 'a\\nb' holds"),
        ({"station": "\udce4"}, r"station '\\udce4' holds"),
        ({"verdict": "GOOD"}, r"verdict 'GOOD' was given; allowed are OK, REVIEW, NG"),
        ({"source": "fax"}, r"source 'fax' was given"),
        ({"sha256": "ab"}, r"SHA-256 'ab' was given"),
        ({"key": "k" * 201}, r"key has 201"),
    ],
)
def test_what_is_outside_its_bounds_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with open_store(tmp_path / "r.db") as store:
        with pytest.raises(ConfigError, match=sentence):
            put(store, **changes)
        assert verdicts.count(store) == 0


def test_a_time_without_offset_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db") as store, pytest.raises(Unreachable, match="has no offset from UTC"):
        put(store, time=NOON.replace(tzinfo=None))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdicts SET score = 0",
        "DELETE FROM verdicts",
        "UPDATE reviews SET note = 'x'",
        "DELETE FROM reviews",
    ],
)
def test_nothing_is_changed_or_deleted(store: Store, statement: str) -> None:
    recorded = put(store)
    said = reviews.add(store, recorded.id, "anna", "good")
    with pytest.raises(Unreachable, match="are append-only"), store.writing() as connection:
        connection.execute(sa.text(statement))
    assert verdicts.get(store, recorded.id) == recorded
    assert reviews.of(store, recorded.id) == (said,)


def test_nothing_is_replaced_on_sqlite(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db") as store:
        put(store, key="k")
    with sqlite3.connect(tmp_path / "r.db") as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute("INSERT OR REPLACE INTO verdicts SELECT * FROM verdicts")
    other.close()


@pytest.mark.line
def test_nothing_is_truncated_on_postgresql(postgresql: Any) -> None:
    with open_store(postgresql.url()) as store:
        put(store)
        with pytest.raises(Unreachable, match="are append-only"), store.writing() as connection:
            connection.execute(sa.text("TRUNCATE verdicts CASCADE"))
        assert verdicts.count(store) == 1


# ---- listing


def test_filters_against_python(store: Store) -> None:
    words = ("OK", "REVIEW", "NG")
    given_ = [
        verdict(
            time=NOON + number * HOUR,
            verdict=words[number % 3],
            station=f"s{number % 2}",
            part_id=f"p{number % 4}",
            model=f"m{number % 5}",
            sampled=number % 2 == 0,
            sha256=f"{number % 3:064x}",
            picture=("Left_1%.PNG", "right.png")[number % 2],
        )
        for number in range(12)
    ]
    recorded = verdicts.record(store, given_)
    looked_at = {recorded[3].id, recorded[8].id}
    for number in looked_at:
        reviews.add(store, number, "anna", "unsure")
    contradicted = {recorded[2].id, recorded[9].id}  # an NG part and an OK one
    for number, word in zip(sorted(contradicted), ("good", "defect"), strict=True):
        reviews.add(store, number, "anna", "unsure")
        reviews.add(store, number, "bert", word)
    looked_at |= contradicted
    cases: list[tuple[Filter, Any]] = [
        (Filter(), lambda v: True),
        (Filter(since=NOON + 4 * HOUR), lambda v: v.time >= NOON + 4 * HOUR),
        (Filter(until=NOON + 4 * HOUR), lambda v: v.time < NOON + 4 * HOUR),
        (Filter(since=(NOON + HOUR).astimezone(BERLIN)), lambda v: v.time >= NOON + HOUR),
        (Filter(verdicts=("NG", "OK")), lambda v: v.verdict != "REVIEW"),
        (Filter(station="s1", part_id="p1"), lambda v: v.station == "s1" and v.part_id == "p1"),
        (Filter(model="m2"), lambda v: v.model == "m2"),
        (Filter(model_id="none"), lambda v: False),
        (Filter(sha256=f"{1:064x}"), lambda v: v.sha256 == f"{1:064x}"),
        (Filter(reviewed=True), lambda v: v.id in looked_at),
        (Filter(reviewed=False), lambda v: v.id not in looked_at),
        (Filter(sampled=True), lambda v: v.sampled),
        (Filter(sampled=False, verdicts=("NG",)), lambda v: not v.sampled and v.verdict == "NG"),
        (Filter(station="' OR 1=1 --"), lambda v: False),
        (Filter(named="P1"), lambda v: v.part_id == "p1"),
        (Filter(named="left_"), lambda v: v.picture == "Left_1%.PNG"),
        (Filter(named="1%"), lambda v: v.picture == "Left_1%.PNG"),
        (Filter(named="%"), lambda v: v.picture == "Left_1%.PNG"),
        (Filter(named="t.p"), lambda v: v.picture == "right.png"),
        (Filter(said="unsure"), lambda v: v.id in looked_at - contradicted),
        (Filter(said="good"), lambda v: v.id == recorded[2].id),
        (Filter(said="against"), lambda v: v.id in contradicted),
        (Filter(said="against", verdicts=("OK",)), lambda v: v.id == recorded[9].id),
    ]
    for which, holds in cases:
        expected = [each for each in reversed(recorded) if holds(each)]
        assert list(verdicts.listed(store, which, limit=500).verdicts) == expected, which
        assert list(verdicts.each(store, which)) == expected
        assert verdicts.count(store, which) == len(expected)


def test_new_verdicts_do_not_move_the_pages_that_follow(store: Store) -> None:
    old = [put(store, part_id=str(number)).id for number in range(7)]
    page = verdicts.listed(store, limit=3)
    walked, new = [each.id for each in page.verdicts], []
    while page.cursor is not None:
        new.append(put(store).id)
        page = verdicts.listed(store, cursor=page.cursor, limit=3)
        walked += [each.id for each in page.verdicts]
    assert walked == old[::-1]
    assert len(new) == 2


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 12), limit=st.integers(1, 13))
def test_pages_hold_every_verdict_once(count: int, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "r.db") as store:
        recorded = verdicts.record(store, [verdict() for _ in range(count)])
        walked, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = verdicts.listed(store, cursor=cursor, limit=limit)
            walked += page.verdicts
            cursor, pages = page.cursor, pages + 1
        assert walked == list(reversed(recorded))
        assert pages == max(1, -(-count // limit))


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1; DROP TABLE verdicts", "9" * 19, "²"])
def test_a_cursor_is_one_of_ours(tmp_path: Path, cursor: str) -> None:
    with open_store(tmp_path / "r.db") as store, pytest.raises(ConfigError, match="give the cursor of the page before"):
        verdicts.listed(store, cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 501])
def test_a_page_has_a_size(tmp_path: Path, limit: int) -> None:
    with open_store(tmp_path / "r.db") as store, pytest.raises(ConfigError, match="allowed are 1 to 500"):
        verdicts.listed(store, limit=limit)


def test_the_sample_knows_nothing_of_the_score_and_is_as_large_as_asked() -> None:
    drawn = [verdicts.sampled(f"{number:064x}", 50) for number in range(20_000)]
    assert abs(sum(drawn) - 400) < 4 * (400 * 0.98) ** 0.5
    assert drawn == [verdicts.sampled(f"{number:064x}", 50) for number in range(20_000)]
    assert drawn != [verdicts.sampled(f"{number:064x}", 50, seed=1) for number in range(20_000)]
    assert not any(verdicts.sampled(f"{number:064x}", 0) for number in range(100))
    assert all(verdicts.sampled(f"{number:064x}", 1) for number in range(100))


# ---- reviews


def png(array: Any, **how: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG", **how)
    return data.getvalue()


def test_a_correction_is_another_review_and_the_newest_counts(store: Store) -> None:
    one, two = put(store), put(store)
    first = reviews.add(store, one.id, "anna", "good", note="fine\nto me")
    second = reviews.add(store, one.id, "bert", "defect", boxes=[reviews.Box(1, 2, 3, 4)])
    assert reviews.of(store, one.id) == (second, first)
    assert reviews.latest(store, [one.id, two.id]) == {one.id: second}
    assert reviews.latest(store, []) == {}
    assert list(reviews.reviewed(store)) == [(one, second)]
    assert list(reviews.reviewed(store, words=("good",))) == []
    assert second.as_dict()["boxes"] == [{"x": 1, "y": 2, "w": 3, "h": 4}]


def test_who_has_not_seen_the_newest_review_does_not_replace_it(store: Store) -> None:
    number = put(store).id
    first = reviews.add(store, number, "anna", "defect", seen=0)
    with pytest.raises(reviews.Overtaken, match="anna has reviewed this part as defect in the meantime") as refused:
        reviews.add(store, number, "bert", "good", seen=0)
    assert refused.value.review == first
    assert reviews.of(store, number) == (first,)
    second = reviews.add(store, number, "bert", "good", seen=first.id)
    assert reviews.of(store, number) == (second, first)
    assert reviews.add(store, number, "carl", "unsure").id > second.id  # who does not say what they know is not asked


def test_of_two_reviewers_at_once_one_is_told(store_url: str) -> None:
    with open_store(store_url) as store:
        number = put(store).id
        start, said = threading.Barrier(8), list[str]()

        def say(who: str) -> None:
            start.wait()
            try:
                said.append(reviews.add(store, number, who, "good", seen=0).who)
            except reviews.Overtaken:
                said.append("")

        threads = [threading.Thread(target=say, args=(str(each),)) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(said) == 8
        assert [who for who in said if who] == [each.who for each in reviews.of(store, number)]
        assert sum(map(bool, said)) == 1


def test_where_a_defect_lies(store: Store) -> None:
    where = np.zeros((10, 20), np.uint8)
    where[4, 5] = 255
    number = put(store).id
    said = reviews.add(store, number, "anna", "defect", boxes=[reviews.Box(18, 9, 2, 1)], mask=png(where))
    marked = reviews.of(store, number)[0].marked((10, 20))
    assert said.mask is not None
    assert marked is not None
    assert sorted(zip(*np.nonzero(marked), strict=True)) == [(4, 5), (9, 18), (9, 19)]
    assert reviews.add(store, number, "anna", "defect").marked((10, 20)) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_mask_of_one_opaque_white_pixel_is_one_in_every_mode(tmp_path: Path, mode: str) -> None:
    where = np.zeros((10, 20), np.uint8)
    where[4, 5] = 255
    with open_store(tmp_path / "r.db") as store:
        mask = io.BytesIO()
        Image.fromarray(where).convert(mode).save(mask, "PNG")
        said = reviews.add(store, put(store).id, "anna", "defect", mask=mask.getvalue())
    np.testing.assert_array_equal(said.marked((10, 20)), where > 0)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"verdict": "OK"}, "allowed are good, defect, unsure"),
        ({"boxes": [reviews.Box(0, 0, 21, 1)]}, r"leaves the picture of 20 x 10"),
        ({"boxes": [reviews.Box(-1, 0, 2, 1)]}, "leaves the picture"),
        ({"boxes": [reviews.Box(0, 0, 0, 1)]}, "leaves the picture"),
        ({"boxes": [reviews.Box(0, 0, 1, 1)] * 101}, "101 boxes were given"),
        ({"mask": b"GIF89a"}, "no PNG"),
        ({"mask": b"\x89PNG\r\n\x1a\n"}, "cannot be read"),
        ({"mask": png(np.zeros((20, 10), np.uint8))}, r"20 x 10 pixels \(h x w\) and the picture 10 x 20"),
        (
            {"mask": png(np.zeros((10, 20), np.uint8))},
            "marks nothing, its highest value is 0; paint at least one pixel above 127",
        ),
        ({"mask": png(np.ones((10, 20), np.uint8))}, "marks nothing, its highest value is 1;"),
        ({"mask": png(np.full((10, 20), 127, np.uint8)), "boxes": [reviews.Box(0, 0, 1, 1)]}, "marks nothing"),
        ({"mask": png(np.full((10, 20, 4), (255, 255, 255, 0), np.uint8))}, "has transparent pixels; give an opaque one"),
        ({"mask": png(np.full((10, 20, 4), (255, 255, 255, 254), np.uint8))}, "has transparent pixels"),
        ({"mask": png(np.full((10, 20), 200, np.uint8), transparency=200)}, "has transparent pixels"),
        ({"mask": png(np.full((10, 20), 200, np.uint16))}, "has 16 bits a pixel"),
        ({"verdict": "good", "boxes": [reviews.Box(0, 0, 1, 1)]}, "good part was given a place"),
        ({"verdict": "good", "mask": png(np.zeros((10, 20), np.uint8))}, "good part was given a place"),
        ({"note": "x" * 2001}, "note has 2001"),
        ({"note": "\x1b[31m"}, "cannot be printed"),
        ({"who": "a\rb"}, "cannot be printed"),
    ],
)
def test_a_review_that_cannot_be_is_refused(tmp_path: Path, how: dict[str, Any], sentence: str) -> None:
    with open_store(tmp_path / "r.db") as store:
        number = put(store).id
        given_ = {"who": "anna", "verdict": "defect"} | how
        with pytest.raises(ConfigError, match=sentence):
            reviews.add(store, number, **given_)
        assert reviews.of(store, number) == ()


def test_a_review_needs_a_verdict(store: Store) -> None:
    with pytest.raises(DataError, match="There is no result 99 to review"):
        reviews.add(store, 99, "anna", "good")


def test_the_queue_holds_rejects_and_a_sample_until_somebody_looked(store: Store) -> None:
    reject = put(store, verdict="NG", sampled=False)
    put(store, verdict="OK", sampled=False)
    doubt = put(store, verdict="REVIEW", sampled=False, station="s2")
    chance = put(store, verdict="OK", sampled=True)
    assert reviews.queue(store) == (reject, doubt, chance)
    assert reviews.queue(store, limit=1) == (reject,)
    assert reviews.queue(store, station="s2") == (doubt,)
    reviews.add(store, reject.id, "anna", "unsure")
    assert reviews.queue(store) == (doubt, chance)


# ---- rates


def test_rates_against_counts_by_hand(store: Store) -> None:
    midnight = NOON.replace(hour=0, microsecond=0)
    rows = [  # time, verdict, valid, sampled, reviews
        (midnight, "OK", True, True, ["good"]),
        (midnight + HOUR, "OK", True, False, ["good", "defect"]),
        (midnight + HOUR, "NG", False, True, ["good"]),
        (midnight - 0.001 * HOUR, "NG", True, False, ["unsure", "good"]),
        (midnight - DAY + 0.5 * HOUR, "REVIEW", True, False, []),
    ]
    for time, word, valid, sampled, said in rows:
        number = put(store, time=time, verdict=word, valid=valid, sampled=sampled).id
        for each in said:
            reviews.add(store, number, "anna", each)
    yesterday, today = rates.rates(store)
    assert today == rates.Rates(midnight, 3, 2, 0, 1, 1, 3, 1, 1, 2, 1)
    assert yesterday == rates.Rates(midnight - DAY, 2, 0, 1, 1, 0, 1, 1, 0, 0, 0)
    assert today.reject_rate == 1 / 3
    assert [part.start for part in rates.rates(store, step="hour")] == [
        midnight - DAY,
        midnight - HOUR,
        midnight,
        midnight + HOUR,
    ]
    assert rates.totals([yesterday, today])["count"] == 5
    assert rates.rates(store, Filter(station="nowhere")) == ()
    with pytest.raises(ConfigError, match="allowed are hour, day"):
        rates.rates(store, step="week")


# ---- retention


def aged(path: Path, seconds: float = 2 * kept.FRESH) -> None:
    """Have been kept so long ago."""
    os.utime(path, times=(datetime.datetime.now().timestamp() - seconds,) * 2)


def keep(store: Store, data: bytes, **changes: Any) -> Verdict:
    """A verdict with a picture that was kept a while ago."""
    assert store.files is not None
    sha256 = kept.sha256_of(data)
    name = kept.keep_picture(store.files, data, sha256)
    aged(store.files / name)
    return put(store, sha256=sha256, kept=name, size=len(data), **changes)


def test_pruning_by_age_leaves_the_reviewed_and_shared_files(store_url: str, tmp_path: Path) -> None:
    with open_store(store_url, tmp_path / "files") as store:
        assert store.files is not None
        old = keep(store, b"old", time=NOON - 3 * DAY)
        reviewed = keep(store, b"reviewed", time=NOON - 2 * DAY)
        shared = keep(store, b"shared", time=NOON - 2 * DAY)
        again = keep(store, b"shared", time=NOON)
        reviews.add(store, reviewed.id, "anna", "good")
        done = retention.prune(store, before=NOON - DAY, who="anna")
        assert done == retention.Pruned(verdicts=2, reviews=0, files=1, size=3, reviewed_left=1)
        assert list(verdicts.each(store)) == [again, reviewed]
        assert kept.kept_path(store.files, old.kept) is None
        assert kept.kept_path(store.files, shared.kept) is not None
        done = retention.prune(store, before=NOON - DAY, reviewed=True)
        assert done == retention.Pruned(verdicts=1, reviews=1, files=1, size=8, reviewed_left=0)
        assert reviews.of(store, reviewed.id) == ()
        with store.reading() as connection:
            noted = connection.execute(sa.text("SELECT who, verdicts, reviews, done FROM prunings ORDER BY id")).all()
        assert [tuple(row) for row in noted] == [("anna", 2, 0, True), ("", 1, 1, True)]
        assert put(store).id > again.id  # an id is never given twice


def test_pruning_by_age_deletes_records_of_pictures_that_were_not_judged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 2)
    not_judged.note(store, [missed(time=NOON - DAY * day) for day in range(5)])
    put(store, time=NOON - 9 * DAY)
    assert retention.prune(store, most_bytes=0).not_judged == 0  # they keep no file
    done = retention.prune(store, before=NOON - DAY, who="anna")
    assert (done.verdicts, done.not_judged) == (1, 3)
    assert "3 records of pictures that were not judged" in done.lines()[0]
    assert [each.time for each in not_judged.listed(store).pictures] == [NOON - DAY, NOON]
    with store.reading() as connection:
        noted = connection.execute(sa.text("SELECT sum(verdicts), sum(not_judged), min(who) FROM prunings")).one()
    assert tuple(noted) == (1, 3, "anna")


def test_pruning_by_size_takes_the_oldest_first(store_url: str, tmp_path: Path) -> None:
    with open_store(store_url, tmp_path / "files") as store:
        recorded = [keep(store, bytes([number]) * 10) for number in range(5)]
        small = put(store)  # keeps no file, so deleting it would free nothing
        reviews.add(store, recorded[0].id, "anna", "defect")
        done = retention.prune(store, most_bytes=25)
        assert (done.verdicts, done.files, done.size, done.reviewed_left) == (3, 3, 30, 0)
        assert list(verdicts.each(store)) == [small, recorded[4], recorded[0]]
        assert retention.prune(store, most_bytes=25).verdicts == 0
        done = retention.prune(store, most_bytes=0)
        assert (done.verdicts, done.reviewed_left) == (1, 1)


def test_an_overlay_that_a_younger_verdict_names_stays(store_url: str, tmp_path: Path) -> None:
    with open_store(store_url, tmp_path / "files") as store:
        assert store.files is not None
        name = kept.keep_overlay(store.files, b"overlay", "a" * 64, "b" * 64)
        put(store, overlay=name, time=NOON - 2 * DAY)
        younger = put(store, overlay=name, time=NOON)
        done = retention.prune(store, before=NOON - DAY)
        assert (done.verdicts, done.files) == (1, 0)
        assert kept.kept_path(store.files, younger.overlay) is not None


def test_pruning_in_steps_deletes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 3)
    with open_store(tmp_path / "r.db") as store:
        verdicts.record(store, [verdict() for _ in range(8)])
        assert retention.prune(store, before=NOON + DAY).verdicts == 8
        with pytest.raises(ConfigError, match="No rule was given"):
            retention.prune(store)


def test_after_a_pruning_nothing_else_may_be_deleted(store: Store) -> None:
    put(store, time=NOON - 2 * DAY), put(store)
    retention.prune(store, before=NOON - DAY)
    with pytest.raises(Unreachable, match="append-only"), store.writing() as connection:
        connection.execute(sa.text("DELETE FROM verdicts"))
    assert verdicts.count(store) == 1


# ---- pictures that were not judged


def missed(**changes: Any) -> not_judged.NotJudged:
    plain = not_judged.NotJudged(NOON, "http", "press 3", "A-0815", "part.png", "ab" * 32, "washer", "part.png is no PNG")
    return replace(plain, **changes)


def test_a_picture_that_was_not_judged_is_found_again(store: Store) -> None:
    given_ = [missed(key="k"), missed(sha256="", part_id="", time=NOON.astimezone(BERLIN)), missed(key="k", reason="other")]
    noted = not_judged.note(store, given_)
    assert [bool(each.id) for each in noted] == [True, True, False]  # one key is one row
    found = not_judged.listed(store).pictures
    assert [replace(each, id=0) for each in found] == [given_[1], given_[0]]
    assert not_judged.count(store) == 2
    assert verdicts.count(store) == 0
    assert found[1].as_dict()["time"] == NOON.isoformat()
    assert "key" not in found[1].as_dict()


def test_pictures_that_were_not_judged_are_filtered_and_paged(store: Store) -> None:
    names = ["a.png", "b%.png", "c.png"]
    not_judged.note(store, [missed(picture=name, part_id="", time=NOON + DAY * i) for i, name in enumerate(names)])
    pictures = lambda **how: [each.picture for each in not_judged.listed(store, Filter(**how)).pictures]  # noqa: E731
    assert pictures() == names[::-1]
    assert pictures(named="B%") == ["b%.png"]
    assert pictures(since=NOON + DAY, until=NOON + 2 * DAY) == ["b%.png"]
    assert pictures(station="press 4") == pictures(model="none") == pictures(part_id="A-0815") == []
    assert pictures(verdicts=("NG",), reviewed=True, sampled=True) == names[::-1]  # of verdicts alone
    assert not_judged.count(store, Filter(named="c.")) == 1
    page = not_judged.listed(store, limit=2)
    not_judged.note(store, [missed(picture="new")])
    assert [each.picture for each in not_judged.listed(store, cursor=page.cursor, limit=2).pictures] == ["a.png"]
    assert not_judged.listed(store, cursor=page.cursor, limit=2).cursor is None


@pytest.mark.parametrize("statement", ["UPDATE not_judged SET reason = ''", "DELETE FROM not_judged"])
def test_what_was_not_judged_is_neither_changed_nor_deleted(store: Store, statement: str) -> None:
    not_judged.note(store, [missed()])
    with pytest.raises(Unreachable, match="not_judged is append-only"), store.writing() as connection:
        connection.execute(sa.text(statement))
    assert not_judged.count(store) == 1


def test_what_was_not_judged_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    monkeypatch.setattr(exports, "MOST", 2)
    with open_store(tmp_path / "r.db") as store:
        not_judged.note(store, [missed(picture=f"={index}") for index in range(5)])
        assert exports.export_not_judged(store, tmp_path / "n.csv", Filter(station="press 3")) == 5
        assert exports.export_not_judged(store, tmp_path / "n.parquet") == 5
    with (tmp_path / "n.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [f"'={index}" for index in (4, 3, 2, 1, 0)]  # no formula
    assert rows[0]["reason"] == "part.png is no PNG"
    table = pyarrow.parquet.read_table(tmp_path / "n.parquet").to_pylist()
    assert [(row["id"], row["picture"]) for row in table] == [(index + 1, f"={index}") for index in (4, 3, 2, 1, 0)]


# ---- kept files


def test_a_kept_file_has_a_name_of_ours(tmp_path: Path) -> None:
    data = b"\x89PNG\r\n\x1a\nrest"
    sha256 = kept.sha256_of(data)
    name = kept.keep_picture(tmp_path, data, sha256)
    assert name == f"pictures/{sha256[:2]}/{sha256}.png"
    assert kept.keep_picture(tmp_path, data, sha256) == name
    assert (tmp_path / name).read_bytes() == data
    assert kept.keep_overlay(tmp_path, data, sha256, "ef" * 32) == f"overlays/{sha256[:2]}/{sha256}-efefefefefef.png"
    assert kept.kept_path(tmp_path, name) == tmp_path / name
    assert kept.kept_path(tmp_path, "") is None
    assert kept.kept_path(None, name) is None
    for trick in (
        "../../etc/passwd",
        f"pictures/../{sha256}.png",
        f"{name}\n",
        f"pictures/ab/{'A' * 64}.png",
    ):
        with pytest.raises(ConfigError, match="never writes"):
            kept.kept_path(tmp_path, trick)


# ---- export


def test_a_csv_has_every_verdict_and_no_formula(store: Store, tmp_path: Path) -> None:
    put(store, part_id="=HYPERLINK(1)", picture="ä;b.png")
    number = put(store, regions=(), notes=()).id
    reviews.add(store, number, "anna", "good", note="fine")
    assert exports.export(store, tmp_path / "out.csv") == 2
    assert "".join(exports.csv_text(store)) == (tmp_path / "out.csv").read_bytes().decode()
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        newest, oldest = csv.DictReader(file)
    assert tuple(oldest) == exports.COLUMNS
    assert oldest["part_id"] == "'=HYPERLINK(1)"
    assert (oldest["x"], oldest["w"], oldest["region_count"], oldest["review"]) == ("1", "3", "2", "")
    assert (newest["x"], newest["review"], newest["reviewed_by"], newest["review_note"]) == ("", "good", "anna", "fine")
    assert float(newest["score"]) == 1.25
    assert datetime.datetime.fromisoformat(newest["time"]) == NOON
    assert exports.export(store, tmp_path / "some.csv", Filter(reviewed=True)) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "csv" in path.name) == ["out.csv", "some.csv"]


def test_a_parquet_file_has_types_and_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(exports, "MOST", 2)
    with open_store(tmp_path / "r.db") as store:
        recorded = verdicts.record(store, [verdict(score=float(number), score_normalised=None) for number in range(5)])
        assert exports.export(store, tmp_path / "out.parquet") == 5
        rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
        assert [row["id"] for row in rows] == [each.id for each in reversed(recorded)]
        assert [row["score"] for row in rows] == [4.0, 3.0, 2.0, 1.0, 0.0]
        assert (rows[0]["valid"], rows[0]["score_normalised"], rows[0]["review"]) == (True, None, None)
        retention.prune(store, before=NOON + DAY)
        assert exports.export(store, tmp_path / "none.parquet") == 0
        assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_an_export_replaces_nothing_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "r.db") as store:
        put(store)
        with pytest.raises(ConfigError, match=r"ends in \.txt"):
            exports.export(store, tmp_path / "out.txt")
        (tmp_path / "out.csv").write_text("mine")
        with pytest.raises(ConfigError, match="exists already"):
            exports.export(store, tmp_path / "out.csv")
        with pytest.raises(DataError, match="could not be written"):
            exports.export(store, tmp_path / "no folder" / "out.csv")
        monkeypatch.setattr(exports, "row", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exports.export(store, tmp_path / "new.csv")
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]


# ---- opening


def test_the_migrations_make_what_the_tables_say(store: Store) -> None:
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_opening_twice_and_upgrading_change_nothing(store_url: str, store: Store) -> None:
    recorded = put(store)
    assert upgrade(store) == ("0002", "0002")
    with open_store(store_url) as again:
        assert list(verdicts.each(again)) == [recorded]


@pytest.mark.line
def test_many_processes_may_open_an_empty_store_at_once(store_url: str) -> None:
    code = f"from flawforge.store.opening import open_store\nopen_store({store_url!r}).close()"
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [each.communicate(timeout=120)[1] for each in running]
    assert [each.returncode for each in running] == [0, 0, 0], said


def test_a_newer_schema_and_other_tables_are_refused(store_url: str, store: Store) -> None:
    with store.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match="holds schema 9999 of a newer flawforge; update flawforge"):
        open_store(store_url)
    with store.writing() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    with pytest.raises(DataError, match="holds tables of another program"):
        open_store(store_url)


@pytest.mark.parametrize("tables", [["orders"], ["alembic_version", "users"], ["reviews"], list("abcde")])
def test_another_programs_file_is_refused_and_stays_as_it_is(tmp_path: Path, tables: list[str]) -> None:
    path = tmp_path / "erp.db"
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        for name in tables:
            other.execute(f"CREATE TABLE {name} (version_num TEXT)")
    before = path.read_bytes()
    for opening in (open_store, partial(open_store, create=False), lambda path: upgrade(open_to_upgrade(path))):
        with pytest.raises(DataError, match=rf"erp\.db holds tables of another program \({tables[0]}") as caught:
            opening(path)
        assert not isinstance(caught.value, Unreachable)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["erp.db"]


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "r.db").touch()
    with open_store(tmp_path / "r.db") as store:
        put(store)
    with open_store(tmp_path / "r.db") as store:
        assert verdicts.count(store) == 1


def test_an_older_schema_asks_for_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flawforge.store import opening

    open_store(tmp_path / "r.db").close()
    scripts = opening._migrations()
    monkeypatch.setattr(type(scripts), "get_current_head", lambda self: "0003")
    with pytest.raises(DataError, match="has schema 0002 and this flawforge needs 0003; back it up"):
        open_store(tmp_path / "r.db")


def test_a_store_of_the_first_schema_is_upgraded_with_all_its_rows(store_url: str) -> None:
    """Made by the first migration alone: refused, upgraded by command, and as one that is made new."""
    from flawforge.store import opening

    first = Store(opening._engine(parse_url(store_url)), None, store_url)
    with first.writing() as connection:
        steps = lambda revision, _: opening._migrations()._upgrade_revs("0001", revision)  # noqa: E731
        environment = EnvironmentContext(Config(), opening._migrations(), fn=steps)
        with environment:
            environment.configure(connection=connection, target_metadata=METADATA)
            environment.run_migrations()
    recorded = put(first)
    with first.writing() as connection:
        old = "INSERT INTO prunings (time, who, rule, verdicts, reviews, done) VALUES (:now, '', '', 1, 0, true)"
        connection.execute(sa.text(old), {"now": NOON})
    first.close()
    with pytest.raises(DataError, match="has schema 0001 and this flawforge needs 0002"):
        open_store(store_url)
    with opening.open_to_upgrade(store_url) as old_store:
        assert upgrade(old_store) == ("0001", "0002")
    with open_store(store_url, create=False) as store:
        assert list(verdicts.each(store)) == [recorded]
        with store.reading() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
            assert connection.execute(sa.text("SELECT verdicts, not_judged FROM prunings")).all() == [(1, 0)]


def test_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no result store"):
        open_store(tmp_path / "r.db", create=False)
    assert not (tmp_path / "r.db").exists()
    (tmp_path / "r.db").write_bytes(b"no database" * 500)
    with pytest.raises(Unreachable, match="file is not a database"):
        open_store(tmp_path / "r.db")
    sqlite3.connect(tmp_path / "empty.db").close()
    with pytest.raises(DataError, match="no result store"):
        open_store(tmp_path / "empty.db", create=False)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://u:secret@h/n", "kind mysql"),
        ("sqlite://", "without a file"),
        ("sqlite:///:memory:", "without a file"),
        ("postgresql://u:secret@h:port/n", "no database URL"),
        ("://", "no database URL"),
    ],
)
def test_a_url_of_another_kind_is_refused_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        parse_url(url)
    assert "secret" not in str(error.value)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(Unreachable) as error:
        open_store("postgresql://u:secret@127.0.0.1:1/n")
    assert "secret" not in str(error.value)
    assert "u:***@127.0.0.1:1/n" in str(error.value)


def test_settings_of_sqlite(tmp_path: Path) -> None:
    """Without them a row could be lost that was acknowledged, or readers would wait."""
    with open_store(tmp_path / "r.db") as store, store.reading() as connection:
        for name, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}.items():
            assert connection.execute(sa.text(f"PRAGMA {name}")).scalar_one() == value
    assert store.files == tmp_path / "r-files"


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db") as store:
        put(store)
        with store.writing():
            assert verdicts.count(store) == 1


def test_moments_are_utc_text_on_sqlite(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db") as store:
        put(store, time=NOON.astimezone(BERLIN))
    with sqlite3.connect(tmp_path / "r.db") as other:
        assert other.execute("SELECT time FROM verdicts").fetchone() == ("2026-11-26 12:00:00.250000",)
    other.close()
    assert Moment().process_bind_param(None, sa.create_engine("sqlite://").dialect) is None


# ---- faults


FULL = """
import sqlite3, sys
from flawforge.store.opening import open_store
from flawforge.store import verdicts
sys.path.insert(0, {tests!r})
from test_store import verdict
with open_store({db!r}) as store:
    for number in range(10 ** 6):
        print(verdicts.record(store, [verdict(part_id=str(number))])[0].id, flush=True)
"""


@pytest.mark.line
def test_a_killed_process_loses_no_acknowledged_row(store_url: str) -> None:
    open_store(store_url).close()
    code = FULL.format(tests=str(Path(__file__).parent), db=store_url)
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    said = [running.stdout.readline() for _ in range(20)]
    running.kill()
    said += running.stdout.read().splitlines()
    running.stdout.close()
    running.wait()
    acknowledged = {int(line) for line in said if line.strip()}
    with open_store(store_url, create=False) as store:
        ids = [each.id for each in verdicts.each(store)]
    assert acknowledged <= set(ids)
    assert len(ids) == len(set(ids))
    assert len(set(ids) - acknowledged) <= 1  # the one that was not said yet


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db") as store:
        sa.event.listen(store.engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 40"))
        recorded = []
        with pytest.raises(Unreachable, match=r"\(database or disk is full\); nothing was recorded"):  # noqa: PT012
            for _ in range(1000):
                recorded.append(put(store, notes=("x" * 500,)))
        assert list(verdicts.each(store)) == recorded[::-1]
        assert recorded


@pytest.mark.line
def test_a_database_that_went_and_came_back(postgresql: Any) -> None:
    with open_store(postgresql.url()) as store:
        first = put(store)
        postgresql.stop()
        try:
            for _ in range(2):
                with pytest.raises(Unreachable, match="nothing was recorded"):
                    put(store)
        finally:
            postgresql.start()
        second = put(store)
        assert list(verdicts.each(store)) == [second, first]
