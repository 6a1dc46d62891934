"""Pictures on disk and on the working canvas: the only room that touches pixels on disk.

Read:   read_picture, as_picture, read_mask. Any of PNG, JPEG, BMP, TIFF, WebP becomes h w 3 RGB:
        8 bits per channel -> uint8 in [0, 255]; 16 bits -> float32 = value / 65535. The scale is fixed, never
        stretched per picture, so that equal light gives equal numbers in every picture.
Canvas: choose_canvas, letterbox, valid_mask, mask_on_canvas, restore. Proportions are kept, always.
Write:  write_image (a temporary name first, then renamed: no half-written file).

Pillow decodes, because it tells the size before it decodes; OpenCV resizes, and decodes 16-bit colour, which Pillow cuts
down to 8 bits.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from flawforge.types import ConfigError, Image, ImageError, Map, Mask

MAX_PIXELS = 100_000_000
FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
PLUGINS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP")  # MPO: the JPEG of some cameras and phones

ORIENTATION = 0x0112  # EXIF and TIFF tag
BITS_PER_SAMPLE = 258  # TIFF tag
FIRST_FRAME = "only the first of several frames is read"
ALPHA_DROPPED = "alpha channel dropped"

_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    pixels  h w 3 RGB, C-contiguous; uint8 in [0, 255] or float32 in [0, 1]; grey is replicated
    mode    what the file held, such as "8-bit grey", "16-bit grey", "8-bit RGB", "8-bit RGBA", "1-bit"
    notes   what was changed on the way, one phrase each
    """

    pixels: Image
    mode: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where a picture lies on its canvas: rows top .. top+height, columns left .. left+width, in canvas pixels."""

    top: int
    left: int
    height: int
    width: int
    own_height: int
    own_width: int
    canvas: tuple[int, int]


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file. ImageError where it is missing, empty, truncated, of another kind, or above `max_pixels`.

    The size in the header is checked before anything is decoded.
    """
    path = Path(path)
    with _sentences(str(path)):
        if not path.is_file():
            raise ImageError(f"{path} is not a file; give the path of a {FORMATS} picture.")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise ImageError(f"{path} is empty (0 bytes); replace it by a {FORMATS} picture or take it out.")
            stream.seek(0)
            with _open(stream) as image:
                _check_size(image, str(path), max_pixels)
                return _decode(image, str(path), stream)


