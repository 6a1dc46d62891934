"""Texture forgeries: a foreign texture shows through a noise-shaped mask (DRAEM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.forge import blend, noise
from flawforge.types import Forged, Image, Mask, Sample

OPS = ("gamma", "tone", "sharpen", "hue", "solarise", "posterise", "invert", "autocontrast", "equalise", "turn")
PAPER_OPS = ("posterise", "sharpen", "solarise", "equalise", "tone", "hue", "autocontrast")
TABLE_OPS = frozenset({"gamma", "tone", "solarise", "posterise", "invert"})
TONE_OPS = TABLE_OPS | {"hue"}  # act on each pixel alone
SOURCES = ("given", "self", "noise", "stripes")


@dataclass(frozen=True)
class Perlin:
    """DRAEM's forgery (Zavrtanik, Kristan, Skocaj, ICCV 2021, section 3.3): a texture shows through thresholded noise.

    variant    "code": threshold 0.5 on the raw noise, opacity 0.2 to 1.0, ten texture operations;
               "paper": threshold uniform over the noise's range, opacity 0.1 to 1.0, seven operations
    cells      (low, high) exponents of 2: lattice cells per axis, drawn apart for y and x; source: code, 0 to 5
    turn       the noise is rotated by up to this many degrees either way; source: code, 90
    opacity    of the texture in the mask, number or (low, high); None = the variant's
    threshold  in [-1, 1] on the raw noise, number or (low, high); None = the variant's
    operations how many texture operations are chained, 0 to 5; source: code, 3
    source     "given" (Sample.texture), "self" (the picture itself, rotated and scaled), "noise", "stripes", or
               "auto": the given texture if there is one, otherwise one of the other three. Assumption: DRAEM takes
               its textures from DTD, which we cannot ship.

    A grey picture gets a grey texture (assumption: colour on grey would reveal every forgery).
    `least_change` is a share of the full range.
    """

    variant: str = "code"
    cells: tuple[int, int] = (0, 5)
    turn: float = 90.0
    opacity: float | tuple[float, float] | None = None
    threshold: float | tuple[float, float] | None = None
    operations: int = 3
    source: str = "auto"

    name: ClassVar[str] = "perlin"
    least_change: ClassVar[float] = 3 / 255

    def __post_init__(self) -> None:
        check_texture_fields(self.name, self.variant, self.cells, self.turn, self.opacity, self.operations, self.source)
        if self.threshold is not None:
            blend.check_range(self.name, "threshold", self.threshold, -1.0, 1.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        def attempt() -> blend.Attempt:
            field, drawn = lattice_noise(sample.image.shape[:2], self.cells, self.turn, rng)
            mask, level = self._cut(field, rng)
            candidate, more = show_texture(sample, mask, rng, self.variant, self.opacity, self.operations, self.source)
            return candidate, mask, {**drawn, "threshold": level, **more}

        return blend.settle(sample, rng, self.name, self.least_change, attempt)

    def _cut(self, field: noise.Field, rng: np.random.Generator) -> tuple[Mask, float]:
        if self.threshold is not None:
            level = blend.draw(rng, self.threshold)
        elif self.variant == "paper":
            level = float(rng.uniform(float(field.min()), float(field.max())))
        else:
            level = 0.5
        return np.asarray(field > np.float32(level)), level


def check_texture_fields(
    name: str,
    variant: str,
    cells: tuple[int, int],
    turn: float,
    opacity: float | tuple[float, float] | None,
    operations: int,
    source: str,
) -> None:
    """Raise ConfigError unless the fields that all texture forgers share are within their bounds."""
    blend.check_choice(name, "variant", variant, ("code", "paper"))
    blend.check_range(name, "cells", cells, 0, 7, form="pair")
    blend.check_range(name, "turn", turn, 0.0, 180.0, "degrees", form="number")
    if opacity is not None:
        blend.check_range(name, "opacity", opacity, 0.02, 1.0)
    blend.check_choice(name, "operations", operations, (0, 1, 2, 3, 4, 5))
    blend.check_choice(name, "source", source, (*SOURCES, "auto"))


def lattice_noise(
    shape: tuple[int, int], cells: tuple[int, int], turn: float, rng: np.random.Generator
) -> tuple[noise.Field, dict[str, Any]]:
    """Perlin noise with 2^k cells per axis, k drawn separately for y and x, rotated at random; and what was drawn."""
    ky, kx = (int(k) for k in rng.integers(cells[0], cells[1] + 1, 2))
    lattice = (min(2**ky, shape[0]), min(2**kx, shape[1]))
    degrees = float(rng.uniform(-turn, turn))
    field = noise.rotate(noise.perlin(shape, lattice, rng), degrees)
    return field, {"cells": list(lattice), "turn": round(degrees, 3)}


def show_texture(
    sample: Sample,
    mask: Mask,
    rng: np.random.Generator,
    variant: str,
    opacity: float | tuple[float, float] | None,
    operations: int,
    source: str,
) -> tuple[Image, dict[str, Any]]:
    """The picture with a texture blended into the mask's bounding box, and what was drawn."""
    image = sample.image
    share = blend.draw(rng, opacity if opacity is not None else (0.1 if variant == "paper" else 0.2, 1.0))
    box = blend.bounding_box(mask)
    under = image[box]
    out = image.copy()
    if under.size == 0:
        return out, {"opacity": share}
    chosen = _choose_source(source, sample, rng)
    grey = blend.is_grey(image)
    names = rng.permutation(PAPER_OPS if variant == "paper" else OPS)[:operations].tolist()
    picture = _texture(chosen, sample, under.shape[:2], names, rng, grey)
    out[box] = blend.mix_over(np.ascontiguousarray(under), blend.as_dtype(picture, image), share)
    return out, {"opacity": share, "source": chosen, "operations": names}


