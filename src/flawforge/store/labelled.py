"""Reviewed parts as a labelled folder in MVTec layout, for `evaluate` and `fit --defects`.

    test/good/RESULT.png               a person called it good
    test/defect/RESULT.png             a person called it defective, and said where
    ground_truth/defect/RESULT_mask.png
    test/defect_unmarked/RESULT.png    defective, and nobody said where
    reviews.csv                        which result each file is, who reviewed it, when, and by which model it was judged

RESULT is the result's number in the store. Files are copied as they were judged, and checked against their SHA-256.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawforge.store.kept import kept_path, sha256_of
from flawforge.store.opening import Store
from flawforge.store.reviews import Review, reviewed
from flawforge.store.verdicts import ALL, Filter, Verdict
from flawforge.types import ConfigError, DataError
from flawforge_runtime import bundle
from flawforge_runtime.files import free, new_folder
from flawforge_runtime.images import write_image
from flawforge_runtime.names import cell

COLUMNS = (
    "file",
    "mask",
    "result",
    "review",
    "reviewed_by",
    "review_time",
    "note",
    "verdict",
    "score",
    "model",
    "model_id",
    "sampled",
    "station",
    "part_id",
    "picture",
    "sha256",
)
GOOD, MARKED, UNMARKED = "good", "defect", "defect_unmarked"


@dataclass(frozen=True)
class Labelled:
    """What `export_labelled` wrote.

    out                     the folder
    good, marked, unmarked  pictures of good parts, of defects with a mask, and of defects without one
    no_mask                 defects of which nobody said where they are, which were left out on request
    unsure                  reviews that say neither, which are left out
    lost                    pictures that the store does not keep, or keeps with other bytes than were judged
    twice                   results of a picture that another result shows too; its newest review counts
    """

    out: Path
    good: int
    marked: int
    unmarked: int
    no_mask: int
    unsure: int
    lost: int
    twice: int

    def lines(self) -> list[str]:
        """For people."""
        told = [f"{self.out}: {self.good} good parts, {self.marked} defective ones with a mask, {self.unmarked} without"]
        if self.no_mask:
            told.append(f"left out, as nobody said where the defect is: {self.no_mask}")
        if self.unsure:
            told.append(f"left out, as their review is unsure: {self.unsure}")
        if self.lost:
            told.append(f"left out, as their picture is not kept as it was judged: {self.lost}")
        if self.twice:
            told.append(f"left out, as the same picture has a newer review: {self.twice}")
        return told

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        counts = {name: getattr(self, name) for name in ("good", "marked", "unmarked", "no_mask", "unsure", "lost", "twice")}
        return {"out": str(self.out), **counts}


def export_labelled(store: Store, out: Path, which: Filter = ALL, *, marked_only: bool = False) -> Labelled:
    """Write the reviewed pictures of one model's product to a new folder `out`, which appears whole or not at all.

    which        of the verdicts; where it names no model, all must be of one, for another model may judge another product
    marked_only  leave out defective parts of which nobody said where the defect is, as `fit --defects` asks for a mask
    Raises ConfigError where `out` exists or there are several models, DataError where nothing can be written, Unreachable.
    """
    if not free(out):
        raise ConfigError(bundle.TAKEN.format(folder=out))
    if store.files is None:
        raise ConfigError("The store keeps no pictures; give the folder of kept pictures with --files.")
    newest: dict[str, tuple[Verdict, Review]] = {}
    total = 0
    for verdict, review in reviewed(store, which):
        total += 1
        if verdict.sha256 not in newest or review.id > newest[verdict.sha256][1].id:
            newest[verdict.sha256] = verdict, review
    models = sorted({verdict.model for verdict, _ in newest.values()})
    if len(models) > 1 and not (which.model or which.model_id):
        raise ConfigError(f"The store holds reviews of the models {', '.join(models)}; choose one with --model.")
    counts = dict.fromkeys((GOOD, MARKED, UNMARKED), 0)
    unsure = lost = no_mask = 0
    with new_folder(out) as draft:
        rows = []
        for verdict, review in newest.values():
            if review.verdict == "unsure":
                unsure += 1
                continue
            where = review.marked((verdict.height, verdict.width)) if review.verdict == "defect" else None
            kind = GOOD if review.verdict == "good" else UNMARKED if where is None or not where.any() else MARKED
            if kind == UNMARKED and marked_only:
                no_mask += 1
                continue
            source = kept_path(store.files, verdict.kept)
            data = source.read_bytes() if source is not None else b""
            if source is None or sha256_of(data) != verdict.sha256:
                lost += 1
                continue
            counts[kind] += 1
            name = f"{verdict.id:08d}"
            picture = draft / "test" / kind / f"{name}{source.suffix}"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(data)
            mask = draft / "ground_truth" / kind / f"{name}_mask.png"
            if kind == MARKED and where is not None:
                mask.parent.mkdir(parents=True, exist_ok=True)
                write_image(mask, where)
            rows.append(
                _row(verdict, review, picture.relative_to(draft), mask.relative_to(draft) if kind == MARKED else None)
            )
        if not rows:
            raise DataError(
                f"None of {total} reviewed results can be written ({unsure} unsure, {no_mask} without a mask, {lost} "
                f"pictures not kept, {total - len(newest)} of a picture that has a newer review); review more, or serve "
                "with --keep all."
            )
        with (draft / "reviews.csv").open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    return Labelled(out, counts[GOOD], counts[MARKED], counts[UNMARKED], no_mask, unsure, lost, total - len(newest))


def _row(verdict: Verdict, review: Review, picture: Path, mask: Path | None) -> list[Any]:
    values: dict[str, Any] = {name: getattr(verdict, name, "") for name in COLUMNS}
    values |= {"file": picture.as_posix(), "mask": mask.as_posix() if mask else "", "result": verdict.id}
    values |= {"review": review.verdict, "reviewed_by": review.who, "review_time": review.time.isoformat()}
    values |= {"note": review.note}
    return [cell(value) if isinstance(value, str) else value for value in values.values()]
