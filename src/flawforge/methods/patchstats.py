"""Statistics of a product's own good pictures, in closed form: per-position Gaussians over learned PCA filters.

The form is PaDiM's (Defard et al., ICPR 2021, arXiv 2011.08785: one Gaussian for every position, Mahalanobis distance) without
its pretrained network; the filters are the leading principal components of the good pictures' own patches (as in PCANet, Chan et
al., 2015, arXiv 1404.3606). Nothing is drawn at random and nothing is trained by gradient: four looks at the good pictures.

    step                    here                                                         source
    1 filters               `look_at_patches`: PCA of side x side patches, a branch      PCANet
    2 Gaussians             `look_at_features`, `posterior`: normal-inverse-Wishart      Gelman et al., Bayesian Data Analysis, 3.6
                            posterior mean and scale; covariance pooled over a block
    3 how much to shrink    `choose`: the likelihood of each good picture under the      Hoffbeck & Landgrebe 1996 (LOOC) and Theiler
                            Gaussians without it, exact by the matrix inversion lemma    2012 for one sample; `leave_out` for a block
    4 tails                 `look_at_distances`: empirical p-values of left-out good     Pickands 1975; Hosking & Wallis 1987 (closed
                            distances, a generalised Pareto tail beyond them             form by weighted moments)
    5 one map               harmonic mean of the branches' p-values, as surprise in      Wilson, PNAS 2019 (valid under dependence)
                            nats: -log p; unbounded, so no two large defects tie

A branch is one scale of one input: the picture itself or the picture with its illumination normalised. Its features are the log
of the local mean of each |response| and the signed log of the local mean response. Position counts as much as the good pictures
say: prior strength `tau` holds every position's mean to the common mean, `kappa` every block's covariance to the common one, and
both are chosen by leave-one-out likelihood; where one shared Gaussian is likelier than any of these, it is taken (`facts`).

Memory of a fit, for a canvas of P pixels and d = 2 * filters: d^2 * 8 / 64 bytes per P (block moments) + d * 8 / 16 per P, and at
most `kept` pictures' distances (4 / 16 bytes per P each) and sampled features; 256 x 256 pixels: below 60 MiB a fine branch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.forge import FORGERS
from flawforge.types import Batch, Collect, Evidence, Forger, Method, ScoreRule

TAUS = (0.1, 4.0, 32.0, 256.0)  # prior strength of a mean, in pictures
KAPPAS = (1.0, 8.0, 64.0, 512.0)  # prior strength of a covariance, in multiples of d samples
PRIORS = (*((tau, kappa) for tau in TAUS for kappa in KAPPAS), (math.inf, math.inf))  # the last: one Gaussian for all
MANY, FEW = 256, 64  # good pictures at most: for the Gaussians; for filters and tails (half of these choose the priors)
KNOTS = (0.99, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # empirical tail probabilities; beyond the last, a Pareto tail


@dataclass(frozen=True)
class Config:
    """Settings of the statistics. Scales are powers of two; a scale of 2 sees the picture at half its size."""

    normalised: tuple[int, ...] = (1, 2, 4)
    raw: tuple[int, ...] = (1, 2, 4)
    filters: int = 14
    side: int = 7
    cell: int = 4  # canvas pixels between neighbouring Gaussians
    block: int = 2  # block x block neighbours share one covariance
    light: int = 33  # side of the window whose mean and deviation are "the illumination"
    top: float = 0.001
    batch: int = 4
    forge_share: float = 0.0
    epochs: float = 0.0
    precision: str = "32-true"


def even_light(images: Tensor, window: int) -> Tensor:
    """n 3 h w -> the same, less the wide local mean, over the wide local deviation + 0.05 (so that noise is not blown up).

    The illumination is wide, so it is measured on 4 x 4 means; h and w are multiples of 4.
    """

    def wide(x: Tensor) -> Tensor:
        side = max(window // 8, 1)
        return F.avg_pool2d(pool(x, 4), 2 * side + 1, 1, side, count_include_pad=False)

    def full(x: Tensor) -> Tensor:
        return F.interpolate(x, images.shape[-2:], mode="bilinear", align_corners=False)

    mean = wide(images)
    variance = (wide(images.square()) - mean.square()).mean(dim=1, keepdim=True).clamp_min(0)
    return (images - full(mean)) * full(1 / (variance.sqrt() + 0.05))


def pool(x: Tensor, side: int) -> Tensor:
    """n c h w -> means over side x side cells. (torch's own pooling takes several times as long on few channels.)"""
    if side == 1:
        return x
    n, c, h, w = x.shape
    rows = x.reshape(n, c, h // side, side, w).mean(dim=3)
    columns = rows[..., ::side]
    for i in range(1, side):
        columns = columns + rows[..., i::side]
    return columns / side


class Branch(nn.Module):
    """One scale of one input: filters, Gaussians on a grid, and the tail of good distances."""

    filters: Tensor
    floor: Tensor
    centre: Tensor
    factor: Tensor
    width_of: Tensor
    known: Tensor
    usual: Tensor
    knots: Tensor
    slopes: Tensor
    tail: Tensor
    chosen: Tensor

    def __init__(self, config: Config, scale: int, normalised: bool) -> None:
        super().__init__()
        self.scale, self.normalised, self.side, self.block = scale, normalised, config.side, config.block
        self.grid = max(config.cell, 2 * scale)  # canvas pixels between Gaussians
        self.stride = self.grid // scale  # the same in this scale's own pixels
        self.skip = 2 if self.stride >= 4 else 1  # every second response says as much of a cell of four
        self.width = config.filters
        d = 2 * config.filters
        self.register_buffer("filters", torch.zeros(config.filters, 3, config.side, config.side))
        self.register_buffer("floor", torch.ones(1))  # a response below this is noise
        self.register_buffer("centre", torch.zeros(d, 0, 0))
        self.register_buffer("factor", torch.zeros(0, d, d))
        self.register_buffer("width_of", torch.zeros(0, 0))  # log-determinant of each position's covariance
        self.register_buffer("known", torch.zeros(0, 0))  # 1 = some good picture has this position
        self.register_buffer("usual", torch.zeros(1))
        self.register_buffer("knots", torch.zeros(len(KNOTS)))
        self.register_buffer("slopes", torch.zeros(len(KNOTS) - 1))
        self.register_buffer("tail", torch.tensor([1.0, 0.1]))  # scale, shape
        self.register_buffer("chosen", torch.zeros(0, 0, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_resize_buffers)
        self.work: dict[str, Any] = {}

    def features(self, images: Tensor) -> Tensor:
        """n 3 h w of this branch's input -> n d gh gw."""
        margin = self.side // 2
        x = pool(images, self.scale)
        response = F.conv2d(F.pad(x, [margin] * 4, mode="reflect"), self.filters, stride=self.skip)
        strength, mean = smooth(pool(response.abs(), self.stride // self.skip)), smooth(pool(response, self.stride // self.skip))
        return torch.cat([torch.log(0.1 + strength / self.floor), mean.sign() * torch.log1p(10 * mean.abs() / self.floor)], dim=1)

    def to_blocks(self, x: Tensor) -> Tensor:
        """n c gh gw -> blocks c n block^2."""
        n, c, gh, gw = x.shape
        b = self.block
        x = x.reshape(n, c, gh // b, b, gw // b, b).permute(2, 4, 1, 0, 3, 5)
        return x.reshape((gh // b) * (gw // b), c, n, b * b)

    def from_blocks(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """blocks n block^2 -> n gh gw."""
        (gh, gw), b = size, self.block
        x = x.reshape(gh // b, gw // b, -1, b, b).permute(2, 0, 3, 1, 4)
        return x.reshape(-1, gh, gw)

    def whitened(self, features: Tensor) -> Tensor:
        """n d gh gw -> blocks d n block^2, whose squared length is the Mahalanobis distance."""
        residual = self.to_blocks(features - self.centre)
        blocks, d, n, b = residual.shape
        return torch.bmm(self.factor, residual.reshape(blocks, d, n * b)).reshape(blocks, d, n, b)

    def told(self, fill: tuple[Tensor, Tensor]) -> Tensor:
        """Rows n h and columns n w of the letterbox border -> n gh gw, 1 where the filters see only the picture."""
        reach = self.side // 2 * self.scale
        rows, columns = (F.max_pool1d(F.max_pool1d(each, 2 * reach + 1, 1, reach), self.grid) for each in fill)
        return (1 - rows)[:, :, None] * (1 - columns)[:, None]

    def strangeness(self, images: Tensor, fill: tuple[Tensor, Tensor]) -> Tensor:
        """n 3 h w -> -2 log density under each position's Gaussian, n gh gw, constants dropped, smoothed over neighbours."""
        features = self.features(images)
        squared = self.whitened(features).square().sum(dim=1)
        return self.finished(self.from_blocks(squared, (features.shape[-2], features.shape[-1])), self.told(fill))

    def finished(self, squared: Tensor, told: Tensor) -> Tensor:
        """Distances n gh gw -> strangeness; a position without evidence is as strange as good pictures usually are."""
        told = told * self.known
        return smooth(((squared + self.width_of) * told + self.usual * (1 - told))[:, None])[:, 0]

    def surprise(self, strangeness: Tensor) -> Tensor:
        """-> -log of its tail probability among left-out good pictures; increasing and unbounded."""
        x = strangeness
        body = -math.log(KNOTS[0]) + self.slopes[0] * (x.clamp(max=self.knots[1]) - self.knots[0])
        for i in range(1, len(KNOTS) - 1):
            body = body + self.slopes[i] * (x.clamp(max=self.knots[i + 1]) - self.knots[i]).clamp_min(0)
        beyond = (x - self.knots[-1]).clamp_min(0)
        return body + torch.log1p(self.tail[1] * beyond / self.tail[0]) / self.tail[1]


def _resize_buffers(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """The grid's buffers take the canvas's size, which is known only from the good pictures or from the file."""
    for name in ("centre", "factor", "width_of", "known", "chosen"):
        if prefix + name in state:
            setattr(module, name, torch.empty_like(state[prefix + name]))


def smooth(maps: Tensor) -> Tensor:
    """n c gh gw -> the same, binomial mean over 3 x 3."""
    x = F.pad(maps, [1] * 4, mode="replicate")
    x = 0.25 * x[..., :-2, :] + 0.5 * x[..., 1:-1, :] + 0.25 * x[..., 2:, :]
    return 0.25 * x[..., :-2] + 0.5 * x[..., 1:-1] + 0.25 * x[..., 2:]


class PatchStats(nn.Module):
    """All branches. n 3 h w in [0, 1] on the canvas it was fitted on."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.light = config.light
        inputs = [(True, s) for s in config.normalised] + [(False, s) for s in config.raw]
        self.branches = nn.ModuleList(Branch(config, scale, normalised) for normalised, scale in inputs)
        self.seen = self.looked = 0

    def inputs(self, images: Tensor) -> list[tuple[Branch, Tensor]]:
        """Each branch with its input."""
        even = even_light(images, self.light) if any(b.normalised for b in self.branches) else images
        return [(branch, even if branch.normalised else images) for branch in self.branches]  # type: ignore[misc]

    def forward(self, images: Tensor) -> Evidence:
        images = images.contiguous()
        h, w = images.shape[-2:]
        finest = min(branch.grid for branch in self.branches)  # type: ignore[type-var]
        maps, fill = [], border(images)
        for branch, x in self.inputs(images):
            surprise = branch.surprise(branch.strangeness(x, fill))[:, None]
            maps.append(F.interpolate(surprise, (h // finest, w // finest), mode="bilinear", align_corners=False))
        together = torch.cat(maps, dim=1).sum(dim=1, keepdim=True)
        surface = F.interpolate(together, (h, w), mode="bilinear", align_corners=False)[:, 0]
        return Evidence(surface, surface.flatten(1).amax(dim=1))

    def facts(self) -> list[str]:
        """What the good pictures decided, one sentence a branch."""
        lines = []
        for branch in self.branches:
            chosen: Tensor = branch.chosen  # type: ignore[assignment]
            shares = [float((chosen == i).double().mean()) for i in range(len(PRIORS))]
            tau = sum(s for s, (t, _) in zip(shares, PRIORS, strict=True) if t <= 4)
            name = f"{'illumination-normalised' if branch.normalised else 'raw'} picture at 1/{branch.scale}"
            lines.append(f"{name}: left-out good pictures are likeliest under a mean of its own at {tau:.0%} of the positions, "
                         f"under one nearly or wholly common at {1 - tau:.0%} (one Gaussian for all at {shares[-1]:.0%})")  # fmt: skip
        return lines


def border(images: Tensor) -> tuple[Tensor, Tensor]:
    """n 3 h w -> rows n h and columns n w, 1 on the letterbox border: at the canvas's sides, equal to their inner neighbour.

    A real picture whose outermost rows are equal to the bit (a saturated background) loses nothing that could be strange.
    """

    def along(same: Tensor) -> Tensor:
        """n h - 1, True = as the next one -> n h."""
        differs = 1 - same.to(images.dtype)
        end = torch.ones_like(differs[:, :1])
        before = torch.cat([differs, end], dim=1).cumsum(dim=1).eq(0)
        after = torch.cat([end, differs], dim=1).flip(1).cumsum(dim=1).flip(1).eq(0)
        return torch.logical_or(before, after).to(images.dtype)

    rows = along((images[..., 1:, :] - images[..., :-1, :]).abs().amax(dim=(1, 3)).eq(0))
    columns = along((images[..., 1:] - images[..., :-1]).abs().amax(dim=(1, 2)).eq(0))
    return rows, columns


# ---- 1: filters


def count(net: PatchStats, batch: Batch) -> None:
    """Know how many good pictures there are, so that later looks can take an even share of them."""
    net.seen += len(batch.clean)


def every(net: PatchStats, most: int) -> int:
    """One picture in how many is looked at, so that at most `most` are."""
    return max(1, -(-net.seen // most))


def share(net: PatchStats, batch: Batch, most: int) -> Batch:
    """The pictures of this batch that are among at most `most`, evenly spread over all."""
    kept = [i for i in range(len(batch.clean)) if (net.looked + i) % every(net, most) == 0]
    net.looked += len(batch.clean)
    return Batch(*(each[kept].contiguous() for each in batch))


def look_at_patches(net: PatchStats, batch: Batch) -> None:
    """Sum patches and their outer products."""
    batch = share(net, batch, FEW)
    if not len(batch.clean):
        return
    for branch, x in net.inputs(batch.clean):
        x = pool(x, branch.scale)
        valid = cell_valid(batch, branch)
        step = branch.stride * (2 if branch.scale == 1 else 1)
        valid = valid[..., :: step // branch.stride, :: step // branch.stride]
        for picture, held in zip(x, valid, strict=True):
            patches = F.unfold(F.pad(picture[None], [branch.side // 2] * 4, mode="reflect"), branch.side, stride=step)[0]
            patches = patches[:, held.flatten() > 0]
            work = branch.work
            work["n"] = work.get("n", 0) + patches.shape[1]
            work["sum"] = work.get("sum", 0) + patches.double().sum(dim=1)
            work["outer"] = work.get("outer", 0) + (patches @ patches.T).double()


def learn_filters(net: PatchStats) -> None:
    """The leading principal components of each branch's patches."""
    net.looked = 0
    for branch in net.branches:
        work = branch.work
        mean = work["sum"] / max(work["n"], 1)
        covariance = work["outer"] / max(work["n"], 1) - torch.outer(mean, mean)
        _, vectors = torch.linalg.eigh(covariance)
        branch.filters.copy_(vectors.flip(1).T[: branch.width].reshape(branch.filters.shape))
        # A tenth of this is below the features' resolution; a constant picture has no contrast, so one grey level is the least.
        branch.floor.fill_(max(float(covariance.diagonal().mean().clamp_min(0).sqrt()), 1 / 255))
        branch.work = {}


# ---- 2 and 3: Gaussians


def cell_valid(batch: Batch, branch: Branch) -> Tensor:
    """n gh gw, 1 where any of the cell's pixels is judged and the filters see only the picture."""
    return F.max_pool2d(batch.valid.contiguous(), branch.grid)[:, 0] * branch.told(border(batch.clean.contiguous()))


def look_at_features(net: PatchStats, batch: Batch) -> None:
    """Sum features and outer products by block, and keep some pictures' features to choose the priors by."""
    first = net.looked
    batch = share(net, batch, MANY)
    if not len(batch.clean):
        return
    # Among those, every so many are kept: at most half of FEW.
    done, step = -(-first // every(net, MANY)), -(-min(net.seen, MANY) // (FEW // 2))
    kept = [i for i in range(len(batch.clean)) if (done + i) % step == 0]
    for branch, x in net.inputs(batch.clean):
        features, work = branch.features(x), branch.work
        # Any constant near the mean keeps the sums small; float64, for some directions hardly vary at all.
        shift = work.setdefault("shift", features.mean(dim=(0, 2, 3)))
        weight = branch.to_blocks(cell_valid(batch, branch)[:, None])[:, 0]  # k n b
        held = branch.to_blocks(features - shift[:, None, None]) * weight[:, None]  # k d n b
        exact = held.double()
        work["size"] = features.shape[-2:]
        work["n"] = work.get("n", 0) + weight.sum(dim=1).double()
        work["sum"] = work.get("sum", 0) + exact.sum(dim=2)
        work["outer"] = work.get("outer", 0) + torch.bmm(exact.flatten(2), exact.flatten(2).transpose(1, 2))
        for i in kept:
            each = exact[:, :, i]
            own = weight[:, i].double().sum(), each.sum(dim=(0, 2)), torch.einsum("kdb,keb->de", each, each)
            work.setdefault("samples", []).append((held[:, :, i], weight[:, i], own))


def whitener(covariance: Tensor) -> Tensor:
    """d d -> the symmetric inverse root of the covariance, with a floor under its eigenvalues."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = 1e-3 * float(values.clamp_min(0).mean()) + 1e-6
    return vectors @ torch.diag((values.clamp_min(0) + floor).rsqrt()) @ vectors.T


def ridged(covariance: Tensor) -> Tensor:
    """d d -> the same with a millionth of its mean variance on the diagonal, so that rounding cannot make it singular."""
    return covariance + (1e-6 * covariance.diagonal().mean() + 1e-12) * torch.eye(len(covariance), dtype=covariance.dtype)


def posterior(count: Tensor, total: Tensor, outer: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Normal-inverse-Wishart posterior of whitened data about a prior mean of zero, before the prior scale.

    count k b; total k d b; outer k d d (over the block); tau k or 1. Returns means k d b, scale matrices k d d.
    """
    strength = count + tau[:, None]
    mean = total / strength[:, None]
    return mean, outer - torch.einsum("kdb,keb,kb->kde", mean, mean, strength)


def freedom(count: Tensor, tau: Tensor) -> Tensor:
    """Samples less those that the means cost, summed over the block: ... b, tau ... 1 -> ..."""
    return (count - count / (count + tau)).sum(dim=-1)


def leave_out(gram: Tensor, weight: Tensor, count: Tensor, tau: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared Mahalanobis distances of one picture's positions under the Gaussians of a block fitted without that picture.

    With residuals R (d b) to the posterior means and L the posterior scale matrix of all pictures, leaving the picture out gives
    L' = L - R C R', C = diag(strength / (strength - 1)), and R' L'^-1 R = (I - G C)^-1 G for the gram matrix G = R' L^-1 R
    (matrix inversion lemma), so that no matrix of the features' size is inverted again.

    gram ... b b; weight ... b, 1 = the picture has this position; count ... b; tau ... 1; kappa ... Returns distances ... b,
    log det L'/L ..., and the degrees of freedom left ...
    """
    strength = count + tau
    c = weight * strength / (strength - 1).clamp_min(1e-6)
    inside = torch.eye(gram.shape[-1], dtype=gram.dtype) - gram * c[..., None, :]
    solved = torch.linalg.solve(inside, gram)
    left = kappa + freedom(count - weight, tau)
    ratio = torch.where(weight > 0, c, torch.ones_like(c))
    distance = left[..., None] * ratio.square() * solved.diagonal(dim1=-2, dim2=-1)
    return distance.clamp_min(0), torch.linalg.slogdet(inside)[1], left


def likelihoods(samples: Tensor, weights: Tensor, count: Tensor, total: Tensor, outer: Tensor) -> Tensor:
    """Log-likelihood of left-out pictures, summed by block, under each of PRIORS but the last; constants dropped.

    samples m k d b whitened, weights m k b; count k b, total k d b, outer k d d over all good pictures. Returns priors k.
    """
    d, kind = samples.shape[2], samples.dtype
    rows = []
    for tau in (torch.tensor([each], dtype=count.dtype) for each in TAUS):
        mean, scale = posterior(count, total, outer, tau)
        values, vectors = torch.linalg.eigh(scale)
        turned = vectors.transpose(-1, -2).to(kind) @ ((samples - mean.to(kind)) * weights[:, :, None])
        for kappa in (torch.tensor(d * each, dtype=count.dtype) for each in KAPPAS):
            spread = values.clamp_min(0) + kappa
            scaled = turned * spread.rsqrt().to(kind)[..., None]
            gram = scaled.transpose(-1, -2) @ scaled
            distance, gone, left = leave_out(gram, weights, count.to(kind), tau.to(kind), kappa.to(kind))
            determinant = spread.log().sum(dim=-1).to(kind) + gone - d * left.log()
            rows.append((-0.5 * (distance + determinant[..., None]) * weights).sum(dim=(0, 2)))
    return torch.stack(rows)


def shared_likelihood(samples: Tensor, weights: Tensor, pictures: Sequence[tuple[Tensor, Tensor, Tensor]],
                      whole: tuple[Tensor, Tensor, Tensor], white: Tensor) -> Tensor:  # fmt: skip
    """As `likelihoods`, under one Gaussian for all positions: k."""
    total = torch.zeros(weights.shape[1], dtype=samples.dtype)
    middle = whole[1] / whole[0].clamp_min(1)  # what the samples are measured from
    for x, w, own in zip(samples, weights, pictures, strict=True):
        n, s, outer = (a - b for a, b in zip(whole, own, strict=True))
        if n < 1:  # it is the only picture, and nothing is left to judge it by
            return total - math.inf
        mean = s / n
        covariance = white @ (outer / n - torch.outer(mean, mean)) @ white.T
        root = torch.linalg.cholesky(ridged(covariance)).to(x.dtype)
        flat = (x - (white @ (mean - middle)).to(x.dtype)[:, None]).permute(1, 0, 2).flatten(1)
        distance = torch.linalg.solve_triangular(root, flat, upper=False).square().sum(dim=0).reshape(w.shape)
        total += (-0.5 * (distance + 2 * root.diagonal().log().sum()) * w).sum(dim=1)
    return total


def fit_gaussians(net: PatchStats) -> None:
    """Whiten by the common covariance, choose the shrinkage, and store every block's inverse root."""
    net.looked = 0
    for branch in net.branches:
        work = branch.work
        n, total, outer = work["n"], work["sum"], work["outer"]
        d = outer.shape[-1]
        everything = n.sum(), total.sum(dim=(0, 2)), outer.sum(dim=0)
        common = everything[1] / everything[0].clamp_min(1)
        means = total / n[:, None].clamp_min(1)
        within = (outer - torch.einsum("kdb,keb,kb->kde", means, means, n)).sum(dim=0)
        within = within / (n - 1).clamp_min(0).sum().clamp_min(1)
        white = whitener(within)
        # Everything in whitened coordinates about the common mean.
        shifted = white @ (total - common[:, None] * n[:, None])
        middle = torch.einsum("kd,e->kde", total.sum(dim=2), common)
        moved = outer - middle - middle.transpose(1, 2) + torch.outer(common, common) * n.sum(dim=1)[:, None, None]
        moved = white @ moved @ white.T
        gh, gw = work["size"]
        b = branch.block
        table = torch.zeros(len(PRIORS), len(n), dtype=n.dtype)
        pictures = [own for _, _, own in work["samples"]]
        for part in torch.arange(len(n)).split(128):
            samples = torch.stack([white.float() @ (x[part] - common.float()[:, None]) for x, _, _ in work["samples"]])
            weights = torch.stack([w[part] for _, w, _ in work["samples"]])
            table[:-1, part] = likelihoods(samples, weights, n[part], shifted[part], moved[part]).double()
            table[-1, part] = shared_likelihood(samples, weights, pictures, everything, white).double()
        # Neighbouring blocks decide together, for one block's few samples are a noisy judge.
        best = smooth(table.reshape(1, -1, gh // b, gw // b))[0].flatten(1).argmax(dim=0)
        shared = best == len(PRIORS) - 1
        held = [torch.tensor([0.0 if math.isinf(p[i]) else p[i] for p in PRIORS], dtype=n.dtype)[best] for i in (0, 1)]
        tau, kappa = held[0].clamp_min(TAUS[0]), held[1] * d
        mean, scale = posterior(n, shifted, moved, tau)
        scale = scale + kappa[:, None, None] * torch.eye(d)
        free = freedom(n, tau[:, None]) + kappa
        total_scale = ridged(moved.sum(dim=0))
        mean = torch.where(shared[:, None, None], 0, mean)
        scale = torch.where(shared[:, None, None], total_scale, scale)
        free = torch.where(shared, everything[0], free)
        root = torch.linalg.cholesky(scale / free[:, None, None])
        factor = torch.linalg.solve_triangular(root, white.expand_as(root), upper=False)
        centre = torch.linalg.solve(white, mean) + common[:, None] + work["shift"].double()[:, None]
        branch.factor = factor.float()
        branch.centre = centre.reshape(gh // b, gw // b, d, b, b).permute(2, 0, 3, 1, 4).reshape(d, gh, gw).float().contiguous()
        widths = -2 * torch.linalg.slogdet(factor)[1]
        branch.width_of = branch.from_blocks(widths[:, None, None].expand(-1, 1, b * b), (gh, gw))[0].float().contiguous()
        branch.known = (branch.from_blocks(n[:, None], (gh, gw))[0] > 0).float()
        branch.usual.fill_(float(d + (branch.width_of * branch.known).sum() / branch.known.sum().clamp_min(1)))
        branch.chosen = best.reshape(gh // b, gw // b)
        branch.work = {"count": n, "free": free, "tau": tau, "kappa": kappa, "shared": shared, "maps": [], "held": []}


# ---- 4: tails


def look_at_distances(net: PatchStats, batch: Batch) -> None:
    """Keep some good pictures' left-out maps."""
    batch = share(net, batch, FEW)
    if not len(batch.clean):
        return
    for branch, x in net.inputs(batch.clean):
        work = branch.work
        features, valid = branch.features(x), cell_valid(batch, branch)
        white = branch.whitened(features)
        weight = branch.to_blocks(valid[:, None])[:, 0]  # k n b
        held = white.permute(0, 2, 1, 3) * weight[:, :, None]
        gram = (held.transpose(-1, -2) @ held) / work["free"][:, None, None, None].float()
        tau, kappa = work["tau"][:, None, None].float(), work["kappa"][:, None].float()
        distance, _, _ = leave_out(gram, weight, work["count"][:, None].float(), tau, kappa)
        distance = torch.where(work["shared"][:, None, None], white.square().sum(dim=1), distance)
        distance = branch.from_blocks(distance, (features.shape[-2], features.shape[-1]))
        work["maps"].append(branch.finished(distance, valid))
        work["held"].append(valid)


def fit_tails(net: PatchStats) -> None:
    """The tail of each branch's left-out good strangeness, over all positions."""
    for branch in net.branches:
        maps, held = torch.cat(branch.work["maps"]), torch.cat(branch.work["held"])
        knots, slopes, tail = tail_of(maps[held > 0].double().sort().values)
        branch.knots.copy_(knots)
        branch.slopes.copy_(slopes)
        branch.tail.copy_(tail)
        branch.work = {}
    net.seen = net.looked = 0


def tail_of(ordered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ascending samples -> (knots, slopes of -log p between them, (scale, shape) of the Pareto tail beyond the last).

    The shape is held to [0.01, 0.5]: below 0 the tail would end and large defects tie.
    """
    n = len(ordered)
    if n == 0:
        ordered, n = torch.zeros(1, dtype=torch.float64), 1
    knots = ordered[[min(n - 1, int(n * (1 - p))) for p in KNOTS]].clone()
    for i in range(1, len(knots)):  # equal samples (constant pictures) still leave an increasing curve
        knots[i] = max(float(knots[i]), float(knots[i - 1]) + 1e-2)
    nats = -torch.tensor(KNOTS, dtype=torch.float64).log()
    beyond = ordered[ordered > knots[-1]] - knots[-1]
    scale, shape = pareto(beyond) if len(beyond) >= 10 else (float(knots[-1] - knots[-2]) / math.log(2), 0.1)
    return knots, nats.diff() / knots.diff(), torch.tensor([scale, shape])


def pareto(excess: Tensor) -> tuple[float, float]:
    """(scale, shape) of the generalised Pareto law by probability-weighted moments (Hosking & Wallis 1987, eq. 4).

    excess: ascending, above 0.
    """
    n = len(excess)
    above = 1 - (torch.arange(1, n + 1, dtype=torch.float64) - 0.35) / n
    first, second = float(excess.mean()), float((above * excess).mean())
    gap = max(first - 2 * second, 1e-9)
    shape = min(max(2 - first / gap, 0.01), 0.5)
    return max(first * (1 - shape), 1e-6), shape


def stages(net: PatchStats, config: Config) -> Sequence[Collect]:
    """Three looks at the good pictures."""
    return [
        Collect("count", count, lambda module: None),
        Collect("filters", look_at_patches, learn_filters),
        Collect("Gaussians", look_at_features, fit_gaussians),
        Collect("tails", look_at_distances, fit_tails),
    ]


def forger(config: Config) -> Forger:
    """None is needed; the table asks for one."""
    return FORGERS["perlin"]()


def score_rule(config: Config) -> ScoreRule:
    """The mean of the map's highest thousandth."""
    return ScoreRule(reduce="top", top=config.top)


METHOD = Method(
    name="patchstats",
    title="statistics of the good pictures alone: Gaussians at every position over learned filters, fitted in seconds",
    paper="after PaDiM, Defard et al., ICPR 2021, arXiv 2011.08785, with PCA filters in place of a pretrained network",
    profiles={"cpu": Config()},
    tiny=Config(filters=4, side=5),
    build=PatchStats,
    stages=stages,
    forger=forger,
    score=score_rule,
)
