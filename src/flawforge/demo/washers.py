"""The demo's own product: turned steel washers, rendered good or defective. Shares no code with the forge.

Defects are damage to the scene of `steel`, never paint on the picture: a scratch and a dent bend the surface, a stain
changes its colour and gloss, a chip takes its edge away; then the same lamps light it again.

Every picture is a pure function of its arguments. A defective picture has the draws of the good picture of the same
index, sensor noise included, and differs from it inside its mask only. All amounts are assumptions, chosen by eye.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.demo.scene import INNER, OUTER, SOUND, Damage, Field, Scene, develop, distances, make_scene, shade, step, tone
from flawforge.types import ConfigError, DataError, Mask
from flawforge_runtime.files import new_folder

KINDS = ("scratch", "dent", "stain", "chip")

_VISIBLE = 1.5  # grey levels (of 255) from which a change by a defect belongs to its mask


def render_good(index: int, seed: int = 0, size: int = 256) -> NDArray[np.uint8]:
    """One good washer: size size 3 uint8 RGB. The same arguments give the same bits.

    size in pixels, 32 to 4096. Raises ConfigError for another size or a negative index or seed.
    """
    scene = make_scene(index, seed, size)
    return develop(shade(scene, SOUND), scene)


def render_defect(kind: str, index: int, seed: int = 0, size: int = 256) -> tuple[NDArray[np.uint8], Mask]:
    """One defective washer and its mask: size size 3 uint8 RGB, size size bool.

    Outside the mask it equals `render_good(index, seed, size)` to the bit. kind is one of KINDS.
    Raises ConfigError for an unknown kind, another size or a negative index or seed.
    """
    if kind not in KINDS:
        raise ConfigError(f"The washers have no defect {kind!r}; choose one of {', '.join(KINDS)}.")
    scene = make_scene(index, seed, size)
    rng = np.random.default_rng([seed, index, 1 + KINDS.index(kind)])
    damage, amount = _DAMAGES[kind](scene, rng)
    sound, broken = shade(scene, SOUND), shade(scene, damage)
    change = np.abs(tone(broken) - tone(sound)).max(axis=2) * 255
    mask = (change > _VISIBLE) | (amount > 0.25)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
    good, bad = develop(sound, scene), develop(broken, scene)
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
    appears twice. All of it is there at the end, or nothing. `progress(done, total)` is called after each
    picture. Raises DataError where `folder` exists and is not empty.
    """
    jobs: list[tuple[str, str | None]] = [(f"train/good/{i:03d}", None) for i in range(good)]
    jobs += [(f"test/good/{i:03d}", None) for i in range(test_good)]
    jobs += [(f"test/{kind}/{i:03d}", kind) for kind in KINDS for i in range(per_kind)]
    try:
        with new_folder(Path(folder)) as draft:
            for index, (name, kind) in enumerate(jobs):
                _write_part(draft, name, kind, index, seed, size)
                if progress is not None:
                    progress(index + 1, len(jobs))
    except FileExistsError as error:
        raise DataError(
            f"{folder} exists already and is not an empty folder; name a new one for the sample parts."
        ) from error
    return Path(folder)


def _write_part(folder: Path, name: str, kind: str | None, index: int, seed: int, size: int) -> None:
    if kind is None:
        _write_png(folder / f"{name}.png", render_good(index, seed, size))
        return
    picture, mask = render_defect(kind, index, seed, size)
    _write_png(folder / f"{name}.png", picture)
    truth = folder / name.replace("test/", "ground_truth/", 1)
    _write_png(truth.with_name(f"{truth.name}_mask.png"), mask.astype(np.uint8) * 255)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]
    path.write_bytes(code.tobytes())


# --- defects --------------------------------------------------------------------------------------


def _slope(height: Field) -> tuple[Field, Field]:
    """Gradient of a height field; heights and pixels in picture sides."""
    size = height.shape[0]
    gy, gx = np.gradient(height, 1 / size)
    return np.asarray(gx, np.float32), np.asarray(gy, np.float32)


