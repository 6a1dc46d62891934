"""Corrupted regions: ISSTAD's two recipes, and NSA's patches, which are blended in by solving Poisson's equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from flawforge.forge import blend, shapes
from flawforge.forge.paste import jitter_colour
from flawforge.types import Forged, Image, Sample

Range = float | tuple[float, float]
NATIVE = 900.0  # px, the side that ISSTAD's and MVTec AD's native sizes are taken to have; lengths scale with it


@dataclass(frozen=True)
class PixelCorrupt:
    """ISSTAD (Jin, Guo, Zhu, arXiv 2303.17354) as in its released code: an altered copy of the picture shows through shapes.

    version  "new" (released code): 1 to `shapes` filled rectangles, ellipses or polygons in the object's box, filled from a
             copy of the picture that was altered by one of: colour (jitter, grey, blur and pairs of these), flip, noise;
             "old" (the overview figure): 1 to `patches` rectangles, each altered in place
    shapes   the largest number of shapes of "new"; source 3 (1 for two of the categories)
    patches  the largest number of patches of "old"; source 100
    region   "object": the bounding box of the largest Otsu contour, padded by 10 % of its width and 20 % of its height;
             "full": the whole picture (source: for three categories)
    blur     standard deviation in px at a side of 900, scaled with the picture; source 15 to 20

    Differences: the mask holds exactly the changed pixels (the source resizes and truncates it, so its border pixels become
    normal); lengths of "new" scale with the picture's shorter side / 900 px (assumption; the source works at native
    size), those of "old" are the source's pixels, unscaled;
    the grey alteration is skipped on grey pictures.
    """

    version: str = "new"
    shapes: int = 3
    patches: int = 100
    region: str = "object"
    blur: Range = (15.0, 20.0)

    name: ClassVar[str] = "pixel_corrupt"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        blend.check_choice(self.name, "version", self.version, ("new", "old"))
        blend.check_choice(self.name, "shapes", self.shapes, tuple(range(1, 21)))
        blend.check_range(self.name, "patches", self.patches, 1, 1000, form="number")
        blend.check_choice(self.name, "region", self.region, ("object", "full"))
        blend.check_range(self.name, "blur", self.blur, 0.5, 100.0, "px at 900")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        blend.check_sample(sample)
        if self.version == "old":
            return blend.settle(sample, rng, self.name, self.least_change, lambda: self._old(sample.image, rng))
        h, w = sample.image.shape[:2]
        box = object_box(sample.image) if self.region == "object" else (0, 0, h, w)
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._new(sample.image, box, rng))

    def _new(self, image: Image, box: tuple[int, int, int, int], rng: np.random.Generator) -> blend.Attempt:
        copy, change = self._altered(image, rng)
        count = int(rng.integers(1, self.shapes + 1))
        mask = np.zeros(image.shape[:2], np.uint8)
        kinds = [_fill_shape(mask, box, min(image.shape[:2]) / NATIVE, rng) for _ in range(count)]
        return copy, mask.astype(bool), {"version": "new", "change": change, "shapes": kinds, "region": list(box)}

    def _altered(self, image: Image, rng: np.random.Generator) -> tuple[Image, str]:
        """A changed copy of the whole picture: colour, flip or noise, each as likely."""
        family = ("colour", "flip", "noise")[int(rng.integers(3))]
        if family == "flip":
            axis = int(rng.integers(-1, 2))
            return np.asarray(cv2.flip(image, axis)).reshape(image.shape), f"flip {axis}"
        if family == "noise":
            c = 1 if blend.is_grey(image) else 3
            static = np.broadcast_to(rng.integers(0, 256, (*image.shape[:2], c), dtype=np.uint8), image.shape)
            return blend.mix_over(image, blend.as_dtype(np.ascontiguousarray(static), image), 0.5), "noise"
        sigma = blend.draw(rng, self.blur) * min(image.shape[:2]) / NATIVE
        options = ["jitter", "blur", "jitter blur"]
        if not blend.is_grey(image):
            options += ["grey", "jitter grey", "grey blur"]
        chosen = options[int(rng.integers(len(options)))]
        copy = image
        if "jitter" in chosen:
            copy = jitter_colour(copy, (0.8, 0.8, 0.8, 0.4), rng)
        if "grey" in chosen:
            copy = _greyed(copy)
        if "blur" in chosen:
            copy = blend.soften(copy, sigma)
        return copy, chosen

    def _old(self, image: Image, rng: np.random.Generator) -> blend.Attempt:
        h, w = image.shape[:2]
        candidate, mask = image.copy(), np.zeros((h, w), bool)
        count = int(rng.integers(1, self.patches + 1))
        for _ in range(count):
            bh, bw = (int(rng.integers(8, 8 + max(1, (side - 8) // 8) + 1)) for side in (h, w))
            y, x = shapes.corner_for((h, w), (bh, bw), rng)
            candidate[y : y + bh, x : x + bw] = _in_place(candidate[y : y + bh, x : x + bw], rng)
            mask[y : y + bh, x : x + bw] = True
        return candidate, mask, {"version": "old", "patches": count}


def _in_place(patch: Image, rng: np.random.Generator) -> Image:
    """One of ISSTAD's eight old alterations, each as likely: single colour change, flip, all colour changes with a flip."""
    kind = int(rng.integers(8))
    patch = np.ascontiguousarray(patch)
    shape = patch.shape
    if kind in (0, 3, 6, 7):
        patch = jitter_colour(patch, (0.4, 0.4, 0.4, 0.1), rng)
    if kind in (1, 3, 6, 7):
        patch = _greyed(patch)
    if kind in (2, 3, 6, 7):
        patch = blend.soften(patch, float(rng.uniform(0.1, 2.0)))
    if kind in (4, 6):
        patch = cv2.flip(patch, 1)
    if kind in (5, 7):
        patch = cv2.flip(patch, 0)
    return np.asarray(patch).reshape(shape)


