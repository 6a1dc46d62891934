"""A damaged picture file is refused, never repaired without a word."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flawforge.demo.washers import render_good
from flawforge_runtime import decode, intact, tiles
from flawforge_runtime.types import ImageError

PICTURE = render_good(3, size=48)
MUTANTS = int(os.environ.get("FLAWFORGE_FUZZ", "600")) // 5  # of each format; `make fuzz` asks for more


def encoded(form: str, pixels: np.ndarray = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


PNG = encoded("PNG")


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The checksums of all chunks are right, whatever they hold."""
    made = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    return intact.PNG + b"".join(made)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(PNG) * 8 - 1))
def test_one_flipped_bit_of_a_png_is_refused_or_changes_no_pixel(bit: int) -> None:
    harmed = bytearray(PNG)
    harmed[bit // 8] ^= 1 << bit % 8
    try:
        picture = decode.as_picture(bytes(harmed))
    except ImageError:
        return
    np.testing.assert_array_equal(picture.pixels, PICTURE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda parts: parts[:-1], "no IEND"),
        (lambda parts: parts[1:], "no PNG"),
        (lambda parts: [p for p in parts if p[0] != b"IDAT"], "end early|unpacked"),
        (lambda parts: [(k, d[:-9] if k == b"IDAT" else d) for k, d in parts], "end early"),
        (
            lambda parts: [(k, zlib.compress(zlib.decompress(d)[:-99]) if k == b"IDAT" else d) for k, d in parts],
            "fewer pixels",
        ),
        (
            lambda parts: [(k, zlib.compress(zlib.decompress(d) + b"x" * 99) if k == b"IDAT" else d) for k, d in parts],
            "more",
        ),
        (lambda parts: [(k, d[:-4] + b"abcd" if k == b"IDAT" else d) for k, d in parts], "unpacked"),  # Adler-32
    ],
)
def test_pngs_with_right_checksums_and_wrong_content(change, why) -> None:
    parts = chunks(PNG)
    assert sum(kind == b"IDAT" for kind, _ in parts) == 1
    with pytest.raises(ImageError, match=why):
        decode.as_picture(png_of(change(parts)))
    np.testing.assert_array_equal(decode.as_picture(png_of(parts)).pixels, PICTURE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_whole_pngs_of_every_kind_pass(mode: str, tmp_path: Path) -> None:
    image = (
        Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 200)
        if mode == "I;16"
        else Image.fromarray(PICTURE).convert(mode)
    )
    image.save(tmp_path / "a.png")
    assert decode.read_picture(tmp_path / "a.png").pixels.shape == (48, 48, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 5), (8, 8), (33, 17)])
