"""Roundish defects on the surface: the stain, the dent, the particle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from flawforge.forge import blend, measure, noise, shapes
from flawforge.types import Forged, Sample

Range = float | tuple[float, float]


@dataclass(frozen=True)
class Stain:
    """A smooth change of tone with an irregular outline: oil, water, discolouration. The surface's texture shows through.

    size       mean diameter in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   tone change in the middle, as share of the full range
    sharpness  1: an edge of one pixel; 0: it fades over the whole radius
    clouds     0: uniform inside; towards 1: cloudy
    ring       the outline is stronger than the middle by this share (a coffee ring), times the sharpness
    tint       colour pictures: channels differ by up to this share; grey pictures stay grey
    tone       "darker", "lighter" or "either"
    mm_per_pixel  None: sizes are px

    All amounts are assumptions. With Sample.prior the stain lies where the prior is high, and is cut where the prior ends.
    """

    size: Range = (12.0, 80.0)
    contrast: Range = (0.05, 0.3)
    sharpness: Range = (0.0, 0.9)
    clouds: Range = (0.0, 0.6)
    ring: Range = (0.0, 0.6)
    tint: float = 0.4
    tone: str = "either"
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "stain"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel, self.tone)
        blend.check_range(self.name, "clouds", self.clouds, 0.0, 1.0)
        blend.check_range(self.name, "ring", self.ring, 0.0, 1.0)
        blend.check_range(self.name, "tint", self.tint, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, image.shape[:2], rng)
        centre = shapes.place(image.shape[:2], sample.prior, rng)
        box = shapes.window(image.shape[:2], centre, m.size)
        aspect = float(rng.uniform(1.0, 2.0))
        depth = shapes.blob(box, centre, m.size, rng, roughness=0.5, aspect=aspect)
        fade = 1.0 + (1.0 - m.sharpness) * m.size / 2.0
        cover = shapes.edge(depth - np.float32(fade / 2.0 - 0.5), fade)
        ring = blend.draw(rng, self.ring) * m.sharpness
        if ring > 0.0:
            crest = np.exp(-np.square((depth - np.float32(0.07 * m.size)) / np.float32(0.06 * m.size + 1.0)))
            cover = cover * (1.0 - np.float32(ring) * (1.0 - crest))
        clouds = blend.draw(rng, self.clouds)
        if clouds > 0.0:
            cover = cover * (1.0 - np.float32(clouds) * noise.octaves(depth.shape, rng, cells=3, count=2))
        cover = measure.on_part(sample.prior, box, np.asarray(cover / max(float(cover.max()), 1e-6), np.float32))
        tint = np.ones(image.shape[2])
        if not blend.is_grey(image):
            tint = 1.0 - rng.uniform(0.0, self.tint, 3)
        candidate, mask, sign = measure.tone(image, box, cover, m.contrast, self.tone, 0.0, rng, tint)
        drawn = {**m.drawn, "centre": list(centre), "aspect": aspect, "sign": sign, "ring": ring, "clouds": clouds}
        return candidate, mask, {**drawn, "tint": tint.tolist()}


@dataclass(frozen=True)
class Dent:
    """A dent's shading: a height field lit from one side is lighter on one flank and darker on the other.

    size       diameter in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   tone change on the steepest flank, as share of the full range
    sharpness  0: a soft Gaussian hollow; 1: a flat floor with a steep wall
    light      direction that the light comes from in degrees (0 = right, 90 = top); None: any
    raised     share of bumps among the dents
    mm_per_pixel  None: sizes are px

    Lambert's law for small slopes: the change is proportional to the slope along the light's direction. Where that is almost
    zero inside the outline (the floor, and the line between the flanks) the tone falls by 1.5 times `least_change`, so that
    the mask is the whole dent. All amounts are assumptions. With Sample.prior the dent lies where the prior is high, and is
    cut where the prior ends.
    """

    size: Range = (10.0, 60.0)
    contrast: Range = (0.05, 0.35)
    sharpness: Range = (0.0, 0.8)
    light: float | None = None
    raised: float = 0.3
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "dent"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel)
        if self.light is not None:
            blend.check_range(self.name, "light", self.light, -360.0, 360.0, "degrees", form="number")
        blend.check_range(self.name, "raised", self.raised, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, image.shape[:2], rng)
        centre = shapes.place(image.shape[:2], sample.prior, rng)
        box = shapes.window(image.shape[:2], centre, m.size)
        radius = m.size / 2.0
        depth = shapes.blob(box, centre, m.size, rng, roughness=0.2, aspect=float(rng.uniform(1.0, 1.6)))
        from_middle = np.maximum(1.0 - depth / np.float32(radius), 0.0)
        order = 2.0 + 6.0 * m.sharpness
        height = np.exp(-np.float32(np.log(50.0)) * from_middle ** np.float32(order))
        angle = np.deg2rad(float(rng.uniform(0.0, 360.0)) if self.light is None else self.light)
        slope_y, slope_x = np.gradient(height)
        shade = np.asarray(slope_x * np.cos(angle) - slope_y * np.sin(angle), np.float32)
        if rng.random() < self.raised:
            shade = -shade
        shade = shade / np.float32(max(float(np.abs(shade).max()), 1e-6))
        under = blend.to_unit(image[box])
        change = measure.on_part(sample.prior, box, np.float32(m.contrast) * shade)
        least = np.float32(1.5 * self.least_change)
        dull = (np.abs(change) < least) & (measure.on_part(sample.prior, box, depth) > 0.0)
        room = under.mean(axis=2) > 2.0 * least
        change = np.where(dull, np.where(room, -least, least), change)
        part = blend.from_unit(under + change[..., None], image[box])
        candidate, mask = measure.put(image, box, part, change != 0.0)
        return candidate, mask, {**m.drawn, "centre": list(centre), "light": float(np.rad2deg(angle))}


@dataclass(frozen=True)
class Blob:
    """Small opaque particles that lie on the part: dust, swarf, a drop of paint. They hide what is beneath.

    size       diameter in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   the particle's tone against the mean tone beneath it, as share of the full range
    sharpness  1: an edge of one pixel; 0: it fades over the whole radius
    count      the largest number of particles; further ones lie near the first and are smaller
    shadow     a soft shadow to one side of it, as share of the contrast
    tone       "darker", "lighter" or "either"
    mm_per_pixel  None: sizes are px

    All amounts are assumptions. With Sample.prior the particles lie where the prior is high.
    """

    size: Range = (3.0, 24.0)
    contrast: Range = (0.1, 0.5)
    sharpness: Range = (0.5, 1.0)
    count: int = 3
    shadow: Range = (0.0, 0.5)
    tone: str = "either"
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "blob"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel, self.tone)
        blend.check_choice(self.name, "count", self.count, tuple(range(1, 51)))
        blend.check_range(self.name, "shadow", self.shadow, 0.0, 1.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        shape = image.shape[:2]
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, shape, rng)
        first = shapes.place(shape, sample.prior, rng)
        count = int(rng.integers(1, self.count + 1))
        box = shapes.window(shape, first, m.size * (1.0 if count == 1 else 3.0))
        depth: shapes.Coverage | None = None
        for i in range(count):
            centre = first if i == 0 else tuple(np.asarray(first) + rng.uniform(-2.0, 2.0, 2) * m.size)
            size = m.size if i == 0 else max(2.0, m.size * float(rng.uniform(0.3, 0.9)))
            lies = shapes.blob(box, (centre[0], centre[1]), size, rng, 0.35, float(rng.uniform(1.0, 1.8)), waves=9)
            depth = lies if depth is None else np.maximum(depth, lies)
        assert depth is not None
        fade = 1.0 + (1.0 - m.sharpness) * m.size / 2.0
        cover = shapes.edge(depth - np.float32(fade / 2.0 - 0.5), fade)[..., None]
        under = blend.to_unit(image[box])
        beneath = (cover * under).sum(axis=(0, 1)) / max(float(cover.sum()), 1e-6)
        sign = measure.sign_for(self.tone, float(beneath.mean()), m.contrast, rng)
        shadow = blend.draw(rng, self.shadow) * m.contrast
        foot = _cast(depth, 0.3 * m.size, rng) * (1.0 - cover)
        mottled = 0.88 + 0.12 * noise.octaves(depth.shape, rng, cells=3, count=2)[..., None]
        body = beneath + np.float32(sign * m.contrast) * mottled
        part = (1.0 - cover) * (under - np.float32(shadow) * foot) + cover * body
        candidate, mask = measure.put(
            image, box, blend.from_unit(np.asarray(part, np.float32), image[box]), (cover + foot)[..., 0] > 0.0
        )
        return candidate, mask, {**m.drawn, "centre": list(first), "count": count, "sign": sign, "shadow": shadow}


def _cast(depth: shapes.Coverage, far: float, rng: np.random.Generator) -> shapes.Coverage:
    """Coverage h w 1 of the soft shadow that a shape casts `far` px to one side."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    move = np.array([[1.0, 0.0, far * np.cos(angle)], [0.0, 1.0, far * np.sin(angle)]])
    size = (depth.shape[1], depth.shape[0])
    moved = cv2.warpAffine(depth, move, size, borderMode=cv2.BORDER_CONSTANT, borderValue=-1e4)
    return shapes.edge(moved, 1.0 + 1.5 * far)[..., None]
