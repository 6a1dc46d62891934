"""Close-ups: the right place at the right size, outlines beside the defect, a map that is never blank on its own scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flawforge.reporting import close_ups
from flawforge.reporting.close_ups import GAP, GREY, LARGE, PANEL, close_up, large, own_ramp, window
from flawforge.types import ConfigError, Decision
from flawforge_runtime.drawing import DEFECT, MARKED, Scale


def decided(values: np.ndarray, marks: np.ndarray | None = None) -> Decision:
    marks = np.zeros(values.shape, bool) if marks is None else marks
    return Decision("", 1.0, 0.5, "NG", False, 2.0, values.astype(np.float32), marks, (), 0.0)


def blob(shape: tuple[int, int], top: int, left: int, high: int, wide: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + high, left : left + wide] = True
    return mask


@given(st.integers(20, 300), st.integers(20, 300), st.data())
@settings(max_examples=80, deadline=None)
def test_the_window_lies_in_the_picture_and_holds_the_middle_of_what_it_shows(h: int, w: int, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    high, wide = data.draw(st.integers(1, h - top)), data.draw(st.integers(1, w - left))
    mask = blob((h, w), top, left, high, wide)
    y, x, side = window(np.zeros((h, w), np.float32), np.zeros((h, w), bool), mask)
    assert 0 <= y <= y + side <= h
    assert 0 <= x <= x + side <= w
    assert mask[y : y + side, x : x + side].any()
    if 2 * max(high, wide) <= min(h, w):
        assert mask[y : y + side, x : x + side].sum() == high * wide


def test_the_window_shows_the_labelled_defect_first_then_the_marks_then_the_highest_place() -> None:
    values = np.zeros((200, 200), np.float32)
    values[150, 150] = 9.0
    values[30, 160] = 5.0
    marks = blob((200, 200), 20, 150, 20, 20) | blob((200, 200), 100, 0, 60, 60)
    assert window(values, np.zeros_like(marks), None) == (134, 134, 32)
    assert window(values, marks, None)[0] == 30 - 20  # the region with the highest marked value
    y, x, side = window(values, marks, blob((200, 200), 5, 5, 2, 2) | blob((200, 200), 80, 90, 10, 10))
    assert (y, x, side) == (69, 79, 32)  # the larger of two labelled regions


@given(arrays.arrays(np.float32, (6, 7), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_map_on_its_own_scale_uses_all_of_it(values: np.ndarray) -> None:
    ramp = own_ramp(values)
    assert ramp.shape == values.shape
    if values.min() == values.max():
        assert (ramp == 0).all()
    else:
        assert (ramp.min(), ramp.max()) == (0.0, 1.0)
        order = np.argsort(values, axis=None, kind="stable")
        assert (np.diff(ramp.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("shape", [(64, 64), (500, 100), (40, 300), (7, 7)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_six_panels_for_any_picture(shape: tuple[int, int], kind: type) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (*shape, 3)).astype(np.uint8)
    picture = pixels if kind is np.uint8 else (pixels / 255).astype(np.float32)
    values = rng.random(shape).astype(np.float32)
    drawn = close_up(picture, decided(values, values > 0.95), Scale(0.5, 0.9), values > 0.99)
    assert drawn.shape == (3 * PANEL + 2 * GAP, 2 * PANEL + GAP, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[:, PANEL : PANEL + GAP] == GREY).all()
    assert (drawn[PANEL : PANEL + GAP] == GREY).all()
    assert max(large(picture, decided(values)).shape[:2]) == LARGE


def test_sizes_that_differ_are_refused() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ConfigError, match="at the same size"):
        close_up(pixels, decided(np.zeros((20, 21))), Scale(0.0, 1.0))
    with pytest.raises(ConfigError, match="at the same size"):
        close_up(pixels, decided(np.zeros((20, 20))), Scale(0.0, 1.0), np.zeros((10, 10), bool))


def test_an_outline_lies_beside_a_small_defect_and_the_bare_close_up_shows_it() -> None:
    pixels = np.full((200, 200, 3), 90, np.uint8)
    mask = blob((200, 200), 100, 100, 4, 4)
    pixels[mask] = 200
    drawn = close_up(pixels, decided(np.zeros((200, 200))), Scale(0.0, 1.0), mask)
    bare = drawn[PANEL + GAP : 2 * PANEL + GAP, :PANEL]
    outlined = drawn[PANEL + GAP : 2 * PANEL + GAP, PANEL + GAP :]
    assert set(map(tuple, np.unique(bare.reshape(-1, 3), axis=0).tolist())) == {(90, 90, 90), (200, 200, 200)}
    assert (outlined == DEFECT).all(axis=2).any()
    defect = (bare == 200).all(axis=2)
    assert 20 * 20 < defect.sum() < 40 * 40  # four pixels of 32 fill an eighth of the panel's side
    assert (outlined[defect] == 200).all()  # nothing is drawn over it


def test_what_is_below_the_common_scale_is_seen_on_its_own() -> None:
    """A missed defect: nothing reaches what the common scale draws, and yet its own map has a bright place."""
    values = np.zeros((100, 100), np.float32)
    values[40:60, 40:60] = 0.3
    drawn = close_up(np.full((100, 100, 3), 120, np.uint8), decided(values), Scale(0.5, 1.0))
    common, own = drawn[-PANEL:, :PANEL], drawn[-PANEL:, PANEL + GAP :]
    assert np.ptp(common.astype(int)) == 0
    assert np.ptp(own.astype(int)) > 50


def test_the_large_picture_rings_what_is_too_small_to_be_found() -> None:
    pixels = np.full((400, 400, 3), 100, np.uint8)
    small, wide = blob((400, 400), 200, 200, 3, 3), blob((400, 400), 40, 40, 80, 80)

    def reach(mask: np.ndarray, colour: tuple[int, int, int]) -> int:
        drawn = large(pixels, decided(np.zeros((400, 400))), mask, side=400)
        return int(np.ptp(np.nonzero((drawn == colour).all(axis=2))[0]))

    assert reach(small, DEFECT) >= 2 * close_ups.RING * 400 - 4
    assert 80 <= reach(wide, DEFECT) <= 90
    marked = large(pixels, decided(np.zeros((400, 400)), wide), side=400)
    assert (marked == MARKED).all(axis=2).any()
