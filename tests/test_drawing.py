"""How a judged picture is drawn: the colour ramp, outlines, thumbnails, and HTML that holds any text."""

from __future__ import annotations

import base64
import html.parser

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from flawforge_runtime import drawing
from flawforge_runtime.drawing import (
    AT_THRESHOLD,
    COLOURS,
    DEFECT,
    MARKED,
    OPAQUE,
    Scale,
    figure,
    heat,
    outline,
    side_by_side,
)
from flawforge_runtime.types import Decision


def picture(seed: int = 0, h: int = 24, w: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


# ---- the ramp


@given(st.floats(-100, 100), st.floats(0.01, 100), st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_ramp_rises_from_clear_to_bright(low: float, width: float, values: list[float]) -> None:
    scale = Scale(low, low + width)
    ordered = np.sort(np.asarray(values, np.float32))[None]
    ramp = scale.ramp(ordered)[0]
    assert ramp.dtype == np.float32
    assert ramp.min() >= 0
    assert ramp.max() <= 1
    assert (np.diff(ramp) >= 0).all()
    ends = scale.ramp(np.array([[low, low + width]], np.float32))[0]
    np.testing.assert_allclose(ends, [0, AT_THRESHOLD], atol=1e-3)


@given(st.floats(0.1, 50), st.floats(-20, 20))
@settings(max_examples=40, deadline=None)
def test_the_ramp_knows_no_unit(unit: float, offset: float) -> None:
    values = np.linspace(-1, 5, 13, dtype=np.float32)[None]
    one = Scale(0.0, 2.0).ramp(values)
    other = Scale(offset, offset + 2 * unit).ramp((offset + unit * values).astype(np.float32))
    np.testing.assert_allclose(other, one, atol=1e-4)


# ---- heat


def test_heat_is_grey_where_it_is_clear_and_coloured_where_it_is_strong() -> None:
    image = picture()
    clear = heat(image, np.zeros((24, 32), np.float32))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(clear, np.repeat(grey[..., None], 3, axis=2))
    strong = heat(image, np.ones((24, 32), np.float32))
    top = cv2.applyColorMap(np.full((1, 1), 255, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    expected = (1 - OPAQUE) * grey[..., None].astype(float) + OPAQUE * top
    np.testing.assert_allclose(strong, expected, atol=0.51)


@given(st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_the_picture_always_shows_through(strength: float) -> None:
    """A white and a black pixel under the same heat still differ, by what is not covered."""
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    drawn = heat(image, np.full((1, 2), strength, np.float32)).astype(int)
    cover = OPAQUE * min(np.float32(strength) / AT_THRESHOLD, 1)
    np.testing.assert_allclose(drawn[0, 1] - drawn[0, 0], 255 * (1 - cover), atol=1.01)


def test_each_pixel_is_mixed_by_its_own_strength() -> None:
    image = picture()
    strength = np.linspace(-0.2, 1, 24 * 32, dtype=np.float32).reshape(24, 32).clip(0)
    drawn = heat(image, strength)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    for at in np.ndindex(strength.shape):
        colour = cv2.applyColorMap(np.uint8([[np.round(strength[at] * 255)]]), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
        cover = OPAQUE * min(strength[at] / AT_THRESHOLD, 1)
        np.testing.assert_allclose(drawn[at], (1 - cover) * grey[at] + cover * colour.astype(float), atol=0.51)


# ---- outlines


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_an_outline_is_the_dilation_less_the_mask(seed: int) -> None:
    mask = np.random.default_rng(seed).random((24, 32)) > 0.95
    image = picture(seed)
    drawn = outline(image, mask, MARKED)
    ring = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
    assert (drawn[ring] == MARKED).all()
    np.testing.assert_array_equal(drawn[~ring], image[~ring])


@pytest.mark.parametrize(("side", "thick"), [(100, 1), (499, 1), (500, 2), (1200, 3)])
def test_an_outline_is_as_thick_as_the_picture_is_large(side: int, thick: int) -> None:
    mask = np.zeros((40, side), bool)
    mask[20, side // 2] = True
    drawn = outline(np.zeros((40, side, 3), np.uint8), mask, DEFECT)
    assert ((drawn == DEFECT).all(axis=2).sum()) == (2 * thick + 1) ** 2 - 1


def test_an_empty_mask_leaves_a_copy() -> None:
    image = picture()
    drawn = outline(image, np.zeros((24, 32), bool), MARKED)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


# ---- side by side


@given(st.integers(8, 60), st.integers(8, 60), st.integers(4, 40))
@settings(max_examples=30, deadline=None)
def test_both_halves_are_of_one_size_and_the_gap_is_white(h: int, w: int, most: int) -> None:
    drawn = side_by_side(picture(1, h, w), np.zeros((h, w), np.float32), np.zeros((h, w), bool), max_side=most)
    factor = min(1.0, most / max(h, w))
    wide = max(1, round(w * factor))
    assert drawn.shape == (max(1, round(h * factor)), 2 * wide + 4, 3)
    assert (drawn[:, wide : wide + 4] == 255).all()


def test_marks_and_defects_are_drawn_at_the_left_alone() -> None:
    marks, defect = np.zeros((24, 32), bool), np.zeros((24, 32), bool)
    marks[4:6, 4:6], defect[14:16, 20:22] = True, True
    drawn = side_by_side(np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32), np.float32), marks, defect)
    left, right = drawn[:, :32], drawn[:, 36:]
    assert (left == MARKED).all(axis=2).sum() == 12
    assert (left == DEFECT).all(axis=2).sum() == 12
    assert not (right == MARKED).all(axis=2).any()
    assert not (right == DEFECT).all(axis=2).any()


@given(st.integers(0, 200), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_a_mark_survives_any_shrinking(seed: int, factor: int) -> None:
    mask = np.zeros((60, 60), bool)
    y, x = np.random.default_rng(seed).integers(0, 60, 2)
    mask[y, x] = True
    small = drawing._shrink_mask(mask, (60 // factor, 60 // factor))
    assert small.any()
    rows, columns = np.nonzero(small)
    assert abs(float(rows.mean()) - y * (60 // factor) / 60) <= 1.01
    assert abs(float(columns.mean()) - x * (60 // factor) / 60) <= 1.01


def test_floats_are_rounded_to_eight_bits_and_eight_bits_are_left() -> None:
    image = picture()
    assert drawing._as_uint8(image) is image
    np.testing.assert_array_equal(drawing._as_uint8((image / 255).astype(np.float32)), image)
    np.testing.assert_array_equal(drawing._as_uint8(np.array([[[-1.0, 2.0, 0.5]]])), [[[0, 255, 128]]])


def test_fitting_to_another_size_takes_area_means() -> None:
    image = picture(2, 8, 12)
    small = drawing.fit_to(image, (4, 6))
    expected = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, expected, atol=0.51)
    assert drawing.fit_to(image, (8, 12)) is image


# ---- HTML


class Reader(html.parser.HTMLParser):
    """Tags, attributes and text of a page, as a browser would take them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.image = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.image = dict(attrs)["src"] or ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=3))
@settings(max_examples=40, deadline=None)
def test_no_text_becomes_markup(verdict: str, lines: list[str]) -> None:
    page = read(figure(np.zeros((2, 3, 3), np.uint8), verdict, lines))
    assert page.tags == ["figure", "figcaption", "b", *["br"] * max(len(lines) - 1, 0), "img"]


def test_the_picture_in_the_page_is_the_picture() -> None:
    image = picture()
    page = read(figure(image, "NG", ["<b>1 & 2</b>"]))
    kind, code = page.image.split(",")
    assert kind == "data:image/png;base64"
    stored = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(stored, image)
    assert "<b>1 & 2</b>" in "".join(page.text)


@pytest.mark.parametrize("verdict", ["OK", "REVIEW", "NG", "?"])
def test_a_verdict_has_its_colour(verdict: str) -> None:
    assert f'color: {COLOURS.get(verdict, "inherit")}"' in figure(picture(), verdict, [])


def test_bytes_that_are_not_utf8_are_shown_as_what_they_are() -> None:
    assert drawing.escaped("a\udce4<b>") == "a\\udce4&lt;b&gt;"
    assert drawing.escaped("Prüfstück & 'x'") == "Prüfstück &amp; &#x27;x&#x27;"


def test_a_decision_shows_itself_without_picture_or_scale() -> None:
    surface = np.zeros((20, 30), np.float32)
    surface[5, 5] = 4.0
    decision = Decision("a/b.png", 4.0, 0.05, "NG", True, 1.0, surface, surface > 2, (), 0.1, notes=("odd",))
    page = read(decision._repr_html_())
    words = "".join(page.text)
    assert "a/b.png: score 4, NG above 1, p-value = 0.05" in words
    assert "odd" in words
    assert repr(decision) == "<Decision NG on 'a/b.png', score 4>"