def _greyed(picture: Image) -> Image:
    if picture.shape[2] == 1:
        return picture
    return np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def object_box(image: Image) -> tuple[int, int, int, int]:
    """(y, x, height, width) of the largest Otsu contour's bounding box, padded, clipped to the picture."""
    h, w = image.shape[:2]
    eight = blend.as_uint8(image)
    grey = eight[..., 0] if eight.shape[2] == 1 else cv2.cvtColor(eight, cv2.COLOR_RGB2GRAY)
    _, binary = cv2.threshold(np.ascontiguousarray(grey), 0, 255, cv2.THRESH_OTSU)
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return 0, 0, h, w
    x, y, bw, bh = cv2.boundingRect(max(contours, key=cv2.contourArea))
    top, left = max(0, int(y - 0.2 * bh)), max(0, int(x - 0.1 * bw))
    bottom, right = min(h, int(y + 1.2 * bh) + 1), min(w, int(x + 1.1 * bw) + 1)
    return (top, left, bottom - top, right - left) if min(bottom - top, right - left) >= 16 else (0, 0, h, w)


def _fill_shape(mask: np.ndarray[Any, Any], box: tuple[int, int, int, int], unit: float, rng: np.random.Generator) -> str:
    """Fill a random rectangle, ellipse or polygon into mask (uint8, changed in place); its corner lies in the box."""
    top, left, height, width = box
    margin, least = 50.0 * unit, max(3.0, 10.0 * unit)
    y = top + rng.uniform(0.0, max(1.0, height - margin - least))
    x = left + rng.uniform(0.0, max(1.0, width - margin - least))
    bh = rng.uniform(least, max(least + 1.0, top + height - y))
    bw = rng.uniform(least, max(least + 1.0, left + width - x))
    kind = ("rectangle", "ellipse", "polygon")[int(rng.integers(3))]
    if kind == "rectangle":
        mask[int(y) : int(y + bh) + 1, int(x) : int(x + bw) + 1] = 1
    elif kind == "ellipse":
        centre, axes = (round(x + bw / 2), round(y + bh / 2)), (max(1, round(bw / 2)), max(1, round(bh / 2)))
        cv2.ellipse(mask, centre, axes, 0.0, 0.0, 360.0, 1, -1)
    else:
        corners = rng.uniform((x, y), (x + bw, y + bh), (int(rng.integers(3, 9)), 2))
        mask |= shapes.polygon((mask.shape[0], mask.shape[1]), corners)
    return kind


