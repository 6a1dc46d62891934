r"""Decisions as rows and pictures: what `inspect` prints, or writes to a new folder.

JSON lines hold the fields of `flawforge_runtime.feed.FIELDS` and `overlay`; the row of a picture that could not be judged
has `image_path` and `error` alone. A file's name stands there as it is: a byte that is not UTF-8 is a lone surrogate (PEP
383), \udce4 for the byte e4, and Python's os.fsencode gives the bytes back.

CSV is made for spreadsheets: flat, with rounded figures (COLUMNS), the largest marked region in place of the list, notes
joined with "; ". Control characters and bytes that are not UTF-8 are shown as \x1b and \xe4, and an apostrophe stands before
what a spreadsheet would take for a formula. DIALECTS says what separates cells and decimals.

Parquet cannot grow row by row, so the rows are JSON lines until the end, and are then written as results.parquet as well.
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flawforge.reporting.index import SIDE, THUMBNAILS, Card
from flawforge.reporting.overlays import labelled, overlay
from flawforge.types import ConfigError, DataError, Decision, ModelError
from flawforge_runtime import bundle, feed
from flawforge_runtime.files import free, new_file
from flawforge_runtime.images import write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.names import cell, part_of_name
from flawforge_runtime.tiles import picture_like

UNFINISHED = "unfinished.txt"
WHY = """`flawforge inspect` began to write here on {when} (process {process}) and has not come to the end.
Each line of {name} is one picture, and whole; after a kill or a power cut the last one may be cut short.
Pictures without a line have not been judged.
"""
COLUMNS = (
    "time",
    "image_path",
    "verdict",
    "pred_score",
    "score_normalised",
    "p_value",
    "threshold",
    "review_threshold",
    "region_count",
    "largest_area",
    "area_unit",
    "x",
    "y",
    "w",
    "h",
    "valid",
    "notes",
    "overlay",
    "seconds",
    "model_id",
    "error",
)
DIALECTS = (
    "standard",
    "excel",
)  # comma and point; semicolon, decimal comma and a byte order mark, as a German Excel reads it
FORMS = ("csv", "jsonl", "parquet")
FIGURES = 6  # significant digits in a CSV

Write = Callable[[dict[str, Any]], None]


def rows_file(form: str) -> str:
    """The name of the file that grows row by row."""
    return f"results.{'jsonl' if form == 'parquet' else form}"


def check_form(form: str) -> None:
    """Raises ConfigError where rows of this form cannot be written here."""
    if form == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigError(
                "--format parquet needs the package pyarrow, which is not installed; pip install 'flawforge[parquet]', or "
                "give --format csv."
            ) from None


@contextmanager
def open_results(out: Path | None, form: str, dialect: str = "standard") -> Iterator[tuple[Write, Path | None]]:
    """A row writer to standard output, or to `out`, a new or empty folder that is taken at once: (writer, folder).

    Every row is on its way to the disk before the next picture is judged. Until the end `out` holds UNFINISHED beside
    results.csv or results.jsonl; where an error or Ctrl-C ends the run it stays there, with the rows so far. Only a run
    without a row leaves nothing.

    form, dialect  of FORMS and DIALECTS
    Raises ModelError where `out` exists or another run has it; DataError where a row cannot be written; ConfigError as
    `check_form`, and for parquet on standard output.
    """
    check_form(form)
    if out is None:
        if form == "parquet":
            raise ConfigError("--format parquet was given without a folder to write to; add -o FOLDER.")
        yield _row_writer(_print, form, dialect), None
        return
    name = rows_file(form)
    made_here = _take(out, name)
    lines, header = 0, form == "csv"
    try:
        with (out / name).open("xb", buffering=0) as file:

            @contextmanager
            def said() -> Iterator[None]:
                try:
                    yield
                except OSError as error:
                    reason = error.strerror or type(error).__name__
                    saved = f"its {lines - header} rows so far are whole; " if lines > header else ""
                    raise DataError(f"{out / name} could not be written ({reason}); {saved}free some space.") from error

            def put(line: str) -> None:
                nonlocal lines
                with said():
                    _append(file, line)
                lines += 1

            yield _row_writer(put, form, dialect), out
            with said():
                os.fsync(file.fileno())  # before the folder says that the run came to its end
        if form == "parquet":
            _write_parquet(out)
    except BaseException:
        if lines <= header:  # no row
            _give_up(out, made_here, name, UNFINISHED)
        raise
    (out / UNFINISHED).unlink()


@dataclass
class Tally(feed.Tally):
    """What came out of a run so far. undrawn: overlays or thumbnails that could not be written; uncopied: NG pictures."""

    undrawn: int = 0
    uncopied: int = 0

    def faults(self, missed: int) -> str:
        """What went wrong, in one sentence; "" where nothing did. missed: folders that gave no picture."""
        faults = []
        if self.skipped:
            faults.append(f"{self.skipped} of {self.count} files could not be judged")
        if missed:
            faults.append(f"{missed} folder{'s' * (missed > 1)} could not be read or held no picture")
        if self.undrawn:
            faults.append(f"{self.undrawn} overlay{'s' * (self.undrawn > 1)} could not be written")
        if self.uncopied:
            faults.append(f"{self.uncopied} NG picture{'s' * (self.uncopied > 1)} could not be copied")
        return f"{', '.join(faults)}; they are named above, the rest is done." if faults else ""


@dataclass
class Pictures:
    """What is drawn and copied beside the rows.

    folder      where, with `overlays` and `thumbnails` saying what; None = nothing is drawn
    copy_ng     folder that pictures judged NG are copied to; None = none is
    cards       what the page of the folder shows, with `thumbnails`
    """

    folder: Path | None = None
    overlays: bool = False
    thumbnails: bool = False
    copy_ng: Path | None = None
    cards: list[Card] = field(default_factory=list)


def judge_all(
    inspector: Inspector,
    paths: Iterable[Path],
    write: Write,
    tally: Tally,
    pictures: Pictures,
    say: feed.Say,
    judge: Callable[[Path], Decision] | None = None,
) -> Iterator[dict[str, Any]]:
    """Judge, draw, write the row, and yield it; `say` is told what goes wrong. A row names its overlay in "overlay".

    judge  what judges a path, such as one that also records it; None = the inspector
    """
    for result in feed.inspect_paths(judge or inspector, paths):
        row = feed.row_of(result, inspector.about["model_id"])
        tally.add(row)
        if "error" not in row and isinstance(result, Decision):
            row["overlay"] = _draw(result, inspector, tally, pictures, row, say)
            if pictures.copy_ng is not None and result.verdict == "NG":
                _copy(Path(result.image_path), pictures.copy_ng, tally, say)
        elif pictures.thumbnails:
            pictures.cards.append(Card(row))
        write(row)
        if "error" in row:
            say(f"skipped: {row['error']}")
        yield row


def _draw(
    decision: Decision, inspector: Inspector, tally: Tally, pictures: Pictures, row: Mapping[str, Any], say: feed.Say
) -> str:
    """Write overlay and thumbnail, and note the card; returns the overlay's path in the folder, "" where there is none."""
    overlay_file = thumbnail = ""
    if pictures.folder is not None and (pictures.overlays or pictures.thumbnails):
        try:
            pixels = picture_of(decision, inspector.max_pixels)
            if pictures.overlays:
                path = overlay_path(pictures.folder, decision, tally.count)
                write_overlay(path, decision, inspector, pixels)
                overlay_file = path.relative_to(pictures.folder).as_posix()
            if pictures.thumbnails:
                thumbnail = f"{THUMBNAILS}/{tally.count:06d}.jpg"
                (pictures.folder / THUMBNAILS).mkdir(exist_ok=True)
                write_image(pictures.folder / thumbnail, overlay(pixels, decision, _scale(inspector), max_side=SIDE))
        except Exception as error:  # the picture is gone, the disk is full: it costs the overlay, and not the row
            tally.undrawn += 1
            thumbnail = ""
            say(f"No overlay of {decision.image_path} could be written: {error or type(error).__name__}")
    if pictures.thumbnails:
        pictures.cards.append(Card(row, thumbnail, overlay_file))
    return overlay_file


