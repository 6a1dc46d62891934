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
from flawforge_runtime.images import read_mask, read_picture, write_image

PICTURE = Path(__file__).resolve().parent / "tour.jpg"
SIDE, NUMBER = 190, 3  # px of one picture; which picture of each kind: chosen once, not by its result
COLOURS = {"OK": (20, 120, 60), "REVIEW": (170, 110, 0), "NG": (190, 20, 60)}


def tour(parts: Path, model: Path) -> Any:
    """h w 3 uint8 RGB: a column for each part, its marks above and its heat map below, its verdict at the foot."""
    inspector = load(model)
    columns = []
    for kind in ("good", *KINDS):
        path = parts / "test" / kind / f"{NUMBER:03d}.png"
        pixels = read_picture(path).pixels
        truth = parts / "ground_truth" / kind / f"{NUMBER:03d}_mask.png"
        mask = read_mask(truth, pixels.shape[:2]) if truth.exists() else None
        decision = inspector(path)
        drawn = overlay(pixels, decision, inspector.calibration.scale, mask, max_side=SIDE)
        words = f"{kind}: {decision.verdict}, score {decision.pred_score:.2f}"
        foot = np.full((26, SIDE, 3), 255, np.uint8)
        cv2.putText(foot, words, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.4, COLOURS[decision.verdict], 1, cv2.LINE_AA)
        columns.append(np.vstack([drawn[:, :SIDE], np.full((4, SIDE, 3), 255, np.uint8), drawn[:, -SIDE:], foot]))
    gap = np.full((columns[0].shape[0], 4, 3), 255, np.uint8)
    return np.hstack([part for column in columns for part in (column, gap)][:-1])


if __name__ == "__main__":
    write_image(PICTURE, tour(Path(sys.argv[1]), Path(sys.argv[2])))
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} KB")
