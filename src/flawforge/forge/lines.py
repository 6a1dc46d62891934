"""Line-shaped defects: the scratch and the crack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from flawforge.forge import blend, measure, shapes
from flawforge.types import Forged, Image, Sample

Range = float | tuple[float, float]
Points = NDArray[np.float64]  # n 2 (y, x)


@dataclass(frozen=True)
class Scratch:
    """A thin, curved, tapered line, as left by a sharp corner: a tone change along a groove, one flank of which is lit.

    size       length in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   tone change at full strength, as share of the full range
    sharpness  1: edges as thin as a pixel; towards 0: blurred by up to the line's own width
    width      px (mm), at most a twelfth of the size, tapered to zero at both ends
    bend       the largest total turn along the line, in degrees
    count      the largest number of lines; further ones are nearly parallel, shorter and fainter, as if dragged
    rim        the far flank of the groove has the opposite tone, at this share of the contrast
    gaps       0: a continuous line; towards 1: the line is interrupted
    tone       "lighter", "darker" or "either"
    mm_per_pixel  None: sizes are px

    All amounts are assumptions. With Sample.prior the line lies where the prior is high, and is cut where the prior ends.
    """

    size: Range = (15.0, 120.0)
    contrast: Range = (0.06, 0.45)
    sharpness: Range = (0.6, 1.0)
    width: Range = (0.8, 3.0)
    bend: float = 35.0
    count: int = 3
    rim: Range = (0.0, 0.6)
    gaps: Range = (0.0, 0.6)
    tone: str = "either"
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "scratch"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel, self.tone)
        measure.check_length(self.name, "width", self.width, 0.3, 64.0, self.mm_per_pixel)
        blend.check_choice(self.name, "count", self.count, tuple(range(1, 21)))
        blend.check_range(self.name, "bend", self.bend, 0.0, 360.0, "degrees", form="number")
        blend.check_range(self.name, "rim", self.rim, 0.0, 1.0)
        blend.check_range(self.name, "gaps", self.gaps, 0.0, 1.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, image.shape[:2], rng)
        width = min(blend.draw(rng, self.width) / (self.mm_per_pixel or 1.0), m.size / 12.0)
        first = shapes.grow(m.size, 2.0, self.bend, 0.6, rng)
        centre = shapes.place(image.shape[:2], sample.prior, rng)
        first = first - first.mean(axis=0) + np.asarray(centre)
        rim, lit = blend.draw(rng, self.rim), rng.uniform(0.0, 2.0 * np.pi)
        aside = np.array([np.sin(lit), np.cos(lit)]) * max(1.0, width * 0.8)
        count = int(rng.integers(1, self.count + 1))
        paths = [first] + [_beside(first, width, rng) for _ in range(count - 1)]
        reach = max(float(np.abs(path - centre).max()) for path in paths)
        box = shapes.window(image.shape[:2], centre, reach + 2.0 * width + 2.0)
        groove = np.zeros((box[0].stop - box[0].start, box[1].stop - box[1].start), np.float32)
        for path in paths:
            at = np.linspace(0.0, 1.0, len(path))
            widths = np.maximum(width * _taper(at, rng), 0.35)
            strength = _contact(at, blend.draw(rng, self.gaps), rng)
            strength = strength * (1.0 if path is first else float(rng.uniform(0.3, 0.9)))
            line = shapes.stroke(box, path, widths, strength)
            if rim > 0.0:
                line = line - np.float32(rim) * shapes.stroke(box, path + aside, widths, strength) * (1.0 - line)
            groove = np.where(np.abs(line) > np.abs(groove), line, groove)
        blur = (1.0 - m.sharpness) * width
        groove = measure.on_part(sample.prior, box, groove)
        candidate, mask, sign = measure.tone(image, box, groove, m.contrast, self.tone, blur, rng)
        drawn = {**m.drawn, "width": width * (self.mm_per_pixel or 1.0), "centre": list(centre), "sign": sign, "rim": rim}
        return candidate, mask, drawn


def _beside(first: Points, width: float, rng: np.random.Generator) -> Points:
    """A part of the line, 3 to 12 widths to its side, at up to 5 degrees to it."""
    length = max(4, int(len(first) * rng.uniform(0.3, 0.9)))
    start = int(rng.integers(0, len(first) - length + 1))
    piece = first[start : start + length]
    ahead = piece[-1] - piece[0]
    normal = np.array([-ahead[1], ahead[0]]) / max(float(np.linalg.norm(ahead)), 1e-9)
    turn = np.deg2rad(rng.uniform(-5.0, 5.0))
    c, s = np.cos(turn), np.sin(turn)
    middle = piece.mean(axis=0)
    side = rng.uniform(3.0, 12.0) * width * (1.0 if rng.random() < 0.5 else -1.0)
    return np.asarray((piece - middle) @ np.array([[c, -s], [s, c]]) + middle + normal * side)


def _taper(at: Points, rng: np.random.Generator) -> Points:
    """Width along the line in [0, 1]: thin at both ends, thickest at a random place, as a stroke that lands and lifts."""
    peak = float(rng.uniform(0.15, 0.85))
    rise = np.minimum(at / peak, (1.0 - at) / (1.0 - peak))
    return np.asarray(np.clip(rise, 0.0, 1.0) ** 0.7)


def _contact(at: Points, gaps: float, rng: np.random.Generator) -> Points:
    """Strength in [0, 1] along the line: 1 minus slow random waves of depth `gaps`."""
    waves = sum(np.sin(2.0 * np.pi * (k * at + rng.random())) / k for k in range(1, 6))
    level = np.asarray(waves, np.float64)
    level = (level - level.min()) / max(float(level.max() - level.min()), 1e-9)
    return np.asarray(1.0 - gaps * level)


@dataclass(frozen=True)
class Crack:
    """A branching random walk, thin and jagged, by default darker than its surroundings.

    size       length of the main line in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   tone change in the line's middle, as share of the full range
    sharpness  1: edges as thin as a pixel; towards 0: blurred by up to the line's own width
    width      px (mm) at the root, thinner towards the tips
    jag        standard deviation of the turn per step of 2 px, in degrees
    branches   the largest number of side lines, each 0.2 to 0.6 of its parent's length; they may branch again
    tone       "darker", "lighter" or "either"
    mm_per_pixel  None: sizes are px

    All amounts are assumptions. With Sample.prior the crack lies where the prior is high, and is cut where the prior ends.
    """

    size: Range = (20.0, 140.0)
    contrast: Range = (0.08, 0.45)
    sharpness: Range = (0.7, 1.0)
    width: Range = (0.5, 1.8)
    jag: float = 18.0
    branches: int = 4
    tone: str = "darker"
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "crack"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel, self.tone)
        measure.check_length(self.name, "width", self.width, 0.3, 64.0, self.mm_per_pixel)
        blend.check_range(self.name, "jag", self.jag, 0.0, 60.0, "degrees per step", form="number")
        blend.check_choice(self.name, "branches", self.branches, tuple(range(21)))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image: Image = sample.image
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, image.shape[:2], rng)
        width = blend.draw(rng, self.width) / (self.mm_per_pixel or 1.0)
        centre = shapes.place(image.shape[:2], sample.prior, rng)
        main = shapes.grow(m.size, 2.0, 40.0, self.jag, rng)
        lines = [(main - main.mean(axis=0) + np.asarray(centre), width)]
        for _ in range(int(rng.integers(0, self.branches + 1))):
            lines.append(self._branch(lines[int(rng.integers(len(lines)))], rng))
        reach = max(float(np.abs(path - centre).max()) for path, _ in lines)
        box = shapes.window(image.shape[:2], centre, reach + 2.0 * width + 2.0)
        cover = np.zeros((box[0].stop - box[0].start, box[1].stop - box[1].start), np.float32)
        for path, thick in lines:
            at = np.linspace(1.0, 0.15, len(path)) * np.exp(rng.normal(0.0, 0.25, len(path)))
            drawn_line = shapes.stroke(box, path, np.maximum(thick * at, 0.35), np.ones(len(path)))
            cover = np.maximum(cover, drawn_line)
        blur = (1.0 - m.sharpness) * width
        cover = measure.on_part(sample.prior, box, cover)
        candidate, mask, sign = measure.tone(image, box, cover, m.contrast, self.tone, blur, rng)
        drawn = {**m.drawn, "width": width * (self.mm_per_pixel or 1.0), "centre": list(centre), "sign": sign}
        return candidate, mask, {**drawn, "branches": len(lines) - 1}

    def _branch(self, parent: tuple[Points, float], rng: np.random.Generator) -> tuple[Points, float]:
        """A side line that leaves its parent at 20 to 70 degrees, thinner than it."""
        path, width = parent
        root = int(rng.integers(1, max(2, len(path) - 2)))
        ahead = path[root] - path[root - 1]
        aside = float(rng.uniform(20.0, 70.0)) * (1.0 if rng.random() < 0.5 else -1.0)
        length = float(rng.uniform(0.2, 0.6)) * 2.0 * len(path)
        grown = shapes.grow(length, 2.0, 20.0, self.jag, rng)
        first = grown[1] - grown[0]
        turn = np.arctan2(ahead[0], ahead[1]) + np.deg2rad(aside) - np.arctan2(first[0], first[1])
        c, s = np.cos(turn), np.sin(turn)
        return path[root] + grown @ np.array([[c, -s], [s, c]]), width * float(rng.uniform(0.5, 0.8))
