"""Metrics against hand-sized arrays, scikit-learn, and a textbook AUPRO that loops over every threshold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from flawforge.proving import metrics
from flawforge.types import ConfigError

LAWS = settings(max_examples=60, deadline=None, derandomize=True)

# few distinct values make ties the rule, not the exception
scores_and_labels = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30)


def slow_aupro(maps: list[Any], masks: list[Any], limit: float) -> float:
    """AUPRO as in the book: at each distinct value, count; then the trapezoid rule up to an interpolated limit."""
    regions = []
    for index, mask in enumerate(masks):
        names, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, names == name) for name in range(1, count + 1)]
    good = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlap = np.mean([(maps[i][region] >= threshold).mean() for i, region in regions])
        points.append(((good >= threshold).mean(), overlap))
    area = 0.0
    for (a, p), (b, q) in itertools.pairwise(points):
        if a >= limit:
            break
        if b > limit:
            b, q = limit, p + (q - p) * (limit - a) / (b - a)
        area += (b - a) * (p + q) / 2
    return area / limit


def slow_f1(scores: Any, labels: Any) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return max(2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precision, recall, strict=True))


@st.composite
def maps_and_masks(draw: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sizes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4))
    levels = draw(st.sampled_from([2, 4, 1000]))
    density = draw(st.sampled_from([0.1, 0.4]))
    maps = [rng.integers(-levels, levels, size).astype(np.float32) / 3 for size in sizes]
    masks = [rng.random(size) < density for size in sizes]
    masks[0][0, 0] = True
    assume(not all(mask.all() for mask in masks))
    return maps, masks


@LAWS
@given(scores_and_labels)
def test_image_metrics_agree_with_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in pairs]) / 7
    labels = np.array([label for _, label in pairs])
    assume(labels.any() and not labels.all())
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    oracle = average_precision_score(labels, scores)
    assert metrics.average_precision(scores, labels) == pytest.approx(oracle, abs=1e-12)
    assert metrics.f1_max(scores, labels) == pytest.approx(slow_f1(scores, labels), abs=1e-12)


def test_four_scores_by_hand() -> None:
    scores, labels = [1.0, 2.0, 2.0, 3.0], [False, False, True, True]
    assert metrics.auroc(scores, labels) == (1 + 0.5 + 1 + 1) / 4
    assert metrics.average_precision(scores, labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.f1_max(scores, labels) == pytest.approx(0.8)  # at 2: 2 found, 1 false alarm


@LAWS
@given(maps_and_masks())
def test_pixel_metrics_agree_with_scikit_learn(case: tuple[list[Any], list[Any]]) -> None:
    maps, masks = case
    scores = np.concatenate([m.ravel() for m in maps])
    labels = np.concatenate([m.ravel() for m in masks])
    assert metrics.pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    oracle = average_precision_score(labels, scores)
    assert metrics.pixel_average_precision(maps, masks) == pytest.approx(oracle, abs=1e-12)
    assert metrics.pixel_f1_max(maps, masks) == pytest.approx(slow_f1(scores, labels), abs=1e-12)


@LAWS
@given(maps_and_masks(), st.sampled_from([0.01, 0.05, 0.3, 0.5, 1.0]))
def test_aupro_agrees_with_the_textbook(case: tuple[list[Any], list[Any]], limit: float) -> None:
    maps, masks = case
    value = metrics.aupro(maps, masks, limit)
    assert value == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-12)
    curves = metrics.pixel_curves(metrics.split_pixels(maps, masks))
    assert curves is not None
    assert value == pytest.approx(metrics.curve_partial_area(curves[1], limit), abs=1e-12)


def test_aupro_by_hand() -> None:
    """Two regions of 1 and 2 pixels, 4 good ones: overlap 1/4 at once, 3/4 from rate 1/4 on, 1 from 1/2 on."""
    scores = np.array([[9.0, 8.0, 5.0, 7.0, 3.0, 6.0, 1.0]])
    mask = np.array([[True, False, True, True, False, False, False]])
    scores[0, 0], scores[0, 1], scores[0, 3], scores[0, 2] = 7.0, 8.0, 9.0, 5.0
    # from the top: 9 region B (1/4), 8 good, 7 region A (3/4), 6 good, 5 region B (1), 3 good, 1 good
    assert metrics.aupro([scores], [mask], 0.5) == pytest.approx((0.25 * 0.25 + 0.25 * 0.75) / 0.5)
    assert metrics.aupro([scores], [mask], 0.3) == pytest.approx((0.25 * 0.25 + 0.05 * 0.75) / 0.3)
    assert metrics.aupro([scores], [mask], 1.0) == pytest.approx(0.25 * 0.25 + 0.25 * 0.75 + 0.5)


def test_aupro_where_the_sample_misleads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other pixel is high, and a sample of every 104th sees only those: all good pixels are then put in order."""
    monkeypatch.setattr(metrics, "SAMPLE", 96)
    scores = np.tile(np.array([1.0, 0.0], np.float32), 5000)[None]
    ramp = np.linspace(0, 1, 5000, dtype=np.float32)
    scores[0, ::2] += ramp
    scores[0, 1::2] -= ramp
    mask = np.zeros(scores.shape, bool)
    mask[0, -9:], scores[0, -9:] = True, 0.5
    assert metrics.aupro([scores], [mask], 0.6) == pytest.approx(slow_aupro([scores], [mask], 0.6))


