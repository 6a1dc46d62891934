"""Intervals: exact rates against scipy, replicates that are exact, bins that change little, one seed one result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binom, norm

from flawforge.proving import intervals, metrics
from flawforge.types import ConfigError

LAWS = settings(max_examples=40, deadline=None, derandomize=True)


def labelled_maps(seed: int, pictures: int = 8) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps of two sizes, noise with a brighter square on every second picture."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(pictures):
        size = (40, 30) if index % 3 else (25, 50)
        mask = np.zeros(size, bool)
        if index % 2:
            y, x = rng.integers(0, 15, 2)
            mask[y : y + 6, x : x + 5] = True
        maps.append((rng.normal(size=size) + 1.5 * mask).astype(np.float32))
        masks.append(mask)
    return maps, masks


@LAWS
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rates_agree_with_scipy(case: tuple[int, int]) -> None:
    events, of = case
    oracle = stats.binomtest(events, of).proportion_ci(0.95, "exact")
    assert intervals.rate(events, of) == pytest.approx((events / of, oracle.low, oracle.high), abs=1e-9)


def test_rate_by_hand_and_its_edges() -> None:
    assert intervals.rate(0, 20) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 20)))
    assert intervals.rate(0, 0) == (None, None, None)
    with pytest.raises(ConfigError, match="3 of 2"):
        intervals.rate(3, 2)


def test_every_replicate_of_an_image_metric_is_exact() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(24) % 3 == 0
    scores = np.round(rng.normal(size=24) + labels, 1)
    found = intervals.image_metrics(scores, labels, bootstrap=200, rng=np.random.default_rng(1))
    draws = np.random.default_rng(1)
    counts = np.zeros((200, 24), int)
    for kind in (False, True):
        where = np.flatnonzero(labels == kind)
        counts[:, where] = draws.multinomial(where.size, np.full(where.size, 1 / where.size), size=200)
    for name, metric in (("auroc", metrics.auroc), ("ap", metrics.average_precision), ("f1_max", metrics.f1_max)):
        each = [metric(np.repeat(scores, row), np.repeat(labels, row)) for row in counts]
        low, high = np.quantile(np.array(each, float), [0.025, 0.975])
        assert found[name] == pytest.approx((metric(scores, labels), low, high), abs=1e-9)


def test_the_interval_of_an_auroc_covers_the_truth() -> None:
    """Two normal classes a deviation apart: AUROC is Phi(1 / sqrt 2). A percentile bootstrap is a little short of 95 %."""
    rng, truth, repeats = np.random.default_rng(0), float(norm.cdf(1 / np.sqrt(2))), 300
    labels = np.repeat([False, True], [40, 40])
    found = [
        intervals.image_metrics(rng.normal(size=80) + labels, labels, bootstrap=200, rng=rng)["auroc"]
        for _ in range(repeats)
    ]
    covered = sum(each.low <= truth <= each.high for each in found if each.low is not None and each.high is not None)
    assert covered >= binom.ppf(0.001, repeats, 0.93)
    assert np.mean([each.high - each.low for each in found if each.low is not None and each.high is not None]) < 0.25


@given(st.integers(2, 40), st.integers(2, 40), st.booleans())
@LAWS
def test_no_error_among_few_pictures_leaves_room_for_one(good: int, defective: int, wrong: bool) -> None:
    """Disjoint pairs are all in order with probability AUROC ** min(m, n) at least as often as all pictures are."""
    scores = np.concatenate([np.arange(good), 100 + np.arange(defective)]) * (-1 if wrong else 1)
    labels = np.repeat([False, True], [good, defective])
    figures = intervals.image_metrics(scores, labels, bootstrap=20, rng=np.random.default_rng(0))
    found = figures["auroc"]
    bound = 0.025 ** (1 / min(good, defective))
    assert (found.value, found.low, found.high) == (
        (0.0, 0.0, pytest.approx(1 - bound)) if wrong else (1.0, pytest.approx(bound), 1.0)
    )
    if not wrong:
        assert all((each.value, each.low, each.high) == (1.0, pytest.approx(bound), 1.0) for each in figures.values())


@given(st.integers(1, 60), st.floats(0.01, 0.99))
@settings(max_examples=80, deadline=None)
def test_the_interval_of_a_rate_covers_every_truth(n: int, truth: float) -> None:
    """Exactly, by summing over all counts: Clopper and Pearson never promise too much."""
    covered = sum(
        binom.pmf(k, n, truth)
        for k in range(n + 1)
        if (found := intervals.rate(k, n)).low <= truth <= found.high  # type: ignore[operator]
    )
    assert covered >= 0.95 - 1e-9


def test_pixel_values_are_exact_and_bins_close() -> None:
    maps, masks = labelled_maps(0)
    found = intervals.pixel_metrics(maps, masks, bootstrap=100, rng=np.random.default_rng(0))
    assert found["auroc"].value == metrics.pixel_auroc(maps, masks)
    assert found["ap"].value == metrics.pixel_average_precision(maps, masks)
    assert found["f1_max"].value == metrics.pixel_f1_max(maps, masks)
    assert found["aupro_0.3"].value == pytest.approx(metrics.aupro(maps, masks, 0.3), abs=1e-12)
    assert found["aupro_0.05"].value == pytest.approx(metrics.aupro(maps, masks, 0.05), abs=1e-12)
    for value, low, high in found.values():
        assert 0 <= low < value < high <= 1


def test_replicates_from_bins_follow_the_exact_ones() -> None:
    """The binned interval of AUPRO against one from exact replicates with the same draws."""
    maps, masks = labelled_maps(3)
    low_high = intervals.pixel_metrics(maps, masks, bootstrap=60, rng=np.random.default_rng(4))["aupro_0.3"][1:]
    draws, exact = np.random.default_rng(4), []
    counts = np.zeros((60, 8), int)
    for start in (0, 1):
        counts[:, start::2] = draws.multinomial(4, [0.25] * 4, size=60)
    for row in counts:
        chosen = np.repeat(np.arange(8), row)
        exact.append(metrics.aupro([maps[i] for i in chosen], [masks[i] for i in chosen], 0.3))
    assert low_high == pytest.approx(np.quantile(np.array(exact, float), [0.025, 0.975]), abs=2e-3)


def test_histograms_keep_every_pixel() -> None:
    maps, masks = labelled_maps(1)
    pixels = metrics.split_pixels(maps, masks)
    metrics.pixel_curves(pixels)
    for bins in (4, 512):
        binned = intervals.bin_pixels(maps, masks, intervals.bin_edges(pixels, bins))
        assert binned.good.sum(1).tolist() == [int((~m).sum()) for m in masks]
        assert binned.hits.sum(1).tolist() == [int(m.sum()) for m in masks]
        assert binned.shares.sum(1) == pytest.approx(binned.regions)
        assert binned.regions.tolist() == [0, 1] * 4


def test_same_seed_same_bits() -> None:
    maps, masks = labelled_maps(2)
    runs = [intervals.pixel_metrics(maps, masks, bootstrap=50, rng=np.random.default_rng(9)) for _ in range(2)]
    other = intervals.pixel_metrics(maps, masks, bootstrap=50, rng=np.random.default_rng(10))
    assert runs[0] == runs[1]
    assert other["auroc"].value == runs[0]["auroc"].value
    assert other["auroc"].low != runs[0]["auroc"].low


def test_overlap_by_hand() -> None:
    masks = [np.array([[True, False]]), np.array([[True, True]]), np.zeros((1, 2), bool), np.zeros((1, 2), bool)]
    marked = [np.array([[True, True]]), np.array([[True, False]]), masks[2], np.array([[True, False]])]
    value, low, high = intervals.overlap(
        metrics.overlap_counts(marked, masks), [True, True, False, False], bootstrap=300, rng=np.random.default_rng(0)
    )
    assert value == 2 / 5
    assert (low, high) == pytest.approx((2 / 6, 2 / 4))  # the bad picture twice; the clean good picture twice
    counts = metrics.overlap_counts(masks[2:], masks[2:])
    nothing = intervals.overlap(counts, [False, False], bootstrap=10, rng=np.random.default_rng(0))
    assert nothing == (None, None, None)


def test_one_class_and_one_picture_promise_nothing() -> None:
    rng = np.random.default_rng(0)
    assert intervals.image_metrics([1.0, 2.0], [True, True], bootstrap=10, rng=rng)["ap"] == (None, None, None)
    found = intervals.image_metrics([1.0, 2.0, 3.0], [False, False, True], bootstrap=10, rng=rng)
    assert found["auroc"] == (1.0, 0.0, 1.0)
    assert intervals.image_metrics([1.0, 2.0], [False, True], bootstrap=0, rng=rng)["ap"] == (1.0, 0.0, 1.0)
    maps = [np.zeros((3, 3), np.float32)]
    nothing = intervals.pixel_metrics(maps, [np.zeros((3, 3), bool)], bootstrap=10, rng=rng)
    assert set(nothing) == {"auroc", "ap", "f1_max", "aupro_0.3", "aupro_0.05"}
    assert set(nothing.values()) == {(None, None, None)}
    with pytest.raises(ConfigError, match="-1 bootstrap"):
        intervals.image_metrics([1.0, 2.0], [True, False], bootstrap=-1, rng=rng)


def test_few_values_make_the_bins_exact() -> None:
    """With fewer values than bins each value has its own bin, also those that lie on an edge."""
    rng = np.random.default_rng(6)
    masks = [rng.random((12, 9)) < 0.2 for _ in range(5)]
    maps = [rng.integers(0, 6, (12, 9)).astype(np.float32) + mask for mask in masks]
    pixels = metrics.split_pixels(maps, masks)
    curves = metrics.pixel_curves(pixels)
    assert curves is not None
    binned = intervals.bin_pixels(maps, masks, intervals.bin_edges(pixels))
    levels = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    for index, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        assert binned.good[index].tolist() == [int((values[~mask] == level).sum()) for level in levels]
        assert binned.hits[index].tolist() == [int((values[mask] == level).sum()) for level in levels]


def test_equal_pictures_leave_no_doubt() -> None:
    """Every draw gives the same data, so the interval is the exact value, although the bins alone would differ."""
    maps, masks = labelled_maps(7, pictures=2)
    rng = np.random.default_rng(8)
    maps = [np.kron(m, np.ones((6, 6), np.float32)) + rng.normal(size=(6 * m.shape[0], 6 * m.shape[1])) for m in maps]
    masks = [np.kron(mask, np.ones((6, 6), bool)) for mask in masks]
    found = intervals.pixel_metrics(maps * 3, masks * 3, bootstrap=20, rng=rng)
    for value, low, high in found.values():
        assert (low, high) == pytest.approx((value, value), abs=1e-12)