def _choose_source(source: str, sample: Sample, rng: np.random.Generator) -> str:
    """The source to use; "given" without a texture falls back to the picture itself."""
    pick = SOURCES[int(rng.integers(1, len(SOURCES)))]
    if source == "auto":
        return "given" if sample.texture is not None else pick
    return "self" if source == "given" and sample.texture is None else source


def _texture(
    chosen: str, sample: Sample, shape: tuple[int, int], names: list[str], rng: np.random.Generator, grey: bool
) -> Image:
    """A texture h w c uint8 of the wanted shape, c = 1 if grey, else 3, after the named operations."""
    if chosen in ("given", "self"):
        picture = sample.texture if chosen == "given" and sample.texture is not None else sample.image
        return apply_operations(as_channels(cut_from(blend.as_uint8(picture), shape, rng), grey), names, rng)
    whole = (-(-shape[0] // 32) * 32, -(-shape[1] // 32) * 32)  # few sizes, so that lattice weights are found in the cache
    draw = noise.noise_texture if chosen == "noise" else noise.stripe_texture
    field, ramp = draw(whole, rng, grey)
    first = next((i for i, op in enumerate(names) if op not in TONE_OPS), len(names))
    ramp = apply_operations(ramp[None], names[:first], rng)[0]  # operations on single tones cost less on the ramp
    painted = noise.paint(np.ascontiguousarray(field[: shape[0], : shape[1]]), ramp)
    return apply_operations(painted, names[first:], rng)


def as_channels(picture: Image, grey: bool) -> Image:
    """h w c uint8 with one channel if grey, else three."""
    if grey and picture.shape[2] == 3:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None])
    if not grey and picture.shape[2] == 1:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB))
    return picture


def cut_from(picture: Image, shape: tuple[int, int], rng: np.random.Generator) -> Image:
    """A piece of the picture in the given shape: a random window scaled by 0.7 to 1.6, flipped, maybe transposed.

    Where the picture is smaller than the window, the whole picture is resized.
    """
    across = bool(rng.random() < 0.5)
    h, w = picture.shape[:2]
    scale = float(rng.uniform(0.7, 1.6))
    want = (shape[1], shape[0]) if across else shape
    wh, ww = min(h, max(1, round(want[0] / scale))), min(w, max(1, round(want[1] / scale)))
    y, x = int(rng.integers(0, h - wh + 1)), int(rng.integers(0, w - ww + 1))
    window = picture[y : y + wh, x : x + ww]
    piece = cv2.resize(window, (want[1], want[0]), interpolation=cv2.INTER_LINEAR)
    flip = int(rng.integers(-1, 3))  # cv2: both axes, upside down, left to right; 2 = none
    if flip < 2:
        piece = cv2.flip(piece, flip)
    if across:
        piece = cv2.transpose(piece)
    return np.asarray(piece).reshape(*shape, picture.shape[2])


def apply_operations(picture: Image, names: list[str], rng: np.random.Generator) -> Image:
    """The named operations one after another on h w c uint8. Strengths after DRAEM's code, in `_table`, `_whole`."""
    shape = picture.shape
    table: NDArray[np.uint8] | None = None
    for op in names:
        if op in TABLE_OPS:  # neighbouring table operations cost one look-up together
            table = _table(op, rng, np.arange(256, dtype=np.uint8) if table is None else table)
            continue
        if table is not None:
            picture, table = cv2.LUT(picture, table).reshape(shape), None
        picture = _whole(op, picture, rng).reshape(shape)
    return picture if table is None else np.asarray(cv2.LUT(picture, table)).reshape(shape)


def _table(op: str, rng: np.random.Generator, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The look-up table (256,) after one more operation."""
    values = table.astype(np.float32)
    if op == "gamma":  # 0.5 to 2, one for all channels
        values = 255.0 * (values / 255.0) ** np.float32(rng.uniform(0.5, 2.0))
    elif op == "tone":  # multiply 0.8 to 1.2, add -30 to 30
        values = values * np.float32(rng.uniform(0.8, 1.2)) + np.float32(rng.uniform(-30.0, 30.0))
    elif op == "solarise":  # invert above 32 to 128
        values = np.where(values >= rng.integers(32, 129), 255.0 - values, values)
    elif op == "posterise":  # keep 2 to 4 bits
        step = float(2 ** int(rng.integers(4, 7)))
        values = np.floor(values / step) * step
    else:
        values = 255.0 - values
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _whole(op: str, picture: Image, rng: np.random.Generator) -> Image:
    """One operation that needs the whole picture."""
    if op == "sharpen":
        soft = cv2.blur(picture, (3, 3))
        return np.asarray(cv2.addWeighted(picture, 2.0, soft, -1.0, 0.0))
    if op == "hue" and picture.shape[2] == 1:
        return picture
    if op == "hue":  # shift -50 to 50 of OpenCV's 180 hue steps, saturation -50 to 50 of 255
        hue, saturation, value = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))
        steps = np.arange(256)
        turned = ((steps + rng.integers(-50, 51)) % 180).astype(np.uint8)
        richer = np.where(steps > 0, np.clip(steps + rng.integers(-50, 51), 0, 255), 0).astype(np.uint8)
        hsv = cv2.merge([cv2.LUT(hue, turned), cv2.LUT(saturation, richer), value])
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    if op == "autocontrast":
        return np.asarray(cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX))
    if op == "equalise":
        channels = [cv2.equalizeHist(channel) for channel in cv2.split(picture)]
        return np.asarray(cv2.merge(channels))
    h, w = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((w / 2.0, h / 2.0), float(rng.uniform(-45.0, 45.0)), 1.0)
    return np.asarray(cv2.warpAffine(picture, turn, (w, h), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101))
