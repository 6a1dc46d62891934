"""A data set's good pictures: checked, split, and served as batches that are a pure function of (seed, step).

listing.py says which pictures there are; this room opens them.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.duplicates import join, near_duplicates, thumbnail
from flawforge.images import MAX_PIXELS, Placement, letterbox, mask_on_canvas, pad, read_picture, valid_mask
from flawforge.listing import Entry, Listing, good_entries, read_entries, read_listing
from flawforge.types import Batch, DataError, Forger, Image, ImageError, Mask, Sample

__all__ = [
    "DataReport",
    "Entry",
    "GoodPictures",
    "Listing",
    "check_data",
    "good_entries",
    "read_entries",
    "read_listing",
    "split_holdout",
]

CACHE_BYTES = 2 << 30
REDRAWS = 8


@dataclass(frozen=True)
class DataReport:
    """What a look at every good picture found.

    count             readable pictures
    sizes             (h, w) -> how many
    modes             such as "8-bit grey" -> how many
    unreadable        (path, sentence)
    duplicate_groups  paths of pictures that show the same part, two or more each
    notes             one phrase each
    deep              True where a picture has more than 8 bits, so that all are held as float32
    """

    count: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    modes: tuple[tuple[str, int], ...]
    unreadable: tuple[tuple[Path, str], ...] = ()
    duplicate_groups: tuple[tuple[Path, ...], ...] = ()
    notes: tuple[str, ...] = ()
    deep: bool = False

    def readable(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """`entries` without the unreadable ones."""
        bad = {path for path, _ in self.unreadable}
        return tuple(entry for entry in entries if entry.path not in bad)

    def all_sizes(self) -> list[tuple[int, int]]:
        """(h, w) of every readable picture, for images.choose_canvas."""
        return [size for size, count in self.sizes for _ in range(count)]

    def cache_bytes(self, canvas: tuple[int, int]) -> int:
        """The memory in bytes that GoodPictures needs to hold every picture on the canvas (H, W)."""
        return self.count * canvas[0] * canvas[1] * 3 * (4 if self.deep else 1)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "count": self.count,
            "sizes": [{"height": h, "width": w, "count": n} for (h, w), n in self.sizes],
            "modes": dict(self.modes),
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
            "duplicate_groups": [[str(path) for path in group] for group in self.duplicate_groups],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people, one fact per line."""
        sizes = np.array(self.all_sizes()).reshape(-1, 2)
        lines = [f"{self.count} good pictures ({', '.join(f'{n} {mode}' for mode, n in self.modes)})"]
        if len(self.sizes) == 1:
            lines.append(f"all {sizes[0][0]} x {sizes[0][1]} (h x w)")
        elif len(sizes):
            low, middle, high = sizes.min(axis=0), np.median(sizes, axis=0).astype(int), sizes.max(axis=0)
            lines.append(
                f"mixed sizes (h x w): smallest {low[0]} x {low[1]}, median {middle[0]} x {middle[1]}, "
                f"largest {high[0]} x {high[1]}"
            )
        lines += [f"skipped: {reason}" for _, reason in self.unreadable]
        if self.duplicate_groups:
            total = sum(len(group) for group in self.duplicate_groups)
            lines.append(
                f"{total} pictures in {len(self.duplicate_groups)} groups look like shots of one part "
                f"and stay together in the hold-out"
            )
        return lines + list(self.notes)


@dataclass(frozen=True)
class _Look:
    size: tuple[int, int]
    mode: str
    notes: tuple[str, ...]
    thumbnail: NDArray[np.float32]
    digest: bytes
    deep: bool
    high: float


def check_data(
    entries: Sequence[Entry],
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
    notes: Sequence[str] = (),
    threads: int = 2,
) -> DataReport:
    """Read every entry once and report; unreadable files are listed, not raised.

    progress is called with (done, all); notes are carried over, as from read_listing.
    """
    looks: list[tuple[Path, _Look]] = []
    unreadable: list[tuple[Path, str]] = []
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        results = pool.map(lambda entry: _look(entry.path, max_pixels), entries)
        for done, (entry, result) in enumerate(zip(entries, results, strict=True), start=1):
            if isinstance(result, str):
                unreadable.append((entry.path, result))
            else:
                looks.append((entry.path, result))
            if progress is not None:
                progress(done, len(entries))
    groups = _groups([look for _, look in looks])
    return DataReport(
        count=len(looks),
        sizes=tuple(sorted(Counter(look.size for _, look in looks).items())),
        modes=tuple(sorted(Counter(look.mode for _, look in looks).items())),
        unreadable=tuple(unreadable),
        duplicate_groups=tuple(tuple(looks[index][0] for index in group) for group in groups),
        notes=(*notes, *_report_notes([look for _, look in looks])),
        deep=any(look.deep for _, look in looks),
    )