def test_regions_touching_at_a_corner_are_one() -> None:
    weights, count = metrics.region_weights(np.eye(3, dtype=bool))
    assert count == 1
    assert weights.tolist() == pytest.approx([1 / 3] * 3)


@LAWS
@given(maps_and_masks(), st.integers(0, 1000))
def test_order_and_any_rising_function_change_nothing(case: tuple[list[Any], list[Any]], seed: int) -> None:
    maps, masks = case
    order = np.random.default_rng(seed).permutation(len(maps))
    other = [np.exp(maps[i].astype(np.float64) / 100) for i in order]
    masks_too = [masks[i] for i in order]
    for metric in (metrics.pixel_auroc, metrics.pixel_average_precision, metrics.pixel_f1_max, metrics.aupro):
        assert metric(other, masks_too) == pytest.approx(metric(maps, masks), abs=1e-12)


@LAWS
@given(scores_and_labels)
def test_swapping_the_classes_turns_auroc_round(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(s) for s, _ in pairs])
    labels = np.array([label for _, label in pairs])
    assume(labels.any() and not labels.all())
    value, turned = metrics.auroc(scores, labels), metrics.auroc(scores, ~labels)
    assert value is not None
    assert turned == pytest.approx(1 - value, abs=1e-12)


def test_the_arguments_are_left_as_they_were() -> None:
    maps, masks = [np.array([[3.0, 1.0, 2.0]], np.float32)], [np.array([[True, False, False]])]
    metrics.aupro(maps, masks)
    metrics.pixel_auroc(maps, masks)
    assert maps[0].tolist() == [[3.0, 1.0, 2.0]]


def test_infinite_scores_are_scores() -> None:
    assert metrics.auroc([-np.inf, 0.0, np.inf, np.inf], [False, False, True, False]) == pytest.approx(2.5 / 3)


def test_one_class_has_no_answer() -> None:
    image, image_metrics = [1.0, 2.0], (metrics.auroc, metrics.average_precision, metrics.f1_max)
    assert [m(image, [True, True]) for m in image_metrics] == [None] * 3
    assert [m(image, [False, False]) for m in image_metrics] == [None] * 3
    maps = [np.zeros((2, 2), np.float32)]
    for mask in (np.zeros((2, 2), bool), np.ones((2, 2), bool)):
        for metric in (metrics.pixel_auroc, metrics.pixel_average_precision, metrics.pixel_f1_max, metrics.aupro):
            assert metric(maps, [mask]) is None
    assert metrics.aupro([], []) is None


def test_iou_by_hand() -> None:
    marked = [np.array([[True, True, False]]), np.array([[True], [False]])]
    masks = [np.array([[False, True, True]]), np.array([[False], [False]])]
    assert metrics.iou(marked, masks) == 1 / 4  # the false mark on the good picture is in the union
    assert metrics.overlap_counts(marked, masks).tolist() == [[1, 3], [0, 1]]
    assert metrics.iou([masks[1]], [masks[1]]) is None


