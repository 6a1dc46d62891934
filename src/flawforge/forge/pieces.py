"""Defects of the part itself: a piece missing or misplaced, a patch out of focus, a patch of noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.forge import blend, measure, shapes
from flawforge.types import Forged, Image, Mask, Sample

Range = float | tuple[float, float]


@dataclass(frozen=True)
class Missing:
    """Missing material: an irregular piece is filled from its surroundings.

    Where the surroundings have two tones (Otsu), as at the edge of a part, the fill comes from one tone only, so that the
    background shows and the part looks chipped; else the hole is filled from all sides, and its detail is missing.

    size       mean diameter in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   the tone at the bottom of the hole, relative to the fill, as share of the full range (a hole lies in shadow)
    sharpness  1: an edge of one pixel; 0: it fades over the whole radius
    at_edges   share of pieces whose place is drawn in proportion to the picture's gradient (a chip), not uniformly
    tone       "darker", "lighter" or "either"
    mm_per_pixel  None: sizes are px

    All amounts are assumptions. With Sample.prior the place is drawn in proportion to it.
    """

    size: Range = (10.0, 50.0)
    contrast: Range = (0.02, 0.2)
    sharpness: Range = (0.7, 1.0)
    at_edges: float = 0.7
    tone: str = "darker"
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "missing"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel, self.tone)
        blend.check_range(self.name, "at_edges", self.at_edges, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        shape = image.shape[:2]
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, shape, rng)
        chip = bool(rng.random() < self.at_edges)
        weights = detail(image, sample.prior) if chip else sample.prior
        centre = shapes.place(shape, weights, rng)
        box = shapes.window(shape, centre, 1.3 * m.size)
        depth = shapes.blob(box, centre, m.size, rng, 0.4, float(rng.uniform(1.0, 2.0)), waves=12)
        hole = np.asarray(depth > -1.0)
        part = np.ascontiguousarray(image[box])
        known, side = _background(part, hole, chip, frame_tone(image))
        filled = blend.to_unit(measure.fill_from(part, hole, known, True, rng))
        under = blend.to_unit(part)
        mean = float(filled[hole].mean()) if hole.any() else 0.5
        sign = measure.sign_for(self.tone, mean, m.contrast, rng)
        if side == "around":  # the bottom of a hole lies in shadow
            wall = shapes.edge(depth - np.float32(0.1 * m.size), 1.0 + 0.3 * m.size)
        else:  # the background lies open; the broken wall is a band inside the outline, on the part's side
            band = np.float32(0.06 * m.size + 1.0)
            wall = np.exp(-np.square(depth / band)) * (np.abs(filled - under).max(axis=2) > 0.06)
        bottom = filled + np.float32(sign * m.contrast) * wall[..., None]
        fade = 1.0 + (1.0 - m.sharpness) * m.size / 2.0
        cover = shapes.edge(depth - np.float32(fade / 2.0 - 0.5), fade)[..., None]
        out = blend.from_unit(np.asarray(under + cover * (bottom - under), np.float32), part)
        candidate, mask = measure.put(image, box, out, cover[..., 0] > 0.0)
        return candidate, mask, {**m.drawn, "centre": list(centre), "chip": chip, "fill": side, "sign": sign}


def detail(image: Image, prior: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Weights for drawing a place: gradient magnitude on at most 96 cells per side, times the prior; their sum is > 0."""
    h, w = image.shape[:2]
    unit = max(1.0, max(h, w) / 96.0)
    size = (max(8, round(w / unit)), max(8, round(h / unit)))
    small = cv2.resize(blend.as_uint8(image), size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    grey = np.asarray(small.mean(axis=2), np.float32)
    strength = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    weights = np.asarray(strength * strength + np.float32(1e-3), np.float32)
    if prior is not None:
        weights = weights * cv2.resize(prior, size, interpolation=cv2.INTER_AREA)
    return weights


def frame_tone(image: Image) -> float:
    """Median tone in [0, 1] of the picture's outermost rows and columns: the likely tone of the background."""
    frame = [image[:2], image[-2:], image[:, :2], image[:, -2:]]
    return float(np.median(np.concatenate([side.ravel() for side in frame]))) / blend.full_range(image)


def _background(part: Image, hole: Mask, chip: bool, frame: float) -> tuple[Mask, str]:
    """The pixels that the hole may be filled from, and which: "around", or the "darker" or "lighter" tone alone.

    Of two tones, the background is the one nearer to the picture's frame, within a fifth of the
    range. It must touch the hole, or a window would open
    in the middle of the part; its outermost pixels are not used, since they carry the part's soft edge.
    """
    around = ~hole
    if not around.any():
        around = np.ones_like(hole)
    eight = blend.as_uint8(part)
    grey = np.asarray(eight.mean(axis=2), np.uint8)
    level, _ = cv2.threshold(grey[around][:, None], 0, 255, cv2.THRESH_OTSU)
    dark = around & (grey <= level)
    light = around & (grey > level)
    if not chip or min(np.count_nonzero(dark), np.count_nonzero(light)) < 0.1 * np.count_nonzero(around):
        return around, "around"
    tones = float(grey[dark].mean()) / 255.0, float(grey[light].mean()) / 255.0
    if tones[1] - tones[0] < 0.12:
        return around, "around"
    if min(abs(frame - tone) for tone in tones) > 0.2:
        return around, "around"
    known, side = (dark, "darker") if abs(frame - tones[0]) < abs(frame - tones[1]) else (light, "lighter")
    ring = cv2.dilate(hole.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) & ~hole
    if float(known[ring].mean() if ring.any() else 0.0) < 0.15:
        return around, "around"
    inner = cv2.erode(known.view(np.uint8), np.ones((5, 5), np.uint8)).view(bool)
    return (inner if np.count_nonzero(inner) > 20 else known), side


@dataclass(frozen=True)
class Misplaced:
    """A piece of the part lies in the wrong place: it is moved by a fraction of its size, and its old place filled.

    size       mean diameter of the piece in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   opacity of the moved piece in (0, 1]; 1 hides what is beneath
    sharpness  1: an edge of one pixel; 0: it fades over the whole radius
    shift      length of the move as share of the size
    turn       the piece is rotated by up to this many degrees either way
    mm_per_pixel  None: sizes are px

    The place is drawn in proportion to the picture's detail (elsewhere the move would be invisible), times Sample.prior.
    All amounts are assumptions.
    """

    size: Range = (16.0, 70.0)
    contrast: Range = 1.0
    sharpness: Range = (0.8, 1.0)
    shift: Range = (0.1, 0.5)
    turn: float = 15.0
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "misplaced"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel)
        blend.check_range(self.name, "shift", self.shift, 0.01, 2.0, "of the size")
        blend.check_range(self.name, "turn", self.turn, 0.0, 180.0, "degrees", form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        shape = image.shape[:2]
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, shape, rng)
        centre = shapes.place(shape, detail(image, sample.prior), rng)
        far, angle = blend.draw(rng, self.shift) * m.size, float(rng.uniform(0.0, 2.0 * np.pi))
        dy, dx = far * np.sin(angle), far * np.cos(angle)
        degrees = float(rng.uniform(-self.turn, self.turn))
        box = shapes.window(shape, centre, 1.2 * m.size + far)
        part = np.ascontiguousarray(image[box])
        depth = shapes.blob(box, centre, m.size, rng, 0.1, float(rng.uniform(1.0, 2.5)))
        local = (centre[1] - box[1].start, centre[0] - box[0].start)
        move = cv2.getRotationMatrix2D(local, degrees, 1.0)
        move[:, 2] += (dx, dy)
        size = (part.shape[1], part.shape[0])
        moved = cv2.warpAffine(part, move, size, borderMode=cv2.BORDER_REPLICATE).reshape(part.shape)
        shifted = cv2.warpAffine(depth, move, size, borderMode=cv2.BORDER_CONSTANT, borderValue=-1e4)
        vacated = np.asarray(depth > -1.0)
        known, side = _background(part, vacated, True, frame_tone(image))
        under = blend.to_unit(part)
        left = shapes.edge(depth, 1.5)[..., None]
        vacated_picture = under + left * (blend.to_unit(measure.fill_from(part, vacated, known, True, rng)) - under)
        fade = 1.0 + (1.0 - m.sharpness) * m.size / 2.0
        cover = shapes.edge(shifted - np.float32(fade / 2.0 - 0.5), fade)[..., None]
        placed = vacated_picture + cover * (blend.to_unit(moved) - vacated_picture)
        out = blend.from_unit(np.asarray(under + np.float32(m.contrast) * (placed - under), np.float32), part)
        candidate, mask = measure.put(image, box, out, vacated | (cover[..., 0] > 0.0))
        drawn = {**m.drawn, "centre": list(centre), "shift": [dy, dx], "turn": degrees, "fill": side}
        return candidate, mask, drawn


