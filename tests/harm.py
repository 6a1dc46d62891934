"""Pictures that no camera in order gives: a share of rows or columns lost, frozen, flooded or of another product."""

from __future__ import annotations

import cv2
import numpy as np


def harmed(
    picture: np.ndarray, kind: str, share: float, axis: int, rng: np.random.Generator, other: np.ndarray | None = None
) -> np.ndarray:
    """A share of the rows (axis 0) or columns replaced; `other` is another product's picture, None = drawn cloth."""
    made = np.ascontiguousarray(picture.swapaxes(0, axis)).copy()
    length = len(made)
    count = max(1, round(share * length))
    top = int(rng.integers(length - count + 1))
    part = np.s_[top : top + count]
    if kind == "constant":
        made[part] = rng.integers(256)
    elif kind == "gradient":
        made[part] = np.linspace(0, 255, made.shape[1], dtype=np.uint8)[None, :, None]
    elif kind == "copy of the neighbour":
        made[part] = made[max(top - 1, 0)]
    elif kind == "noise":
        made[part] = rng.integers(0, 256, made[part].shape)
    elif kind == "another product":
        made[part] = cv2.resize(foreign() if other is None else other, made.shape[1::-1])[part]
    return np.ascontiguousarray(made.swapaxes(0, axis))


def foreign() -> np.ndarray:
    """Woven cloth, drawn."""
    y, x = np.mgrid[0:128, 0:128]
    weave = 120 + 50 * np.sin(x / 2.5) * np.sign(np.sin(y / 5)) + 40 * np.sin(y / 2.5) * np.sign(np.cos(x / 5))
    return np.dstack([weave * 0.9, weave, weave * 0.7]).clip(0, 255).astype(np.uint8)


KINDS = ("constant", "gradient", "copy of the neighbour", "noise", "another product")
