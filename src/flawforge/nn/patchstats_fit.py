"""Fit `nn.patchstats` to the good pictures: four passes over them, each followed by a closed form; nothing is random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flawforge.nn.gaussians import (
    PRIORS,
    TAUS,
    freedom,
    leave_out,
    likelihoods,
    posterior,
    ridged,
    shared_likelihood,
    tail_of,
    whitener,
)
from flawforge.nn.patchstats import FOLDS, Branch, Gaussians, LeftOut, PatchStats, outside, smooth
from flawforge.nn.patchstats_judge import pool
from flawforge.types import Batch, Collect, Demand

WEIGHT = 4  # pictures by which a position's spread is held to its Gaussian's
MANY, FEW = 192, 64  # good pictures at most: for the Gaussians; for filters and tails (half of these choose the priors)
AT_ONCE = 8  # copies of one branch's moments while its Gaussians are made: sums, whitened, posteriors, roots
RESPONSES = 32  # bytes of a canvas pixel and feature while a batch of four is looked at


@dataclass
class Pass:
    """Progress of one pass over the good pictures.

    looked  pictures so far; used: of these, those that the Gaussians are fitted to; ranks: pictures so far of each fold
    """

    ranks: list[int]
    looked: int = 0
    used: int = 0


def begin_pass(net: PatchStats) -> Pass:
    """Before the first picture."""
    return Pass([0] * len(net.dealt))


# ---- 1: filters


def count(net: PatchStats, state: None, batch: Batch) -> None:
    """Count the good pictures, in all and in each fold, so that later passes can select an even share of them."""
    for fold in folds_of(net, batch, net.seen):
        net.dealt[fold] += 1
    net.seen += len(batch.clean)


def folds_of(net: PatchStats, batch: Batch, place: int) -> list[int]:
    """The fold of each picture of a batch that begins at `place`; an augmented copy has the fold of its picture."""
    places = range(place, place + len(batch.clean)) if batch.index is None else batch.index.tolist()
    return [place % len(net.dealt) for place in places]


def spaced(place: int, among: int, most: int) -> bool:
    """Whether the picture at `place` is one of at most `most`, evenly spread over `among`."""
    return among <= most or place * most % among < most


def share(net: PatchStats, come: Pass, batch: Batch, most: int) -> Batch:
    """The pictures of this batch that are among at most `most`, evenly spread over all."""
    places = [i for i in range(len(batch.clean)) if spaced(come.looked + i, net.seen, most)]
    come.looked += len(batch.clean)
    return picked(batch, places)


def fair_share(net: PatchStats, come: Pass, batch: Batch, most: int) -> tuple[Batch, list[int]]:
    """The pictures of this batch that are among at most `most`, evenly spread over each fold; and their folds.

    An even spread over all pictures would not do: every fifth of 960 pictures belongs to the same fold.
    """
    folds = folds_of(net, batch, come.looked)
    come.looked += len(batch.clean)
    parts, places = len(net.dealt), []
    for i, fold in enumerate(folds):
        if net.seen <= most or spaced(come.ranks[fold], net.dealt[fold], most // parts + (fold < most % parts)):
            places.append(i)
        come.ranks[fold] += 1
    return picked(batch, places), [folds[i] for i in places]


def tail_share(net: PatchStats, come: Pass, batch: Batch) -> Batch:
    """The pictures of this batch that are among at most FEW, evenly spread over those that the Gaussians are fitted to."""
    batch, _ = fair_share(net, come, batch, MANY)
    places = [i for i in range(len(batch.clean)) if spaced(come.used + i, min(net.seen, MANY), FEW)]
    come.used += len(batch.clean)
    return picked(batch, places)


def picked(batch: Batch, places: list[int]) -> Batch:
    """The batch restricted to these places."""
    return Batch(*(None if array is None else array[places].contiguous() for array in batch))


@dataclass
class Patches:
    """Of one branch's patches of p values: their number, sum p and sum of outer products p p; 0 before the first."""

    n: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    outer: Tensor = field(default_factory=lambda: torch.zeros(()))


