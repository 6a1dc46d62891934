"""Decoding: a file, a Pillow image or an array becomes a Picture, or an ImageError of one sentence.

PNG, JPEG, BMP, TIFF, WebP; 8 and 16 bits, grey or RGB, with or without alpha; palette, 1-bit, CMYK. Everything becomes
h w 3 RGB: 8 bits per channel -> uint8 in [0, 255]; 16 bits -> float32 = value / 65535. The scale is fixed, never
stretched per picture, so that equal light gives equal numbers in every picture.

Pillow decodes, because it tells the size before it decodes; OpenCV decodes 16-bit colour, which Pillow cuts to 8 bits.
Neither is asked before the file is known to be whole (intact.py) and to fit: `max_pixels` bounds pixels, and BYTES times as
many bytes of memory while it is decoded.

16-bit pictures whose camera has fewer bits: `depth` says how many, and the scale is then value / (2^depth - 1).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from flawforge_runtime import intact
from flawforge_runtime.types import Image, ImageError, Mask

MAX_PIXELS = 100_000_000
BYTES = 12  # of memory for each pixel of `max_pixels`: 8-bit colour of that size, or half of it with 16 bits
DENSEST = 1024  # pixels that one byte of a large JPEG, TIFF or WebP holds at most; a real picture has under 100
NARROW_NOTE = "16-bit values of"
NARROW = 4095  # a 16-bit picture that stays below is likely one of a camera with 12 bits or fewer
FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
PLUGINS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # JPEG opens MPO too, the JPEG of some cameras and phones

ORIENTATION = 0x0112  # EXIF and TIFF tag
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR = 258, 262, 284  # TIFF tags
ROWS_PER_STRIP, SAMPLES_PER_PIXEL, EXTRA_SAMPLES, SAMPLE_FORMAT = 278, 277, 338, 339
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips, of tiles
TILE_WIDTH, TILE_LENGTH = 322, 323
IMAGE_WIDTH, IMAGE_LENGTH = 256, 257
FIRST_FRAME = "only the first of several frames is read"
ALPHA_DROPPED = "alpha channel dropped"
CUT_TO_8_BITS = "16-bit colour was cut to 8 bits by Pillow; give the path instead"

_pillow_limit = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child that inherits it held by a thread that is not there would wait for ever
    os.register_at_fork(
        before=_pillow_limit.acquire, after_in_parent=_pillow_limit.release, after_in_child=_pillow_limit.release
    )


class TooLarge(ImageError):
    """A picture above `max_pixels`, or above the memory that goes with it."""


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


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS, depth: int | None = None) -> Picture:
    """The picture in a file; ImageError where it is missing, empty, damaged, cut short, foreign, or above `max_pixels`.

    depth  bits of the camera behind 16-bit pictures, 8 to 16; None = 16
    The size in the header is checked before anything is decoded.
    """
    path = Path(path)
    name = str(path)
    with _sentences(name):
        if not path.is_file():
            raise ImageError(f"{name} is not a file; give the path of a {FORMATS} picture.")
        with path.open("rb") as stream:
            return _read(stream, name, max_pixels, depth)


def _read(stream: BinaryIO, name: str, max_pixels: int, depth: int | None) -> Picture:
    length = stream.seek(0, 2)
    if not length:
        raise ImageError(f"{name} is empty (0 bytes); replace it by a {FORMATS} picture or take it out.")
    stream.seek(0)
    with _open(stream) as image:
        place = stream.tell()
        _check_size(image.height, image.width, name, max_pixels, _cost(image))
        _check_dense(image, length, name)
        _check_strips(image, length, name)
        intact.check(stream, name)
        stream.seek(place)
        return _decode(image, name, stream, depth)


def marked(level: NDArray[Any], path: str | Path = "") -> Mask:
    """h w brightness of a mask picture -> h w bool: the upper half of its range; where nothing gets there, what is not 0.

    A JPEG, told by `path`, rings beside every edge, so there small values never count.
    """
    half = 128 if level.dtype == np.uint8 else 0.5
    rings = str(path).lower().endswith((".jpg", ".jpeg"))
    return np.asarray(level >= half if rings or level.max() >= half else level > 0)


def as_picture(source: Any, *, max_pixels: int = MAX_PIXELS, depth: int | None = None) -> Picture:
    """A path, the bytes of a file, an open binary file, a Pillow image or an array as a Picture.

    Arrays (and what numpy takes for one, such as a tensor on the CPU) are h w, h w 1, h w 3 (RGB, not OpenCV's BGR: see
    `from_bgr`) or h w 4 (RGBA); bool, uint8, uint16, or floating in [0, 1]. depth as in `read_picture`.
    ImageError for anything else.
    """
    if isinstance(source, (str, Path)):
        return read_picture(source, max_pixels=max_pixels, depth=depth)
    if isinstance(source, (bytes, bytearray, memoryview)):
        with _sentences("the picture given as bytes"):
            return _read(BytesIO(source), "the picture given as bytes", max_pixels, depth)
    if isinstance(source, Pillow.Image):
        with _sentences("the given image"):
            _check_size(source.height, source.width, "the given image", max_pixels, _cost(source))
            return _decode(source, "the given image", None, depth)
    if isinstance(source, np.ndarray):
        return _from_array(source, "the given array", max_pixels, depth)
    if hasattr(source, "read"):
        with _sentences("the given file"):
            held = source.read()
            if not isinstance(held, bytes):
                raise ImageError("the given file is open as text; open it with mode 'rb'.")
            return _read(BytesIO(held), "the given file", max_pixels, depth)
    if hasattr(source, "__array__"):
        with _sentences("the given array"):
            return _from_array(np.asarray(source), "the given array", max_pixels, depth)
    raise ImageError(
        f"a {type(source).__name__} was given; give a path, the bytes of a file, a Pillow image or a numpy array."
    )


def from_bgr(array: NDArray[Any]) -> NDArray[Any]:
    """An array h w 3 or h w 4 with OpenCV's order of channels (blue first) as RGB or RGBA, which pictures are here.

    Raises ImageError for another shape.
    """
    if not hasattr(array, "ndim"):
        raise ImageError(f"a {type(array).__name__} was given; give an array h w 3 (BGR) or h w 4 (BGRA).")
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ImageError(f"an array of shape {array.shape} was given; give h w 3 (BGR) or h w 4 (BGRA).")
    order = [2, 1, 0, 3][: array.shape[2]]
    return np.ascontiguousarray(array[..., order])


@contextlib.contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no {FORMATS} picture that can be read; replace it or take it out.") from None
    except PermissionError:
        raise ImageError(f"{name} may not be opened by this user; change its permissions or take it out.") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; give a smaller picture.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ImageError(f"{name} is damaged or cut short ({reason}); replace it or take it out.") from None


def _open(stream: BinaryIO) -> Pillow.Image:
    """Read the header alone. Pillow's own limit is lifted meanwhile: ours names the option that raises it."""
    with _pillow_limit:
        limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        try:
            return Pillow.open(stream, formats=PLUGINS)
        finally:
            Pillow.MAX_IMAGE_PIXELS = limit


