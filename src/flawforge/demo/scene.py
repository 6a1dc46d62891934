"""A turned steel washer under lamps: the scene behind the demo's pictures. Torch-free; knows nothing of the forge.

A washer with chamfered edges and lathe marks lies on a dark mat under three lamps. The face is shaded with an
anisotropic microfacet lobe (Ward 1992, "Measuring and modeling anisotropic reflection", in slope space and without
its normalisation), so the highlights open like a fan, as they do on turned metal. All amounts are assumptions,
chosen by eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import ConfigError

Field = NDArray[np.float32]  # h w, one value per pixel

OUTER, INNER = 0.405, 0.185  # radii of the part, in picture sides
_CHAMFER = 0.016  # width of both chamfers, in picture sides
_POLAR = (128, 512)  # radii x angles of the table that holds one part's lathe marks


@dataclass(frozen=True)
class Scene:
    """One part under its lamps, as drawn. Lengths in picture sides; all fields h w float32."""

    radius: Field  # distance from the part's axis
    cos: Field  # direction from the axis
    sin: Field
    angle: Field  # in [0, 2 pi), in the part's own frame
    scale: float
    marks: Field  # lathe marks, mean 0, deviation about 1
    mat: Field  # brightness of the mat
    light: Field  # brightness of the lamps over the picture
    lamps: tuple[tuple[float, float, float, float], ...]  # slope x, slope y, power, warmth
    colour: NDArray[np.float32]  # 3, tint of the metal
    grain: NDArray[np.float32]  # h w 3, standard normal noise of the sensor
    blur: float  # standard deviation in pixels


@dataclass(frozen=True)
class Damage:
    """What a defect does to the scene. None = nothing.

    slope   change of the surface's gradient along x and y
    worn    in [0, 1], share of the lathe marks that is gone
    gloss   factor on highlights
    tint    h w 3 factor on colour
    bite    in picture sides, how far the outer (or inner) edge has receded
    inside  the bite is taken from the bore, not from the rim
    rough   standard normal field for the broken edge
    """

    slope: tuple[Field, Field] | None = None
    worn: Field | None = None
    gloss: Field | None = None
    tint: NDArray[np.float32] | None = None
    bite: Field | None = None
    inside: bool = False
    rough: Field | None = None


SOUND = Damage()


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Field, Field]:
    """x and y of the pixel centres, in [-0.5, 0.5] picture sides."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = (np.ascontiguousarray(a, np.float32) for a in np.meshgrid(line, line))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def make_scene(index: int, seed: int, size: int) -> Scene:
    """Draw the part `index` of `seed`, and its noise, at size x size pixels. Raises ConfigError for a bad argument."""
    if not 32 <= size <= 4096:
        raise ConfigError(f"A washer of {size} pixels was asked for; choose a size between 32 and 4096.")
    if index < 0 or seed < 0:
        raise ConfigError(f"Index {index} and seed {seed} were given; both must be 0 or more.")
    rng = np.random.default_rng([seed, index, 0])
    shift = rng.uniform(-0.007, 0.007, 2)
    scale = float(rng.uniform(0.99, 1.01))
    turn = float(rng.uniform(0, 2 * np.pi))
    x, y = _grid(size)
    dx, dy = x - np.float32(shift[0]), y - np.float32(shift[1])
    radius, angle = cv2.cartToPolar(dx, dy)
    safe = np.maximum(radius, 1e-6)
    angle = np.mod(angle + np.float32(turn), np.float32(2 * np.pi))
    tilt = rng.normal(0, 0.04, 2)  # slope of the light's fall-off over the picture
    light = np.float32(rng.uniform(0.95, 1.06)) * (1 + (0.28 + tilt[0]) * -x + (0.34 + tilt[1]) * -y)
    lamps = tuple(
        (a * np.cos(p), a * np.sin(p), power * rng.uniform(0.92, 1.08), warmth)
        for a, azimuth, power, warmth in (
            (0.50, -2.25, 1.0, 0.25),
            (0.42, -0.62, 0.62, -0.5),
            (0.7, 1.2, 0.22, 0.9),
        )
        for p in (azimuth + rng.normal(0, 0.05),)
    )
    return Scene(
        radius,
        dx / safe,
        dy / safe,
        angle,
        scale,
        _marks(radius / np.float32(scale), angle, rng),
        _mat(size, rng),
        light.astype(np.float32),
        lamps,
        (np.array([0.965, 0.985, 1.0]) * rng.normal(1, 0.006, 3)).astype(np.float32),
        rng.standard_normal((size, size, 3), dtype=np.float32),
        float(rng.uniform(0.5, 0.75)) * size / 256,
    )


