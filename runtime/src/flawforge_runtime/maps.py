"""A picture on the canvas, and what is read from the network's map of it: score, strangest place, marked regions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime import poses
from flawforge_runtime.images import Placement, inner_of, mask_on_canvas, pad, restore, valid_mask
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


@dataclass(frozen=True)
class Judged:
    """The raw judgement of one picture, before any threshold: what calibration collects.

    score        higher = more anomalous
    peak         the highest value of `anomaly_map`, h w at the picture's own size
    at           (row, column) in the picture's own pixels where the score's smoothed map is highest
    notes        what people should know of how it was judged
    unlike       why it is not like any good picture; "" for one that may be
    """

    score: float
    peak: float
    anomaly_map: Map
    at: tuple[int, int]
    notes: tuple[str, ...] = ()
    unlike: str = ""


Step = Callable[[str], AbstractContextManager[None]]


def untimed(name: str) -> AbstractContextManager[None]:
    """A `Step` that does nothing."""
    return NO_CLOCK


NO_CLOCK = nullcontext()


@dataclass(frozen=True)
class Laid:
    """A picture, or a tile of one, as it lies on the canvas H W.

    pixels     H W 3, what the network is given
    placement  where the picture lies
    valid      H W bool, what counts for its score
    inner      (first row, row after the last, first column, column after the last) that the picture covers
    pose       how it was moved to lie like the others; None = it lies as it did
    """

    pixels: Image
    placement: Placement
    valid: Mask
    inner: NDArray[np.float32]
    pose: poses.Pose | None = None

    def own_map(self, anomaly_map: Map) -> Map:
        """A map of the canvas at the picture's own size."""
        if self.pose:
            anomaly_map = poses.back(np.where(self.valid, anomaly_map, anomaly_map[self.valid].min()), self.pose)
        return restore(anomaly_map, self.placement)

    def own_pixel(self, row: int, column: int) -> tuple[int, int]:
        """The picture's own (row, column) under a canvas pixel."""
        own = self.placement
        if self.pose:
            row, column = poses.back_at(row, column, self.pose, own.canvas)
        own_row = int((row - own.top + 0.5) * own.own_height / own.height)
        own_column = int((column - own.left + 0.5) * own.own_width / own.width)
        return min(max(own_row, 0), own.own_height - 1), min(max(own_column, 0), own.own_width - 1)


def lay(pixels: Image, placement: Placement, roi: Mask | None = None, template: poses.Template | None = None) -> Laid:
    """What the network is given, from what `letterbox` gave.

    roi       h w bool at the picture's own proportions, True = judged; None = all of it
    template  what the part is laid like; None = it is judged as it lies
    """
    pose = poses.find(pixels, valid_mask(placement), template) if template is not None else None
    valid = shown(placement, pose)
    inner = inner_of(valid)
    if roi is not None:
        valid &= mask_on_canvas(roi, placement)
    return Laid(posed(pixels, placement, pose), placement, valid, inner, pose)


def posed(pixels: Image, placement: Placement, pose: poses.Pose | None) -> Image:
    """A canvas picture H W 3, moved so that its part lies like the others; the border round it is its own edge again."""
    return pixels if pose is None else pad(np.ascontiguousarray(poses.lay(pixels, pose)[placement.inner]), placement)


def shown(placement: Placement, pose: poses.Pose | None) -> Mask:
    """H W bool: where the canvas shows the picture, once it is moved."""
    valid = valid_mask(placement)
    return valid if pose is None else valid & poses.lay_mask(valid, pose)


def of_another_size(
    size: tuple[int, ...], sizes: tuple[tuple[int, int], tuple[int, int]] | None, canvas: tuple[int, int]
) -> tuple[str, ...]:
    """What is to be said of a picture (h, w) of a size that training never saw."""
    if sizes is None:
        return ()
    ranges = list(zip(*sizes, strict=True))
    if all(low <= own <= high for own, (low, high) in zip(size, ranges, strict=True)):
        return ()
    trained = " x ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
    return (
        f"{size[0]} x {size[1]} pixels (h x w), trained on {trained}: resized onto the canvas "
        f"{canvas[0]} x {canvas[1]}, proportions kept",
    )


def picture_score(anomaly_map: Map, score: float, valid: Mask, rule: ScoreRule) -> tuple[float, tuple[int, int]]:
    """(score, (row, column) of the highest smoothed value), over the valid pixels of a canvas map h w."""
    smoothed = smooth(anomaly_map, valid, rule.smooth)
    whole = bool(valid.all())
    inside = smoothed if whole else np.where(valid, smoothed, -np.inf)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    if rule.reduce == "max":
        score = float(inside[row, column])
    elif rule.reduce == "top":
        values = smoothed.ravel() if whole else smoothed[valid]
        count = max(1, round(rule.top * values.size))
        score = float(np.partition(values, values.size - count)[-count:].mean())
    return float(score), (int(row), int(column))


def smooth(anomaly_map: Map, valid: Mask, side: int) -> Map:
    """Mean over a `side` x `side` window, of the valid pixels in it only, so that a border never dilutes a defect."""
    if side <= 1:
        return anomaly_map
    weight = cv2.blur(valid.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    total = cv2.blur(np.where(valid, anomaly_map, 0).astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float32)


def find_regions(anomaly_map: Map, mask: Mask) -> tuple[Region, ...]:
    """Connected marked regions (8 neighbours), the strangest first."""
    marked = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(marked)  # labelling costs much, and most of a picture is unmarked
    if not width:
        return ()
    part = np.s_[top : top + height, left : left + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked[part], connectivity=8)
    regions = []
    for label in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[label])
        window = np.s_[y : y + h, x : x + w]
        peak = float(anomaly_map[part][window][labels[window] == label].max())
        regions.append(Region(left + x, top + y, w, h, area, peak))
    return tuple(sorted(regions, key=lambda region: -region.peak))


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
