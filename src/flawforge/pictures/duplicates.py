"""Near-duplicate pictures: burst shots and exposures of one part, which must not cross the hold-out.

Good parts look alike, so likeness alone says nothing. What counts is what is individual: each picture becomes a small grey
thumbnail, light and contrast are taken away (band-pass, local contrast normalisation), and so is the mean over all
pictures, which is what every part shares. Two pictures belong together where the cosine of what is left is at least
THRESHOLD at the best of the small shifts tried.

A product that repeats itself (a grid, a weave) looks alike in all its pictures wherever it is cut, and nothing is left that
is individual. So where most pictures would be one group, only more likeness counts, and at the end none.

Assumptions of ours, measured on MVTec bottle (aligned parts, two pairs of shots of one bottle) and magnetic tiles (six
exposures of each tile): the numbers below and the band. Limits: if *all* pictures show one part, their mean is that part
and no group is found; and where parts differ by a few grey levels only, shots of one part must lie within a pixel or two,
because the common picture, displaced, then outweighs what is individual.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import Image

SIDE = 64  # pixels of the thumbnail
SHIFT = 2  # thumbnail pixels tried in each direction: 3 % of the picture's side
THRESHOLD = 0.85  # the share of the individual pattern that two shots of one part have in common
STRICTER = (0.9, 0.95, 0.98)  # tried in turn while one group holds more than half of the pictures (assumption)
COARSE = 0.5  # pairs below this on a grid of 16 x 16, which hardly feels a shift, are not looked at closely
FAINT = 0.001  # of full range: weaker structure than this is quantisation, not surface
BLOCK = 1024  # rows compared at once, so that ten thousand pictures take 40 MB, not 400

Marks = NDArray[np.float32]


def thumbnail(pixels: Image) -> NDArray[np.float32]:
    """h w 3 uint8 or float32 -> SIDE SIDE float32 grey in [0, 1], whatever the proportions."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey / np.float32(255.0) if grey.dtype == np.uint8 else grey, dtype=np.float32)


def near_duplicates(thumbnails: Sequence[NDArray[np.float32]]) -> tuple[list[list[int]], float | None]:
    """Thumbnails -> (groups, the likeness they have): two or more indices each, sorted, in the order of their first members.

    The likeness is THRESHOLD, or one of STRICTER, or None where even the strictest would put most pictures into one group:
    then there are no groups. With fewer than three pictures there is nothing to tell common from individual: no groups.
    """
    count = len(thumbnails)
    if count < 3:
        return [], THRESHOLD
    marks = np.stack([_marks(grey) for grey in thumbnails])
    marks -= marks.mean(axis=0)
    pairs: list[tuple[int, int]] = []
    likeness: list[float] = []
    for first, seconds in _candidates(marks):
        alike = _likeness(marks[first], marks[seconds])
        near = alike >= THRESHOLD
        pairs += [(first, int(second)) for second in seconds[near]]
        likeness += alike[near].tolist()
    for least in (THRESHOLD, *STRICTER):
        groups = join(count, [pair for pair, alike in zip(pairs, likeness, strict=True) if alike >= least])
        if 2 * max(map(len, groups), default=0) <= count:
            return groups, least
    return [], None


def join(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The connected groups of two or more among 0 .. count-1, each sorted, in the order of their first members."""
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


def _marks(grey: NDArray[np.float32]) -> Marks:
    """SIDE SIDE grey -> the same without light and contrast: a band-pass, divided by its own local spread."""
    band = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 4.0)
    spread = np.sqrt(cv2.GaussianBlur(band * band, (0, 0), 6.0))
    floor = max(0.2 * float(band.std()), FAINT)  # flat places must not become pure noise
    return np.asarray(band / (spread + floor), dtype=np.float32)


def _candidates(marks: Marks) -> list[tuple[int, NDArray[np.intp]]]:
    """(first, all seconds > first that might be alike), by cosine on a 16 x 16 grid, block by block."""
    count = len(marks)
    coarse = marks.reshape(count, 16, SIDE // 16, 16, SIDE // 16).mean(axis=(2, 4)).reshape(count, -1)
    coarse /= _length(coarse)
    pairs = []
    for start in range(0, count, BLOCK):
        alike = coarse[start : start + BLOCK] @ coarse[start:].T >= COARSE
        for row in range(len(alike)):
            seconds = start + row + 1 + np.nonzero(alike[row, row + 1 :])[0]
            if len(seconds):
                pairs.append((start + row, seconds))
    return pairs


def _likeness(first: Marks, seconds: Marks) -> NDArray[np.float32]:
    """The cosine of one picture's marks with each of n others', the highest over all shifts up to SHIFT."""
    size = SIDE - 2 * SHIFT
    centre = seconds[:, SHIFT : SHIFT + size, SHIFT : SHIFT + size].reshape(len(seconds), -1)
    steps = range(2 * SHIFT + 1)
    shifted = np.stack([first[y : y + size, x : x + size].ravel() for y in steps for x in steps])
    cosines = (centre / _length(centre)) @ (shifted / _length(shifted)).T
    return np.asarray(cosines.max(axis=1))


def _length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each row, at least 1: a picture with next to nothing individual is like no other."""
    return np.asarray(np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0), dtype=np.float32)
