"""A sheet of the good pictures that look least like the others: defective parts among good ones are seen at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from flawforge.reporting.close_ups import own_ramp
from flawforge.types import Decision, Image
from flawforge_runtime.drawing import Drawn, side_by_side

FILE = "most_anomalous_good.jpg"  # in the model folder
MOST, COLUMNS = 8, 2
SIDE, GAP, HEAD, CAPTION = 260, 10, 44, 22  # px
INK = (20, 20, 20)


def good_sheet(judged: Sequence[tuple[str, Image, Decision]], title: str) -> Drawn:
    """Each picture beside its anomaly map, with its caption, two in a row: h w 3 uint8 RGB.

    judged  (caption, picture h w 3 uint8 or float32 in [0, 1], what the model says of it), one or more, in order. Each map
            has colours of its own, so that the place shows even where nothing is marked
    """
    tiles = [_tile(*row) for row in judged]
    high, wide = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width = max(columns * (wide + GAP) + GAP, 640)
    sheet = np.full((HEAD + rows * (high + GAP) + GAP, width, 3), 255, np.uint8)
    _write(sheet, title, (GAP, 20), 0.5)
    _write(sheet, "left: picture, outlined where marked; right: anomaly map, each on its own scale", (GAP, 38), 0.4)
    for place, tile in enumerate(tiles):
        top, left = HEAD + place // columns * (high + GAP), GAP + place % columns * (wide + GAP)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def _tile(caption: str, pixels: Image, decision: Decision) -> Drawn:
    drawn = side_by_side(pixels, own_ramp(decision.anomaly_map), decision.pred_mask, max_side=SIDE)
    below = np.full((CAPTION, drawn.shape[1], 3), 255, np.uint8)
    _write(below, caption, (1, 15), 0.4)
    return np.concatenate([drawn, below], axis=0)


def _write(canvas: Drawn, text: str, at: tuple[int, int], size: float) -> None:
    ascii_only = text.encode("ascii", "replace").decode()  # OpenCV's letters know no others
    cv2.putText(canvas, ascii_only, at, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
