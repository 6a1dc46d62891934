"""The store's tables, as the newest migration leaves them.

verdicts    one row per judged picture; never changed, and deleted by `retention.prune` alone
reviews     what a person said of a verdict; a correction is another row
prunings    what `retention.prune` deleted, when and by which rule; the triggers of `migrations` let it delete while `done`
            is false, which no other transaction ever sees
not_judged  one row per picture that could not be judged; as append-only as verdicts
"""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime.datetime]):
    """A point in time, aware of its offset in Python. SQLite stores it as UTC text without an offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        """UTC. Raises ValueError for a time without an offset, which could mean any."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no offset from UTC; give a time that is aware of it.")
        utc = value.astimezone(datetime.UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        """UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


METADATA = MetaData()
KEY = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts on for INTEGER alone
LIST = JSON().with_variant(JSONB(), "postgresql")

VERDICTS = Table(
    "verdicts",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("time", Moment, nullable=False),
    Column("source", Text, nullable=False),
    Column("station", Text, nullable=False),
    Column("part_id", Text, nullable=False),
    Column("picture", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("height", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("score", Double, nullable=False),
    Column("score_normalised", Double),
    Column("p_value", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("review_threshold", Double),
    Column("verdict", Text, nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("notes", LIST, nullable=False),
    Column("regions", LIST, nullable=False),
    Column("kept", Text, nullable=False),
    Column("overlay", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("sampled", Boolean, nullable=False),
    Column("key", Text, unique=True),
    Index("verdicts_time", "time"),
    Index("verdicts_part_id", "part_id"),
    Index("verdicts_sha256", "sha256"),
    Index("verdicts_verdict", "verdict", "id"),
    sqlite_autoincrement=True,  # an id is never given twice, also after a pruning
)

REVIEWS = Table(
    "reviews",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("verdict_id", KEY, ForeignKey("verdicts.id"), nullable=False),
    Column("time", Moment, nullable=False),
    Column("who", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("boxes", LIST, nullable=False),
    Column("mask", LargeBinary),
    Column("note", Text, nullable=False),
    Index("reviews_verdict_id", "verdict_id", "id"),
    sqlite_autoincrement=True,
)

PRUNINGS = Table(
    "prunings",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("time", Moment, nullable=False),
    Column("who", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("verdicts", Integer, nullable=False),
    Column("reviews", Integer, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("not_judged", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

NOT_JUDGED = Table(
    "not_judged",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("time", Moment, nullable=False),
    Column("source", Text, nullable=False),
    Column("station", Text, nullable=False),
    Column("part_id", Text, nullable=False),
    Column("picture", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("key", Text, unique=True),
    Index("not_judged_time", "time"),
    Index("not_judged_part_id", "part_id"),
    sqlite_autoincrement=True,
)
