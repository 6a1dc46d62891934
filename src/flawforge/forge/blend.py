"""Compositing a forgery into a picture, and the invariant that every forger satisfies.

Every forger returns through `settle`: outside the mask the picture is bit-identical to the good one, inside it every pixel
differs by at least the forger's least change in some channel. Unchanged pixels are removed from the mask; when too few are
left the forger draws again, and after `DRAWS` attempts a uniform tone patch is used, which is visible on any picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import ConfigError, Forged, Image, ImageError, Mask, Sample

DRAWS = 8
LEAST_PIXELS = 9
SMALLEST = 32

Attempt = tuple[Image, Mask, dict[str, Any]]  # candidate picture, where it may differ, what was drawn


def check_sample(sample: Sample) -> None:
    """Raise ImageError unless the picture is h w c, c in {1, 3}, at least 32 x 32, uint8 or float32."""
    image = sample.image
    good = image.ndim == 3 and image.shape[2] in (1, 3) and min(image.shape[:2]) >= SMALLEST
    if not good or image.dtype not in (np.uint8, np.float32):
        raise ImageError(
            f"a forger was given an array of shape {image.shape} and type {image.dtype}; it takes h x w x 1 or "
            f"h x w x 3, at least {SMALLEST} x {SMALLEST}, uint8 or float32 in [0, 1]: convert the picture first."
        )
    for name in ("prior", "other"):
        companion = getattr(sample, name)
        if companion is not None and companion.shape[:2] != image.shape[:2]:
            raise ImageError(
                f"a forger was given a sample whose {name} has shape {companion.shape} and whose picture has "
                f"{image.shape}; height and width must be equal: resize it first."
            )


def full_range(image: Image) -> float:
    """255 for uint8, 1 for float32."""
    return 255.0 if image.dtype == np.uint8 else 1.0


def is_grey(image: Image) -> bool:
    """True where all channels are equal (a replicated grey picture); tested on every fourth pixel."""
    if image.shape[2] == 1:
        return True
    thin = image[::4, ::4]
    return bool(np.array_equal(thin[..., 0], thin[..., 1]) and np.array_equal(thin[..., 0], thin[..., 2]))


def changed(before: Image, after: Image, least: float) -> Mask:
    """h w bool: some channel differs by at least `least` (share of the full range)."""
    bound = float(np.ceil(least * 255.0 - 1e-9)) if before.dtype == np.uint8 else float(np.float32(least))
    difference = cv2.absdiff(before, after).reshape(before.shape)
    if before.dtype == np.uint8:
        below = (bound - 1.0,) * before.shape[2]
    else:
        below = (float(np.nextafter(np.float32(bound), np.float32(0))),) * before.shape[2]
    same = cv2.inRange(difference, (0.0,) * before.shape[2], below)
    return np.asarray(same == 0)


def settle(
    sample: Sample,
    rng: np.random.Generator,
    kind: str,
    least: float,
    attempt: Callable[[], Attempt],
    share: float = 0.0,
) -> Forged:
    """Call `attempt` until enough pixels change (see `compose`), at most DRAWS times, then fall back to `tone_patch`."""
    check_sample(sample)
    for draw in range(DRAWS):
        candidate, allowed, drawn = attempt()
        forged = compose(sample.image, candidate, allowed, least, share)
        if forged is not None:
            return Forged(forged[0], forged[1], kind, {**drawn, "redraws": draw})
    candidate, allowed, drawn = tone_patch(sample.image, rng)
    forged = compose(sample.image, candidate, allowed, least)
    assert forged is not None, "a tone patch changes every pixel by a quarter of the range"
    return Forged(forged[0], forged[1], kind, {**drawn, "redraws": DRAWS, "fallback": "tone_patch"})


def compose(image: Image, candidate: Image, allowed: Mask, least: float, share: float = 0.0) -> tuple[Image, Mask] | None:
    """(picture, exact mask) from a candidate of the same shape and dtype; None where too few pixels changed.

    Too few: under LEAST_PIXELS, or under `share` of the allowed pixels. The mask is cleaned of single pixels: an isolated
    changed pixel gets its good value back, an isolated unchanged one among changed ones is moved by the least change.
    """
    box = bounding_box(allowed)
    inside = allowed[box]
    if inside.size == 0:
        return None
    under, over = image[box].copy(), candidate[box].copy()
    visible = inside & changed(under, over, least)
    count = np.count_nonzero(visible)
    if count < LEAST_PIXELS or (share > 0.0 and count < share * np.count_nonzero(inside)):
        return None
    if count < np.count_nonzero(inside):  # where all of it changed, the outline is as the forger drew it
        visible = _solid(under, over, inside, visible, least)
    if np.count_nonzero(visible) < LEAST_PIXELS:
        return None
    out, mask = image.copy(), np.zeros(allowed.shape, bool)
    cv2.copyTo(over, visible.view(np.uint8), under)
    out[box], mask[box] = under, visible
    return out, mask


def _solid(under: Image, over: Image, inside: Mask, visible: Mask, least: float) -> Mask:
    """The mask without specks (fewer than 3 of 3 x 3) and pinholes (at least 13 of 5 x 5 changed); `over` is moved there."""
    level = visible.view(np.uint8)
    near = cv2.boxFilter(level, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    wide = cv2.boxFilter(level, -1, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT)
    holes = inside & ~visible & (wide >= 13)
    if holes.any():
        top = full_range(under)
        step = float(np.ceil(least * top - 1e-9)) if under.dtype == np.uint8 else 1.01 * least
        value = under[holes].astype(np.float32)
        over[holes] = np.where(value < top / 2.0, value + np.float32(step), value - np.float32(step)).astype(under.dtype)
    return (visible & (near >= 3)) | holes


def tone_patch(image: Image, rng: np.random.Generator) -> Attempt:
    """The fallback: a box of about 1/16 of the side, whose tone moves by a quarter of the range, towards the farther end."""
    h, w = image.shape[:2]
    bh, bw = max(4, h // 16), max(4, w // 16)
    y, x = int(rng.integers(0, h - bh + 1)), int(rng.integers(0, w - bw + 1))
    top = full_range(image)
    candidate = image.copy()
    box = image[y : y + bh, x : x + bw].astype(np.float32)
    moved = np.where(box < top / 2, box + np.float32(top / 4), box - np.float32(top / 4))
    candidate[y : y + bh, x : x + bw] = moved.astype(image.dtype)
    mask = np.zeros((h, w), bool)
    mask[y : y + bh, x : x + bw] = True
    return candidate, mask, {"box": [y, x, bh, bw]}


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the mask; an empty box where the mask is empty."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return slice(y, y + h), slice(x, x + w)


def as_dtype(picture: Image, like: Image) -> Image:
    """A uint8 or float32 picture in the dtype and channel count of `like`; values are scaled, never clipped silently."""
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[2] != like.shape[2]:
        if like.shape[2] == 1:
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
        else:
            picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    if picture.dtype == like.dtype:
        return picture
    if like.dtype == np.uint8:
        return np.asarray(np.rint(np.clip(picture, 0.0, 1.0) * 255.0), np.uint8)
    return np.asarray(picture.astype(np.float32) * np.float32(1.0 / 255.0), np.float32)


def as_uint8(picture: Image) -> Image:
    """h w c uint8 view or copy of the picture (float32 in [0, 1] is rounded to 8 bits)."""
    if picture.dtype == np.uint8:
        return picture
    return np.asarray(np.rint(np.clip(picture, 0.0, 1.0) * 255.0), np.uint8)


def mix_over(under: Image, over: Image, opacity: float) -> Image:
    """(1 - opacity) under + opacity over, in the dtype of both, kept in range. DRAEM eq. 4 with opacity = 1 - beta."""
    blended = cv2.addWeighted(under, 1.0 - opacity, over, opacity, 0.0).reshape(under.shape)
    if under.dtype == np.float32:
        np.clip(blended, 0.0, 1.0, out=blended)
    return np.asarray(blended)


def seamless(under: Image, over: Image, inside: Mask, mode: str = "normal") -> Image:
    """`over` cloned seamlessly into `under` where `inside`, by Poisson's equation (Perez, Gangnet, Blake 2003).

    under, over  h w c uint8, c in {1, 3}
    inside       h w bool, some of it True, none within 1 px of the border; unless it is a box, OpenCV leaves its outermost
                 3 px unchanged
    mode         "normal", or "mixed": the stronger of both gradients
    """
    c = under.shape[2]
    below, above = (np.ascontiguousarray(each if c == 3 else np.repeat(each, 3, axis=2)) for each in (under, over))
    x, y, w, h = cv2.boundingRect(inside.view(np.uint8))
    flag = cv2.NORMAL_CLONE if mode == "normal" else cv2.MIXED_CLONE
    cloned = cv2.seamlessClone(above, below, inside.astype(np.uint8) * 255, (x + w // 2, y + h // 2), flag)
    return np.asarray(cloned[..., :c]).reshape(under.shape)


def as_change(image: Image, eight: Image) -> Image:
    """A changed 8-bit version in the picture's own dtype; to a float32 picture only the change is added."""
    if image.dtype == np.uint8:
        return eight
    change = eight.astype(np.float32) - as_uint8(image).astype(np.float32)
    return from_unit(image + change * np.float32(1.0 / 255.0), image)