def as_picture(source: str | Path | Pillow.Image | NDArray[Any], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A path, a Pillow image or an array as a Picture.

    Arrays are h w, h w 1, h w 3 (RGB) or h w 4 (RGBA); bool, uint8, uint16, or floating in [0, 1].
    ImageError for anything else.
    """
    if isinstance(source, (str, Path)):
        return read_picture(source, max_pixels=max_pixels)
    if isinstance(source, Pillow.Image):
        with _sentences("the given image"):
            _check_size(source, "the given image", max_pixels)
            return _decode(source, "the given image", None)
    if isinstance(source, np.ndarray):
        return _from_array(source, "the given array", max_pixels)
    raise ImageError(f"a {type(source).__name__} was given; give a path, a Pillow image or a numpy array.")


def read_mask(path: str | Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> Mask:
    """A defect mask as h w bool; ImageError unless it has exactly `size` = (h, w), its picture's own size.

    True where any channel is at or above half of the file's range, or, where the file never gets there
    (masks of 0 and 1), where it is not zero.
    """
    picture = read_picture(path, max_pixels=max_pixels)
    height, width = picture.pixels.shape[:2]
    if (height, width) != tuple(size):
        raise ImageError(
            f"mask {path} is {height} x {width} (h x w) but its picture is {size[0]} x {size[1]}; "
            f"give a mask of the picture's own size."
        )
    level = picture.pixels.max(axis=2)
    half = 128 if level.dtype == np.uint8 else 0.5
    return np.asarray(level >= half if level.max() >= half else level > 0)


def choose_canvas(sizes: Sequence[tuple[int, int]], size: int, multiple: int = 32) -> tuple[int, int]:
    """The working canvas (H, W) of a model: about size * size pixels in the proportions of its good pictures.

    sizes are the pictures' own (h, w); the aspect is the median of h / w. Both sides are multiples of `multiple` and at
    least 64, or `size` where that is smaller. Pictures much smaller than `size` are enlarged at most twofold
    (assumption: beyond that the canvas costs time and shows nothing new). ConfigError for size < multiple.
    """
    if not sizes:
        raise ConfigError("no picture sizes were given; give at least one (h, w).")
    if size < multiple:
        raise ConfigError(f"size is {size}, allowed is {multiple} or more; raise --size.")
    own = np.asarray(sizes, dtype=np.float64)
    aspect = float(np.median(own[:, 0] / own[:, 1]))
    side = min(float(size), 2.0 * math.sqrt(float(np.median(own[:, 0] * own[:, 1]))))
    least = min(64, math.ceil(size / multiple) * multiple)

    def near(length: float) -> set[int]:
        return {max(least, step * multiple) for step in (math.floor(length / multiple), math.ceil(length / multiple))}

    def cost(canvas: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        height, width = canvas
        return abs(math.log(height / width / aspect)) + abs(math.log(height * width / side**2)), canvas

    tall, wide = side * math.sqrt(aspect), side / math.sqrt(aspect)
    tall, wide = min(tall, side**2 / least), min(wide, side**2 / least)
    return min(((h, w) for h in near(tall) for w in near(wide)), key=cost)


def letterbox(pixels: Image, canvas: tuple[int, int]) -> tuple[Image, Placement]:
    """`pixels` (h w or h w c) on the canvas (H, W), same dtype, proportions kept, centred.

    Shrunk by area mean, enlarged linearly; the border repeats the picture's edge. Where the picture already has the
    canvas's size it is returned as it is, not copied.
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
    """The placed part (height width or height width c) with the border that letterbox gives it: its edge, repeated."""
    high, wide = placement.canvas
    if inner.shape[:2] == (high, wide):
        return inner
    bottom = high - placement.top - placement.height
    right = wide - placement.left - placement.width
    return np.asarray(
        cv2.copyMakeBorder(inner, placement.top, bottom, placement.left, right, cv2.BORDER_REPLICATE)
    ).reshape(high, wide, *inner.shape[2:])


def valid_mask(placement: Placement) -> Mask:
    """H W bool: True where the canvas shows the picture, False on the letterbox border."""
    valid = np.zeros(placement.canvas, dtype=bool)
    valid[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = True
    return valid


def mask_on_canvas(mask: Mask, placement: Placement) -> Mask:
    """A mask of a picture (a region of interest) laid where the picture lies; H W bool, False on the border.

    `mask` has the canvas's size, or any size of the picture's proportions; ImageError for other proportions.
    """
    valid = valid_mask(placement)
    if mask.shape == placement.canvas:
        return np.asarray(mask, dtype=bool) & valid
    laid, own = letterbox(np.asarray(mask, dtype=np.float32), placement.canvas)
    if (own.height, own.width) != (placement.height, placement.width):
        raise ImageError(
            f"the region of interest is {mask.shape[0]} x {mask.shape[1]} (h x w) but a picture is "
            f"{placement.own_height} x {placement.own_width}; give a mask of the pictures' proportions."
        )
    return np.asarray(laid >= 0.5) & valid


def restore(values: Map, placement: Placement) -> Map:
    """A canvas map (H W float32) at the picture's own size; every value stays within the range of the placed part.

    Enlarged linearly; where the picture is smaller than its place on the canvas, area means.
    """
    rows = slice(placement.top, placement.top + placement.height)
    inner = np.ascontiguousarray(values[rows, placement.left : placement.left + placement.width], dtype=np.float32)
    own = _resize(inner, placement.own_height, placement.own_width)
    return np.asarray(np.clip(own, inner.min(), inner.max()), dtype=np.float32)


def write_image(path: str | Path, array: NDArray[Any]) -> None:
    """Write h w or h w 3 RGB, atomically; the suffix chooses the format.

    bool -> 0 and 255; uint8 as it is; floating in [0, 1] -> 8 bits; uint16 as it is, PNG and TIFF only.
    ImageError for another suffix, shape or dtype; OSError (full disk, no such folder) passes through, nothing is left.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{path} ends in {suffix or 'nothing'!r}; allowed are {', '.join(sorted(SUFFIXES))}.")
    encoded = _encode(np.asarray(array), suffix, path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        temporary.write_bytes(encoded)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(array: NDArray[Any], suffix: str, path: Path) -> bytes:
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        array = np.rint(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)
    deep_fits = array.dtype == np.uint16 and suffix in {".png", ".tif", ".tiff"}
    shape_fits = array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
    if not shape_fits or not (array.dtype == np.uint8 or deep_fits):
        raise ImageError(
            f"{path}: an array of shape {array.shape} and type {array.dtype} was given; allowed are h w and h w 3 of "
            f"bool, uint8, floats in [0, 1], and uint16 for PNG and TIFF."
        )
    if array.ndim == 3:
        array = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGB2BGR)
    options = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".jpeg": cv2.IMWRITE_JPEG_QUALITY, ".webp": cv2.IMWRITE_WEBP_QUALITY}
    quality = [options[suffix], 95] if suffix in options else []
    done, encoded = cv2.imencode(suffix, array, quality)
    if not done:
        raise ImageError(f"{path} could not be encoded as {suffix}; choose .png.")
    return bytes(encoded.tobytes())


def _resize(pixels: Image, height: int, width: int) -> Image:
    own_height, own_width = pixels.shape[:2]
    if (own_height, own_width) == (height, width):
        return pixels
    shrinks = height <= own_height and width <= own_width
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized).reshape(height, width, *pixels.shape[2:])


@contextlib.contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no {FORMATS} picture; replace it or take it out.") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; give a smaller picture.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or cut short ({reason}); replace it or take it out.") from None


def _open(stream: BinaryIO) -> Pillow.Image:
    """Read the header alone. Pillow's own limit is lifted meanwhile, since ours names the option that raises it."""
    with _pillow_limit:
        limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        try:
            return Pillow.open(stream, formats=PLUGINS)
        finally:
            Pillow.MAX_IMAGE_PIXELS = limit


def _check_size(image: Pillow.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {height} x {width} (h x w) = {height * width:,} pixels, allowed are {max_pixels:,}; "
            f"raise the limit with --max-pixels if you trust the file."
        )


def _orientation(image: Pillow.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block must not cost the picture
        return 1
    return value if value in range(1, 9) else 1


def _turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """EXIF orientation 1..8 applied to h w [c]: 5..8 are transposed first, then rows and columns are flipped."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _decode(image: Pillow.Image, name: str, stream: BinaryIO | None) -> Picture:
    notes = []
    orientation = _orientation(image)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append(FIRST_FRAME)
    deep = stream is not None and _is_deep_colour(image)
    image.load()
    left = _orientation(image) if orientation != 1 else 1  # Pillow turns a TIFF itself while it loads
    if deep and stream is not None:
        stream.seek(0)
        array = _decode_deep(stream.read())
        mode = f"16-bit {'RGBA' if array.shape[2] == 4 else 'RGB'}"
        left = orientation
    else:
        array, mode = _pillow_array(image, name, notes)
    if orientation != 1:
        notes.append(f"turned upright (EXIF orientation {orientation})")
    return _finish(_turn(array, left), mode, name, notes)


def _is_deep_colour(image: Pillow.Image) -> bool:
    """True for 16-bit RGB or RGBA, which Pillow would silently cut to 8 bits."""
    if image.format == "PNG":
        return any("RGB" in str(tile[3]) and "16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX"):
        return max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) == 16
    return False


def _decode_deep(encoded: bytes) -> NDArray[Any]:
    array = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3:
        raise ImageError("this kind of 16-bit colour is not supported")
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB))


def _pillow_array(image: Pillow.Image, name: str, notes: list[str]) -> tuple[NDArray[Any], str]:
    """The pixels of a loaded Pillow image as an array that _finish takes, and the name of what it held."""
    mode = image.mode
    if mode in ("L", "RGB"):
        return np.asarray(image), "8-bit grey" if mode == "L" else "8-bit RGB"
    if mode in ("RGBA", "RGBX", "RGBa"):
        return np.asarray(image.convert("RGBA")), "8-bit RGBA"
    if mode in ("LA", "La"):
        return np.asarray(image.convert("RGBA")), "8-bit grey with alpha"
    if mode in ("P", "PA"):
        clear = mode == "PA" or "transparency" in image.info
        return np.asarray(image.convert("RGBA"))[..., : 4 if clear else 3], "palette"
    if mode == "1":
        return np.asarray(image), "1-bit"
    if mode in ("CMYK", "YCbCr"):
        notes.append(f"{mode} converted to RGB")
        return np.asarray(image.convert("RGB")), mode
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), "16-bit grey"
    if mode == "I":
        whole = np.asarray(image)
        if whole.min() < 0 or whole.max() > 65535:
            raise ImageError(f"{name} holds 32-bit values from {whole.min()} to {whole.max()}; save it with 16 bits.")
        return whole.astype(np.uint16), "16-bit grey"
    if mode == "F":
        return np.asarray(image), "32-bit float grey"
    raise ImageError(f"{name} has colour mode {mode}; save it as 8- or 16-bit grey or RGB.")


def _from_array(array: NDArray[Any], name: str, max_pixels: int) -> Picture:
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name} has shape {array.shape}; give h w, h w 1, h w 3 (RGB) or h w 4 (RGBA).")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(f"{name} has {array.shape[0] * array.shape[1]:,} pixels, allowed are {max_pixels:,}.")
    channels = 1 if array.ndim == 2 else array.shape[2]
    depth = {"bool": "1-bit", "uint8": "8-bit", "uint16": "16-bit"}.get(str(array.dtype), "float")
    mode = f"{depth} {({1: 'grey', 3: 'RGB', 4: 'RGBA'}[channels])}"
    return _finish(array, mode, name, [])


def _finish(array: NDArray[Any], mode: str, name: str, notes: list[str]) -> Picture:
    """h w [1|3|4] of any supported dtype -> h w 3 uint8 or float32, contiguous and owned by us."""
    if array.ndim == 3 and array.shape[2] == 4:
        array = array[..., :3]
        notes.append(ALPHA_DROPPED)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = array.astype(np.float32) / np.float32(65535.0)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError(f"{name} holds values that are not finite (NaN or infinity); save it as 8 or 16 bits.")
        if array.min() < 0.0 or array.max() > 1.0:
            raise ImageError(
                f"{name} holds float values from {array.min():.6g} to {array.max():.6g}, allowed is 0 to 1; "
                f"save it as 8 or 16 bits."
            )
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name} holds {array.dtype} values; give uint8, uint16, or floats from 0 to 1.")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return Picture(np.array(array, order="C"), mode, tuple(notes))
