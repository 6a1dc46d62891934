"""Verdicts: record, find, list in pages."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from flawforge.store.opening import Store
from flawforge.store.tables import REVIEWS, VERDICTS
from flawforge.types import ConfigError, Decision, Region

WORDS = ("OK", "REVIEW", "NG")
SOURCES = ("http", "watch", "inspect")
MOST = 500  # rows of a page
LONGEST = 200  # characters of a station, a part id, a picture's name, a key


class KeyTaken(ConfigError):
    """An idempotency key that was used for another picture, model, part or station."""


@dataclass(frozen=True)
class Verdict:
    """One judged picture, as it is stored. A higher score is more anomalous.

    time, source      when it was judged (aware of its offset), and by what: one of SOURCES
    station, part_id  where, and of which part; "" = not given
    picture           the file's name as it was given, for people; never a path to open
    sha256            of the picture's file, 64 hex digits
    height, width     of the picture in its own pixels
    model             the name it is served under; model_id and manifest say which one that was: settings and weights, and
                      the SHA-256 of manifest.json, which covers thresholds too
    score, score_normalised, p_value, threshold, review_threshold, verdict, valid, notes, regions, seconds
                      as in `Decision`
    kept, overlay     files below `Store.files`: the picture itself, and picture and heat map side by side; "" = none
    size              bytes of both files
    sampled           chosen for review by chance, whatever its score: `sampled`
    key               idempotency key: a second verdict with it is not recorded; None = none
    id                0 = not recorded yet; later ones are higher
    """

    time: datetime.datetime
    source: str
    station: str
    part_id: str
    picture: str
    sha256: str
    height: int
    width: int
    model: str
    model_id: str
    manifest: str
    score: float
    score_normalised: float | None
    p_value: float
    threshold: float
    review_threshold: float | None
    verdict: str
    valid: bool
    notes: tuple[str, ...]
    regions: tuple[Region, ...]
    seconds: float
    kept: str = ""
    overlay: str = ""
    size: int = 0
    sampled: bool = False
    key: str | None = None
    id: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the time in ISO 8601 with its offset. Without `key`, `kept` and `size`, which are the store's own."""
        data = asdict(self) | {"time": self.time.isoformat(), "notes": list(self.notes)}
        data["regions"] = [asdict(region) for region in self.regions]
        data["overlay"] = bool(self.overlay)
        return {name: value for name, value in data.items() if name not in ("key", "kept", "size")}

    def lines(self) -> list[str]:
        """For people."""
        what = (
            self.picture + (f", part {self.part_id}" if self.part_id else "") + (f", {self.station}" if self.station else "")
        )
        return [
            f"{self.id}: {self.verdict}, score {self.score:.4g} (NG above {self.threshold:.4g}), {what}",
            f"judged {self.time.isoformat(timespec='seconds')} by {self.model} ({self.model_id})",
        ]


def verdict_of(
    decision: Decision,
    *,
    source: str,
    sha256: str,
    model: str,
    model_id: str,
    manifest: str,
    station: str = "",
    part_id: str = "",
    picture: str = "",
    **more: Any,
) -> Verdict:
    """A Decision as a Verdict that is not recorded yet, judged now; `more`: kept, overlay, size, sampled, key."""
    height, width = decision.anomaly_map.shape
    return Verdict(
        time=datetime.datetime.now(datetime.UTC),
        source=source,
        station=station,
        part_id=part_id,
        picture=picture or decision.image_path,
        sha256=sha256,
        height=height,
        width=width,
        model=model,
        model_id=model_id,
        manifest=manifest,
        score=decision.pred_score,
        score_normalised=decision.score_normalised,
        p_value=decision.p_value,
        threshold=decision.threshold,
        review_threshold=decision.review_threshold,
        verdict=decision.verdict,
        valid=decision.valid,
        notes=decision.notes,
        regions=decision.regions,
        seconds=decision.seconds,
        **more,
    )


def sampled(sha256: str, every: int, seed: int = 0) -> bool:
    """Whether this picture is one of about 1 in `every` that is reviewed whatever its score; every 0 = none is.

    Drawn from the seed and the picture's own bytes, so it cannot depend on the score, and the same picture is always or
    never drawn.
    """
    if every <= 0:
        return False
    draw = hashlib.sha256(f"{seed} {sha256}".encode()).digest()
    return int.from_bytes(draw[:8], "big") % every == 0


