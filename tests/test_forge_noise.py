"""Random fields against a textbook implementation and hand-sized cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from flawforge.forge import noise


def textbook_perlin(shape: tuple[int, int], cells: tuple[int, int], angle: np.ndarray) -> np.ndarray:
    """Perlin noise pixel by pixel: four corner gradients, four dot products, two quintic interpolations."""
    out = np.zeros(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            v, u = y * cells[0] / shape[0], x * cells[1] / shape[1]
            i, j = int(v), int(u)
            v, u = v - i, u - j
            corner = {}
            for di in (0, 1):
                for dj in (0, 1):
                    a = angle[i + di, j + dj]
                    corner[di, dj] = np.sin(a) * (v - di) + np.cos(a) * (u - dj)
            fv, fu = (t**3 * (t * (t * 6 - 15) + 10) for t in (v, u))
            top = corner[0, 0] * (1 - fu) + corner[0, 1] * fu
            bottom = corner[1, 0] * (1 - fu) + corner[1, 1] * fu
            out[y, x] = np.sqrt(2) * (top * (1 - fv) + bottom * fv)
    return out


@pytest.mark.parametrize(("shape", "cells"), [((16, 16), (1, 1)), ((24, 31), (3, 4)), ((20, 33), (20, 2))])
def test_perlin_is_the_textbooks(shape: tuple[int, int], cells: tuple[int, int]) -> None:
    field = noise.perlin(shape, cells, np.random.default_rng(0))
    angle = np.random.default_rng(0).random((cells[0] + 1, cells[1] + 1), dtype=np.float32) * np.float32(2 * np.pi)
    assert field.dtype == np.float32
    np.testing.assert_allclose(field, textbook_perlin(shape, cells, angle), atol=4e-3)


def test_perlin_vanishes_on_the_lattice_and_stays_in_range() -> None:
    field = noise.perlin((64, 96), (4, 6), np.random.default_rng(2))
    np.testing.assert_allclose(field[::16, ::16], 0.0, atol=1e-6)
    assert np.abs(field).max() <= 1.0 + 1e-6
    assert field.std() > 0.1


@pytest.mark.parametrize("cells", [(4, 4), (32, 32), (64, 8)])
def test_same_bits_for_any_number_of_blas_threads(cells: tuple[int, int]) -> None:
    fields = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            fields.append(noise.perlin((512, 384), cells, np.random.default_rng(1)))
            fields.append(noise.octaves((512, 384), np.random.default_rng(1), cells=min(cells)))
    for i in (2, 4):
        np.testing.assert_array_equal(fields[0], fields[i])
        np.testing.assert_array_equal(fields[1], fields[i + 1])


def test_octaves_cover_the_unit_interval() -> None:
    field = noise.octaves((40, 60), np.random.default_rng(0), cells=3, count=4)
    assert field.min() == 0.0
    assert field.max() == pytest.approx(1.0)


def test_one_octave_is_stretched_perlin() -> None:
    one = noise.octaves((40, 60), np.random.default_rng(0), cells=3, count=1)
    np.testing.assert_allclose(one, noise.stretch(noise.perlin((40, 60), (3, 3), np.random.default_rng(0))), atol=1e-6)


def test_stretch_of_a_flat_field_is_the_middle() -> None:
    np.testing.assert_array_equal(noise.stretch(np.full((2, 2), 7.0, np.float32)), np.full((2, 2), 0.5))


def test_stripes_repeat_with_their_period_along_their_direction() -> None:
    upright = noise.stripes((20, 64), np.random.default_rng(0), period=16.0, degrees=0.0, warp=0.0)
    np.testing.assert_allclose(upright[:, 16:], upright[:, :-16], atol=1e-6)
    np.testing.assert_allclose(upright, np.broadcast_to(upright[:1], upright.shape), atol=1e-6)
    expected = 0.5 + 0.5 * np.sin(2 * np.pi * np.arange(64) / 16)
    np.testing.assert_allclose(upright[0], expected, atol=0.03)  # the sine comes from a table of 256 steps


def test_rotate_by_half_a_turn_is_two_flips() -> None:
    field = np.arange(35, dtype=np.float32).reshape(5, 7)
    np.testing.assert_array_equal(noise.rotate(field, 180.0), field[::-1, ::-1])
    np.testing.assert_array_equal(noise.rotate(field, 0.0), field)


def test_rotate_leaves_no_empty_corner() -> None:
    assert (noise.rotate(np.ones((50, 50), np.float32), 45.0) == 1.0).all()


def test_paint_looks_colours_up() -> None:
    ramp = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 9)], axis=1).astype(np.uint8)
    painted = noise.paint(np.array([[0.0, 1.0]], np.float32), ramp)
    np.testing.assert_array_equal(painted, [[[0, 255, 9], [255, 0, 9]]])


@pytest.mark.parametrize("texture", [noise.noise_texture, noise.stripe_texture])
@pytest.mark.parametrize("grey", [True, False])
def test_textures_have_their_shape_and_some_contrast(texture: object, grey: bool) -> None:
    for seed in range(10):
        field, ramp = texture((37, 53), np.random.default_rng(seed), grey)  # type: ignore[operator]
        assert field.min() >= 0.0
        assert field.max() <= 1.0
        made = noise.paint(field, ramp)
        assert made.shape == (37, 53, 1 if grey else 3)
        assert made.dtype == np.uint8
        assert int(made.max()) - int(made.min()) >= 5


# ---- laws


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 8), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_perlin_is_bounded_smooth_and_repeats_with_its_seed(h: int, w: int, cells: int, seed: int) -> None:
    lattice = (min(cells, h), min(cells, w))
    field = noise.perlin((h, w), lattice, np.random.default_rng(seed))
    assert field.shape == (h, w)
    assert np.abs(field).max() <= 1.0 + 2e-3
    np.testing.assert_array_equal(field, noise.perlin((h, w), lattice, np.random.default_rng(seed)))
    steepest = 4.0 * max(lattice[0] / h, lattice[1] / w) + 1e-2  # the quintic rises by 15/8 a cell at most
    assert np.abs(np.diff(field, axis=0)).max(initial=0) <= steepest
    assert np.abs(np.diff(field, axis=1)).max(initial=0) <= steepest


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_lattice_weights_are_a_partition_of_one(seed: int) -> None:
    length, cells = 8 + seed % 50, 1 + seed % 7
    weight, slope = noise._lattice(length, cells)
    np.testing.assert_allclose(weight.sum(axis=1), 1.0, atol=1e-3)
    assert ((weight >= 0) & (weight <= 1)).all()
    assert (np.count_nonzero(weight, axis=1) <= 2).all()
    assert np.abs(slope).max() < 1
    np.testing.assert_array_equal(weight * 2048, np.rint(weight * 2048))  # what makes sums exact


@given(st.integers(0, 1000), st.floats(-180, 180))
@settings(max_examples=30, deadline=None)
def test_turning_invents_no_value(seed: int, degrees: float) -> None:
    field = np.random.default_rng(seed).random((17, 23)).astype(np.float32)
    assert set(noise.rotate(field, degrees).ravel()) <= set(field.ravel())


def test_a_quarter_turn_of_a_square_is_numpys() -> None:
    field = np.random.default_rng(0).random((21, 21)).astype(np.float32)
    np.testing.assert_array_equal(noise.rotate(field, 90.0), np.rot90(field))


@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_stretching_forgets_scale_and_offset(seed: int, scale: float, offset: float) -> None:
    field = np.random.default_rng(seed).random((9, 11)).astype(np.float32)
    one = noise.stretch(field)
    assert (one.min(), one.max()) == pytest.approx((0, 1), abs=1e-6)
    np.testing.assert_allclose(noise.stretch(np.float32(scale) * field + np.float32(offset)), one, atol=2e-4)
    np.testing.assert_allclose(noise.stretch(-field), 1 - one, atol=1e-5)


@given(st.integers(0, 1000), st.floats(4, 40), st.floats(0, 180))
@settings(max_examples=30, deadline=None)
def test_stripes_without_warp_are_one_wave(seed: int, period: float, degrees: float) -> None:
    field = noise.stripes((40, 48), np.random.default_rng(seed), period, degrees, 0.0)
    y, x = np.mgrid[0:40, 0:48]
    phase = (y * np.sin(np.deg2rad(degrees)) + x * np.cos(np.deg2rad(degrees))) / period
    np.testing.assert_allclose(field, 0.5 + 0.5 * np.sin(2 * np.pi * phase), atol=0.04)


def test_warped_stripes_are_bent() -> None:
    straight, bent = (noise.stripes((64, 64), np.random.default_rng(0), 12.0, 0.0, warp) for warp in (0.0, 2.0))
    assert np.ptp(straight, axis=0).max() < 1e-6
    assert np.ptp(bent, axis=0).max() > 0.5


@given(st.integers(0, 1000), st.booleans(), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_a_ramp_joins_its_tones_by_straight_lines(seed: int, grey: bool, stops: int) -> None:
    ramp = noise.colour_ramp(np.random.default_rng(seed), grey, stops)
    assert ramp.shape == (256, 1 if grey else 3)
    tones = np.random.default_rng(seed).integers(0, 256, (stops, 1 if grey else 3))
    np.testing.assert_array_equal(ramp[[0, 255]], tones[[0, -1]])
    bends = np.abs(np.diff(ramp.astype(int), n=2, axis=0)).max(axis=1) > 1
    assert bends.sum() <= 2 * (stops - 2)


def test_octaves_halve_and_double() -> None:
    """The sum by hand: each octave from the same generator, twice as fine, half as strong; never finer than the picture."""
    rng = np.random.default_rng(5)
    total: Any = sum(0.5**k * noise.perlin((32, 48), (min(4 * 2**k, 32),) * 2, rng).astype(np.float64) for k in range(5))
    np.testing.assert_allclose(
        noise.octaves((32, 48), np.random.default_rng(5), 4, 5, 0.5), noise.stretch(total.astype(np.float32)), atol=2e-3
    )


def test_grain_is_one_tile_again_and_again() -> None:
    field = np.full((130, 200), 0.5, np.float32)
    grained = noise._with_grain(field, np.random.default_rng(0))
    np.testing.assert_array_equal(grained[:64, :64], grained[64:128, 64:128])
    np.testing.assert_array_equal(grained[:, 64:128], grained[:, :64])
    assert 0.005 < float(grained.std()) < 0.12
    assert float(grained.mean()) == pytest.approx(0.5, abs=0.01)
    assert (noise._with_grain(np.ones((8, 8), np.float32), np.random.default_rng(0)) <= 1).all()
