"""Procedurally drawn products: endless good pictures of parts and surfaces that nobody photographed.

A product is what its pictures share (layout, colours, kinds of texture); each picture is a new specimen of it under its own
light, shift, turn and noise. Everything follows from numpy generators, so the pictures that the head start was trained on
can be drawn again. No photograph and no part of one is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]  # h w, about zero mean and unit deviation
Draw = Callable[[np.random.Generator, tuple[int, int]], Field]


def unit(field: NDArray[np.floating]) -> Field:
    """Zero mean, unit deviation."""
    return ((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32)


def fractal(product: np.random.Generator) -> Draw:
    """Noise of a random spectral slope, isotropic or stretched: cast iron, plaster, brushed metal."""
    slope, turn = product.uniform(0.3, 2.2), product.uniform(0, np.pi)
    stretch = np.exp(product.uniform(0, 3) * (product.random() < 0.5))

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Field:
        h, w = size
        fy, fx = np.meshgrid(np.fft.fftfreq(h), np.fft.rfftfreq(w), indexing="ij")
        u, v = fx * np.cos(turn) + fy * np.sin(turn), -fx * np.sin(turn) + fy * np.cos(turn)
        radius = np.hypot(u * stretch, v) + 1.0 / max(h, w)
        return unit(np.fft.irfft2(np.fft.rfft2(rng.standard_normal((h, w))) * radius**-slope, s=(h, w)))

    return draw


def band(product: np.random.Generator) -> Draw:
    """Noise of one grain size, soft or cut hard: granite, leather, orange peel, rust."""
    small, ratio, hard = np.exp(product.uniform(0, 1.8)), product.uniform(1.3, 3), product.random() < 0.5
    level = product.uniform(-0.5, 1.2)

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Field:
        noise = rng.standard_normal(size).astype(np.float32)
        field = unit(cv2.GaussianBlur(noise, (0, 0), small) - cv2.GaussianBlur(noise, (0, 0), small * ratio))
        return unit(np.tanh(4 * (field - level))) if hard else field

    return draw


def weave(product: np.random.Generator) -> Draw:
    """Crossed or single gratings, slightly bent: cloth, grid, machining marks, tiles."""
    periods, turn = np.exp(product.uniform(1.3, 3.6, 2)), product.uniform(0, np.pi)
    single, bend = product.random() < 0.4, product.uniform(0, 0.35)
    sharp, jitter = product.uniform(0.5, 4), product.uniform(0, 0.4)

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Field:
        h, w = size
        y, x = np.mgrid[:h, :w].astype(np.float32)
        noise = rng.standard_normal((2, h, w)).astype(np.float32).transpose(1, 2, 0)
        sway = cv2.GaussianBlur(noise, (0, 0), 20) * 20 * bend
        phase = rng.uniform(0, 2 * np.pi, 2)
        u = (x * np.cos(turn) + y * np.sin(turn) + sway[..., 0] * periods[0] / 2) * 2 * np.pi / periods[0] + phase[0]
        v = (-x * np.sin(turn) + y * np.cos(turn) + sway[..., 1] * periods[1] / 2) * 2 * np.pi / periods[1] + phase[1]
        field = np.tanh(sharp * np.sin(u)) + (0 if single else np.tanh(sharp * np.sin(v)))
        return unit(field + jitter * rng.standard_normal(size))

    return draw


def cells(product: np.random.Generator) -> Draw:
    """Distance to the nearest of random points: pores, foam, grains, hammered sheet."""
    spacing, edges = np.exp(product.uniform(2, 3.6)), product.random() < 0.5

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Field:
        h, w = size
        seeds = np.ones(size, np.uint8)
        count = max(4, int(h * w / spacing**2))
        seeds[rng.integers(0, h, count), rng.integers(0, w, count)] = 0
        field = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)
        return unit(np.minimum(field, spacing / 3) if edges else field)

    return draw


def plain(product: np.random.Generator) -> Draw:
    """Almost nothing: plastic, paint, glass."""
    wide = np.exp(product.uniform(3, 4.5))

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Field:
        coarse = (int(size[0] / wide) + 2, int(size[1] / wide) + 2)
        small = rng.standard_normal(coarse).astype(np.float32)
        return unit(cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)) * np.float32(0.3)

    return draw


KINDS = (fractal, band, weave, cells, plain)


@dataclass(frozen=True)
class Material:
    """Colour and texture of one surface. `own`: every specimen has its own texture, else it is printed on all alike."""

    colour: Field
    tint: Field
    depth: float
    draws: tuple[Draw, ...]
    own: bool
    seed: int

    def paint(self, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
        """h w 3 in about [0, 1]."""
        source = rng if self.own else np.random.default_rng(self.seed)
        field = sum(draw(source, size) / (i + 1) for i, draw in enumerate(self.draws))
        return np.asarray(self.colour + self.depth * np.asarray(field)[..., None] * self.tint, np.float32)


def material(product: np.random.Generator, grey: bool) -> Material:
    """Any surface."""
    kinds = [KINDS[i](product) for i in product.integers(0, len(KINDS), product.integers(1, 3))]
    colour = np.full(3, product.uniform(0.1, 0.9)) if grey else product.uniform(0.08, 0.92, 3)
    tint = np.ones(3) if grey or product.random() < 0.7 else product.uniform(0.3, 1, 3)
    depth = float(np.exp(product.uniform(np.log(0.01), np.log(0.16))))
    return Material(
        colour.astype(np.float32),
        tint.astype(np.float32),
        depth,
        tuple(kinds),
        bool(product.random() < 0.75),
        int(product.integers(2**31)),
    )


def outline(product: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Corners of a closed shape about the origin, in pixels: disc, box, polygon or blob."""
    kind, radius = product.integers(4), product.uniform(0.08, 0.42) * size
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False) + product.uniform(0, 2 * np.pi)
    if kind == 0:
        reach = np.full(72, radius)
    elif kind == 1:
        aspect = product.uniform(0.4, 1)
        reach = radius * np.minimum(1 / (np.abs(np.cos(angle)) + 1e-6), aspect / (np.abs(np.sin(angle)) + 1e-6))
    elif kind == 2:
        sides = product.integers(3, 9)
        reach = radius * np.cos(np.pi / sides) / np.cos((angle % (2 * np.pi / sides)) - np.pi / sides)
    else:
        waves = sum(product.normal() / k * np.cos(k * angle + product.uniform(0, 6)) for k in range(2, 6))
        reach = radius * (1 + 0.15 * waves)
    turn = product.uniform(0, 2 * np.pi)
    points = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    return (points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])).astype(np.float32)


