"""Pictures too large for one look: cut into overlapping tiles, row of tiles by row, and their maps blended without seams.

A tile weighs least at its edge and most inside, in rows and in columns; where tiles overlap, the map is their weighted mean.
Memory holds one row of tiles and one batch, whatever the height of the picture. Marked regions are joined across bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime import intact
from flawforge_runtime.decode import FIRST_FRAME, ORIENTATION, TooLarge, marked, narrow_notes, read_picture, scaled_pixels
from flawforge_runtime.types import ConfigError, Image, ImageError, Map, Mask, Region

OVERLAP = 0.25  # share of a tile's side that it shares with its neighbour; assumption
FLOATS = 300  # per canvas pixel that a network may hold at a time; assumption, for the size of a batch
MEMORY = 512 << 20  # bytes that a batch may take by that reckoning
BAND = 256  # rows of a map that are handed on at a time
MOST = 16  # tiles in a batch; more is no faster
COMPRESSIONS = (1, 8, 32946, 32773)  # of a TIFF: none, deflate under both its numbers, PackBits
WIDEST, LONGEST = 1 << 18, 1 << 22  # pixels of a side of a picture that is read strip by strip; a row of tiles is in memory


class Rows(Protocol):
    """A picture that is read from top to bottom."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def bands(self) -> Iterator[Image]:
        """h w 3 bands from the top, of any heights that add up to `height`; uint8 or float32 in [0, 1]."""

    def notes(self) -> tuple[str, ...]:
        """As those of a `Picture`; to be asked after all bands were read."""


@dataclass(frozen=True)
class Whole:
    """A picture in memory as Rows."""

    pixels: Image
    said: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def bands(self) -> Iterator[Image]:
        yield self.pixels

    def notes(self) -> tuple[str, ...]:
        return self.said


@dataclass(frozen=True)
class Strips:
    """A TIFF as Rows: its strips or tiles are decoded as they are needed. levels: the highest 16-bit value of each band."""

    path: Path
    height: int
    width: int
    depth: int | None = None
    said: tuple[str, ...] = ()
    levels: list[int] = field(default_factory=list, compare=False)

    def notes(self) -> tuple[str, ...]:
        return (*self.said, *(narrow_notes(max(self.levels), self.depth) if self.levels else ()))

    def _scaled(self, band: NDArray[Any]) -> Image:
        if band.dtype == np.uint16:
            self.levels.append(int(band.max()))
        return scaled_pixels(band, str(self.path), self.depth)

    def bands(self) -> Iterator[Image]:
        import tifffile

        with tifffile.TiffFile(self.path) as file:
            page = file.pages[0]
            band: NDArray[Any] | None = None
            top = 0
            try:
                for data, index, shape in page.segments():
                    row, column = int(index[-3]), int(index[-2])
                    high, wide = int(shape[-3]), int(shape[-2])
                    if band is None or row != top:
                        if band is not None:
                            yield self._scaled(band)
                        top = row
                        band = np.zeros((min(high, self.height - row), self.width, page.samplesperpixel), page.dtype)
                    if data is None:
                        why = "a strip of it is missing"
                        raise ImageError(f"{self.path} is damaged or cut short ({why}); replace it or take it out.")
                    place = band[:, column : column + wide]  # a tile may reach over the picture's edge
                    place[:] = data[0, : place.shape[0], : place.shape[1]]
                if band is not None:
                    yield self._scaled(band)
            except ImageError:
                raise
            except Exception as error:  # a cut file: tifffile, zlib and struct each raise their own
                raise ImageError(f"{self.path} is damaged or cut short ({error}); replace it or take it out.") from None


def open_rows(path: Path, max_pixels: int, depth: int | None = None) -> Rows:
    """A picture file as Rows. A TIFF is read strip by strip, and `max_pixels` bounds one strip; else all.

    What the strips would give otherwise than `read_picture` does, or not at all, is read whole.
    Raises ImageError as `read_picture`, and ConfigError where tifffile is not installed.
    """
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return _whole(path, max_pixels, depth)
    try:
        import tifffile
    except ImportError:
        raise ConfigError("Tiles of a TIFF need tifffile, which is missing here; run `pip install tifffile`.") from None
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            size = int(page.imagelength), int(page.imagewidth)
            why = intact.strips(page.dataoffsets, page.databytecounts, len(page.dataoffsets), path.stat().st_size)
            unfit = _unfit(page, max_pixels)
            said = (FIRST_FRAME,) if file.pages.is_multipage else ()
    except Exception as error:
        raise ImageError(f"{path} is no TIFF that can be read ({error}); replace it or take it out.") from None
    if why:
        raise ImageError(f"{path} is damaged or cut short ({why}); replace it or take it out.")
    if size[1] > WIDEST or size[0] > LONGEST:
        raise ImageError(
            f"{path} is {size[0]} x {size[1]} (h x w), allowed are {LONGEST:,} x {WIDEST:,}; cut it into several pictures."
        )
    if unfit is None:
        return Strips(path, *size, depth, said)
    try:
        return _whole(path, max_pixels, depth)
    except TooLarge:
        raise ImageError(
            f"{path} is {size[0]} x {size[1]} (h x w), which is too large to be read whole, and it cannot be read strip by "
            f"strip, as {unfit[0]}; {unfit[1]}, or raise the limit with --max-pixels if you trust the file."
        ) from None


