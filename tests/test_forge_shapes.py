"""Outlines against areas and lengths that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.forge import shapes


def test_polygon_of_a_square() -> None:
    mask = shapes.polygon((10, 12), np.array([[2, 3], [6, 3], [6, 8], [2, 8]], np.float64))
    expected = np.zeros((10, 12), bool)
    expected[3:9, 2:7] = True
    np.testing.assert_array_equal(mask, expected)


def test_polygon_may_leave_the_picture() -> None:
    assert shapes.polygon((10, 10), np.array([[-5, -5], [20, -5], [20, 20], [-5, 20]], np.float64)).all()


def test_turned_box_keeps_its_sides() -> None:
    corners = shapes.turned_box((10.0, 20.0), (8.0, 4.0), 30.0)
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    np.testing.assert_allclose(sides, [8, 4, 8, 4])
    np.testing.assert_allclose(corners.mean(axis=0), [10, 20])
    quarter = shapes.turned_box((0.0, 0.0), (8.0, 4.0), 90.0)
    np.testing.assert_allclose(np.abs(quarter), [[2, 4]] * 4, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_box_inside_has_the_drawn_area_and_fits(seed: int) -> None:
    height, width = shapes.box_inside((200, 300), np.random.default_rng(seed), (0.02, 0.15), (0.3, 3.3))
    assert 0.015 < height * width / 60000 < 0.16
    assert 0.25 < height / width < 4.0
    y, x = shapes.corner_for((200, 300), (height, width), np.random.default_rng(seed))
    assert 0 <= y <= 200 - height
    assert 0 <= x <= 300 - width


def test_window_is_clipped() -> None:
    assert shapes.window((50, 60), (2.0, 58.0), 4.0) == (slice(0, 8), slice(53, 60))


def test_place_follows_its_weights() -> None:
    weights = np.zeros((4, 8), np.float32)
    weights[1, 6] = 1.0
    for seed in range(20):
        y, x = shapes.place((40, 160), weights, np.random.default_rng(seed))
        assert 10 <= y < 20
        assert 120 <= x < 140


def test_place_without_weight_is_uniform() -> None:
    rng = np.random.default_rng(0)
    points = np.array([shapes.place((40, 80), np.zeros((4, 4), np.float32), rng) for _ in range(400)])
    assert (points.min(axis=0) < 4).all()
    assert (points.max(axis=0) > [36, 72]).all()


def test_a_round_blob_is_a_disc() -> None:
    box = slice(0, 100), slice(0, 120)
    depth = shapes.blob(box, (50.0, 60.0), 40.0, np.random.default_rng(0), roughness=0.0)
    y, x = np.mgrid[0:100, 0:120]
    np.testing.assert_allclose(depth, 20.0 - np.hypot(y - 50, x - 60), atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_blob_keeps_its_area_when_drawn_out(seed: int) -> None:
    box = slice(0, 200), slice(0, 200)
    depth = shapes.blob(box, (100.0, 100.0), 50.0, np.random.default_rng(seed), roughness=0.0, aspect=2.0)
    assert np.count_nonzero(depth > 0) == pytest.approx(np.pi * 25**2, rel=0.02)


def test_edge_is_half_at_the_outline_and_monotone() -> None:
    cover = shapes.edge(np.array([-3.0, -0.5, 0.0, 0.5, 3.0], np.float32), 2.0)
    assert cover[0] == 0.0
    assert cover[2] == 0.5
    assert cover[4] == 1.0
    assert (np.diff(cover) >= 0).all()


@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
def test_stroke_covers_length_times_width(width: float) -> None:
    points = np.stack([np.full(41, 30.0), np.linspace(20, 60, 41)], axis=1)
    cover = shapes.stroke((slice(0, 60), slice(0, 80)), points, np.full(41, width), np.ones(41))
    assert cover.sum() == pytest.approx(40 * width, rel=0.6 if width < 1 else 0.35)
    rows = np.nonzero(cover.sum(axis=1))[0]
    assert rows.mean() == pytest.approx(30.0, abs=0.6)


def test_stroke_is_as_strong_as_told() -> None:
    points = np.stack([np.full(11, 10.0), np.linspace(5, 25, 11)], axis=1)
    box = slice(0, 20), slice(0, 30)
    full, half = (shapes.stroke(box, points, np.full(11, 5.0), np.full(11, s)) for s in (1.0, 0.5))
    assert half[10, 15] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(half, full / 2, atol=0.01)


def test_grow_has_its_length_and_starts_at_the_origin() -> None:
    path = shapes.grow(80.0, 2.0, 90.0, 20.0, np.random.default_rng(0))
    np.testing.assert_array_equal(path[0], [0.0, 0.0])
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(80.0)


def test_grow_without_bend_or_wobble_is_straight() -> None:
    path = shapes.grow(50.0, 2.0, 0.0, 0.0, np.random.default_rng(3))
    assert np.linalg.norm(path[-1]) == pytest.approx(50.0, abs=1e-6)


# ---- laws


@given(st.floats(20, 60), st.floats(20, 60), st.floats(6, 30), st.floats(6, 30), st.floats(-180, 180))
@settings(max_examples=60, deadline=None)
def test_a_turned_box_has_its_area_whatever_the_turn(x: float, y: float, width: float, height: float, turn: float) -> None:
    corners = shapes.turned_box((x, y), (width, height), turn)
    mask = shapes.polygon((100, 100), corners + 10)
    # OpenCV also fills pixels that an edge touches: up to a pixel more along it, and none less but for rounding.
    edge = 2 * (width + height)
    assert width * height - edge / 2 <= mask.sum() <= width * height + edge + 6
    rows, columns = np.nonzero(mask)
    assert (columns.mean(), rows.mean()) == pytest.approx((x + 10, y + 10), abs=0.8)
    np.testing.assert_allclose(shapes.turned_box((x, y), (width, height), turn + 180)[[2, 3, 0, 1]], corners, atol=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 0.3), st.floats(0.2, 5.0))
@settings(max_examples=60, deadline=None)
def test_a_box_has_its_area_and_aspect_where_it_fits(seed: int, area: float, aspect: float) -> None:
    height, width = shapes.box_inside((200, 300), np.random.default_rng(seed), (area, area), (aspect, aspect))
    assert 2 <= height <= 200
    assert 2 <= width <= 300
    if height < 200 and width < 300 and min(height, width) > 10:
        assert height * width == pytest.approx(area * 60000, rel=0.1)
        assert height / width == pytest.approx(aspect, rel=0.15)


def test_aspects_are_drawn_evenly_in_their_logarithm() -> None:
    ratios = []
    for seed in range(400):
        height, width = shapes.box_inside((400, 400), np.random.default_rng(seed), (0.1, 0.1), (0.25, 4.0))
        ratios.append(np.log(height / width))
    assert abs(float(np.mean(ratios))) < 0.15  # as often tall as wide
    counts, _ = np.histogram(ratios, bins=4, range=(-np.log(4), np.log(4)))
    assert counts.min() > 60


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_corner_leaves_room_for_its_box(height: int, width: int, seed: int) -> None:
    y, x = shapes.corner_for((40, 40), (height, width), np.random.default_rng(seed))
    assert 0 <= y <= 40 - height
    assert 0 <= x <= 40 - width


@given(st.floats(0, 49.9), st.floats(0, 59.9), st.floats(0, 30))
def test_a_window_holds_all_that_is_within_reach(y: float, x: float, reach: float) -> None:
    rows, columns = shapes.window((50, 60), (y, x), reach)
    assert 0 <= rows.start < rows.stop <= 50
    assert 0 <= columns.start < columns.stop <= 60
    near = np.argwhere(np.hypot(*(np.indices((50, 60)) - np.array([y, x])[:, None, None])) <= reach)
    if len(near):
        assert (near.min(axis=0) >= [rows.start, columns.start]).all()
        assert (near.max(axis=0) < [rows.stop, columns.stop]).all()


def test_places_are_drawn_in_proportion_to_their_weights() -> None:
    weights = np.array([[1.0, 3.0], [0.0, 4.0]], np.float32)
    rng = np.random.default_rng(1)
    counts = np.zeros((2, 2))
    for _ in range(4000):
        y, x = shapes.place((20, 20), weights, rng)
        counts[int(y // 10), int(x // 10)] += 1
    np.testing.assert_allclose(counts / 4000, weights / 8, atol=0.03)


@given(st.integers(0, 1000), st.floats(10, 60), st.floats(1, 3), st.floats(0, 0.4), st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_a_blob_is_deepest_in_its_middle_and_never_deeper_than_its_radius(
    seed: int, size: float, aspect: float, roughness: float, waves: int
) -> None:
    box = slice(0, 101), slice(0, 101)
    depth = shapes.blob(box, (50.0, 50.0), size, np.random.default_rng(seed), roughness, aspect, waves)
    assert depth.dtype == np.float32
    assert depth[50, 50] == pytest.approx(size / 2, rel=1e-5)
    assert depth.max() <= size / 2 + 1e-4
    for dy, dx in ((0, 1), (1, 0), (1, 1), (-1, 2)):  # along a ray it falls evenly
        ray = np.array([depth[50 + i * dy, 50 + i * dx] for i in range(25)])
        np.testing.assert_allclose(np.diff(ray), np.diff(ray).mean(), atol=2e-3)
        assert (np.diff(ray) < 0).all()


@given(st.floats(1, 12), st.floats(-20, 20))
def test_an_edge_is_symmetric_about_the_outline(width: float, depth: float) -> None:
    here, there = (float(shapes.edge(np.float32(sign * depth), width)) for sign in (1, -1))
    assert here + there == pytest.approx(1, abs=1e-5)
    if abs(depth) >= width / 2 + 1e-3:
        assert here == float(depth > 0)


@given(st.integers(0, 1000), st.floats(1.5, 5), st.floats(0.1, 1))
@settings(max_examples=30, deadline=None)
def test_a_stroke_stays_near_its_line_and_no_stronger(seed: int, width: float, strength: float) -> None:
    path = shapes.grow(30.0, 2.0, 40.0, 2.0, np.random.default_rng(seed))
    path = path - path.mean(axis=0) + 40.0
    box = slice(0, 80), slice(0, 80)
    cover = shapes.stroke(box, path, np.full(len(path), width), np.full(len(path), strength))
    assert cover.min() >= 0
    assert cover.max() <= strength + 0.01
    away = np.hypot(*(np.indices((80, 80))[:, None] - path.T[:, :, None, None])).min(axis=0)
    assert not cover[away > width / 2 + 2.5].any()
    assert cover[away < 0.4].mean() > 0.4 * strength


@given(st.integers(0, 1000), st.floats(5, 200), st.floats(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_path_has_steps_of_the_length_asked_for_or_less(seed: int, length: float, step: float) -> None:
    path = shapes.grow(length, step, 60.0, 10.0, np.random.default_rng(seed))
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert steps[0] <= step + 1e-9
    assert steps.sum() == pytest.approx(length)
    assert len(path) >= 5
