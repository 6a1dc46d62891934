"""A judged picture for the report: large with its outlines, and close up with its map on two scales.

Drawn at the size at which it is shown, so that an outline stays beside the defect and never covers it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import ConfigError, Decision, Image, Map, Mask
from flawforge_runtime.drawing import DEFECT, MARKED, Drawn, Scale, heat, outline

PANEL = 220  # px, the side of one of the six pictures of `close_up`
LARGE = 440  # px, the longer side of `large`
GAP = 6
GREY = 127  # between and around the pictures; it is seen on white and on black pages
LEAST = 32  # px of the picture, the smallest close-up
RING = 0.05  # share of the longer side; what is outlined and smaller gets a ring of twice this, so that it is found


def large(pixels: Image, decision: Decision, mask: Mask | None = None, *, side: int = LARGE) -> Drawn:
    """The picture with outlines: pink what the model marks, cyan the labelled defect; the longer side is `side` px.

    pixels  h w 3, uint8 or float32 in [0, 1]; mask: h w bool, None = not known. A small region also gets a ring.
    """
    drawn = _outlined(_scaled(_as_uint8(pixels), side), decision.pred_mask, mask)
    for regions, colour in ((decision.pred_mask, MARKED), (mask, DEFECT)):
        if regions is not None:
            _ring(drawn, regions, colour)
    return drawn


def close_up(pixels: Image, decision: Decision, scale: Scale, mask: Mask | None = None, *, side: int = PANEL) -> Drawn:
    """Six square pictures in two columns, with grey gaps: (3 side + 2 GAP) (2 side + GAP) 3 uint8 RGB.

        the whole picture with outlines, the close-up framed | its anomaly map, on the model's colour scale
        close-up                                             | the same with outlines
        close-up of the map, on the model's colour scale     | the same, on the picture's own: its range fills the colours

    pixels, mask  as in `large`; the close-up is of the defect, of what is marked, or of the map's highest place
    Raises ConfigError where picture, map and mask differ in size.
    """
    for array in (decision.anomaly_map, decision.pred_mask, *(() if mask is None else (mask,))):
        if array.shape != pixels.shape[:2]:
            sizes = f"{array.shape} and the picture {pixels.shape[:2]}"
            raise ConfigError(f"A map or mask is {sizes} (h, w); give both at the same size.")
    whole = _as_uint8(pixels)
    top, left, size = window(decision.anomaly_map, decision.pred_mask, mask)
    part = np.s_[top : top + size, left : left + size]
    common, own = scale.ramp(decision.anomaly_map), own_ramp(decision.anomaly_map)
    small, crop = _scaled(whole, side), _scaled(whole[part], side)
    framed = _outlined(small, decision.pred_mask, mask)
    factor = max(small.shape[:2]) / max(whole.shape[:2])
    corners = [(round(x * factor), round(y * factor)) for x, y in ((left, top), (left + size, top + size))]
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.rectangle(framed, corners[0], (corners[1][0] - 1, corners[1][1] - 1), colour, thick)
    panels = [
        framed,
        heat(small, _scaled(common, side)),
        crop,
        _outlined(crop, decision.pred_mask[part], None if mask is None else mask[part]),
        heat(crop, _scaled(common[part], side)),
        heat(crop, _scaled(own[part], side)),
    ]
    squares = [_square(panel, side) for panel in panels]
    between = np.full((side, GAP, 3), GREY, np.uint8)
    rows = [np.concatenate((squares[i], between, squares[i + 1]), axis=1) for i in (0, 2, 4)]
    below = np.full((GAP, rows[0].shape[1], 3), GREY, np.uint8)
    return np.concatenate((rows[0], below, rows[1], below, rows[2]), axis=0)


def window(values: Map, marks: Mask, mask: Mask | None) -> tuple[int, int, int]:
    """(top, left, side) of the square to look at closely, inside the picture.

    Around the largest labelled region, else the marked region with the highest map value, else the map's highest place;
    twice as large as what it shows, and not below LEAST px or an eighth of the picture's shorter side.
    """
    height, width = values.shape
    if mask is not None and mask.any():
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        about = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    else:
        peak = np.unravel_index(int(np.where(marks, values, values.min() - 1.0).argmax()), values.shape)
        _, labels = cv2.connectedComponents(marks.astype(np.uint8))
        about = labels == labels[peak] if marks.any() else np.zeros(values.shape, bool)
        if not marks.any():
            about[np.unravel_index(int(values.argmax()), values.shape)] = True
    x, y, wide, high = cv2.boundingRect(about.astype(np.uint8))
    side = min(max(2 * max(wide, high), LEAST, min(height, width) // 8), height, width)
    top = min(max(y + high // 2 - side // 2, 0), height - side)
    left = min(max(x + wide // 2 - side // 2, 0), width - side)
    return top, left, side


def own_ramp(values: Map) -> NDArray[np.float32]:
    """h w map -> h w in [0, 1]: 0 at its lowest value, 1 at its highest; 0 everywhere for a flat map."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low), np.float32) if high > low else np.zeros(values.shape, np.float32)


def _outlined(drawn: Drawn, marks: Mask, mask: Mask | None) -> Drawn:
    """Outlines of regions h w on a picture drawn at another size; a region never vanishes where it is shrunk."""
    for regions, colour in ((marks, MARKED), (mask, DEFECT)):
        if regions is not None:
            drawn = outline(drawn, _resized(regions.astype(np.float32), drawn.shape[:2]) > 0, colour)
    return drawn


def _ring(drawn: Drawn, regions: Mask, colour: tuple[int, int, int]) -> None:
    longest = max(drawn.shape[:2])
    factor = longest / max(regions.shape)
    _, _, stats, _ = cv2.connectedComponentsWithStats(regions.astype(np.uint8))
    for x, y, wide, high, _ in stats[1:].tolist():
        if max(wide, high) * factor < RING * longest:
            middle = (round((x + wide / 2) * factor), round((y + high / 2) * factor))
            cv2.circle(drawn, middle, round(RING * longest), colour, 2, cv2.LINE_AA)


def _scaled(array: NDArray[Any], side: int) -> NDArray[Any]:
    """h w or h w 3 at a longer side of `side` px."""
    height, width = array.shape[:2]
    factor = side / max(height, width)
    return _resized(array, (max(1, round(height * factor)), max(1, round(width * factor))))


def _resized(array: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    if array.shape[:2] == size[:2]:
        return array.copy()
    larger = size[0] > array.shape[0]
    return np.asarray(cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_NEAREST if larger else cv2.INTER_AREA))


def _square(drawn: Drawn, side: int) -> Drawn:
    """In the middle of a grey square."""
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - drawn.shape[0]) // 2, (side - drawn.shape[1]) // 2
    square[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return square


def _as_uint8(pixels: NDArray[Any]) -> Drawn:
    return pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
