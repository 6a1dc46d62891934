"""Pictures with what is known of them: good or defective, of what kind, and where the defect lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flawforge.pictures import masks
from flawforge.pictures.listing import LABELS, Entry
from flawforge.types import DataError, Image, ImageError, Mask
from flawforge_runtime.decode import marked


@dataclass(frozen=True)
class Labelled:
    """A picture to be judged, and what is known of it.

    picture  a path, or an h w 3 array in RGB order
    label    0 good, 1 defective
    kind     "good", or the defect's name
    mask     where the defect lies: a path as in `Entry.mask_path`, or h w at the picture's own size; None = not known
    name     what the result calls it
    """

    picture: Path | Image
    label: int
    kind: str
    mask: Path | Mask | None = None
    name: str = ""


def labelled(pictures: Iterable[Any], labels: Iterable[Any], masks: Iterable[Any] | None = None) -> tuple[Labelled, ...]:
    """Pictures, paths or h w 3 arrays, with their labels, as `evaluate` takes them.

    labels  0 or False = good, 1 or True = defective; or words, as in a CSV: "good", or the name of the defect's kind
    masks   one for each picture: None, a path, or h w (h w c) at the picture's own size, read as a mask picture is
    Raises DataError where these are not of one length, or for another label.
    """
    pictures, labels = list(pictures), list(labels)
    mask_list = [None] * len(pictures) if masks is None else list(masks)
    if not len(pictures) == len(labels) == len(mask_list):
        raise DataError(
            f"{len(pictures)} pictures, {len(labels)} labels and {len(mask_list)} masks were given; give each picture a "
            "label, and a mask or None."
        )
    cases = []
    for index, (picture, label, mask) in enumerate(zip(pictures, labels, mask_list, strict=True)):
        where = isinstance(picture, str | Path)
        number, kind = _label(label)
        own_mask = Path(mask) if isinstance(mask, str | Path) else None if mask is None else _mask(mask)
        name = str(picture) if where else f"picture {index}"
        cases.append(Labelled(Path(picture) if where else picture, number, kind, own_mask, name))
    return tuple(cases)


def _label(label: Any) -> tuple[int, str]:
    """(0 or 1, kind) of a label as people give it."""
    if isinstance(label, str):
        label = label.strip()
        if not label:
            raise DataError("An empty label was given; give 0, 1, good, or the name of a kind of defect.")
        number = LABELS.get(label.lower(), 1)
        known = label.lower() in LABELS
        return number, ("defect" if number else "good") if known else label
    if label in (0, 1):
        return int(label), "defect" if label else "good"
    raise DataError(f"The label {label!r} was given; give 0, 1, good, or the name of a kind of defect.")


def _mask(mask: Any) -> Mask:
    try:
        array = np.asarray(mask)
    except ValueError:  # rows of several lengths
        array = np.empty(0)
    if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "buif":
        shape = f"of shape {array.shape} and type {array.dtype}" if array.size else "without pixels"
        raise DataError(f"A mask {shape} was given; give h w or h w c of numbers, at the picture's own size.")
    level = array if array.ndim == 2 else array.max(axis=2)
    return level if level.dtype == bool else marked(level)


def choose(pictures: Sequence[Entry] | Sequence[Labelled]) -> tuple[list[Labelled], list[str]]:
    """The pictures to judge, and what a reader must know about the choice. Raises DataError where none is labelled."""
    cases = [case for case in pictures if isinstance(case, Labelled)]
    entries = [entry for entry in pictures if isinstance(entry, Entry)]
    labelled_ones = [_of_entry(entry, entry.label) for entry in entries if entry.label is not None]
    if not cases and not labelled_ones:
        raise DataError(
            "None of the pictures is labelled good or defective; give a folder in MVTec layout or a CSV with labels."
        )
    if cases:
        return cases, []
    notes = []
    if len(labelled_ones) < len(entries):
        notes.append(f"{len(entries) - len(labelled_ones)} pictures without a label were left out")
    test = [_of_entry(entry, entry.label) for entry in entries if entry.split == "test" and entry.label is not None]
    if not test:
        notes.append(
            "No picture is marked as a test picture, so all were judged; if `fit` saw some of them, the rates flatter"
        )
        return labelled_ones, notes
    if not any(case.label == 0 for case in test):
        notes.append("There is no good test picture, so the false-alarm rate is not known; mark some with split test")
    return test, notes


def _of_entry(entry: Entry, label: int) -> Labelled:
    return Labelled(entry.path, label, entry.kind, entry.mask_path, str(entry.path))


def mask_of(case: Labelled, shape: tuple[int, ...], max_pixels: int, *, shrunk: bool = False) -> Mask | None:
    """The labelled defect as h w bool at `shape`, its map's size; None where it has none.

    shrunk  the map may be smaller than the picture, as where that was judged strip by strip
    Raises ImageError for a mask of another size or one that cannot be read.
    """
    if isinstance(case.mask, Path):
        return masks.read(case.mask, Path(case.name), (shape[0], shape[1]), max_pixels, shrunk=shrunk)
    if case.mask is not None and case.mask.shape != shape:
        raise ImageError(
            f"The mask of {case.name} is {case.mask.shape[0]} x {case.mask.shape[1]} (h x w) but its picture is "
            f"{shape[0]} x {shape[1]}; give a mask of the picture's own size."
        )
    return case.mask