def test_where_a_map_peaks() -> None:
    mask = np.array([[True, True, False]])
    assert metrics.peak_on_defect([[0.0, 2.0, 1.0]], mask)
    assert not metrics.peak_on_defect([[0.0, 1.0, 2.0]], mask)
    assert metrics.peak_on_defect([[2.0, 2.0, 2.0]], mask)  # two thirds of the plateau
    assert not metrics.peak_on_defect([[0.0, 2.0, 2.0]], mask)  # half of it is no majority


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.auroc([1.0, np.nan], [True, False]), "NaN"),
        (lambda: metrics.auroc([1.0, 2.0], [True]), r"shape \(2,\)"),
        (lambda: metrics.auroc(["a", "b"], [True, False]), "no numbers"),
        (lambda: metrics.aupro([np.full((2, 2), np.nan)], [np.eye(2, dtype=bool)]), "NaN"),
        (lambda: metrics.aupro([np.zeros((2, 2))], [np.eye(3, dtype=bool)]), r"Map 0 has shape \(2, 2\)"),
        (lambda: metrics.aupro([np.zeros((2, 2))], []), "1 maps and 0 masks"),
        (lambda: metrics.aupro([np.zeros((2, 2, 1))], [np.ones((2, 2, 1), bool)]), "h w"),
        (lambda: metrics.aupro([np.zeros((0, 2))], [np.zeros((0, 2), bool)]), "not empty"),
        (lambda: metrics.aupro([np.zeros((2, 2))], [np.eye(2, dtype=bool)], 0.0), r"\(0, 1\]"),
        (lambda: metrics.iou([np.zeros((2, 2), bool)], [np.zeros((2, 3), bool)]), "of the same size"),
        (lambda: metrics.peak_on_defect([[np.nan, 1.0]], [[True, False]]), "NaN"),
    ],
)
def test_what_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


# ---- more laws


@LAWS
@given(maps_and_masks(), st.floats(0.05, 1.0))
def test_aupro_is_a_share_and_a_perfect_map_has_all_of_it(case: tuple[list[Any], list[Any]], limit: float) -> None:
    maps, masks = case
    area = metrics.aupro(maps, masks, limit)
    assert area is not None
    assert -1e-12 <= area <= 1 + 1e-12
    perfect = metrics.aupro([mask.astype(np.float32) for mask in masks], masks, limit)
    assert perfect == pytest.approx(1)
    worst = metrics.aupro([-mask.astype(np.float32) for mask in masks], masks, limit)
    assert worst is not None
    assert worst <= area + 1e-9 or worst == pytest.approx(area)


@LAWS
@given(maps_and_masks())
def test_a_picture_twice_changes_no_share(case: tuple[list[Any], list[Any]]) -> None:
    maps, masks = case
    for metric in (metrics.pixel_auroc, metrics.pixel_average_precision, metrics.pixel_f1_max, metrics.aupro):
        once, twice = metric(maps, masks), metric(maps * 2, masks * 2)  # type: ignore[operator]
        assert once == pytest.approx(twice)


@LAWS
@given(maps_and_masks())
def test_weights_of_a_region_add_up_to_one(case: tuple[list[Any], list[Any]]) -> None:
    maps, masks = case
    pixels = metrics.split_pixels(maps, masks)
    assert pixels.weight.sum() == pytest.approx(pixels.regions)
    assert pixels.regions == sum(ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks)
    assert pixels.good.size + pixels.defect.size == sum(mask.size for mask in masks)
    assert pixels.defect.size == sum(int(mask.sum()) for mask in masks)


@LAWS
@given(maps_and_masks(), st.floats(-3, 3))
def test_iou_by_sets_of_pixels(case: tuple[list[Any], list[Any]], threshold: float) -> None:
    maps, masks = case
    marked = [values > threshold for values in maps]
    one = {(i, *at) for i, m in enumerate(marked) for at in np.argwhere(m).tolist()}
    two = {(i, *at) for i, m in enumerate(masks) for at in np.argwhere(m).tolist()}
    found = metrics.iou(marked, masks)
    assert found == pytest.approx(len(one & two) / len(one | two))
    assert metrics.iou(masks, masks) == 1
    assert metrics.iou(masks, marked) == found  # neither side is the truth


@LAWS
@given(scores_and_labels)
def test_f1_is_at_least_that_of_calling_all_defective(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = zip(*pairs, strict=True)
    assume(any(labels) and not all(labels))
    share = sum(labels) / len(labels)
    found = metrics.f1_max(scores, labels)
    assert found is not None
    assert 2 * share / (1 + share) - 1e-12 <= found <= 1


@LAWS
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_a_cut_is_reached_by_as_many_as_asked_for(seed: int, keep: int) -> None:
    values = np.random.default_rng(seed).normal(size=500).astype(np.float32)
    cut = metrics._cut(values, keep)
    assert np.count_nonzero(values >= cut) >= keep
