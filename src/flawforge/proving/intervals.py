"""Metrics with their 95 % intervals: exact values from `metrics`, Clopper-Pearson for rates, bootstrap for the rest.

The bootstrap draws whole pictures with replacement, good and defective ones apart, because the pixels of one picture
are not independent. Replicates of the pixel metrics use per-picture histograms over common bins, so that hundreds of
them cost seconds; the value itself is exact, and the interval is shifted by the small difference that the bins make.

What the intervals do not say: they hold for pictures drawn like these. Where all replicates agree the interval has no
width, though a larger test set might still show an error; an image AUROC of exactly 1 is not left so: with m good and n
defective pictures it has min(m, n) disjoint pairs, all in order, so its lower bound is that of as many hits of as many
trials. One picture of a class,
drawn again and again, shows nothing of how such pictures differ: the interval is then all of [0, 1], as it is without
replicates.

Sources: Clopper and Pearson, Biometrika 26 (1934); Efron and Tibshirani, "An Introduction to the Bootstrap" (1993),
chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from flawforge.proving import metrics
from flawforge.proving.metrics import Curve, Floats, Pixels, Values
from flawforge.types import ConfigError

CONFIDENCE = 0.95
IMAGE_METRICS: dict[str, Callable[[Curve], Floats]] = {
    "auroc": metrics.curve_auroc,
    "ap": metrics.curve_average_precision,
    "f1_max": metrics.curve_f1_max,
}


class Estimate(NamedTuple):
    """A value and its 95 % interval; all three None where there is no value."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """For people: 0.950 (0.900 to 1.000)."""
        return "n/a" if self.value is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Binned(NamedTuple):
    """Histograms of n pictures over b bins, bins descending.

    good     (n, b) good pixels
    hits     (n, b) defective pixels
    shares   (n, b) defective pixels, each weighted by 1 / area of its region
    regions  (n,) regions
    """

    good: Floats
    hits: Floats
    shares: Floats
    regions: Floats


def rate(events: int, of: int) -> Estimate:
    """`events` / `of` with its exact (Clopper-Pearson) interval; all None for 0 of 0.

    Raises ConfigError unless 0 <= events <= of.
    """
    if not 0 <= events <= of:
        raise ConfigError(f"{events} of {of} is no rate; give a count between 0 and the number of trials.")
    if of == 0:
        return Estimate(None, None, None)
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(events, of - events + 1, tail)) if events else 0.0
    high = float(betaincinv(events + 1, of - events, 1 - tail)) if events < of else 1.0
    return Estimate(events / of, low, high)


def image_metrics(scores: ArrayLike, labels: ArrayLike, *, bootstrap: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """ "auroc", "ap" and "f1_max" of scores (n,) and labels (n,), True = defective.

    bootstrap  replicates; 0 leaves every interval at [0, 1]. Replicates are exact, for each score has its own bin.
    Raises ConfigError for NaN or for lengths that differ.
    """
    curve = metrics.score_curve(scores, labels)
    if curve is None:
        return dict.fromkeys(IMAGE_METRICS, Estimate(None, None, None))
    labels = np.asarray(labels).astype(bool)
    weights = _draw(labels, bootstrap, rng)
    values = np.asarray(scores)
    order = np.argsort(-values, kind="stable")
    first = np.flatnonzero(np.concatenate(([True], np.diff(values[order]) != 0)))
    weights, labels = weights[:, order], labels[order]
    drawn = _curve(*(np.add.reduceat(weights * one, first, axis=1) for one in (~labels, labels)))
    estimates = {name: _estimate(of(curve), of(drawn)) for name, of in IMAGE_METRICS.items()}
    pairs = int(min(labels.sum(), (~labels).sum()))
    if estimates["auroc"].value in (0.0, 1.0) and estimates["auroc"].low is not None and len(weights) > 1:
        estimates["auroc"] = rate(round(estimates["auroc"].value) * pairs, pairs)
        if estimates["auroc"].value == 1.0:  # every resample is as perfect; that says nothing of the next pictures
            for name in ("ap", "f1_max"):
                estimates[name] = estimates[name]._replace(low=estimates["auroc"].low)
    return estimates


def pixel_metrics(
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    *,
    limits: Sequence[float] = (0.3, 0.05),
    bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """ "auroc", "ap", "f1_max" over pixels and "aupro_<limit>" for each limit; all sort the pixels once.

    maps, masks  as `metrics.split_pixels`; bootstrap, errors as `image_metrics`.
    Work memory is about two copies of the maps.
    """
    pixels = metrics.split_pixels(maps, masks)
    names = [f"aupro_{limit:g}" for limit in limits]
    curves = metrics.pixel_curves(pixels)
    if curves is None:
        return dict.fromkeys([*IMAGE_METRICS, *names], Estimate(None, None, None))
    strata = np.array([bool(np.asarray(mask).any()) for mask in masks])
    weights = _draw(strata, bootstrap, rng)
    binned = bin_pixels(maps, masks, bin_edges(pixels))
    good = weights @ binned.good
    drawn = _curve(good, weights @ binned.hits)
    result = {name: _estimate(of(curves[0]), of(drawn)) for name, of in IMAGE_METRICS.items()}
    drawn = _curve(good, (weights @ binned.shares) / np.maximum(weights @ binned.regions, 1)[:, None])
    for name, limit in zip(names, limits, strict=True):
        result[name] = _estimate(metrics.curve_partial_area(curves[1], limit), metrics.curve_partial_area(drawn, limit))
    return result


def overlap(counts: NDArray[np.integer[Any]], defective: ArrayLike, *, bootstrap: int, rng: np.random.Generator) -> Estimate:
    """`metrics.iou` with its interval, from `metrics.overlap_counts`.

    counts     (n, 2) pixels in the intersection and in the union of each picture
    defective  (n,) True = the picture has a defect; bootstrap and errors as `image_metrics`
    """
    intersection, union = counts.sum(axis=0)
    if union == 0:
        return Estimate(None, None, None)
    drawn = _draw(np.asarray(defective, bool), bootstrap, rng) @ counts
    return _estimate(intersection / union, drawn[:, 0] / np.maximum(drawn[:, 1], 1))


def bin_edges(pixels: Pixels, bins: int = 512) -> Values:
    """Ascending edges for histograms of `pixels` (good ones sorted): dense where the curves turn.

    They are quantiles of the good pixels, over all of them, their highest 5 % and, evenly in the logarithm, their
    highest 1 %; and quantiles of the defective ones. At most 3 * bins of them.
    """
    good, defect = pixels.good, np.sort(pixels.defect)
    few = np.linspace(0, 1, bins // 2)
    rates = np.concatenate((np.linspace(0, 1, bins), 0.05 * few, np.geomspace(1 / good.size, 1, bins // 2) * 0.01))
    above = np.clip((rates * good.size).astype(np.int64), 0, good.size - 1)
    along = (np.linspace(0, 1, bins) * (defect.size - 1)).astype(np.int64)
    return np.unique(np.concatenate((good[good.size - 1 - above], defect[along])))


def bin_pixels(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike], edges: Values) -> Binned:
    """Histograms of each picture; bin i holds the values in [edges[i], edges[i + 1]), the lowest also those below."""
    shape = (len(maps), edges.size)
    table = Binned(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(len(maps)))
    for index, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels = metrics.split_pixels([values], [mask])
        pixels.good.sort()
        upto = np.append(np.searchsorted(pixels.good, edges[1:], "left"), pixels.good.size)
        table.good[index] = np.diff(upto, prepend=0)[::-1]
        place = np.searchsorted(edges[1:], pixels.defect, "right")
        table.hits[index] = np.bincount(place, minlength=edges.size)[::-1]
        table.shares[index] = np.bincount(place, pixels.weight, edges.size)[::-1]
        table.regions[index] = pixels.regions
    return table


def _curve(good: Floats, hits: Floats) -> Curve:
    """Replicates' curves from their weighted histograms (r, b), bins descending."""
    upto = good.cumsum(-1)
    return Curve(hits, upto - good, good, upto[:, -1:])


