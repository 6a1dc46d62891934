"""Pictures on the working canvas, masks, and writing: with decode.py the only room that touches pixels on disk.

Read:   read_picture, as_picture (decode.py), read_mask
Canvas: choose_canvas, letterbox, valid_mask, inner_of, mask_on_canvas, restore. Proportions are kept, always.
Write:  write_image
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime.decode import FORMATS, MAX_PIXELS, SUFFIXES, Picture, as_picture, marked, read_picture
from flawforge_runtime.files import write_atomically
from flawforge_runtime.types import ConfigError, Image, ImageError, Map, Mask

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Picture",
    "Placement",
    "as_picture",
    "choose_canvas",
    "inner_of",
    "letterbox",
    "mask_on_canvas",
    "pad",
    "read_mask",
    "read_picture",
    "restore",
    "to_planes",
    "valid_mask",
    "write_image",
]

LEAST_SIDE = 64  # of a canvas, so that five halvings leave 2 x 2; smaller only where --size is
MOST_ENLARGED = 2.0  # assumption: beyond twofold a canvas costs time and shows nothing new
SAME_PROPORTIONS = 0.02  # assumption: a region of interest may differ by a trimmed row or two, not by more


@dataclass(frozen=True)
class Placement:
    """Where a picture lies on its canvas: rows top .. top + height, columns left .. left + width, in canvas pixels."""

    top: int
    left: int
    height: int
    width: int
    own_height: int
    own_width: int
    canvas: tuple[int, int]

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the placed part."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def choose_canvas(sizes: Sequence[tuple[int, int]], size: int, multiple: int = 32) -> tuple[int, int]:
    """The working canvas (H, W) of a model: about size * size pixels in the proportions of its good pictures.

    sizes are the pictures' own (h, w); the aspect is the median of h / w. Both sides are multiples of `multiple` and
    at least LEAST_SIDE (or `size`, where that is smaller); proportions beyond that are letterboxed. Pictures much
    smaller than `size` are enlarged at most MOST_ENLARGED times. ConfigError for no sizes, or size < multiple.
    """
    if not sizes:
        raise ConfigError("no picture sizes were given, at least one (h, w) is needed; give the good pictures' sizes.")
    if size < multiple:
        raise ConfigError(f"size is {size}, allowed is {multiple} or more; raise --size.")
    own = np.asarray(sizes, dtype=np.float64)
    aspect = float(np.median(own[:, 0] / own[:, 1]))
    side = min(float(size), MOST_ENLARGED * math.sqrt(float(np.median(own[:, 0] * own[:, 1]))))
    least = math.ceil(min(LEAST_SIDE, size) / multiple) * multiple
    side = max(side, float(least))

    def near(length: float) -> set[int]:
        steps = length / multiple
        return {max(least, step * multiple) for step in (math.floor(steps), math.ceil(steps))}

    def cost(canvas: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        height, width = canvas
        return abs(math.log(height / width / aspect)) + abs(math.log(height * width / side**2)), canvas

    tall = min(side * math.sqrt(aspect), side**2 / least)
    wide = min(side / math.sqrt(aspect), side**2 / least)
    return min(((height, width) for height in near(tall) for width in near(wide)), key=cost)


def letterbox(pixels: Image, canvas: tuple[int, int]) -> tuple[Image, Placement]:
    """`pixels` (h w or h w c) on the canvas (H, W), same dtype, proportions kept to a canvas pixel, centred.

    Shrunk by area means, enlarged linearly; the border repeats the picture's edge. A picture that already has the
    canvas's size is returned as it is, not copied.
    """
    own_height, own_width = pixels.shape[:2]
    high, wide = canvas
    scale = min(high / own_height, wide / own_width)
    height = min(high, max(1, round(own_height * scale)))
    width = min(wide, max(1, round(own_width * scale)))
    top, left = (high - height) // 2, (wide - width) // 2
    placement = Placement(top, left, height, width, own_height, own_width, (high, wide))
    return pad(_resize(pixels, height, width), placement), placement


def pad(inner: Image, placement: Placement) -> Image:
    """The placed part (height width or height width c) with letterbox's border round it: its own edge, repeated."""
    high, wide = placement.canvas
    if inner.shape[:2] == (high, wide):
        return inner
    top, left = placement.top, placement.left
    bottom, right = high - top - placement.height, wide - left - placement.width
    whole = cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return np.asarray(whole).reshape(high, wide, *inner.shape[2:])


def valid_mask(placement: Placement) -> Mask:
    """H W bool: True where the canvas shows the picture, False on the letterbox border."""
    valid = np.zeros(placement.canvas, dtype=bool)
    valid[placement.inner] = True
    return valid


def inner_of(shown: Mask) -> NDArray[np.float32]:
    """(first row, row after the last, first column, column after the last) of the box round a mask H W; all 0 where none."""
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return np.zeros(4, dtype=np.float32)
    return np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], dtype=np.float32)


