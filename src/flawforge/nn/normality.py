"""Statistics of good pictures from two sources and their sum: `nn.patchstats` over filters, `nn.trunkstats` over a trunk.

    family      what it is
    filters     the mean of the branches of `nn.patchstats`: filters learnt from the product itself
    memory      distance to the nearest good patch of the trunk's features
    positions   a Gaussian of the trunk's features at every position

Each is a -log tail probability among left-out good pictures, so a sum of families is Fisher's (1932). But each fails on some
products: filters respond to a varying background, Gaussians to parts that shift. So the memory is used alone, unless
forgeries on reserved good pictures show that a sum with it is better (`nn.evidence`). Without a trunk there are only the
filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from flawforge.nn.patchstats import Form as FilterForm
from flawforge.nn.patchstats import PatchStats
from flawforge.nn.patchstats_fit import count
from flawforge.nn.patchstats_fit import looks as filter_looks
from flawforge.nn.trunkstats import KINDS, LOOKS, TrunkStats, demand
from flawforge.nn.trunkstats import Form as TrunkForm
from flawforge.types import Batch, Collect, Demand

FAMILIES = ("filters", *KINDS)
SUMS = (
    ("memory",),
    ("filters", "memory"),
    ("memory", "positions"),
    ("filters", "memory", "positions"),
)  # what may count, the first until something else proves better; models fitted before may lack the memory


class Form(FilterForm, TrunkForm, Protocol):
    """The settings that a method's config must have. backbone "" = no trunk."""


class Normality(PatchStats):
    """Filters, and over a trunk memory and positions where `form.backbone` names one; otherwise `PatchStats` itself.

    n 3 h w in [0, 1] on the canvas it was fitted on; h and w multiples of 16.
    """

    counts: Tensor

    def __init__(self, form: Form, folds: int) -> None:
        super().__init__(form, folds)
        self.trunk = TrunkStats(form, folds) if form.backbone else None
        if self.trunk is not None:
            self.register_buffer("counts", counts_of(SUMS[0]))  # which of FAMILIES count
        self.counted: tuple[str, ...] = SUMS[0]  # the same by name, for what is not to be computed

    def settle(self) -> None:
        """Prepare the fitted tensors for judging; filters that do not count are not run."""
        super().settle()
        if self.trunk is not None:
            self.counted = tuple(name for name, counts in zip(FAMILIES, self.counts.tolist(), strict=True) if counts)

    @property
    def maps(self) -> int:
        """The number of maps of `surprises`."""
        return len(self.branches) + (len(KINDS) if self.trunk is not None else 0)

    def surprises(self, images: Tensor, folds: Sequence[int] | None = None, inner: Tensor | None = None) -> Tensor:
        """n 3 h w -> every branch's -log p, then the trunk's, on the finest grid, n maps gh gw."""
        own = super().surprises(images, folds, inner)
        if self.trunk is None:
            return own
        return beside(own, self.trunk.surprises(images, folds, inner))

    def look(self, images: Tensor, inner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """n 3 h w, inner n 4 -> (the `surprises` under all good pictures, the pictures in even light)."""
        own, even = super().look(images, inner)
        if self.trunk is None:
            return own, even
        return beside(own, self.trunk.surprises(images, None, inner)), even

    def families(self, surprises: Tensor) -> Tensor:
        """n maps gh gw -> n FAMILIES gh gw. Only where there is a trunk."""
        own = len(self.branches)
        return torch.cat([surprises[:, :own].mean(dim=1, keepdim=True), surprises[:, own:]], dim=1)

    def fuse(self, surprises: Tensor) -> Tensor:
        """n maps gh gw -> n 1 gh gw: the mean of the families that count, times the number of filter branches.

        (So that it is on the scale of a sum over the filters, on which the segmenter's initial weights were trained.)
        """
        if self.trunk is None:
            return super().fuse(surprises)
        weights = len(self.branches) * self.counts / self.counts.sum()
        return (self.families(surprises) * weights[:, None, None]).sum(dim=1, keepdim=True)

    def judged(self, images: Tensor, inner: Tensor | None = None) -> Tensor:
        """n 3 h w, inner n 4 -> the fused surprise n h w; families that do not count are not computed."""
        if self.trunk is None or "filters" in self.counted:
            return self.full(self.fuse(self.look(images, inner)[0]))[:, 0]
        fused = self.trunk.sum_of(images, inner, self.counted) * (len(self.branches) / len(self.counted))
        return F.interpolate(fused, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    def forget_folds(self) -> None:
        """Drop the tensors that only training needs."""
        super().forget_folds()
        if self.trunk is not None:
            self.trunk.forget_folds()

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, as sentences."""
        if self.trunk is None:
            return super().facts()
        return [f"the statistics are those of: {', '.join(self.counted)}", *super().facts(), *self.trunk.facts()]


def counts_of(families: Sequence[str]) -> Tensor:
    """Names of families -> for each of FAMILIES 1 if it is named, else 0."""
    return torch.tensor([float(name in families) for name in FAMILIES])


def beside(own: Tensor, trunk: Tensor) -> Tensor:
    """Filter maps n k gh gw and the trunk's, resampled to their grid -> concatenated n maps gh gw."""
    return torch.cat([own, F.interpolate(trunk, own.shape[-2:], mode="bilinear", align_corners=False)], dim=1)


def looks(trunk: bool) -> list[Collect]:
    """The four passes over the good pictures that fit `net.stats`; with a trunk each serves both sources."""
    own = filter_looks(lambda net: net.stats)
    if not trunk:
        return own
    return [_both(maps) for maps in own]


def _both(own: Collect) -> Collect:
    begin, visit, finish = LOOKS.get(own.name, (lambda statistics: None, count, lambda statistics, state: None))

    def begin_both(net: Any) -> tuple[Any, Any]:
        return own.begin(net), begin(net.stats.trunk)

    def visit_both(net: Any, states: tuple[Any, Any], batch: Batch) -> None:
        own.visit(net, states[0], batch)
        visit(net.stats.trunk, states[1], batch)

    def finish_both(net: Any, states: tuple[Any, Any]) -> None:
        own.finish(net, states[0])
        finish(net.stats.trunk, states[1])

    def needs(net: Any, canvas: tuple[int, int], pictures: int) -> Demand:
        ours, theirs = own.demand, demand(net.stats.trunk, canvas, pictures)
        first = ours(net, canvas, pictures) if ours else Demand(0, None)
        return Demand(first.memory_bytes + theirs.memory_bytes, theirs.operations)

    demand_of = needs if own.name == "filters" else own.demand
    return Collect(own.name, begin_both, visit_both, finish_both, demand=demand_of)