def _draw(strata: NDArray[np.bool_], replicates: int, rng: np.random.Generator) -> Floats:
    """How often each picture is drawn, (1 + replicates, n): first the pictures as they are, then the replicates.

    Each replicate draws as many of each stratum as there are. There are none where a stratum has one picture only:
    drawing it again and again would show nothing.
    """
    if replicates < 0:
        raise ConfigError(f"{replicates} bootstrap replicates were asked for; give 0 or more.")
    groups = [np.flatnonzero(strata == kind) for kind in (False, True)]
    weights = np.ones((1 if any(group.size == 1 for group in groups) else 1 + replicates, strata.size))
    for group in groups:
        if group.size:
            chance = np.full(group.size, 1 / group.size)
            weights[1:, group] = rng.multinomial(group.size, chance, size=len(weights) - 1)
    return weights


def _estimate(value: Floats | float, drawn: Floats) -> Estimate:
    """The exact value and the percentile interval of drawn[1:], shifted by value - drawn[0], within [0, 1].

    `drawn[0]` is the same value from the bins, so the shift is what the bins changed.
    """
    value = float(value)
    if drawn.size < 2:
        return Estimate(value, 0.0, 1.0)
    low, high = np.quantile(drawn[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) + (value - drawn[0])
    return Estimate(value, float(np.clip(low, 0, value)), float(np.clip(high, value, 1)))
