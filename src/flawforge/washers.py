"""The demo's own product: turned steel washers, rendered good or defective. Shares no code with the forge.

A picture is a small scene: a washer with chamfered edges and lathe marks lies on a dark mat under three
lamps. The face is shaded with an anisotropic microfacet lobe (Ward 1992, eq. 5a's exponent, in slope space),
so the highlights open like a fan, as they do on turned metal. Defects are damage to the scene, never paint
on the picture: a scratch and a dent bend the surface, a stain changes its colour and gloss, a chip takes its
edge away; then the same lamps light it again.

Every picture is a pure function of its arguments. A defective picture has the draws of the good picture of
the same index, sensor noise included, and differs from it inside its mask only. All amounts are assumptions,
chosen by eye.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import ConfigError, DataError, Mask

KINDS = ("scratch", "dent", "stain", "chip")

Field = NDArray[np.float32]  # h w, one value per pixel

_OUTER, _INNER = 0.405, 0.185  # radii of the part, in picture sides
_CHAMFER = 0.016  # width of both chamfers, in picture sides
_POLAR = (128, 512)  # radii x angles of the table that holds one part's lathe marks
_VISIBLE = 1.5  # grey levels (of 255) from which a change by a defect belongs to its mask


@dataclass(frozen=True)
class _Scene:
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
class _Damage:
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


_SOUND = _Damage()


def render_good(index: int, seed: int = 0, size: int = 256) -> NDArray[np.uint8]:
    """One good washer: size size 3 uint8 RGB. The same arguments give the same bits.

    size in pixels, 32 to 4096. Raises ConfigError for another size or a negative index or seed.
    """
    scene = _scene(index, seed, size)
    return _develop(_shade(scene, _SOUND), scene)


def render_defect(kind: str, index: int, seed: int = 0, size: int = 256) -> tuple[NDArray[np.uint8], Mask]:
    """One defective washer and its mask: size size 3 uint8 RGB, size size bool.

    Outside the mask it equals `render_good(index, seed, size)` to the bit. kind is one of KINDS.
    Raises ConfigError for an unknown kind, another size or a negative index or seed.
    """
    if kind not in KINDS:
        raise ConfigError(f"The washers have no defect {kind!r}; choose one of {', '.join(KINDS)}.")
    scene = _scene(index, seed, size)
    rng = np.random.default_rng([seed, index, 1 + KINDS.index(kind)])
    damage, amount = _DAMAGES[kind](scene, rng)
    sound, broken = _shade(scene, _SOUND), _shade(scene, damage)
    change = np.abs(_tone(broken) - _tone(sound)).max(axis=2) * 255
    mask = (change > _VISIBLE) | (amount > 0.25)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
    good, bad = _develop(sound, scene), _develop(broken, scene)
    return np.where(mask[..., None], bad, good), mask


def write_demo_parts(
    folder: Path,
    *,
    good: int = 150,
    test_good: int = 40,
    per_kind: int = 10,
    seed: int = 0,
    size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data set of washers in the MVTec layout, as PNG; returns `folder`.

    folder/train/good, folder/test/good, folder/test/KIND and folder/ground_truth/KIND/NNN_mask.png; no part
    appears twice. `progress(done, total)` is called after each picture. Raises DataError where `folder`
    exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already and is not an empty folder; name a new one for the sample parts.")
    jobs: list[tuple[str, str | None]] = [(f"train/good/{i:03d}", None) for i in range(good)]
    jobs += [(f"test/good/{i:03d}", None) for i in range(test_good)]
    jobs += [(f"test/{kind}/{i:03d}", kind) for kind in KINDS for i in range(per_kind)]
    for index, (name, kind) in enumerate(jobs):
        if kind is None:
            _write_png(folder / f"{name}.png", render_good(index, seed, size))
        else:
            picture, mask = render_defect(kind, index, seed, size)
            _write_png(folder / f"{name}.png", picture)
            truth = folder / name.replace("test/", "ground_truth/", 1)
            _write_png(truth.with_name(f"{truth.name}_mask.png"), mask.astype(np.uint8) * 255)
        if progress is not None:
            progress(index + 1, len(jobs))
    return folder


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(code.tobytes())
    part.replace(path)


# --- the scene ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Field, Field]:
    """x and y of the pixel centres, in [-0.5, 0.5] picture sides."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = (np.ascontiguousarray(a, np.float32) for a in np.meshgrid(line, line))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def _scene(index: int, seed: int, size: int) -> _Scene:
    if not 32 <= size <= 4096:
        raise ConfigError(f"A washer of {size} pixels was asked for; choose a size between 32 and 4096.")
    if index < 0 or seed < 0:
        raise ConfigError(f"Index {index} and seed {seed} were given; both must be 0 or more.")
    rng = np.random.default_rng([seed, index, 0])
    shift = rng.uniform(-0.012, 0.012, 2)
    scale = float(rng.uniform(0.985, 1.015))
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
    return _Scene(
        radius, dx / safe, dy / safe, angle, scale,
        _marks(radius / np.float32(scale), angle, rng), _mat(size, rng),
        light.astype(np.float32), lamps,
        (np.array([0.965, 0.985, 1.0]) * rng.normal(1, 0.006, 3)).astype(np.float32),
        rng.standard_normal((size, size, 3), dtype=np.float32), float(rng.uniform(0.5, 0.75)) * size / 256,
    )  # fmt: skip


