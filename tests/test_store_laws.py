"""The result store against plain Python: random lines of parts, their reviews, and what the store says of them."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flawforge.store import exports, fair, labelled, rates, retention, reviews, verdicts
from flawforge.store.kept import keep_picture, kept_path, sha256_of
from flawforge.store.opening import Store, open_store
from flawforge.store.verdicts import Filter, Verdict
from flawforge.types import ConfigError, DataError
from test_store import DAY, HOUR, NOON, aged, verdict

STATIONS = itertools.count()
FAR = NOON + 1000 * DAY


@dataclass(frozen=True)
class Part:
    """A part on the line: how it is judged, and the reviews of it, the oldest first."""

    word: str
    sampled: bool
    picture: int
    hour: int
    said: tuple[str, ...]
    valid: bool = True


@dataclass(frozen=True)
class Recorded:
    """What is in the store: verdicts in the order of their ids, and of each the reviews, the oldest first."""

    which: Filter
    verdicts: list[Verdict]
    said: dict[int, list[reviews.Review]] = field(default_factory=dict)

    def newest(self, number: int) -> reviews.Review | None:
        return max(self.said.get(number, []), key=lambda review: review.id, default=None)


PARTS = st.lists(
    st.builds(
        Part,
        word=st.sampled_from(verdicts.WORDS),
        sampled=st.booleans(),
        picture=st.integers(0, 7),
        hour=st.integers(-30, 30),
        said=st.lists(st.sampled_from(["good", "good", "defect", "unsure"]), max_size=2).map(tuple),
        valid=st.booleans(),
    ),
    max_size=14,
)
FEW = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples; each has a station of its own."""
    with open_store(tmp_path_factory.mktemp("laws") / "r.db") as opened:
        yield opened


def recorded(store: Store, parts: list[Part]) -> Recorded:
    """The parts at a new station, each with a kept picture; first every part's first review, then the corrections."""
    station = f"station {next(STATIONS)}"
    assert store.files is not None
    given_ = []
    for part in parts:
        data = bytes([part.picture]) * (10 + part.picture)
        name = keep_picture(store.files, data, sha256_of(data))
        aged(store.files / name)
        given_.append(
            verdict(
                station=station,
                verdict=part.word,
                sampled=part.sampled,
                sha256=sha256_of(data),
                time=NOON + part.hour * HOUR,
                valid=part.valid,
                kept=name,
                size=len(data),
            )
        )
    found = Recorded(Filter(station=station), list(verdicts.record(store, given_)))
    for turn in range(2):
        for part, each in zip(parts, found.verdicts, strict=True):
            if turn < len(part.said):
                found.said.setdefault(each.id, []).append(reviews.add(store, each.id, "anna", part.said[turn]))
    return found


@FEW
@given(parts=PARTS)
def test_the_newest_review_counts_everywhere(store: Store, parts: list[Part]) -> None:
    line = recorded(store, parts)
    newest = {each.id: line.newest(each.id) for each in line.verdicts}
    with_one = [(each, newest[each.id]) for each in line.verdicts if newest[each.id] is not None]
    assert list(reviews.reviewed(store, line.which)) == with_one
    for word in reviews.WORDS:
        expected = [pair for pair in with_one if pair[1] is not None and pair[1].verdict == word]
        assert list(reviews.reviewed(store, line.which, [word])) == expected
    assert reviews.latest(store, list(newest)) == {number: review for number, review in newest.items() if review is not None}
    for each in line.verdicts:
        assert list(reviews.of(store, each.id)) == line.said.get(each.id, [])[::-1]


@FEW
@given(parts=PARTS)
def test_the_queue_is_what_waits(store: Store, parts: list[Part]) -> None:
    line = recorded(store, parts)
    waits = [each for each in line.verdicts if not line.said.get(each.id) and (each.verdict != "OK" or each.sampled)]
    assert list(reviews.queue(store, station=line.which.station)) == waits
    assert list(reviews.queue(store, station=line.which.station, limit=2)) == waits[:2]


