"""Deleting old verdicts, by age or by size: the only way that one is ever deleted. Reviewed ones stay unless asked."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from flawforge.store.kept import kept_path
from flawforge.store.opening import Store
from flawforge.store.tables import NOT_JUDGED, PRUNINGS, REVIEWS, VERDICTS
from flawforge.types import ConfigError

STEP = 500  # verdicts of one transaction, so that others can write meanwhile


@dataclass(frozen=True)
class Pruned:
    """What a pruning deleted.

    verdicts, reviews  rows
    files, size        kept files, and their bytes
    reviewed_left      reviewed verdicts that the rule covers and that stay, because nobody asked to delete them
    not_judged         rows of pictures that could not be judged; only their age counts
    """

    verdicts: int = 0
    reviews: int = 0
    files: int = 0
    size: int = 0
    reviewed_left: int = 0
    not_judged: int = 0

    def lines(self) -> list[str]:
        """For people."""
        said = f"{self.verdicts} results deleted, {self.files} files with {self.size / 1e6:.1f} MB"
        said += f", {self.reviews} reviews" if self.reviews else ""
        said += f", {self.not_judged} records of pictures that were not judged" if self.not_judged else ""
        left = [f"{self.reviewed_left} reviewed results stay; --reviewed deletes them too"] if self.reviewed_left else []
        return [said, *left]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def prune(
    store: Store,
    *,
    before: datetime.datetime | None = None,
    most_bytes: int | None = None,
    reviewed: bool = False,
    who: str = "",
) -> Pruned:
    """Delete verdicts, the oldest first, with their kept files, and note it in the table prunings.

    before      delete those judged before this time, aware of its offset, and records of pictures that were not judged
    most_bytes  delete until the kept files of all verdicts have at most so many bytes
    reviewed    delete verdicts with a review as well, and their reviews
    Raises ConfigError where no rule is given, Unreachable; what was deleted until then stays deleted.
    """
    if before is None and most_bytes is None:
        raise ConfigError("No rule was given for what to delete; give an age or a size.")
    rule = _rule(before, most_bytes, reviewed)
    total = Pruned()
    while True:
        with store.writing() as connection:
            ids = _oldest(connection, before, most_bytes, reviewed)
            missed = _oldest_not_judged(connection, before)
            part, names = _delete(connection, ids, missed, rule, who) if ids or missed else (Pruned(), [])
            left = 0 if reviewed else _reviewed_left(connection, before, most_bytes)
        # After the commit: a row must never name a file that is not there because the deletion failed.
        files, size = _remove(store, names)
        total = Pruned(
            total.verdicts + part.verdicts,
            total.reviews + part.reviews,
            total.files + files,
            total.size + size,
            left,
            total.not_judged + part.not_judged,
        )
        if not ids and not missed:
            return total


def _rule(before: datetime.datetime | None, most_bytes: int | None, reviewed: bool) -> str:
    parts = [f"before {before.isoformat()}"] if before is not None else []
    parts += [f"files over {most_bytes} bytes"] if most_bytes is not None else []
    return ", ".join(parts) + (", reviewed ones too" if reviewed else "")


def _has_review() -> Any:
    return sa.exists().where(REVIEWS.c.verdict_id == VERDICTS.c.id)


def _oldest(
    connection: sa.Connection, before: datetime.datetime | None, most_bytes: int | None, reviewed: bool
) -> list[int]:
    """Ids of the next verdicts to delete, at most STEP: first those that are too old, then by the size of what is left."""
    free = [] if reviewed else [~_has_review()]
    query = sa.select(VERDICTS.c.id, VERDICTS.c.size).where(*free).order_by(VERDICTS.c.id).limit(STEP)
    if before is not None:
        aged = [row[0] for row in connection.execute(query.where(VERDICTS.c.time < before))]
        if aged:
            return aged
    ids: list[int] = []
    if most_bytes is not None:
        over = _bytes(connection) - most_bytes
        for number, size in connection.execute(query.where(VERDICTS.c.size > 0)):
            if over <= 0:
                break
            ids.append(number)
            over -= size
    return ids


def _oldest_not_judged(connection: sa.Connection, before: datetime.datetime | None) -> list[int]:
    if before is None:
        return []
    query = sa.select(NOT_JUDGED.c.id).where(NOT_JUDGED.c.time < before).order_by(NOT_JUDGED.c.id).limit(STEP)
    return list(connection.execute(query).scalars())


def _bytes(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(VERDICTS.c.size), 0))).scalar_one())


def _reviewed_left(connection: sa.Connection, before: datetime.datetime | None, most_bytes: int | None) -> int:
    query = sa.select(sa.func.count()).select_from(VERDICTS).where(_has_review())
    if before is not None:
        return int(connection.execute(query.where(VERDICTS.c.time < before)).scalar_one())
    over = most_bytes is not None and _bytes(connection) > most_bytes
    return int(connection.execute(query.where(VERDICTS.c.size > 0)).scalar_one()) if over else 0


def _delete(
    connection: sa.Connection, ids: Sequence[int], missed: Sequence[int], rule: str, who: str
) -> tuple[Pruned, list[str]]:
    """Delete verdicts and pictures that were not judged; returns the names of kept files that no other row names."""
    opened = sa.insert(PRUNINGS).values(
        time=datetime.datetime.now(datetime.UTC), who=who, rule=rule, verdicts=0, reviews=0, done=False
    )
    number = connection.execute(opened.returning(PRUNINGS.c.id)).scalar_one()
    mine = VERDICTS.c.id.in_(ids)
    named = connection.execute(sa.select(VERDICTS.c.kept, VERDICTS.c.overlay).where(mine)).all()
    reviews = connection.execute(sa.delete(REVIEWS).where(REVIEWS.c.verdict_id.in_(ids))).rowcount
    verdicts = connection.execute(sa.delete(VERDICTS).where(mine)).rowcount
    notes = connection.execute(sa.delete(NOT_JUDGED).where(NOT_JUDGED.c.id.in_(missed))).rowcount
    closed = sa.update(PRUNINGS).where(PRUNINGS.c.id == number)
    connection.execute(closed.values(verdicts=verdicts, reviews=reviews, not_judged=notes, done=True))
    names = {name for row in named for name in row if name}
    for column in (VERDICTS.c.kept, VERDICTS.c.overlay):
        names -= set(connection.execute(sa.select(column).where(column.in_(names))).scalars())
    return Pruned(verdicts, reviews, not_judged=notes), sorted(names)


def _remove(store: Store, names: Sequence[str]) -> tuple[int, int]:
    files = size = 0
    for name in names:
        path = kept_path(store.files, name)
        if path is not None:
            with suppress(OSError):
                own = path.stat().st_size
                path.unlink()
                files, size = files + 1, size + own
    return files, size
