"""Decoding against hand-written files and Pillow's own writers; every unreadable file is one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from flawforge.types import ImageError
from flawforge_runtime.decode import ALPHA_DROPPED, FIRST_FRAME, MAX_PIXELS, as_picture, read_picture

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]
RGB16 = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
GREY16 = RGB16[..., 0]
RGBA16 = np.dstack([RGB16, RGB16[::-1, :, :1]])
LOSSLESS = [".png", ".bmp", ".tif", ".webp"]


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def unit(deep: np.ndarray) -> np.ndarray:
    return (deep / 65535.0).astype(np.float32)


def save(path: Path, image: Pillow.Image, **options: object) -> Path:
    if path.suffix == ".webp":
        options |= {"lossless": True, "exact": True}
    image.save(path, **options)
    return path


def tiff(
    pixels: np.ndarray, orientation: int = 1, order: str = "<", photometric: int | None = None, planar: int = 1
) -> bytes:
    """A minimal uncompressed TIFF, written out by hand so that no library's reader and writer can err alike."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    laid = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if planar == 2 else pixels
    body = laid.astype(laid.dtype.newbyteorder(order)).tobytes()
    strips = channels if planar == 2 else 1
    starts = [8 + index * len(body) // strips for index in range(strips)]
    bits = [pixels.dtype.itemsize * 8] * channels
    colour = photometric if photometric is not None else (1 if channels == 1 else 2)
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, bits), (259, 3, [1]), (262, 3, [colour])]
    tags += [(273, 4, starts), (274, 3, [orientation]), (277, 3, [channels]), (278, 4, [height])]
    tags += [(279, 4, [len(body) // strips] * strips), (284, 3, [planar])]
    tags += [(338, 3, [2])] if channels == 4 else []
    body += b"\0" * (len(body) % 2)
    directory, extra = b"", b""
    extra_at = 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, kind, values in tags:
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        directory += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(packed) > 4:
            directory += struct.pack(f"{order}I", extra_at + len(extra))
            extra += packed
        else:
            directory += packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + directory + b"\0" * 4 + extra


def png(pixels: np.ndarray, colour_type: int, size: tuple[int, int] | None = None) -> bytes:
    """A minimal PNG by hand; `size` may lie in the header."""
    height, width = size or pixels.shape[:2]
    depth = pixels.dtype.itemsize * 8
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(pixels.shape[0], -1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize(
    ("given", "expected", "mode"),
    [(GREY, three(GREY), "8-bit grey"), (RGB, RGB, "8-bit RGB"), (np.dstack([RGB, GREY]), RGB, "8-bit RGBA")],
)
def test_8_bit_pictures_come_back_to_the_bit(tmp_path, suffix, given, expected, mode):
    picture = read_picture(save(tmp_path / f"a{suffix}", Pillow.fromarray(given)))
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels, expected)
    if suffix == ".webp":  # knows no grey
        mode = mode.replace("grey", "RGB")
    if suffix == ".bmp":  # as Pillow writes it, its fourth byte is not said to be alpha
        mode = mode.replace("RGBA", "RGB")
    assert picture.mode == mode
    assert picture.notes == ((ALPHA_DROPPED,) if mode == "8-bit RGBA" else ())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("given", "expected", "mode"),
    [(GREY16, three(GREY16), "16-bit grey"), (RGB16, RGB16, "16-bit RGB"), (RGBA16, RGB16, "16-bit RGBA")],
)
def test_16_bit_pictures_keep_every_bit(tmp_path, suffix, given, expected, mode):
    colour_type = {"16-bit grey": 0, "16-bit RGB": 2, "16-bit RGBA": 6}[mode]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(png(given, colour_type) if suffix == ".png" else tiff(given))
    picture = read_picture(path)
    assert picture.mode == mode
    assert picture.pixels.dtype == np.float32
    np.testing.assert_array_equal(np.rint(picture.pixels * 65535).astype(np.uint16), expected)
    np.testing.assert_allclose(picture.pixels, unit(expected), rtol=1e-6)


def test_16_bit_is_never_stretched(tmp_path):
    path = tmp_path / "dark.png"
    path.write_bytes(png(np.full((4, 4), 4095, np.uint16), 0))
    np.testing.assert_allclose(read_picture(path).pixels, 4095 / 65535, rtol=1e-6)


def test_16_bit_grey_with_alpha(tmp_path):
    path = tmp_path / "la.png"
    path.write_bytes(png(RGB16[..., :2].copy(), 4))
    picture = read_picture(path)
    np.testing.assert_allclose(picture.pixels, unit(three(GREY16)), rtol=1e-6)
    assert picture.notes == (ALPHA_DROPPED,)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pixels", [GREY16, RGB16])
def test_both_byte_orders(tmp_path, order, pixels):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pixels, order=order))
    expected = pixels if pixels.ndim == 3 else three(pixels)
    np.testing.assert_allclose(read_picture(path).pixels, unit(expected), rtol=1e-6)