@FEW
@given(parts=PARTS, step=st.sampled_from(["hour", "day"]))
def test_rates_are_counts(store: Store, parts: list[Part], step: str) -> None:
    line = recorded(store, parts)
    counts: dict[datetime.datetime, Counter[str]] = defaultdict(Counter)
    for each in line.verdicts:
        start = each.time.replace(minute=0, second=0, microsecond=0)
        start = start if step == "hour" else start.replace(hour=0)
        review = line.newest(each.id)
        said = review.verdict if review is not None else ""
        holds = {
            "count": True,
            each.verdict.lower(): True,
            "unlike": not each.valid,
            "reviewed": bool(said),
            "false_alarms": each.verdict == "NG" and said == "good",
            "escapes": each.verdict == "OK" and said == "defect",
            "sampled_good": each.sampled and said == "good",
            "sampled_alarms": each.sampled and said == "good" and each.verdict == "NG",
        }
        counts[start].update(name for name, true in holds.items() if true)
    found = rates.rates(store, line.which, step=step)
    assert [part.start for part in found] == sorted(counts)
    for part in found:
        assert {name: getattr(part, name) for name in rates.COUNTS} == {n: counts[part.start][n] for n in rates.COUNTS}
    assert rates.totals(found) == {name: sum(each[name] for each in counts.values()) for name in rates.COUNTS}


@FEW
@given(parts=PARTS)
@example(parts=[Part("OK", True, 0, 0, ("good",)), Part("NG", True, 0, 1, ("defect",))])
@example(parts=[Part("OK", True, number, 0, ("good",)) for number in range(3)] + [Part("OK", True, 4, 0, ())])
def test_a_fair_sample_by_its_rules(store: Store, parts: list[Part]) -> None:
    line = recorded(store, parts)
    chance = [each for each in line.verdicts if each.sampled]
    unbroken = list(itertools.takewhile(lambda each: line.newest(each.id) is not None, chance))
    by_picture: dict[str, tuple[int, str, Verdict]] = {}  # the last word on each picture
    for each in unbroken:
        review = line.newest(each.id)
        assert review is not None
        by_picture[each.sha256] = max(
            by_picture.get(each.sha256, (0, "", each)), (review.id, review.verdict, each), key=lambda row: row[0]
        )
    words = Counter(word for _, word, _ in by_picture.values())
    good = sorted((each for _, word, each in by_picture.values() if word == "good"), key=lambda each: each.id)
    picked = sum(
        review is not None and review.verdict == "good"
        for each in line.verdicts
        if not each.sampled
        for review in [line.newest(each.id)]
    )
    if words["unsure"] > fair.UNSURE_MOST * sum(words.values()):
        with pytest.raises(DataError, match=r"are unsure, at most 10% may be"):
            fair.fair_sample(store, line.which)
    elif not good:
        waits = len(unbroken) < len(chance)
        first = f"Result {chance[len(unbroken)].id}, the oldest" if waits else ""
        why = first if waits else f"{picked} reviewed good parts" if picked else "No part was queued"
        with pytest.raises(DataError, match=f"^{why}"):
            fair.fair_sample(store, line.which)
    else:
        found = fair.fair_sample(store, line.which)
        assert found == fair.FairSample(tuple(good), words["defect"], words["unsure"], len(chance) - len(unbroken), picked)
        assert len(found.lines()) == 1 + bool(found.waiting) + bool(found.picked)


