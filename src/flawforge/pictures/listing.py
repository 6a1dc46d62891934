"""Which pictures there are: a folder or a CSV becomes entries. Opens no picture.

    MVTec layout   train/good (or ok), test/<kind>, ground_truth/<kind>/<stem>_mask.png and other masks (see masks.py)
    plain folder   its subfolder good or ok, or the pictures in the folder itself; all good, all for training
    CSV            image_path, and optionally label, split, mask_path, kind, group; paths relative to the CSV's own folder

No folder is searched deeper than these layouts say, so a link that leads back cannot trap us.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from flawforge.pictures import masks
from flawforge.types import DataError
from flawforge_runtime.feed import search
from flawforge_runtime.images import FORMATS, SUFFIXES

Item = TypeVar("Item")

GOOD_FOLDERS = ("good", "ok")
LABELS = {"0": 0, "good": 0, "ok": 0, "normal": 0, "1": 1, "defect": 1, "defective": 1, "ng": 1, "anomalous": 1}
PATH_COLUMNS = ("path", "file", "filename", "image", "picture")  # taken for image_path where no column has that name
SPLITS = ("train", "calibration", "test")
COLUMNS = ("image_path", "label", "kind", "split", "mask_path", "group")


@dataclass(frozen=True)
class Entry:
    """One picture of a data set.

    label  0 good, 1 defective, None where a CSV has no label column
    split  "train" | "calibration" | "test"; "calibration" is only ever set by a CSV
    kind   "good", the defect's name, or "unlabelled"
    mask_path  where the defect lies: a mask picture, a folder of several, a LabelMe or a COCO file; read by `masks.read`
    group  what pictures of one part have in common, from a CSV's column group; "" = not known
    """

    path: Path
    label: int | None = 0
    split: str = "train"
    kind: str = "good"
    mask_path: Path | None = None
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """What was found: entries in a fixed order, and notes on what was left aside, one sentence each.

    mask_notes  the same on masks, which `evaluate` alone looks at
    unlabelled  a folder whose name and layout do not say what its pictures show: they are taken for good ones
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    mask_notes: tuple[str, ...] = ()
    unlabelled: Path | None = None


def read_entries(data: str | Path) -> tuple[Entry, ...]:
    """The pictures of a folder (sorted by path) or CSV (in its order). Raises DataError if there are none."""
    return read_listing(data).entries


def read_listing(data: str | Path) -> Listing:
    """Entries and notes of a folder or CSV; DataError in one sentence where it is no data set."""
    data = Path(data)
    try:
        if data.is_dir():
            return _read_folder(data)
        if data.is_file() and data.suffix.lower() == ".csv":
            return _read_csv(data)
    except OSError as error:
        raise DataError(f"{data} cannot be read ({error.strerror}); check its permissions.") from None
    if not data.exists():
        raise DataError(f"{data} does not exist; give a folder of pictures or a CSV with a column image_path.")
    raise DataError(f"{data} is neither a folder nor a .csv file; give one of the two.")


