"""Pictures that could not be judged: such a part is not OK, and whoever asks later what became of it finds why."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from flawforge.store.opening import Store
from flawforge.store.tables import NOT_JUDGED
from flawforge.store.verdicts import ALL, Filter, page_of


@dataclass(frozen=True)
class NotJudged:
    """One picture without a verdict. time, source, station, part_id, picture, sha256, model: as in `Verdict`.

    sha256  "" = the file could not be read
    reason  one sentence
    key     a second row with it is not recorded; None = none
    id      0 = not recorded
    """

    time: datetime.datetime
    source: str
    station: str
    part_id: str
    picture: str
    sha256: str
    model: str
    reason: str
    key: str | None = None
    id: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the time in ISO 8601 with its offset. Without `key`, which is the store's own."""
        data = asdict(self) | {"time": self.time.isoformat()}
        del data["key"]
        return data


def note(store: Store, given: Sequence[NotJudged]) -> tuple[NotJudged, ...]:
    """Append pictures in one transaction, and return them with their ids; 0 where the key is there already.

    Raises Unreachable where the store cannot be written; nothing is recorded then.
    """
    noted = []
    with store.writing() as connection:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        for each in given:
            values = {name: value for name, value in vars(each).items() if name != "id"}
            new = insert(NOT_JUDGED).values(values).on_conflict_do_nothing(index_elements=["key"])
            number = connection.execute(new.returning(NOT_JUDGED.c.id)).scalar_one_or_none()
            noted.append(replace(each, id=number or 0))
    return tuple(noted)


@dataclass(frozen=True)
class Page:
    """Pictures, the newest first, and the cursor of the page after them; None = this is the last."""

    pictures: tuple[NotJudged, ...]
    cursor: str | None


def listed(store: Store, which: Filter = ALL, *, cursor: str | None = None, limit: int = 50) -> Page:
    """A page of them, as `verdicts.listed`; of the filter, time, station, part, model, name and file count."""
    rows, following = page_of(store, NOT_JUDGED, which.of_pictures(NOT_JUDGED.c), cursor, limit)
    names = [field.name for field in fields(NotJudged)]
    return Page(tuple(NotJudged(**{name: row[name] for name in names}) for row in rows), following)


def count(store: Store, which: Filter = ALL) -> int:
    """How many. Raises Unreachable."""
    query = sa.select(sa.func.count()).select_from(NOT_JUDGED).where(*which.of_pictures(NOT_JUDGED.c))
    with store.reading() as connection:
        return int(connection.execute(query).scalar_one())
