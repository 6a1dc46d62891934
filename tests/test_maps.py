"""From a map to score, place and regions: laws over random maps, against scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from flawforge_runtime import maps
from flawforge_runtime.images import letterbox, valid_mask
from flawforge_runtime.types import ImageError, ScoreRule

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, h: int = 20, w: int = 26) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A map and where it is valid: a box, at least a third of it."""
    rng = np.random.default_rng(seed)
    valid = np.zeros((h, w), bool)
    top, left = rng.integers(0, h // 3), rng.integers(0, w // 3)
    valid[top : h - rng.integers(0, h // 3), left : w - rng.integers(0, w // 3)] = True
    return rng.normal(size=(h, w)).astype(np.float32), valid


# ---- score


@given(SEEDS, st.sampled_from([1, 2, 3, 5, 8]))
@settings(max_examples=40, deadline=None)
def test_smoothing_is_the_mean_of_the_valid_neighbours(seed: int, side: int) -> None:
    surface, valid = drawn(seed)
    smoothed = maps.smooth(surface, valid, side)
    origin = -1 if side % 2 == 0 else 0
    total, weight = (
        ndimage.uniform_filter(each.astype(np.float64), side, mode="constant", origin=origin)
        for each in (np.where(valid, surface, 0), valid)
    )
    if side % 2:
        np.testing.assert_allclose(smoothed[valid], (total / np.maximum(weight, 1e-12))[valid], atol=1e-4)
    assert smoothed[valid].max() <= surface[valid].max() + 1e-5
    assert smoothed[valid].min() >= surface[valid].min() - 1e-5


@given(SEEDS, st.sampled_from([1, 3, 4]))
@settings(max_examples=40, deadline=None)
def test_the_highest_value_and_its_place_by_a_plain_loop(seed: int, side: int) -> None:
    surface, valid = drawn(seed)
    score, (row, column) = maps.picture_score(surface, 99.0, valid, ScoreRule("max", side))
    smoothed = maps.smooth(surface, valid, side)
    best = max(((smoothed[y, x], y, x) for y, x in zip(*np.nonzero(valid), strict=True)), key=lambda each: each[0])
    assert score == pytest.approx(float(best[0]))
    assert smoothed[row, column] == best[0]
    assert valid[row, column]


@given(SEEDS, st.floats(0.001, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_mean_of_the_top_share_by_sorting(seed: int, top: float) -> None:
    surface, valid = drawn(seed)
    score, _ = maps.picture_score(surface, 0.0, valid, ScoreRule("top", 1, top))
    values = np.sort(surface[valid])[::-1]
    kept = max(1, round(top * len(values)))
    assert score == pytest.approx(float(values[:kept].mean()), abs=1e-5)
    highest, _ = maps.picture_score(surface, 0.0, valid, ScoreRule("max"))
    assert score <= highest + 1e-6


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_what_is_not_valid_says_nothing(seed: int) -> None:
    surface, valid = drawn(seed)
    loud = np.where(valid, surface, 1e6).astype(np.float32)
    for rule in (ScoreRule("max", 3), ScoreRule("top", 1, 0.1)):
        (quiet, at), (score, there) = (maps.picture_score(each, 0.0, valid, rule) for each in (surface, loud))
        assert score == pytest.approx(quiet, rel=1e-5, abs=1e-5)
        assert there == at
    assert maps.picture_score(loud, 4.5, valid, ScoreRule("network"))[0] == 4.5


@given(SEEDS, st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_scores_move_with_their_map(seed: int, offset: float, scale: float) -> None:
    surface, valid = drawn(seed)
    for rule in (ScoreRule("max", 3), ScoreRule("top", 3, 0.2)):
        score, at = maps.picture_score(surface, 0.0, valid, rule)
        moved, there = maps.picture_score((scale * surface + offset).astype(np.float32), 0.0, valid, rule)
        assert moved == pytest.approx(scale * score + offset, abs=1e-3 * scale + 1e-4)
        if rule.reduce == "max":
            assert maps.smooth(surface, valid, 3)[there] == pytest.approx(maps.smooth(surface, valid, 3)[at], abs=1e-4)


# ---- regions


@given(SEEDS, st.floats(0.7, 0.99))
@settings(max_examples=40, deadline=None)
def test_regions_are_scipys_labels_the_strangest_first(seed: int, share: float) -> None:
    surface, _ = drawn(seed)
    mask = surface > np.quantile(surface, share)
    found = maps.find_regions(surface, mask)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    assert len(found) == count
    assert sum(region.area for region in found) == mask.sum()
    peaks = [region.peak for region in found]
    assert peaks == sorted(peaks, reverse=True)
    expected = {
        (box[1].start, box[0].start, box[1].stop - box[1].start, box[0].stop - box[0].start)
        for box in ndimage.find_objects(labels)
    }
    assert {(r.x, r.y, r.w, r.h) for r in found} == expected
    for region in found:
        assert surface[region.y : region.y + region.h, region.x : region.x + region.w].max() >= region.peak


def test_no_mark_is_no_region() -> None:
    assert maps.find_regions(np.ones((4, 4), np.float32), np.zeros((4, 4), bool)) == ()


# ---- places


@given(st.integers(10, 90), st.integers(10, 90), SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_canvas_pixel_is_found_again_in_the_picture(h: int, w: int, seed: int) -> None:
    """Under the middle of any canvas pixel that shows the picture lies the pixel that it was made from."""
    pixels, placement = letterbox(np.zeros((h, w, 3), np.uint8), (32, 32))
    laid = maps.lay(pixels, placement)
    assert laid.pose is None
    rows, columns = np.nonzero(valid_mask(placement))
    pick = np.random.default_rng(seed).integers(len(rows))
    row, column = laid.own_pixel(int(rows[pick]), int(columns[pick]))
    assert 0 <= row < h
    assert 0 <= column < w
    assert abs(row + 0.5 - (rows[pick] - placement.top + 0.5) * h / placement.height) <= 0.5 + 1e-6
    assert abs(column + 0.5 - (columns[pick] - placement.left + 0.5) * w / placement.width) <= 0.5 + 1e-6
    assert laid.own_map(np.zeros((32, 32), np.float32)).shape == (h, w)


def test_the_network_gets_planes_in_the_unit_interval() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    planes = maps.to_network(pixels)
    assert planes.shape == (1, 3, 5, 7)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    np.testing.assert_allclose(planes[0].transpose(1, 2, 0), pixels / 255, atol=1e-6)
    unit = (pixels / 255).astype(np.float32)
    np.testing.assert_array_equal(maps.to_network(unit)[0].transpose(1, 2, 0), unit)


# ---- sizes

SIZES = ((100, 200), (120, 240))


@pytest.mark.parametrize("size", [(100, 200), (240, 400), (30, 60), (100, 100)])
def test_a_size_near_the_good_ones_is_judged(size: tuple[int, int]) -> None:
    maps.refuse_size(size, SIZES, (128, 256))
    maps.refuse_size(size, None, (128, 256))


@pytest.mark.parametrize(
    ("size", "words"),
    [((12, 24), "8 times smaller"), ((100, 1000), "4 times more oblong"), ((900, 100), "4 times more oblong")],
)
def test_a_size_far_from_them_is_refused_in_one_sentence(size: tuple[int, int], words: str) -> None:
    with pytest.raises(ImageError, match=words) as error:
        maps.refuse_size(size, SIZES, (128, 256))
    assert f"{size[0]} x {size[1]} pixels" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_as_large_as_the_canvas_is_never_too_small() -> None:
    maps.refuse_size((32, 64), ((4000, 8000), (4000, 8000)), (32, 64))
    with pytest.raises(ImageError, match="smaller"):
        maps.refuse_size((3, 8), ((4000, 8000), (4000, 8000)), (32, 64))


def test_another_size_is_told_and_the_trained_ones_are_not() -> None:
    assert maps.of_another_size((110, 220), SIZES, (128, 256)) == ()
    assert maps.of_another_size((110, 220), None, (128, 256)) == ()
    (note,) = maps.of_another_size((99, 220), SIZES, (128, 256))
    assert (
        note
        == "99 x 220 pixels (h x w), trained on 100 to 120 x 200 to 240: resized onto the canvas 128 x 256, proportions kept"
    )
    (note,) = maps.of_another_size((1, 1), ((5, 7), (5, 7)), (8, 8))
    assert "trained on 5 x 7:" in note


@pytest.mark.parametrize("size", [(20, 40), (50, 100), (200, 400)])
def test_a_region_of_interest_is_scaled_by_its_nearest_pixel(size: tuple[int, int]) -> None:
    roi = np.zeros((10, 20), bool)
    roi[2:5, 4:10] = True
    scaled = maps.fit_roi(roi, size)
    assert scaled.shape == size
    assert scaled.mean() == pytest.approx(roi.mean(), abs=0.01)
    factor = size[0] // 10
    np.testing.assert_array_equal(scaled[factor // 2 :: factor, factor // 2 :: factor], roi)


def test_a_region_of_other_proportions_is_refused() -> None:
    roi = np.ones((10, 20), bool)
    assert maps.fit_roi(roi, (10, 20)) is roi
    with pytest.raises(ImageError, match="region of interest"):
        maps.fit_roi(roi, (20, 20))