def test_palette_1_bit_and_cmyk(tmp_path):
    palette = Pillow.fromarray(RGB).quantize(8)
    picture = read_picture(save(tmp_path / "p.png", palette))
    np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))
    assert (picture.mode, picture.notes) == ("palette", ())
    clear = read_picture(save(tmp_path / "t.png", palette, transparency=bytes(range(8))))
    np.testing.assert_array_equal(clear.pixels, picture.pixels)
    assert clear.notes == (ALPHA_DROPPED,)
    one = read_picture(save(tmp_path / "1.png", Pillow.fromarray(GREY > 99)))
    np.testing.assert_array_equal(one.pixels, three(np.where(GREY > 99, 255, 0)))
    assert one.mode == "1-bit"
    flat = Pillow.new("CMYK", (3, 2), (0, 255, 255, 0))
    cmyk = read_picture(save(tmp_path / "c.jpg", flat, quality=100))
    np.testing.assert_allclose(cmyk.pixels, np.broadcast_to([255, 0, 0], (2, 3, 3)), atol=3)
    assert cmyk.notes == ("CMYK converted to RGB",)


def test_several_frames_give_the_first(tmp_path):
    more = [Pillow.fromarray(255 - RGB)]
    for suffix in (".tif", ".webp", ".png"):
        path = save(tmp_path / f"a{suffix}", Pillow.fromarray(RGB), save_all=True, append_images=more)
        picture = read_picture(path)
        np.testing.assert_array_equal(picture.pixels, RGB)
        assert picture.notes == (FIRST_FRAME,)
    Pillow.fromarray(RGB).save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=more)
    assert read_picture(tmp_path / "phone.jpg").mode == "8-bit RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_against_pillow(tmp_path, orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    numbers = np.arange(54, dtype=np.uint8).reshape(6, 9)
    Pillow.fromarray(numbers).save(buffer, "PNG", exif=exif)
    turned = np.asarray(ImageOps.exif_transpose(Pillow.open(buffer)))
    note = () if orientation == 1 else (f"turned upright (EXIF orientation {orientation})",)
    for pixels in (RGB, GREY, RGB16, GREY16, RGBA16):
        expected = pixels.reshape(54, *pixels.shape[2:])[turned]
        expected = three(expected) if expected.ndim == 2 else expected[..., :3]
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(pixels, orientation))
        picture = read_picture(path)
        assert picture.notes[: len(note)] == note
        np.testing.assert_allclose(
            picture.pixels, expected if pixels.dtype == np.uint8 else unit(expected), rtol=1e-6, err_msg=str(pixels.dtype)
        )
    for suffix in (".png", ".webp"):
        picture = read_picture(save(tmp_path / f"a{suffix}", Pillow.fromarray(RGB), exif=exif))
        np.testing.assert_array_equal(picture.pixels, RGB.reshape(54, 3)[turned])
    jpeg = read_picture(save(tmp_path / "a.jpg", Pillow.fromarray(RGB), exif=exif, quality=95))
    assert jpeg.pixels.shape[:2] == turned.shape
    assert jpeg.notes == note


def test_orientation_that_makes_no_sense_is_ignored(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(RGB, orientation=77))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.notes == ()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_cut_short(tmp_path, kind, share):
    buffer = io.BytesIO()
    Pillow.fromarray(RNG.integers(0, 256, (120, 120, 3), dtype=np.uint8)).save(buffer, kind)
    path = tmp_path / "cut.png"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(ImageError, match=r"cut\.png is .*; replace it or take it out\.$"):
        read_picture(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_cut_short_16_bit_colour(tmp_path, suffix):
    deep = RNG.integers(0, 65536, (80, 80, 3), dtype=np.uint16)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencode(suffix, deep)[1].tobytes()[:20_000])
    with pytest.raises(ImageError, match="replace it or take it out"):
        read_picture(path)


