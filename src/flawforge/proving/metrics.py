"""How well scores and maps separate good from defective: exact functions of arrays, in numpy.

A higher score is more anomalous. Every number here follows from one small table, the `Curve`: for each distinct value
that a defective item takes, how many (or how much weight of) defective items take it, and how many good items lie
above it and on it. Equal values are one step of the curve, so ties are exact and the order of the input is without
meaning. Only defective values are steps, because between two of them a lower threshold adds false alarms alone.

Conventions
    one class only   the question has no answer, and the answer is None
    pixel metrics    pool the pixels of all pictures at the maps' own sizes; a good picture's mask is all False
    region           one 8-connected component of one picture's mask (as MVTec's and anomalib's evaluation)
    NaN              refused with a ConfigError; an infinite score is a score like any other

Sources: AUROC by Mann-Whitney ranks (Hanley and McNeil 1982); average precision as scikit-learn's step sum; AUPRO by
Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawforge.types import ConfigError

SORTERS = 2  # threads that put the good pixels in order
SAMPLE = 50_000  # pixels that say where to cut

Floats = NDArray[np.float64]
Values = NDArray[np.floating[Any]]


class Curve(NamedTuple):
    """Counts at each step, values descending along the last axis; leading axes are independent curves.

    hits   (..., v) defective items, or their weight, at exactly this value
    above  (..., v) good items strictly above it
    level  (..., v) good items at exactly this value
    good   (..., 1) good items in all
    """

    hits: Floats
    above: Floats
    level: Floats
    good: Floats


class Pixels(NamedTuple):
    """The pooled pixels of labelled maps, split by the masks.

    good     (g,) values of the good pixels
    defect   (d,) values of the defective pixels, picture after picture, row-major
    weight   (d,) 1 / area of the pixel's region; it adds up to `regions`
    regions  number of regions
    """

    good: Values
    defect: Values
    weight: Floats
    regions: int


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Chance that a defective item scores above a good one, a tie counting half; in [0, 1].

    scores (n,) floats, labels (n,) True = defective. None where one class is missing.
    Raises ConfigError for NaN or for lengths that differ.
    """
    curve = score_curve(scores, labels)
    return None if curve is None else float(curve_auroc(curve))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean precision over the steps of recall, in (0, 1]; arguments and errors as `auroc`."""
    curve = score_curve(scores, labels)
    return None if curve is None else float(curve_average_precision(curve))


def f1_max(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Highest F1 over all thresholds, in (0, 1]; arguments and errors as `auroc`.

    It picks its threshold on the labelled items, so it is an upper bound, never an operating point.
    """
    curve = score_curve(scores, labels)
    return None if curve is None else float(curve_f1_max(curve))


