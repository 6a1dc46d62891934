"""A judged picture, drawn: outlines on the picture at the left, the heat map at the right.

How it is drawn: `flawforge_runtime.drawing`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawforge.types import ConfigError, Decision, Image, Mask
from flawforge_runtime.drawing import Drawn, Scale, side_by_side
from flawforge_runtime.files import clear_drafts, locked, new_folder, write_atomically
from flawforge_runtime.images import write_image


def overlay(
    pixels: Image, decision: Decision, scale: Scale, mask: Mask | None = None, *, max_side: int | None = None
) -> Drawn:
    """Picture with outlines, and beside it picture with heat map: h' (2 w' + gap) 3 uint8 RGB.

    pixels    h w 3, uint8 or float32 in [0, 1], the picture that was judged
    decision  its map and marks, h w
    mask      h w bool, the labelled defect; None = not known, nothing is outlined
    max_side  longest side of one of the two in pixels; None = the picture's own size
    Raises ConfigError where the sizes differ.
    """
    size = pixels.shape[:2]
    for name, array in (("map", decision.anomaly_map), ("marks", decision.pred_mask), ("mask", mask)):
        if array is not None and array.shape != size:
            raise ConfigError(f"The {name} is {array.shape} and the picture {size} (h, w); give both at the same size.")
    return side_by_side(pixels, scale.ramp(decision.anomaly_map), decision.pred_mask, mask, max_side=max_side)


def save_album(
    folder: Path, name: str, result: Mapping[str, Any], pictures: Sequence[tuple[str, Mapping[str, Any], Drawn]] = ()
) -> Path:
    """Write `folder`/`name`: `name`.json and pictures as WebP; all of it or, where it fails, nothing new.

    pictures  (group, facts, picture) each
    The JSON is `result` with one more key, "overlays": {"file", "group", and the facts} each. An older album of the name is
    replaced. OSError (a full disk, BlockingIOError where another process writes it) passes through. Returns the new folder.
    """
    target, new, old = Path(folder) / name, Path(folder) / f".{name}.new", retired(folder, name)
    with locked(target):
        shutil.rmtree(new, ignore_errors=True)  # left by a run that was killed, as are drafts
        clear_drafts(new)
        with new_folder(new) as draft:
            index = []
            for number, (group, facts, picture) in enumerate(pictures):
                file = f"{number:02d}_{group}.webp"
                write_image(draft / file, picture)
                index.append({"file": file, "group": group, **facts})
            write_json(draft / f"{name}.json", {**result, "overlays": index})
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        new.rename(target)  # between these two renames a reader finds the old album by `album`
        shutil.rmtree(old, ignore_errors=True)
    return target


def retired(folder: Path, name: str) -> Path:
    """Where an album lies for the moment in which a new one takes its name."""
    return Path(folder) / f".{name}.old"


def album(folder: Path, name: str) -> Path:
    """The folder of an album that `save_album` wrote, also where a later one was interrupted between its two renames."""
    target, old = Path(folder) / name, retired(folder, name)
    return old if old.is_dir() and not target.exists() else target


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as indented JSON, atomically; ValueError for a value that JSON has no word for."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode(errors="backslashreplace"))  # names that are not UTF-8