@dataclass(frozen=True)
class Product:
    """What all pictures of one product share. Draw specimens with `picture`."""

    size: int
    ground: Material
    pieces: tuple[tuple[NDArray[np.float32], NDArray[np.float32], Material, float], ...]  # outline, place, surface, rim
    shift: float  # pixels
    turn: float  # degrees
    gain: float
    slope: float
    noise: float
    blur: float
    grey: bool
    wander: float

    def picture(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """One specimen, size size 3 uint8."""
        n = self.size
        image = self.ground.paint(rng, (n, n))
        angle, move = np.radians(rng.normal(0, self.turn)), rng.normal(0, self.shift, 2)
        spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        for corners, place, surface, rim in self.pieces:
            at = (corners + place - n / 2) @ spin + n / 2 + move + rng.normal(0, self.wander, 2)
            mask = np.zeros((n, n), np.uint8)
            cv2.fillPoly(mask, [np.rint(at * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
            soft = (mask / np.float32(255))[..., None]
            skin = surface.paint(rng, (n, n))
            if not surface.own:
                shift = move + n / 2 - np.full(2, n / 2) @ spin
                warp = np.float32([[spin[0, 0], spin[1, 0], shift[0]], [spin[0, 1], spin[1, 1], shift[1]]])
                skin = cv2.warpAffine(skin, warp, (n, n), borderMode=cv2.BORDER_REFLECT)
            if rim:
                inside = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
                skin = skin + np.float32(rim) * np.exp(-inside / 3)[..., None]
            image = image * (1 - soft) + skin * soft
        y, x = np.mgrid[:n, :n].astype(np.float32) / n - 0.5
        light = 1 + rng.normal(0, self.gain) + rng.normal(0, self.slope) * x + rng.normal(0, self.slope) * y
        image = image * np.float32(light)[..., None]
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        noise = rng.standard_normal((n, n, 1 if self.grey else 3)).astype(np.float32)
        return np.uint8(np.rint(255 * np.clip(image + self.noise * noise, 0, 1)))


def product(seed: int, size: int = 256) -> Product:
    """The product of that number: four in ten bare; of the others six in ten lie in place, two anyhow."""
    rng = np.random.default_rng([20261120, seed])
    grey, bare = bool(rng.random() < 0.5), bool(rng.random() < 0.4)
    pieces = []
    for i in range(0 if bare else rng.integers(1, 6)):
        reach = 0.08 if i == 0 else 0.25
        corners = outline(rng, size) * (1.0 if i == 0 else rng.uniform(0.25, 0.7))
        place = size / 2 + rng.uniform(-reach, reach, 2) * size
        rim = float(rng.normal(0, 0.2) * (rng.random() < 0.5))
        pieces.append((corners, place.astype(np.float32), material(rng, grey), rim))
    lie = rng.choice(3, p=(0.6, 0.2, 0.2))  # in place, loose, anyhow
    return Product(
        size,
        material(rng, grey),
        tuple(pieces),
        shift=float(rng.uniform(*((0, 1.5), (2, 8), (4, 0.08 * size))[lie])),
        turn=float(rng.uniform(*((0, 0.8), (1, 5), (90, 360))[lie])),
        gain=float(rng.uniform(0, 0.08)),
        slope=float(rng.uniform(0, 0.1)),
        noise=float(np.exp(rng.uniform(np.log(0.003), np.log(0.03)))),
        blur=float(rng.uniform(0.4, 1.2) * (rng.random() < 0.7)),
        grey=grey,
        wander=float(rng.uniform(0, 2) * (rng.random() < 0.2)),
    )