def _cost(image: Pillow.Image) -> int:
    """Bytes of memory for each pixel while a picture is decoded, about."""
    if _is_deep_colour(image):
        return 26
    if image.mode.startswith("I") or image.mode == "F":
        return 20
    return 4 + 2 * len(image.getbands())


def _check_dense(image: Pillow.Image, length: int, name: str) -> None:
    """A small file that claims a huge picture would be decoded for minutes; PNG is checked exactly, in intact.py."""
    pixels = image.height * image.width
    if image.format != "PNG" and pixels > max(1_000_000, DENSEST * length):
        raise ImageError(
            f"{name} has {length:,} bytes, which cannot hold the {image.height} x {image.width} pixels (h x w) that it "
            "claims; replace it or take it out."
        )


def _check_strips(image: Pillow.Image, length: int, name: str) -> None:
    tags = getattr(image, "tag_v2", None)
    if tags is None or image.format != "TIFF":
        return
    high, wide = int(tags[IMAGE_LENGTH]), int(tags[IMAGE_WIDTH])  # as it is stored, before it is turned upright
    planes = tags.get(SAMPLES_PER_PIXEL, 1) if tags.get(PLANAR, 1) == 2 else 1
    if TILE_WIDTH in tags:
        needed = -(-high // max(1, tags[TILE_LENGTH])) * -(-wide // max(1, tags[TILE_WIDTH]))
    else:
        needed = -(-high // max(1, min(tags.get(ROWS_PER_STRIP, high), high)))
    offsets, counts = (
        next((tuple(np.atleast_1d(tags[tag]).tolist()) for tag in pair if tag in tags), ()) for pair in (OFFSETS, COUNTS)
    )
    why = intact.strips(offsets, counts, needed * planes, length)
    if why:
        raise ImageError(f"{name} is damaged or cut short ({why}); replace it or take it out.")


def _check_size(height: int, width: int, name: str, max_pixels: int, cost: int = 1) -> None:
    if height * width > max_pixels:
        raise TooLarge(
            f"{name} is {height} x {width} (h x w) = {height * width:,} pixels, allowed are {max_pixels:,}; "
            f"raise the limit with --max-pixels if you trust the file."
        )
    if height * width * cost > BYTES * max_pixels:
        raise TooLarge(
            f"{name} is {height} x {width} (h x w) and takes about {height * width * cost / 2**30:.1f} GiB to decode, "
            f"allowed are {BYTES * max_pixels / 2**30:.1f}; raise the limit with --max-pixels if you trust the file."
        )
    if height * width == 0:
        raise ImageError(f"{name} is {height} x {width} (h x w) and has no pixels; give a picture.")


def _decode(image: Pillow.Image, name: str, stream: BinaryIO | None, depth: int | None) -> Picture:
    """`stream` is the file that `image` was opened from, None for an image that a caller made."""
    notes: list[str] = []
    if stream is not None and image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        notes.append(FIRST_FRAME)
    deep = _is_deep_colour(image)
    _refuse_odd_tiff(image, name, deep)
    orientation = _orientation(image)
    image.load()
    left = _orientation(image)  # Pillow turns a TIFF itself while it loads, and so does OpenCV
    if deep and stream is not None:
        stream.seek(0)
        array = _decode_deep(stream.read(), name)
        mode = f"16-bit {'RGBA' if array.shape[2] == 4 else 'RGB'}"
    else:
        array, mode = _pillow_array(image, name, notes)
        if deep:
            notes.append(CUT_TO_8_BITS)
    if orientation != 1:
        notes.append(f"turned upright (EXIF orientation {orientation})")
    return _finish(_turn(array, left), mode, name, notes, depth)


def _orientation(image: Pillow.Image) -> int:
    """EXIF orientation 1 .. 8; 1, upright, where there is none or none that makes sense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block must not cost the picture
        return 1
    return value if value in range(1, 9) else 1


def _turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """EXIF orientation applied to h w [c]: 5 .. 8 are transposed first, then rows and columns are flipped."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _is_deep_colour(image: Pillow.Image) -> bool:
    """True for 16-bit colour and 16-bit grey with alpha, which Pillow would silently cut to 8 bits."""
    if image.format == "PNG":
        return image.mode != "I;16" and any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX", "LA"):
        return max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) == 16
    return False


def _refuse_odd_tiff(image: Pillow.Image, name: str, deep: bool) -> None:
    """Two layouts that the libraries would decode to something else without a word."""
    tags = getattr(image, "tag_v2", {})
    if deep and tags.get(PLANAR, 1) == 2:
        raise ImageError(f"{name} is a 16-bit colour TIFF with separate planes; save it with interleaved channels.")
    if (image.mode.startswith("I;16") or image.mode == "F") and tags.get(PHOTOMETRIC, 1) == 0:
        raise ImageError(f"{name} is a deep TIFF in which 0 means white; save it so that 0 means black.")
    if 2 in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)) and image.mode != "I":
        raise ImageError(f"{name} is a TIFF of signed numbers; save it with 8 or 16 bits without a sign.")
    if deep and 1 in np.atleast_1d(tags.get(EXTRA_SAMPLES, 0)):
        raise ImageError(f"{name} is a 16-bit TIFF multiplied by its alpha; save it without alpha.")