def soften(picture: Image, sigma: float) -> Image:
    """Gaussian blur of `sigma` px, border mirrored; a wide one is computed on a downscaled picture."""
    h, w = picture.shape[:2]
    step = max(1, min(int(sigma // 3.0), min(h, w) // 8))
    small = picture
    if step > 1:
        small = cv2.resize(picture, (-(-w // step), -(-h // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / step, 0.1), borderType=cv2.BORDER_REFLECT_101)
    if step > 1:
        small = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.asarray(small).reshape(picture.shape)


def to_unit(picture: Image) -> NDArray[np.float32]:
    """The picture as float32 in [0, 1]."""
    if picture.dtype == np.float32:
        return picture
    return np.asarray(picture.astype(np.float32) * np.float32(1.0 / 255.0))


def from_unit(values: NDArray[np.float32], like: Image) -> Image:
    """Float values in units of the range, clipped to it, in the dtype of `like` and in its shape."""
    clipped = np.clip(values, 0.0, 1.0).reshape(like.shape)
    if like.dtype == np.uint8:
        return np.asarray(np.rint(clipped * np.float32(255.0)), np.uint8)
    return np.asarray(clipped, np.float32)


def check_range(name: str, field: str, value: Any, low: float, high: float, unit: str = "", form: str = "either") -> None:
    """Raise ConfigError unless value lies in [low, high]: a number, an ascending (low, high) pair, or either of them."""
    pair = isinstance(value, tuple | list)
    ends = tuple(value) if pair else (value, value)
    fine = form != ("number" if pair else "pair") and len(ends) == 2
    if not fine or not all(_is_number(v) for v in ends) or not low <= ends[0] <= ends[1] <= high:
        wanted = {"either": "a number or an ascending (low, high) pair", "number": "a number"}
        raise ConfigError(
            f"{name}: {field} is {value!r}; it must be {wanted.get(form, 'an ascending (low, high) pair')} between "
            f"{low:g} and {high:g}{' ' + unit if unit else ''}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def check_choice(name: str, field: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ConfigError unless value is one of `allowed`."""
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        raise ConfigError(f"{name}: {field} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def draw(rng: np.random.Generator, value: float | tuple[float, float]) -> float:
    """A number unchanged; for a (low, high) pair, a uniform draw from it."""
    if isinstance(value, tuple | list):
        return float(rng.uniform(value[0], value[1]))
    return float(value)
