"""Decisions as rows and pictures: what `inspect` prints, or writes to a new folder.

A row has the fields that `flawforge_runtime.feed.row` gives. A higher score is stranger.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from flawforge.listing import pictures_in
from flawforge.overlays import overlay, scale_of
from flawforge.types import Decision, ModelError
from flawforge_runtime import feed
from flawforge_runtime.files import new_folder
from flawforge_runtime.images import write_image
from flawforge_runtime.tiles import picture_like


def streamed(paths: Sequence[Path], watch: Path | None, stdin: TextIO) -> Iterator[Path]:
    """PATHS as they come: - is standard input, one path a line; then the pictures that come to lie in `watch`."""
    for path in paths:
        yield from feed.piped(stdin) if str(path) == "-" else pictures_of([path])
    if watch is not None:
        yield from feed.watched(watch)


def pictures_of(paths: Sequence[Path]) -> list[Path]:
    """Files as they are given, folders as every picture in and below them."""
    files: list[Path] = []
    for path in paths:
        files += pictures_in(path) if path.is_dir() else [path]
    return files


@contextmanager
def open_results(out: Path | None, form: str) -> Iterator[tuple[Callable[[dict[str, Any]], None], Path | None]]:
    """A row writer to standard output, or to a new folder that appears at the end; Ctrl-C keeps the finished rows.

    Raises ModelError where `out` exists; OSError (a full disk) passes through and leaves nothing behind.
    """
    if out is None:
        yield _row_writer(sys.stdout, form), None
        return
    interrupted = False
    try:
        with new_folder(out) as folder, (folder / f"results.{form}").open("w", newline="", encoding="utf-8") as file:
            try:
                yield _row_writer(file, form), folder
            except KeyboardInterrupt:
                interrupted = True
    except FileExistsError as error:
        raise ModelError(f"{out} exists already; give another -o, or remove it first.") from error
    if interrupted:
        raise KeyboardInterrupt


def _row_writer(file: Any, form: str) -> Callable[[dict[str, Any]], None]:
    writer: Any = None

    def write(row: dict[str, Any]) -> None:
        nonlocal writer
        if form == "jsonl":
            file.write(json.dumps(row) + "\n")
            file.flush()
            return
        if writer is None:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
        writer.writerow(row | {"regions": json.dumps(row["regions"])})
        file.flush()

    return write


def write_overlay(folder: Path, decision: Decision, inspector: Any, max_pixels: int) -> None:
    """folder/overlays/VERDICT-name-tag.jpg: the picture with its marks, and beside it the heat map."""
    path = Path(decision.image_path)
    pixels = picture_like(path, decision.anomaly_map.shape, max_pixels)
    # Pictures of one name from two folders must not overwrite each other.
    tag = hashlib.sha256(str(path.parent).encode()).hexdigest()[:6]
    drawn = overlay(pixels, decision, scale_of(inspector.calibration))
    (folder / "overlays").mkdir(exist_ok=True)
    write_image(folder / "overlays" / f"{decision.verdict}-{path.stem}-{tag}.jpg", drawn)
