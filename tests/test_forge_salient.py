"""Saliency as a forger uses it: adaptive thresholds, clusters of one dimension, and swaps that keep the picture's pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.forge import salient
from flawforge.forge.salient import CutSwap, RandomSwap, SaliencyPerlin
from flawforge.types import ConfigError, Sample

VALUES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60)


def picture(seed: int = 0, side: int = 64) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- thresholds


@given(VALUES, st.floats(0, 3))
@settings(max_examples=50, deadline=None)
def test_mean_and_deviation_by_numpy(values: list[float], spread: float) -> None:
    array = np.asarray(values, np.float32)
    level = SaliencyPerlin(spread=spread)._level(array, rng())
    assert level == pytest.approx(array.mean() + spread * array.std(), rel=1e-5, abs=1e-6)


@given(VALUES, st.floats(0.01, 0.9))
@settings(max_examples=50, deadline=None)
def test_a_quantile_leaves_at_most_its_share_above(values: list[float], area: float) -> None:
    array = np.asarray(values, np.float32)
    level = SaliencyPerlin(rule="quantile", area=area)._level(array, rng())
    assert (array > np.float32(level) + 1e-6).sum() <= area * (len(array) - 1) + 1
    assert array.min() - 1e-6 <= level <= array.max() + 1e-6


@given(VALUES, st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_uniform_level_lies_in_the_values_range(values: list[float], seed: int) -> None:
    array = np.asarray(values, np.float32)
    level = SaliencyPerlin(rule="uniform")._level(array, rng(seed))
    assert array.min() - 1e-6 <= level <= array.max() + 1e-6


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.7), (0.02, 0.2), (0.4, 0.95)])
def test_otsu_parts_two_heaps(low: float, high: float) -> None:
    draw = rng(1)
    values = np.concatenate([draw.normal(low, 0.02, 300), draw.normal(high, 0.02, 200)]).clip(0, 1).astype(np.float32)
    level = SaliencyPerlin(rule="otsu")._level(values, rng())
    assert low + 0.02 < level + 0.06 * values.max()
    assert (values > level).sum() == pytest.approx(200, abs=4)


@pytest.mark.parametrize(
    ("share", "note"), [(0.03, "guarded"), (0.06, "given"), (0.5, "given"), (0.79, "given"), (0.9, "guarded")]
)
def test_the_guard_takes_a_share_for_an_object_or_not(share: float, note: str) -> None:
    prior = np.zeros(6400, np.float32)
    prior[: round(share * 6400)] = 1.0
    sample = Sample(picture(side=80), prior.reshape(80, 80))
    kept, said = SaliencyPerlin()._prior(sample)
    assert said == note
    assert (kept is None) == (note == "guarded")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rule": "mean"}, "rule is 'mean'"),
        ({"spread": 4.0}, "spread is 4.0"),
        ({"area": 0.0}, "area is 0.0"),
        ({"region": 1.0}, "region is 1.0"),
        ({"guard": (0.9, 0.1)}, "guard"),
        ({"cells": (0, 8)}, "cells"),
        ({"operations": 6}, "operations is 6"),
        ({"source": "web"}, "source is 'web'"),
        ({"opacity": 0.0}, "opacity is 0.0"),
    ],
)
def test_a_setting_out_of_bounds_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"saliency_perlin: {words}") as error:
        SaliencyPerlin(**fields)
    assert str(error.value).endswith(".")


# ---- clusters


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from(["kmeans", "fuzzy"]))
@settings(max_examples=60, deadline=None)
def test_clusters_are_intervals_ranked_from_the_top(seed: int, count: int, how: str) -> None:
    grid = rng(seed).random((5, 7)).astype(np.float32)
    ranked = salient.one_dimensional_clusters(grid, count, how)
    assert ranked.shape == grid.shape
    found = np.unique(ranked)
    np.testing.assert_array_equal(found, np.arange(len(found)))  # no rank is empty
    assert len(found) <= count
    for rank in found[1:]:
        assert grid[ranked == rank].max() <= grid[ranked == rank - 1].min()


@given(st.integers(0, 1000), st.integers(2, 5), st.floats(0.1, 10), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_clusters_do_not_depend_on_scale_or_offset(seed: int, count: int, scale: float, offset: float) -> None:
    heaps = np.repeat(np.arange(count), 8) + 0.1 * rng(seed).random(8 * count)
    grid = heaps.reshape(count, 8).astype(np.float32)
    expected = salient.one_dimensional_clusters(grid, count)
    assert len(np.unique(expected)) == count
    moved = (np.float32(scale) * grid + np.float32(offset)).astype(np.float32)
    np.testing.assert_array_equal(salient.one_dimensional_clusters(moved, count), expected)


def test_fuzzy_centres_of_two_points_are_the_points() -> None:
    centres = salient.fuzzy_centres(np.array([0.2] * 5 + [0.9] * 5), np.array([1.0, 0.0]))
    np.testing.assert_allclose(centres, [0.9, 0.2], atol=1e-3)


def test_a_prior_is_coarsened_to_area_means() -> None:
    prior = rng(2).random((32, 64)).astype(np.float32)
    grid = salient.coarsen(prior, 16)
    assert grid.shape == (8, 16)
    np.testing.assert_allclose(grid, prior.reshape(8, 4, 16, 4).mean(axis=(1, 3)), atol=1e-6)
    assert salient.coarsen(prior, 500).shape == (32, 64)
    assert salient.coarsen(np.ones((4, 400), np.float32), 8).shape == (2, 8)  # never a single row


# ---- swaps


@given(st.integers(0, 10_000), st.floats(0.01, 0.15), st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_exchange_moves_pixels_and_makes_none(seed: int, area: float, exchange: bool) -> None:
    image = picture(seed)
    candidate, mask, drawn = salient.swap(image, None, area, (0.5, 2.0), 20, 0.0, rng(seed), {}, exchange=exchange)
    (ay, ax), (by, bx), (h, w) = drawn["one"], drawn["two"], drawn["size"]
    assert 0 <= min(ay, by) <= max(ay, by) <= 64 - h
    assert 0 <= min(ax, bx) <= max(ax, bx) <= 64 - w
    assert mask.sum() == (2 if exchange else 1) * h * w
    np.testing.assert_array_equal(candidate[~mask], image[~mask])
    np.testing.assert_array_equal(candidate[ay : ay + h, ax : ax + w], image[by : by + h, bx : bx + w])
    if exchange:
        one, two = (np.sort(each.reshape(-1, 3).view([("", np.uint8)] * 3).ravel()) for each in (image, candidate))
        np.testing.assert_array_equal(one, two)  # the same pixels, elsewhere


def test_the_gate_takes_the_greatest_of_the_changes_tried() -> None:
    """On a picture that is flat but for one corner, an unlucky pair changes nothing: then the best of all tries is kept."""
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:20, :20] = 250
    strong = [
        salient.swap(image, None, 0.02, (1.0, 1.0), tries, 0.2, rng(seed), {})[2]["gate"]
        for tries in (1, 40)
        for seed in range(30)
    ]
    assert sum(strong[30:]) > sum(strong[:30])
    assert sum(strong[30:]) > 20


def test_a_box_that_finds_no_partner_is_halved() -> None:
    """Two patches of nearly half the picture hardly fit beside each other; the box shrinks until they do."""
    for seed in range(10):
        candidate, mask, drawn = salient.swap(picture(), None, 0.4, (1.0, 1.0), 3, 0.0, rng(seed), {})
        assert drawn["halvings"] >= 1
        assert drawn["size"][0] <= round(40 / 2**0.5) + 1
        assert mask.any()
        assert candidate.shape == (64, 64, 3)


def test_where_no_two_boxes_fit_nothing_is_swapped() -> None:
    """Boxes as wide as the picture about one and the same row always overlap, halved or not."""
    image, ranked = picture(), np.ones((64, 1), np.int64)
    ranked[32] = 0
    candidate, mask, drawn = salient.swap(image, ranked * 0, 0.4, (0.05, 0.05), 1, 0.0, rng(3), {"a": 1})
    if mask.any():  # some rows leave room for two flat boxes
        assert drawn["size"][0] <= 20
    none = salient.swap(image, np.zeros((1, 1), np.int64), 0.4, (1.0, 1.0), 0, 0.0, rng(3), {"a": 1})
    np.testing.assert_array_equal(none[0], image)
    assert not none[1].any()
    assert none[2] == {"a": 1}
    assert candidate.shape == image.shape


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_corner_is_centred_in_its_cluster_or_pushed_inwards(seed: int) -> None:
    ranked = np.ones((8, 8), np.int64)
    ranked[2, 5] = 0
    y, x = salient._corner((64, 64), (10, 14), ranked, 0, rng(seed))
    assert 16 - 5 - 1 <= y <= 24 - 5
    assert 40 - 7 - 1 <= x <= 48 - 7
    ranked[:] = 1
    ranked[0, 0] = 0
    assert salient._corner((64, 64), (40, 40), ranked, 0, rng(seed)) == (0, 0)


def test_the_mean_change_is_the_mean_of_the_differences() -> None:
    image = picture(4)
    one, two, box = (3, 5), (30, 40), (8, 10)
    a, b = (image[y : y + 8, x : x + 10].astype(float) for y, x in (one, two))
    assert salient._mean_change(image, one, two, box) == pytest.approx(np.abs(a - b).mean() / 255)
    unit = (image / 255).astype(np.float32)
    assert salient._mean_change(unit, one, two, box) == pytest.approx(np.abs(a - b).mean() / 255, rel=1e-4)


@pytest.mark.parametrize("forger", [CutSwap, RandomSwap])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"area": 0.5}, "area is 0.5"),
        ({"aspect": (3, 1)}, "aspect"),
        ({"tries": 0}, "tries is 0"),
        ({"gate": 0.6}, "gate is 0.6"),
    ],
)
def test_both_swaps_have_the_same_bounds(forger: type, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        forger(**fields)


def test_levels_of_a_swap_are_checked_and_none_is_refused() -> None:
    for levels in ((1,), (64, 600), ()):
        with pytest.raises(ConfigError, match="levels"):
            CutSwap(levels=levels)
    with pytest.raises(ConfigError, match="clusters is 17"):
        CutSwap(clusters=17)


def test_a_prior_turned_upside_down_turns_the_swaps_places() -> None:
    """The prior alone says where: with its rows reversed, the same draws lie at the mirrored rows."""
    prior = np.zeros((64, 64), np.float32)
    prior[:16] = 1.0
    forger = CutSwap(area=0.004, aspect=(1.0, 1.0), levels=(64,), gate=0.0)
    for seed in range(8):
        top = forger(Sample(picture(), prior), rng(seed)).drawn["one"][0]
        bottom = forger(Sample(picture(), prior[::-1].copy()), rng(seed)).drawn["one"][0]
        assert top <= 16 + 4
        assert bottom >= 64 - 16 - 8


def test_a_saliency_mask_moves_with_its_prior() -> None:
    prior = np.zeros((64, 64), np.float32)
    prior[8:40, 8:40] = 1.0
    for seed in range(6):
        for shift in ((0, 0), (16, 16)):
            moved = np.roll(prior, shift, axis=(0, 1))
            mask = SaliencyPerlin(rule="quantile", area=0.3)(Sample(picture(), moved), rng(seed)).mask
            assert not (mask & (moved <= 0.5)).any()
            assert cv2.countNonZero(mask.astype(np.uint8)) >= 9
