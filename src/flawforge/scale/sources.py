"""Which pictures a run on Ray is to judge: folders, tables of paths, and what lies in an object store."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flawforge.scale.fetching import FOR_GOOD, PATIENCE, Patience, is_url, patient, store_of
from flawforge.types import DataError
from flawforge_runtime.decode import FORMATS, SUFFIXES
from flawforge_runtime.feed import Say, Source

COLUMN = "image_path"
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Listing:
    """names: a path or an address for each picture, in the order of the rows; missed: folders that gave no picture."""

    names: tuple[str, ...]
    missed: int = 0


def listed(sources: Sequence[Path | str], say: Say = lambda sentence: None, patience: Patience = PATIENCE) -> Listing:
    """Every picture of `sources`, each of them a picture, a folder, a table of paths, or an address of these.

    A table is a CSV or Parquet file with a column image_path; its relative paths begin at its own folder.
    Raises DataError where there is no picture, or a table has no such column; StoreError where a store does not answer.
    """
    names: list[str] = []
    missed = 0
    for source in sources:
        if isinstance(source, str) and is_url(source):
            names += _of_store(source, patience)
        elif Path(source).suffix.lower() in TABLES and Path(source).is_file():
            path = Path(source)
            names += _of_table(path.read_bytes(), str(path), lambda name, folder=path.parent: str(folder / name))  # type: ignore[misc]
        else:
            pictures = Source((Path(source),), say=say)
            names += map(str, pictures)
            missed += pictures.missed
    if not names:
        raise DataError(f"No picture in {', '.join(map(str, sources))}; give a folder, a table of paths or an address.")
    return Listing(tuple(names), missed)


def _of_store(url: str, patience: Patience) -> list[str]:
    store, path = store_of(url)
    store.invalidate_cache()
    try:
        if PurePosixPath(path).suffix.lower() in TABLES:
            data = patient(lambda: bytes(store.cat_file(path)), url, patience)
            return _of_table(data, url, lambda name: f"{url.rpartition('/')[0]}/{name}")
        below = patient(lambda: store.find(path), url, patience)
    except FOR_GOOD as error:
        raise DataError(f"{url} cannot be read ({error}); check the address and your rights.") from None
    shown = [each for each in below if PurePosixPath(each).suffix.lower() in SUFFIXES]
    names = [str(store.unstrip_protocol(each)) for each in sorted(shown) if not _hidden(each, path)]
    if not names:
        raise DataError(f"No picture in {url} ({len(below)} other files); give an address of {FORMATS} pictures.")
    return names


def _hidden(path: str, folder: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path.removeprefix(folder)).parts)


def _of_table(data: bytes, name: str, below: Callable[[str], str]) -> list[str]:
    column = _parquet(data, name) if name.lower().endswith(".parquet") else _csv(data, name)
    return [each if is_url(each) or Path(each).is_absolute() else below(each) for each in column if each]


def _csv(data: bytes, name: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="surrogateescape"), newline=""))
    if COLUMN not in (rows.fieldnames or ()):
        raise DataError(f"{name} has no column {COLUMN} (it has {', '.join(rows.fieldnames or ()) or 'none'}); name it so.")
    return [row[COLUMN] or "" for row in rows]


def _parquet(data: bytes, name: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        table: Any = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no Parquet file ({str(error).splitlines()[0]}); write it again.") from None
    if COLUMN not in table.column_names:
        raise DataError(f"{name} has no column {COLUMN} (it has {', '.join(table.column_names) or 'none'}); name it so.")
    return [str(each or "") for each in table[COLUMN].to_pylist()]
