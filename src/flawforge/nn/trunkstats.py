"""Statistics of a frozen trunk's features: distance to the nearest good patch, and a Gaussian for every position.

    here          source
    features      `nn.patches.PatchFeatures`: stages at strides 4, 8 and 16 on a grid of 8 pixels, 3 x 3 means, standardised
    memory        PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265): distance to the nearest of a greedy coreset
    positions     PaDiM (Defard et al., ICPR 2021, arXiv 2011.08785): density under a Gaussian of each position, over the
                  leading principal components; how much position matters is chosen as in `nn.patchstats`
    tails         ours: both become -log tail probabilities among left-out good pictures, so that they can be added to
                  each other and to those of `nn.patchstats`

A good picture is judged by a memory without the patches of its fold and by Gaussians fitted without its fold. The features
are not trained, so they stay in float32 and no optimiser has them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.coreset import Stream, sketch
from flawforge.nn.density import resized
from flawforge.nn.gaussians import KNOTS, tail_of
from flawforge.nn.nearest import distances, nearest
from flawforge.nn.patches import PatchFeatures
from flawforge.nn.patchstats import FOLDS, Branch, PatchStats, outside, smooth
from flawforge.nn.patchstats_fit import (
    MANY,
    MapLook,
    Pass,
    begin_features,
    begin_maps,
    begin_pass,
    fair_share,
    fit_gaussians,
    fit_tails,
    folds_of,
    keep_left_out,
    look_at_features,
    tail_share,
)
from flawforge.types import Batch, Demand

STAGES, GRID = (1, 2, 3), 8
REACH = 8  # pixels beside a cell that its features must not take from the letterbox border
STORE, SKETCH = 64, 128  # patches held at once, in memories; numbers by which the coreset measures distances
LEAST = 1e-3  # of the largest deviation: no feature counts as less spread
KINDS = ("memory", "positions")


class Form(Protocol):
    """The settings that a method's config must have."""

    @property
    def backbone(self) -> str: ...
    @property
    def numbers(self) -> int: ...
    @property
    def memory(self) -> int: ...
    @property
    def block(self) -> int: ...


class _Size:
    """A `patchstats.Form` for features that exist already: only the grid and the number of features count."""

    normalised: tuple[int, ...] = ()
    raw = (1,)
    side, cell, light = 3, GRID, 9

    def __init__(self, numbers: int, block: int) -> None:
        self.filters, self.block = numbers // 2, block


class Positions(Branch):
    """A Gaussian for every position of precomputed features n d gh gw."""

    def __init__(self, numbers: int, block: int, folds: int) -> None:
        super().__init__(_Size(numbers, block), 1, False, folds)

    def features(self, images: Tensor) -> Tensor:
        """The identity: the input already is features n d gh gw."""
        return images

    def told(self, fill: tuple[Tensor, Tensor]) -> Tensor:
        """Rows n h and columns n w of the letterbox border -> n gh gw, 1 where the features do not depend on the border."""
        return inside(fill, self.grid)


def inside(fill: tuple[Tensor, Tensor], grid: int) -> Tensor:
    """Rows n h and columns n w of the letterbox border -> n gh gw, 1 where no border lies within REACH of the cell."""
    rows, columns = (F.max_pool1d(F.max_pool1d(edges, 2 * REACH + 1, 1, REACH), grid) for edges in fill)
    return (1 - rows)[:, :, None] * (1 - columns)[:, None]


class Tail(nn.Module):
    """Distances, any shape -> -log of their tail probability among left-out good patches; increasing and unbounded."""

    knots: Tensor
    slopes: Tensor
    beyond: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(len(KNOTS)))
        self.register_buffer("slopes", torch.zeros(len(KNOTS) - 1))
        self.register_buffer("beyond", torch.tensor([1.0, 0.1]))  # scale, shape

    def fit(self, values: Tensor) -> None:
        """Fit to the distances n of left-out good patches."""
        for name, value in zip(("knots", "slopes", "beyond"), tail_of(values.double().cpu().sort().values), strict=True):
            getattr(self, name).copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        body = -torch.tensor(KNOTS[0]).log() + self.slopes[0] * (x.clamp(max=self.knots[1]) - self.knots[0])
        for i in range(1, len(KNOTS) - 1):
            body = body + self.slopes[i] * (x.clamp(max=self.knots[i + 1]) - self.knots[i]).clamp_min(0)
        beyond = (x - self.knots[-1]).clamp_min(0)
        return body + torch.log1p(self.beyond[1] * beyond / self.beyond[0]) / self.beyond[1]