PatchLook = tuple[Pass, list[Patches]]  # of every branch


def begin_patches(net: PatchStats) -> PatchLook:
    """Empty sums."""
    return begin_pass(net), [Patches() for _ in net.parts()]


def look_at_patches(net: PatchStats, state: PatchLook, batch: Batch) -> None:
    """Add patches and their outer products."""
    come, sums = state
    batch = share(net, come, batch, FEW)
    if not len(batch.clean):
        return
    fill = outside(batch.inner, batch.clean)
    for (branch, x), own in zip(net.inputs(batch.clean), sums, strict=True):
        x = pool(x, branch.scale)
        valid = cell_valid(batch, fill, branch)
        step = branch.stride * (2 if branch.scale == 1 else 1)
        valid = valid[..., :: step // branch.stride, :: step // branch.stride]
        for picture, held in zip(x, valid, strict=True):
            patches = F.unfold(F.pad(picture[None], [branch.side // 2] * 4, mode="reflect"), branch.side, stride=step)[0]
            patches = patches[:, held.flatten() > 0]
            own.n += patches.shape[1]
            own.total = own.total + patches.double().sum(dim=1)
            own.outer = own.outer + (patches @ patches.T).double()


def learn_filters(net: PatchStats, state: PatchLook) -> None:
    """Set each branch's filters to the leading principal components of its patches."""
    for branch, own in zip(net.parts(), state[1], strict=True):
        mean = own.total / max(own.n, 1)
        covariance = own.outer / max(own.n, 1) - torch.outer(mean, mean)
        _, vectors = torch.linalg.eigh(covariance)
        branch.filters.copy_(vectors.flip(1).T[: branch.width].reshape(branch.filters.shape))
        # The features are blind below a tenth of this; a constant picture has no contrast, so one grey level is the least.
        branch.floor.fill_(max(float(covariance.diagonal().mean().clamp_min(0).sqrt()), 1 / 255))


# ---- 2: Gaussians


def cell_valid(batch: Batch, fill: tuple[Tensor, Tensor], branch: Branch) -> Tensor:
    """n gh gw, 1 where any of the cell's pixels is judged and the filters' support is within the picture."""
    return F.max_pool2d(batch.valid.contiguous(), branch.grid)[:, 0] * branch.clear_of_border(fill)


@dataclass
class Features:
    """Sums of one branch's features, by fold; empty before the first batch. Letters: k blocks of b positions.

    size    gh gw
    shift   d, a constant near the mean, which is subtracted first for numerical stability
    n       folds k b; total  folds k d b; outer  folds k d d; all double, because some directions hardly vary
    samples some pictures' features k d b and weights k b, and for each picture its count, sum d, outer products d d
    """

    size: tuple[int, int] = (0, 0)
    shift: Tensor = field(default_factory=lambda: torch.zeros(0))
    n: Tensor = field(default_factory=lambda: torch.zeros(0))
    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    outer: Tensor = field(default_factory=lambda: torch.zeros(0))
    samples: list[tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]] = field(default_factory=list)


FeatureLook = tuple[Pass, list[Features]]  # of every branch


def begin_features(net: PatchStats) -> FeatureLook:
    """Empty sums."""
    return begin_pass(net), [Features() for _ in net.parts()]


def look_at_features(net: PatchStats, state: FeatureLook, batch: Batch) -> None:
    """Add features and outer products by block, and keep some pictures' features for the choice of the priors."""
    come, sums = state
    batch, folds = fair_share(net, come, batch, MANY)
    if not len(batch.clean):
        return
    places = [i for i in range(len(batch.clean)) if spaced(come.used + i, min(net.seen, MANY), FEW // 2)]
    come.used += len(batch.clean)
    fill = outside(batch.inner, batch.clean)
    parts = len(net.dealt)
    for (branch, x), so_far in zip(net.inputs(batch.clean), sums, strict=True):
        features = branch.features(x)
        if not len(so_far.shift):
            so_far.size, so_far.shift = (features.shape[-2], features.shape[-1]), features.mean(dim=(0, 2, 3))
        weight = branch.to_blocks(cell_valid(batch, fill, branch)[:, None])[:, 0]  # k n b
        held = branch.to_blocks(features - so_far.shift[:, None, None]) * weight[:, None]  # k d n b
        exact = held.double()
        if not len(so_far.n):
            k, d, _, b = exact.shape
            so_far.n, so_far.total = exact.new_zeros(parts, k, b), exact.new_zeros(parts, k, d, b)
            so_far.outer = exact.new_zeros(parts, k, d, d)
        for part in range(parts):
            own = [i for i, fold in enumerate(folds) if fold == part]
            if own:
                flat = exact[:, :, own].flatten(2)
                so_far.n[part] += weight[:, own].sum(dim=1)
                so_far.total[part] += exact[:, :, own].sum(dim=2)
                so_far.outer[part].baddbmm_(flat, flat.transpose(1, 2))
        for i in places:
            one = exact[:, :, i]
            alone = weight[:, i].double().sum(), one.sum(dim=(0, 2)), torch.einsum("kdb,keb->de", one, one)
            so_far.samples.append((held[:, :, i], weight[:, i], alone))


def fit_gaussians(net: PatchStats, state: FeatureLook) -> None:
    """Whiten by the common covariance, choose the priors, and store every block's Gaussians."""
    for branch, so_far in zip(net.parts(), state[1], strict=True):
        parts = so_far.n, so_far.total, so_far.outer
        n, total, outer = (part.sum(dim=0) for part in parts)
        whole = n.sum(), total.sum(dim=(0, 2)), outer.sum(dim=0)
        common = whole[1] / whole[0].clamp_min(1)
        means = total / n[:, None].clamp_min(1)
        within = (outer - torch.einsum("kdb,keb,kb->kde", means, means, n)).sum(dim=0)
        white = whitener(within / (n - 1).clamp_min(0).sum().clamp_min(1))
        moments = whiten_moments((n, total, outer), white, common)
        best = best_priors(branch, so_far, moments, whole, white)
        shift = common + so_far.shift.double()
        gaussians, branch.left_out = posterior_gaussians(branch, so_far.size, moments, best, white, shift)
        branch.centre, branch.factor, branch.width_of, branch.known = gaussians
        branch.spread = torch.ones_like(branch.known)
        branch.chosen = best.reshape(so_far.size[0] // branch.block, -1)
        if net.folds:
            without = [
                posterior_gaussians(branch, so_far.size, whiten_moments(left, white, common), best, white, shift)[0]
                for left in ((n - a, total - b, outer - c) for a, b, c in zip(*parts, strict=True))
            ]
            for name, gaussians_of_fold in zip(FOLDS, zip(*without, strict=True), strict=True):
                setattr(branch, name, torch.stack(gaussians_of_fold))


def moments_demand(net: PatchStats, canvas: tuple[int, int], pictures: int) -> Demand:
    """Memory for moments and kept features of all branches, for the Gaussians, and for temporary tensors.

    Measured on random pictures, five folds: 0.92 of the growth of the process at 256 x 256 pixels, 0.99 at 512 x 512.
    """
    folds, held, making = len(net.dealt), 0, 0
    for branch in net.parts():
        positions = math.ceil(canvas[0] / branch.grid) * math.ceil(canvas[1] / branch.grid)
        blocks, d = math.ceil(positions / branch.block**2), 2 * branch.width
        moments, factors = 8 * d * (d * blocks + positions), 4 * d * (d * blocks + positions)
        held += folds * moments + (1 + net.folds) * factors + min(pictures, FEW // 2) * 4 * (d + 1) * positions
        making = max(making, AT_ONCE * moments + net.folds * factors)
    looking = RESPONSES * canvas[0] * canvas[1] * max(2 * branch.width for branch in net.parts())
    return Demand(held + making + looking, None)


def whiten_moments(moments: tuple[Tensor, Tensor, Tensor], white: Tensor, common: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments k .. in whitened coordinates about the common mean, where every prior is a multiple of the identity."""
    n, total, outer = moments
    middle = torch.einsum("kd,e->kde", total.sum(dim=2), common)
    outer = outer - middle - middle.transpose(1, 2) + torch.outer(common, common) * n.sum(dim=1)[:, None, None]
    return n, white @ (total - common[:, None] * n[:, None]), white @ outer @ white.T


def best_priors(
    branch: Branch,
    so_far: Features,
    moments: tuple[Tensor, Tensor, Tensor],
    whole: tuple[Tensor, Tensor, Tensor],
    white: Tensor,
) -> Tensor:
    """k: the index into PRIORS that maximises the likelihood of left-out pictures, summed over each block's neighbours."""
    samples_kept, common = so_far.samples, (whole[1] / whole[0].clamp_min(1)).float()
    pictures = [own for _, _, own in samples_kept]
    rows = []
    for part in torch.arange(len(moments[0]), device=white.device).split(128):
        samples = torch.stack([white.float() @ (x[part] - common[:, None]) for x, _, _ in samples_kept])
        weights = torch.stack([w[part] for _, w, _ in samples_kept])
        own = likelihoods(samples, weights, *(moment[part] for moment in moments))
        rows.append(torch.cat([own, shared_likelihood(samples, weights, pictures, whole, white)[None]]))
    gh, gw = (side // branch.block for side in so_far.size)
    # One block's few samples are a noisy judge.
    return smooth(torch.cat(rows, dim=1).reshape(1, -1, gh, gw))[0].flatten(1).argmax(dim=0)


def posterior_gaussians(
    branch: Branch,
    size: tuple[int, int],
    moments: tuple[Tensor, Tensor, Tensor],
    best: Tensor,
    white: Tensor,
    shift: Tensor,
) -> tuple[Gaussians, LeftOut]:
    """Whitened moments k .. and the index of each block's prior k -> the Gaussians, and what `look_at_maps` needs."""
    n, _, outer = moments
    d, b, (gh, gw) = len(white), branch.block, size
    shared = best == len(PRIORS) - 1
    table = torch.tensor(
        [(0, 0) if math.isinf(tau) else (tau, d * kappa) for tau, kappa in PRIORS], dtype=n.dtype, device=n.device
    )
    tau, kappa = table[best].unbind(dim=1)
    tau = tau.clamp_min(TAUS[0])
    mean, scale = posterior(*moments, tau)
    scale = scale + kappa[:, None, None] * torch.eye(d, dtype=n.dtype, device=n.device)
    free = freedom(n, tau[:, None]) + kappa
    mean = torch.where(shared[:, None, None], 0, mean)
    scale = torch.where(shared[:, None, None], ridged(outer.sum(dim=0)), scale)
    free = torch.where(shared, n.sum(), free).clamp_min(1e-6)
    root = torch.linalg.cholesky(scale / free[:, None, None])
    factor = torch.linalg.solve_triangular(root, white.expand_as(root), upper=False)
    centre = torch.linalg.solve(white, mean) + shift[:, None]
    widths = -2 * torch.linalg.slogdet(factor)[1]
    gaussians = Gaussians(
        branch.from_blocks(centre, (gh, gw)).float().contiguous(),
        factor.float(),
        branch.from_blocks(widths[:, None, None].expand(-1, 1, b * b), (gh, gw))[0].float().contiguous(),
        (branch.from_blocks(n[:, None], (gh, gw))[0] > 0).float(),
    )
    return gaussians, LeftOut(n, free, tau, kappa, shared)


# ---- 3: tails


@dataclass
class Maps:
    """Of one branch, in batches: left-out squared distances n gh gw of some good pictures, and their weights n gh gw."""

    squared: list[Tensor] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)


MapLook = tuple[Pass, list[Maps]]  # of every branch


def begin_maps(net: PatchStats) -> MapLook:
    """No maps yet."""
    return begin_pass(net), [Maps() for _ in net.parts()]


def look_at_maps(net: PatchStats, state: MapLook, batch: Batch) -> None:
    """Keep left-out maps of some good pictures; only pictures that the Gaussians were fitted to can be left out."""
    come, maps = state
    batch = tail_share(net, come, batch)
    if len(batch.clean):
        keep_left_out(batch, net.inputs(batch.clean), maps)


def keep_left_out(batch: Batch, inputs: Sequence[tuple[Branch, Tensor]], branch_maps: Sequence[Maps]) -> None:
    """Append each branch's left-out distances of these pictures; `inputs`: the branch's own input n 3 h w."""
    fill = outside(batch.inner, batch.clean)
    for (branch, x), maps in zip(inputs, branch_maps, strict=True):
        left = branch.left_out
        assert left is not None, "the Gaussians are fitted"
        features, valid = branch.features(x), cell_valid(batch, fill, branch)
        white = branch.whitened(features, branch.gaussians())
        weight = branch.to_blocks(valid[:, None])[:, 0]  # k n b
        held = white.permute(0, 2, 1, 3) * weight[:, :, None]
        gram = (held.transpose(-1, -2) @ held) / left.free[:, None, None, None].float()
        tau, kappa = left.tau[:, None, None].float(), left.kappa[:, None].float()
        distance, _, _ = leave_out(gram, weight, left.n[:, None].float(), tau, kappa)
        distance = torch.where(left.shared[:, None, None], white.square().sum(dim=1), distance)
        distance = branch.from_blocks(distance, (features.shape[-2], features.shape[-1]))
        maps.squared.append(distance)
        maps.held.append(valid)


def fit_tails(net: PatchStats, state: MapLook) -> None:
    """Fit the tail of each branch's left-out strangeness of good pictures, over all positions."""
    for branch, left_out in zip(net.parts(), state[1], strict=True):
        squared, held = torch.cat(left_out.squared), torch.cat(left_out.held)
        widen(branch, squared, held)
        maps = branch.finished(squared, held, branch.gaussians())
        knots, slopes, tail = tail_of(maps[held > 0].double().cpu().sort().values)
        branch.knots.copy_(knots)
        branch.slopes.copy_(slopes)
        branch.tail.copy_(tail)
        branch.left_out = None
    net.start_looking()
    net.settle()


def widen(branch: Branch, squared: Tensor, held: Tensor) -> None:
    """Scale every position's covariance to the left-out distances n gh gw; the most likely scale is their mean / d.

    It is smoothed over neighbours, and shrunk towards 1 by the weight of WEIGHT pictures.
    """
    d = 2.0 * branch.width
    sums = smooth(torch.stack([(squared * held).sum(dim=0) / d, held.sum(dim=0)])[:, None])[:, 0]
    branch.spread = (sums[0] + WEIGHT) / (sums[1] + WEIGHT)
    branch.width_of = branch.width_of + d * branch.spread.log()
    if branch.folds:
        branch.fold_width_of = branch.fold_width_of + d * branch.spread.log()
    typical = ((d + branch.width_of) * branch.known).sum() / branch.known.sum().clamp_min(1)
    branch.usual.fill_(float(typical))


def looks(of: Callable[[Any], PatchStats] = lambda net: net) -> list[Collect]:
    """The four passes over the good pictures, the first only to count them. `of`: net -> its statistics."""

    def collect(
        name: str,
        begin: Callable[[PatchStats], Any],
        visit: Callable[[PatchStats, Any, Batch], None],
        finish: Callable[[PatchStats, Any], None],
        needs: Callable[[PatchStats, tuple[int, int], int], Demand] | None = None,
    ) -> Collect:
        demand = needs and (lambda net, canvas, pictures: needs(of(net), canvas, pictures))
        return Collect(
            name,
            lambda net: begin(of(net)),
            lambda net, state, batch: visit(of(net), state, batch),
            lambda net, state: finish(of(net), state),
            demand=demand,
        )

    return [
        collect("count", lambda statistics: None, count, lambda statistics, state: None),
        collect("filters", begin_patches, look_at_patches, learn_filters),
        collect("Gaussians", begin_features, look_at_features, fit_gaussians, moments_demand),
        collect("tails", begin_maps, look_at_maps, fit_tails),
    ]
