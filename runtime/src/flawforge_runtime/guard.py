"""Is this a picture of the product at all? The question that comes before "is this part good?".

A dead camera, a lens cap, a lamp at full, lost or repeated lines, an empty station, another product: a network that has only
ever seen good parts may say anything of them. So every picture is first described by a few hundred plain numbers, and held
against the same numbers of the good pictures:

    group      numbers                                              what it tells
    colour     mean R, G, B of 32 bands of rows and 32 of columns   empty station, other product, lost part of the picture
    structure  log mean |difference| of neighbouring pixels,        blank, smeared or repeated lines, noise, defocus
               down and across, in each band
    grain      log ratio of the differences at two pixels to those  noise, interpolated or synthetic content, at any contrast
               at one, down and across, in each band
    whole      brightness, contrast, sharpness, share of rows and   lens cap, saturation, frozen lines
               of columns equal to their neighbour, clipped share
    joint      mean R, G, B, colourfulness, contrast, differences   noise and other products whose numbers are each within
               at five scales, down and across, all together        bounds, but not together

Each number is taken in units of its spread over the good pictures; a group's strangeness is the largest of its deviations,
and for `joint` the Mahalanobis distance, with a covariance that is shrunk towards its diagonal.
The limit of a group is MARGIN times the largest strangeness among good pictures that were left out: the good pictures are
dealt into FOLDS blocks of neighbours, and each block is described by mean and spread of the others. How many good pictures
this rejects is counted the same way, with limits that did not see them (`flagged` of `count`), and stated.

All of it is an assumption of ours (no paper), works on the picture alone and needs no network, so every method and every
backend has the same guard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime.types import Image, Mask

Floats = NDArray[np.float32]
Traits = Mapping[str, Floats]  # group -> its numbers, in units of FLOOR

BANDS = 32
AREA = 256 * 256  # pixels that a picture is described at; a larger canvas is shrunk to about as many
FOLDS = 5
MARGIN = 1.5  # assumption: lets 0 of 304 good test pictures of four products go astray, see docs
FEW = 3  # with fewer good pictures none can be left out, and the limits are LONE
# Spreads, assumptions: the limit where no picture can be left out, and what no limit is below. A mean square of many numbers
# spreads less than the largest of them.
LONE = {"colour": 12.0, "structure": 12.0, "grain": 12.0, "whole": 12.0, "joint": 4.0}
LEAST = {"colour": 3.0, "structure": 3.0, "grain": 3.0, "whole": 3.0, "joint": 1.5}
TINY = 0.25  # grey levels that are added before a logarithm: less is rounding
# The least spread of each number: grey levels, logs, and for `whole` each its own.
FLOOR = {"colour": 4.0, "structure": 0.1, "grain": 0.05}
WHOLE: Mapping[str, tuple[float, str]] = {
    "brightness": (8.0, "mean grey, of 255"),
    "contrast": (8.0, "standard deviation of grey, of 255"),
    "sharpness": (0.1, "mean of |Laplacian|, as a logarithm"),
    "equal rows": (0.02, "share of rows that equal the row above"),
    "equal columns": (0.02, "share of columns that equal the column to the left"),
    "clipped": (0.02, "share of pixels at either end of the range"),
}
GROUPS = ("colour", "structure", "grain", "whole", "joint")
SCALES = (1, 2, 4, 8, 16)  # at which `joint` takes differences
JOINT = 5 + 2 * len(SCALES)
MEASURES = {"colour": 3, "structure": 2, "grain": 2}  # numbers in each band
UNLIKE = "not like any good picture"


def size_for(canvas: tuple[int, int]) -> tuple[int, int]:
    """The size (h, w) at which pictures of this canvas are described: the canvas's proportions, AREA pixels at most."""
    scale = min(1.0, math.sqrt(AREA / (canvas[0] * canvas[1])))
    return max(8, round(canvas[0] * scale)), max(8, round(canvas[1] * scale))


