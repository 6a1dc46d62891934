"""A fair sample of reviewed good parts: which reviews may set a threshold.

A part comes to review because of its verdict (NG or REVIEW), or by chance: about one in n, whatever its score. Those of the
first sort are the most anomalous parts. A limit from them would be too high, and nothing could be said of its false-alarm
rate. So only parts that were chosen by chance count, and of these every one up to the first that still waits: whoever
reviews the striking ones first would select by score again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flawforge.store.opening import Store
from flawforge.store.reviews import Review, newest, review_from_row
from flawforge.store.tables import REVIEWS, VERDICTS
from flawforge.store.verdicts import Filter, Verdict, verdict_from_row
from flawforge.types import DataError

UNSURE_MOST = 0.1  # share of a sample that may be called unsure: what is left would be selected by doubt


@dataclass(frozen=True)
class FairSample:
    """Parts that were chosen for review by chance and reviewed without a gap, the oldest first.

    good     of them those that a person calls good; a picture that was judged twice counts once
    defect   how many a person calls defective
    unsure   how many neither
    waiting  chosen by chance, and newer than the first one without a review, or that one itself
    picked   reviewed good parts that were not chosen by chance, and do not count
    """

    good: tuple[Verdict, ...]
    defect: int
    unsure: int
    waiting: int
    picked: int

    def lines(self) -> list[str]:
        """For people."""
        told = [
            f"{len(self.good)} good parts that were queued for review by chance; of the others that were, {self.defect} are "
            f"defective and {self.unsure} unsure"
        ]
        if self.waiting:
            told.append(
                f"{self.waiting} more were queued by chance; they do not count, as the oldest of them waits for review"
            )
        if self.picked:
            told.append(
                f"{self.picked} reviewed good parts do not count, as they were queued for their verdict, not by chance"
            )
        return told


def fair_sample(store: Store, which: Filter) -> FairSample:
    """The good parts among the verdicts of `which` that may set a threshold.

    Raises DataError where there are none, in words that say why: nothing reviewed, all selected by their verdict, the oldest
    one waits, or too many unsure ones; Unreachable.
    """
    last = newest()
    named = [column.label(f"review_{column.name}") for column in REVIEWS.c]
    joined = VERDICTS.outerjoin(last, last.c.verdict_id == VERDICTS.c.id).outerjoin(
        REVIEWS, REVIEWS.c.id == last.c.review_id
    )
    query = sa.select(VERDICTS, *named).select_from(joined).where(*which.conditions())
    chosen = query.where(VERDICTS.c.sampled).order_by(VERDICTS.c.id)
    picked = sa.select(sa.func.count()).select_from(joined)
    picked = picked.where(*which.conditions(), ~VERDICTS.c.sampled, REVIEWS.c.verdict == "good")
    with store.reading() as connection:
        rows = list(connection.execute(chosen).mappings())
        others = int(connection.execute(picked).scalar_one())
    gap = next((place for place, row in enumerate(rows) if row["review_id"] is None), len(rows))
    newest_first: dict[str, tuple[Verdict, Review]] = {}
    for row in rows[:gap]:
        pair = verdict_from_row(row), _review(row)
        held = newest_first.get(pair[0].sha256)
        if held is None or pair[1].id > held[1].id:
            newest_first[pair[0].sha256] = pair
    words = [review.verdict for _, review in newest_first.values()]
    good = sorted((v for v, review in newest_first.values() if review.verdict == "good"), key=lambda verdict: verdict.id)
    sample = FairSample(tuple(good), words.count("defect"), words.count("unsure"), len(rows) - gap, others)
    _check(sample, rows[gap]["id"] if gap < len(rows) else None)
    return sample


def _review(row: Any) -> Review:
    return review_from_row({column.name: row[f"review_{column.name}"] for column in REVIEWS.c})


def _check(sample: FairSample, gap: int | None) -> None:
    reviewed = len(sample.good) + sample.defect + sample.unsure
    if sample.unsure > UNSURE_MOST * reviewed:
        raise DataError(
            f"{sample.unsure} of {reviewed} parts that were queued by chance are unsure, at most {UNSURE_MOST:.0%} may be: "
            "without them the others are selected; have them decided good or defect."
        )
    if sample.good:
        return
    if gap is not None:
        raise DataError(
            f"Result {gap}, the oldest part that was queued for review by chance, waits for its review, so there is no fair "
            f"sample yet; review it and the {sample.waiting - 1} that follow, whatever they look like."
        )
    if sample.picked:
        raise DataError(
            f"{sample.picked} reviewed good parts were queued for their verdict, NG or REVIEW, and none by chance: they are "
            "the most anomalous ones, so a limit from them would be too high and its false-alarm rate unknown; run "
            "`flawforge serve` with --sample-every, so that every n-th part is queued at random, and review those."
        )
    raise DataError(
        "No part was queued for review by chance and called good, so there is nothing to calibrate on; run "
        "`flawforge serve` with --sample-every and review what it queues."
    )
