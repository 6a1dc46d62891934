"""Reviews: what people say of verdicts. A correction is another review; the newest counts."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image as PIL

from flawforge.store.opening import Store
from flawforge.store.tables import REVIEWS, VERDICTS
from flawforge.store.verdicts import ALL, Filter, Verdict, check_text, verdict_from_row
from flawforge.types import ConfigError, DataError, Mask
from flawforge_runtime.images import MAX_PIXELS

WORDS = ("good", "defect", "unsure")
LONGEST_NOTE = 2000  # characters
MOST_BOXES = 100
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_MASK = 4 << 20  # bytes
MARKED = 127  # a pixel of a mask above this is part of the defect


@dataclass(frozen=True)
class Box:
    """Where a defect lies, in the picture's own pixels: left, top, width, height."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class Review:
    """What a person says of one verdict.

    verdict_id  of the Verdict
    who         the person or the token's name
    verdict     one of WORDS
    boxes       where the defect lies; empty = not said
    mask        where it lies, as a PNG of the picture's own size, white = defect; None = not said
    note        free text
    time        aware of its offset
    id          0 = not recorded yet; later ones are higher
    """

    verdict_id: int
    who: str
    verdict: str
    time: datetime.datetime
    boxes: tuple[Box, ...] = ()
    mask: bytes | None = None
    note: str = ""
    id: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `mask` says whether there is one."""
        data = asdict(self) | {"time": self.time.isoformat(), "mask": self.mask is not None}
        return data | {"boxes": [asdict(box) for box in self.boxes]}

    def marked(self, size: tuple[int, int]) -> Mask | None:
        """h w bool, where the defect lies: the mask, and the boxes filled; None where nothing was said."""
        if self.mask is None and not self.boxes:
            return None
        where = np.zeros(size, dtype=bool) if self.mask is None else _mask_of(self.mask, size)
        for box in self.boxes:
            where[box.y : box.y + box.h, box.x : box.x + box.w] = True
        return where


class Overtaken(ConfigError):
    """Somebody has reviewed the part in the meantime. review: that one, the newest."""

    def __init__(self, review: Review) -> None:
        super().__init__(
            f"{review.who} has reviewed this part as {review.verdict} in the meantime; look again before you add another "
            "review."
        )
        self.review = review


def add(
    store: Store,
    verdict_id: int,
    who: str,
    verdict: str,
    *,
    boxes: Sequence[Box] = (),
    mask: bytes | None = None,
    note: str = "",
    seen: int | None = None,
) -> Review:
    """Append a review, now, and return it with its id.

    seen  id of the newest review that the reviewer knows, 0 = none; None = does not matter
    mask  an opaque PNG of the picture's own size, white = defect, with at least one marked pixel
    Raises DataError where there is no such verdict; ConfigError for another word, a box outside the picture, a mask of
    another size, one that marks nothing or is not opaque, a place of a defect on a part that is called good, a text that is
    too long; Overtaken where another review has come since `seen`; Unreachable.
    """
    if verdict not in WORDS:
        raise ConfigError(f"The review {verdict!r} was given; allowed are {', '.join(WORDS)}.")
    check_text("name of the reviewer", who)
    check_text("note", note.replace("\n", " ").replace("\t", " "), LONGEST_NOTE)
    if verdict == "good" and (boxes or mask is not None):
        raise ConfigError("A good part was given a place of a defect; leave out box and mask, or say defect.")
    review = Review(verdict_id, who, verdict, datetime.datetime.now(datetime.UTC), tuple(boxes), mask, note)
    with store.writing() as connection:
        columns = (VERDICTS.c.height, VERDICTS.c.width)
        locked = sa.select(*columns).where(VERDICTS.c.id == verdict_id).with_for_update()  # of two reviewers one waits
        size = connection.execute(locked).one_or_none()
        if size is None:
            raise DataError(f"There is no result {verdict_id} to review; it may have been pruned.")
        _check_place(review, (int(size[0]), int(size[1])))
        if seen is not None:
            own = sa.select(REVIEWS).where(REVIEWS.c.verdict_id == verdict_id, REVIEWS.c.id > seen)
            newer = connection.execute(own.order_by(REVIEWS.c.id.desc()).limit(1)).mappings().one_or_none()
            if newer is not None:
                raise Overtaken(review_from_row(newer))
        values = {field.name: getattr(review, field.name) for field in fields(review)}
        del values["id"]
        values["boxes"] = [asdict(box) for box in review.boxes]
        number = connection.execute(sa.insert(REVIEWS).values(values).returning(REVIEWS.c.id)).scalar_one()
    return Review(**{field.name: getattr(review, field.name) for field in fields(review)} | {"id": number})


def _check_place(review: Review, size: tuple[int, int]) -> None:
    height, width = size
    if len(review.boxes) > MOST_BOXES:
        raise ConfigError(f"{len(review.boxes)} boxes were given, at most {MOST_BOXES} are allowed; draw a mask instead.")
    for box in review.boxes:
        inside = box.x >= 0 and box.y >= 0 and box.w >= 1 and box.h >= 1
        if not inside or box.x + box.w > width or box.y + box.h > height:
            raise ConfigError(
                f"The box x {box.x}, y {box.y}, {box.w} x {box.h} (w x h) leaves the picture of {width} x {height} pixels; "
                "give boxes inside it."
            )
    if review.mask is not None:
        _check_mask(review.mask, size)


def _check_mask(data: bytes, size: tuple[int, int]) -> None:
    """Raises ConfigError for a mask that says nothing, or more than somebody painted: without a mark, or not opaque."""
    marked = _mask_of(data, size)
    with PIL.open(io.BytesIO(data), formats=["PNG"]) as picture:
        mode, alpha = picture.mode, np.asarray(picture.convert("RGBA"))[..., 3]
        clear = picture.has_transparency_data and bool((alpha < 255).any())
        highest = int(np.asarray(picture.convert("L")).max())
    if clear or mode.startswith("I"):
        what = "transparent pixels" if clear else "16 bits a pixel"
        raise ConfigError(f"The mask has {what}; give an opaque one of 8 bits, its marked pixels above {MARKED} (white).")
    if not marked.any():
        raise ConfigError(
            f"The mask marks nothing, its highest value is {highest}; paint at least one pixel above {MARKED} (white is "
            "255) on an opaque black ground, or leave the mask out."
        )


def _mask_of(data: bytes, size: tuple[int, int]) -> Mask:
    if not data.startswith(PNG) or len(data) > LARGEST_MASK:
        raise ConfigError(f"The mask is no PNG of at most {LARGEST_MASK >> 20} MiB; give a PNG of the picture's own size.")
    try:
        with PIL.open(io.BytesIO(data), formats=["PNG"]) as picture:
            own = (picture.height, picture.width)
            if own != size or own[0] * own[1] > MAX_PIXELS:
                raise ConfigError(
                    f"The mask is {own[0]} x {own[1]} pixels (h x w) and the picture {size[0]} x {size[1]}; "
                    "give a mask of the picture's own size."
                )
            return np.asarray(picture.convert("L")) > MARKED
    except ConfigError:
        raise
    except (OSError, ValueError, SyntaxError, PIL.DecompressionBombError) as error:
        raise ConfigError(f"The mask cannot be read ({error}); give a PNG of the picture's own size.") from None


def review_from_row(row: Mapping[Any, Any]) -> Review:
    """A Review of a row of REVIEWS, by column name."""
    values = {field.name: row[field.name] for field in fields(Review)}
    return Review(**values | {"boxes": tuple(Box(**box) for box in values["boxes"])})


def of(store: Store, verdict_id: int) -> tuple[Review, ...]:
    """Every review of a verdict, the newest first; the first one counts. Raises Unreachable."""
    query = sa.select(REVIEWS).where(REVIEWS.c.verdict_id == verdict_id).order_by(REVIEWS.c.id.desc())
    with store.reading() as connection:
        return tuple(review_from_row(row) for row in connection.execute(query).mappings())


def newest() -> sa.Subquery:
    """SQL: verdict_id and the id of its newest review."""
    last = sa.func.max(REVIEWS.c.id).label("review_id")
    return sa.select(REVIEWS.c.verdict_id, last).group_by(REVIEWS.c.verdict_id).subquery("newest")


def latest(store: Store, verdict_ids: Sequence[int]) -> dict[int, Review]:
    """{id of a verdict: its newest review}, for those that have one. Raises Unreachable."""
    if not verdict_ids:
        return {}
    last = sa.select(sa.func.max(REVIEWS.c.id)).where(REVIEWS.c.verdict_id.in_(verdict_ids)).group_by(REVIEWS.c.verdict_id)
    with store.reading() as connection:
        rows = connection.execute(sa.select(REVIEWS).where(REVIEWS.c.id.in_(last))).mappings()
        return {row["verdict_id"]: review_from_row(row) for row in rows}


def reviewed(store: Store, which: Filter = ALL, words: Sequence[str] = WORDS) -> Iterator[tuple[Verdict, Review]]:
    """(verdict, its newest review) where that review is one of `words`, the oldest verdict first. Raises Unreachable."""
    last, after, step = newest(), 0, 500
    named = [column.label(f"review_{column.name}") for column in REVIEWS.c]
    joined = VERDICTS.join(last, last.c.verdict_id == VERDICTS.c.id).join(REVIEWS, REVIEWS.c.id == last.c.review_id)
    query = sa.select(VERDICTS, *named).select_from(joined).where(*which.conditions(), REVIEWS.c.verdict.in_(tuple(words)))
    while True:
        part = query.where(VERDICTS.c.id > after).order_by(VERDICTS.c.id).limit(step)
        with store.reading() as connection:
            rows = list(connection.execute(part).mappings())
        for row in rows:
            review = {column.name: row[f"review_{column.name}"] for column in REVIEWS.c}
            yield verdict_from_row(row), review_from_row(review)
        if len(rows) < step:
            return
        after = rows[-1]["id"]


def queue(store: Store, *, limit: int = 50, station: str = "", model: str = "") -> tuple[Verdict, ...]:
    """Verdicts that wait for a person, the oldest first: without a review, and REVIEW, NG or chosen by chance.

    Raises Unreachable.
    """
    which = Filter(reviewed=False, station=station, model=model)
    waits = sa.or_(VERDICTS.c.verdict != "OK", VERDICTS.c.sampled)
    query = sa.select(VERDICTS).where(*which.conditions(), waits).order_by(VERDICTS.c.id).limit(limit)
    with store.reading() as connection:
        return tuple(verdict_from_row(row) for row in connection.execute(query).mappings())