def mask_on_canvas(mask: Mask, placement: Placement) -> Mask:
    """A mask of a picture (a region of interest) laid where the picture lies; H W bool, False on the border.

    `mask` has the picture's own size or any other of its proportions; ImageError for other proportions.
    """
    height, width = mask.shape
    own_height, own_width = placement.own_height, placement.own_width
    if abs(height * own_width / (width * own_height) - 1.0) > SAME_PROPORTIONS:
        raise ImageError(
            f"the region of interest is {height} x {width} (h x w) but a picture is {own_height} x {own_width}; "
            f"give a mask of the pictures' proportions."
        )
    laid = valid_mask(placement)
    laid[placement.inner] = _resize(mask.astype(np.float32), placement.height, placement.width) >= 0.5
    return laid


def restore(values: Map, placement: Placement) -> Map:
    """A canvas map (H W float32) at the picture's own size; no value leaves the range of the placed part.

    Enlarged linearly; where the picture is smaller than its place on the canvas, by area means.
    """
    inner = np.ascontiguousarray(values[placement.inner], dtype=np.float32)
    own = _resize(inner, placement.own_height, placement.own_width)
    return np.asarray(np.clip(own, inner.min(), inner.max()), dtype=np.float32)


def to_planes(pixels: Image, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """h w 3 uint8 or float32 -> 3 h w float32 in [0, 1], into `out` where given; uint8 is multiplied by 1 / 255."""
    planes = np.empty((3, *pixels.shape[:2]), dtype=np.float32) if out is None else out
    scale = np.float32(1.0 / 255.0 if pixels.dtype == np.uint8 else 1.0)
    for plane, channel in zip(planes, cv2.split(pixels), strict=True):
        np.multiply(channel, scale, out=plane)
    return planes


def read_mask(path: str | Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> Mask:
    """A defect mask as h w bool; ImageError unless it has exactly `size` = (h, w), its picture's own size.

    True where the brightest channel is in the upper half of the file's range; in a mask that never gets there
    (one written as 0 and 1, or with small numbers for kinds; no JPEG) where it is not zero.
    """
    picture = read_picture(path, max_pixels=max_pixels)
    height, width = picture.pixels.shape[:2]
    if (height, width) != tuple(size):
        raise ImageError(
            f"mask {path} is {height} x {width} (h x w) but its picture is {size[0]} x {size[1]}; "
            f"give a mask of the picture's own size."
        )
    level = picture.pixels.max(axis=2)
    return marked(level, path)


def write_image(path: str | Path, array: NDArray[Any]) -> None:
    """Write h w or h w 3 RGB under a temporary name, then rename it; the suffix chooses the format.

    bool -> 0 and 255; uint8 as it is; floating in [0, 1] -> 8 bits; uint16 as it is, PNG and TIFF only. JPEG and WebP
    are written with quality 95. ImageError for another suffix, shape, type or range; OSError (full disk, no such
    folder) passes through, and nothing half-written stays.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{path} ends in {suffix or 'no suffix'}, allowed are {', '.join(sorted(SUFFIXES))}.")
    write_atomically(path, _encode(_writable(np.asarray(array), suffix, path), suffix, path))


def _writable(array: NDArray[Any], suffix: str, path: Path) -> NDArray[Any]:
    shape_fits = array.size > 0 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
    deep_fits = array.dtype == np.uint16 and suffix in {".png", ".tif", ".tiff"}
    if shape_fits and array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if shape_fits and (array.dtype == np.uint8 or deep_fits):
        return array
    if shape_fits and np.issubdtype(array.dtype, np.floating) and array.min() >= 0.0 and array.max() <= 1.0:
        return np.rint(array * 255.0).astype(np.uint8)
    raise ImageError(
        f"{path}: an array of shape {array.shape} and type {array.dtype} was given; allowed are h w and h w 3 of "
        f"bool, uint8, floats in [0, 1], and uint16 for PNG and TIFF."
    )


def _encode(array: NDArray[Any], suffix: str, path: Path) -> bytes:
    if array.ndim == 3:
        array = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGB2BGR)
    qualities = {
        ".jpg": cv2.IMWRITE_JPEG_QUALITY,
        ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
        ".webp": cv2.IMWRITE_WEBP_QUALITY,
    }
    options = [qualities[suffix], 95] if suffix in qualities else []
    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(array), options)
    if not done:
        raise ImageError(f"{path} could not be encoded as {suffix[1:]}; choose .png.")
    return bytes(encoded.tobytes())


def _resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    own_height, own_width = pixels.shape[:2]
    if (own_height, own_width) == (height, width):
        return pixels
    shrinks = height <= own_height and width <= own_width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (width, height), interpolation=method)
    return np.asarray(resized).reshape(height, width, *pixels.shape[2:])