def _whole(path: Path, max_pixels: int, depth: int | None) -> Whole:
    picture = read_picture(path, max_pixels=max_pixels, depth=depth)
    return Whole(picture.pixels, picture.notes)


def _unfit(page: Any, max_pixels: int) -> tuple[str, str] | None:
    """Why the strips of a TIFF's page are not what `read_picture` gives, and what helps; None where they are."""
    orientation = page.tags.valueof(ORIENTATION, 1)
    if orientation in range(2, 9):
        return f"it lies turned or mirrored (orientation {orientation})", "save it upright"
    if page.compression not in COMPRESSIONS:
        return f"its compression is {page.compression.name}", "save it uncompressed or with deflate"
    if page.predictor not in (1, 2) or page.fillorder != 1:
        return f"it has predictor {int(page.predictor)} and fill order {int(page.fillorder)}", "save it uncompressed"
    if page.planarconfig != 1:
        return "its colours lie in separate planes", "save it with interleaved channels"
    samples = {1: 1, 2: 3}.get(page.photometric)  # grey from black to white, RGB
    if samples != page.samplesperpixel or page.extrasamples or page.imagedepth != 1:
        return f"it is {page.photometric.name} of {page.samplesperpixel} channels", "save it as plain grey or RGB"
    kind = page.sampleformat, page.bitspersample
    if kind not in ((1, 8), (1, 16), (3, 32)) or (kind[0] == 3 and samples != 1):
        return (
            f"it holds values of {page.bitspersample} bits in format {int(page.sampleformat)}",
            "save it with 8 or 16 bits",
        )
    strip = int(np.prod(page.chunks[:2]))
    if strip > max_pixels:
        return f"one strip of it has {strip:,} pixels", "save it in more strips"
    return None


def shrunk(rows: Rows, factor: int, *, highest: bool = False) -> Image:
    """A picture shrunk to the mean, or the highest value, of `factor` x `factor` pixels: h w 3, sides rounded up."""
    across = np.arange(0, rows.width, factor)
    counts = np.diff([*across, rows.width])[:, None]
    pieces: list[Image] = []

    def add(band: Image) -> None:
        down = np.arange(0, len(band), factor)
        if highest:
            pieces.append(np.maximum.reduceat(np.maximum.reduceat(band, down, axis=0), across, axis=1))
            return
        total = np.add.reduceat(np.add.reduceat(band, down, axis=0, dtype=np.float32), across, axis=1)
        mean = total / counts / np.diff([*down, len(band)])[:, None, None]
        pieces.append((np.rint(mean) if band.dtype == np.uint8 else mean).astype(band.dtype))

    left: Image | None = None
    for rows_read in rows.bands():
        band = rows_read if left is None else np.concatenate([left, rows_read])
        whole = len(band) // factor * factor
        if whole:
            add(band[:whole])
        left = band[whole:]
    if left is not None and len(left):
        add(left)
    return np.concatenate(pieces)


