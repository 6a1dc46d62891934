"""Deleting old verdicts, by age or by size: the only way that one is ever deleted. Reviewed ones stay unless asked.

A pruning plans what to delete from one state of the store, and deletes it in steps of one short transaction each. A step
locks its verdicts first, so that nobody reviews one that is being deleted; a kept file goes after the row that named it.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from flawforge.store import kept
from flawforge.store.opening import Store
from flawforge.store.tables import NOT_JUDGED, PRUNINGS, REVIEWS, VERDICTS
from flawforge.types import ConfigError

STEP = 500  # verdicts of one transaction, so that others can write meanwhile
STRAY = 86400.0  # seconds after which a file that no row names is nobody's
FEW = 0.1  # share of the files that may be such; where more are, the folder may be another store's


@dataclass(frozen=True)
class Pruned:
    """What a pruning deleted.

    verdicts, reviews  rows
    files, size        kept files, and their bytes
    reviewed_left      reviewed verdicts that the rule covers and that stay, because nobody asked to delete them
    not_judged         rows of pictures that could not be judged; only their age counts
    fresh_left         verdicts that the size covers and that stay, because their picture was kept a moment ago
    strays_left        files that no verdict names and that stay, because they are too many
    """

    verdicts: int = 0
    reviews: int = 0
    files: int = 0
    size: int = 0
    reviewed_left: int = 0
    not_judged: int = 0
    fresh_left: int = 0
    strays_left: int = 0

    def lines(self) -> list[str]:
        """For people."""
        said = f"{self.verdicts} results deleted, {self.files} files with {self.size / 1e6:.1f} MB"
        said += f", {self.reviews} reviews" if self.reviews else ""
        said += f", {self.not_judged} records of pictures that were not judged" if self.not_judged else ""
        left = [f"{self.reviewed_left} reviewed results stay; --reviewed deletes them too"] if self.reviewed_left else []
        if self.fresh_left:
            left.append(f"{self.fresh_left} results of the last {kept.FRESH / 60:.0f} minutes stay; prune again later")
        if self.strays_left:
            left.append(
                f"{self.strays_left} files belong to no result and stay, because more than {FEW:.0%} do: another store may "
                "keep its pictures in this folder; give each store a folder of its own"
            )
        return [said, *left]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(*(mine + its for mine, its in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class _Plan:
    """Ids of what to delete, in the order of its deletion. after: the newest pruning that it knows of."""

    ids: Sequence[int]
    missed: Sequence[int]
    fresh: int
    after: int


def prune(
    store: Store,
    *,
    before: datetime.datetime | None = None,
    most_bytes: int | None = None,
    reviewed: bool = False,
    who: str = "",
    sweep: bool = True,
) -> Pruned:
    """Delete verdicts, the oldest first, with their kept files, and note it in the table prunings.

    before      delete those judged before this time, aware of its offset, and records of pictures that were not judged
    most_bytes  delete pictures, the longest unused first, with all their verdicts, until the kept files that a verdict
                names have at most so many bytes. What was kept in the last `kept.FRESH` seconds stays
    reviewed    delete verdicts with a review as well, and their reviews
    sweep       also delete files that no verdict names for STRAY seconds, which a killed process left
    Raises ConfigError where no rule is given, or no folder of the files that verdicts name; Unreachable; what was deleted
    until then stays deleted.
    """
    if before is None and most_bytes is None:
        raise ConfigError("No rule was given for what to delete; give an age or a size.")
    rule = _rule(before, most_bytes, reviewed)
    total = Pruned()
    while True:
        plan = _plan(store, before, most_bytes, reviewed)
        done, overtaken = _carry_out(store, plan, reviewed, rule, who)
        total += done
        if not overtaken and not done.verdicts and not done.not_judged:
            break
    left = 0 if reviewed else _reviewed_left(store, before, most_bytes)
    total += Pruned(reviewed_left=left, fresh_left=plan.fresh)
    return total + _sweep(store) if sweep else total


def clock_doubt(store: Store, before: datetime.datetime, now: datetime.datetime) -> str:
    """Why nothing should be deleted by age without a person, in one sentence; "" where nothing speaks against it.

    A clock that is wrong makes everything old at once: nothing was judged or pruned then for as long as verdicts are kept,
    between the newest moment that is too old and the next one. Raises Unreachable.
    """
    times = (VERDICTS.c.time, NOT_JUDGED.c.time, PRUNINGS.c.time)
    with store.reading() as connection:
        old = [connection.execute(sa.select(sa.func.max(time)).where(time < before)).scalar_one() for time in times]
        later = [connection.execute(sa.select(sa.func.min(time)).where(time >= before)).scalar_one() for time in times]
    last = max((time for time in old if time is not None), default=None)
    following = min((time for time in later if time is not None), default=now)
    if last is None or following - last <= now - before:
        return ""
    return (
        f"Nothing was judged between {last.isoformat(timespec='minutes')} and {following.isoformat(timespec='minutes')}, "
        "which is longer than results are kept, so the clock may be wrong and nothing was deleted by age; set the clock, or "
        "delete with `flawforge results prune`."
    )


def _rule(before: datetime.datetime | None, most_bytes: int | None, reviewed: bool) -> str:
    parts = [f"before {before.isoformat()}"] if before is not None else []
    parts += [f"files over {most_bytes} bytes"] if most_bytes is not None else []
    return ", ".join(parts) + (", reviewed ones too" if reviewed else "")


def _has_review() -> Any:
    return sa.exists().where(REVIEWS.c.verdict_id == VERDICTS.c.id)


def _plan(store: Store, before: datetime.datetime | None, most_bytes: int | None, reviewed: bool) -> _Plan:
    """First what is too old; where nothing is, by the size of what is left."""
    ids: list[int] = []
    missed: list[int] = []
    fresh = 0
    with store.reading() as connection:
        after = _newest_pruning(connection)
        if before is not None:
            aged = sa.select(VERDICTS.c.id).where(VERDICTS.c.time < before, *([] if reviewed else [~_has_review()]))
            ids = list(connection.execute(aged.order_by(VERDICTS.c.id)).scalars())
            old = sa.select(NOT_JUDGED.c.id).where(NOT_JUDGED.c.time < before).order_by(NOT_JUDGED.c.id)
            missed = list(connection.execute(old).scalars())
        if not ids and most_bytes is not None:
            ids, fresh = _by_size(connection, store, most_bytes, reviewed)
    return _Plan(ids, missed, fresh, after)


def _newest_pruning(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(PRUNINGS.c.id), 0))).scalar_one())


def _kept_rows() -> Any:
    """A subquery of the rows that name a file, with the kept picture of each."""
    none: sa.ColumnElement[str] = sa.literal_column("''")
    picture = sa.case((VERDICTS.c.kept != none, VERDICTS.c.kept), else_=VERDICTS.c.overlay)
    columns = (VERDICTS.c.id, VERDICTS.c.overlay, VERDICTS.c.size, picture.label("picture"), _has_review().label("reviewed"))
    return sa.select(*columns).where(picture != none, VERDICTS.c.size > 0).subquery("kept_rows")


def _bytes(connection: sa.Connection) -> int:
    """Bytes of the kept files that a verdict names.

    A picture's file counts once, however often it was judged, and so does each of its overlays. Where several models marked
    a picture, its own size is not known apart, and the smallest overlay counts once for all of them.
    """
    rows, most = _kept_rows(), sa.func.max
    pairs = sa.select(rows.c.picture, most(rows.c.size).label("size")).group_by(rows.c.picture, rows.c.overlay).subquery()
    own = sa.func.sum(pairs.c.size) - (sa.func.count() - 1) * sa.func.min(pairs.c.size)
    pictures = sa.select(own.label("size")).group_by(pairs.c.picture).subquery()
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(pictures.c.size), 0))).scalar_one())


def _size(group: Sequence[Any]) -> int:
    """Bytes of the files that the rows of one picture name, as `_bytes` counts them."""
    pairs: dict[str, int] = {}
    for row in group:
        pairs[row.overlay] = max(row.size, pairs.get(row.overlay, 0))
    return sum(pairs.values()) - (len(pairs) - 1) * min(pairs.values())


def _by_size(connection: sa.Connection, store: Store, most_bytes: int, reviewed: bool) -> tuple[list[int], int]:
    """All verdicts of the pictures that are longest unused, until the rest is small enough: (ids, verdicts of fresh files).

    A picture that a younger or a reviewed verdict names keeps all its verdicts: to delete some would free nothing.
    """
    over = _bytes(connection) - most_bytes
    if over <= 0:
        return [], 0
    rows = _kept_rows()
    newest = sa.func.max(rows.c.id).over(partition_by=rows.c.picture).label("newest")
    query = sa.select(rows, newest).order_by(newest, rows.c.id).execution_options(yield_per=STEP)
    now = _now(store)
    ids: list[int] = []
    fresh = 0
    with connection.execute(query) as found:
        for name, rows_of_one in itertools.groupby(found, key=lambda row: row.picture):
            if over <= 0:
                break
            group = list(rows_of_one)
            if any(row.reviewed for row in group) and not reviewed:
                continue
            if now is not None and store.files is not None and kept.fresh(store.files, name, now):
                fresh += len(group)
                continue
            ids += [row.id for row in group]
            over -= _size(group)
    return ids, fresh


def _now(store: Store) -> float | None:
    """`kept.disk_time`; None where there is no folder, or the disk refuses: no file is deleted then."""
    try:
        return None if store.files is None else kept.disk_time(store.files)
    except OSError:
        return None


def _reviewed_left(store: Store, before: datetime.datetime | None, most_bytes: int | None) -> int:
    query = sa.select(sa.func.count()).select_from(VERDICTS).where(_has_review())
    with store.reading() as connection:
        if before is not None:
            return int(connection.execute(query.where(VERDICTS.c.time < before)).scalar_one())
        over = most_bytes is not None and _bytes(connection) > most_bytes
        return int(connection.execute(query.where(VERDICTS.c.size > 0)).scalar_one()) if over else 0


def _carry_out(store: Store, plan: _Plan, reviewed: bool, rule: str, who: str) -> tuple[Pruned, bool]:
    """Delete in steps: (what was deleted, whether another pruning came in between, so that the plan no longer holds)."""
    total, after = Pruned(), plan.after
    for start in range(0, max(len(plan.ids), len(plan.missed)), STEP):
        ids, missed = plan.ids[start : start + STEP], plan.missed[start : start + STEP]
        with store.writing() as connection:
            if connection.dialect.name == "postgresql":  # one pruning at a time, as a writer of SQLite is alone
                connection.execute(sa.text("LOCK TABLE prunings IN EXCLUSIVE MODE"))
            if _newest_pruning(connection) != after:
                return total, True
            part, names, after = _delete(connection, ids, missed, reviewed, rule, who)
            if names and store.files is None:
                raise ConfigError(
                    f"The results in {store.name} name kept pictures, and no folder of them was given; give it with --files."
                )
        # After the commit: a row must never name a file that is not there because the deletion failed.
        files, size = _discard(store, names)
        total += part + Pruned(files=files, size=size)
    return total, False


def _delete(
    connection: sa.Connection, ids: Sequence[int], missed: Sequence[int], reviewed: bool, rule: str, who: str
) -> tuple[Pruned, set[str], int]:
    """Delete verdicts and pictures that were not judged: (what went, names of kept files, the pruning's id)."""
    opened = sa.insert(PRUNINGS).values(
        time=datetime.datetime.now(datetime.UTC), who=who, rule=rule, verdicts=0, reviews=0, done=False
    )
    number = int(connection.execute(opened.returning(PRUNINGS.c.id)).scalar_one())
    # Who reviews a verdict locks it, too: it is theirs, or it is locked here before they come. One that was reviewed since
    # the plan is seen by the deletion, which PostgreSQL shows all that was committed before it.
    locked = sa.select(VERDICTS.c.id).where(VERDICTS.c.id.in_(ids)).order_by(VERDICTS.c.id)
    mine = list(connection.execute(locked.with_for_update(skip_locked=True)).scalars())
    reviews = 0
    if reviewed:
        reviews = connection.execute(sa.delete(REVIEWS).where(REVIEWS.c.verdict_id.in_(mine))).rowcount
    gone = sa.delete(VERDICTS).where(VERDICTS.c.id.in_(mine), ~_has_review()).returning(VERDICTS.c.kept, VERDICTS.c.overlay)
    named = connection.execute(gone).all()
    notes = connection.execute(sa.delete(NOT_JUDGED).where(NOT_JUDGED.c.id.in_(missed))).rowcount
    closed = sa.update(PRUNINGS).where(PRUNINGS.c.id == number)
    connection.execute(closed.values(verdicts=len(named), reviews=reviews, not_judged=notes, done=True))
    return Pruned(len(named), reviews, not_judged=notes), {name for row in named for name in row if name}, number


def _discard(store: Store, names: Iterable[str]) -> tuple[int, int]:
    """Delete those of the files that no row names now: (files, bytes)."""
    total, every, now = (0, 0), sorted(names), _now(store)
    if store.files is None or now is None:
        return total
    for start in range(0, len(every), STEP):
        some = set(every[start : start + STEP])
        with store.reading() as connection:
            for column in (VERDICTS.c.kept, VERDICTS.c.overlay):
                some -= set(connection.execute(sa.select(column).where(column.in_(some))).scalars())
        files, size = kept.discard(store.files, sorted(some), now)
        total = total[0] + files, total[1] + size
    return total


def _sweep(store: Store) -> Pruned:
    """Delete old drafts and old files that no verdict names: what a process left that was killed, or could not record."""
    now = _now(store)
    if store.files is None or now is None:
        return Pruned()
    kept.clear_drafts(store.files, now - STRAY)
    with store.reading() as connection:
        query = sa.select(VERDICTS.c.kept, VERDICTS.c.overlay).execution_options(yield_per=STEP)
        hashes = (hash(name) for row in connection.execute(query) for name in row if name)
        named = np.unique(np.fromiter(hashes, np.int64))  # 8 bytes each: there may be millions
    count, strays = 0, list[str]()
    for name in kept.listed(store.files):
        count += 1
        place = np.searchsorted(named, hash(name))
        if (place == len(named) or named[place] != hash(name)) and not kept.fresh(store.files, name, now, STRAY):
            strays.append(name)
    if len(strays) > FEW * count:
        return Pruned(strays_left=len(strays))
    files, size = _discard(store, strays)
    return Pruned(files=files, size=size)