def pixel_auroc(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> float | None:
    """`auroc` over the pixels of all pictures; maps and masks as in `split_pixels`."""
    curves = pixel_curves(split_pixels(maps, masks))
    return None if curves is None else float(curve_auroc(curves[0]))


def pixel_average_precision(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> float | None:
    """`average_precision` over the pixels of all pictures; maps and masks as in `split_pixels`."""
    curves = pixel_curves(split_pixels(maps, masks))
    return None if curves is None else float(curve_average_precision(curves[0]))


def pixel_f1_max(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> float | None:
    """`f1_max` over the pixels of all pictures; maps and masks as in `split_pixels`."""
    curves = pixel_curves(split_pixels(maps, masks))
    return None if curves is None else float(curve_f1_max(curves[0]))


def aupro(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike], limit: float = 0.3) -> float | None:
    """Area under the per-region-overlap curve up to the false-positive rate `limit`, divided by `limit`; in [0, 1].

    maps   n arrays h w of float, higher = more anomalous; sizes may differ
    masks  n arrays h w, True = defective, each of its map's size
    limit  in (0, 1]

    At a threshold t, the overlap is the mean over all regions of all pictures of the share of the region's pixels
    at or above t; the false-positive rate is the share of all good pixels, of good and defective pictures alike, at
    or above t. The curve starts at (0, 0), has one point for each distinct value and is linear between two points
    (the trapezoid rule), also where `limit` cuts a step. None where there is no region or no good pixel.
    Raises ConfigError for a limit outside (0, 1], NaN, or shapes that differ.

    The area is summed by defective pixel, so that only the good pixels above the limit have to be in order.
    """
    _check_limit(limit)
    pixels = split_pixels(maps, masks)
    if pixels.regions == 0 or pixels.good.size == 0:
        return None
    total = pixels.good.size
    keep = min(total, int(np.floor(limit * total)) + 1)
    # Counts over parts add up, so each part is put in order by a thread of its own (numpy leaves the GIL).
    parts = np.array_split(pixels.good, SORTERS)
    cut = _cut(pixels.good, keep)
    with ThreadPoolExecutor(SORTERS) as pool:
        tops = list(pool.map(lambda part: np.sort(part[part >= cut]), parts))
        if sum(top.size for top in tops) < keep:  # the sample misled
            cut, tops = -np.inf, list(pool.map(np.sort, parts))
        reaches = pixels.defect >= cut
        curve = _curve(tops, pixels.defect[reaches], pixels.weight[reaches] / pixels.regions, total, pool.map)
    return float(curve_partial_area(curve, limit))


def iou(marked: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> float | None:
    """Intersection over union of marked and defective pixels, both summed over all pictures; in [0, 1].

    marked, masks  n bool arrays h w; for a threshold t, `[m > t for m in maps]`. Good pictures belong to it: what is
    marked on them is in the union. None where nothing is marked and nothing defective. Raises ConfigError for
    shapes that differ.
    """
    counts = overlap_counts(marked, masks)
    intersection, union = counts.sum(axis=0)
    return float(intersection / union) if union else None


def overlap_counts(marked: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> NDArray[np.int64]:
    """Pixels in the intersection and in the union of each picture, (n, 2); arguments and errors as `iou`."""
    counts = np.zeros((len(marked), 2), np.int64)
    for row, (one, mask) in zip(counts, _pairs(marked, masks), strict=True):
        one = np.asarray(one, bool)
        row[0] = np.count_nonzero(one & mask)
        row[1] = np.count_nonzero(one) + np.count_nonzero(mask) - row[0]
    return counts


def peak_on_defect(anomaly_map: ArrayLike, mask: ArrayLike) -> bool:
    """Whether the map is highest on the defect: more than half of the pixels at its maximum lie in the mask.

    One pixel is the common case; on a plateau the majority decides, so a constant map does not peak on a small
    defect. anomaly_map h w float, mask h w bool. Raises ConfigError for NaN or for shapes that differ.
    """
    (values, inside), *_ = _pairs([anomaly_map], [mask])
    highest = values == _without_nan(values).max()
    return bool(2 * np.count_nonzero(highest & inside) > np.count_nonzero(highest))


def score_curve(scores: ArrayLike, labels: ArrayLike) -> Curve | None:
    """The `Curve` of n scores (n,) and labels (n,), True = defective; None where one class is missing."""
    values = _without_nan(_floating(scores))
    defective = np.asarray(labels).astype(bool)
    if values.ndim != 1 or values.shape != defective.shape:
        raise ConfigError(
            f"The scores have shape {values.shape} and the labels {defective.shape}; give two lists of the same length."
        )
    if defective.all() or not defective.any():
        return None
    good = np.sort(values[~defective])
    return _curve([good], values[defective], np.ones(np.count_nonzero(defective)), good.size)


def pixel_curves(pixels: Pixels) -> tuple[Curve, Curve] | None:
    """Two curves of pooled pixels: hits counted in pixels, and in shares of regions that add up to 1 (for AUPRO).

    Sorts `pixels.good` in place. None where one class is missing.
    """
    if pixels.good.size == 0 or pixels.defect.size == 0:
        return None
    pixels.good.sort()
    ones, shares = np.ones(pixels.defect.size), pixels.weight / pixels.regions
    return (
        _curve([pixels.good], pixels.defect, ones, pixels.good.size),
        _curve([pixels.good], pixels.defect, shares, pixels.good.size),
    )


def split_pixels(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> Pixels:
    """Pool the pixels of n maps h w of float by their masks h w (True = defective); sizes may differ.

    The work memory is one copy of the maps. Raises ConfigError for NaN, another shape, or another number of masks.
    """
    pairs = _pairs(maps, masks)
    dtype = np.result_type(np.float32, *(values.dtype for values, _ in pairs)) if pairs else np.dtype(np.float32)
    areas = [int(np.count_nonzero(mask)) for _, mask in pairs]
    good = np.empty(sum(mask.size for _, mask in pairs) - sum(areas), dtype)
    defect, weight = np.empty(sum(areas), dtype), np.empty(sum(areas))
    regions = at = pixels = 0
    for (values, mask), area in zip(pairs, areas, strict=True):
        _without_nan(values)
        if area:
            defect[pixels : pixels + area] = values[mask]
            weight[pixels : pixels + area], count = region_weights(mask)
            regions, pixels = regions + count, pixels + area
        rest = mask.size - area
        good[at : at + rest] = values[~mask] if area else values.ravel()
        at += rest
    return Pixels(good, defect, weight, regions)


def region_weights(mask: NDArray[np.bool_]) -> tuple[Floats, int]:
    """For each True pixel of a mask h w, row-major, 1 / area of its 8-connected region; and the number of regions."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    box = np.ascontiguousarray(mask[y : y + h, x : x + w])
    count, names = cv2.connectedComponents(box.view(np.uint8), connectivity=8)
    names = names[box]
    areas = np.bincount(names, minlength=count).astype(np.float64)
    return (1 / np.maximum(areas, 1))[names], count - 1


def curve_auroc(curve: Curve) -> Floats:
    """AUROC of each curve, (...)."""
    won = (curve.hits * (curve.good - curve.above - curve.level / 2)).sum(-1)
    return won / (curve.good[..., 0] * curve.hits.sum(-1))


def curve_average_precision(curve: Curve) -> Floats:
    """Average precision of each curve, (...)."""
    hits = curve.hits.cumsum(-1)
    called = hits + curve.above + curve.level
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return (curve.hits * precision).sum(-1) / hits[..., -1]


def curve_f1_max(curve: Curve) -> Floats:
    """Highest F1 of each curve, (...)."""
    hits = curve.hits.cumsum(-1)
    return (2 * hits / (hits + curve.above + curve.level + hits[..., -1:])).max(-1)


def curve_partial_area(curve: Curve, limit: float) -> Floats:
    """Area of each curve up to the false-positive rate `limit`, divided by it, (...); hits must add up to 1.

    A step at rates from a to b adds its hits times the part of [0, limit] to the right of it, half of it over the
    step's own width: limit - (a + b) / 2 where b <= limit, and (limit - a)^2 / (2 (b - a)) where `limit` cuts it.
    """
    start = curve.above / curve.good
    width = curve.level / curve.good
    room = np.maximum(limit - start, 0)
    cut = np.divide(room, width, out=np.ones_like(room), where=width > room)
    area = np.where(width > room, room * cut / 2, room - width / 2)
    return (curve.hits * area).sum(-1) / limit


def _above_and_level(good: Values, steps: Values) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of `good`, ascending, lie above each step, and how many are level with it."""
    up_to = np.searchsorted(good, steps, "right")
    tied = np.flatnonzero((up_to > 0) & (good[np.maximum(up_to, 1) - 1] == steps)) if good.size else up_to[:0]
    level = np.zeros(steps.size, np.int64)
    level[tied] = up_to[tied] - np.searchsorted(good, steps[tied], "left")
    return good.size - up_to, level


def _cut(values: Values, keep: int) -> float:
    """A value that at least `keep` of `values` reach, almost surely: read off a thin sample, a little too low.

    To drop most values by one comparison is far cheaper than to put them all in order.
    """
    thin = values[:: max(1, values.size // SAMPLE)].copy()
    rank = thin.size - int(np.ceil(thin.size * keep / values.size + 3 * np.sqrt(thin.size))) - 1
    if rank < 0:
        return -np.inf
    thin.partition(rank)
    return float(thin[rank])


def _curve(
    goods: Sequence[Values], defect: Values, weight: Floats, total: int, over: Callable[..., Iterable[Any]] = map
) -> Curve:
    """`goods`, each ascending: all good values, or the highest of `total`; steps below them must not be asked for.

    over  map, or a pool's
    """
    order = np.argsort(defect)
    defect, weight = defect[order], weight[order]
    first = np.flatnonzero(np.concatenate(([True], defect[1:] != defect[:-1]))) if defect.size else order
    steps = defect[first]
    hits = np.add.reduceat(weight, first) if defect.size else weight
    counted = list(over(lambda good: _above_and_level(good, steps), goods))
    above, level = (sum(counts) for counts in zip(*counted, strict=True))
    down = slice(None, None, -1)
    return Curve(hits[down], above[down].astype(np.float64), level[down].astype(np.float64), np.array([float(total)]))


def _pairs(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> list[tuple[Any, NDArray[np.bool_]]]:
    if len(maps) != len(masks):
        raise ConfigError(f"There are {len(maps)} maps and {len(masks)} masks; give one mask per map.")
    pairs = []
    for index, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        values, mask = np.asarray(values), np.ascontiguousarray(mask, dtype=bool)
        if values.dtype != bool:
            values = _floating(values)
        if values.ndim != 2 or values.shape != mask.shape or values.size == 0:
            raise ConfigError(
                f"Map {index} has shape {values.shape} and its mask {mask.shape}; "
                "give both as h w, of the same size and not empty."
            )
        pairs.append((values, mask))
    return pairs


def _floating(values: ArrayLike) -> Values:
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return array if array.dtype.itemsize >= 4 else array.astype(np.float32)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    raise ConfigError(f"Scores of type {array.dtype} are no numbers; give floats, higher = more anomalous.")


def _without_nan(values: Values) -> Values:
    """`values`, once it is sure that none is NaN; the sum finds one at a third of isnan's cost."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isnan(values.sum()) and np.isnan(values).any():
            raise ConfigError("A score is NaN; give numbers only, and look at the network that made it.")
    return values


def _check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise ConfigError(f"An AUPRO limit of {limit} was given; give a false-positive rate in (0, 1].")
