"""Outlines of forgeries, as masks h w bool or as soft coverage h w float32 in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import Mask

Coverage = NDArray[np.float32]  # h w in [0, 1]


def polygon(shape: tuple[int, int], corners: NDArray[np.float64]) -> Mask:
    """The filled polygon; corners n x 2 as (x, y) pixels, may lie outside the picture."""
    canvas = np.zeros(shape, np.uint8)
    fixed = np.rint(corners * 16.0).astype(np.int32)  # four fractional bits, cv2's own sub-pixel convention
    cv2.fillPoly(canvas, [fixed], 1, lineType=cv2.LINE_8, shift=4)
    return canvas.astype(bool)


def turned_box(centre: tuple[float, float], size: tuple[float, float], degrees: float) -> NDArray[np.float64]:
    """Corners 4 x 2 (x, y) of a box of size (width, height) about centre (x, y), rotated by degrees."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64) * np.asarray(size) / 2.0
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return half @ np.array([[c, s], [-s, c]]) + np.asarray(centre)


def box_inside(
    shape: tuple[int, int], rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int]:
    """A box (height, width) in pixels: area as share of the picture, aspect = height / width, log-uniform (as in two
    public CutPaste codes; the paper leaves it open). At least 2 x 2, at most the picture."""
    h, w = shape
    pixels = rng.uniform(*area) * h * w
    ratio = float(np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1]))))
    height = int(np.clip(round(float(np.sqrt(pixels * ratio))), 2, h))
    width = int(np.clip(round(float(np.sqrt(pixels / ratio))), 2, w))
    return height, width


def corner_for(shape: tuple[int, int], box: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """A uniform top-left corner (y, x) such that the box lies inside the picture."""
    return int(rng.integers(0, shape[0] - box[0] + 1)), int(rng.integers(0, shape[1] - box[1] + 1))


def window(shape: tuple[int, int], centre: tuple[float, float], reach: float) -> tuple[slice, slice]:
    """Rows and columns within `reach` px of centre (y, x), clipped to the picture."""
    y, x = centre
    r = int(np.ceil(reach)) + 1
    rows = slice(max(0, int(y) - r), min(shape[0], int(y) + r + 1))
    return rows, slice(max(0, int(x) - r), min(shape[1], int(x) + r + 1))


def place(shape: tuple[int, int], weights: NDArray[np.float32] | None, rng: np.random.Generator) -> tuple[float, float]:
    """A point (y, x): uniform, or drawn in proportion to weights h w >= 0, on a grid of any size over the picture."""
    inside = rng.random(2)
    if weights is not None:
        total = np.cumsum(weights.ravel(), dtype=np.float64)
        if total[-1] > 0.0:
            pick = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
            row, column = divmod(min(pick, total.size - 1), weights.shape[1])
            inside = (np.array([row, column]) + inside) / weights.shape
    return float(inside[0] * shape[0]), float(inside[1] * shape[1])


def blob(
    box: tuple[slice, slice],
    centre: tuple[float, float],
    size: float,
    rng: np.random.Generator,
    roughness: float = 0.25,
    aspect: float = 1.0,
    waves: int = 6,
) -> Coverage:
    """Depth in px below the outline of an irregular blob (> 0 inside), over the window `box`, h w float32.

    size is the mean diameter in px; aspect >= 1 elongates it in a random direction at the same area; roughness is the
    amplitude of the outline's harmonics 2 to `waves`, which fall as 1 / k (few: smooth, many: jagged). The depth falls
    linearly from the centre to the outline in every direction, so that a soft edge shows no spokes.
    """
    y = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(box[1].start, box[1].stop, dtype=np.float32)[None, :] - np.float32(centre[1])
    turn = rng.uniform(0.0, np.pi)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    root = np.float32(np.sqrt(aspect))
    along, across = (c * x + s * y) / root, (c * y - s * x) * root
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for k in range(2, waves + 1):
        strength, phase = rng.uniform(-1.0, 1.0) * roughness / max(k, 3), rng.uniform(0.0, 2.0 * np.pi)
        outline += np.float32(strength) * np.cos(np.float32(k) * angle + np.float32(phase))
    ratio = np.hypot(along, across) / (np.float32(size / 2.0) * np.maximum(outline, np.float32(0.2)))
    return np.asarray(np.float32(size / 2.0) * (1.0 - ratio), np.float32)


def edge(depth: Coverage, width: float) -> Coverage:
    """Coverage in [0, 1] from depth in px: a smooth step of `width` px, half way at the outline; width >= 1."""
    t = np.clip(depth / np.float32(width) + np.float32(0.5), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def stroke(
    box: tuple[slice, slice], points: NDArray[np.float64], widths: NDArray[np.float64], strengths: NDArray[np.float64]
) -> Coverage:
    """Coverage in [0, 1] of a line through points n x 2 (y, x) with a width in px and a strength in [0, 1] at each.

    Supersampled 4 times (2 times from 400 px on) and averaged, so that a line of half a pixel has half the tone.
    """
    h, w = box[0].stop - box[0].start, box[1].stop - box[1].start
    fine = 4 if max(h, w) <= 400 else 2
    canvas = np.zeros((h * fine, w * fine), np.uint8)
    local = (points - [box[0].start, box[1].start] + 0.5) * fine
    ahead = np.gradient(local, axis=0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    half = normal * (widths * fine / 2.0)[:, None]
    left, right = local + half, local - half
    for i in range(len(points) - 1):
        quad = np.stack([left[i], left[i + 1], right[i + 1], right[i]])[:, ::-1]
        tone = round(255.0 * float(np.clip((strengths[i] + strengths[i + 1]) / 2.0, 0.0, 1.0)))
        cv2.fillConvexPoly(canvas, np.rint((quad - 0.5) * 16.0).astype(np.int32), tone, shift=4)
    return np.asarray(cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255.0))


def grow(length: float, step: float, bend: float, wobble: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A path n x 2 (y, x) of the given length in px, from the origin in a random direction.

    bend is the largest total turn in degrees, spread evenly (a curve); wobble the random turn per step, of which each
    further step keeps 0.85, so that the path returns to the curve and never curls up.
    """
    from scipy.signal import lfilter  # it imports scipy.stats: a second that judging can do without

    count = max(4, int(np.ceil(length / step)))
    start, total = rng.uniform(0.0, 360.0), rng.uniform(-bend, bend)
    lean = lfilter([1.0], [1.0, -0.85], rng.normal(0.0, max(wobble, 1e-9), count))
    heading = start + np.linspace(0.0, total, count) + lean
    steps = np.stack([np.sin(np.deg2rad(heading)), np.cos(np.deg2rad(heading))], axis=1) * (length / count)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
