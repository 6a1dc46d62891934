"""Cut-and-paste forgeries: the picture's own pixels in the wrong place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from flawforge.forge import blend, shapes
from flawforge.types import Forged, Image, Sample

Range = float | tuple[float, float]


@dataclass(frozen=True)
class CutPaste:
    """CutPaste (Li, Sohn, Yoon, Pfister, CVPR 2021, appendix A.2): a patch or a scar of the picture is pasted elsewhere.

    shape    "patch", "scar", or "both": one of the two by a coin
    area     patch: share of the picture's area; source 0.02 to 0.15
    aspect   patch: height / width, even in its logarithm; source 0.3 to 3.3
    width    scar: px on a side of 256, scaled with the picture's shorter side; source 2 to 16
    length   scar: likewise; source 10 to 25
    turn     scar: up to this many degrees either way; source 45
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
        blend.check_range(self.name, "aspect", self.aspect, 0.05, 20.0)
        blend.check_range(self.name, "width", self.width, 1.0, 128.0, "px at 256")
        blend.check_range(self.name, "length", self.length, 2.0, 256.0, "px at 256")
        blend.check_range(self.name, "turn", self.turn, 0.0, 180.0, "degrees")
        blend.check_range(self.name, "jitter", self.jitter, 0.0, 1.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        def attempt() -> blend.Attempt:
            shape = self.shape
            if shape == "both":
                shape = "patch" if rng.random() < 0.5 else "scar"
            return self._patch(sample.image, rng) if shape == "patch" else self._scar(sample.image, rng)

        return blend.settle(sample, rng, self.name, self.least_change, attempt)

    def _patch(self, image: Image, rng: np.random.Generator) -> blend.Attempt:
        size = image.shape[:2]
        area = self.area if isinstance(self.area, tuple) else (self.area, self.area)
        bh, bw = shapes.box_inside(size, rng, area, self.aspect)
        (sy, sx), (ty, tx) = shapes.corner_for(size, (bh, bw), rng), shapes.corner_for(size, (bh, bw), rng)
        patch = jitter_colour(image[sy : sy + bh, sx : sx + bw], self.jitter, rng)
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
        candidate, mask = paste_turned(image, source, target, (width, length), degrees, self.jitter, rng)
        drawn: dict[str, Any] = {
            "shape": "scar", "from": list(source), "to": list(target), "size": [length, width], "turn": degrees
        }  # fmt: skip
        return candidate, mask, drawn


def paste_turned(
    image: Image,
    source: tuple[float, float],
    target: tuple[float, float],
    size: tuple[float, float],
    degrees: float,
    jitter: float,
    rng: np.random.Generator,
    copy: Image | None = None,
) -> tuple[Image, np.ndarray[Any, np.dtype[np.bool_]]]:
    """An upright box of `copy` (default: the picture) about `source`, turned, pasted about `target`.

    Points are (x, y) px, size is (width, height) px. Outside the picture the source is mirrored at the border.
    Only the target's own bounding box is worked on. Returns the candidate picture and the turned outline.
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
        image if copy is None else copy, back, (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    under = image[rows, columns]
    candidate[rows, columns] = jitter_colour(piece.reshape(under.shape), jitter, rng)
    return candidate, mask


def jitter_colour(patch: Image, strength: float, rng: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue changed by up to `strength` each, in random order (torchvision's meaning).

    Hue moves by up to strength x half a turn. Saturation and hue leave grey pictures and one channel alone.
    """
    if strength == 0.0 or patch.size == 0:
        return patch
    factor = rng.uniform(1.0 - strength, 1.0 + strength, 3)
    shift = float(rng.uniform(-strength, strength)) * 180.0
    out = patch.astype(np.float32) / np.float32(blend.full_range(patch))
    colour = not blend.is_grey(patch)
    for step in rng.permutation(3):
        if step == 0:
            out = out * np.float32(factor[0])
        elif step == 1:
            out = (out - out.mean()) * np.float32(factor[1]) + out.mean()
        elif colour:
            hsv = cv2.cvtColor(np.clip(out, 0.0, 1.0), cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + np.float32(shift)) % np.float32(360.0)
            hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(factor[2]), 1.0)
            out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        out = np.clip(out, 0.0, 1.0)
    if patch.dtype == np.uint8:
        return np.asarray(np.rint(out * np.float32(255.0)), np.uint8)
    return np.asarray(out, np.float32)
