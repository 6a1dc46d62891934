"""Where the product lies, from good pictures alone: what --roi auto judges, so that clutter beside the part raises no score.

Assumptions, all ours: the part stands out from the colours at the frame of the pictures, lies inside the frame, and is the
largest thing there. Where good pictures do not bear this out, no mask is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from flawforge.pictures.saliency import background_of, foreground
from flawforge_runtime.types import ConfigError, Image, Mask

SIDE = 256  # px of the longer side that is looked at
SMALLEST, LARGEST = 0.03, 0.9  # share of the picture that a product may fill
FRAME = 0.35  # share of the frame that it may touch
AGREE = 0.9  # share of the good pictures in which such a product must be found
RARE = 0.2  # share of the frames' pixels below which a colour is no background
MARGIN = 0.04  # of the shorter side: what a part may lie beside where any good one lay
ADVICE = "leave out --roi, or give a mask picture that is white where to judge"


def part_mask(marked: Mask) -> Mask | None:
    """The largest connected piece of the foreground h w, and others of a fifth of its size, filled; None = no part."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = np.isin(labels, 1 + np.flatnonzero(areas >= areas.max() / 5))
    outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(marked.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    part = filled > 0
    frame = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    return part if SMALLEST <= part.mean() <= LARGEST and frame.mean() <= FRAME else None


def product_mask(pictures: Sequence[Image]) -> Mask:
    """h w bool at the first picture's size: wherever some good part lies, and a margin round it.

    pictures  good ones, h w c, of the same proportions
    Raises ConfigError where they show no product that stands out from its background.
    """
    background = background_of(pictures, least=RARE)
    parts = []
    for picture in pictures:
        h, w = picture.shape[:2]
        scale = min(1.0, SIDE / max(h, w))
        small = cv2.resize(picture, (max(1, round(w * scale)), max(1, round(h * scale))), interpolation=cv2.INTER_AREA)
        part = part_mask(foreground(small.reshape(*small.shape[:2], -1), background) > 0.5)
        if part is not None:
            parts.append(part)
    if len(parts) < AGREE * len(pictures):
        raise ConfigError(
            f"--roi auto was given, and only {len(parts)} of {len(pictures)} good pictures show a part that stands out from "
            f"its background inside the frame; {ADVICE}."
        )
    h, w = parts[0].shape
    alike = [cv2.resize(part.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) for part in parts]
    union = np.max(alike, axis=0)
    reach = 2 * max(1, round(MARGIN * min(h, w))) + 1
    wide = cv2.dilate(union, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    size = pictures[0].shape[1], pictures[0].shape[0]
    return np.asarray(cv2.resize(wide, size, interpolation=cv2.INTER_NEAREST) > 0)
