"""Size, contrast and sharpness as physical forgers share them: draws, units, tones, fills."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flawforge.forge import measure
from flawforge.types import ConfigError

BOX = slice(10, 30), slice(5, 45)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(
    st.tuples(st.floats(2, 50), st.floats(2, 50)).map(sorted),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_drawn_values_lie_in_their_ranges_and_are_recorded(size: list[float], contrast: list[float], seed: int) -> None:
    taken = measure.take((size[0], size[1]), (contrast[0], contrast[1]), 0.5, None, (200, 300), rng(seed))
    assert size[0] <= taken.size <= size[1]
    assert contrast[0] <= taken.contrast <= contrast[1]
    assert taken.sharpness == 0.5
    assert taken.drawn == {
        "size": taken.size,
        "unit": "px",
        "size_px": taken.size,
        "contrast": taken.contrast,
        "sharpness": 0.5,
    }


@given(st.floats(0.01, 10), st.floats(3, 40), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_millimetres_are_drawn_as_pixels_are(scale: float, most: float, seed: int) -> None:
    px = measure.take((2.0, most), 0.3, 1.0, None, (200, 200), rng(seed))
    mm = measure.take((2.0 * scale, most * scale), 0.3, 1.0, scale, (200, 200), rng(seed))
    assert mm.size == pytest.approx(px.size, rel=1e-9)
    assert mm.drawn["unit"] == "mm"
    assert mm.drawn["size"] == pytest.approx(px.size * scale, rel=1e-9)
    assert mm.drawn["size_px"] == mm.size


@pytest.mark.parametrize(("shape", "most"), [((40, 100), 36.0), ((100, 40), 36.0), ((64, 64), 57.6)])
def test_nothing_is_larger_than_nine_tenths_of_the_shorter_side(shape: tuple[int, int], most: float) -> None:
    assert measure.take(500.0, 0.3, 1.0, None, shape, rng()).size == pytest.approx(most)
    assert measure.take(500.0, 0.3, 1.0, 0.5, shape, rng()).drawn["size"] == pytest.approx(most * 0.5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": 1.9}, "f: size is 1.9; it must be .* between 2 and 4096 px"),
        ({"size": (30.0, 20.0)}, "ascending"),
        ({"contrast": 0.0}, "contrast is 0.0; .* between 0.01 and 1 of the full range"),
        ({"sharpness": 1.01}, "sharpness"),
        ({"mm_per_pixel": 0.0}, "mm_per_pixel is 0.0"),
        ({"mm_per_pixel": 0.5, "size": 0.9}, "between 1 and 2048 mm"),
        ({"tone": "bright"}, "tone is 'bright'; it must be one of 'either', 'darker', 'lighter'"),
    ],
)
def test_a_bound_is_named_in_the_unit_in_use(fields: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"size": 20.0, "contrast": 0.3, "sharpness": 0.5, "mm_per_pixel": None, "tone": "either"}
    measure.check("f", **good)
    with pytest.raises(ConfigError, match=words) as error:
        measure.check("f", **(good | fields))
    assert "\n" not in str(error.value)


def test_coverage_ends_where_the_prior_does() -> None:
    cover = np.full((20, 40), 0.8, np.float32)
    np.testing.assert_array_equal(measure.on_part(None, BOX, cover), cover)
    prior = np.zeros((60, 60), np.float32)
    prior[:, 25:] = 1.0
    prior[10, 5:45] = 0.25
    held = measure.on_part(prior, BOX, cover)
    np.testing.assert_allclose(held[1:, :20], 0)
    np.testing.assert_allclose(held[1:, 20:], 0.8)
    np.testing.assert_allclose(held[0], 0.4)  # a prior of a half is the whole part, a quarter half of it
    assert (measure.on_part(np.full((60, 60), 0.5, np.float32), BOX, cover) == cover).all()


@given(st.floats(0, 1), st.floats(0.01, 1), st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_a_sign_leaves_room_where_there_is_room(mean: float, contrast: float, seed: int) -> None:
    sign = measure.sign_for("either", mean, contrast, rng(seed))
    assert sign in (-1, 1)
    room = {s for s in (-1, 1) if 0 <= mean + s * contrast <= 1}
    if room:
        assert -1e-9 <= mean + sign * contrast <= 1 + 1e-9
    assert measure.sign_for("lighter", mean, contrast, rng(seed)) == 1
    assert measure.sign_for("darker", mean, contrast, rng(seed)) == -1


def test_the_tone_is_added_under_the_coverage_alone() -> None:
    image = np.full((60, 60, 3), 100, np.uint8)
    cover = np.zeros((20, 40), np.float32)
    cover[4:8, 10:20] = 1.0
    cover[12, 12] = 0.5
    candidate, mask, sign = measure.tone(image, BOX, cover, 0.2, "darker", 0.0, rng(), tint=[1.0, 0.5, 0.0])
    assert sign == -1
    np.testing.assert_array_equal(mask[BOX], cover > 0)
    assert mask.sum() == 41
    np.testing.assert_allclose(candidate[14, 15], [100 - 51, 100 - 25.5, 100], atol=0.51)
    np.testing.assert_allclose(candidate[22, 17], [74, 87, 100], atol=1)
    untouched = ~mask
    np.testing.assert_array_equal(candidate[untouched], image[untouched])


def test_a_softened_tone_is_as_strong_at_its_peak() -> None:
    image = np.full((60, 60, 1), 100, np.uint8)
    cover = np.zeros((20, 40), np.float32)
    cover[8:12, 15:25] = 1.0
    peaks, areas = [], []
    for blur in (0.0, 1.5, 3.0):
        candidate, mask, _ = measure.tone(image, BOX, cover, 0.3, "lighter", blur, rng())
        peaks.append(int(candidate.max()) - 100)
        areas.append(int(mask.sum()))
    assert max(peaks) - min(peaks) <= 1
    assert areas == sorted(areas)
    assert areas[0] < areas[-1]


def test_put_keeps_all_outside_its_window() -> None:
    image = rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    piece = rng(2).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    where = rng(3).random((20, 40)) > 0.5
    candidate, mask = measure.put(image, BOX, piece, where)
    np.testing.assert_array_equal(candidate[BOX], piece)
    np.testing.assert_array_equal(mask[BOX], where)
    mask[BOX], candidate[BOX] = False, image[BOX]
    assert not mask.any()
    np.testing.assert_array_equal(candidate, image)


@given(st.integers(0, 300))
@settings(max_examples=15, deadline=None)
def test_a_fill_lies_between_the_tones_it_is_made_of(seed: int) -> None:
    draw = rng(seed)
    picture = draw.integers(40, 200, (24, 24, 1), dtype=np.uint8)
    hole = np.zeros((24, 24), bool)
    y, x = draw.integers(2, 12, 2)
    hole[y : y + 8, x : x + 8] = True
    filled = measure.fill_from(picture, hole, ~hole, False, rng())
    np.testing.assert_array_equal(filled[~hole], picture[~hole])
    known = picture[~hole]
    assert known.min() - 1 <= filled[hole].min()
    assert filled[hole].max() <= known.max() + 1


def test_a_fill_takes_the_nearest_known_pixel_as_scipy_finds_it() -> None:
    """Before it is smoothed: two tones, each side of the hole as near as scipy's distance transform says."""
    picture = np.full((30, 30, 1), 60, np.uint8)
    picture[:, 20:] = 180
    hole = np.zeros((30, 30), bool)
    hole[10:20, 6:26] = True
    filled = measure.fill_from(picture, hole, ~hole, False, rng())[..., 0]
    nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    expected = picture[..., 0][tuple(nearest)]
    middle = np.s_[12:18]
    for column in (8, 9, 10, 24):
        np.testing.assert_allclose(filled[middle, column], expected[middle, column], atol=30)
    assert (np.diff(filled[15, 6:26].astype(int)) >= -1).all()  # from the dark side to the bright one


def test_grain_is_laid_over_a_fill_and_is_that_of_the_surroundings() -> None:
    picture = np.clip(rng(0).normal(120, 10, (64, 64, 1)), 0, 255).astype(np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[16:48, 16:48] = True
    plain, grained = (measure.fill_from(picture, hole, ~hole, grain, rng(1)) for grain in (False, True))
    assert plain[hole].std() < 4
    assert 0.4 * 10 < grained[hole].std() < 1.3 * 10
    assert grained[hole].mean() == pytest.approx(plain[hole].mean(), abs=2)
    smooth = measure.fill_from(np.full((64, 64, 1), 90, np.uint8), hole, ~hole, True, rng(1))
    assert (smooth == 90).all()  # no grain around, none inside
