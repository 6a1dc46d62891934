"""Statistics of a product's own good pictures, in closed form: per-position Gaussians over learned PCA filters.

The form is PaDiM's (Defard et al., ICPR 2021, arXiv 2011.08785: one Gaussian for every position) without its pretrained
network; the filters are the leading principal components of the good pictures' patches (PCANet, Chan et al. 2015, arXiv
1404.3606). Nothing is random and nothing is trained by gradient; every stage is one pass over the good pictures.

    stage           here                                   what is ours
    1 filters       `look_at_patches`, `learn_filters`     one layer; several scales of the picture and of `even_light` of it
    2 Gaussians     `look_at_features`, `fit_gaussians`    covariance pooled over a block of positions; strengths of the
                                                           priors by the likelihood of left-out pictures, per block
    3 tails         `look_at_maps`, `widen`, `fit_tails`   a scale for every position's covariance, from left-out distances;
                                                           -2 log density instead of PaDiM's Mahalanobis distance, and its
                                                           tail probability p among left-out good pictures
    one map         `PatchStats.forward`                   the sum of the branches' -log p (Fisher 1932)

Once the tails are fitted, pictures are judged by `nn.patchstats_judge`: the same numbers, arranged for speed.

A branch is one scale of one input: the picture itself or the picture with its illumination evened out. Its features are the
log of the local mean of each |response| and the signed log of the local mean response. How much position matters is chosen
by likelihood: `tau` shrinks a position's mean towards the common mean, `kappa` a block's covariance towards the common one,
and where one Gaussian for all positions is more likely than any of these, it is used. `facts` reports the choice.

Density, not distance: against a defect of unknown appearance, the best test is the density of good parts (Neyman and
Pearson, with a flat alternative). The distance alone lacks the log-determinant, and ranks every speck on a uniform
background above a broken part. A sum of -log p is a p-value again only for independent branches; ours are not, so it only
ranks pictures, and the threshold comes from held-out good pictures as for every method. It is unbounded: large defects never
tie.

Letterbox border: its pixels repeat the picture's edge, so filter responses there carry no information on the part. The
network is given the picture's position (`inner`) and assigns the border the typical score of good parts. It never guesses
the border from the pixels: a picture whose rows repeat (a dead camera, a lens cap) would be taken for border and not be
judged.

Bounds: at most MANY pictures for the Gaussians and FEW for filters and tails, evenly spread over all, one batch at a time.
Memory of a fit, per canvas pixel of a branch with a Gaussian every 4 pixels and d = 2 * filters features: d^2 / 8 bytes of
moments for each fold, d * 8 bytes of kept features, 16 bytes of kept maps; `moments_demand` in `nn.patchstats_fit` adds what
fitting the Gaussians takes besides, for the forecast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.gaussians import (
    KNOTS,
    PRIORS,
)
from flawforge.nn.patchstats_judge import Judge, pool
from flawforge.types import ConfigError, Evidence

Scale = Literal[1, 2, 4, 8]


class Form(Protocol):
    """The settings of the statistics that a method's config must have; `methods.patchstats.Config` documents them."""

    @property
    def normalised(self) -> tuple[int, ...]: ...
    @property
    def raw(self) -> tuple[int, ...]: ...
    @property
    def filters(self) -> int: ...
    @property
    def side(self) -> int: ...
    @property
    def cell(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def light(self) -> int: ...


def even_light(images: Tensor, window: int) -> Tensor:
    """n 3 h w -> n 3 h w, minus the local mean, divided by the local deviation + 0.05 (so that noise is not amplified).

    window  side of the local window in px. Illumination varies slowly, so it is measured on 4 x 4 means
    h and w are multiples of 4.
    """

    def wide(x: Tensor) -> Tensor:
        side = max(window // 8, 1)
        return F.avg_pool2d(pool(x, 4), 2 * side + 1, 1, side, count_include_pad=False)

    def full(x: Tensor) -> Tensor:
        return F.interpolate(x, images.shape[-2:], mode="bilinear", align_corners=False)

    mean = wide(images)
    variance = (wide(images.square()) - mean.square()).mean(dim=1, keepdim=True).clamp_min(0)
    return (images - full(mean)) * full(1 / (variance.sqrt() + 0.05))


class Gaussians(NamedTuple):
    """One per position. centre d gh gw; factor blocks d d, whitening; width_of gh gw, log-determinant; known gh gw."""

    centre: Tensor
    factor: Tensor
    width_of: Tensor
    known: Tensor


class LeftOut(NamedTuple):
    """What is needed to leave a good picture out of its block's Gaussians: n k b, degrees of freedom free k, strengths of
    the priors tau k and kappa k, and shared k, 1 where one Gaussian is used for all positions."""

    n: Tensor
    free: Tensor
    tau: Tensor
    kappa: Tensor
    shared: Tensor


class Branch(nn.Module):
    """One scale of one input: filters, Gaussians on a grid, and the tail of the distances of good pictures."""

    filters: Tensor
    floor: Tensor
    centre: Tensor
    factor: Tensor
    width_of: Tensor
    known: Tensor
    spread: Tensor
    usual: Tensor
    knots: Tensor
    slopes: Tensor
    tail: Tensor
    chosen: Tensor
    fold_centre: Tensor
    fold_factor: Tensor
    fold_width_of: Tensor
    fold_known: Tensor

    def __init__(self, form: Form, scale: int, normalised: bool, folds: int = 0) -> None:
        super().__init__()
        self.scale, self.normalised, self.side, self.block = scale, normalised, form.side, form.block
        self.folds = folds
        self.grid = max(form.cell, 2 * scale)  # canvas pixels between Gaussians
        self.stride = self.grid // scale  # the same in this scale's own pixels
        self.skip = 2 if self.stride >= 4 else 1  # every second response says as much of a cell of four
        self.width = form.filters
        d = 2 * form.filters
        self.register_buffer("filters", torch.zeros(form.filters, 3, form.side, form.side))
        self.register_buffer("floor", torch.ones(1))  # a response below this is noise
        self.register_buffer("centre", torch.zeros(d, 0, 0))
        self.register_buffer("factor", torch.zeros(0, d, d))
        self.register_buffer("width_of", torch.zeros(0, 0))  # log-determinant of each position's covariance
        self.register_buffer("known", torch.zeros(0, 0))  # 1 = some good picture has this position
        self.register_buffer("spread", torch.ones(0, 0))  # how much wider left-out good pictures lie than the Gaussian
        self.register_buffer("usual", torch.zeros(1))
        self.register_buffer("knots", torch.zeros(len(KNOTS)))
        self.register_buffer("slopes", torch.zeros(len(KNOTS) - 1))
        self.register_buffer("tail", torch.tensor([1.0, 0.1]))  # scale, shape
        self.register_buffer("chosen", torch.zeros(0, 0, dtype=torch.int64))
        if folds:  # the same Gaussians without the good pictures of one fold each; `forget_folds` empties them
            self.register_buffer("fold_centre", torch.zeros(0, d, 0, 0))
            self.register_buffer("fold_factor", torch.zeros(0, 0, d, d))
            self.register_buffer("fold_width_of", torch.zeros(0, 0, 0))
            self.register_buffer("fold_known", torch.zeros(0, 0, 0))
        self.register_load_state_dict_pre_hook(_resize_buffers)
        self.left_out: LeftOut | None = None  # from the Gaussians' fit to the tails'

    def features(self, images: Tensor) -> Tensor:
        """n 3 h w of this branch's input -> n d gh gw."""
        margin = self.side // 2
        x = pool(images, self.scale)
        response = F.conv2d(F.pad(x, [margin] * 4, mode="reflect"), self.filters, stride=self.skip)
        cell = self.stride // self.skip
        strength = smooth(pool(response.abs(), cell)) / self.floor
        mean = smooth(pool(response, cell)) / self.floor
        return torch.cat([torch.log(0.1 + strength), mean.sign() * torch.log1p(10 * mean.abs())], dim=1)

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

    def gaussians(self, fold: int | None = None) -> Gaussians:
        """The Gaussians of all good pictures, or of all but one fold's."""
        if fold is None:
            return Gaussians(self.centre, self.factor, self.width_of, self.known)
        return Gaussians(self.fold_centre[fold], self.fold_factor[fold], self.fold_width_of[fold], self.fold_known[fold])

    def whitened(self, features: Tensor, gaussians: Gaussians) -> Tensor:
        """n d gh gw -> blocks d n block^2, whose squared length is the Mahalanobis distance."""
        residual = self.to_blocks(features - gaussians.centre)
        blocks, d, n, b = residual.shape
        return torch.bmm(gaussians.factor, residual.reshape(blocks, d, n * b)).reshape(blocks, d, n, b)

    def clear_of_border(self, fill: tuple[Tensor, Tensor]) -> Tensor:
        """Rows n h and columns n w of the letterbox border -> n gh gw, 1 where the filters' support is in the picture."""
        reach = self.side // 2 * self.scale
        rows, columns = (F.max_pool1d(F.max_pool1d(edges, 2 * reach + 1, 1, reach), self.grid) for edges in fill)
        return (1 - rows)[:, :, None] * (1 - columns)[:, None]

    def strangeness(self, images: Tensor, fill: tuple[Tensor, Tensor], folds: Sequence[int] | None = None) -> Tensor:
        """n 3 h w -> -2 log density under each position's Gaussian, n gh gw, constants dropped, smoothed over 3 x 3."""
        features, clear = self.features(images), self.clear_of_border(fill)
        if folds is None:
            return self._strangeness(features, clear, self.gaussians())
        strangeness = torch.empty_like(features[:, 0])
        for fold in sorted(set(folds)):
            own = [i for i, fold_of_picture in enumerate(folds) if fold_of_picture == fold]
            strangeness[own] = self._strangeness(features[own], clear[own], self.gaussians(fold))
        return strangeness

    def _strangeness(self, features: Tensor, clear: Tensor, gaussians: Gaussians) -> Tensor:
        squared = self.whitened(features, gaussians).square().sum(dim=1)
        return self.finished(self.from_blocks(squared, (features.shape[-2], features.shape[-1])), clear, gaussians)

    def finished(self, squared: Tensor, clear: Tensor, gaussians: Gaussians) -> Tensor:
        """Distances n gh gw -> strangeness n gh gw; an unknown position gets the typical strangeness of good pictures."""
        clear = clear * gaussians.known
        return smooth(((squared / self.spread + gaussians.width_of) * clear + self.usual * (1 - clear))[:, None])[:, 0]

    def surprise(self, strangeness: Tensor) -> Tensor:
        """Strangeness n gh gw -> -log of its tail probability among left-out good pictures; increasing and unbounded."""
        x = strangeness
        body = -math.log(KNOTS[0]) + self.slopes[0] * (x.clamp(max=self.knots[1]) - self.knots[0])
        for i in range(1, len(KNOTS) - 1):
            body = body + self.slopes[i] * (x.clamp(max=self.knots[i + 1]) - self.knots[i]).clamp_min(0)
        beyond = (x - self.knots[-1]).clamp_min(0)
        return body + torch.log1p(self.tail[1] * beyond / self.tail[0]) / self.tail[1]


FOLDS = ("fold_centre", "fold_factor", "fold_width_of", "fold_known")
SIZED = ("centre", "factor", "width_of", "known", "spread", "chosen", *FOLDS)


def _resize_buffers(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """The grid's buffers take the canvas's size, which is known only from the good pictures or from the file."""
    for name in SIZED:
        if prefix + name in state:
            setattr(module, name, torch.empty_like(state[prefix + name]))


def smooth(maps: Tensor) -> Tensor:
    """n c gh gw -> n c gh gw, smoothed by the binomial 3 x 3 kernel."""
    x = F.pad(maps, [1] * 4, mode="replicate")
    x = 0.25 * x[..., :-2, :] + 0.5 * x[..., 1:-1, :] + 0.25 * x[..., 2:, :]
    return 0.25 * x[..., :-2] + 0.5 * x[..., 1:-1] + 0.25 * x[..., 2:]


class PatchStats(nn.Module):
    """All branches. n 3 h w in [0, 1] on the fitted canvas -> Evidence; `placed`: `forward` needs each picture's position.

    folds  0, or the number of folds of the good pictures (picture i is in fold i % folds): `surprises` can then judge a good
           picture by Gaussians fitted without it, which a guide for training needs, until `forget_folds`
    """

    placed = True

    def __init__(self, form: Form, folds: int = 0) -> None:
        super().__init__()
        if not (form.normalised or form.raw):
            raise ConfigError("Settings normalised and raw were both given as []; name a scale in one of them.")
        self.folds = folds
        self.light = form.light
        inputs = [(True, s) for s in form.normalised] + [(False, s) for s in form.raw]
        self.branches = nn.ModuleList(Branch(form, scale, normalised, folds) for normalised, scale in inputs)
        self.start_looking()
        self.judge: Judge | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.settle())

    def start_looking(self) -> None:
        """Reset the counts of good pictures."""
        self.seen = 0  # pictures in all
        self.dealt = [0] * max(self.folds, 1)  # pictures of each fold

    def parts(self) -> list[Branch]:
        """The branches, as a typed list."""
        return [branch for branch in self.branches if isinstance(branch, Branch)]

    def inputs(self, images: Tensor) -> list[tuple[Branch, Tensor]]:
        """n 3 h w -> each branch with its input n 3 h w."""
        even = even_light(images, self.light) if any(b.normalised for b in self.parts()) else images
        return [(branch, even if branch.normalised else images) for branch in self.parts()]

    def settle(self) -> None:
        """Prepare the fitted tensors for judging; does nothing before the Gaussians are fitted."""
        fitted = all(branch.known.numel() for branch in self.parts())
        self.judge = Judge(self.parts(), self.light) if fitted else None

    def surprises(self, images: Tensor, folds: Sequence[int] | None = None, inner: Tensor | None = None) -> Tensor:
        """n 3 h w -> every branch's -log p on the finest grid, n branches gh gw.

        inner  n 4: where each picture lies on the canvas, as in types.Batch
        folds  for each picture the fold that its Gaussians leave out; None = the Gaussians of all good pictures
        """
        images = images.contiguous()
        h, w = images.shape[-2:]
        finest = min(branch.grid for branch in self.parts())
        maps, fill = [], outside(inner, images)
        for branch, x in self.inputs(images):
            surprise = branch.surprise(branch.strangeness(x, fill, folds))[:, None]
            maps.append(F.interpolate(surprise, (h // finest, w // finest), mode="bilinear", align_corners=False))
        return torch.cat(maps, dim=1)

    def look(self, images: Tensor, inner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """n 3 h w, inner n 4 -> (the `surprises` under the Gaussians of all good pictures, the pictures in even light)."""
        if self.judge is None:
            raise RuntimeError("These statistics have seen no good pictures yet.")
        surprises, even = self.judge(images, inner)
        return surprises, even

    def full(self, coarse: Tensor) -> Tensor:
        """n c gh gw on the finest grid -> n c h w, interpolated bilinearly."""
        assert self.judge is not None
        return self.judge.full(coarse)

    def fuse(self, surprises: Tensor) -> Tensor:
        """n branches gh gw of -log p -> n 1 gh gw, Fisher's sum: high for one strong branch, or for several weak ones."""
        return surprises.sum(dim=1, keepdim=True)

    def forward(self, images: Tensor, inner: Tensor | None = None) -> Evidence:
        maps = self.full(self.fuse(self.look(images, inner)[0]))[:, 0]
        return Evidence(maps, maps.flatten(1).amax(dim=1))

    def forget_folds(self) -> None:
        """Drop the tensors that only training needs."""
        for branch in self.parts():
            for name in FOLDS:
                setattr(branch, name, getattr(branch, name)[:0].clone())

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, one sentence per branch."""
        lines = []
        for branch in self.parts():
            shares = [float((branch.chosen == i).double().mean()) for i in range(len(PRIORS))]
            tau = sum(s for s, (t, _) in zip(shares, PRIORS, strict=True) if t <= 4)
            name = f"{'illumination-normalised' if branch.normalised else 'raw'} picture at 1/{branch.scale}"
            lines.append(
                f"{name}: own statistics for each position on {100 * tau:.0f} % of the picture, common ones on "
                f"{100 * (1 - tau):.0f} %"
            )
        return lines


def outside(inner: Tensor | None, images: Tensor) -> tuple[Tensor, Tensor]:
    """inner n 4, images n 3 h w -> rows n h and columns n w: 1 on the letterbox border, 0 where the picture lies."""
    n, _, h, w = images.shape
    if inner is None:
        return images.new_zeros(n, h), images.new_zeros(n, w)
    edges = inner.to(images.dtype)

    def along(length: int, first: int) -> Tensor:
        at = torch.arange(length, device=images.device, dtype=images.dtype)
        covered = (at >= edges[:, first : first + 1]) & (at < edges[:, first + 1 : first + 2])
        return 1 - covered.to(images.dtype)

    return along(h, 0), along(w, 2)
