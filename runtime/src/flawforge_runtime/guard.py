"""Is this a picture of the product at all? The question that comes before "is this part good?".

A dead camera, a lens cap, a lamp at full, lost or repeated lines, an empty station, another product: a network that has only
ever seen good parts may say anything of them. So every picture is first described by a few hundred plain numbers, and held
against the same numbers of the good pictures:

    group      numbers                                              what it tells
    colour     mean R, G, B of 32 bands of rows and 32 of columns   empty station, other product, lost part of the picture
    structure  log mean |difference| of neighbouring pixels,        blank, smeared or repeated lines, noise, defocus
               down and across, in each band
    texture    of each band, together: grey, colourfulness, and     lines, noise, another product's texture in a part of
               the differences at one pixel and at four             the picture, wherever parts lie
    whole      brightness, contrast, sharpness, share of rows and   lens cap, saturation, frozen lines
               of columns equal to their neighbour, clipped share
    joint      together: mean R, G, B, colourfulness, contrast,     noise and other products whose numbers are each within
               differences at five scales, down and across          bounds, but not together

Numbers of colour, structure and whole are each taken in units of its spread over the good pictures; those of texture and
joint as Mahalanobis distances, texture's from all bands of all good pictures. A group's strangeness is its largest
deviation, its limit MARGIN times the largest among good pictures that were left out: they are dealt into FOLDS blocks of
neighbours, and each block is held against the others. How many good pictures this rejects is counted the same way, with
limits that did not see them (`flagged` of `count`), and stated.

A good picture that stands apart from all others (at most one in twenty, and only from ten pictures on) does not set the
limits: one blank picture among the good ones must not let all blank pictures through. It counts as flagged.

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
Table = Mapping[str, NDArray[Any]]  # group -> pictures x numbers
Traits = Mapping[str, NDArray[Any]]  # group -> its numbers, in units of its floor

BANDS = 32
AREA = 256 * 256  # pixels that a picture is described at; a larger canvas is shrunk to about as many
FOLDS = 5
MARGIN = 1.5  # assumption; what it lets through and rejects on four products: benchmarks/results/guard.csv
FEW = 3  # with fewer good pictures none can be left out, and the limits are LONE
APART, APART_FROM = 20, 10  # one picture in APART may stand apart, from so many pictures on
TINY = 0.25  # grey levels that are added before a logarithm: less is rounding
FLOOR = {"colour": 4.0, "structure": 0.1}  # the least spread that counts: grey levels, logarithms
WHOLE: Mapping[str, tuple[float, str]] = {  # each with a floor of its own
    "brightness": (8.0, "mean grey, of 255"),
    "contrast": (8.0, "standard deviation of grey, of 255"),
    "sharpness": (0.1, "mean of |Laplacian|, as a logarithm"),
    "equal rows": (0.02, "share of rows that equal the row above"),
    "equal columns": (0.02, "share of columns that equal the column to the left"),
    "clipped": (0.02, "share of pixels at either end of the range"),
}
SHARES = {  # those of WHOLE that are shares, for people: what stands before the share and after it
    "equal rows": ("rows like the row above:", " (blank or smeared)"),
    "equal columns": ("columns like the column to the left:", " (blank or smeared)"),
    "clipped": ("black or saturated pixels", ""),
}
MEASURES = {"colour": 3, "structure": 2}  # numbers of each band
SCALES = (1, 2, 4, 8, 16)  # at which `joint` takes differences
TOGETHER = {"texture": (2, BANDS, 6), "joint": (1, 1, 5 + 2 * len(SCALES))}  # axes, vectors of each, numbers of each
SIZES = {name: 2 * BANDS * count for name, count in MEASURES.items()} | {"whole": len(WHOLE)}
SIZES |= {name: math.prod(shape) for name, shape in TOGETHER.items()}
GROUPS = tuple(SIZES)
# In spreads, assumptions: the limit where no picture can be left out, and what no limit is below. A mean square of many
# numbers spreads less than the largest of them.
LONE = {"colour": 12.0, "structure": 12.0, "whole": 12.0, "texture": 8.0, "joint": 4.0}
LEAST = {"colour": 3.0, "structure": 3.0, "whole": 3.0, "texture": 3.0, "joint": 1.5}
UNLIKE = "not like any good picture"


def size_for(canvas: tuple[int, int]) -> tuple[int, int]:
    """The size (h, w) at which pictures of this canvas are described: the canvas's proportions, AREA pixels at most."""
    scale = min(1.0, math.sqrt(AREA / (canvas[0] * canvas[1])))
    return max(8, round(canvas[0] * scale)), max(8, round(canvas[1] * scale))