def _spot(scene: Scene, rng: np.random.Generator, margin: float) -> tuple[float, float, float]:
    """A place on the face, from the part's axis: x, y in picture sides, and its direction."""
    radius = rng.uniform(INNER + margin, OUTER - margin) * scene.scale
    angle = rng.uniform(0, 2 * np.pi)
    return float(radius * math.cos(angle)), float(radius * math.sin(angle)), float(angle)


def _scratch(scene: Scene, rng: np.random.Generator) -> tuple[Damage, Field]:
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
    return Damage(slope=_slope(height), worn=np.clip(1.2 * amount, 0, 1), gloss=1 - np.float32(0.3) * amount), amount * _on(
        scene
    )


def _dent(scene: Scene, rng: np.random.Generator) -> tuple[Damage, Field]:
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
    amount = step((1.15 - rho).astype(np.float32), 0.15)
    height = (depth * (lip - hollow)).astype(np.float32)
    return Damage(slope=_slope(height), worn=(0.7 * amount).astype(np.float32)), amount * _on(scene)


def _stain(scene: Scene, rng: np.random.Generator) -> tuple[Damage, Field]:
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
    amount = step((1 - rho).astype(np.float32), 0.32 if rust else 0.20) * _on(scene)
    border = np.exp(-(((rho - 0.9) / 0.12) ** 2)) * amount
    strength = rng.uniform(0.55, 0.85) if rust else rng.uniform(0.40, 0.65)
    body = (strength * amount * (1 + 0.22 * fine + 0.15 * clouds) + 0.22 * border * (not rust)).clip(0, 1).astype(np.float32)
    colour = np.array([0.80, 0.50, 0.27] if rust else [0.66, 0.55, 0.36], np.float32)
    tint = 1 - body[..., None] * (1 - colour)
    gloss = 1 - (0.55 if rust else 0.25) * body
    return Damage(worn=(0.6 * body), gloss=gloss, tint=tint), amount


def _chip(scene: Scene, rng: np.random.Generator) -> tuple[Damage, Field]:
    """Material broken out of the rim or the bore: the mat shows in the gap, its wall is rough and dark."""
    size = scene.radius.shape[0]
    inside = rng.random() < 0.3
    reach = rng.uniform(0.020, 0.048) * (0.8 if inside else 1.0)
    half = reach * rng.uniform(0.9, 1.7) / (INNER if inside else OUTER)
    where = rng.uniform(0, 2 * np.pi)
    t = (np.mod(scene.angle - np.float32(where) + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)) / half
    skew = t + np.float32(rng.uniform(-0.3, 0.3)) * (1 - t * t)
    knots = rng.standard_normal(15)
    jag = np.interp(t, np.linspace(-1.2, 1.2, 15), knots).astype(np.float32)
    profile = np.clip(1 - np.abs(skew) ** 2.2, 0, 1) ** 0.75
    bite = (reach * profile * (1 + 0.13 * jag)).clip(0, None).astype(np.float32)
    bite = np.where(np.abs(t) < 1.4, bite, np.float32(0))
    rough = cv2.resize(rng.standard_normal((110, 110), dtype=np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    to_rim, to_bore = distances(scene)
    edge = to_bore if inside else to_rim
    gone = (step(bite + np.minimum(0.55 * bite, 0.02) - edge, 0.5 / size) * (bite > 0.001) * _on(scene)).astype(np.float32)
    return Damage(bite=bite, inside=inside, rough=rough), gone


def _on(scene: Scene) -> Field:
    """1 on the sound part, 0 on the mat."""
    to_rim, to_bore = distances(scene)
    return step(np.minimum(to_rim, to_bore), 0.75 / scene.radius.shape[0])


_DAMAGES: dict[str, Callable[[Scene, np.random.Generator], tuple[Damage, Any]]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "chip": _chip,
}