class TrunkStats(PatchStats):
    """Memory and positions over one trunk. n 3 h w in [0, 1] on the canvas it was fitted on; h and w multiples of 16.

    A `PatchStats` with a single branch: it counts the good pictures and assigns folds in the same way.
    """

    scale: Tensor
    middle: Tensor
    projection: Tensor
    bank: Tensor
    tags: Tensor
    usual: Tensor

    def __init__(self, form: Form, folds: int) -> None:
        nn.Module.__init__(self)
        self.folds, self.most = folds, form.memory
        self.features = PatchFeatures(form.backbone, STAGES, local=True, grid=GRID)
        self.features.requires_grad_(False)
        d = self.features.width
        numbers = min(form.numbers, d) // 2 * 2
        self.positions = Positions(numbers, form.block, folds)
        self.tail = Tail()
        self.register_buffer("scale", torch.ones(d))
        self.register_buffer("middle", torch.zeros(d))
        self.register_buffer("projection", torch.zeros(numbers, d))
        self.register_buffer("bank", torch.zeros(1, d))
        self.register_buffer("tags", torch.zeros(1))  # the fold of each patch in the memory; `forget_folds` empties it
        self.register_buffer("usual", torch.zeros(1))
        self.register_buffer("sketch", sketch(d, SKETCH), persistent=False)
        resized(self, ("bank", "tags"))
        self.judge = None
        self.said: list[str] = []
        self.start_looking()

    def parts(self) -> list[Branch]:
        """The single branch."""
        return [self.positions]

    def settle(self) -> None:
        """Nothing to prepare for judging."""

    def embed(self, images: Tensor) -> Tensor:
        """n 3 h w -> standardised features n d gh gw, float32."""
        x: Tensor = self.features(images).float()
        return (x - self.middle[:, None, None]) * self.scale[:, None, None]

    def components(self, x: Tensor) -> Tensor:
        """Standardised features n d gh gw -> their leading principal components n numbers gh gw."""
        return F.conv2d(x, self.projection[:, :, None, None])

    def inputs(self, images: Tensor) -> list[tuple[Branch, Tensor]]:
        """n 3 h w -> the branch with its features n d gh gw."""
        return [(self.positions, self.components(self.embed(images)))]

    def distance(self, x: Tensor, folds: Sequence[int] | None = None) -> Tensor:
        """Standardised features n d gh gw -> distance to the nearest good patch, n gh gw.

        folds  for each picture the fold whose patches are left out; None = the whole memory
        """
        n, _, gh, gw = x.shape
        queries = x.flatten(2).transpose(1, 2)
        if folds is None:
            return distances(queries, self.bank).reshape(n, gh, gw)
        apart = torch.empty_like(queries[..., 0])
        for fold in sorted(set(folds)):
            own = [i for i, fold_of_picture in enumerate(folds) if fold_of_picture == fold]
            apart[own] = distances(queries[own], self.without(fold))
        return apart.reshape(n, gh, gw)

    def away(self, distance: Tensor, known: Tensor) -> Tensor:
        """Distances n gh gw, known n gh gw -> smoothed distances n gh gw, with the typical one where nothing is known."""
        return smooth((distance * known + self.usual * (1 - known))[:, None])[:, 0]

    def without(self, fold: int) -> Tensor:
        """The memory without the patches of one fold; all of it where there are no others."""
        others = self.bank[self.tags != fold]
        return others if len(others) else self.bank

    def difference(self, x: Tensor, folds: Sequence[int] | None = None) -> Tensor:
        """Standardised features n d gh gw -> their absolute difference to the nearest good patch, n d gh gw."""
        queries = x.flatten(2).transpose(1, 2)
        if folds is None:
            near = self.bank[nearest(queries, self.bank)[1]]
        else:
            near = torch.empty_like(queries)
            for fold in sorted(set(folds)):
                own = [i for i, fold_of_picture in enumerate(folds) if fold_of_picture == fold]
                bank = self.without(fold)
                near[own] = bank[nearest(queries[own], bank)[1]]
        return (queries - near).abs().transpose(1, 2).reshape(x.shape)

    def of_features(
        self, x: Tensor, distance: Tensor, images: Tensor, folds: Sequence[int] | None, inner: Tensor | None
    ) -> Tensor:
        """Standardised features and their distances -> -log p of KINDS, n 2 gh gw."""
        fill = outside(inner, images)
        return torch.stack([self.of_memory(distance, fill), self.of_positions(x, fill, folds)], dim=1)

    def of_memory(self, distance: Tensor, fill: tuple[Tensor, Tensor]) -> Tensor:
        """Distances n gh gw -> -log p, n gh gw."""
        return self.tail(self.away(distance, inside(fill, GRID)))

    def of_positions(self, x: Tensor, fill: tuple[Tensor, Tensor], folds: Sequence[int] | None) -> Tensor:
        """Standardised features n d gh gw -> -log p under the Gaussians, n gh gw."""
        return self.positions.surprise(self.positions.strangeness(self.components(x), fill, folds))

    def surprises(self, images: Tensor, folds: Sequence[int] | None = None, inner: Tensor | None = None) -> Tensor:
        """n 3 h w -> -log p of KINDS, n 2 gh gw; arguments as in `PatchStats.surprises`."""
        x = self.embed(images)
        return self.of_features(x, self.distance(x, folds), images, folds, inner)

    def sum_of(self, images: Tensor, inner: Tensor | None, kinds: Collection[str]) -> Tensor:
        """n 3 h w -> the sum of the -log p of some of KINDS, n 1 gh gw; the others are not computed."""
        x, fill = self.embed(images), outside(inner, images)
        parts = []
        if "memory" in kinds:
            parts.append(self.of_memory(self.distance(x), fill))
        if "positions" in kinds:
            parts.append(self.of_positions(x, fill, None))
        return torch.stack(parts, dim=1).sum(dim=1, keepdim=True)

    def forget_folds(self) -> None:
        """Drop the tensors that only training needs."""
        for name in FOLDS:
            setattr(self.positions, name, getattr(self.positions, name)[:0].clone())
        self.tags = self.tags[:0].clone()

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, as sentences."""
        shares = super().facts()[0].partition(": ")[2]
        return [*self.said, f"the trunk's features: {shares}"]


@dataclass
class Moments:
    """Count, sum d and sum of outer products d d of patches with d features, about a constant near their mean."""

    shift: Tensor
    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def about(cls, patches: Tensor) -> Moments:
        """Empty moments about the mean of these patches n d."""
        d = patches.shape[1]
        return cls(patches.mean(dim=0), 0, patches.new_zeros(d), patches.new_zeros(d, d))

    def add(self, patches: Tensor) -> None:
        """Add patches n d, double."""
        apart = patches - self.shift
        self.count += len(apart)
        self.total = self.total + apart.sum(dim=0)
        self.outer = self.outer + apart.T @ apart

    @property
    def mean(self) -> Tensor:
        """The mean, d."""
        return self.shift + self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """The covariance, d d."""
        mean = self.total / self.count
        return self.outer / self.count - torch.outer(mean, mean)

    @property
    def scale(self) -> Tensor:
        """The factor that makes each standard deviation 1, d float32; deviations are floored at LEAST times the largest."""
        deviation = self.covariance.diagonal().clamp_min(0).sqrt()
        return deviation.clamp_min(max(LEAST * float(deviation.max()), 1e-12)).reciprocal().float()


@dataclass
class MemoryLook:
    """State of the first pass: the coreset's stream and the patches' moments; None before the first patch."""

    come: Pass
    stream: Stream | None = None
    moments: Moments | None = None


def remember(net: TrunkStats, state: MemoryLook, batch: Batch) -> None:
    """Add the patches that contain a judged pixel to the coreset's stream, each with its fold, and to the moments."""
    batch, folds = fair_share(net, state.come, batch, MANY)
    if not len(batch.clean):
        return
    x = net.features(batch.clean).float().permute(0, 2, 3, 1)
    tags = torch.tensor(folds, dtype=x.dtype, device=x.device)[:, None, None, None].expand(*x.shape[:3], 1)
    patches = torch.cat([x, tags], dim=3)[_held(batch)]
    if not len(patches):
        return
    exact = patches[:, :-1].double()
    if state.moments is None:
        state.moments = Moments.about(exact)
    state.moments.add(exact)
    # The fold travels as one more number, to which the sketch is blind.
    projection = F.pad(state.moments.scale[:, None] * net.get_buffer("sketch"), (0, 0, 0, 1))
    if state.stream is None:
        state.stream = Stream(net.most, STORE * net.most, projection)
    state.stream.projection = projection
    state.stream.add(patches)


