"""Random fields: gradient noise, its octaves, stripes, and the procedural textures made from them.

A field depends only on its arguments and the generator. Lattice weights are cached per (length, cells), so that one draw
of Perlin noise is a small matrix product. Both factors are rounded to multiples of 2^-11: products are then multiples of
2^-22 and their sums below 4 are exact in float32, so that the bits do not depend on the order of summation, the number of
threads or fused multiply-add.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import Image

Field = NDArray[np.float32]  # h w


@lru_cache(maxsize=256)
def _lattice(length: int, cells: int) -> tuple[Field, Field]:
    """Weights (length, cells + 1) of each lattice node at each pixel: the fade, and the fade times the offset."""
    at = np.arange(length, dtype=np.float64) * (cells / length)
    node = np.minimum(at.astype(int), cells - 1)
    offset = at - node
    fade = offset**3 * (offset * (offset * 6.0 - 15.0) + 10.0)
    weight = np.zeros((length, cells + 1))
    slope = np.zeros((length, cells + 1))
    row = np.arange(length)
    weight[row, node], weight[row, node + 1] = 1.0 - fade, fade
    slope[row, node], slope[row, node + 1] = (1.0 - fade) * offset, fade * (offset - 1.0)
    return _rounded(weight), _rounded(slope)


def _rounded(values: NDArray[Any]) -> Field:
    """The nearest multiples of 2^-11, float32."""
    return np.asarray(np.rint(values * 2048.0) / 2048.0, np.float32)


def perlin(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Field:
    """One octave of Perlin noise, h w float32 in about [-1, 1], with `cells` lattice cells along (y, x).

    Source: Perlin, "Improving noise" (SIGGRAPH 2002), quintic fade, scaled by sqrt(2) as in DRAEM's code.
    The sum over the four corners separates by axis: noise = S_y Gy W_x' + W_y Gx S_x', with the fades W and
    the fades times offset S; right to about 0.002, see the note on rounding above.
    """
    rows, columns = _factors(shape, cells, rng)
    return np.asarray(rows @ columns)


def _factors(
    shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator, gain: float = 1.0
) -> tuple[Field, Field]:
    """The two matrices h k and k w whose product is one octave; joined along k, they sum octaves in one product."""
    angle = rng.random((cells[0] + 1, cells[1] + 1), dtype=np.float32) * np.float32(2.0 * np.pi)
    (wy, sy), (wx, sx) = _lattice(shape[0], cells[0]), _lattice(shape[1], cells[1])
    # Rounded before the product too: two multiples of 2^-22 add up exactly, whatever kernel adds them.
    across, along = (_rounded(wave(angle) * np.float32(np.sqrt(2.0))) for wave in (np.sin, np.cos))
    rows = np.concatenate([sy @ across, wy @ along], axis=1)
    return _rounded(rows * np.float32(gain)), np.concatenate([wx, sx], axis=1).T


def rotate(field: Field, degrees: float) -> Field:
    """The field rotated about its centre, same shape, mirrored at its border.

    DRAEM's code pads with zeros, which leaves straight cuts across the masks and corners without any. Nearest neighbour is
    used: the field is smooth and is thresholded, so bilinear interpolation would move an outline by less than a pixel.
    """
    h, w = field.shape
    turn = cv2.getRotationMatrix2D(((w - 1) / 2.0, (h - 1) / 2.0), degrees, 1.0)
    return np.asarray(cv2.warpAffine(field, turn, (w, h), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101))


def octaves(shape: tuple[int, int], rng: np.random.Generator, cells: int = 4, count: int = 3, gain: float = 0.5) -> Field:
    """Sum of `count` Perlin octaves, each twice as fine and `gain` times as strong, stretched to [0, 1]."""
    rows, columns = [], []
    for octave in range(count):
        fine = min(cells * 2**octave, min(shape))
        r, c = _factors(shape, (fine, fine), rng, gain**octave)
        rows.append(r)
        columns.append(c)
    total = np.concatenate(rows, axis=1) @ np.concatenate(columns, axis=0)
    return stretch(total)


def stretch(field: Field) -> Field:
    """Min-max to [0, 1]; a flat field becomes 0.5 everywhere."""
    low, high = float(field.min()), float(field.max())
    if high - low < 1e-12:
        return np.full_like(field, 0.5)
    return np.asarray((field - np.float32(low)) * np.float32(1.0 / (high - low)), np.float32)


_SINE = (0.5 + 0.5 * np.sin(np.arange(256) * (2.0 * np.pi / 256.0))).astype(np.float32)


def stripes(shape: tuple[int, int], rng: np.random.Generator, period: float, degrees: float, warp: float) -> Field:
    """Sine stripes in [0, 1], h w: `period` in pixels, rotated by `degrees`, bent by up to `warp` periods."""
    h, w = shape
    y = np.arange(h, dtype=np.float32)[:, None] * np.float32(np.sin(np.deg2rad(degrees)) / period)
    x = np.arange(w, dtype=np.float32)[None, :] * np.float32(np.cos(np.deg2rad(degrees)) / period)
    phase = y + x
    if warp > 0:
        phase = phase + np.float32(warp) * perlin(shape, (2, 2), rng)
    turns = (phase * np.float32(256.0)).astype(np.int32).astype(np.uint8)  # wraps once per period; sin itself is slow
    return np.asarray(cv2.LUT(turns, _SINE))


def colour_ramp(rng: np.random.Generator, grey: bool, stops: int = 4) -> NDArray[np.uint8]:
    """A colour map, 256 x c uint8, interpolated linearly between `stops` random tones; c = 1 if grey, else 3."""
    tones = rng.integers(0, 256, (stops, 1 if grey else 3)).astype(np.float64)
    at = np.linspace(0.0, 255.0, stops)
    columns = [np.interp(np.arange(256.0), at, column) for column in tones.T]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def paint(field: Field, ramp: NDArray[np.uint8]) -> Image:
    """A field h w in [0, 1] mapped through a colour ramp 256 x c -> h w c uint8."""
    levels = np.asarray(field * np.float32(255.0), np.uint8)
    channels = [cv2.LUT(levels, column) for column in np.ascontiguousarray(ramp.T)]  # faster than one 3-channel LUT
    return np.asarray(cv2.merge(channels)).reshape(*field.shape, ramp.shape[1])


def noise_texture(shape: tuple[int, int], rng: np.random.Generator, grey: bool) -> tuple[Field, NDArray[np.uint8]]:
    """A marbled or grainy texture, to be painted: Perlin octaves h w in [0, 1], some with grain, and a colour ramp."""
    coarse = int(2 ** rng.integers(1, 4))
    field = octaves(shape, rng, cells=min(coarse, *shape), count=3, gain=float(rng.uniform(0.4, 0.8)))
    if rng.random() < 0.5:
        field = _with_grain(field, rng)
    return field, colour_ramp(rng, grey, stops=int(rng.integers(2, 6)))


def stripe_texture(shape: tuple[int, int], rng: np.random.Generator, grey: bool) -> tuple[Field, NDArray[np.uint8]]:
    """Straight or bent stripes, sometimes crossed, to be painted: h w in [0, 1], and a colour ramp."""
    period = float(np.exp(rng.uniform(np.log(4.0), np.log(40.0))))
    degrees = float(rng.uniform(0.0, 180.0))
    field = stripes(shape, rng, period, degrees, warp=float(rng.choice([0.0, 0.5, 2.0])))
    if rng.random() < 0.3:
        across = stripes(shape, rng, period * float(rng.uniform(0.5, 2.0)), degrees + 90.0, warp=0.0)
        field = field * across
    return field, colour_ramp(rng, grey, stops=int(rng.integers(2, 5)))


def _with_grain(field: Field, rng: np.random.Generator) -> Field:
    """The field with grain of 1 to 10 % of the range (normal): one tile of 64 x 64 px, repeated."""
    h, w = field.shape
    tile = rng.standard_normal((64, 64), dtype=np.float32) * np.float32(rng.uniform(0.01, 0.1))
    grain = np.tile(tile, (-(-h // 64), -(-w // 64)))[:h, :w]
    return np.asarray(np.clip(field + grain, 0.0, 1.0))
