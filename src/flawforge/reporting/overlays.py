"""A judged picture, drawn: outlines on the picture at the left, the heat map at the right.

How it is drawn: `flawforge_runtime.drawing`.
"""

from __future__ import annotations

import cv2
import numpy as np

from flawforge.types import ConfigError, Decision, Image, Mask
from flawforge_runtime.drawing import AT_THRESHOLD, COLOURS, MARKED, Drawn, Scale, heat, side_by_side

RING = 0.05  # share of the picture's shorter side; where no mark of a reject is as large, a ring shows where it lies
RINGS = 5  # at most
GAP = 4  # pixels between the two pictures, as `side_by_side` leaves them
LEAST_WIDTH = 640  # pixels of a labelled overlay, so that its words can be read
FONT = cv2.FONT_HERSHEY_SIMPLEX
INK, PAPER = (20, 20, 20), (255, 255, 255)


def overlay(
    pixels: Image, decision: Decision, scale: Scale, mask: Mask | None = None, *, max_side: int | None = None
) -> Drawn:
    """Picture with outlines, and beside it picture with heat map: h' (2 w' + gap) 3 uint8 RGB.

    A picture that is not OK always has a visible mark: where no marked region is as large as RING, rings are drawn.

    pixels    h w 3, uint8 or float32 in [0, 1], the picture that was judged
    decision  its map and marks, h w
    mask      h w bool, the labelled defect; None = not known, nothing is outlined
    max_side  longest side of one of the two in pixels; None = the picture's own size
    Raises ConfigError where the sizes differ.
    """
    size = pixels.shape[:2]
    for name, array in (("map", decision.anomaly_map), ("marks", decision.pred_mask), ("mask", mask)):
        if array is not None and array.shape != size:
            raise ConfigError(f"The {name} is {array.shape} and the picture {size} (h, w); give both at the same size.")
    drawn = side_by_side(pixels, scale.ramp(decision.anomaly_map), decision.pred_mask, mask, max_side=max_side)
    centres = ring_centres(decision)
    if not centres:
        return drawn
    drawn = drawn.copy()
    high, wide = drawn.shape[0], (drawn.shape[1] - GAP) // 2
    radius = max(3, round(RING * min(high, wide)))
    for row, column in centres:
        at = (int((column + 0.5) * wide / size[1]), int((row + 0.5) * high / size[0]))
        left = np.ascontiguousarray(drawn[:, :wide])
        cv2.circle(left, at, radius, MARKED, max(1, min(high, wide) // 150))
        drawn[:, :wide] = left
    return drawn


def ring_centres(decision: Decision) -> list[tuple[int, int]]:
    """(row, column) in the map of the highest marks, where all marks are too small to be seen; else nothing."""
    if decision.verdict == "OK":
        return []
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(decision.pred_mask.astype(np.uint8), connectivity=8)
    least = RING * min(decision.pred_mask.shape)
    if any(max(boxes[region, cv2.CC_STAT_WIDTH], boxes[region, cv2.CC_STAT_HEIGHT]) >= least for region in range(1, count)):
        return []
    if count == 1:
        row, column = np.unravel_index(int(decision.anomaly_map.argmax()), decision.anomaly_map.shape)
        return [(int(row), int(column))]
    if count > 50:  # specks all over the picture: the highest few need no exact order
        count = 51
    peaks = []
    for region in range(1, count):
        place = int(np.where(labels == region, decision.anomaly_map, -np.inf).argmax())
        row, column = np.unravel_index(place, labels.shape)
        peaks.append((float(decision.anomaly_map[row, column]), (int(row), int(column))))
    return [at for _, at in sorted(peaks, key=lambda peak: -peak[0])[:RINGS]]


def labelled(drawn: Drawn, decision: Decision, scale: Scale) -> Drawn:
    """What `overlay` gives, with a line above it and one below, so that it says by itself what it shows.

    Above: verdict, score, limit and p-value, or that it is unlike every good picture. Below: the colours of the heat map,
    and from which value on a pixel is marked. A small picture is enlarged, so that its words can be read.
    """
    factor = -(-LEAST_WIDTH // drawn.shape[1])
    drawn = np.repeat(np.repeat(drawn, factor, axis=0), factor, axis=1)
    width = drawn.shape[1]
    height = max(28, width // 26)
    chip = tuple(int(COLOURS[decision.verdict][at : at + 2], 16) for at in (1, 3, 5))
    head = np.full((height, width, 3), chip, np.uint8)
    _write(head, headline(decision), height // 3, PAPER)
    foot = np.full((height, width, 3), PAPER, np.uint8)
    bar = width // 4
    ramp = np.tile(np.linspace(0, 1, bar, dtype=np.float32), (height // 2, 1))
    grey = np.full((height // 2, bar, 3), 160, np.uint8)
    top, left = height // 4, height // 3
    foot[top : top + height // 2, left : left + bar] = heat(grey, ramp)
    tick = left + round(AT_THRESHOLD * bar)
    foot[top - 2 : top + height // 2 + 2, tick : tick + 2] = INK
    _write(
        foot, f"map: clear up to {scale.low:.3g}, marked above {scale.threshold:.3g} (line)", left + bar + height // 3, INK
    )
    return np.concatenate((head, drawn, foot))


def headline(decision: Decision) -> str:
    """The line above a labelled picture."""
    figures = f"score {decision.pred_score:.4g}, NG above {decision.threshold:.4g}"
    if decision.valid:
        return f"{decision.verdict}   {figures}, p {decision.p_text}"
    return f"{decision.verdict}   unlike every good picture, {figures}"


def _write(strip: Drawn, words: str, left: int, colour: tuple[int, int, int]) -> None:
    """Words on a strip, as large as it allows."""
    height, room = strip.shape[0], strip.shape[1] - left - 4
    size = height / 42
    (width, _), _ = cv2.getTextSize(words, FONT, size, 1)
    size *= min(1.0, room / width)
    thick = max(1, round(size * 1.6))
    (_, tall), _ = cv2.getTextSize(words, FONT, size, thick)
    cv2.putText(strip, words, (left, (height + tall) // 2), FONT, size, colour, thick, cv2.LINE_AA)
