"""A few plain statistics of a picture, kept with a calibration: what a drift check says has moved.

Models of before version 0.2 have no guard (guard.py); `outside` holds their pictures against these statistics instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from flawforge_runtime.types import Image

LOOKS = {
    "brightness": "mean grey, of 255",
    "sharpness": "mean of |Laplacian|, of 255",
    "horizontal position": "centre of what differs from the frame, % of the width",
    "vertical position": "centre of what differs from the frame, % of the height",
}
HELD = ("brightness", "sharpness")  # what `outside` looks at: a blank or blurred picture has neither


def looks_of(picture: Image) -> dict[str, float]:
    """The statistics named in LOOKS of a picture h w c, uint8 or float32 in [0, 1]; taken at about 256 px."""
    scale = 256.0 / max(picture.shape[:2])
    size = (max(8, round(picture.shape[1] * scale)), max(8, round(picture.shape[0] * scale)))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32).reshape(size[1], size[0], -1)
    grey = small.mean(axis=2) * np.float32(1.0 if picture.dtype == np.uint8 else 255.0)
    frame = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()])
    weight = np.abs(grey - np.median(frame)) + np.float32(1e-3)
    rows, columns = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    values = (
        float(grey.mean()),
        float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()),
        100.0 * float((weight.sum(axis=0) * columns).sum() / weight.sum()) / size[0],
        100.0 * float((weight.sum(axis=1) * rows).sum() / weight.sum()) / size[1],
    )
    return dict(zip(LOOKS, values, strict=True))


def outside(looks: Mapping[str, float], good: Mapping[str, Sequence[float]]) -> str:
    """The first statistic that lies outside the good range by more than its width, as a phrase; "" where none does."""
    for name in HELD:
        values = good.get(name, ())
        if not values:
            continue
        low, high = min(values), max(values)
        slack = max(high - low, 0.1 * abs(high))
        if not low - slack <= looks[name] <= high + slack:
            return f"{name} {looks[name]:.3g}, good pictures {low:.3g} to {high:.3g}"
    return ""