def _decode_deep(encoded: bytes, name: str) -> NDArray[Any]:
    """16-bit colour as h w 3 or h w 4 uint16 in RGB order; a TIFF is turned upright."""
    array = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ImageError(f"{name} holds 16-bit colour of a kind that cannot be read; save it as 16-bit RGB PNG.")
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB))


def _pillow_array(image: Pillow.Image, name: str, notes: list[str]) -> tuple[NDArray[Any], str]:
    """The pixels of a loaded Pillow image as an array that _finish takes, and the name of what it held."""
    mode = image.mode
    if mode in ("1", "L", "RGB"):
        if "transparency" in image.info:
            notes.append(ALPHA_DROPPED)
        return np.asarray(image), {"1": "1-bit", "L": "8-bit grey", "RGB": "8-bit RGB"}[mode]
    if mode in ("LA", "La", "RGBA", "RGBa"):
        return np.asarray(image.convert("RGBA")), "8-bit grey with alpha" if mode[0] == "L" else "8-bit RGBA"
    if mode in ("P", "PA"):
        clear = mode == "PA" or "transparency" in image.info
        return np.asarray(image.convert("RGBA"))[..., : 4 if clear else 3], "palette"
    if mode in ("CMYK", "YCbCr", "RGBX"):
        notes.append(f"{mode} converted to RGB")
        return np.asarray(image.convert("RGB")), mode
    if mode.startswith("I"):  # I;16 of either byte order, or I: 32 bits, which older files hold 16 in
        whole = np.asarray(image)
        if whole.min() < 0 or whole.max() > 65535:
            raise ImageError(
                f"{name} holds 32-bit values from {whole.min()} to {whole.max()}, allowed is 0 to 65535; "
                f"save it with 16 bits."
            )
        return whole.astype(np.uint16), "16-bit grey"
    if mode == "F":
        return np.asarray(image), "float grey"
    raise ImageError(f"{name} has colour mode {mode}; save it as 8- or 16-bit grey or RGB.")


