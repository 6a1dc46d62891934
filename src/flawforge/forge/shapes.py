"""Outlines: where a forgery lies, as masks h w bool or as soft coverage h w float32 in [0, 1]."""

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
    """Corners 4 x 2 (x, y) of a box of size (width, height) about centre (x, y), turned by degrees."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64) * np.asarray(size) / 2.0
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return half @ np.array([[c, s], [-s, c]]) + np.asarray(centre)


def box_inside(
    shape: tuple[int, int], rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int]:
    """A box (height, width) in pixels: area as share of the picture, aspect = height / width drawn evenly in its
    logarithm (the reading of two public CutPaste codes; the paper leaves it open). At least 2 x 2, at most the picture."""
    h, w = shape
    pixels = rng.uniform(*area) * h * w
    ratio = float(np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1]))))
    height = int(np.clip(round(float(np.sqrt(pixels * ratio))), 2, h))
    width = int(np.clip(round(float(np.sqrt(pixels / ratio))), 2, w))
    return height, width


def corner_for(shape: tuple[int, int], box: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """A uniform top-left corner (y, x) such that the box lies inside the picture."""
    return int(rng.integers(0, shape[0] - box[0] + 1)), int(rng.integers(0, shape[1] - box[1] + 1))