def good_entries(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """What `fit` may look at: train and calibration pictures that are not labelled defective; never a test picture."""
    return tuple(entry for entry in entries if entry.split in ("train", "calibration") and entry.label != 1)


def part_of(entries: Sequence[Entry], pattern: str | None) -> dict[Path, str] | None:
    """Which part each picture shows: {path: part}; None where neither a pattern nor a column `group` says so.

    pattern  regular expression searched in the path's last two names; its first group, or all that it matches, is the part
    Raises DataError for a pattern that is none or does not match a picture, or a column that is filled for some only.
    """
    if pattern is None:
        named = {entry.path: entry.group for entry in entries if entry.group}
        if named and len(named) < len(entries):
            filled = f"{len(named)} of {len(entries)} good pictures"
            raise DataError(f"The column group is filled for {filled}; fill it for all or none.")
        return named or None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-by {pattern!r} is no regular expression ({error}); correct it.") from None
    parts: dict[Path, str] = {}
    for entry in entries:
        name = "/".join(entry.path.parts[-2:])
        match = compiled.search(name)
        if match is None:
            raise DataError(f"--group-by {pattern!r} does not match {name}; give one that matches every good picture.")
        parts[entry.path] = match.group(1) if compiled.groups else match.group(0)
    return parts


def _read_folder(data: Path) -> Listing:
    train = _good_folder(data / "train")
    if train is not None or (_good_folder(data) is None and _subfolders(data / "test")):
        return _read_mvtec(data, train)
    folder = _good_folder(data) or data
    pictures, others = _pictures(folder)
    if not pictures:
        raise DataError(_nothing_here(folder, others))
    notes = _left_aside(others)
    if folder != data and (elsewhere := [sub.name for sub in _subfolders(data) if sub != folder and _pictures(sub)[0]]):
        notes.append(f"only {folder.name} was read, not {', '.join(elsewhere[:5])}")
    if folder == data and (aside := [sub.name for sub in _subfolders(data) if _pictures(sub)[0]]):
        notes.append(f"subfolders were not searched: {', '.join(aside)}")
    unlabelled = None if folder.name.lower() in GOOD_FOLDERS else folder
    return Listing(tuple(Entry(path) for path in pictures), tuple(notes), unlabelled=unlabelled)


def check_for_fit(data: str | Path) -> None:
    """Raise DataError where a folder is by its place one of test pictures, which a model must not learn from."""
    data = Path(data).absolute()
    if not data.is_dir():
        return
    if data.parent.name.lower() == "test" and data.name.lower() not in GOOD_FOLDERS:
        raise DataError(
            f"{data} lies in a folder test, so its pictures are taken for defective ones ({data.name}); give "
            f"{data.parent.parent}, whose train/good is learnt from, or another folder of good pictures."
        )
    if data.name.lower() == "test" and _good_folder(data.parent / "train") is not None:
        raise DataError(f"{data} holds test pictures; give {data.parent}, whose train/good is learnt from.")


def labelled_listing(data: str | Path) -> Listing:
    """`read_listing` for figures: DataError where a folder does not say which of its pictures are good or defective."""
    listing = read_listing(data)
    if listing.unlabelled is not None:
        raise DataError(
            f"{listing.unlabelled} holds {_number(len(listing.entries), 'picture')} without labels, so there is no rate; "
            "put good ones into test/good and each kind of defect into test/KIND and give the folder above, or give a CSV "
            "with the column label; a folder named good is taken as good pictures only."
        )
    folder = Path(data)
    beside = [sub.name for sub in _subfolders(folder) if sub.name.lower() not in (*GOOD_FOLDERS, *SPLITS, "ground_truth")]
    if folder.is_dir() and not any(entry.label for entry in listing.entries) and beside and _good_folder(folder) is not None:
        raise DataError(
            f"Of {folder} only {_good_folder(folder)} would be judged, and its other folders ({', '.join(beside[:5])}) "
            f"would not; give {folder.absolute().parent} if these are test pictures, with each kind in test/KIND."
        )
    return listing


def defect_listing(data: str | Path) -> Listing:
    """The pictures of defective parts in `data`, each with its mask where one is found, for `fit --defects`.

    data  a folder in MVTec layout, or one of its folders test/KIND; a folder of pictures with their masks beside them, or
          subfolders of such, one for each kind; or a CSV with label (or kind) and mask_path
    No entries where the layout is MVTec's, or a CSV's, and every picture is good. Raises DataError where it is no such data.
    """
    data = Path(data)
    root = data.absolute()
    if root.name.lower() == "test" and _subfolders(root):
        root = root.parent
    if not root.is_dir() or _subfolders(root / "test"):
        listing = read_listing(root if root.is_dir() else data)
        entries = tuple(entry for entry in listing.entries if entry.label == 1)
        return Listing(entries, listing.notes, listing.mask_notes)
    try:
        kinds = {root.name: _files(root)} if _pictures(root)[0] else _kinds_in(root)
        found = masks.find(root.parent.parent if root.parent.name.lower() == "test" else root, kinds)
    except OSError as error:
        raise DataError(f"{data} cannot be read ({error.strerror}); check its permissions.") from None
    entries = tuple(
        Entry(path, 1, "test", kind, found.masks.get(path))
        for kind, files in kinds.items()
        for path in files
        if path.suffix.lower() in SUFFIXES and path not in found.aside
    )
    if root.name.lower() in GOOD_FOLDERS or not entries:
        raise DataError(
            f"--defects {data} holds no pictures of defective parts; give a folder in MVTec layout (test/KIND and "
            "ground_truth/KIND), a folder of pictures with their masks beside them (7.png and 7_mask.png), or a CSV with "
            "mask_path."
        )
    return Listing(entries, (), tuple(found.notes))


def _kinds_in(folder: Path) -> dict[str, list[Path]]:
    """{name: files} of the subfolders that are neither good pictures nor masks."""
    aside = (*GOOD_FOLDERS, *SPLITS, "ground_truth")
    return {sub.name: _files(sub) for sub in _subfolders(folder) if sub.name.lower() not in aside}


def _read_mvtec(data: Path, train: Path | None) -> Listing:
    entries, others = [], 0
    if train is not None:
        pictures, others = _pictures(train)
        if not pictures:
            raise DataError(_nothing_here(train, others))
        entries = [Entry(path) for path in pictures]
    tested = {folder.name: _files(folder) for folder in _subfolders(data / "test")}
    good_ones = [path for kind, files in tested.items() if kind.lower() in GOOD_FOLDERS for path in files]
    assigned = masks.find(data, {k: files for k, files in tested.items() if k.lower() not in GOOD_FOLDERS}, good_ones)
    maskless = 0
    for kind, files in tested.items():
        good = kind.lower() in GOOD_FOLDERS
        files = [path for path in files if path not in assigned.aside]
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        others += len(files) - len(pictures)
        for path in pictures:
            mask = assigned.masks.get(path)
            maskless += not good and mask is None
            entries.append(Entry(path, 0 if good else 1, "test", "good" if good else kind, mask))
    if not entries:
        raise DataError(_nothing_here(data / "test", others))
    notes = _left_aside(others)
    if maskless and (data / "ground_truth").is_dir():
        notes.append(f"without a mask in ground_truth: {_number(maskless, 'defective test picture')}")
    return Listing(tuple(entries), tuple(notes), tuple(assigned.notes))


def _good_folder(folder: Path) -> Path | None:
    return next((sub for sub in _subfolders(folder) if sub.name.lower() in GOOD_FOLDERS), None)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> tuple[list[Path], int]:
    """The picture files directly in a folder, sorted by name, and how many other files lie beside them."""
    files = _files(folder)
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    return pictures, len(files) - len(pictures)


def _files(folder: Path) -> list[Path]:
    """All that lies in a folder but other folders and hidden files: pipes and broken links too, which somebody must name."""
    return sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """Every picture file in a folder and below it, sorted; hidden files and linked folders are left aside."""
    return list(search(folder).pictures)


def thinned(items: Sequence[Item], least: int) -> Sequence[Item]:
    """Every n-th item from the first on, n so that `least` are left or more, but fewer than twice as many."""
    return items[:: max(1, len(items) // least)]


def evenly(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Up to `most` of the items, evenly spread over them."""
    return thinned(items, most)[:most]


def textures_in(folder: Path | None) -> tuple[Path, ...]:
    """The pictures of --textures, in and below `folder`; none where it was not given. DataError where it holds none."""
    if folder is None:
        return ()
    pictures = tuple(pictures_in(folder))
    if not pictures:
        raise DataError(f"--textures {folder} holds no picture; give a folder of pictures, or leave it out.")
    return pictures


def _left_aside(others: int) -> list[str]:
    return [f"left aside, since by name no {FORMATS}: {_number(others, 'file')}"] if others else []


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _nothing_here(folder: Path, others: int) -> str:
    subfolders = [sub.name for sub in _subfolders(folder)]
    if subfolders:
        contents = f"holds no pictures itself, only subfolders ({', '.join(subfolders[:5])})"
        return f"{folder} {contents}; name one of them good, give its path, or list the pictures in a CSV."
    contents = f"holds {_number(others, 'file')} but no picture" if others else "is empty"
    return f"{folder} {contents}; put {FORMATS} pictures of good parts there."


def _read_csv(path: Path) -> Listing:
    rows, others = _csv_rows(path)
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        entry = _csv_entry(path, line, row)
        key = os.path.normpath(entry.path)
        if key in lines:
            raise DataError(f"{path} lists {entry.path} twice (lines {lines[key]} and {line}); keep one of the two.")
        lines[key] = line
        entries.append(entry)
    if not entries:
        raise DataError(f"{path} has no rows; list one picture per row under the header image_path.")
    files = [file for entry in entries for file in (entry.path, entry.mask_path) if file is not None]
    folders = {entry.mask_path for entry in entries if entry.mask_path is not None and entry.mask_path.is_dir()}
    missing = [file for file in files if not file.is_file() and file not in folders]
    if missing:
        raise DataError(
            f"{path} names {len(missing)} of {len(files)} files that do not exist, the first is {missing[0]}; "
            f"correct the paths (relative ones start at the CSV's own folder)."
        )
    unused = sum(entry.label == 1 and entry.split != "test" for entry in entries)
    notes = [f"labelled defective but not in split test, so never learnt from: {_number(unused, 'row')}"] if unused else []
    notes += [f"columns of {path.name} that mean nothing here: {', '.join(others)}"] if others else []
    return Listing(tuple(entries), tuple(notes))


def _csv_rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """(line number, {column: text}) of every row that is not blank, and the columns that mean nothing; in lower case."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [name.strip().lower() for name in next(reader, [])]
        table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV in UTF-8 (in Excel: CSV UTF-8).") from None
    except csv.Error as error:
        raise DataError(f"{path} is no readable CSV ({error}); save it as UTF-8 text with commas.") from None
    if "image_path" not in header:
        header = ["image_path" if name in PATH_COLUMNS else name for name in header]
    if "image_path" not in header:
        raise DataError(f"{path} has no column image_path (its columns: {', '.join(header) or 'none'}); add one.")
    others = _other_columns(path, header)
    for line, row in table:
        if any(row[len(header) :]):
            raise DataError(
                f"{path} line {line} has {len(row)} cells under {_number(len(header), 'column')}; put quotes around a cell "
                "that holds the separator."
            )
    return [(line, dict(zip_longest(header, row[: len(header)], fillvalue=""))) for line, row in table if any(row)], others


def _other_columns(path: Path, header: Sequence[str]) -> list[str]:
    """Columns that mean nothing. Raises DataError where a column stands twice, or where one may say what is defective."""
    for name in COLUMNS:
        if header.count(name) > 1:
            raise DataError(f"{path} has {header.count(name)} columns {name}; keep one of them.")
    others = [name for name in header if name and name not in COLUMNS]
    if others and "label" not in header:
        raise DataError(
            f"{path} has no column label, so all of its pictures would count as good, and columns that mean nothing here "
            f"({', '.join(others[:5])}); name the one that says good or defective label, or remove them."
        )
    return others


def _csv_entry(path: Path, line: int, row: dict[str, str]) -> Entry:
    if not row["image_path"]:
        raise DataError(f"{path} line {line} has no image_path; fill it in or remove the line.")
    label = None
    if "label" in row:
        label = LABELS.get(row["label"].lower())
        if label is None:
            allowed = "0, good, ok, normal or 1, defect, defective, ng, anomalous"
            raise DataError(f"{path} line {line} has label {row['label']!r}, allowed are {allowed}; correct it.")
    split = row.get("split", "").lower() or ("test" if label == 1 else "train")
    if split not in SPLITS:
        raise DataError(f"{path} line {line} has split {row['split']!r}, allowed are {', '.join(SPLITS)}; correct it.")
    kind = row.get("kind") or {0: "good", 1: "defect", None: "unlabelled"}[label]
    if row.get("kind") and LABELS.get(kind.lower(), 1) != (label or 0):
        meant = "no label" if label is None else f"label {row['label']!r}"
        raise DataError(f"{path} line {line} has kind {kind!r} and {meant}, which do not agree; correct one of the two.")
    mask = path.parent / row["mask_path"] if row.get("mask_path") else None
    return Entry(path.parent / row["image_path"], label, split, kind, mask, row.get("group", ""))