def _at_size(path: Path, shape: tuple[int, int], max_pixels: int, highest: bool) -> Image:
    """A picture file at the size (h, w) of a map that may have been shrunk. Raises ImageError where it cannot be."""
    rows = open_rows(path, max_pixels)
    factor = -(-max(rows.height, rows.width) // max(shape))
    if (-(-rows.height // factor), -(-rows.width // factor)) != shape:
        raise ImageError(
            f"{path} is {rows.height} x {rows.width} (h x w) and its map {shape[0]} x {shape[1]}; give the picture that was "
            "judged, and masks of its own size."
        )
    return shrunk(rows, factor, highest=highest)


def picture_like(path: Path, shape: tuple[int, int], max_pixels: int) -> Image:
    """The picture that was judged, at the size (h, w) of its map: as it is, or shrunk where the map was shrunk."""
    try:
        pixels = read_picture(path, max_pixels=shape[0] * shape[1]).pixels  # a larger one is refused by its header
    except ImageError:
        return _at_size(path, shape, max_pixels, highest=False)
    return pixels if pixels.shape[:2] == shape else _at_size(path, shape, max_pixels, highest=False)


def mask_like(path: Path, shape: tuple[int, int], max_pixels: int) -> Mask:
    """A defect mask at the size (h, w) of its picture's map, which was shrunk: True where any pixel under it is marked."""
    level = _at_size(path, shape, max_pixels, highest=True).max(axis=2)
    return marked(level, path)


def starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` start along `length`: evenly spread, OVERLAP or more, the last flush with the end."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * (1 - OVERLAP)))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def weights(side: int) -> NDArray[np.float32]:
    """A tile's weight along one side: a ramp over OVERLAP of it at either end, never zero."""
    ramp = max(1, round(side * OVERLAP))
    place = np.arange(side) + 1.0
    return np.minimum(np.minimum(place, place[::-1]) / (ramp + 1), 1.0).astype(np.float32)


def batch_size(canvas: tuple[int, int], side: int, memory: int = MEMORY) -> int:
    """Tiles in a batch, from what `memory` bytes hold of the network's values and of the tiles themselves; at least 1."""
    bytes_each = canvas[0] * canvas[1] * 4 * FLOATS + side * side * 16
    return int(min(max(memory // bytes_each, 1), MOST))


Judge = Callable[[list[tuple[int, int, Image]]], list[Map]]


def blended(rows: Rows, side: int, batch: int, judge: Judge) -> Iterator[tuple[int, Map]]:
    """(first row, map h w of these rows) from top to bottom, each row once.

    judge  up to `batch` tiles (row, column, h w 3) -> their maps, h w each
    """
    tops, lefts = starts(rows.height, side), starts(rows.width, side)
    high, wide = min(side, rows.height), min(side, rows.width)
    down, along = weights(high), weights(wide)
    total = np.zeros((high, rows.width), dtype=np.float32)
    # Tiles lie on a grid, so the weights' sum is a product: of a row's and a column's.
    mass, mass_along = np.zeros(high, np.float32), np.zeros(rows.width, np.float32)
    for left in lefts:
        mass_along[left : left + wide] += along
    feed = _windows(rows, tops, high)
    for number, (top, band) in enumerate(feed):
        for first in range(0, len(lefts), batch):
            some = [(top, left, np.ascontiguousarray(band[:, left : left + wide])) for left in lefts[first : first + batch]]
            for (_, left, _), own in zip(some, judge(some), strict=True):
                total[:, left : left + wide] += own * down[:, None] * along
        mass += down
        done = (tops[number + 1] if number + 1 < len(tops) else rows.height) - top
        for first in range(0, done, BAND):
            part = np.s_[first : min(first + BAND, done)]
            yield top + first, total[part] / mass[part, None] / mass_along
        for sums in (total, mass):
            sums[: high - done] = sums[done:].copy() if sums.ndim == 1 else sums[done:]
            sums[high - done :] = 0


def _windows(rows: Rows, tops: list[int], high: int) -> Iterator[tuple[int, Image]]:
    """(top, `high` rows from there) for each top; only these rows and one band are held."""
    held: list[Image] = []
    first = end = 0
    feed = rows.bands()
    for top in tops:
        while end < top + high:
            band = next(feed, None)
            if band is None:
                raise ImageError(f"The picture ends after {end} rows of {rows.height}; it is cut short, so replace it.")
            held.append(band)
            end += len(band)
        joined = np.concatenate(held)[top - first :] if len(held) > 1 or top > first else held[0]
        held, first = [joined], top
        yield top, joined[:high]


@dataclass
class Regions:
    """Connected marked regions (8 neighbours) of a map that comes in bands. `add` each band, then `found`."""

    boxes: list[list[float]] = field(default_factory=list)  # left, top, right, bottom, area, peak
    parent: list[int] = field(default_factory=list)
    last: NDArray[np.int64] | None = None  # label + 1 of the last row's marked pixels

    def add(self, top: int, values: Map, mask: Mask) -> None:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        base = len(self.parent) - 1
        for label in range(1, count):
            x, y, w, h, area = (int(v) for v in stats[label])
            cut = np.s_[y : y + h, x : x + w]
            peak = float(values[cut][labels[cut] == label].max())
            self.parent.append(len(self.parent))
            self.boxes.append([x, top + y, x + w, top + y + h, area, peak])
        ends = labels[[0, -1]].astype(np.int64)
        own = np.where(ends > 0, ends + base + 1, 0)
        if self.last is not None:
            for shift in (-1, 0, 1):
                above = np.roll(self.last, shift)
                if shift:
                    above[0 if shift == 1 else -1] = 0
                both = (above > 0) & (own[0] > 0)
                for one, two in np.unique(np.stack([above[both], own[0][both]]), axis=1).T:
                    self._join(int(one) - 1, int(two) - 1)
        self.last = own[-1]

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def _join(self, one: int, two: int) -> None:
        a, b = sorted((self._root(one), self._root(two)))
        if a == b:
            return
        self.parent[b] = a
        own, other = self.boxes[a], self.boxes[b]
        self.boxes[a] = [
            min(own[0], other[0]),
            min(own[1], other[1]),
            max(own[2], other[2]),
            max(own[3], other[3]),
            own[4] + other[4],
            max(own[5], other[5]),
        ]

    def found(self) -> tuple[Region, ...]:
        """The strangest first."""
        regions = []
        for label, (left, top, right, bottom, area, peak) in enumerate(self.boxes):
            if self.parent[label] == label:
                regions.append(Region(int(left), int(top), int(right - left), int(bottom - top), int(area), peak))
        return tuple(sorted(regions, key=lambda region: -region.peak))
