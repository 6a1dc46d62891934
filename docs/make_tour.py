"""Draw docs/tour.jpg: one good washer of the demo and one of each kind of damage, as a model judges them.

flawforge demo -o demo
python docs/make_tour.py demo/parts demo/model
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawforge.demo.washers import KINDS
from flawforge.judging.loading import load
from flawforge.reporting.overlays import overlay
from flawforge_runtime.drawing import DEFECT, MARKED
from flawforge_runtime.images import read_mask, read_picture, write_image

PICTURE = Path(__file__).resolve().parent / "tour.jpg"
SIDE, NUMBER = 190, 3  # px of one picture; which picture of each kind: chosen once, not by its result
FONT, SIZE, BLACK = cv2.FONT_HERSHEY_SIMPLEX, 0.46, (30, 30, 30)
COLOURS = {"OK": (20, 120, 60), "REVIEW": (170, 110, 0), "NG": (190, 20, 60)}


def tour(parts: Path, model: Path) -> Any:
    """h w 3 uint8 RGB: a column for each part with its marks, heat map and verdict, and a legend below all."""
    inspector = load(model)
    columns = []
    for kind in ("good", *KINDS):
        path = parts / "test" / kind / f"{NUMBER:03d}.png"
        pixels = read_picture(path).pixels
        truth = parts / "ground_truth" / kind / f"{NUMBER:03d}_mask.png"
        mask = read_mask(truth, pixels.shape[:2]) if truth.exists() else None
        decision = inspector(path)
        drawn = overlay(pixels, decision, inspector.calibration.scale, mask, max_side=SIDE)
        foot = np.full((44, SIDE, 3), 255, np.uint8)
        write(foot, kind, (4, 17), BLACK)
        write(foot, f"{decision.verdict}, score {decision.pred_score:.2f}", (4, 36), COLOURS[decision.verdict])
        columns.append(np.vstack([drawn[:, :SIDE], np.full((4, SIDE, 3), 255, np.uint8), drawn[:, -SIDE:], foot]))
    gap = np.full((columns[0].shape[0], 4, 3), 255, np.uint8)
    rows = np.hstack([part for column in columns for part in (column, gap)][:-1])
    return np.vstack([rows, legend(rows.shape[1], inspector.calibration.threshold)])


def legend(width: int, limit: float) -> Any:
    """34 width 3 uint8 RGB: what the colours mean."""
    strip = np.full((34, width, 3), 255, np.uint8)
    place = 4
    for colour, words in (
        (MARKED, "found by the model"),
        (DEFECT, "labelled defect"),
        (None, f"Below: the heat map. Rejected (NG) above a score of {limit:.2f}."),
    ):
        if colour is not None:
            cv2.rectangle(strip, (place, 10), (place + 22, 24), colour, 2)
            place += 30
        write(strip, words, (place, 22), BLACK)
        place += cv2.getTextSize(words, FONT, SIZE, 1)[0][0] + 28
    return strip


def write(picture: Any, words: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, words, at, FONT, SIZE, colour, 1, cv2.LINE_AA)


if __name__ == "__main__":
    write_image(PICTURE, tour(Path(sys.argv[1]), Path(sys.argv[2])))
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} KB")