def _held(batch: Batch) -> Tensor:
    """n gh gw bool: the patches in which a pixel is judged and no letterbox border is seen."""
    known = inside(outside(batch.inner, batch.clean), GRID)
    return F.max_pool2d(batch.valid.contiguous(), GRID)[:, 0] * known > 0


def settle_memory(net: TrunkStats, state: MemoryLook) -> None:
    """Choose the memory, and compute the principal components."""
    moments, stream = state.moments, state.stream
    if moments is None or stream is None:
        return
    bank, _ = stream.finish(net.most)
    net.scale.copy_(moments.scale)
    net.middle.copy_(moments.mean)
    net.bank = ((bank[:, :-1] - net.middle) * net.scale).contiguous()
    net.tags = bank[:, -1].contiguous()
    _, vectors = torch.linalg.eigh(moments.covariance * torch.outer(net.scale, net.scale).double())
    net.projection.copy_(vectors.flip(1).T[: len(net.projection)])
    net.said = [f"the memory holds {len(net.bank)} of {stream.seen} good patches of the trunk's features"]


TailLook = tuple[MapLook, list[Tensor]]  # left-out maps of the Gaussians, left-out distances to the memory


def begin_tails(net: TrunkStats) -> TailLook:
    """No distances yet."""
    return begin_maps(net), []