def _look(path: Path, max_pixels: int) -> _Look | str:
    try:
        picture = read_picture(path, max_pixels=max_pixels)
        digest = hashlib.sha256(path.read_bytes()).digest()
    except (ImageError, OSError) as error:
        return str(error)
    pixels = picture.pixels
    size = (pixels.shape[0], pixels.shape[1])
    deep = pixels.dtype != np.uint8
    return _Look(size, picture.mode, picture.notes, thumbnail(pixels), digest, deep, float(pixels.max()))


def _groups(looks: Sequence[_Look]) -> list[list[int]]:
    if not looks:
        return []
    near = near_duplicates(np.stack([look.thumbnail for look in looks]))
    pairs = [(group[0], other) for group in near for other in group[1:]]
    first: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        pairs.append((first.setdefault(look.digest, index), index))
    return join(len(looks), pairs)


def _report_notes(looks: Sequence[_Look]) -> list[str]:
    counts = Counter(note for look in looks for note in look.notes)
    notes = [f"{count} pictures: {note}" for note, count in sorted(counts.items())]
    deep = [look.high for look in looks if look.deep]
    if deep and max(deep) < 0.25:
        notes.append(
            f"16-bit pictures use only the lowest {max(deep):.1%} of their range (a 12-bit camera?); "
            f"they are never stretched one by one, so scale them all alike before training"
        )
    return notes