@dataclass(frozen=True)
class Blur:
    """A patch out of focus, or smeared in one direction.

    size       mean diameter in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   opacity of the blurred picture in (0, 1]
    sharpness  1: an edge of one pixel; 0: it fades over the whole radius
    strength   standard deviation of the blur in px
    smear      share of the patches that are smeared along a line instead
    mm_per_pixel  None: sizes are px

    The place is drawn in proportion to the picture's detail, times Sample.prior. All amounts are assumptions.
    """

    size: Range = (20.0, 90.0)
    contrast: Range = 1.0
    sharpness: Range = (0.0, 0.7)
    strength: Range = (2.5, 8.0)
    smear: float = 0.3
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "blur"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel)
        blend.check_range(self.name, "strength", self.strength, 0.5, 60.0, "px")
        blend.check_range(self.name, "smear", self.smear, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        shape = image.shape[:2]
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, shape, rng)
        sigma, smear = blend.draw(rng, self.strength), bool(rng.random() < self.smear)
        angle = float(rng.uniform(0.0, 180.0))
        centre = shapes.place(shape, detail(image, sample.prior), rng)
        box = shapes.window(shape, centre, m.size + 3.0 * sigma)
        part = np.ascontiguousarray(image[box])
        soft = _smeared(part, sigma, angle) if smear else blend.soften(part, sigma)
        cover = _patch(box, centre, m, rng)
        under = blend.to_unit(part)
        mixed = under + cover * np.float32(m.contrast) * (blend.to_unit(soft) - under)
        candidate, mask = measure.put(image, box, blend.from_unit(mixed, part), cover[..., 0] > 0.0)
        return candidate, mask, {**m.drawn, "centre": list(centre), "strength": sigma, "smear": angle if smear else None}


