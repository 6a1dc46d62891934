"""Near-duplicate pictures: burst shots and exposures of one part, which must not cross the hold-out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import Image

SIDE = 64
THRESHOLD = 0.8


def thumbnail(pixels: Image) -> NDArray[np.float32]:
    """h w 3 uint8 or float32 -> SIDE SIDE float32 grey in [0, 1], whatever the proportions."""
    grey = cv2.cvtColor(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return np.asarray(grey / np.float32(255.0) if grey.dtype == np.uint8 else grey, dtype=np.float32)


def near_duplicates(thumbnails: NDArray[np.float32], threshold: float = THRESHOLD) -> list[list[int]]:
    """n SIDE SIDE thumbnails -> groups of two or more indices, each sorted, in order of their first member."""
    count = len(thumbnails)
    marks = np.stack([_marks(t) for t in thumbnails]).reshape(count, -1) if count else np.zeros((0, 1), np.float32)
    if count >= 8:
        marks = marks - marks.mean(axis=0)
    marks = marks / np.maximum(np.linalg.norm(marks, axis=1, keepdims=True), 1e-6)
    pairs: list[tuple[int, int]] = []
    for start in range(0, count, 1024):
        rows, columns = np.nonzero(marks[start : start + 1024] @ marks.T > threshold)
        pairs += [(start + int(r), int(c)) for r, c in zip(rows, columns, strict=True) if start + r < c]
    return join(count, pairs)


def join(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The connected groups of two or more among 0 .. count-1 (union-find)."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(root(index), []).append(index)
    return [members for members in groups.values() if len(members) > 1]


def _marks(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """High-pass and local contrast normalisation: what is left once light and contrast are taken away."""
    high = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 4.0)
    spread = np.sqrt(cv2.GaussianBlur(high * high, (0, 0), 6.0))
    return np.asarray(high / (spread + 0.005), dtype=np.float32)