def test_what_is_no_picture(tmp_path):
    for name, content, reason in (
        ("empty.png", b"", "is empty \\(0 bytes\\)"),
        ("text.jpg", b"good part, honest\n" * 40, "is no PNG, JPEG, BMP, TIFF or WebP"),
        ("gif.png", b"GIF89a" + bytes(64), "is no PNG"),
        ("crc.png", png(GREY, 0)[:29] + bytes(4) + png(GREY, 0)[33:], "is "),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=f"{name} {reason}"):
            read_picture(tmp_path / name)
    with pytest.raises(ImageError, match="is not a file"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is not a file"):
        read_picture(tmp_path)


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(GREY, 0, size=(30_000, 30_000)))
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 1000)  # Pillow would warn, and at twice that raise: neither may show
    with pytest.raises(ImageError, match=r"900,000,000 pixels, allowed are 100,000,000; .*--max-pixels"):
        read_picture(path)
    assert Pillow.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(ImageError, match="cut short"):  # a raised limit lets it through to the decoder
        read_picture(path, max_pixels=10**9)


def test_the_limit_is_inclusive(tmp_path):
    path = save(tmp_path / "a.png", Pillow.fromarray(RGB))
    assert read_picture(path, max_pixels=54).pixels.shape == (6, 9, 3)
    for source in (path, RGB, Pillow.fromarray(RGB), path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageError, match=r"is 6 x 9 .* = 54 pixels, allowed are 53"):
            as_picture(source, max_pixels=53)
    assert MAX_PIXELS == 100_000_000


def test_numbers_that_are_no_light(tmp_path):
    light = GREY.astype(np.float32) / 255
    nan = light.copy()
    nan[1, 2] = np.nan
    for name, pixels, reason in (
        ("nan.tif", nan, "not finite"),
        ("big.tif", light * 255, "float values from .* allowed is 0 to 1"),
        ("int.tif", GREY.astype(np.int32) * 1000, "allowed is 0 to 65535"),
    ):
        Pillow.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(ImageError, match=reason):
            read_picture(tmp_path / name)
    Pillow.fromarray(light).save(tmp_path / "ok.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "ok.tif").pixels, three(light))
    Pillow.fromarray(GREY16.astype(np.int32)).save(tmp_path / "i.tif")
    np.testing.assert_allclose(read_picture(tmp_path / "i.tif").pixels, unit(three(GREY16)), rtol=1e-6)


def test_tiffs_that_would_decode_to_something_else_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(RGB16, planar=2))
    with pytest.raises(ImageError, match="interleaved"):
        read_picture(path)
    path.write_bytes(tiff(GREY16, photometric=0))
    with pytest.raises(ImageError, match="0 means black"):
        read_picture(path)
    path.write_bytes(tiff(GREY, photometric=0))
    np.testing.assert_array_equal(read_picture(path).pixels, three(255 - GREY))
    path.write_bytes(tiff(RGB, planar=2))
    np.testing.assert_array_equal(read_picture(path).pixels, RGB)


@pytest.mark.parametrize(
    ("given", "expected", "mode"),
    [
        (GREY, three(GREY), "8-bit grey"),
        (GREY[..., None], three(GREY), "8-bit grey"),
        (RGB[::-1, ::2], RGB[::-1, ::2], "8-bit RGB"),
        (np.dstack([RGB, GREY]), RGB, "8-bit RGBA"),
        (GREY > 9, three(np.where(GREY > 9, 255, 0)), "1-bit"),
        (RGB16, unit(RGB16), "16-bit RGB"),
        (RGB / 255.0, (RGB / 255.0).astype(np.float32), "float RGB"),
    ],
)
def test_arrays(given, expected, mode):
    picture = as_picture(given)
    np.testing.assert_allclose(picture.pixels, expected, rtol=1e-6)
    assert picture.mode == mode
    assert picture.pixels.flags.c_contiguous
    assert not np.shares_memory(picture.pixels, given)


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((0, 4)),
        np.zeros(4),
        np.zeros((2, 2, 2)),
        np.zeros((2, 2), int),
        np.full((2, 2), 1.5),
        np.full((2, 2), np.inf),
    ],
)
def test_arrays_that_are_no_pictures(given):
    with pytest.raises(ImageError):
        as_picture(given)


def test_pillow_images_and_paths_agree(tmp_path):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", Pillow.fromarray(RGB), exif=exif)
    with Pillow.open(path) as opened:
        given = as_picture(opened)
    read = as_picture(str(path))
    np.testing.assert_array_equal(given.pixels, read.pixels)
    assert given.notes == read.notes
    with pytest.raises(ImageError, match="a list was given"):
        as_picture([1, 2])  # type: ignore[arg-type]
    path.write_bytes(png(RGB16, 2))
    with Pillow.open(path) as opened:
        assert "cut to 8 bits" in as_picture(opened).notes[0]