def record(store: Store, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Append verdicts in one transaction and return them with their ids; what is returned is on the disk.

    A verdict whose key is taken is not recorded again: the recorded one is returned in its place.
    Raises KeyTaken where that one is of another picture or model (over HTTP: part or station too), ConfigError for a field
    outside its bounds, Unreachable where the store cannot be written; nothing is recorded then.
    """
    for each in verdicts:
        _check(each)
    recorded = []
    with store.writing() as connection:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        for each in verdicts:
            new = insert(VERDICTS).values(_values(each)).on_conflict_do_nothing(index_elements=["key"])
            number = connection.execute(new.returning(VERDICTS.c.id)).scalar_one_or_none()
            recorded.append(replace(each, id=number) if number is not None else _taken(connection, each))
    return tuple(recorded)


def with_key(store: Store, key: str) -> Verdict | None:
    """The verdict that was recorded under an idempotency key. Raises Unreachable."""
    with store.reading() as connection:
        row = connection.execute(sa.select(VERDICTS).where(VERDICTS.c.key == key)).mappings().one_or_none()
    return None if row is None else verdict_from_row(row)


def same_request(recorded: Verdict, **asked: str) -> None:
    """Raises KeyTaken where the verdict under a key is of something else: asked = {field of Verdict: what is asked for}."""
    for name, value in asked.items():
        if getattr(recorded, name) != value:
            what = "picture" if name == "sha256" else name
            raise KeyTaken(
                f"The idempotency key {recorded.key!r} was used for another {what} (result {recorded.id}); "
                "use a new key for every picture of every part."
            )


def _taken(connection: sa.Connection, given: Verdict) -> Verdict:
    row = connection.execute(sa.select(VERDICTS).where(VERDICTS.c.key == given.key)).mappings().one()
    recorded = verdict_from_row(row)
    asked = {"sha256": given.sha256, "model": given.model}
    if given.source == "http":  # a watched file's key is its path and bytes: it stays recorded when the station is renamed
        asked |= {"part_id": given.part_id, "station": given.station}
    same_request(recorded, **asked)
    return recorded


def _check(verdict: Verdict) -> None:
    texts = {"station": verdict.station, "part_id": verdict.part_id, "key": verdict.key or ""}
    for name, text in texts.items():
        check_text(name, text)
    if verdict.verdict not in WORDS:
        raise ConfigError(f"The verdict {verdict.verdict!r} was given; allowed are {', '.join(WORDS)}.")
    if verdict.source not in SOURCES:
        raise ConfigError(f"The source {verdict.source!r} was given; allowed are {', '.join(SOURCES)}.")
    if len(verdict.sha256) != 64:
        raise ConfigError(f"The SHA-256 {verdict.sha256!r} was given; give its 64 hex digits.")


def check_text(name: str, text: str, most: int = LONGEST) -> None:
    """Raises ConfigError for a text that is too long, or holds control characters or what is not Unicode."""
    if len(text) > most:
        raise ConfigError(f"The {name} has {len(text)} characters, at most {most} are allowed; give a shorter one.")
    if not text.isprintable():
        raise ConfigError(f"The {name} {text[:40]!r} holds characters that cannot be printed; give plain text in one line.")


def _values(verdict: Verdict) -> dict[str, Any]:
    values = {field.name: getattr(verdict, field.name) for field in fields(verdict)}
    del values["id"]
    return values | {"notes": list(verdict.notes), "regions": [asdict(region) for region in verdict.regions]}


def verdict_from_row(row: Mapping[Any, Any]) -> Verdict:
    """A Verdict of a row of VERDICTS, by column name; other columns are left aside."""
    values = {field.name: row[field.name] for field in fields(Verdict)}
    regions = tuple(Region(**region) for region in values["regions"])
    return Verdict(**values | {"notes": tuple(values["notes"]), "regions": regions})


def get(store: Store, number: int) -> Verdict | None:
    """The verdict with this id; None where there is none. Raises Unreachable."""
    with store.reading() as connection:
        row = connection.execute(sa.select(VERDICTS).where(VERDICTS.c.id == number)).mappings().one_or_none()
    return None if row is None else verdict_from_row(row)


@dataclass(frozen=True)
class Filter:
    """Which verdicts; a field that is None or empty filters nothing.

    since, until  time, from the first on and before the second, both aware of their offset
    verdicts      some of WORDS
    named         part of the part's id or of the picture's file name, in any case
    reviewed      True: with a review; False: without one
    said          the newest review: "good", "defect", "unsure", or "against" = good of an NG part, defect of an OK one
    sampled       chosen for review by chance, or not
    """

    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    verdicts: tuple[str, ...] = ()
    station: str = ""
    part_id: str = ""
    model: str = ""
    model_id: str = ""
    sha256: str = ""
    reviewed: bool | None = None
    sampled: bool | None = None
    named: str = ""
    said: str = ""

    def of_pictures(self, columns: Any) -> list[sa.ColumnElement[bool]]:
        """Those conditions that a picture without a verdict can meet too: of time, names and file."""
        found: list[sa.ColumnElement[bool]] = []
        if self.since is not None:
            found.append(columns.time >= self.since)
        if self.until is not None:
            found.append(columns.time < self.until)
        for name in ("station", "part_id", "model", "sha256"):
            if value := getattr(self, name):
                found.append(columns[name] == value)
        if self.named:
            found.append(sa.or_(*(columns[name].icontains(self.named, autoescape=True) for name in ("part_id", "picture"))))
        return found

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """For a WHERE on VERDICTS."""
        columns = VERDICTS.c
        found = self.of_pictures(columns)
        if self.verdicts:
            found.append(columns.verdict.in_(self.verdicts))
        if self.model_id:
            found.append(columns.model_id == self.model_id)
        if self.said:
            own = sa.select(REVIEWS.c.verdict).where(REVIEWS.c.verdict_id == columns.id)
            newest = own.order_by(REVIEWS.c.id.desc()).limit(1).scalar_subquery()
            against = sa.or_(
                sa.and_(columns.verdict == "NG", newest == "good"), sa.and_(columns.verdict == "OK", newest == "defect")
            )
            found.append(against if self.said == "against" else newest == self.said)
        if self.reviewed is not None:
            review = sa.exists().where(REVIEWS.c.verdict_id == columns.id)
            found.append(review if self.reviewed else ~review)
        if self.sampled is not None:
            found.append(columns.sampled == self.sampled)
        return found


ALL = Filter()


@dataclass(frozen=True)
class Page:
    """Verdicts, the newest first, and the cursor of the page after them; None = this is the last."""

    verdicts: tuple[Verdict, ...]
    cursor: str | None


def listed(store: Store, which: Filter = ALL, *, cursor: str | None = None, limit: int = 50) -> Page:
    """A page of verdicts, the newest first. New verdicts never move the pages that follow.

    cursor  of the page before; None = the first page
    limit   rows, from 1 to MOST
    Raises ConfigError for a cursor or limit outside its bounds, Unreachable.
    """
    rows, following = page_of(store, VERDICTS, which.conditions(), cursor, limit)
    return Page(tuple(map(verdict_from_row, rows)), following)


def page_of(
    store: Store, table: sa.Table, conditions: Sequence[sa.ColumnElement[bool]], cursor: str | None, limit: int
) -> tuple[list[Mapping[Any, Any]], str | None]:
    """Rows of a page, the newest first, and the cursor of the page after them. Raises as `listed`."""
    if not 1 <= limit <= MOST:
        raise ConfigError(f"A page of {limit} results was asked for; allowed are 1 to {MOST}.")
    query = sa.select(table).where(*conditions).order_by(table.c.id.desc()).limit(limit + 1)
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise ConfigError(f"The cursor {cursor[:40]!r} was given; give the cursor of the page before, or none.")
        query = query.where(table.c.id < int(cursor))
    with store.reading() as connection:
        rows: list[Mapping[Any, Any]] = list(connection.execute(query).mappings())
    return rows[:limit], str(rows[limit - 1]["id"]) if len(rows) > limit else None


def each(store: Store, which: Filter = ALL) -> Iterator[Verdict]:
    """Every verdict, the newest first, page by page, so that memory does not grow. Raises Unreachable."""
    cursor: str | None = None
    while True:
        page = listed(store, which, cursor=cursor, limit=MOST)
        yield from page.verdicts
        if page.cursor is None:
            return
        cursor = page.cursor


def count(store: Store, which: Filter = ALL) -> int:
    """How many verdicts. Raises Unreachable."""
    with store.reading() as connection:
        return int(
            connection.execute(sa.select(sa.func.count()).select_from(VERDICTS).where(*which.conditions())).scalar_one()
        )