def describe(pixels: Image, size: tuple[int, int], judged: Mask | None = None) -> Traits:
    """The numbers of a picture h w 3, uint8 or float32 in [0, 1], at `size` (h, w), each in units of its floor.

    judged  h w bool of any size: only these pixels count; None = all
    """
    small = _at(pixels, size)
    weight = None
    if judged is not None and not judged.all():
        weight = cv2.resize(judged.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    colourful = _colourful(small)
    down, across = cv2.absdiff(grey[1:], grey[:-1]), cv2.absdiff(grey[:, 1:], grey[:, :-1])
    coarse_size = max(2, size[1] // 4), max(2, size[0] // 4)
    coarse = np.asarray(cv2.resize(grey, coarse_size, interpolation=cv2.INTER_AREA))
    coarse_weight = None if weight is None else cv2.resize(weight, coarse_size, interpolation=cv2.INTER_AREA)
    coarse_down, coarse_across = cv2.absdiff(coarse[1:], coarse[:-1]), cv2.absdiff(coarse[:, 1:], coarse[:, :-1])
    colour, structure, texture = [], [], []
    for axis in (0, 1):
        colour.append(_bands(small, axis, weight))
        one, two = (_logs(steps, axis, weight) for steps in (down, across))
        three, four = (_logs(steps, axis, coarse_weight) for steps in (coarse_down, coarse_across))
        structure += [one, two]
        level, hue = _bands(grey, axis, weight)[:, 0] / 8, 10 * np.log1p(_bands(colourful, axis, weight)[:, 0])
        texture.append(np.stack([level, hue, 10 * one, 10 * two, 10 * three, 10 * four], axis=1))
    traits = {
        "colour": np.concatenate(colour).ravel() / FLOOR["colour"],
        "structure": np.concatenate(structure) / FLOOR["structure"],
        "whole": _whole(grey, down, across, weight),
        "texture": np.stack(texture).ravel(),
        "joint": _joint(small, grey, colourful, weight),
    }
    return {name: values.astype(np.float32) for name, values in traits.items()}


def _logs(differences: NDArray[np.uint8], axis: int, weight: Floats | None) -> Floats:
    return np.asarray(np.log(_bands(differences, axis, weight)[:, 0] + TINY), dtype=np.float32)


def _colourful(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """h w 3 -> h w, the highest of the three channels less the lowest."""
    red, green, blue = cv2.split(small)
    return np.asarray(cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)))


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
    numbers = (
        float(values.mean()),
        float(values.std()),
        math.log(sharp + TINY),
        float((down.max(axis=1) == 0).mean()),
        float((across.max(axis=0) == 0).mean()),
        float(((values <= 1) | (values >= 254)).mean()),
    )
    return np.array([value / floor for value, (floor, _) in zip(numbers, WHOLE.values(), strict=True)], dtype=np.float32)


def _joint(small: NDArray[np.uint8], grey: NDArray[np.uint8], colourful: NDArray[np.uint8], weight: Floats | None) -> Floats:
    if weight is not None:  # what is not judged is one and the same grey in every picture
        inside = weight > 0.5
        small, grey = np.where(inside[..., None], small, np.uint8(128)), np.where(inside, grey, np.uint8(128))
        colourful = np.where(inside, colourful, np.uint8(0))
    deviation = float(cv2.meanStdDev(grey)[1][0, 0])
    numbers = [channel / 8.0 for channel in cv2.mean(small)[:3]]
    numbers += [10 * math.log1p(cv2.mean(colourful)[0]), 10 * math.log1p(deviation)]
    level = grey.astype(np.float32)
    for scale in SCALES:
        high, wide = (max(2, side // scale) for side in grey.shape)
        at = level if scale == 1 else cv2.resize(level, (wide, high), interpolation=cv2.INTER_AREA)
        for one, other in ((at[1:], at[:-1]), (at[:, 1:], at[:, :-1])):
            numbers.append(10 * math.log(TINY + float(cv2.absdiff(one, other).mean())))
    return np.array(numbers, dtype=np.float32)


@dataclass(frozen=True)
class Reference:
    """What the numbers of good pictures are like.

    middle, spread  of colour, structure and whole: each number's mean and standard deviation, the latter with a floor of 1
    centre, whiten  of texture and joint: (axes, numbers) and (axes, numbers, numbers), the mean of the vectors of an axis,
                    and what takes them to numbers of spread 1 that do not go together
    """

    middle: Mapping[str, Floats]
    spread: Mapping[str, Floats]
    centre: Mapping[str, Floats]
    whiten: Mapping[str, Floats]

    def deviations(self, traits: Traits) -> dict[str, NDArray[Any]]:
        """Of each group: the deviation of each number, or of each vector, in spreads; a leading axis of pictures is kept."""
        deviations: dict[str, NDArray[Any]] = {
            name: np.abs(traits[name] - self.middle[name]) / self.spread[name] for name in self.middle
        }
        for name, shape in TOGETHER.items():
            values = traits[name]
            apart = values.reshape(*values.shape[:-1], *shape) - self.centre[name][:, None]
            white = np.einsum("...akd,aed->...ake", apart, self.whiten[name])
            deviations[name] = np.sqrt(np.square(white).mean(axis=-1)).reshape(*values.shape[:-1], -1)
        return deviations


def _reference(table: Table, used: NDArray[np.bool_]) -> Reference:
    own = [name for name in GROUPS if name not in TOGETHER]
    more = 1 if used.sum() > 1 else 0
    middle = {name: _rounded(table[name][used].mean(axis=0)) for name in own}
    spread = {name: _rounded(np.sqrt(table[name][used].var(axis=0, ddof=more) + 1)) for name in own}
    centre, whiten = {}, {}
    for name, (axes, _, numbers) in TOGETHER.items():
        vectors = table[name][used].reshape(int(used.sum()), axes, -1, numbers).swapaxes(0, 1).reshape(axes, -1, numbers)
        centre[name] = _rounded(vectors.mean(axis=1))
        whiten[name] = np.stack([_whitener(of_axis, int(used.sum())) for of_axis in vectors])
    return Reference(middle, spread, centre, whiten)


def _whitener(vectors: NDArray[np.float64], pictures: int) -> Floats:
    """n d -> d d, the covariance's inverse root, with a floor of 1 as spread; of few pictures shrunk to its diagonal."""
    width = vectors.shape[1]
    covariance = np.cov(vectors.T) if len(vectors) > 1 else np.zeros((width, width))
    shrink = min(1.0, width / pictures)
    mixed = (1 - shrink) * covariance + shrink * np.diag(np.diag(covariance)) + np.eye(width)
    return _rounded(np.linalg.inv(np.linalg.cholesky(mixed)))


@dataclass(frozen=True)
class Guard:
    """What good pictures of the product are like, and how far from it a picture is still one of them.

    size       (h, w) at which pictures are described
    reference  what their numbers are like
    limits     of each group, the deviation in spreads above which a picture is not like any good one
    low, high  the range of each number of `whole` over the good pictures
    count, flagged  good pictures, and how many of them limits that did not see them reject
    apart      places of those that stand apart from all others and set no limit
    """

    size: tuple[int, int]
    reference: Reference = field(repr=False)
    limits: Mapping[str, float]
    low: tuple[float, ...] = field(repr=False)
    high: tuple[float, ...] = field(repr=False)
    count: int = 0
    flagged: int = 0
    apart: tuple[int, ...] = ()

    def deviations(self, traits: Traits) -> dict[str, float]:
        """Each group's largest deviation from the good pictures, in spreads."""
        return {name: float(values.max()) for name, values in self.reference.deviations(traits).items()}

    def unlike(self, traits: Traits) -> str:
        """ "" for a picture that may be one of the product; else one phrase: what is furthest outside its limit."""
        deviations = self.reference.deviations(traits)
        over = {name: float(values.max()) / self.limits[name] for name, values in deviations.items()}
        # Fails closed: a deviation that is not a number is outside every limit.
        outside = [name for name in GROUPS if not over[name] <= 1.0]
        if not outside:
            return ""
        # The whole picture's numbers are the easiest for a person to check, those of several together the hardest.
        worst = max(outside, key=lambda name: (name == "whole", name not in TOGETHER, over[name]))
        return f"{UNLIKE}: {self._words(worst, traits, deviations[worst])}"

    def widened(self, described: Sequence[Traits]) -> Guard:
        """The same with limits that further good pictures keep (recalibration): MARGIN times their largest deviation.

        As in a fit, what stands apart from all the others sets no limit: one blank picture must not let all of them pass.
        """
        limits = dict(self.limits)
        low, high = np.array(self.low), np.array(self.high)
        strange = {name: np.array([self.deviations(traits)[name] for traits in described]) for name in GROUPS}
        apart = _apart(strange, max(1, len(described) // APART)) if len(described) > 1 else np.zeros(len(described), bool)
        for traits in (each for each, left in zip(described, apart, strict=True) if not left):
            for name, value in self.deviations(traits).items():
                limits[name] = max(limits[name], _six(MARGIN * value))
            low, high = np.minimum(low, traits["whole"]), np.maximum(high, traits["whole"])
        return replace(self, limits=limits, low=tuple(map(_six, low)), high=tuple(map(_six, high)))

    def _words(self, group: str, traits: Traits, deviations: NDArray[Any]) -> str:
        place = int(np.nanargmax(deviations)) if np.isfinite(deviations).any() else 0
        if group == "joint":
            return "its colours and textures do not go together as in any good picture"
        if group == "texture":
            return f"{_band(*divmod(place, BANDS))}, another texture than in any good picture"
        if group == "whole":
            name, (floor, _) = list(WHOLE.items())[place]
            value, low, high = (float(numbers[place]) * floor for numbers in (traits[group], self.low, self.high))
            if name == "sharpness":
                value, low, high = (max(math.exp(number) - TINY, 0.0) for number in (value, low, high))
            if name in SHARES:
                head, tail = SHARES[name]
                return f"{head} {100 * value:.0f} %{tail}, good pictures {100 * low:.0f} to {100 * high:.0f} %"
            return f"{name} {value:.3g}, good pictures {low:.3g} to {high:.3g}"
        more = float(traits[group][place]) > float(self.reference.middle[group][place])
        axis, rest = divmod(place, BANDS * MEASURES[group])
        if group == "colour":
            band, channel = divmod(rest, 3)
            what = f"{('red', 'green', 'blue')[channel]} is {'brighter' if more else 'darker'} than in any good picture"
        else:
            band = rest % BANDS
            what = "more structure than in any good picture" if more else "smoother than any good picture"
        return f"{_band(axis, band)}, {what}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        parts = ("middle", "spread", "centre", "whiten")
        return {
            "size": list(self.size),
            "count": self.count,
            "flagged": self.flagged,
            "apart": list(self.apart),
            "limits": dict(self.limits),
            "low": list(self.low),
            "high": list(self.high),
            "reference": {
                part: {name: _listed(array) for name, array in getattr(self.reference, part).items()} for part in parts
            },
        }


def _band(axis: int, band: int) -> str:
    return f"at {100 * band // BANDS} to {100 * (band + 1) // BANDS} % of the {('height', 'width')[axis]}"


def fit_guard(described: Sequence[Traits], size: tuple[int, int]) -> Guard:
    """The guard of these good pictures (one or more), described at `size`; neighbours in the sequence stay together."""
    table = {name: np.stack([traits[name] for traits in described]).astype(np.float64) for name in GROUPS}
    count = len(described)
    used = np.ones(count, dtype=bool)
    if count >= APART_FROM:
        used = ~_apart(_left_out(table, used), max(1, count // APART))
    strange = _left_out(table, used)
    limits, flagged = dict(LONE), int((~used).sum())
    if strange:
        limits = {name: _limit(name, values[used]) for name, values in strange.items()}
        for left in _folds(used):
            over = [values[left] > _limit(name, values[used & ~left]) for name, values in strange.items()]
            flagged += int(np.any(over, axis=0).sum())
    low, high = (tuple(map(_six, pick(table["whole"][used], axis=0))) for pick in (np.min, np.max))
    limits = {
        name: _six(limit) for name, limit in limits.items()
    }  # rounded as written, so that a loaded guard decides alike
    apart = tuple(int(place) for place in np.flatnonzero(~used))
    return Guard(size, _reference(table, used), limits, low, high, count, flagged, apart)


def _folds(used: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Blocks of neighbours among the used pictures, as masks over all."""
    places = np.flatnonzero(used)
    folds = []
    for block in np.array_split(places, min(FOLDS, len(places))):
        left = np.zeros(len(used), dtype=bool)
        left[block] = True
        folds.append(left)
    return folds


def _left_out(table: Table, used: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Of each group, the used pictures' largest deviation from the others; {} where there are too few to leave one out."""
    if used.sum() < FEW:
        return {}
    strange = {name: np.zeros(len(used)) for name in GROUPS}
    for left in _folds(used):
        reference = _reference(table, used & ~left)
        for name, deviations in reference.deviations({name: table[name][left] for name in GROUPS}).items():
            strange[name][left] = deviations.max(axis=1)
    return strange


def _apart(strange: Mapping[str, NDArray[np.float64]], most: int) -> NDArray[np.bool_]:
    """The pictures, `most` at most, whose strangeness is more than MARGIN times that of all others."""
    apart = np.zeros(len(strange["whole"]), dtype=bool)
    for name, values in strange.items():
        order = np.argsort(-values)
        for number in range(most):
            if values[order[number]] > MARGIN * max(values[order[number + 1]], LEAST[name] / MARGIN):
                apart[order[: number + 1]] = True
    return apart if apart.sum() <= most else np.zeros_like(apart)


def guard_from_dict(data: Mapping[str, Any]) -> Guard:
    """The inverse of `Guard.as_dict`. Raises KeyError, TypeError or ValueError where it is none."""
    own = {name: (SIZES[name],) for name in SIZES if name not in TOGETHER}
    centre = {name: (axes, numbers) for name, (axes, _, numbers) in TOGETHER.items()}
    whiten = {name: (axes, numbers, numbers) for name, (axes, _, numbers) in TOGETHER.items()}

    def arrays(key: str, shapes: Mapping[str, tuple[int, ...]], least: float = -math.inf) -> dict[str, Floats]:
        groups = {name: np.asarray(data["reference"][key][name], dtype=np.float32) for name in shapes}
        for name, array in groups.items():
            if array.shape != shapes[name] or not np.isfinite(array).all() or (array < least).any():
                raise ValueError(f"guard.json: {key} of {name} is not {shapes[name]} finite numbers of {least:g} or more")
        return groups

    limits = {name: float(data["limits"][name]) for name in GROUPS}
    if not all(math.isfinite(limit) and limit > 0 for limit in limits.values()):
        raise ValueError("guard.json: a limit is not a finite number above 0")
    low, high = (tuple(float(value) for value in data[key]) for key in ("low", "high"))
    if len(low) != len(WHOLE) or len(high) != len(WHOLE) or not np.isfinite([*low, *high]).all():
        raise ValueError(f"guard.json: low and high must be {len(WHOLE)} finite numbers each")
    height, width = (int(side) for side in data["size"])
    if not (8 <= height <= 4096 and 8 <= width <= 4096):
        raise ValueError(f"guard.json: the size is {height} x {width}, allowed are sides from 8 to 4096")
    reference = Reference(
        arrays("middle", own), arrays("spread", own, 1.0), arrays("centre", centre), arrays("whiten", whiten)
    )
    count, flagged = int(data["count"]), int(data["flagged"])
    return Guard((height, width), reference, limits, low, high, count, flagged, tuple(map(int, data["apart"])))


def _limit(group: str, strangeness: NDArray[np.float64]) -> float:
    return max(LEAST[group], MARGIN * float(strangeness.max())) if strangeness.size else LONE[group]


def _six(value: float) -> float:
    """With six digits, as it is written, which is more than a decision needs."""
    return float(f"{value:.6g}")


def _rounded(values: NDArray[Any]) -> Floats:
    return np.array([_six(value) for value in values.ravel()], dtype=np.float32).reshape(values.shape)


def _listed(values: Floats) -> Any:
    """A nested list of numbers with six digits."""
    return _six(float(values)) if values.ndim == 0 else [_listed(row) for row in values]
