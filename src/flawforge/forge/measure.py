"""Shared by the physical forgers: size, contrast and sharpness, drawn once and recorded, so that `pod` can vary them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from flawforge.forge import blend, shapes
from flawforge.types import Image, Mask

Range = float | tuple[float, float]
TONES = ("either", "darker", "lighter")


@dataclass(frozen=True)
class Measure:
    """Drawn values: size in px, contrast as share of the full range, sharpness in [0, 1]; `drawn`: the record of them."""

    size: float
    contrast: float
    sharpness: float
    drawn: dict[str, Any]


def check(
    name: str, size: Range, contrast: Range, sharpness: Range, mm_per_pixel: float | None, tone: str = "either"
) -> None:
    """Raise ConfigError unless the fields that all physical forgers share are within their bounds."""
    if mm_per_pixel is not None:
        blend.check_range(name, "mm_per_pixel", mm_per_pixel, 1e-6, 1e3, "mm, or None for sizes in px", form="number")
    check_length(name, "size", size, 2.0, 4096.0, mm_per_pixel)
    blend.check_range(name, "contrast", contrast, 0.01, 1.0, "of the full range")
    blend.check_range(name, "sharpness", sharpness, 0.0, 1.0)
    blend.check_choice(name, "tone", tone, TONES)


def check_length(name: str, field: str, value: Range, low: float, high: float, mm_per_pixel: float | None) -> None:
    """Raise ConfigError unless a length is within [low, high] px, given in px or, with mm_per_pixel, in mm."""
    unit = mm_per_pixel or 1.0
    blend.check_range(name, field, value, low * unit, high * unit, "mm" if mm_per_pixel else "px")


def take(
    size: Range,
    contrast: Range,
    sharpness: Range,
    mm_per_pixel: float | None,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> Measure:
    """Draw the three values. A size above 0.9 of the picture's shorter side is reduced to that, and recorded so."""
    unit = mm_per_pixel or 1.0
    px = min(blend.draw(rng, size) / unit, 0.9 * min(shape))
    c, s = blend.draw(rng, contrast), blend.draw(rng, sharpness)
    drawn = {"size": px * unit, "unit": "mm" if mm_per_pixel else "px", "size_px": px, "contrast": c, "sharpness": s}
    return Measure(px, c, s, drawn)


def on_part(prior: shapes.Coverage | None, box: tuple[slice, slice], cover: shapes.Coverage) -> shapes.Coverage:
    """The coverage over the window `box`, limited to where the prior is high: a defect ends where the part ends."""
    return cover if prior is None else np.asarray(cover * np.clip(2.0 * prior[box], 0.0, 1.0), np.float32)


def sign_for(tone: str, mean: float, contrast: float, rng: np.random.Generator) -> int:
    """+1 (lighter) or -1 (darker); "either" is drawn at random, and inverted where the mean in [0, 1] leaves no room."""
    coin = 1 if rng.random() < 0.5 else -1
    if tone != "either":
        return 1 if tone == "lighter" else -1
    if mean + coin * contrast > 1.0 or mean + coin * contrast < 0.0:
        return 1 if mean < 0.5 else -1
    return coin


def tone(
    image: Image,
    box: tuple[slice, slice],
    cover: shapes.Coverage,
    contrast: float,
    wanted: str,
    blur: float,
    rng: np.random.Generator,
    tint: Any = 1.0,
) -> tuple[Image, Mask, int]:
    """Add sign x contrast x cover (h w over the window, in [-1, 1]) to the picture -> (candidate, changed mask, sign).

    blur is the standard deviation in px of a blur of the cover; tint scales the change per channel.
    """
    if blur > 0.2:
        peak = float(np.abs(cover).max())
        cover = blend.soften(cover[..., None], blur)[..., 0]
        cover = cover * np.float32(peak / max(float(np.abs(cover).max()), 1e-6))  # softer, not weaker
    under = blend.to_unit(image[box])
    weight = float(np.abs(cover).sum())
    mean = float((np.abs(cover)[..., None] * under).sum() / (weight * image.shape[2])) if weight > 0.0 else 0.5
    sign = sign_for(wanted, mean, contrast, rng)
    change = np.asarray(cover[..., None] * (np.float32(sign * contrast) * np.asarray(tint, np.float32)), np.float32)
    return (*put(image, box, blend.from_unit(under + change, image[box]), np.abs(cover) > 0.0), sign)


def put(image: Image, box: tuple[slice, slice], part: Image, where: Mask) -> tuple[Image, Mask]:
    """The picture with `part` in the window, and the window's mask at full size."""
    candidate, mask = image.copy(), np.zeros(image.shape[:2], bool)
    candidate[box], mask[box] = part, where
    return candidate, mask


def fill_from(part: Image, hole: Mask, known: Mask, grain: bool, rng: np.random.Generator) -> Image:
    """`part` h w c with `hole` filled from the nearest `known` pixels, smoothed; with `grain` their noise is added.

    `known` must not be empty; smoothing grows with the distance to it, so that no streaks are left.
    """
    _, label = cv2.distanceTransformWithLabels(np.asarray(~known, np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    rows, columns = np.nonzero(known)
    first = np.zeros(int(label.max()) + 1, np.int64)
    first[label[rows, columns]] = np.arange(rows.size)
    nearest = first[label]
    values = blend.to_unit(part)
    filled = values[rows[nearest], columns[nearest]]
    radius = float(np.sqrt(np.count_nonzero(hole) / np.pi))
    smooth = blend.soften(np.ascontiguousarray(filled), max(0.8, radius / 4.0))
    if grain:
        smooth = smooth + _grain(values, known, rng)
    out = np.where(hole[..., None], smooth, values)
    return blend.from_unit(np.asarray(out, np.float32), part)


def _grain(values: Image, known: Mask, rng: np.random.Generator) -> Image:
    """Noise like the fine residue of the known pixels: their residues, drawn with replacement, the same for all channels."""
    fine = values - cv2.GaussianBlur(values, (0, 0), 1.0).reshape(values.shape)
    rows, columns = np.nonzero(known)
    pool = fine[rows, columns]
    limit = 3.0 * np.median(np.abs(pool)) + 1e-4  # edges are no grain
    pick = rng.integers(0, rows.size, values.shape[:2])
    return np.asarray(np.clip(pool[pick], -limit, limit), np.float32)