def keep_distances(net: TrunkStats, state: TailLook, batch: Batch) -> None:
    """Keep left-out distances of some good pictures, to the memory and under the Gaussians."""
    (come, maps), distances_so_far = state
    batch = tail_share(net, come, batch)
    if not len(batch.clean):
        return
    x = net.embed(batch.clean)
    keep_left_out(batch, [(net.positions, net.components(x))], maps)
    known = inside(outside(batch.inner, batch.clean), GRID)
    distances_so_far.append(net.away(net.distance(x, folds_of(net, batch, 0)), known)[_held(batch)])


def settle_tails(net: TrunkStats, state: TailLook) -> None:
    """Fit the tails of both."""
    maps, left = state
    values = torch.cat(left) if left else net.usual
    net.tail.fit(values)
    net.usual.fill_(float(values.median()) if len(values) else 0.0)
    fit_tails(net, maps)


def demand(net: TrunkStats, canvas: tuple[int, int], pictures: int) -> Demand:
    """The cost of building the memory: bytes at the peak, and floating-point operations."""
    patches = -(-canvas[0] // GRID) * -(-canvas[1] // GRID) * min(pictures, MANY)
    store = min(STORE * net.most, patches)
    return Demand(
        Stream.memory(net.most, store, net.features.width + 1, SKETCH),
        Stream.work(patches, net.most, STORE * net.most, SKETCH),
    )


# The looks at the good pictures, beside those of `nn.patchstats_fit.looks` and under their names: begin, visit, finish.
LOOKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any, Batch], None], Callable[[Any, Any], None]]] = {
    "filters": (lambda net: MemoryLook(begin_pass(net)), remember, settle_memory),
    "Gaussians": (begin_features, look_at_features, fit_gaussians),
    "tails": (begin_tails, keep_distances, settle_tails),
}