@dataclass(frozen=True)
class Nsa:
    """NSA (Schlueter, Liu, Hou, Kainz, ECCV 2022): patches of another good picture, blended in seamlessly (Perez 2003).

    count    the largest number of patches; the first always, each further one with probability 0.5; source 3 to 4
    size     (least, most) half side of a patch as share of the picture's side, drawn as 0.03 + Gamma(2, 0.05) and clipped
             to these; source: bounds per class, assumption 0.03 to 0.25
    scale    patches are resized by N(1, 0.5) clipped to this; source 0.7 to 1.3 for objects, 0.5 to 2 for textures
    mode     "normal" (source: objects) or "mixed" (source: textures), OpenCV's seamlessClone
    overlap  with Sample.prior, the least share of salient (> 0.5) pixels under the patch; the source uses a grey threshold
             per class instead

    Without Sample.other the flipped picture itself is used, and drawn["other"] says so. The mask holds the pixels that
    changed by `least_change`; smaller changes are undone, so that the mask is exact (the source labels by a threshold on
    the median-filtered change). Redrawn when less than 0.3 of the patches' area changed.
    """

    count: int = 3
    size: tuple[float, float] = (0.03, 0.25)
    scale: tuple[float, float] = (0.7, 1.3)
    mode: str = "normal"
    overlap: float = 0.25

    name: ClassVar[str] = "nsa"
    least_change: ClassVar[float] = 3 / 255

    def __post_init__(self) -> None:
        blend.check_choice(self.name, "count", self.count, tuple(range(1, 11)))
        blend.check_range(self.name, "size", self.size, 0.01, 0.45, "of the side", form="pair")
        blend.check_range(self.name, "scale", self.scale, 0.25, 4.0, form="pair")
        blend.check_choice(self.name, "mode", self.mode, ("normal", "mixed"))
        blend.check_range(self.name, "overlap", self.overlap, 0.0, 1.0, form="number")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        def attempt() -> blend.Attempt:
            current, mask = blend.as_uint8(sample.image), np.zeros(sample.image.shape[:2], bool)
            source, note = blend.as_uint8(sample.other) if sample.other is not None else None, "given"
            if source is None:
                axis = int(rng.integers(-1, 2))
                source, note = np.asarray(cv2.flip(current, axis)).reshape(current.shape), f"flip {axis}"
            boxes: list[list[int]] = []
            while len(boxes) < self.count and (not boxes or rng.random() < 0.5):
                current, box = self._clone(current, source, sample, rng)
                mask[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
                boxes.append(box)
            candidate = blend.as_change(sample.image, current)
            return candidate, mask, {"other": note, "mode": self.mode, "boxes": boxes}

        return blend.settle(sample, rng, self.name, self.least_change, attempt, 0.3)

    def _clone(self, current: Image, source: Image, sample: Sample, rng: np.random.Generator) -> tuple[Image, list[int]]:
        """The picture with one more patch, and the patch's box (y, x, height, width)."""
        h, w = current.shape[:2]
        half = np.clip(0.03 + rng.gamma(2.0, 0.05, 2), *self.size)
        bh, bw = (int(np.clip(round(2.0 * s * side), 6, side - 4)) for s, side in zip(half, (h, w), strict=True))
        sy, sx = shapes.corner_for((h, w), (bh, bw), rng)
        scale = float(np.clip(rng.normal(1.0, 0.5), *self.scale))
        th, tw = (int(np.clip(round(scale * b), 6, side - 4)) for b, side in zip((bh, bw), (h, w), strict=True))
        patch = cv2.resize(source[sy : sy + bh, sx : sx + bw], (tw, th), interpolation=cv2.INTER_LINEAR)
        ty, tx = self._target((h, w), (th, tw), sample.prior, rng)
        around = (slice(ty - 2, ty + th + 2), slice(tx - 2, tx + tw + 2))
        out = current.copy()
        out[around] = _poisson(current[around], patch.reshape(th, tw, current.shape[2]), self.mode)
        return out, [ty, tx, th, tw]

    def _target(self, shape: tuple[int, int], box: tuple[int, int], prior: Any, rng: np.random.Generator) -> tuple[int, int]:
        """Top-left corner at least 2 px from the border; with a prior, the first of 20 with enough salient pixels."""
        corner = (2, 2)
        for _ in range(20):
            corner = int(rng.integers(2, shape[0] - box[0] - 1)), int(rng.integers(2, shape[1] - box[1] - 1))
            if prior is None:
                break
            under = prior[corner[0] : corner[0] + box[0], corner[1] : corner[1] + box[1]]
            if float(np.mean(under > 0.5)) >= self.overlap:
                break
        return corner


def _poisson(around: Image, patch: Image, mode: str) -> Image:
    """The patch cloned into the middle of `around`, which is 2 px wider on each side; uint8, one or three channels."""
    over = cv2.copyMakeBorder(patch, 2, 2, 2, 2, cv2.BORDER_REPLICATE).reshape(around.shape)
    inside = np.zeros(over.shape[:2], bool)
    inside[2:-2, 2:-2] = True
    return blend.seamless(around, over, inside, mode)
