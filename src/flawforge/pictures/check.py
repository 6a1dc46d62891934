"""The data check: one look at every good picture before training, so that nobody trains on what is not there.

check_data never raises for a picture: what cannot be read is listed with its sentence, and skipped later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flawforge.pictures.copies import likeness
from flawforge.pictures.duplicates import THRESHOLD, join, near_duplicates, thumbnail
from flawforge.pictures.listing import Entry
from flawforge.types import ImageError
from flawforge_runtime.decode import MAX_PIXELS, NARROW_NOTE, narrow, read_picture

SMALL_RANGE = 0.25  # a 14-bit camera in a 16-bit file reaches 0.25, a 12-bit one 0.0625

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class DataReport:
    """What a look at every good picture found.

    count             readable pictures
    sizes             ((h, w), how many)
    modes             (such as "8-bit grey", how many)
    unreadable        (path, sentence)
    duplicate_groups  paths of pictures that show the same part, two or more each
    notes             one sentence or phrase each
    deep              True where a picture has more than 8 bits, so that all are held as float32
    likenesses        of every readable picture, see copies.py
    """

    count: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    modes: tuple[tuple[str, int], ...]
    unreadable: tuple[tuple[Path, str], ...] = ()
    duplicate_groups: tuple[tuple[Path, ...], ...] = ()
    notes: tuple[str, ...] = ()
    deep: bool = False
    likenesses: Mapping[Path, NDArray[np.float16]] = field(default_factory=dict, repr=False, compare=False)

    def readable(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """`entries` without the unreadable ones."""
        bad = {path for path, _ in self.unreadable}
        return tuple(entry for entry in entries if entry.path not in bad)

    def all_sizes(self) -> list[tuple[int, int]]:
        """(h, w) of every readable picture, for images.choose_canvas."""
        return [size for size, count in self.sizes for _ in range(count)]

    def cache_bytes(self, canvas: tuple[int, int]) -> int:
        """The bytes that GoodPictures needs to hold every readable picture on the canvas (H, W)."""
        return self.count * canvas[0] * canvas[1] * 3 * (4 if self.deep else 1)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; "sizes" is null where nothing could be read."""
        return {
            "count": self.count,
            "sizes": self._size_range(),
            "modes": dict(self.modes),
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
            "duplicate_groups": [[str(path) for path in group] for group in self.duplicate_groups],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people, one fact per line."""
        modes = ", ".join(f"{count} {mode}" for mode, count in self.modes)
        lines = [f"{self.count} good picture{'s' * (self.count != 1)}" + (f" ({modes})" if modes else "")]
        if sizes := self._size_range():
            low, middle, high = (f"{h} x {w}" for h, w in (sizes["min"], sizes["median"], sizes["max"]))
            if sizes["mixed"]:
                lines.append(f"mixed sizes (h x w): smallest {low}, median {middle}, largest {high}")
            else:
                lines.append(f"all {low} (h x w)")
        lines += [f"skipped: {reason}" for _, reason in self.unreadable]
        if self.duplicate_groups:
            total = sum(len(group) for group in self.duplicate_groups)
            groups = f"{len(self.duplicate_groups)} group{'s' * (len(self.duplicate_groups) > 1)}"
            lines.append(f"near-duplicates: {total} pictures in {groups}; shots of one part stay together in the hold-out")
        return lines + list(self.notes)

    def _size_range(self) -> dict[str, Any] | None:
        """Smallest, median and largest height and width, each taken by itself; None without pictures."""
        if not self.sizes:
            return None
        sizes = np.asarray(self.all_sizes())
        low, middle, high = sizes.min(axis=0), np.median(sizes, axis=0).astype(int), sizes.max(axis=0)
        return {"min": low.tolist(), "median": middle.tolist(), "max": high.tolist(), "mixed": len(self.sizes) > 1}


@dataclass(frozen=True)
class _Look:
    size: tuple[int, int]
    mode: str
    notes: tuple[str, ...]
    thumbnail: NDArray[np.float32]
    likeness: NDArray[np.float16]
    digest: bytes
    deep: bool
    highest: float


def check_data(
    entries: Sequence[Entry],
    *,
    max_pixels: int = MAX_PIXELS,
    depth: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    notes: Sequence[str] = (),
    threads: int = 2,
) -> DataReport:
    """Read every entry once and report; unreadable files are listed, not raised.

    progress is called with (done, all) after each picture; notes are put first, as they come from read_listing.
    """
    looks: list[_Look] = []
    paths: list[Path] = []
    unreadable: list[tuple[Path, str]] = []
    results = in_threads(lambda entry: _look(entry.path, max_pixels, depth), entries, threads)
    for done, (entry, result) in enumerate(zip(entries, results, strict=True), start=1):
        if isinstance(result, str):
            unreadable.append((entry.path, result))
        else:
            looks.append(result)
            paths.append(entry.path)
        if progress is not None:
            progress(done, len(entries))
    groups, least = _groups(looks)
    return DataReport(
        count=len(looks),
        sizes=tuple(sorted(Counter(facts.size for facts in looks).items())),
        modes=tuple(sorted(Counter(facts.mode for facts in looks).items())),
        unreadable=tuple(unreadable),
        duplicate_groups=tuple(tuple(paths[index] for index in group) for group in groups),
        notes=(*notes, *_notes(looks), *_repeats(least)),
        deep=any(facts.deep for facts in looks),
        likenesses={path: facts.likeness for path, facts in zip(paths, looks, strict=True)},
    )


def in_threads(function: Callable[[Given], Made], items: Sequence[Given], threads: int) -> Iterator[Made]:
    """map() over threads, in order; when the caller stops (an error, Ctrl-C), nothing more is started."""
    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _look(path: Path, max_pixels: int, depth: int | None) -> _Look | str:
    try:
        picture = read_picture(path, max_pixels=max_pixels, depth=depth)
        digest = hashlib.sha256(path.read_bytes()).digest()
    except (ImageError, OSError) as error:
        return str(error)
    pixels = picture.pixels
    return _Look(
        size=(pixels.shape[0], pixels.shape[1]),
        mode=picture.mode,
        notes=picture.notes,
        thumbnail=thumbnail(pixels),
        likeness=likeness(pixels),
        digest=digest,
        deep=pixels.dtype != np.uint8,
        highest=float(pixels.max()),
    )


def _groups(looks: Sequence[_Look]) -> tuple[list[list[int]], float | None]:
    """Near-duplicates, joined with the files that are the same to the byte; and the likeness they have."""
    near, least = near_duplicates([facts.thumbnail for facts in looks])
    pairs = [(group[0], other) for group in near for other in group[1:]]
    first: dict[bytes, int] = {}
    for index, facts in enumerate(looks):
        pairs.append((first.setdefault(facts.digest, index), index))
    return join(len(looks), pairs), least


def _repeats(least: float | None) -> list[str]:
    if least == THRESHOLD:
        return []
    search = "are not looked for" if least is None else f"were looked for with more likeness than usual ({least:g})"
    return [
        f"most pictures look alike wherever they differ, as on a grid or a weave, so shots of one part {search}; "
        "if there are some, say which with --group-by"
    ]


def _notes(looks: Sequence[_Look]) -> list[str]:
    counts = Counter(note for facts in looks for note in facts.notes if not note.startswith(NARROW_NOTE))  # said once, below
    notes = [f"{count} of {len(looks)} pictures: {note}" for note, count in sorted(counts.items())]
    highest = max((facts.highest for facts in looks if facts.deep), default=1.0)
    if highest <= SMALL_RANGE:
        notes.append(
            f"pictures of more than 8 bits use only the lowest {highest:.1%} of their range: "
            f"{narrow(round(highest * 65535))}"
        )
    if len({facts.deep for facts in looks}) == 2:
        notes.append("8-bit and deeper pictures are mixed; all are held as float32, full range to full range")
    return notes