def _copy(picture: Path, folder: Path, tally: Tally, say: feed.Say) -> None:
    """Copy a picture into a folder under its own name, with a number where that is taken; it appears whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            target = folder / (picture.name if number == 1 else f"{picture.stem}-{number}{picture.suffix}")
            if target.exists():
                continue
            try:
                with new_file(target) as draft:
                    shutil.copy2(picture, draft)
            except FileExistsError:  # another run took the name meanwhile
                continue
            return
    except OSError as error:
        tally.uncopied += 1
        say(f"{picture} could not be copied to {folder}: {error.strerror or error}")


def picture_of(decision: Decision, max_pixels: int) -> Any:
    """h w 3, the picture that was judged, at the size of its map."""
    if decision.picture is not None and decision.picture.shape[:2] == decision.anomaly_map.shape:
        return decision.picture
    return picture_like(Path(decision.image_path), decision.anomaly_map.shape, max_pixels)


def overlay_path(folder: Path, decision: Decision, number: int) -> Path:
    """folder/overlays/VERDICT-name-number.jpg. number: the picture's row, from 1, so that no two are alike."""
    stem = part_of_name(Path(decision.image_path).stem)
    return folder / "overlays" / f"{decision.verdict}-{stem}-{number:06d}.jpg"


def write_overlay(path: Path, decision: Decision, inspector: Inspector, pixels: Any) -> None:
    """The picture with its marks, beside it the heat map, and what they say in words."""
    path.parent.mkdir(exist_ok=True)
    scale = _scale(inspector)
    write_image(path, labelled(overlay(pixels, decision, scale), decision, scale))


