"""Cut-and-paste forgeries: the picture's own pixels in the wrong place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from flawforge.forge import blend, shapes
from flawforge.types import ConfigError, Forged, Image, Mask, Sample

Range = float | tuple[float, float]
Jitter = tuple[float, float, float, float]  # brightness, contrast, saturation, hue


@dataclass(frozen=True)
class CutPaste:
    """CutPaste (Li, Sohn, Yoon, Pfister, CVPR 2021, appendix A.2): a patch or a scar of the picture is pasted elsewhere.

    shape    "patch", "scar", or "both": one of the two at random
    area     patch: share of the picture's area; source 0.02 to 0.15
    aspect   patch: height / width, uniform in its logarithm; source 0.3 to 3.3
    width    scar: px on a side of 256, scaled with the picture's shorter side; source 2 to 16
    length   scar: likewise; source 10 to 25
    turn     scar: rotated by up to this many degrees either way; source 45
    jitter   brightness, contrast, saturation and hue of the patch each change by up to this share; source 0.1

    The scar's turned pixels are interpolated bilinearly (assumption; the paper does not say).
    """

    shape: str = "both"
    area: Range = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    width: Range = (2.0, 16.0)
    length: Range = (10.0, 25.0)
    turn: float = 45.0
    jitter: float = 0.1

    name: ClassVar[str] = "cutpaste"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        blend.check_choice(self.name, "shape", self.shape, ("patch", "scar", "both"))
        blend.check_range(self.name, "area", self.area, 0.0005, 0.5, "of the picture's area")
        blend.check_range(self.name, "aspect", self.aspect, 0.05, 20.0, form="pair")
        blend.check_range(self.name, "width", self.width, 1.0, 128.0, "px at 256")
        blend.check_range(self.name, "length", self.length, 2.0, 256.0, "px at 256")
        blend.check_range(self.name, "turn", self.turn, 0.0, 180.0, "degrees", form="number")
        blend.check_range(self.name, "jitter", self.jitter, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        def attempt() -> blend.Attempt:
            shape = self.shape
            if shape == "both":
                shape = "patch" if rng.random() < 0.5 else "scar"
            return self._patch(sample.image, rng) if shape == "patch" else self._scar(sample.image, rng)

        return blend.settle(sample, rng, self.name, self.least_change, attempt)

    def _patch(self, image: Image, rng: np.random.Generator) -> blend.Attempt:
        size = image.shape[:2]
        bh, bw = shapes.box_inside(size, rng, _pair(self.area), self.aspect)
        (sy, sx), (ty, tx) = shapes.corner_for(size, (bh, bw), rng), shapes.corner_for(size, (bh, bw), rng)
        patch = jitter_colour(image[sy : sy + bh, sx : sx + bw], (self.jitter,) * 4, rng)
        candidate, mask = image.copy(), np.zeros(size, bool)
        candidate[ty : ty + bh, tx : tx + bw] = patch
        mask[ty : ty + bh, tx : tx + bw] = True
        return candidate, mask, {"shape": "patch", "from": [sy, sx], "to": [ty, tx], "size": [bh, bw]}

    def _scar(self, image: Image, rng: np.random.Generator) -> blend.Attempt:
        h, w = image.shape[:2]
        unit = min(h, w) / 256.0
        width = max(2.0, blend.draw(rng, self.width) * unit)
        length = max(5.0, blend.draw(rng, self.length) * unit)
        degrees = float(rng.uniform(-self.turn, self.turn))
        source = (float(rng.uniform(0, w)), float(rng.uniform(0, h)))
        target = (float(rng.uniform(0, w)), float(rng.uniform(0, h)))
        candidate, mask = paste_turned(image, source, target, (width, length), degrees, (self.jitter,) * 4, rng)
        drawn: dict[str, Any] = {
            "shape": "scar",
            "from": list(source),
            "to": list(target),
            "size": [length, width],
            "turn": degrees,
        }
        return candidate, mask, drawn


def paste_turned(
    image: Image,
    source: tuple[float, float],
    target: tuple[float, float],
    size: tuple[float, float],
    degrees: float,
    jitter: Jitter,
    rng: np.random.Generator,
    copy: Image | None = None,
) -> tuple[Image, Mask]:
    """An upright box of `copy` (default: the picture) centred on `source`, rotated, pasted at `target`.

    Points are (x, y) px, size is (width, height) px. Outside the picture the source is mirrored at the border.
    Only the target's bounding box is processed. Returns the candidate picture and the rotated outline.
    """
    h, w = image.shape[:2]
    corners = shapes.turned_box(target, size, degrees)
    mask = shapes.polygon((h, w), corners)
    rows, columns = blend.bounding_box(mask)
    candidate = image.copy()
    if rows.stop == rows.start:
        return candidate, mask
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    back = np.array([[c, s, 0.0], [-s, c, 0.0]])  # target -> source: undo the turn
    back[:, 2] = np.asarray(source) - back[:, :2] @ (np.asarray(target) - [columns.start, rows.start])
    piece = cv2.warpAffine(
        image if copy is None else copy,
        back,
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    under = image[rows, columns]
    candidate[rows, columns] = jitter_colour(piece.reshape(under.shape), jitter, rng)
    return candidate, mask


def jitter_colour(patch: Image, strength: Jitter, rng: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation and hue by up to their strengths, in random order, as torchvision does.

    The first three by a factor within 1 +- strength; hue by up to the strength as a share of a full turn. Saturation and
    hue do not change grey pictures or single channels. Contrast is relative to the patch's own mean.
    """
    factor = [float(rng.uniform(1.0 - s, 1.0 + s)) for s in strength[:3]]
    shift = float(rng.uniform(-strength[3], strength[3])) * 360.0
    order = rng.permutation(3)
    if max(strength) == 0.0 or patch.size == 0:
        return patch
    out = blend.to_unit(patch)
    colour = not blend.is_grey(patch)
    for step in order:
        if step == 0:
            out = out * np.float32(factor[0])
        elif step == 1:
            middle = out.mean()
            out = (out - middle) * np.float32(factor[1]) + middle
        elif colour:
            hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + np.float32(shift)) % np.float32(360.0)
            hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(factor[2]), 1.0)
            out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        out = np.clip(out, 0.0, 1.0)
    return blend.from_unit(out, patch)


