"""Outlines against areas and lengths that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

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