def _marks(radius: Field, angle: Field, rng: np.random.Generator) -> Field:
    """Lathe marks: rings of a tool whose feed wanders, arcs of differing length, a few deep grooves."""
    rings, steps = _POLAR
    arcs = rng.standard_normal((rings, steps), dtype=np.float32)
    arcs = cv2.blur(np.concatenate([arcs, arcs[:, :96]], axis=1), (97, 1))[:, 48 : 48 + steps] * np.float32(9.8)
    feed = np.cumsum(rng.normal(2 * np.pi / 5.6, 0.25, rings)) + rng.uniform(0, 2 * np.pi)
    ring = 0.9 * np.sin(feed) + 0.75 * rng.standard_normal(rings)
    deep = rng.integers(0, rings, 5)
    ring[deep] += rng.uniform(1.5, 2.6, 5) * rng.choice([-1.0, 1.0], 5)
    sway = 1 + 0.25 * np.sin(np.arange(steps) * (2 * np.pi / steps) + rng.uniform(0, 2 * np.pi))
    table = (ring[:, None] * sway[None, :]).astype(np.float32) + 0.55 * arcs
    rows_per_pixel = rings / (0.25 * radius.shape[0])
    table = cv2.GaussianBlur(table, (1, 2 * int(2 * rows_per_pixel) + 1), 0.01, sigmaY=0.45 * rows_per_pixel)
    row = (radius - np.float32(0.17)) * np.float32(rings / 0.25)
    column = angle * np.float32(steps / (2 * np.pi))
    return cv2.remap(table, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _mat(size: int, rng: np.random.Generator) -> Field:
    """A dark rubber mat: clouds, grain and a few bright specks of dust."""
    clouds = cv2.resize(rng.standard_normal((7, 7), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(rng.standard_normal((128, 128), dtype=np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.maximum(0.030 + 0.0022 * clouds + 0.0065 * grain, 0.004).astype(np.float32)


def _distances(scene: _Scene) -> tuple[Field, Field]:
    """From the rim inwards and from the bore outwards, in picture sides; both positive on the face."""
    rim, bore = np.float32(_OUTER * scene.scale), np.float32(_INNER * scene.scale)
    return rim - scene.radius, scene.radius - bore


# --- light -------------------------------------------------------------------------------------------------


def _step(value: Field, soft: float) -> Field:
    """0 below -soft, 1 above soft, smooth between."""
    t = np.clip(value * np.float32(0.5 / soft) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def _shade(scene: _Scene, damage: _Damage) -> NDArray[np.float32]:
    """The light that reaches the lens, after its blur: h w 3 float32, linear, about [0, 1.5]."""
    size = scene.radius.shape[0]
    soft, chamfer = 0.75 / size, _CHAMFER * scene.scale
    to_rim, to_bore = _distances(scene)
    fracture: Field | None = None
    edge_rim, edge_bore = to_rim, to_bore
    if damage.bite is not None:
        if damage.inside:
            edge_bore = to_bore - damage.bite
        else:
            edge_rim = to_rim - damage.bite
        edge = edge_bore if damage.inside else edge_rim
        wall = np.minimum(0.55 * damage.bite, 0.020)
        fracture = _step(wall - edge, 2 * soft) * _step(damage.bite - 0.001, 0.001)
    cover = _step(np.minimum(edge_rim, edge_bore), soft)
    bevel = _step(chamfer - to_bore, soft) - _step(chamfer - to_rim, soft)
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
    ground = (scene.mat * scene.light * (1 - np.float32(0.8) * shadow))[..., None] * np.array([0.95, 1, 1.06], np.float32)
    picture = ground + (metal - ground) * cover[..., None]
    return cv2.GaussianBlur(picture, (0, 0), scene.blur)


def _metal(scene: _Scene, gx: Field, gy: Field, damage: _Damage) -> NDArray[np.float32]:
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


def _tone(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """The camera's response: linear light to [0, 1], with a shoulder for highlights."""
    return np.sqrt(np.clip(light * (1 + 0.16 * light) / (1 + 0.75 * light), 0, 1))


def _develop(light: NDArray[np.float32], scene: _Scene) -> NDArray[np.uint8]:
    """Sensor noise that grows with the light, the camera's response, and 8 bits."""
    noisy = light + scene.grain * np.sqrt(np.float32(2.0e-6) + np.float32(1.1e-4) * light)
    return (_tone(np.maximum(noisy, 0)) * 255 + 0.5).clip(0, 255).astype(np.uint8)


# --- defects -----------------------------------------------------------------------------------------------


def _slope(height: Field) -> tuple[Field, Field]:
    """Gradient of a height field; heights and pixels in picture sides."""
    size = height.shape[0]
    gy, gx = np.gradient(height, 1 / size)
    return np.asarray(gx, np.float32), np.asarray(gy, np.float32)


def _spot(scene: _Scene, rng: np.random.Generator, margin: float) -> tuple[float, float, float]:
    """A place on the face, from the part's axis: x, y in picture sides, and its direction."""
    radius = rng.uniform(_INNER + margin, _OUTER - margin) * scene.scale
    angle = rng.uniform(0, 2 * np.pi)
    return float(radius * math.cos(angle)), float(radius * math.sin(angle)), float(angle)


def _scratch(scene: _Scene, rng: np.random.Generator) -> tuple[_Damage, Field]:
    """A curved groove, tapered at both ends, a burr on either side; at times a second one."""
    x, y = scene.radius * scene.cos, scene.radius * scene.sin
    centre = _spot(scene, rng, 0.05)
    heading = rng.uniform(0, np.pi)
    bend, half = rng.normal(0, 0.02), rng.uniform(0.05, 0.15)
    height, amount = np.zeros_like(x), np.zeros_like(x)
    for offset in [0.0, *([rng.uniform(0.012, 0.025)] if rng.random() < 0.35 else [])]:
        shift = rng.normal(0, 0.01) if offset else 0.0
        u = (x - centre[0]) * math.cos(heading) + (y - centre[1]) * math.sin(heading) - shift
        v = (y - centre[1]) * math.cos(heading) - (x - centre[0]) * math.sin(heading) - offset
        t = u / half
        d = v - bend * (1 - t * t) - 0.0018 * np.sin(9 * t + offset * 100)
        taper = np.sqrt(np.clip(1 - t * t, 0, 1)) * (0.75 + 0.25 * np.sin(5 * t + heading))
        width = rng.uniform(0.0032, 0.0050) * (0.8 if offset else 1.0)
        groove = np.exp(-((d / width) ** 2)) - 0.45 * np.exp(-(((np.abs(d) - 1.9 * width) / width) ** 2))
        height -= (1.35 * width * taper * groove).astype(np.float32)
        amount = np.maximum(amount, taper * np.exp(-((d / (1.3 * width)) ** 2)))
    amount = amount.astype(np.float32, copy=False)
    return _Damage(slope=_slope(height), worn=np.clip(1.2 * amount, 0, 1), gloss=1 - np.float32(0.3) * amount), amount * _on(
        scene
    )


def _dent(scene: _Scene, rng: np.random.Generator) -> tuple[_Damage, Field]:
    """A blow: an oval hollow with a raised lip; the lathe marks are pressed flat in it."""
    x, y = scene.radius * scene.cos, scene.radius * scene.sin
    cx, cy, _ = _spot(scene, rng, 0.045)
    a = rng.uniform(0.020, 0.042)
    b, heading = a * rng.uniform(0.65, 1.0), rng.uniform(0, np.pi)
    u = ((x - cx) * math.cos(heading) + (y - cy) * math.sin(heading)) / a
    v = ((y - cy) * math.cos(heading) - (x - cx) * math.sin(heading)) / b
    direction = np.arctan2(v, u)
    rho = np.hypot(u, v) * (1 + 0.07 * np.sin(2 * direction + heading) + 0.05 * np.sin(3 * direction + 5 * heading))
    depth = a * rng.uniform(0.17, 0.30)
    hollow = np.clip(1 - rho * rho, 0, 1) ** 2
    lip = 0.16 * np.exp(-(((rho - 1.05) / 0.16) ** 2))
    amount = _step((1.15 - rho).astype(np.float32), 0.15)
    height = (depth * (lip - hollow)).astype(np.float32)
    return _Damage(slope=_slope(height), worn=(0.7 * amount).astype(np.float32)), amount * _on(scene)


def _stain(scene: _Scene, rng: np.random.Generator) -> tuple[_Damage, Field]:
    """Dried oil or the start of rust: smooth in tone, uneven in outline."""
    size = scene.radius.shape[0]
    x, y = scene.radius * scene.cos, scene.radius * scene.sin
    cx, cy, _ = _spot(scene, rng, 0.04)
    a = rng.uniform(0.035, 0.075)
    b, heading = a * rng.uniform(0.55, 0.95), rng.uniform(0, np.pi)
    u = ((x - cx) * math.cos(heading) + (y - cy) * math.sin(heading)) / a
    v = ((y - cy) * math.cos(heading) - (x - cx) * math.sin(heading)) / b
    clouds = cv2.resize(rng.standard_normal((14, 14), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.standard_normal((48, 48), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    rho = np.sqrt(u * u + v * v) + 0.22 * clouds + 0.06 * fine
    rust = rng.random() < 0.5
    amount = _step((1 - rho).astype(np.float32), 0.32 if rust else 0.20) * _on(scene)
    border = np.exp(-(((rho - 0.9) / 0.12) ** 2)) * amount
    strength = rng.uniform(0.55, 0.85) if rust else rng.uniform(0.40, 0.65)
    body = (strength * amount * (1 + 0.22 * fine + 0.15 * clouds) + 0.22 * border * (not rust)).clip(0, 1).astype(np.float32)
    colour = np.array([0.80, 0.50, 0.27] if rust else [0.66, 0.55, 0.36], np.float32)
    tint = 1 - body[..., None] * (1 - colour)
    gloss = 1 - (0.55 if rust else 0.25) * body
    return _Damage(worn=(0.6 * body), gloss=gloss, tint=tint), amount


def _chip(scene: _Scene, rng: np.random.Generator) -> tuple[_Damage, Field]:
    """Material broken out of the rim or the bore: the mat shows in the gap, its wall is rough and dark."""
    size = scene.radius.shape[0]
    inside = rng.random() < 0.3
    reach = rng.uniform(0.020, 0.048) * (0.8 if inside else 1.0)
    half = reach * rng.uniform(0.9, 1.7) / (_INNER if inside else _OUTER)
    where = rng.uniform(0, 2 * np.pi)
    t = (np.mod(scene.angle - np.float32(where) + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)) / half
    skew = t + np.float32(rng.uniform(-0.3, 0.3)) * (1 - t * t)
    knots = rng.standard_normal(15)
    jag = np.interp(t, np.linspace(-1.2, 1.2, 15), knots).astype(np.float32)
    profile = np.clip(1 - np.abs(skew) ** 2.2, 0, 1) ** 0.75
    bite = (reach * profile * (1 + 0.13 * jag)).clip(0, None).astype(np.float32)
    bite = np.where(np.abs(t) < 1.4, bite, np.float32(0))
    rough = cv2.resize(rng.standard_normal((110, 110), dtype=np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    to_rim, to_bore = _distances(scene)
    edge = to_bore if inside else to_rim
    gone = (_step(bite + np.minimum(0.55 * bite, 0.02) - edge, 0.5 / size) * (bite > 0.001) * _on(scene)).astype(np.float32)
    return _Damage(bite=bite, inside=inside, rough=rough), gone


def _on(scene: _Scene) -> Field:
    """1 on the sound part, 0 on the mat."""
    to_rim, to_bore = _distances(scene)
    return _step(np.minimum(to_rim, to_bore), 0.75 / scene.radius.shape[0])


_DAMAGES: dict[str, Callable[[_Scene, np.random.Generator], tuple[_Damage, Any]]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "chip": _chip,
}
