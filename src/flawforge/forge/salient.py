"""Forgeries placed by a saliency prior: SGSF's masks, CutSwap's swaps, and random swaps as a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.forge import blend, noise, shapes, texture
from flawforge.types import ConfigError, Forged, Image, Mask, Sample

Range = float | tuple[float, float]
Weights = NDArray[np.float32]  # h w in [0, 1]


@dataclass(frozen=True)
class SaliencyPerlin:
    """SGSF's saliency augmentation (Xing et al., arXiv 2209.12440; its formulas were not available, so all is assumed).

    Saliency S times Perlin noise scaled to [0, 1], with a threshold that adapts to the statistics of this product
    inside the salient region R = {S > region}; a texture shows through as in DRAEM's paper.

    rule      sets the threshold. "mean_std": mean over R plus `spread` standard deviations; "otsu": Otsu's threshold in R;
              "quantile": so that a drawn share `area` of R is forged; "uniform": uniform over the product's range in R
    spread    standard deviations, for "mean_std"
    area      share of R, number or (low, high), for "quantile"
    region    saliency above which a pixel is salient
    guard     (low, high): if R's share of the picture lies outside, S is not informative (a texture) and is set to 1
    cells, turn, opacity, operations, source   as in `perlin`; opacity None = 0.1 to 1.0

    Without Sample.prior the whole picture is salient, and drawn["prior"] is "none"; "guarded" where the guard applied.
    """

    rule: str = "mean_std"
    spread: float = 1.0
    area: Range = (0.02, 0.25)
    region: float = 0.5
    guard: tuple[float, float] = (0.05, 0.8)
    cells: tuple[int, int] = (0, 5)
    turn: float = 90.0
    opacity: Range | None = None
    operations: int = 3
    source: str = "auto"

    name: ClassVar[str] = "saliency_perlin"
    least_change: ClassVar[float] = 3 / 255

    def __post_init__(self) -> None:
        blend.check_choice(self.name, "rule", self.rule, ("mean_std", "otsu", "quantile", "uniform"))
        blend.check_range(self.name, "spread", self.spread, 0.0, 3.0, "standard deviations", form="number")
        blend.check_range(self.name, "area", self.area, 0.001, 0.9, "of the salient region")
        blend.check_range(self.name, "region", self.region, 0.0, 0.95, form="number")
        blend.check_range(self.name, "guard", self.guard, 0.0, 1.0, form="pair")
        texture.check_texture_fields(self.name, "paper", self.cells, self.turn, self.opacity, self.operations, self.source)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        blend.check_sample(sample)
        salient, note = self._prior(sample)

        def attempt() -> blend.Attempt:
            field, drawn = texture.lattice_noise(sample.image.shape[:2], self.cells, self.turn, rng)
            product = noise.stretch(field)
            inside: Mask | None = None
            if salient is not None:
                product, inside = product * salient, np.asarray(salient > np.float32(self.region))
            level = self._level(product if inside is None else product[inside], rng)
            mask = np.asarray(product > np.float32(level))
            if inside is not None:
                mask &= inside
            candidate, more = texture.show_texture(sample, mask, rng, "paper", self.opacity, self.operations, self.source)
            return candidate, mask, {**drawn, "prior": note, "threshold": level, **more}

        return blend.settle(sample, rng, self.name, self.least_change, attempt)

    def _prior(self, sample: Sample) -> tuple[Weights | None, str]:
        """The saliency to use (None = 1 everywhere) and what happened to it."""
        if sample.prior is None:
            return None, "none"
        prior = sample.prior if sample.prior.ndim == 2 else np.asarray(sample.prior.mean(axis=2), np.float32)
        share = float(np.mean(prior > np.float32(self.region)))
        if not self.guard[0] <= share <= self.guard[1]:
            return None, "guarded"
        return prior, "given"

    def _level(self, values: NDArray[np.float32], rng: np.random.Generator) -> float:
        """The adaptive threshold on the product's values inside the salient region."""
        if self.rule == "mean_std":
            return float(values.mean() + self.spread * values.std())
        if self.rule == "otsu":
            top = max(float(values.max()), 1e-9)
            levels = np.asarray(values.ravel()[:, None] * np.float32(255.0 / top), np.uint8)
            return float(cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)[0]) * top / 255.0
        if self.rule == "quantile":
            return float(np.quantile(values, 1.0 - blend.draw(rng, self.area)))
        return float(rng.uniform(float(values.min()), float(values.max())))


