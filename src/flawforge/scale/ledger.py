"""The folder of a run on Ray: its list of pictures, its finished parts, and a manifest that counts each of them once.

    run.json             what is judged with what: the same command finds it and goes on
    pictures.parquet     the list, written before the first picture is judged; part k is its k-th slice
    parts/part-000000.parquet   the rows of a slice, in its order
    manifest.jsonl       one line per finished part, with its sha256; a part without a line does not count
    manifest.json        the same, once every part is there
    unfinished.txt       as long as parts are missing

A part is written whole, then its line. A kill between the two costs that part, which is then judged again and written over.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flawforge.scale.worker import COUNTS, escaped
from flawforge.types import DataError, ModelError
from flawforge_runtime import bundle
from flawforge_runtime.files import free, locked, new_file, sync, write_atomically

FORMAT = 1
RUN, PICTURES, LINES, MANIFEST, PARTS, UNFINISHED = (
    "run.json",
    "pictures.parquet",
    "manifest.jsonl",
    "manifest.json",
    "parts",
    "unfinished.txt",
)
WHY = "`flawforge inspect --ray` has begun to write here and has not come to the end; the same command goes on with it.\n"


@dataclass
class Ledger:
    """A run's folder, open for writing. size: pictures in a part; done: the manifest's entry of each finished part."""

    folder: Path
    names: Sequence[str]
    size: int
    done: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-len(self.names) // self.size)

    @property
    def missing(self) -> list[int]:
        """Parts that are still to be judged."""
        return [part for part in range(self.count) if part not in self.done]

    def slice(self, part: int) -> Sequence[str]:
        """The pictures of a part."""
        return self.names[part * self.size : (part + 1) * self.size]

    def totals(self) -> dict[str, int]:
        """How many rows there are of each of COUNTS, in all finished parts."""
        return {name: sum(entry["counts"][name] for entry in self.done.values()) for name in COUNTS}

    def commit(self, part: int, data: bytes, counts: Sequence[int]) -> bool:
        """Write a part and then its line; False where it was finished before. Its rows must be those of its pictures.

        Raises DataError where the disk is full or the rows are of other pictures; the run can go on later in both cases.
        """
        if part in self.done:
            return False
        if _paths(data) != [escaped(name) for name in self.slice(part)]:
            raise DataError(f"A worker gave part {part} the rows of other pictures; run the same command again.")
        path = part_file(self.folder, part)
        entry = {
            "part": part,
            "file": path.relative_to(self.folder).as_posix(),
            "rows": len(self.slice(part)),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "counts": dict(zip(COUNTS, map(int, counts), strict=True)),
        }
        try:
            write_atomically(path, data)
            _append(self.folder / LINES, json.dumps(entry) + "\n")
        except OSError as error:
            raise DataError(
                f"{self.folder} could not be written to ({error.strerror or type(error).__name__}); its {len(self.done)} of "
                f"{self.count} parts are whole: free some space and run the same command again."
            ) from error
        self.done[part] = entry
        return True

    def finish(self) -> None:
        """The manifest of a run whose parts are all there; from here on the folder is complete."""
        entries = [self.done[part] for part in range(self.count)]
        facts = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        text = json.dumps({**facts, "parts": entries, "totals": self.totals()}, indent=1)
        write_atomically(self.folder / MANIFEST, text.encode())
        # Stopped between the two, the run is complete; the other way round it would go on with nothing done.
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        sync(self.folder)
        (self.folder / LINES).unlink()


def part_file(folder: Path, part: int) -> Path:
    """Where a part's rows lie."""
    return folder / PARTS / f"part-{part:06d}.parquet"


@contextmanager
def opened(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Hold the folder, which need not exist: (what its unfinished run is, None for a new folder).

    Raises ModelError where it holds something else, or a run that another process is at.
    """
    try:
        with locked(folder):
            yield _unfinished(folder)
    except BlockingIOError:
        raise ModelError(f"{folder} is being written by another run; wait until it ends, or give another -o.") from None


def _unfinished(folder: Path) -> dict[str, Any] | None:
    if (folder / UNFINISHED).is_file() and (folder / RUN).is_file() and (folder / PICTURES).is_file():
        try:
            found = json.loads((folder / RUN).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ModelError(f"{folder / RUN} was changed since the run began; remove {folder} and run again.")
        return found
    if not free(folder) and {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {
        UNFINISHED,
        PICTURES,
    }:
        raise ModelError(bundle.TAKEN.format(folder=folder))
    return None


def begin(folder: Path, facts: Mapping[str, Any], names: Sequence[str], size: int) -> Ledger:
    """A new run. facts: what it is, JSON-able; a run is gone on with where they are the same. Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet

    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).write_text(WHY, encoding="utf-8")
    table = pa.table({"image_path": pa.array([os.fsencode(name) for name in names], pa.binary())})
    with new_file(folder / PICTURES, over=True) as draft:
        pyarrow.parquet.write_table(table, draft)
    described = {"format": FORMAT, **facts, "pictures": len(names), "part_size": size, "listing": _listing_hash(names)}
    write_atomically(folder / RUN, json.dumps(described, indent=1).encode())  # last: with it the run can be gone on with
    return Ledger(folder, names, size)


def resumed(folder: Path, found: Mapping[str, Any], facts: Mapping[str, Any]) -> Ledger:
    """The run that was stopped here, with the pictures that it began with; a part whose file is not whole counts as missing.

    Raises ModelError where it was begun with another model, other limits or other pictures.
    """
    import pyarrow
    import pyarrow.parquet

    differ = [name for name in facts if found.get(name) != facts[name]]
    if differ or found.get("format") != FORMAT:
        raise ModelError(
            f"{folder} holds a run that was begun with another {' and '.join(differ) or 'version of flawforge'}; give the "
            "same command to go on with it, or another -o."
        )
    changed = f"{folder / PICTURES} was changed since the run began; remove {folder} and run again."
    try:
        column = pyarrow.parquet.read_table(folder / PICTURES)["image_path"].to_pylist()
        names = [os.fsdecode(name) for name in column]
    except (pyarrow.ArrowException, KeyError, TypeError, OSError):
        raise ModelError(changed) from None
    if _listing_hash(names) != found["listing"]:
        raise ModelError(changed)
    ledger = Ledger(folder, names, found["part_size"])
    ledger.done = {entry["part"]: entry for entry in _lines(folder / LINES) if _whole(folder, entry)}
    return ledger


def _lines(path: Path) -> list[dict[str, Any]]:
    """The manifest's entries; a last line that a power cut left incomplete is cut off."""
    if not path.exists():
        return []
    data, entries, length = path.read_bytes(), [], 0
    for line in data.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        entries.append(entry)
        length += len(line)
    if length < len(data):
        os.truncate(path, length)
    return entries


def _whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    except OSError:
        return False


def _append(path: Path, line: str) -> None:
    """A line that is on the disk when this returns; where it fails half way, the half is taken back."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        start, left = os.fstat(handle).st_size, line.encode()
        try:
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(handle, start)
            raise
    finally:
        os.close(handle)
    sync(path.parent)


def _paths(data: bytes) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        found: list[str] = pyarrow.parquet.read_table(io.BytesIO(data), columns=["image_path"])["image_path"].to_pylist()
    except (pyarrow.ArrowException, KeyError, OSError):
        return []  # which are no part's
    return found


def _listing_hash(names: Sequence[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        total.update(os.fsencode(name) + b"\0")
    return total.hexdigest()