@dataclass(frozen=True)
class HardAugment:
    """AnoSeg (Song et al., arXiv 2110.03396, figure 3): a patch of a strongly altered copy is pasted on the original.

    The copy is rotated by a multiple of 90 degrees, its halves swapped along either axis, its colours jittered, each
    with probability `chance`; the patch comes from anywhere on it, is pasted anywhere, and can be rotated and cross the
    border.

    chance   probability of each of the three alterations; source 0.5
    area     share of the picture's area; assumption: CutPaste's 0.02 to 0.15 (the figures show 0.135 and about 0.16)
    aspect   height / width, uniform in its logarithm; assumption: CutPaste's 0.3 to 3.3
    turn     largest rotation in degrees, of half of the patches; assumption 45 (one of two figures shows a rotated patch)
    jitter   brightness, contrast, saturation, hue; assumption 0.4, 0.4, 0.4, 0.1, which fits the measured figure
    least_share  redrawn when less than this share of the outline changed; assumption 0.05
    """

    chance: float = 0.5
    area: Range = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    turn: float = 45.0
    jitter: Jitter = (0.4, 0.4, 0.4, 0.1)
    least_share: float = 0.05

    name: ClassVar[str] = "hard_augment"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        blend.check_range(self.name, "chance", self.chance, 0.0, 1.0, form="number")
        blend.check_range(self.name, "area", self.area, 0.0005, 0.5, "of the picture's area")
        blend.check_range(self.name, "aspect", self.aspect, 0.05, 20.0, form="pair")
        blend.check_range(self.name, "turn", self.turn, 0.0, 180.0, "degrees", form="number")
        check_jitter(self.name, self.jitter)
        blend.check_range(self.name, "least_share", self.least_share, 0.0, 0.9, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(
            sample, rng, self.name, self.least_change, lambda: self._attempt(sample.image, rng), self.least_share
        )

    def _attempt(self, image: Image, rng: np.random.Generator) -> blend.Attempt:
        rotate, permute, jitter = (bool(v) for v in rng.random(3) < self.chance)
        quarter = int(rng.integers(1, 4)) if rotate else 0
        halves = [bool(v) for v in rng.random(2) < 0.5] if permute else [False, False]
        copy = np.rot90(image, quarter)
        copy = np.roll(copy, [s // 2 * h for s, h in zip(copy.shape[:2], halves, strict=True)], axis=(0, 1))
        copy = np.ascontiguousarray(copy)
        (h, w), (ch, cw) = image.shape[:2], copy.shape[:2]
        bh, bw = shapes.box_inside((h, w), rng, _pair(self.area), self.aspect)
        bh, bw = min(bh, ch), min(bw, cw)
        source = (float(rng.uniform(bw / 2, cw - bw / 2)), float(rng.uniform(bh / 2, ch - bh / 2)))
        target = (float(rng.uniform(0, w)), float(rng.uniform(0, h)))
        degrees = float(rng.uniform(-self.turn, self.turn)) if rng.random() < 0.5 else 0.0
        strength = self.jitter if jitter else (0.0,) * 4
        candidate, mask = paste_turned(image, source, target, (bw, bh), degrees, strength, rng, copy)
        drawn = {
            "rotate": 90 * quarter,
            "halves": halves,
            "jitter": jitter,
            "from": list(source),
            "to": list(target),
            "size": [bh, bw],
            "turn": degrees,
        }
        return candidate, mask, drawn


def _pair(value: Range) -> tuple[float, float]:
    return (value[0], value[1]) if isinstance(value, tuple | list) else (value, value)


def check_jitter(name: str, jitter: Jitter) -> None:
    """Raise ConfigError unless jitter is four numbers in [0, 1], the last at most 0.5."""
    fine = isinstance(jitter, tuple | list) and len(jitter) == 4
    if not fine or not all(isinstance(v, int | float) and 0.0 <= v <= 1.0 for v in jitter) or jitter[3] > 0.5:
        raise ConfigError(
            f"{name}: jitter is {jitter!r}; it must be four numbers (brightness, contrast, saturation, hue) "
            f"between 0 and 1, the last at most 0.5."
        )