@dataclass(frozen=True)
class CutSwap:
    """CutSwap (Qin, Gu, Yu, Zhang, arXiv 2311.18332): two patches around pixels of the most salient cluster are swapped.

    Known from the abstract: saliency of several levels, clustering, a pixel pair from the cluster of the highest centroid
    on each map, and an exchange of their patches. All amounts are assumptions.

    levels    cells of the grid along the longer side on which the prior is clustered; one is drawn per picture (the reading
              "R1": stages 1 to 4 of a ResNet at 256 px); a prior of k levels needs k of them
    clusters  number of clusters, formed by the saliency value alone
    clustering  "kmeans" or "fuzzy" (c-means with exponent 2, hard assignment), in one dimension
    pick      the cluster to start from: "highest" (the paper), "lowest" or "random" (controls)
    exchange  True: the patches are swapped; False: one is pasted over the other (control)
    area      share of the picture's area of each patch; CutPaste's 0.02 to 0.15
    aspect    height / width, uniform in its logarithm; CutPaste's 0.3 to 3.3
    tries     placements per size before the area is halved, and then the next-best cluster used
    gate      redrawn while the mean change in both patches is below this share of the range; the best of `tries` is kept

    The prior (LayerCAM in the paper, see `saliency`) comes with the sample. Without one every pixel is equally salient,
    drawn["prior"] is "none", and the result is that of `random_swap`.
    """

    levels: tuple[int, ...] = (64, 32, 16, 8)
    clusters: int = 3
    clustering: str = "kmeans"
    pick: str = "highest"
    exchange: bool = True
    area: Range = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    tries: int = 20
    gate: float = 0.02

    name: ClassVar[str] = "cutswap"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        for level in self.levels or (0,):
            blend.check_range(self.name, "levels", level, 2, 512, "cells", form="number")
        blend.check_choice(self.name, "clusters", self.clusters, tuple(range(1, 17)))
        blend.check_choice(self.name, "clustering", self.clustering, ("kmeans", "fuzzy"))
        blend.check_choice(self.name, "pick", self.pick, ("highest", "lowest", "random"))
        blend.check_choice(self.name, "exchange", self.exchange, (True, False))
        _check_swap(self.name, self.area, self.aspect, self.tries, self.gate)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        def attempt() -> blend.Attempt:
            ranked, drawn = self._ranked(sample.prior, rng)
            return swap(
                sample.image, ranked, self.area, self.aspect, self.tries, self.gate, rng, drawn, exchange=self.exchange
            )

        return blend.settle(sample, rng, self.name, self.least_change, attempt)

    def _ranked(self, prior: Weights | None, rng: np.random.Generator) -> tuple[NDArray[np.int64] | None, dict[str, Any]]:
        """The rank in which each cell of a drawn level's grid is taken, and what was drawn."""
        if prior is None:
            return None, {"prior": "none"}
        if prior.ndim == 3 and prior.shape[2] != len(self.levels):
            raise ConfigError(
                f"{self.name}: levels has {len(self.levels)} grids and the prior {prior.shape[2]} levels; give as many."
            )
        place = int(rng.integers(len(self.levels)))
        level = int(self.levels[place])
        grid = coarsen(prior if prior.ndim == 2 else np.ascontiguousarray(prior[..., place]), level)
        ranked = one_dimensional_clusters(grid, self.clusters, self.clustering)
        if self.pick == "lowest":
            ranked = ranked.max() - ranked
        elif self.pick == "random":
            ranked = rng.permutation(int(ranked.max()) + 1)[ranked]
        return ranked, {"prior": "given", "level": level}


@dataclass(frozen=True)
class RandomSwap:
    """The control of `cutswap`: two patches are swapped at uniformly drawn places, without saliency.

    Fields as in `cutswap`. The layer called CutSwap in a public augmentation library is this one, with area 0.05 to 0.3,
    aspect 0.3 to 3.0 and overlap allowed; here patches never overlap, because an exchange would then be undefined.
    """

    area: Range = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    tries: int = 20
    gate: float = 0.02

    name: ClassVar[str] = "random_swap"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        _check_swap(self.name, self.area, self.aspect, self.tries, self.gate)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(
            sample,
            rng,
            self.name,
            self.least_change,
            lambda: swap(sample.image, None, self.area, self.aspect, self.tries, self.gate, rng, {}),
        )


def _check_swap(name: str, area: Range, aspect: tuple[float, float], tries: int, gate: float) -> None:
    blend.check_range(name, "area", area, 0.0005, 0.4, "of the picture's area")
    blend.check_range(name, "aspect", aspect, 0.05, 20.0, form="pair")
    blend.check_range(name, "tries", tries, 1, 1000, form="number")
    blend.check_range(name, "gate", gate, 0.0, 0.5, form="number")


def coarsen(prior: Weights, cells: int) -> Weights:
    """The prior on a grid with `cells` cells along its longer side, at least 2 along the other (area means)."""
    h, w = prior.shape
    unit = max(h, w) / min(cells, max(h, w))
    grid = (max(2, round(w / unit)), max(2, round(h / unit)))
    return np.asarray(cv2.resize(prior, grid, interpolation=cv2.INTER_AREA), np.float32)


