"""Random fields against a textbook implementation and hand-sized cases."""

from __future__ import annotations

import numpy as np
import pytest
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
