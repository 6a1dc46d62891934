r"""Decisions as rows and pictures: what `inspect` prints, or writes to a new folder.

A row has the fields of `flawforge_runtime.feed.FIELDS`; the row of a picture that could not be judged has `image_path` and
`error` alone. A higher score is stranger.

JSON lines hold a file's name as it is: a byte that is not UTF-8 is a lone surrogate (PEP 383), \udce4 for the byte e4, and
Python's os.fsencode gives the bytes back. CSV is made for spreadsheets: `notes` are joined with "; ", control characters and
such bytes are shown as \x1b and \xe4, and an apostrophe stands before what a spreadsheet would take for a formula.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawforge.reporting.overlays import overlay
from flawforge.types import DataError, Decision, ModelError
from flawforge_runtime import bundle, feed
from flawforge_runtime.files import free
from flawforge_runtime.images import write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.names import cell, part_of_name
from flawforge_runtime.tiles import picture_like

UNFINISHED = "unfinished.txt"
WHY = """`flawforge inspect` began to write here on {when} (process {process}) and has not come to the end.
Each line of {name} is one picture, and whole; after a kill or a power cut the last one may be cut short.
Pictures without a line have not been judged.
"""

Write = Callable[[dict[str, Any]], None]


@contextmanager
def open_results(out: Path | None, form: str) -> Iterator[tuple[Write, Path | None]]:
    """A row writer to standard output, or to `out`, a new or empty folder that is taken at once: (writer, folder).

    Every row is on its way to the disk before the next picture is judged. Until the end `out` holds UNFINISHED beside
    results.csv or results.jsonl; where an error or Ctrl-C ends the run it stays there, with the rows so far. Only a run
    without a row leaves nothing.

    Raises ModelError where `out` exists or another run has it; DataError where a row cannot be written.
    """
    if out is None:
        yield _row_writer(_print, form), None
        return
    name = f"results.{form}"
    made_here = _take(out, name)
    lines, header = 0, form == "csv"
    try:
        with (out / name).open("xb", buffering=0) as file:

            def put(line: str) -> None:
                nonlocal lines
                try:
                    _append(file, line)
                except OSError as error:
                    reason = error.strerror or type(error).__name__
                    saved = f"its {lines - header} rows so far are whole; " if lines > header else ""
                    raise DataError(f"{out / name} could not be written ({reason}); {saved}free some space.") from error
                lines += 1

            yield _row_writer(put, form), out
    except BaseException:
        if lines <= header:  # no row
            _give_up(out, made_here, name, UNFINISHED)
        raise
    (out / UNFINISHED).unlink()


@dataclass
class Tally(feed.Tally):
    """What came out of a run so far. undrawn: overlays that could not be written."""

    undrawn: int = 0

    def faults(self, missed: int) -> str:
        """What went wrong, in one sentence; "" where nothing did. missed: folders that gave no picture."""
        faults = []
        if self.skipped:
            faults.append(f"{self.skipped} of {self.count} files could not be judged")
        if missed:
            faults.append(f"{missed} folder{'s' * (missed > 1)} could not be read or held no picture")
        if self.undrawn:
            faults.append(f"{self.undrawn} overlay{'s' * (self.undrawn > 1)} could not be written")
        return f"{', '.join(faults)}; they are named above, the rest is done." if faults else ""


def judge_all(
    inspector: Inspector, paths: Iterable[Path], write: Write, tally: Tally, overlays: Path | None, say: feed.Say
) -> Iterator[None]:
    """Judge, write the row, draw the overlay where `overlays` is a folder, and yield; `say` is told what goes wrong."""
    for result in feed.inspect_paths(inspector, paths):
        row = feed.row_of(result, inspector.about["model_id"])
        write(row)
        tally.add(row)
        if "error" in row:
            say(f"skipped: {row['error']}")
        elif overlays is not None and isinstance(result, Decision):
            try:
                write_overlay(overlays, result, inspector, inspector.max_pixels, tally.count)
            except Exception as error:  # the picture is gone, the disk is full: it costs the overlay, and not the row
                tally.undrawn += 1
                say(f"No overlay of {result.image_path} could be written: {error or type(error).__name__}")
        yield


def write_overlay(folder: Path, decision: Decision, inspector: Inspector, max_pixels: int, number: int) -> Path:
    """folder/overlays/VERDICT-name-number.jpg: the picture with its marks, and beside it the heat map. Returns its path.

    number  the picture's row, from 1; no two overlays of one run can have the same name then
    """
    path = Path(decision.image_path)
    pixels = picture_like(path, decision.anomaly_map.shape, max_pixels)
    assert inspector.calibration is not None  # it gave a Decision
    drawn = overlay(pixels, decision, inspector.calibration.scale)
    (folder / "overlays").mkdir(exist_ok=True)
    target = folder / "overlays" / f"{decision.verdict}-{part_of_name(path.stem)}-{number:06d}.jpg"
    write_image(target, drawn)
    return target


def _take(out: Path, name: str) -> bool:
    """Make `out`, or take an empty one, so that no other run can: (whether it was made here)."""
    taken = bundle.TAKEN.format(folder=out)
    if (out / UNFINISHED).exists():
        taken = (
            f"{out} exists already, with the rows of a run that has not come to its end ({UNFINISHED} says more); "
            "give another -o, or remove it first."
        )
    made_here = not out.exists()
    if not free(out):
        raise ModelError(taken)
    out.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    try:
        with (out / UNFINISHED).open("x", encoding="utf-8") as file:  # only one of two that come at once can make it
            file.write(WHY.format(when=now, process=os.getpid(), name=name))
    except FileExistsError:
        raise ModelError(taken) from None
    except OSError:
        _give_up(out, made_here, UNFINISHED)
        raise
    if any(path.name != UNFINISHED for path in out.iterdir()):  # another run came to its end meanwhile
        (out / UNFINISHED).unlink()
        raise ModelError(taken)
    return made_here


def _give_up(out: Path, made_here: bool, *names: str) -> None:
    with suppress(OSError):
        for name in names:
            (out / name).unlink(missing_ok=True)
        if made_here:
            out.rmdir()


def _append(file: io.FileIO, line: str) -> None:
    """One line, handed to the system at once; where that fails half way, the half is taken back."""
    start, left = file.tell(), line.encode("utf-8", "backslashreplace")
    try:
        while left:
            left = left[file.write(left) :]
    except BaseException:
        with suppress(OSError):
            file.truncate(start)
            file.seek(start)
        raise


def _print(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _row_writer(put: Callable[[str], None], form: str) -> Write:
    if form == "jsonl":
        return lambda row: put(json.dumps(row, allow_nan=False) + "\n")
    columns = (*feed.FIELDS, "error")
    put(_csv_line(columns))
    return lambda row: put(_csv_line([_cell(column, row.get(column, "")) for column in columns]))


def _csv_line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _cell(column: str, value: Any) -> Any:
    if column == "notes":
        value = "; ".join(value)
    elif column == "regions" and value != "":
        value = json.dumps(value)
    return cell(value) if isinstance(value, str) else value
