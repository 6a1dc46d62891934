"""Densities of good pictures' features, for whole pictures and for positions. Fitted in one pass, without gradients.

    here                source
    `PictureDensity`    CutPaste (Li et al., CVPR 2021) section 2.3: one Gaussian of pooled features, 0.5 (f - m)' S^-1
                        (f - m); shrinkage makes S invertible: Ledoit & Wolf, J. Multivariate Analysis 88 (2004)
    `PlaceDensity`      PaDiM (Defard et al., ICPR 2021) and CutPaste section 4.2: a Gaussian for every place of an aligned
                        product, one for all places of any other. Which of the two, and how strongly a place's mean and
                        covariance are shrunk towards the common ones, is chosen by likelihood (`nn.gaussians`)
    `spread`            CutPaste section A.5: a transposed convolution with a Gaussian kernel, after FCDD (Liznerski, 2021)

Both report what was fitted as a sentence (`fact`). Letters in shapes: d features, k places, m pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.gaussians import KAPPAS, PRIORS, TAUS, freedom, likelihoods, posterior, ridged, shared_likelihood, whitener

BANK = 2048  # pooled features that are kept at most, for neighbours and for the covariance
JUDGES = 32  # good pictures at most that choose between Gaussians
PLACES = 256  # places at most by which they choose
MARGIN = 0.01  # nats a picture and place by which Gaussians of their own must be likelier than one for all (assumption)


def resized(module: nn.Module, names: tuple[str, ...]) -> None:
    """Let these buffers take the sizes that they have in a file of weights when it is loaded."""

    def hook(own: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        for name in names:
            if prefix + name in state:
                setattr(own, name, torch.empty_like(state[prefix + name]))

    module.register_load_state_dict_pre_hook(hook)


class PictureDensity(nn.Module):
    """Anomaly score of a pooled feature vector.

    how         "gaussian": half the squared Mahalanobis distance under a Ledoit-Wolf covariance;
                "nearest": mean Euclidean distance to the `neighbours` nearest good pictures
    unit        scale every vector to length 1 first (not in CutPaste; in a public code of it)
    """

    centre: Tensor
    factor: Tensor
    bank: Tensor
    shrinkage: Tensor

    def __init__(
        self, dims: int, how: Literal["gaussian", "nearest"] = "gaussian", unit: bool = False, neighbours: int = 3
    ) -> None:
        super().__init__()
        self.how, self.unit, self.neighbours = how, unit, neighbours
        self.register_buffer("centre", torch.zeros(dims))
        self.register_buffer("factor", torch.eye(dims))
        self.register_buffer("shrinkage", torch.zeros(1))  # by which the covariance was drawn to a multiple of 1
        self.register_buffer("bank", torch.zeros(0, dims))
        resized(self, ("bank",))

    def look(self, collected: list[Tensor], features: Tensor) -> None:
        """Append the features n d of good pictures to `collected`; called once for every batch."""
        collected.append(self._scaled(features.float()).cpu())

    def finish(self, collected: Sequence[Tensor]) -> None:
        """Fit to the features of all good pictures."""
        from sklearn.covariance import ledoit_wolf

        pictures = torch.cat(list(collected))
        if len(pictures) > BANK:
            pictures = pictures[torch.arange(BANK) * len(pictures) // BANK]
        exact = pictures.double()
        shrinkage = 1.0
        covariance = torch.eye(pictures.shape[1], dtype=torch.float64)
        if len(pictures) > 1:
            shrunk, shrinkage = ledoit_wolf(exact.numpy())
            covariance = ridged(torch.from_numpy(shrunk))
        root = torch.linalg.cholesky(covariance)
        device = self.centre.device
        self.factor.copy_(torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=torch.float64), upper=False))
        self.centre.copy_(exact.mean(dim=0))
        self.shrinkage.fill_(float(shrinkage))
        self.bank = pictures.to(device) if self.how == "nearest" else pictures[:0].to(device)

    def forward(self, features: Tensor) -> Tensor:
        """n d -> n, higher = more anomalous."""
        x = self._scaled(features.float())
        if self.how == "nearest":
            apart = (x[:, None] - self.bank).square().sum(dim=2)  # differences, not products: a picture is judged alone
            near = apart.topk(min(self.neighbours, len(self.bank)), dim=1, largest=False).values
            return near.clamp_min(1e-12).sqrt().mean(dim=1)
        return 0.5 * F.linear(x - self.centre, self.factor).square().sum(dim=1)

    def fact(self) -> str:
        """What was fitted, as a sentence without a full stop."""
        if self.how == "nearest":
            return f"pictures are judged by their {self.neighbours} nearest among {len(self.bank)} good ones"
        return f"pictures are judged by one Gaussian, its covariance shrunk by {float(self.shrinkage):.0%} (Ledoit-Wolf)"

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) if self.unit else features


@dataclass
class Moments:
    """Sums of the features at every place of a grid, about the first batch's mean for numerical stability.

    size   gh gw; shift  places d; n  places; total  places d; outer  places d d; zero before the first batch
    kept   some pictures' features places d, shifted, and their weights places, by which the priors are chosen
    step, came  of the `came` pictures so far, every `step`-th was kept
    """

    size: tuple[int, int] = (0, 0)
    shift: Tensor = field(default_factory=lambda: torch.zeros(()))
    n: Tensor = field(default_factory=lambda: torch.zeros(()))
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    outer: Tensor = field(default_factory=lambda: torch.zeros(()))
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    step: int = 1
    came: int = 0

    def keep(self, sample: Tensor, weight: Tensor) -> None:
        """Keep at most JUDGES pictures, evenly spread over a stream of unknown length: where there are too many, every
        second one is dropped, and from then on every second new one too."""
        self.came += 1
        if (self.came - 1) % self.step:
            return
        self.kept.append((sample, weight))
        if len(self.kept) > JUDGES:
            del self.kept[1::2]
            self.step *= 2


class PlaceDensity(nn.Module):
    """Anomaly scores of the features at each place of a grid.

    dims    features d; their covariances cost places * d * d floats in a fit and in the model
    keep    "auto": chosen by likelihood; "places": a Gaussian for every place; "shared": one for all
    surprise  "density": -2 log density up to a constant; "distance": the squared Mahalanobis distance alone, as published

    A place that no good picture shows (a letterbox border) gets the typical score of good places.
    """

    centre: Tensor
    factor: Tensor
    width: Tensor
    known: Tensor
    usual: Tensor
    chosen: Tensor

    def __init__(
        self,
        dims: int,
        keep: Literal["auto", "places", "shared"] = "auto",
        surprise: Literal["density", "distance"] = "density",
    ) -> None:
        super().__init__()
        self.keep, self.surprise = keep, surprise
        self.register_buffer("centre", torch.zeros(dims, 1, 1))
        self.register_buffer("factor", torch.eye(dims)[None])
        self.register_buffer("width", torch.zeros(1))
        self.register_buffer("known", torch.ones(1, 1))
        self.register_buffer("usual", torch.zeros(1))
        self.register_buffer("chosen", torch.zeros(3))  # shared?, tau, kappa
        resized(self, ("centre", "factor", "width", "known"))

    def look(self, moments: Moments, features: Tensor, valid: Tensor | None = None) -> None:
        """Add features n d gh gw of good pictures, and valid n gh gw, 1 = use this place; called once for every batch."""
        n, _, gh, gw = features.shape
        flat = features.float().flatten(2).permute(2, 1, 0)  # k d n
        weight = features.new_ones(n, gh, gw) if valid is None else valid.to(features)
        weight = weight.flatten(1).T.float()  # k n
        if not moments.came:
            moments.size, moments.shift = (gh, gw), flat.mean(dim=(0, 2))
        flat = (flat - moments.shift[:, None]) * weight[:, None]
        exact = flat.double()
        moments.n = moments.n + weight.double().sum(dim=1)
        moments.total = moments.total + exact.sum(dim=2)
        moments.outer = moments.outer + exact @ exact.transpose(1, 2)
        for i in range(n):
            moments.keep(flat[..., i].clone(), weight[:, i].clone())

    def finish(self, sums: Moments) -> None:
        """Choose the priors and fit the Gaussians."""
        n, total, outer, (gh, gw) = sums.n, sums.total, sums.outer, sums.size
        whole = n.sum(), total.sum(dim=0), outer.sum(dim=0)
        common = whole[1] / whole[0].clamp_min(1)
        means = total / n[:, None].clamp_min(1)
        within = (outer - torch.einsum("kd,ke,k->kde", means, means, n)).sum(dim=0)
        white = whitener(within / (n - 1).clamp_min(0).sum().clamp_min(1))
        middle = torch.einsum("kd,e->kde", total, common)
        about = outer - middle - middle.transpose(1, 2) + torch.outer(common, common) * n[:, None, None]
        moments = n[:, None], (white @ (total - common * n[:, None]).T).T[..., None], white @ about @ white.T
        best = self._best(sums.kept, moments, whole, white, common)
        shared = best == len(PRIORS) - 1
        if shared:
            moments = n.sum()[None, None], torch.zeros_like(moments[1][:1]), moments[2].sum(dim=0)[None]
        # A feature that never moved in a good picture would make the one covariance singular too: hold it by the least.
        strength = (TAUS[0], KAPPAS[0]) if shared else PRIORS[best]
        tau, kappa = (moments[0].new_tensor([value]) for value in (strength[0], len(white) * strength[1]))
        mean, scale = posterior(*moments, tau)
        free = freedom(moments[0], tau) + kappa
        held = scale + kappa * torch.eye(len(white), dtype=scale.dtype, device=scale.device)
        covariance = held / free[:, None, None]
        root = torch.linalg.cholesky(covariance)
        factor = torch.linalg.solve_triangular(root, white.expand_as(root), upper=False)
        centre = torch.linalg.solve(white, mean[..., 0].T).T + common + sums.shift.double()  # k d
        self.factor = factor.float().contiguous()
        self.width = (-2 * torch.linalg.slogdet(factor)[1]).float()
        self.centre = centre.T.float().reshape(-1, *((1, 1) if shared else (gh, gw))).contiguous()
        self.known = (n.reshape(gh, gw) > 0).float()
        self.chosen.copy_(torch.tensor([float(shared), 0 if shared else PRIORS[best][0], 0 if shared else PRIORS[best][1]]))
        levels = len(white) + (self.width if self.surprise == "density" else 0 * self.width)
        self.usual.fill_(float((levels * self.known.flatten()).sum() / self.known.sum().clamp_min(1)))

    def _best(
        self,
        judges: Sequence[tuple[Tensor, Tensor]],
        moments: tuple[Tensor, Tensor, Tensor],
        whole: tuple[Tensor, Tensor, Tensor],
        white: Tensor,
        common: Tensor,
    ) -> int:
        """Which of PRIORS makes left-out good pictures likeliest, all places together; the last is one Gaussian for all."""
        last = len(PRIORS) - 1
        if self.keep == "shared":
            return last
        count = len(moments[0])
        part = torch.arange(min(count, PLACES), device=white.device) * count // min(count, PLACES)
        about = common.float()
        samples = torch.stack([(white.float() @ (x[part] - about * w[part, None]).T).T[..., None] for x, w in judges])
        weights = torch.stack([w[part, None] for _, w in judges])
        pictures = [(w.double().sum(), x.double().sum(dim=0), x.double().T @ x.double()) for x, w in judges]
        own = likelihoods(samples, weights, *(each[part] for each in moments)).sum(dim=1)
        if self.keep == "places":
            return int(own.argmax())
        all_alike = shared_likelihood(samples, weights, pictures, whole, white).sum() + MARGIN * weights.sum()
        return int(torch.cat([own, all_alike[None]]).argmax())

    def forward(self, features: Tensor) -> Tensor:
        """n d gh gw -> n gh gw, higher = more anomalous."""
        n, _, gh, gw = features.shape
        rest = (features.float() - self.centre).flatten(2)  # n d k
        if len(self.factor) == 1:
            squared = torch.matmul(self.factor[0], rest).square().sum(dim=1)
        else:
            squared = torch.bmm(self.factor, rest.permute(2, 1, 0)).square().sum(dim=1).T
        surprise = squared + self.width if self.surprise == "density" else squared
        surprise = surprise.reshape(n, gh, gw)
        return surprise * self.known + self.usual * (1 - self.known)

    def fact(self) -> str:
        """What was chosen, as a sentence without a full stop."""
        shared, tau, kappa = self.chosen.tolist()
        how = "under which left-out good pictures are likeliest" if self.keep == "auto" else "as asked"
        if shared:
            return f"places are judged by one Gaussian for all of them, {how}"
        return (
            f"places are judged by a Gaussian each, {how}; a mean is held to the common one by {tau:g} pictures, "
            f"a covariance by {kappa:g} times as many samples as features"
        )


def spread(grid: Tensor, stride: int, side: int, sigma: float) -> Tensor:
    """Window scores n gh gw, for windows of `side` px, `stride` px apart -> n h w, h = (gh - 1) * stride + side.

    Every value is spread as a Gaussian of `sigma` px. The result is divided by the sum of the Gaussians, so that a window
    at the edge, which has fewer neighbours, is not weaker (ours).
    """
    x = torch.arange(side, dtype=grid.dtype, device=grid.device) - (side - 1) / 2
    bell = torch.exp(-x.square() / (2 * sigma**2))
    bell = bell / bell.sum()
    tall, wide = bell.view(1, 1, side, 1), bell.view(1, 1, 1, side)

    def spread_out(values: Tensor) -> Tensor:
        return F.conv_transpose2d(F.conv_transpose2d(values, tall, stride=(stride, 1)), wide, stride=(1, stride))

    return (spread_out(grid[:, None]) / spread_out(torch.ones_like(grid[:1, None])))[:, 0]


def centred(grid: Tensor, stride: int, side: int, sigma: float, size: tuple[int, int]) -> Tensor:
    """As `spread`, for cells of `stride` px that tile the picture: the window of `side` px is centred on each cell.

    n gh gw -> n h w, cut to `size`. side >= stride, and both even or both odd.
    """
    over = (side - stride) // 2
    whole = spread(grid, stride, side, sigma)
    return whole[:, over : over + size[0], over : over + size[1]]
