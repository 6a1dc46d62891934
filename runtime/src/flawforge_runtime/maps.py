"""A network's map and what is read from it: the picture's score, the strangest place, marked regions."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime.images import Placement
from flawforge_runtime.types import Image, ImageError, Map, Mask, Region, ScoreRule

SMALLER, OBLONG = 8, 4  # a picture so many times smaller or more oblong than all that were trained on is refused


def refuse_size(
    size: tuple[int, ...], sizes: tuple[tuple[int, int], tuple[int, int]] | None, canvas: tuple[int, int]
) -> None:
    """Raises ImageError for a picture (h, w) that is SMALLER or OBLONG times beyond all of `sizes`, least and greatest."""
    if sizes is None:
        return
    (low_h, low_w), (high_h, high_w) = sizes
    h, w = size
    # What is lost is lost on the canvas, so a picture of the canvas's size is never too small.
    small = h * SMALLER < min(low_h, canvas[0]) or w * SMALLER < min(low_w, canvas[1])
    oblong = h * low_w > OBLONG * high_h * w or w * low_h > OBLONG * high_w * h
    if small or oblong:
        why = f"over {SMALLER} times smaller" if small else f"over {OBLONG} times more oblong"
        raise ImageError(
            f"The picture is {h} x {w} pixels (h x w), {why} than the good ones ({low_h} x {low_w} to "
            f"{high_h} x {high_w}); give whole pictures of the product."
        )


def picture_score(surface: Map, score: float, valid: Mask, rule: ScoreRule) -> tuple[float, tuple[int, int]]:
    """(score, (row, column) of the highest smoothed value), over the valid pixels of a canvas map h w."""
    smoothed = smooth(surface, valid, rule.smooth)
    whole = bool(valid.all())
    inside = smoothed if whole else np.where(valid, smoothed, -np.inf)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    if rule.reduce == "max":
        score = float(inside[row, column])
    elif rule.reduce == "top":
        values = smoothed.ravel() if whole else smoothed[valid]
        kept = max(1, round(rule.top * values.size))
        score = float(np.partition(values, values.size - kept)[-kept:].mean())
    return float(score), (int(row), int(column))


def smooth(surface: Map, valid: Mask, side: int) -> Map:
    """Mean over a `side` x `side` window, of the valid pixels in it only, so that a border never dilutes a defect."""
    if side <= 1:
        return surface
    weight = cv2.blur(valid.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    total = cv2.blur(np.where(valid, surface, 0).astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float32)


def find_regions(anomaly_map: Map, mask: Mask) -> tuple[Region, ...]:
    """Connected marked regions (8 neighbours), the strangest first."""
    marked = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(marked)  # labelling costs much, and most of a picture is unmarked
    if not width:
        return ()
    part = np.s_[top : top + height, left : left + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked[part], connectivity=8)
    found = []
    for label in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[label])
        window = np.s_[y : y + h, x : x + w]
        peak = float(anomaly_map[part][window][labels[window] == label].max())
        found.append(Region(left + x, top + y, w, h, area, peak))
    return tuple(sorted(found, key=lambda region: -region.peak))


def own_pixel(row: int, column: int, placement: Placement) -> tuple[int, int]:
    """The picture's own (row, column) under a canvas pixel."""
    own_row = int((row - placement.top + 0.5) * placement.own_height / placement.height)
    own_column = int((column - placement.left + 0.5) * placement.own_width / placement.width)
    return min(max(own_row, 0), placement.own_height - 1), min(max(own_column, 0), placement.own_width - 1)


def to_network(pixels: Image) -> NDArray[np.float32]:
    """h w 3 uint8 or float32 canvas picture -> 1 3 h w float32 in [0, 1]; training scales by the same rule."""
    scaled = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        scaled *= np.float32(1 / 255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def fit_roi(roi: Mask, size: tuple[int, int]) -> Mask:
    """The region of interest at a picture's own size (h, w). Raises ImageError where the proportions differ by over 2 %."""
    if roi.shape == size:
        return roi
    same_proportions(roi, size)
    return cv2.resize(roi.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def same_proportions(roi: Mask, size: tuple[int, int], name: str = "The region of interest") -> None:
    """Raises ImageError where the region of interest differs from `size` (h, w) by over 2 % in its proportions."""
    if abs(roi.shape[0] * size[1] / (roi.shape[1] * size[0]) - 1) > 0.02:
        raise ImageError(
            f"{name} is {roi.shape[1]} x {roi.shape[0]} pixels and the picture {size[1]} x {size[0]}; "
            "give a mask of the same proportions as the pictures."
        )