def _scale(inspector: Inspector) -> Any:
    assert inspector.calibration is not None  # it gave a Decision
    return inspector.calibration.scale


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


def _row_writer(put: Callable[[str], None], form: str, dialect: str) -> Write:
    if form in ("jsonl", "parquet"):
        return lambda row: put(json.dumps(row, allow_nan=False) + "\n")
    excel = dialect == "excel"
    put(("\ufeff" if excel else "") + _csv_line(COLUMNS, excel))
    return lambda row: put(_csv_line([_cell(value, excel) for value in flat(row).values()], excel))


def _csv_line(cells: Any, excel: bool) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=";" if excel else ",").writerow(cells)
    return text.getvalue()


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the CSV has it: COLUMNS, of the regions only how many there are, and area and box of the largest."""
    regions = row.get("regions") or []
    largest: Mapping[str, Any] = max(regions, key=lambda region: region.get("area", 0), default={})
    cells = {**row, **{key: largest.get(key, "") for key in ("x", "y", "w", "h")}}
    cells["notes"] = "; ".join(row.get("notes", ()))
    return {column: cells.get(column, "") for column in COLUMNS}


def _cell(value: Any, excel: bool) -> Any:
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, float):
        text = f"{value:.{FIGURES}g}"
        return text.replace(".", ",") if excel else text
    return "" if value is None else value


def _write_parquet(out: Path) -> None:
    """results.parquet from results.jsonl: whole or not at all. Regions stay a list; names that are not UTF-8 are escaped."""
    import pyarrow
    import pyarrow.parquet

    text = (out / rows_file("parquet")).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    columns = [*feed.FIELDS, "overlay", "error"]
    table = pyarrow.Table.from_pylist([{column: _escaped(row.get(column)) for column in columns} for row in rows])
    with new_file(out / "results.parquet", over=True) as draft:
        pyarrow.parquet.write_table(table, draft)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return [_escaped(item) for item in value] if isinstance(value, list) else value
