"""Variation that good parts may show although the good pictures do not: what --tolerate names.

A tolerated kind is learnt: every good picture is looked at once as it is and COPIES times varied, and the held-back ones are
varied in the same way before the thresholds are set, so that the promise holds for parts that vary so. Tolerance costs
sensitivity: what varies on good parts cannot be a defect.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from flawforge.types import ConfigError
from flawforge_runtime.types import Image

COPIES = 2  # varied copies of each good picture; assumption
GAIN, DEGREES, SHIFT, QUALITY, BLUR = 0.2, 2.0, 1 / 64, 60, 1.0  # the most of each; shift in shares of the shorter side
KINDS = {
    "brightness": f"all tones times {1 - GAIN:g} to {1 + GAIN:g}",
    "turn": f"turned by up to {DEGREES:g} degrees about its middle",
    "shift": f"moved by up to 1/{1 / SHIFT:.0f} of its shorter side (4 px of 256)",
    "jpeg": f"stored as JPEG of quality {QUALITY} to 95",
    "blur": f"blurred by a Gaussian of up to {BLUR:g} px of a 256 px canvas",
}


def kinds_from(text: str) -> tuple[str, ...]:
    """ "turn,shift" -> ("turn", "shift"); "all" -> all of them. Raises ConfigError for an unknown one."""
    kinds = tuple(KINDS) if text == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--tolerate was given '{kind}'; allowed are all, or any of {', '.join(KINDS)}, with commas.")
    return kinds


def vary(image: Image, kinds: Sequence[str], rng: np.random.Generator) -> Image:
    """The picture under a random amount of each kind. h w c, uint8 or float32 in [0, 1]; the same shape and dtype back."""
    amounts = {kind: rng.uniform(-1, 1, 2) for kind in KINDS if kind in kinds}
    return varied(image, amounts)


def varied(image: Image, amounts: dict[str, np.ndarray]) -> Image:
    """The picture under given amounts, kind -> two numbers in [-1, 1] (blur and jpeg take the size of the first)."""
    top = 255.0 if image.dtype == np.uint8 else 1.0
    x = image.astype(np.float32) / np.float32(top)
    h, w = x.shape[:2]
    if "turn" in amounts or "shift" in amounts:
        angle = DEGREES * float(amounts.get("turn", np.zeros(2))[0])
        move = SHIFT * min(h, w) * amounts.get("shift", np.zeros(2))
        warp = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, 1.0)
        warp[:, 2] += move
        x = cv2.warpAffine(x, warp, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(x.shape)
    if "brightness" in amounts:
        x = x * np.float32(1 + GAIN * float(amounts["brightness"][0]))
    if "blur" in amounts:
        sigma = BLUR * abs(float(amounts["blur"][0])) * min(h, w) / 256
        if sigma > 0.05:
            x = cv2.GaussianBlur(x, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE).reshape(x.shape)
    x = np.clip(x, 0, 1)
    if "jpeg" in amounts:
        quality = round(95 - (95 - QUALITY) * abs(float(amounts["jpeg"][0])))
        pixels = np.rint(x * 255).astype(np.uint8)
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        x = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)).reshape(x.shape).astype(np.float32) / np.float32(255)
    if image.dtype == np.uint8:
        return np.rint(x * np.float32(255)).astype(np.uint8)
    return x.astype(image.dtype)