def split_holdout(
    entries: Sequence[Entry], groups: Sequence[Sequence[Path]], holdout: float | str, seed: int
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """(train, held) of good entries; a group of near-duplicates never crosses.

    Where a CSV sets split "calibration", those are held and `holdout` is ignored. A float is the share to hold, met as
    nearly as the groups permit, at least one picture; a string is a glob on the file name. DataError where either side
    would be empty.
    """
    entries = tuple(entries)
    if len(entries) < 2:
        raise DataError(f"{len(entries)} good pictures were given, at least 2 are needed; add pictures.")
    together = _together(entries, groups)
    wanted = {index for index, entry in enumerate(entries) if entry.split == "calibration"}
    if not wanted and isinstance(holdout, str):
        wanted = {i for i, entry in enumerate(entries) if fnmatch.fnmatchcase(entry.path.name, holdout)}
        if not wanted:
            raise DataError(f"no file name among {len(entries)} good pictures matches --holdout {holdout!r}; change it.")
    if wanted:
        held = {index for group in together if wanted & set(group) for index in group}
    else:
        held = _draw_holdout(together, len(entries), holdout, seed)
    if len(held) == len(entries):
        raise DataError(f"all {len(entries)} good pictures would be held out, none is left to train on; hold fewer.")
    train = tuple(entry for index, entry in enumerate(entries) if index not in held)
    return train, tuple(entry for index, entry in enumerate(entries) if index in held)


def _together(entries: Sequence[Entry], groups: Sequence[Sequence[Path]]) -> list[list[int]]:
    """Every entry in exactly one group of indices; most groups are of one."""
    index_of = {entry.path: index for index, entry in enumerate(entries)}
    known = [[index_of[path] for path in group if path in index_of] for group in groups]
    joined = join(len(entries), [(group[0], other) for group in known for other in group[1:]])
    grouped = {index for group in joined for index in group}
    return sorted(joined + [[index] for index in range(len(entries)) if index not in grouped])


def _draw_holdout(together: list[list[int]], count: int, holdout: float | str, seed: int) -> set[int]:
    share = float(holdout)
    if not 0.0 < share < 1.0:
        raise DataError(f"--holdout is {holdout}, allowed is above 0 and below 1 (a share) or a file name pattern.")
    target = max(1, round(share * count))
    order = np.random.default_rng([seed, 0x401D]).permutation(len(together))
    held: set[int] = set()
    for place in order:
        if len(held) + len(together[place]) <= target:
            held |= set(together[place])
    if not held:
        held = set(min(together, key=len))
    return held


class GoodPictures:
    """Good pictures on one canvas, held in memory up to a limit, and the batches forged from them.

    `batch` is a pure function of its arguments: the same bits for any number of threads or processes, in any order.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        canvas: tuple[int, int],
        *,
        roi: Mask | None = None,
        textures: Sequence[Path | Image] = (),
        cache_bytes: int = CACHE_BYTES,
        max_pixels: int = MAX_PIXELS,
        threads: int = 2,
    ) -> None:
        """Read all entries; unreadable ones are skipped and named in `skipped`. DataError where none is left."""
        self.canvas = canvas
        self._max_pixels = max_pixels
        self._cache: list[Image | None] = []
        self._placements: list[Placement] = []
        self._valid: dict[Placement, Mask] = {}
        kept: list[Entry] = []
        skipped: list[tuple[Path, str]] = []
        deep, room = False, cache_bytes
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            for entry, result in zip(entries, pool.map(self._try, entries), strict=True):
                if isinstance(result, str):
                    skipped.append((entry.path, result))
                    continue
                pixels, placement = result
                room -= pixels.nbytes
                kept.append(entry)
                deep = deep or pixels.dtype != np.uint8
                self._cache.append(pixels if room >= 0 else None)
                self._placements.append(placement)
                if placement not in self._valid:
                    self._valid[placement] = valid_mask(placement) if roi is None else mask_on_canvas(roi, placement)
        if not kept:
            raise DataError(f"none of {len(entries)} pictures can be read; the first: {skipped[0][1]}" if skipped
                            else "no good pictures were given; give at least one.")
        self.entries, self.skipped, self.deep = tuple(kept), tuple(skipped), deep
        self._textures = tuple(textures)
        self._texture_cache: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def picture(self, index: int) -> Image:
        """H W 3 on the canvas, uint8, or float32 where any of the pictures has more than 8 bits."""
        cached = self._cache[index]
        if cached is None:
            cached, _ = letterbox(read_picture(self.entries[index].path, max_pixels=self._max_pixels).pixels, self.canvas)
        return self._as_held(cached)

    def valid(self, index: int) -> Mask:
        """H W bool: inside the picture and the region of interest."""
        return self._valid[self._placements[index]]

    def batch(
        self, forger: Forger, seed: int, step: int, size: int, forge_share: float = 0.5
    ) -> Batch:
        """`size` pictures drawn with replacement, each forged with probability `forge_share`; numpy float32 nchw."""
        batch = self._empty(size)
        for place in range(size):
            rng = np.random.default_rng([seed, step, place])
            index = int(rng.integers(len(self)))
            other = int(rng.integers(len(self) - 1)) if len(self) > 1 else None
            if other is not None and other >= index:
                other += 1
            texture = int(rng.integers(len(self._textures))) if self._textures else None
            clean, forged, mask = self.picture(index), None, None
            if rng.random() < forge_share:
                forged, mask = self._forge(forger, rng, index, other, texture)
            self._fill(batch, place, index, clean, forged, mask)
        return batch

    def clean_batches(self, size: int) -> Iterator[Batch]:
        """Every picture once, in order, unforged: forged equals clean, the mask is empty; the last may be smaller."""
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            batch = self._empty(len(indices))
            for place, index in enumerate(indices):
                self._fill(batch, place, index, self.picture(index), None, None)
            yield batch

    def _try(self, entry: Entry) -> tuple[Image, Placement] | str:
        try:
            return letterbox(read_picture(entry.path, max_pixels=self._max_pixels).pixels, self.canvas)
        except (ImageError, OSError) as error:
            return str(error)

    def _as_held(self, pixels: Image) -> Image:
        if self.deep and pixels.dtype == np.uint8:
            return pixels.astype(np.float32) / np.float32(255.0)
        return pixels

    def _texture(self, index: int) -> Image:
        if index not in self._texture_cache:
            source = self._textures[index]
            pixels = source if isinstance(source, np.ndarray) else read_picture(source).pixels
            scale = min(1.0, max(self.canvas) / min(pixels.shape[:2]))
            if scale < 1.0:
                size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
                pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            if not self.deep and pixels.dtype != np.uint8:
                pixels = np.rint(pixels * 255.0).astype(np.uint8)
            self._texture_cache[index] = self._as_held(pixels)
        return self._texture_cache[index]

    def _forge(
        self, forger: Forger, rng: np.random.Generator, index: int, other: int | None, texture: int | None
    ) -> tuple[Image | None, Mask | None]:
        """Forge on the placed part alone, then lay the border round it again, as a real flaw at the edge would look."""
        placement, valid = self._placements[index], self.valid(index)
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        sample = Sample(
            image=np.ascontiguousarray(self.picture(index)[rows, columns]),
            other=None if other is None else np.ascontiguousarray(self.picture(other)[rows, columns]),
            texture=None if texture is None else self._texture(texture),
        )
        for _ in range(REDRAWS):
            forged = forger(sample, rng)
            mask = forged.mask & valid[rows, columns]
            if mask.any():
                image = np.where(mask[..., None], forged.image, sample.image)
                whole = np.zeros(self.canvas, dtype=bool)
                whole[rows, columns] = mask
                return pad(image, replace(placement)), whole
            if not forged.mask.any():
                break
        return None, None

    def _empty(self, size: int) -> Batch:
        height, width = self.canvas
        return Batch(
            forged=np.empty((size, 3, height, width), dtype=np.float32),
            clean=np.empty((size, 3, height, width), dtype=np.float32),
            mask=np.zeros((size, 1, height, width), dtype=np.float32),
            valid=np.empty((size, 1, height, width), dtype=np.float32),
        )

    def _fill(
        self, batch: Batch, place: int, index: int, clean: Image, forged: Image | None, mask: Mask | None
    ) -> None:
        _to_planes(clean, batch.clean[place])
        if forged is None:
            batch.forged[place] = batch.clean[place]
        else:
            _to_planes(forged, batch.forged[place])
        if mask is not None:
            batch.mask[place, 0] = mask
        batch.valid[place, 0] = self.valid(index)


def _to_planes(pixels: Image, planes: NDArray[np.float32]) -> None:
    """h w 3 uint8 or float32 -> 3 h w float32 in [0, 1]."""
    scale = np.float32(1.0 / 255.0) if pixels.dtype == np.uint8 else np.float32(1.0)
    np.multiply(pixels.transpose(2, 0, 1), scale, out=planes)