def _marks(radius: Field, angle: Field, rng: np.random.Generator) -> Field:
    """Lathe marks: rings of a tool whose feed wanders, arcs of differing length, a few deep grooves."""
    rings, steps = _POLAR
    arcs = rng.standard_normal((rings, steps), dtype=np.float32)
    arcs = cv2.blur(np.concatenate([arcs, arcs[:, :96]], axis=1), (97, 1))[:, 48 : 48 + steps] * np.float32(9.8)
    feed = np.cumsum(rng.normal(2 * np.pi / 5.6, 0.25, rings)) + rng.uniform(0, 2 * np.pi)
    ring = 0.9 * np.sin(feed) + 0.75 * rng.standard_normal(rings)
    deep = rng.integers(0, rings, 5)
    ring[deep] += rng.uniform(1.5, 2.6, 5) * rng.choice([-1.0, 1.0], 5)
    # Wider bands, of a tool that wears and wanders: what tells two good parts apart from afar.
    band = np.interp(np.arange(rings), np.linspace(0, rings, 19), rng.standard_normal(19))
    sway = 1 + 0.25 * np.sin(np.arange(steps) * (2 * np.pi / steps) + rng.uniform(0, 2 * np.pi))
    table = ((ring + 0.9 * band)[:, None] * sway[None, :]).astype(np.float32) + 0.55 * arcs
    rows_per_pixel = rings / (0.25 * radius.shape[0])
    table = cv2.GaussianBlur(table, (1, 2 * int(2 * rows_per_pixel) + 1), 0.01, sigmaY=0.45 * rows_per_pixel)
    row = (radius - np.float32(0.17)) * np.float32(rings / 0.25)
    column = angle * np.float32(steps / (2 * np.pi))
    return cv2.remap(table, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _mat(size: int, rng: np.random.Generator) -> Field:
    """A dark rubber mat: clouds, a crumpled skin and grain."""
    mat = np.full((size, size), 0.030, np.float32)
    for cells, contrast in ((7, 0.0022), (40, 0.0052), (128, 0.0060)):
        rough = rng.standard_normal((cells, cells), dtype=np.float32)
        mat += np.float32(contrast) * cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.maximum(mat, np.float32(0.004))


def distances(scene: Scene) -> tuple[Field, Field]:
    """From the rim inwards and from the bore outwards, in picture sides; both positive on the face."""
    rim, bore = np.float32(OUTER * scene.scale), np.float32(INNER * scene.scale)
    return rim - scene.radius, scene.radius - bore


def step(value: Field, soft: float) -> Field:
    """0 below -soft, 1 above soft, smooth between."""
    t = np.clip(value * np.float32(0.5 / soft) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def shade(scene: Scene, damage: Damage) -> NDArray[np.float32]:
    """The light that reaches the lens, after its blur: h w 3 float32, linear, about [0, 1.5]."""
    size = scene.radius.shape[0]
    soft, chamfer = 0.75 / size, _CHAMFER * scene.scale
    to_rim, to_bore = distances(scene)
    fracture: Field | None = None
    edge_rim, edge_bore = to_rim, to_bore
    if damage.bite is not None:
        if damage.inside:
            edge_bore = to_bore - damage.bite
        else:
            edge_rim = to_rim - damage.bite
        edge = edge_bore if damage.inside else edge_rim
        wall = np.minimum(0.55 * damage.bite, 0.020)
        fracture = step(wall - edge, 2 * soft) * step(damage.bite - 0.001, 0.001)
    cover = step(np.minimum(edge_rim, edge_bore), soft)
    bevel = step(chamfer - to_bore, soft) - step(chamfer - to_rim, soft)
    radial = 0.85 * bevel  # gradient of the height along the radius
    worn = np.abs(bevel) * np.float32(0.65)
    if damage.worn is not None:
        worn = np.maximum(worn, damage.worn)
    if fracture is not None and damage.rough is not None:
        out = -1.0 if not damage.inside else 1.0
        worn = np.maximum(worn, fracture)
        radial = radial * (1 - fracture) + fracture * (out * 0.75 + 0.55 * damage.rough)
    radial = radial + 0.16 * (1 - worn) * scene.marks
    gx, gy = radial * scene.cos, radial * scene.sin
    if damage.slope is not None:
        gx, gy = gx + damage.slope[0], gy + damage.slope[1]
    metal = _metal(scene, gx, gy, damage)
    if fracture is not None and damage.rough is not None:
        metal *= (1 - fracture * (0.45 - 0.12 * damage.rough))[..., None]
    shadow = cv2.GaussianBlur(cover, (0, 0), size * 0.018)
    shadow = cv2.warpAffine(
        shadow,
        np.array([[1, 0, size * 0.014], [0, 1, size * 0.018]]),
        (size, size),
        borderMode=cv2.BORDER_REPLICATE,
    )
    mat = (scene.mat * scene.light * (1 - np.float32(0.8) * shadow))[..., None] * np.array([0.95, 1, 1.06], np.float32)
    picture = mat + (metal - mat) * cover[..., None]
    return cv2.GaussianBlur(picture, (0, 0), scene.blur)


def _metal(scene: Scene, gx: Field, gy: Field, damage: Damage) -> NDArray[np.float32]:
    """Light from steel with the gradient (gx, gy): a soft surrounding, and one fan of light per lamp."""
    key = scene.lamps[0]
    around = np.clip(0.085 - 0.15 * (gx * np.float32(key[0]) + gy * np.float32(key[1])), 0.02, 0.5)
    cool, warm = around, around.copy()
    for x, y, power, warmth in scene.lamps:
        qx, qy = gx + np.float32(x), gy + np.float32(y)
        across = qx * scene.cos + qy * scene.sin
        along = qy * scene.cos - qx * scene.sin
        lobe = np.float32(power * 1.1) * np.exp(
            -(across * across) * np.float32(1 / 0.5) - (along * along) * np.float32(1 / 0.035)
        )
        broad = np.float32(power * 0.16) * np.exp(-(qx * qx + qy * qy) * np.float32(1 / 0.6))
        lobe = lobe + broad
        if damage.gloss is not None:
            lobe = lobe * damage.gloss
        cool = cool + np.float32(0.5 - 0.5 * warmth) * lobe
        warm = warm + np.float32(0.5 + 0.5 * warmth) * lobe
    tint = scene.colour
    middle = 0.5 * (cool + warm)
    red, blue = middle + 0.10 * (warm - cool), middle - 0.12 * (warm - cool)
    metal = np.stack([red, middle, blue], axis=2) * (scene.light[..., None] * tint)
    return metal if damage.tint is None else metal * damage.tint


def tone(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """The camera's response: linear light to [0, 1], with a shoulder for highlights."""
    return np.sqrt(np.clip(light * (1 + 0.16 * light) / (1 + 0.75 * light), 0, 1))


def develop(light: NDArray[np.float32], scene: Scene) -> NDArray[np.uint8]:
    """Sensor noise that grows with the light, the camera's response, and 8 bits."""
    noisy = light + scene.grain * np.sqrt(np.float32(2.0e-6) + np.float32(1.1e-4) * light)
    return (tone(np.maximum(noisy, 0)) * 255 + 0.5).clip(0, 255).astype(np.uint8)
