"""Canvas geometry as laws, masks, and writing."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.types import ConfigError, ImageError
from flawforge_runtime.images import (
    choose_canvas,
    letterbox,
    mask_on_canvas,
    pad,
    read_mask,
    read_picture,
    restore,
    to_planes,
    valid_mask,
    write_image,
)

SIDES = st.integers(1, 400)
CANVASES = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda c: (c[0] * 32, c[1] * 32))
MODEST = settings(max_examples=60, deadline=None)


@MODEST
@given(SIDES, SIDES, CANVASES)
def test_letterbox_keeps_proportions_and_centres(height, width, canvas):
    laid, placement = letterbox(np.zeros((height, width, 3), np.uint8), canvas)
    assert laid.shape == (*canvas, 3)
    assert laid.dtype == np.uint8
    scale = min(canvas[0] / height, canvas[1] / width)
    assert abs(placement.height - height * scale) <= 0.5 or placement.height == 1
    assert abs(placement.width - width * scale) <= 0.5 or placement.width == 1
    assert placement.height == canvas[0] or placement.width == canvas[1]
    assert 0 <= (canvas[0] - placement.height - placement.top) - placement.top <= 1
    assert 0 <= (canvas[1] - placement.width - placement.left) - placement.left <= 1
    assert valid_mask(placement).sum() == placement.height * placement.width


@MODEST
@given(SIDES, SIDES, CANVASES, st.floats(0, 1), st.floats(0, 1))
def test_a_bright_dot_comes_back_at_its_place(height, width, canvas, down, across):
    """Seen from the outside: a square of one canvas pixel's size is found again within one canvas pixel's size."""
    step = max(1.0, height / canvas[0], width / canvas[1])  # own pixels per canvas pixel
    side = math.ceil(2 * step)
    y, x = round(down * max(0, height - side)), round(across * max(0, width - side))
    picture = np.zeros((height, width), np.float32)
    picture[y : y + side, x : x + side] = 1.0
    laid, placement = letterbox(picture, canvas)
    back = restore(laid, placement)
    assert back.shape == picture.shape
    assert back.dtype == np.float32
    row, column = np.unravel_index(np.argmax(back), back.shape)
    assert y - step - 1 <= row <= min(y + side, height) + step
    assert x - step - 1 <= column <= min(x + side, width) + step


@MODEST
@given(SIDES, SIDES, CANVASES, st.integers(0, 2**32 - 1))
def test_restore_invents_no_value(height, width, canvas, seed):
    values = np.random.default_rng(seed).normal(0, 1e3, canvas).astype(np.float32)
    _, placement = letterbox(np.zeros((height, width), np.uint8), canvas)
    inner = values[placement.inner]
    own = restore(values, placement)
    assert own.shape == (height, width)
    assert own.min() >= inner.min()
    assert own.max() <= inner.max()


@MODEST
@given(SIDES, SIDES, CANVASES)
def test_a_ramp_survives_the_way_there_and_back(height, width, canvas):
    """Geometry to a fraction of a pixel: a shift by half a canvas pixel anywhere would show in the ramp's middle."""
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(height, axis=0)
    laid, placement = letterbox(ramp, canvas)
    back = restore(laid, placement)
    slope = 1 / max(1, width - 1)
    step = max(1.0, width / placement.width, placement.width / width)
    middle = slice(math.ceil(2 * step), width - math.ceil(2 * step))
    if placement.width > 1 and ramp[:, middle].size:
        np.testing.assert_allclose(back[:, middle], ramp[:, middle], atol=0.26 * slope * step)