def describe(pixels: Image, size: tuple[int, int], judged: Mask | None = None) -> Traits:
    """The numbers of a picture h w 3, uint8 or float32 in [0, 1], at `size` (h, w), each in units of its FLOOR.

    judged  h w bool of any size: only these pixels count; None = all
    """
    small = _at(pixels, size)
    weight = None
    if judged is not None and not judged.all():
        weight = cv2.resize(judged.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    down, down2 = cv2.absdiff(grey[1:], grey[:-1]), cv2.absdiff(grey[2:], grey[:-2])
    across, across2 = cv2.absdiff(grey[:, 1:], grey[:, :-1]), cv2.absdiff(grey[:, 2:], grey[:, :-2])
    colour, structure, grain = [], [], []
    for axis in (0, 1):
        colour.append(_bands(small, axis, weight))
        one, two, three, four = (_bands(each, axis, weight)[:, 0] + TINY for each in (down, down2, across, across2))
        structure += [np.log(one), np.log(three)]
        grain += [np.log(two / one), np.log(four / three)]
    found = {"colour": colour, "structure": structure, "grain": grain}
    scaled = {name: (np.concatenate(parts).ravel() / FLOOR[name]).astype(np.float32) for name, parts in found.items()}
    return scaled | {"whole": _whole(grey, down, across, weight), "joint": _joint(small, grey, weight)}


def _at(pixels: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    shrinks = pixels.shape[0] >= size[0] and pixels.shape[1] >= size[1]
    small = pixels
    if pixels.shape[:2] != size:
        small = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(small if small.dtype == np.uint8 else np.rint(small * np.float32(255)).astype(np.uint8))


def _bands(values: NDArray[Any], axis: int, weight: Floats | None) -> Floats:
    """h w [c] -> BANDS c: mean of each of BANDS even bands along `axis`; a band without a judged pixel is 0."""
    high, wide = values.shape[:2]
    if weight is None:
        line = cv2.reduce(values, 1 - axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).reshape(values.shape[axis], -1)
        mass = np.ones(len(line), dtype=np.float32)
    else:
        own = weight[:high, :wide]
        line = np.asarray((values.reshape(high, wide, -1) * own[..., None]).sum(axis=1 - axis), dtype=np.float32)
        mass = own.sum(axis=1 - axis)
    starts = np.arange(BANDS) * len(line) // BANDS
    if len(line) < BANDS:  # a side of few pixels: bands share a row
        total, share = line[starts], mass[starts]
    else:
        total, share = np.add.reduceat(line, starts, axis=0), np.add.reduceat(mass, starts)
    return np.asarray(total / np.maximum(share, 1e-6)[:, None] * (share > 0)[:, None], dtype=np.float32)


def _whole(grey: NDArray[np.uint8], down: NDArray[Any], across: NDArray[Any], weight: Floats | None) -> Floats:
    judged = grey if weight is None else grey[weight > 0.5]
    values = judged.astype(np.float32).ravel() if judged.size else np.zeros(1, np.float32)
    if weight is not None:
        down, across = down * (weight[1:] > 0.5), across * (weight[:, 1:] > 0.5)
    edge = np.abs(np.asarray(cv2.Laplacian(grey, cv2.CV_16S)))
    sharp = float(edge.mean() if weight is None else edge[weight > 0.5].mean() if judged.size else 0.0)
    found = (
        float(values.mean()), float(values.std()), math.log(sharp + TINY),
        float((down.max(axis=1) == 0).mean()), float((across.max(axis=0) == 0).mean()),
        float(((values <= 1) | (values >= 254)).mean()),
    )  # fmt: skip
    return np.array([value / floor for value, (floor, _) in zip(found, WHOLE.values(), strict=True)], dtype=np.float32)


def _joint(small: NDArray[np.uint8], grey: NDArray[np.uint8], weight: Floats | None) -> Floats:
    if weight is not None:  # what is not judged is one and the same grey in every picture
        small = np.where(weight[..., None] > 0.5, small, np.uint8(128))
        grey = np.where(weight > 0.5, grey, np.uint8(128))
    red, green, blue = cv2.split(small)
    colourful = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    means, deviation = cv2.mean(small)[:3], float(cv2.meanStdDev(grey)[1][0, 0])
    found = [each / 8.0 for each in means]
    found += [10 * math.log(1 + cv2.mean(colourful)[0]), 10 * math.log(1 + deviation)]
    level = grey.astype(np.float32)
    for scale in SCALES:
        high, wide = (max(2, side // scale) for side in grey.shape)
        at = level if scale == 1 else cv2.resize(level, (wide, high), interpolation=cv2.INTER_AREA)
        for one, other in ((at[1:], at[:-1]), (at[:, 1:], at[:, :-1])):
            found.append(10 * math.log(TINY + float(cv2.absdiff(one, other).mean())))
    return np.array(found, dtype=np.float32)


@dataclass(frozen=True)
class Guard:
    """What good pictures of the product are like, and how far from it a picture is still one of them.

    size     (h, w) at which pictures are described
    middle   of each group's numbers, their means over the good pictures, in units of FLOOR
    spread   of each group's numbers, their standard deviations, with a floor of 1
    whiten   (JOINT, JOINT), takes `joint` to numbers of spread 1 that do not go together over the good pictures
    limits   of each group, the deviation in spreads above which a picture is not like any good one
    low, high  the range of each number of `whole` over the good pictures
    count, flagged  good pictures, and how many of them limits that did not see them reject
    """

    size: tuple[int, int]
    middle: Mapping[str, Floats] = field(repr=False)
    spread: Mapping[str, Floats] = field(repr=False)
    whiten: Floats = field(repr=False)
    limits: Mapping[str, float]
    low: tuple[float, ...] = field(repr=False)
    high: tuple[float, ...] = field(repr=False)
    count: int = 0
    flagged: int = 0

    def deviations(self, traits: Traits) -> dict[str, float]:
        """Each group's largest deviation from the good pictures, in spreads."""
        return {name: float(each.max()) for name, each in self._all(traits).items()}

    def unlike(self, traits: Traits) -> str:
        """ "" for a picture that may be one of the product; else one phrase: what is furthest outside its limit."""
        found = self._all(traits)
        over = {name: float(each.max()) / self.limits[name] for name, each in found.items()}
        # Fails closed: a deviation that is not a number is outside every limit.
        outside = [name for name in GROUPS if not over[name] <= 1.0]
        if not outside:
            return ""
        worst = max(outside, key=lambda name: (name == "whole", over[name]))  # the whole picture is easiest to check
        return f"{UNLIKE}: {self._words(worst, traits, found[worst])}"

    def widened(self, described: Sequence[Traits]) -> Guard:
        """The same with limits that further good pictures keep (recalibration): MARGIN times their largest deviation."""
        limits = dict(self.limits)
        low, high = np.array(self.low), np.array(self.high)
        for traits in described:
            for name, value in self.deviations(traits).items():
                limits[name] = max(limits[name], _floats(np.array([MARGIN * value]))[0])
            low, high = np.minimum(low, traits["whole"]), np.maximum(high, traits["whole"])
        return replace(self, limits=limits, low=_floats(low), high=_floats(high))

    def _all(self, traits: Traits) -> dict[str, Floats]:
        found = {name: np.abs(traits[name] - self.middle[name]) / self.spread[name] for name in GROUPS}
        return found | {"joint": _distance(traits["joint"], self.middle["joint"], self.whiten)}

    def _words(self, group: str, traits: Traits, found: Floats) -> str:
        if group == "joint":
            return "its colours and textures do not go together as in any good picture"
        place = int(np.nanargmax(found)) if np.isfinite(found).any() else 0
        if group == "whole":
            name, (floor, _) = list(WHOLE.items())[place]
            value, low, high = (float(each[place]) * floor for each in (traits[group], self.low, self.high))
            if name == "sharpness":
                value, low, high = (max(math.exp(each) - TINY, 0.0) for each in (value, low, high))
            shown = (f"{each:.0%}" if floor < 0.1 else f"{each:.3g}" for each in (value, low, high))
            return "{} {}, of good pictures {} to {}".format(name, *shown)
        where, measure = self._band(group, place)
        more = float(traits[group][place]) > float(self.middle[group][place])
        what = {
            "colour": f"{('red', 'green', 'blue')[measure]} is {'brighter' if more else 'darker'} than in any good picture",
            "structure": "more structure than in any good picture" if more else "smoother than any good picture",
            "grain": "another grain than in any good picture",
        }[group]
        return f"{where}, {what}"

    def _band(self, group: str, place: int) -> tuple[str, int]:
        """(where the number was taken, which measure it is)."""
        per_axis = BANDS * MEASURES[group]
        axis, rest = divmod(place, per_axis)
        band, measure = divmod(rest, 3) if group == "colour" else (rest % BANDS, rest // BANDS)
        side = "height" if axis == 0 else "width"
        return f"at {100 * band // BANDS} to {100 * (band + 1) // BANDS} % of the {side}", measure

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "size": list(self.size), "count": self.count, "flagged": self.flagged, "limits": dict(self.limits),
            "low": list(self.low), "high": list(self.high),
            "middle": {name: _floats(each) for name, each in self.middle.items()},
            "spread": {name: _floats(each) for name, each in self.spread.items()},
            "whiten": [list(_floats(row)) for row in self.whiten],
        }  # fmt: skip


def fit_guard(described: Sequence[Traits], size: tuple[int, int]) -> Guard:
    """The guard of these good pictures (one or more), described at `size`; neighbours in the sequence stay together."""
    table = {name: np.stack([each[name] for each in described]).astype(np.float64) for name in GROUPS}
    count = len(described)
    everything = np.ones(count, dtype=bool)
    middle, spread = _reference(table, everything)
    whiten = _whitener(table["joint"])
    limits, flagged = dict(LONE), 0
    if count >= FEW:
        block = np.arange(count) * min(FOLDS, count) // count
        strange = {name: np.empty(count) for name in GROUPS}
        for fold in range(min(FOLDS, count)):
            left = block == fold
            means, widths = _reference(table, ~left)
            for name in GROUPS:
                strange[name][left] = (np.abs(table[name][left] - means[name]) / widths[name]).max(axis=1)
            strange["joint"][left] = _distance(table["joint"][left], means["joint"], _whitener(table["joint"][~left]))
        limits = {name: _limit(name, each) for name, each in strange.items()}
        for fold in range(min(FOLDS, count)):
            left = block == fold
            over = [strange[name][left] > _limit(name, strange[name][~left]) for name in GROUPS]
            flagged += int(np.any(over, axis=0).sum())
    low, high = table["whole"].min(axis=0), table["whole"].max(axis=0)
    # Rounded as they are written, so that a loaded guard decides as this one does.
    middle, spread = ({name: _rounded(each) for name, each in part.items()} for part in (middle, spread))
    limits = {name: _floats(np.array([each]))[0] for name, each in limits.items()}
    whiten = np.stack([_rounded(row) for row in whiten])
    return Guard(size, middle, spread, whiten, limits, _floats(low), _floats(high), count, flagged)


def guard_from_dict(data: Mapping[str, Any]) -> Guard:
    """The inverse of `Guard.as_dict`. Raises KeyError, TypeError or ValueError where it is none."""
    sizes = {name: 2 * BANDS * MEASURES[name] for name in MEASURES} | {"whole": len(WHOLE), "joint": JOINT}

    def arrays(key: str, least: float) -> dict[str, Floats]:
        found = {name: np.asarray(data[key][name], dtype=np.float32) for name in GROUPS}
        for name, each in found.items():
            if each.shape != (sizes[name],) or not np.isfinite(each).all() or (each < least).any():
                raise ValueError(f"guard.json: {key} of {name} is not {sizes[name]} finite numbers of {least:g} or more")
        return found

    limits = {name: float(data["limits"][name]) for name in GROUPS}
    if not all(math.isfinite(each) and each > 0 for each in limits.values()):
        raise ValueError("guard.json: a limit is not a finite number above 0")
    low, high = (tuple(float(each) for each in data[key]) for key in ("low", "high"))
    if len(low) != len(WHOLE) or len(high) != len(WHOLE) or not np.isfinite([*low, *high]).all():
        raise ValueError(f"guard.json: low and high must be {len(WHOLE)} finite numbers each")
    height, width = (int(each) for each in data["size"])
    if not (8 <= height <= 4096 and 8 <= width <= 4096):
        raise ValueError(f"guard.json: the size is {height} x {width}, allowed are sides from 8 to 4096")
    whiten = np.asarray(data["whiten"], dtype=np.float32)
    if whiten.shape != (JOINT, JOINT) or not np.isfinite(whiten).all():
        raise ValueError(f"guard.json: whiten is not {JOINT} x {JOINT} finite numbers")
    middle, spread = arrays("middle", -math.inf), arrays("spread", 1.0)
    count, flagged = int(data["count"]), int(data["flagged"])
    return Guard((height, width), middle, spread, whiten, limits, low, high, count, flagged)


def _reference(
    table: Mapping[str, NDArray[np.float64]], used: NDArray[np.bool_]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Mean and spread of each number over the used pictures; the spread has a floor of 1, in quadrature."""
    middle = {name: each[used].mean(axis=0).astype(np.float32) for name, each in table.items()}
    more = 1 if used.sum() > 1 else 0
    spread = {name: np.sqrt(each[used].var(axis=0, ddof=more) + 1).astype(np.float32) for name, each in table.items()}
    return middle, spread


def _whitener(values: NDArray[np.float64]) -> Floats:
    """n d -> d d, the inverse root of the covariance, shrunk towards its diagonal by d / n, with a floor of 1 as spread."""
    count, width = values.shape
    if count < 2:
        return np.eye(width, dtype=np.float32)
    covariance = np.cov(values.T)
    shrink = min(1.0, width / count)
    mixed = (1 - shrink) * covariance + shrink * np.diag(np.diag(covariance)) + np.eye(width)
    return np.linalg.inv(np.linalg.cholesky(mixed)).astype(np.float32)


def _distance(values: NDArray[Any], middle: Floats, whiten: Floats) -> NDArray[Any]:
    """[n] d -> n (1 for a single one): the root mean square of the whitened numbers, a Mahalanobis distance."""
    white = np.atleast_2d(values - middle) @ whiten.T
    return np.asarray(np.sqrt(np.square(white).mean(axis=1)))


def _limit(group: str, strangeness: NDArray[np.float64]) -> float:
    return max(LEAST[group], MARGIN * float(strangeness.max())) if strangeness.size else LONE[group]


def _rounded(values: Floats) -> Floats:
    return np.array(_floats(values), dtype=np.float32)


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    """With six digits, which is more than a decision needs."""
    return tuple(float(f"{value:.6g}") for value in values)