def one_dimensional_clusters(grid: Weights, count: int, how: str = "kmeans") -> NDArray[np.int64]:
    """Rank of each cell's cluster by the cell's value, 0 = highest centroid; centres start evenly over the range.

    "kmeans": Lloyd's algorithm; "fuzzy": c-means with exponent 2, each cell then assigned to its cluster of highest
    membership, which is the nearest (its centres differ from those of k-means, because every value contributes to all).
    """
    values = grid.ravel().astype(np.float64)
    centres = np.unique(np.linspace(values.max(), values.min(), count))[::-1]
    rank = np.zeros(values.shape, np.int64)
    if how == "fuzzy":
        centres = fuzzy_centres(values, centres)
        rank = np.searchsorted(-(centres[1:] + centres[:-1]) / 2.0, -values, side="right")
    for _ in range(0 if how == "fuzzy" else 30):
        borders = (centres[1:] + centres[:-1]) / 2.0
        rank = np.searchsorted(-borders, -values, side="right")
        sizes = np.bincount(rank, minlength=centres.size)
        sums = np.bincount(rank, weights=values, minlength=centres.size)
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
        if np.allclose(moved, centres, atol=1e-9):
            break
        centres = moved
    return np.unique(rank, return_inverse=True)[1].reshape(grid.shape)  # no rank without a cell


def fuzzy_centres(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fuzzy c-means (Bezdek 1981) with exponent 2: the centres of values n, descending, from starting centres k."""
    for _ in range(100):
        apart = np.maximum((values - centres[:, None]) ** 2, 1e-12)
        belongs = (1.0 / apart) / (1.0 / apart).sum(axis=0)
        weight = belongs**2
        moved = (weight @ values) / weight.sum(axis=1)
        if np.allclose(moved, centres, atol=1e-5):
            break
        centres = moved
    return np.sort(centres)[::-1]


def swap(
    image: Image,
    ranked: NDArray[np.int64] | None,
    area: Range,
    aspect: tuple[float, float],
    tries: int,
    gate: float,
    rng: np.random.Generator,
    drawn: dict[str, Any],
    *,
    exchange: bool = True,
) -> blend.Attempt:
    """Exchange two patches centred on two cells of the best-ranked cluster (None: anywhere); the gate's best of `tries`.

    exchange False: the second is pasted over the first, and itself unchanged.
    """
    size = image.shape[:2]
    bh, bw = shapes.box_inside(size, rng, area if isinstance(area, tuple) else (area, area), aspect)
    best: tuple[float, tuple[int, int], tuple[int, int], tuple[int, int]] | None = None
    ranks = 1 if ranked is None else int(ranked.max()) + 1
    for rank in range(ranks):
        box = (min(bh, size[0]), min(bw, size[1]))
        for halving in range(4):
            for _ in range(tries):
                one, two = (_corner(size, box, ranked, rank, rng) for _ in range(2))
                if abs(one[0] - two[0]) < box[0] and abs(one[1] - two[1]) < box[1]:
                    continue
                change = _mean_change(image, one, two, box)
                if best is None or change > best[0]:
                    best = (change, one, two, box)
                if change >= gate:
                    break
            if best is not None:
                drawn = {**drawn, "cluster": rank, "halvings": halving, "gate": best[0] >= gate}
                return _exchanged(image, best, drawn, exchange)
            box = (max(2, round(box[0] / 2**0.5)), max(2, round(box[1] / 2**0.5)))
    return image, np.zeros(size, bool), drawn


def _corner(
    size: tuple[int, int], box: tuple[int, int], ranked: NDArray[np.int64] | None, rank: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Top-left of a box centred on a point of the cluster, shifted inwards to lie in the picture."""
    weights = None if ranked is None else (ranked == rank).astype(np.float32)
    y, x = shapes.place(size, weights, rng)
    return int(np.clip(y - box[0] / 2, 0, size[0] - box[0])), int(np.clip(x - box[1] / 2, 0, size[1] - box[1]))


def _part(image: Image, corner: tuple[int, int], box: tuple[int, int]) -> Image:
    return image[corner[0] : corner[0] + box[0], corner[1] : corner[1] + box[1]]


def _mean_change(image: Image, one: tuple[int, int], two: tuple[int, int], box: tuple[int, int]) -> float:
    difference = cv2.absdiff(np.ascontiguousarray(_part(image, one, box)), np.ascontiguousarray(_part(image, two, box)))
    return float(difference.mean()) / blend.full_range(image)


def _exchanged(
    image: Image,
    best: tuple[float, tuple[int, int], tuple[int, int], tuple[int, int]],
    drawn: dict[str, Any],
    exchange: bool,
) -> blend.Attempt:
    _, one, two, box = best
    candidate, mask = image.copy(), np.zeros(image.shape[:2], bool)
    for to, source in ((one, two), (two, one))[: 1 + exchange]:
        _part(candidate, to, box)[:] = _part(image, source, box)
        mask[to[0] : to[0] + box[0], to[1] : to[1] + box[1]] = True
    return candidate, mask, {**drawn, "one": list(one), "two": list(two), "size": list(box)}
