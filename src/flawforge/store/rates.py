"""What came out over time: verdicts and reviews per day or hour, to stand beside the rate that a model promised."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from flawforge.store.opening import Store
from flawforge.store.reviews import newest
from flawforge.store.tables import REVIEWS, VERDICTS
from flawforge.store.verdicts import ALL, Filter
from flawforge.types import ConfigError

STEPS = {"hour": 13, "day": 10}  # characters of an ISO time that name it
COUNTS = ("count", "ok", "review", "ng", "unlike", "reviewed", "false_alarms", "escapes", "sampled_good", "sampled_alarms")


@dataclass(frozen=True)
class Rates:
    """Counts of the verdicts of one hour or day, UTC.

    start         aware of its offset
    count         all verdicts; ok, review and ng are its parts, and unlike those of ng that show no good picture's like
    reviewed      with a review; the newest one counts
    false_alarms  NG, and a person says good
    escapes       OK, and a person says defect
    sampled_good  chosen for review by chance, and a person says good; of these, sampled_alarms were judged NG. Their share
                  estimates the false-alarm rate without a bias, unlike `false_alarms`, which counts looked-at rejects only
    """

    start: datetime.datetime
    count: int
    ok: int
    review: int
    ng: int
    unlike: int
    reviewed: int
    false_alarms: int
    escapes: int
    sampled_good: int
    sampled_alarms: int

    @property
    def reject_rate(self) -> float:
        """Share of NG among all verdicts, in [0, 1]."""
        return self.ng / self.count if self.count else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"start": self.start.isoformat(), "reject_rate": self.reject_rate}


def rates(store: Store, which: Filter = ALL, *, step: str = "day") -> tuple[Rates, ...]:
    """Counts per step of those hours or days that have verdicts, the oldest first.

    step  "hour" or "day", in UTC
    Raises ConfigError for another step, Unreachable.
    """
    if step not in STEPS:
        raise ConfigError(f"The step {step!r} was given; allowed are {', '.join(STEPS)}.")
    last, columns, said = newest(), VERDICTS.c, REVIEWS.c.verdict
    joined = VERDICTS.outerjoin(last, last.c.verdict_id == columns.id).outerjoin(REVIEWS, REVIEWS.c.id == last.c.review_id)
    cases: dict[str, Any] = {
        "count": sa.true(),
        "ok": columns.verdict == "OK",
        "review": columns.verdict == "REVIEW",
        "ng": columns.verdict == "NG",
        "unlike": ~columns.valid,
        "reviewed": said.is_not(None),
        "false_alarms": (columns.verdict == "NG") & (said == "good"),
        "escapes": (columns.verdict == "OK") & (said == "defect"),
        "sampled_good": columns.sampled & (said == "good"),
        "sampled_alarms": columns.sampled & (said == "good") & (columns.verdict == "NG"),
    }
    sums = [sa.func.sum(sa.case((case, 1), else_=0)).label(name) for name, case in cases.items()]
    with store.reading() as connection:
        name = _name(connection.dialect.name, step)
        query = sa.select(name, *sums).select_from(joined).where(*which.conditions()).group_by(name).order_by(name)
        rows = list(connection.execute(query))
    form = "%Y-%m-%d %H" if step == "hour" else "%Y-%m-%d"
    starts = [datetime.datetime.strptime(row[0], form).replace(tzinfo=datetime.UTC) for row in rows]
    return tuple(Rates(start, *map(int, row[1:])) for start, row in zip(starts, rows, strict=True))


def _name(dialect: str, step: str) -> sa.ColumnElement[str]:
    if dialect == "sqlite":  # times are text there
        return sa.func.substr(sa.type_coerce(VERDICTS.c.time, sa.Text), 1, STEPS[step]).label("step")
    form: sa.ColumnElement[str] = sa.literal_column("'YYYY-MM-DD HH24'" if step == "hour" else "'YYYY-MM-DD'")
    return sa.func.to_char(sa.func.timezone(sa.literal_column("'UTC'"), VERDICTS.c.time), form).label("step")


def totals(parts: Sequence[Rates]) -> dict[str, int]:
    """Sums of the counts of several steps."""
    return {name: sum(getattr(part, name) for part in parts) for name in COUNTS}