@FEW
@given(parts=PARTS)
def test_an_export_holds_each_result_once_with_its_newest_review(store: Store, parts: list[Part]) -> None:
    line = recorded(store, parts)
    rows = [exports.row(each, line.newest(each.id)) for each in reversed(line.verdicts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "MOST", 4)  # rows of a page, so that there are several
        pages = [row for page in exports._pages(store, line.which) for row in page]
    assert pages == rows
    assert [row["review"] for row in rows] == [
        review.verdict if review is not None else None
        for each in reversed(line.verdicts)
        for review in [line.newest(each.id)]
    ]


@FEW
@given(parts=PARTS)
def test_a_labelled_folder_has_each_picture_once(
    store: Store, tmp_path_factory: pytest.TempPathFactory, parts: list[Part]
) -> None:
    line = recorded(store, parts)
    last: dict[str, reviews.Review] = {}
    total = 0
    for each in line.verdicts:
        review = line.newest(each.id)
        if review is not None:
            total += 1
            last[each.sha256] = max(last.get(each.sha256, review), review, key=lambda one: one.id)
    words = Counter(review.verdict for review in last.values())
    out = tmp_path_factory.mktemp("labelled") / "folder"
    if not words["good"] + words["defect"]:
        with pytest.raises(DataError, match=f"None of {total} reviewed results can be written"):
            labelled.export_labelled(store, out, line.which)
        assert not out.exists()
        return
    found = labelled.export_labelled(store, out, line.which)
    assert (found.good, found.unmarked, found.unsure) == (words["good"], words["defect"], words["unsure"])
    assert (found.marked, found.no_mask, found.lost, found.twice) == (0, 0, 0, total - len(last))
    written = {path.stem: path for path in (out / "test").rglob("*") if path.is_file()}
    wanted = {f"{each.verdict_id:08d}": each for each in last.values() if each.verdict != "unsure"}
    assert set(written) == set(wanted)
    for name, path in written.items():
        assert path.parent.name == {"good": "good", "defect": "defect_unmarked"}[wanted[name].verdict]
        assert sha256_of(path.read_bytes()) in last


# ---- pruning


def emptied(store: Store) -> None:
    retention.prune(store, before=FAR, reviewed=True)
    assert verdicts.count(store) == 0


def pruned_by_hand(line: Recorded, before: datetime.datetime | None, most: int | None, reviewed: bool) -> set[int]:
    """Ids that stay: first by age, then whole pictures, the longest unused first, until the files are small enough."""
    gone = {each.id for each in line.verdicts if before is not None and each.time < before}
    gone = {number for number in gone if reviewed or not line.said.get(number)}
    pictures: dict[str, list[Verdict]] = defaultdict(list)
    for each in line.verdicts:
        if each.id not in gone:
            pictures[each.kept].append(each)
    left = sum(group[0].size for group in pictures.values())
    for group in sorted(pictures.values(), key=lambda group: group[-1].id):
        free = reviewed or not any(line.said.get(each.id) for each in group)
        if most is not None and left > most and free:
            gone |= {each.id for each in group}
            left -= group[0].size
    return {each.id for each in line.verdicts} - gone


@settings(max_examples=25, deadline=None)
@given(
    parts=PARTS,
    before=st.none() | st.integers(-31, 31),
    most=st.none() | st.integers(0, 120),
    reviewed=st.booleans(),
)
@example(  # the newer result has the lower number: its size must not be freed as well
    parts=[Part("OK", False, 1, 5, ()), Part("OK", False, 1, -5, ())], before=0, most=11, reviewed=False
)
def test_pruning_deletes_what_its_rule_says_and_no_more(
    store: Store, parts: list[Part], before: int | None, most: int | None, reviewed: bool
) -> None:
    emptied(store)
    line = recorded(store, parts)
    limit = None if before is None else NOON + before * HOUR
    if limit is None and most is None:
        with pytest.raises(ConfigError, match="No rule was given"):
            retention.prune(store)
        return
    stay = pruned_by_hand(line, limit, most, reviewed)
    done = retention.prune(store, before=limit, most_bytes=most, reviewed=reviewed)
    assert {each.id for each in verdicts.each(store)} == stay
    assert done.verdicts == len(parts) - len(stay)
    assert done.reviews == sum(len(line.said.get(each.id, [])) for each in line.verdicts if each.id not in stay)
    for each in line.verdicts:  # a kept file is there as long as a result names it
        named = {other.kept for other in line.verdicts if other.id in stay}
        assert (kept_path(store.files, each.kept) is not None) == (each.kept in named)
    again = retention.prune(store, before=limit, most_bytes=most, reviewed=reviewed)
    assert (again.verdicts, again.files) == (0, 0)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_steps_change_nothing_of_a_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """As one transaction would have it, whatever the number of results of each."""
    monkeypatch.setattr(retention, "STEP", step)
    parts = [Part("OK", False, number % 5, (7 * number) % 11, ("good",) if number % 4 == 0 else ()) for number in range(12)]
    with open_store(tmp_path / "r.db") as own:
        line = recorded(own, parts)
        stay = pruned_by_hand(line, NOON + 4 * HOUR, 62, False)
        retention.prune(own, before=NOON + 4 * HOUR, most_bytes=62)
        assert {each.id for each in verdicts.each(own)} == stay
        assert 0 < len(stay) < len(parts)
