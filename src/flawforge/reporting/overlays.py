"""A judged picture, drawn: outlines on the picture at the left, the heat map at the right.

The colours of all pictures of one model mean the same, because the scale hangs on the calibration and never on the
picture: a pixel is clear up to what good pictures commonly reach, takes one and the same colour at the threshold, and
is brightest well above it. A good part therefore looks calm beside a bad one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import ConfigError, Decision, Image, Map, Mask
from flawforge_runtime.calibrate import Calibration
from flawforge_runtime.files import clear_drafts, locked, new_folder, write_atomically
from flawforge_runtime.images import write_image

Drawn = NDArray[np.uint8]  # h w 3 RGB

MARKED = (255, 64, 160)  # pink: what the model marks
DEFECT = (0, 230, 255)  # cyan: the labelled defect; both hold on grey, on skin and for the colour-blind
AT_THRESHOLD = 0.4  # where on the colour ramp, 0 clear to 1 brightest, the threshold lies
OPAQUE = 0.8  # the heat map never hides the picture altogether


@dataclass(frozen=True)
class Scale:
    """Where a map's values lie on the colour ramp; higher = stranger.

    low        drawn clear, and all below
    threshold  marked above it; always at AT_THRESHOLD of the ramp
    """

    low: float
    threshold: float

    def ramp(self, values: Map) -> NDArray[np.float32]:
        """h w map -> h w in [0, 1], linear; 0 at `low` or less, AT_THRESHOLD at the threshold."""
        return np.clip(AT_THRESHOLD * (values - self.low) / (self.threshold - self.low), 0, 1).astype(np.float32)


def scale_of(calibration: Calibration) -> Scale:
    """The one scale of a model: from the median highest map value of held-back good pictures to the pixel threshold."""
    low, threshold = float(np.median(calibration.peaks)), calibration.pixel_threshold
    # With few or equal pictures the two coincide; a step of a hundredth keeps the ramp defined and the threshold in place.
    step = max(abs(threshold) * 0.01, 1e-6)
    return Scale(min(low, threshold - step), threshold)


def overlay(
    pixels: Image, decision: Decision, scale: Scale, mask: Mask | None = None, *, max_side: int | None = None
) -> Drawn:
    """Picture with outlines, and beside it picture with heat map: h' (2 w' + gap) 3 uint8 RGB.

    pixels    h w 3, uint8 or float32 in [0, 1], the picture that was judged
    decision  its map and marks, h w
    mask      h w bool, the labelled defect; None = not known, nothing is outlined
    max_side  longest side of one of the two in pixels; None = the picture's own size
    Raises ConfigError where the sizes differ.
    """
    size = pixels.shape[:2]
    for name, array in (("map", decision.anomaly_map), ("marks", decision.pred_mask), ("mask", mask)):
        if array is not None and array.shape != size:
            raise ConfigError(f"The {name} is {array.shape} and the picture {size} (h, w); give both at the same size.")
    factor = min(1.0, max_side / max(size)) if max_side else 1.0
    to = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    picture = _shrink(_as_uint8(pixels), to)
    left = outline(picture, _shrink_mask(decision.pred_mask, to), MARKED)
    if mask is not None:
        left = outline(left, _shrink_mask(mask, to), DEFECT)
    right = heat(picture, _shrink(scale.ramp(decision.anomaly_map), to))
    gap = np.full((to[0], 4, 3), 255, np.uint8)
    return np.concatenate((left, gap, right), axis=1)


def heat(picture: Drawn, strength: NDArray[np.float32]) -> Drawn:
    """The picture in grey under the colours of a ramp h w in [0, 1]: as bright as it is strong, clear at 0."""
    colour = cv2.applyColorMap((strength * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cover = (OPAQUE * np.minimum(strength / AT_THRESHOLD, 1))[..., None]
    return np.asarray((grey * (1 - cover) + colour * cover).round().astype(np.uint8))


def outline(picture: Drawn, mask: Mask, colour: tuple[int, int, int]) -> Drawn:
    """A copy of the picture with the outer border of each region of a mask h w drawn just outside of it."""
    thick = 1 + max(mask.shape) // 500
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * thick + 1, 2 * thick + 1), np.uint8))
    drawn = picture.copy()
    drawn[(wide > 0) & ~mask] = colour
    return drawn


def _as_uint8(pixels: Image) -> Drawn:
    return pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def _shrink(array: NDArray[Any], to: tuple[int, int]) -> NDArray[Any]:
    if array.shape[:2] == to:
        return array
    return np.asarray(cv2.resize(array, to[::-1], interpolation=cv2.INTER_AREA))


def _shrink_mask(mask: Mask, to: tuple[int, int]) -> Mask:
    """A pixel stays marked where any part of it was, so that a hairline does not vanish in a thumbnail."""
    return np.asarray(_shrink(mask.astype(np.float32), to) > 0)


def save_album(
    folder: Path, name: str, result: Mapping[str, Any], pictures: Sequence[tuple[str, Mapping[str, Any], Drawn]] = ()
) -> Path:
    """Write `folder`/`name`: `name`.json and pictures as WebP; all of it or, where it fails, nothing new.

    pictures  (group, facts, picture) each
    The JSON is `result` with one more key, "overlays": {"file", "group", and the facts} each. An older album of the name is
    replaced. OSError (a full disk, BlockingIOError where another process writes it) passes through. Returns the new folder.
    """
    target, new, old = Path(folder) / name, Path(folder) / f".{name}.new", retired(folder, name)
    with locked(target):
        shutil.rmtree(new, ignore_errors=True)  # left by a run that was killed, as are drafts
        clear_drafts(new)
        with new_folder(new) as draft:
            index = []
            for number, (group, facts, picture) in enumerate(pictures):
                file = f"{number:02d}_{group}.webp"
                write_image(draft / file, picture)
                index.append({"file": file, "group": group, **facts})
            write_json(draft / f"{name}.json", {**result, "overlays": index})
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        new.rename(target)  # between these two renames a reader finds the old album by `album`
        shutil.rmtree(old, ignore_errors=True)
    return target


def retired(folder: Path, name: str) -> Path:
    """Where an album lies for the moment in which a new one takes its name."""
    return Path(folder) / f".{name}.old"


def album(folder: Path, name: str) -> Path:
    """The folder of an album that `save_album` wrote, also where a later one was interrupted between its two renames."""
    target, old = Path(folder) / name, retired(folder, name)
    return old if old.is_dir() and not target.exists() else target


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as indented JSON, atomically; ValueError for a value that JSON has no word for."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode(errors="backslashreplace"))  # names that are not UTF-8