def test_interlaced_length_by_hand(size: tuple[int, int]) -> None:
    """Adam7's seven passes together hold every pixel once."""
    height, width = size
    passes = [(len(range(top, height, down)), len(range(left, width, across))) for top, left, down, across in intact.ADAM7]
    assert sum(h * w for h, w in passes) == height * width
    assert intact.png_bytes(width, height, 8, 2, interlaced=True) == sum(h * (1 + 3 * w) for h, w in passes if h and w)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_cut_file_is_refused(form: str) -> None:
    whole = encoded(form, lossless=True) if form == "WEBP" else encoded(form)
    assert decode.as_picture(whole).pixels.shape == (48, 48, 3)
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(ImageError):
            decode.as_picture(whole[: int(share * len(whole))])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_any_mutation_is_a_picture_or_a_sentence(form: str) -> None:
    """A few hundred of them: flipped bits, holes, zeroed tails, repeats; bounded in time."""
    rng, whole = np.random.default_rng(7), encoded(form)
    start = time.monotonic()
    for _ in range(MUTANTS):
        harmed = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(harmed)))
            span = slice(at, at + int(rng.integers(1, 64)))
            kind = int(rng.integers(4))
            if kind == 0:
                harmed[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del harmed[span]
            elif kind == 2:
                harmed[at:] = bytes(len(harmed) - at)
            else:
                harmed[span] = rng.bytes(len(harmed[span]))
            if not harmed:
                break
        try:
            pixels = decode.as_picture(bytes(harmed), max_pixels=1_000_000).pixels
        except ImageError:
            continue
        assert pixels.ndim == 3
        if form == "PNG":
            np.testing.assert_array_equal(pixels, PICTURE)
    assert time.monotonic() - start < 0.5 * MUTANTS


# ---- claims


def test_a_small_file_that_claims_a_huge_picture_is_refused_unread() -> None:
    parts = chunks(PNG)
    header = struct.pack(">II", 10_000, 10_000) + parts[0][1][8:]
    jpeg = bytearray(encoded("JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 10_000, 10_000)
    start = time.monotonic()
    for data in (png_of([(b"IHDR", header), *parts[1:]]), bytes(jpeg)):
        with pytest.raises(ImageError, match="cannot hold"):
            decode.as_picture(data)
    assert time.monotonic() - start < 1


def test_bytes_are_bounded_as_well_as_pixels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((100, 100, 3), np.uint16), photometric="rgb")
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "eight.tif")
    assert decode.read_picture(tmp_path / "eight.tif", max_pixels=10_000).pixels.dtype == np.uint8
    with pytest.raises(ImageError, match=r"to decode, allowed .* --max-pixels"):
        decode.read_picture(tmp_path / "deep.tif", max_pixels=10_000)
    assert decode.read_picture(tmp_path / "deep.tif", max_pixels=30_000).mode == "16-bit RGB"


def broken_tiff(path: Path, tag: int, value: int, **options: object) -> Path:
    """A TIFF in strips, of which the first value of one tag is overwritten."""
    tifffile.imwrite(path, PICTURE, rowsperstrip=8, photometric="rgb", **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[0].tags[tag]
        values = list(found.value)
        found.overwrite([value, *values[1:]])
    return path


@pytest.mark.parametrize(("tag", "value"), [(273, 0), (279, 0), (273, 10**7), (279, 60_000)])
def test_missing_strips_are_refused_and_not_read_as_black(tag: int, value: int, tmp_path: Path) -> None:
    path = broken_tiff(tmp_path / "a.tif", tag, value)
    with pytest.raises(ImageError, match="strip"):
        decode.read_picture(path)
    with pytest.raises(ImageError, match="strip"):
        tiles.open_rows(path, decode.MAX_PIXELS)


def test_a_300_byte_tiff_of_172_gib_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "wide.tif"
    tifffile.imwrite(path, np.zeros((2, 2), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[256].overwrite(90_000_000)
        file.pages[0].tags[257].overwrite(512)
        file.pages[0].tags[278].overwrite(1)
    with pytest.raises(ImageError, match=r"cut it into|strip|cannot hold|to decode"):
        tiles.open_rows(path, decode.MAX_PIXELS)


# ---- depths and signs


def test_tiffs_that_would_be_read_otherwise_are_refused(tmp_path: Path) -> None:
    values = np.arange(48 * 48, dtype=np.float32).reshape(48, 48) / 48**2
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "signed.tif", (values * 100).astype(np.int8))
    alpha = np.full((8, 8, 4), 1000, np.uint16)
    tifffile.imwrite(tmp_path / "alpha.tif", alpha, photometric="rgb", extrasamples=["assocalpha"])
    for name, why in (("white", "0 means white"), ("signed", "signed"), ("alpha", "alpha")):
        with pytest.raises(ImageError, match=why):
            decode.read_picture(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_either_byte_order_is_the_same_picture(mode: str) -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (16, 16), values.astype(order).tobytes())
    expected = values / np.float32(65535)
    np.testing.assert_allclose(decode.as_picture(image).pixels[..., 0], expected)
    np.testing.assert_allclose(decode.as_picture(values.astype(">u2")).pixels[..., 0], expected)


def test_a_camera_of_12_bits_is_named_and_can_be_told() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    plain = decode.as_picture(values)
    assert any("12-bit values in a 16-bit picture? fit with --depth 12" in note for note in plain.notes)
    told = decode.as_picture(values, depth=12)
    assert not told.notes
    np.testing.assert_allclose(told.pixels[..., 0], values / np.float32(4095))
    with pytest.raises(ImageError, match="allowed is 0 to 4095 with --depth 12"):
        decode.as_picture(values * 16, depth=12)
    assert not decode.as_picture(values * 17).notes


# ---- as services hold pictures


def test_bytes_and_files_are_read_like_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with (tmp_path / "a.png").open("rb") as file:
        sources = [PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), file]
        for source in sources:
            np.testing.assert_array_equal(decode.as_picture(source).pixels, PICTURE)
    with pytest.raises(ImageError, match="mode 'rb'"):
        decode.as_picture(io.StringIO("text"))


def test_tensors_and_channels_first() -> None:
    import torch

    tensor = torch.from_numpy(PICTURE.copy()).float() / 255
    np.testing.assert_allclose(decode.as_picture(tensor).pixels, PICTURE / np.float32(255), atol=1e-6)
    with pytest.raises(ImageError, match="channels first; transpose"):
        decode.as_picture(tensor.permute(2, 0, 1))


def test_bgr_is_turned() -> None:
    np.testing.assert_array_equal(decode.from_bgr(PICTURE[..., ::-1]), PICTURE)
    with pytest.raises(ImageError, match="give h w 3"):
        decode.from_bgr(PICTURE[..., 0])


def test_the_depth_is_kept_with_the_model(tmp_path: Path) -> None:
    from flawforge import fitting
    from flawforge.judging import loading

    (tmp_path / "good").mkdir()
    for index in range(6):
        grey = render_good(index, size=64)[..., 0].astype(np.uint16) * 16
        Image.fromarray(grey).save(tmp_path / "good" / f"{index}.png")
    request = fitting.Request(tmp_path / "good", tmp_path / "m", method="patchstats", size=64, depth=12)
    made = fitting.run(request)
    again = loading.load(tmp_path / "m")
    assert (made.depth, again.depth) == (12, 12)
    path = tmp_path / "good" / "3.png"
    assert again(path).pred_score == again(decode.read_picture(path, depth=12).pixels).pred_score
    assert again(path).pred_score != again(decode.read_picture(path).pixels).pred_score