def _patch(
    box: tuple[slice, slice], centre: tuple[float, float], m: measure.Measure, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Coverage h w 1 of an irregular patch with the measured size and sharpness."""
    depth = shapes.blob(box, centre, m.size, rng, 0.4, float(rng.uniform(1.0, 2.0)))
    fade = 1.0 + (1.0 - m.sharpness) * m.size / 2.0
    return shapes.edge(depth - np.float32(fade / 2.0 - 0.5), fade)[..., None]


def _smeared(part: Image, sigma: float, degrees: float) -> Image:
    """Blur along a line of about 4 sigma px in the given direction."""
    reach = max(2, round(2.0 * sigma))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    along = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]) * reach
    ends = np.rint((np.array([reach, reach]) + np.stack([-along, along])) * 16.0).astype(int)
    cv2.line(kernel, tuple(ends[0].tolist()), tuple(ends[1].tolist()), 1.0, 1, cv2.LINE_8, 4)
    return np.asarray(cv2.filter2D(part, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)).reshape(part.shape)


@dataclass(frozen=True)
class Noise:
    """A patch of noise: a rough, porous or sand-blasted spot.

    size       mean diameter in px (mm where mm_per_pixel is given), number or (low, high)
    contrast   standard deviation of the noise, as share of the full range
    sharpness  1: grain of one pixel and an edge of one pixel; towards 0: grain of up to 4 px and an edge that fades
    colour     share of coloured noise on colour pictures; grey pictures get grey noise
    mm_per_pixel  None: sizes are px

    Inside the patch every change is raised to at least `least_change`, so that the mask has no pinholes where the noise
    happens to be near zero. All amounts are assumptions. With Sample.prior the patch lies where the prior is high.
    """

    size: Range = (12.0, 70.0)
    contrast: Range = (0.05, 0.25)
    sharpness: Range = (0.2, 1.0)
    colour: float = 0.3
    mm_per_pixel: float | None = None

    name: ClassVar[str] = "noise"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        measure.check(self.name, self.size, self.contrast, self.sharpness, self.mm_per_pixel)
        blend.check_range(self.name, "colour", self.colour, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        image = sample.image
        m = measure.take(self.size, self.contrast, self.sharpness, self.mm_per_pixel, image.shape[:2], rng)
        centre = shapes.place(image.shape[:2], sample.prior, rng)
        box = shapes.window(image.shape[:2], centre, m.size)
        cover = _patch(box, centre, m, rng)
        cover = measure.on_part(sample.prior, box, cover[..., 0])[..., None]
        channels = 3 if not blend.is_grey(image) and rng.random() < self.colour else 1
        static = rng.standard_normal((*cover.shape[:2], channels), dtype=np.float32)
        grain = 3.0 * (1.0 - m.sharpness)
        if grain > 0.3:
            static = blend.soften(static, grain / 2.0)
            static = static / np.float32(max(float(static.std()), 1e-6))
        change = static * np.float32(m.contrast) * cover
        floor = np.float32(1.5 * self.least_change)
        pushed = np.where(change < 0.0, np.minimum(change, -floor), np.maximum(change, floor))
        change = np.where(cover > 0.25, pushed, change)
        under = blend.to_unit(image[box])
        # noise that would leave the range is reflected back into it, not lost at its end
        change = np.where((under + change > 1.0) | (under + change < 0.0), -change, change)
        part = blend.from_unit(np.asarray(under + change, np.float32), image[box])
        candidate, mask = measure.put(image, box, part, cover[..., 0] > 0.0)
        return candidate, mask, {**m.drawn, "centre": list(centre), "channels": channels}