def scaled_pixels(array: NDArray[Any], name: str, depth: int | None = None) -> Image:
    """h w [1|3|4] of bool, uint8, uint16 or floats in [0, 1] -> h w 3 as in a Picture; ImageError naming `name` else."""
    return _finish(array, "", name, [], depth).pixels


def _from_array(array: NDArray[Any], name: str, max_pixels: int, depth: int | None) -> Picture:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise ImageError(f"{name} has shape {array.shape}, channels first; transpose it to h w 3 (RGB).")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name} has shape {array.shape}; give h w, h w 1, h w 3 (RGB) or h w 4 (RGBA).")
    _check_size(array.shape[0], array.shape[1], name, max_pixels)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # whatever machine or file it is from
    colour = {1: "grey", 3: "RGB", 4: "RGBA"}[1 if array.ndim == 2 else array.shape[2]]
    kind = {"bool": "1-bit", "uint8": "8-bit", "uint16": "16-bit"}.get(str(array.dtype), "float")
    return _finish(array, "1-bit" if kind == "1-bit" else f"{kind} {colour}", name, [], depth)


def _finish(array: NDArray[Any], mode: str, name: str, notes: list[str], depth: int | None) -> Picture:
    """h w [1|3|4] of any supported dtype -> Picture, whose pixels share no memory with `array`."""
    if array.ndim == 3 and array.shape[2] == 4:
        array = array[..., :3]
        notes.append(ALPHA_DROPPED)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint16 and array.size:
        notes += narrow_notes(int(array.max()), depth)
    array = _scaled(array, name, depth)
    if array.ndim == 2:
        pixels = np.asarray(cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_GRAY2RGB))
    else:
        pixels = np.array(array, order="C")
    return Picture(pixels, mode, tuple(notes))


def narrow_notes(highest: int, depth: int | None) -> list[str]:
    """What is said of a 16-bit picture with this highest value."""
    return [f"{NARROW_NOTE} {highest} at most: {narrow(highest)}"] if depth is None and highest <= NARROW else []


def narrow(highest: int) -> str:
    """What to do about 16-bit pictures that use few of their bits."""
    bits = max(8, highest.bit_length())
    return f"{bits}-bit values in a 16-bit picture? fit with --depth {bits}"


def _scaled(array: NDArray[Any], name: str, depth: int | None = None) -> NDArray[Any]:
    """bool, uint8, uint16 or floating in [0, 1] -> uint8 or float32 in [0, 1]; ImageError for anything else."""
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        top = 2 ** (16 if depth is None else depth) - 1
        if array.size and array.max() > top:
            raise ImageError(f"{name} holds values up to {array.max()}, allowed is 0 to {top} with --depth {depth}.")
        return np.asarray(array.astype(np.float32) / np.float32(top))
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"{name} holds {array.dtype} values; give uint8, uint16, or floats from 0 to 1.")
    if not np.isfinite(array).all():
        raise ImageError(f"{name} holds values that are not finite (NaN or infinity); give finite ones.")
    if array.min() < 0.0 or array.max() > 1.0:
        raise ImageError(
            f"{name} holds float values from {array.min():.6g} to {array.max():.6g}, allowed is 0 to 1; "
            f"divide by the highest that there can be, or give uint8."
        )
    return array.astype(np.float32)