def test_letterbox_by_hand():
    picture = np.array([[10, 30], [10, 30], [50, 70], [50, 70]], np.uint8)
    laid, placement = letterbox(picture, (2, 4))  # half size, so 2 x 1, border repeated
    np.testing.assert_array_equal(laid, [[20, 20, 20, 20], [60, 60, 60, 60]])
    assert (placement.top, placement.left, placement.height, placement.width) == (0, 1, 2, 1)
    np.testing.assert_array_equal(valid_mask(placement), [[0, 1, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(pad(laid[placement.inner], placement), laid)


def test_letterbox_border_repeats_the_edge():
    picture = np.random.default_rng(0).integers(0, 256, (10, 40, 3), dtype=np.uint8)
    laid, placement = letterbox(picture, (64, 64))
    assert (placement.top, placement.height) == (24, 16)
    assert (laid[:24] == laid[24]).all()
    assert (laid[40:] == laid[39]).all()


def test_restore_ignores_the_border():
    values = np.full((64, 64), 9.0, np.float32)
    _, placement = letterbox(np.zeros((10, 40), np.uint8), (64, 64))
    values[placement.inner] = 1.0
    np.testing.assert_array_equal(restore(values, placement), np.ones((10, 40)))


def test_same_size_is_not_copied():
    picture = np.zeros((64, 96, 3), np.uint8)
    assert letterbox(picture, (64, 96))[0] is picture


@MODEST
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=9),
    st.sampled_from([32, 64, 96, 256, 512]),
)
def test_choose_canvas_laws(sizes, size):
    height, width = choose_canvas(sizes, size)
    assert height % 32 == width % 32 == 0
    assert min(height, width) >= min(64, size)
    assert height * width <= 2.5 * max(size, 64) ** 2
    assert (height, width) == choose_canvas(sizes[::-1], size)


@pytest.mark.parametrize(
    ("own", "size", "canvas"),
    [
        ((512, 512), 256, (256, 256)),
        ((1260, 500), 256, (416, 160)),
        ((500, 1260), 256, (160, 416)),
        ((512, 384), 256, (288, 224)),
        ((100, 10_000), 256, (64, 1024)),  # a line camera: the short side stays usable, the area is kept
        ((48, 48), 256, (96, 96)),  # never enlarged beyond twofold
        ((1, 1), 256, (64, 64)),
        ((900, 900), 32, (32, 32)),
    ],
)
def test_choose_canvas_by_hand(own, size, canvas):
    assert choose_canvas([own], size) == canvas


def test_choose_canvas_takes_the_median_aspect():
    assert choose_canvas([(512, 512)] * 3 + [(100, 4000)] * 2, 256) == (256, 256)


def test_choose_canvas_refuses():
    with pytest.raises(ConfigError, match="size is 16, allowed is 32 or more"):
        choose_canvas([(5, 5)], 16)
    with pytest.raises(ConfigError, match="at least one"):
        choose_canvas([], 256)


def test_mask_on_canvas():
    _, placement = letterbox(np.zeros((100, 200), np.uint8), (64, 64))
    roi = np.zeros((100, 200), bool)
    roi[:, 100:] = True
    laid = mask_on_canvas(roi, placement)
    np.testing.assert_array_equal(laid[placement.inner], np.arange(64)[None].repeat(32, axis=0) >= 32)
    assert not laid[~valid_mask(placement)].any()
    np.testing.assert_array_equal(mask_on_canvas(roi[::2, ::2], placement), laid)  # any size of those proportions
    with pytest.raises(ImageError, match=r"region of interest is 100 x 100 .* picture is 100 x 200"):
        mask_on_canvas(roi[:, :100], placement)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_to_planes(dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(dtype) / dtype(1 if dtype is np.uint8 else 255)
    pixels = pixels.astype(dtype)
    planes = to_planes(pixels)
    assert (planes.dtype, planes.shape) == (np.float32, (3, 5, 7))
    expected = pixels.transpose(2, 0, 1) / (255 if dtype is np.uint8 else 1)
    np.testing.assert_allclose(planes, expected, rtol=1e-6)
    out = np.empty((3, 5, 7), np.float32)
    assert to_planes(pixels, out) is out
    np.testing.assert_array_equal(out, planes)
    assert to_planes(np.full((1, 1, 3), 255, np.uint8)).max() == 1.0


@pytest.mark.parametrize("high", [255, 1, 3])
def test_read_mask(tmp_path, high):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = high
    write_image(tmp_path / "m.png", mask)
    read = read_mask(tmp_path / "m.png", (4, 6))
    assert read.dtype == bool
    np.testing.assert_array_equal(read, mask > 0)
    with pytest.raises(ImageError, match=r"mask .*m\.png is 4 x 6 .* picture is 6 x 4"):
        read_mask(tmp_path / "m.png", (6, 4))


def test_read_mask_forgives_compression(tmp_path):
    mask = np.zeros((64, 64), bool)
    mask[16:40, 8:32] = True
    write_image(tmp_path / "m.jpg", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg", (64, 64)), mask)
    write_image(tmp_path / "none.png", np.zeros((8, 8), bool))
    assert not read_mask(tmp_path / "none.png", (8, 8)).any()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_written_pictures_come_back(tmp_path, suffix):
    colour = np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    for array in (colour, colour[..., 0], colour[..., 0] > 99, colour / 255.0):
        write_image(path, array)
        expected = np.rint(array * 255.0) if array.dtype == float else array * (255 if array.dtype == bool else 1)
        expected = expected if expected.ndim == 3 else expected[..., None].repeat(3, axis=2)
        np.testing.assert_array_equal(read_picture(path).pixels, expected)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_lossy_and_deep_writing(tmp_path):
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    for suffix in (".jpg", ".jpeg", ".webp"):
        write_image(tmp_path / f"a{suffix}", flat)
        np.testing.assert_allclose(read_picture(tmp_path / f"a{suffix}").pixels, flat, atol=4)
    deep = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1000
    for suffix in (".png", ".tif"):
        write_image(tmp_path / f"d{suffix}", deep)
        np.testing.assert_allclose(read_picture(tmp_path / f"d{suffix}").pixels * 65535, deep, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("a.gif", np.zeros((2, 2), np.uint8)),
        ("a", np.zeros((2, 2), np.uint8)),
        ("a.jpg", np.zeros((2, 2), np.uint16)),
        ("a.png", np.zeros((2, 2), np.int64)),
        ("a.png", np.zeros((2, 2, 4), np.uint8)),
        ("a.png", np.zeros((0, 2), np.uint8)),
        ("a.png", np.full((2, 2), 1.01)),
        ("a.png", np.full((2, 2), np.nan)),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, array):
    with pytest.raises(ImageError, match="allowed are"):
        write_image(tmp_path / name, array)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((4, 4), np.uint8))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, np.ones((4, 4), np.uint8))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
