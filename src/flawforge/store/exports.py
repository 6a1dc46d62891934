"""Verdicts with their newest review, or pictures that were not judged, as a table: CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from flawforge.store import not_judged
from flawforge.store.not_judged import NotJudged
from flawforge.store.opening import Store
from flawforge.store.reviews import Review, latest
from flawforge.store.verdicts import ALL, MOST, Filter, Verdict, listed
from flawforge.types import ConfigError, DataError
from flawforge_runtime import bundle
from flawforge_runtime.files import new_file
from flawforge_runtime.names import cell

COLUMNS = (
    "id",
    "time",
    "source",
    "station",
    "part_id",
    "picture",
    "sha256",
    "height",
    "width",
    "model",
    "model_id",
    "manifest",
    "score",
    "score_normalised",
    "p_value",
    "threshold",
    "review_threshold",
    "verdict",
    "valid",
    "notes",
    "region_count",
    "x",
    "y",
    "w",
    "h",
    "overlay",
    "seconds",
    "sampled",
    "review",
    "reviewed_by",
    "review_time",
    "review_note",
)
TYPES: dict[str, type] = {
    **dict.fromkeys(("id", "height", "width", "region_count", "x", "y", "w", "h"), int),
    **dict.fromkeys(("score", "score_normalised", "p_value", "threshold", "review_threshold", "seconds"), float),
    **dict.fromkeys(("valid", "sampled"), bool),
}


NOT_JUDGED = ("id", *(field.name for field in fields(NotJudged) if field.name not in ("id", "key")))
Rows = Iterator[Sequence[Mapping[str, Any]]]


def export(store: Store, out: Path, which: Filter = ALL) -> int:
    """Write the verdicts, the newest first, to a new .csv or .parquet file; returns how many.

    Of the marked regions the count and the box of the largest one. The file appears whole or not at all. Memory does not
    grow with the number of rows.
    Raises ConfigError for another ending, a file that exists, or a package that is missing; DataError where the file cannot
    be written; Unreachable.
    """
    return _write(out, COLUMNS, _pages(store, which))


def export_not_judged(store: Store, out: Path, which: Filter = ALL) -> int:
    """Write the pictures that were not judged, as `export` does; `not_judged.listed` says which filters count."""
    return _write(out, NOT_JUDGED, _pages_not_judged(store, which))


def _write(out: Path, columns: Sequence[str], pages: Rows) -> int:
    ending = out.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ConfigError(f"{out} ends in {ending or 'nothing'}; give a file that ends in .csv or .parquet.")
    if out.exists():
        raise ConfigError(bundle.TAKEN.format(folder=out))
    count = 0
    try:
        with new_file(out) as draft, (_csv if ending == ".csv" else _parquet)(draft, columns) as write:
            for rows in pages:
                write(rows)
                count += len(rows)
    except FileExistsError:  # another came meanwhile
        raise ConfigError(bundle.TAKEN.format(folder=out)) from None
    except OSError as error:
        raise DataError(f"{out} could not be written ({error.strerror or error}); free some space.") from error
    return count


def csv_text(store: Store, which: Filter = ALL) -> Iterator[str]:
    """The same CSV, piece by piece. Raises Unreachable."""
    yield _lines([COLUMNS])
    for rows in _pages(store, which):
        yield _lines([[_cell(value) for value in each.values()] for each in rows])


def _lines(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _pages(store: Store, which: Filter) -> Iterator[list[dict[str, Any]]]:
    cursor: str | None = None
    while True:
        page = listed(store, which, cursor=cursor, limit=MOST)
        reviews = latest(store, [verdict.id for verdict in page.verdicts])
        yield [row(verdict, reviews.get(verdict.id)) for verdict in page.verdicts]
        if page.cursor is None:
            return
        cursor = page.cursor


def _pages_not_judged(store: Store, which: Filter) -> Iterator[list[dict[str, Any]]]:
    cursor: str | None = None
    while True:
        page = not_judged.listed(store, which, cursor=cursor, limit=MOST)
        yield [each.as_dict() for each in page.pictures]
        if page.cursor is None:
            return
        cursor = page.cursor


def row(verdict: Verdict, review: Review | None) -> dict[str, Any]:
    """A flat row with COLUMNS; None = nothing to say."""
    largest = max(verdict.regions, key=lambda region: region.area, default=None)
    found: dict[str, Any] = {name: getattr(verdict, name) for name in COLUMNS if hasattr(verdict, name)}
    found |= {name: getattr(largest, name, None) for name in ("x", "y", "w", "h")}
    found |= {"time": verdict.time.isoformat(), "notes": "; ".join(verdict.notes), "region_count": len(verdict.regions)}
    found |= {"review": None, "reviewed_by": None, "review_time": None, "review_note": None}
    if review is not None:
        found |= {"review": review.verdict, "reviewed_by": review.who, "review_note": review.note}
        found["review_time"] = review.time.isoformat()
    return {name: found[name] for name in COLUMNS}


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(_lines([columns]))
        yield lambda rows: file.write(_lines([[_cell(each[name]) for name in columns] for each in rows]))


def _cell(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else "" if value is None else value


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "A .parquet file needs the package pyarrow, which is not installed; pip install 'flawforge[parquet]', or give a "
            ".csv file."
        ) from None
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[TYPES.get(name, str)]) for name in columns])

    def write(rows: Sequence[Mapping[str, Any]]) -> None:
        plain = [{name: _plain(each[name]) for name in columns} for each in rows]
        writer.write_table(pyarrow.Table.from_pylist(plain, schema=schema))

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        yield write


def _plain(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
