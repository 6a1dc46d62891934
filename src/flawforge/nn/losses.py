"""Losses and learning-rate schedules that several papers share.

Losses are over the valid pixels only: letterbox borders and masked regions never count. A schedule is a function of the
progress through the budget, in [0, 1], and gives the factor of the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

SUMMING: ContextVar[Callable[..., tuple[Tensor, ...]]] = ContextVar("summing", default=lambda *sums: sums)


def summed(*sums: Tensor) -> tuple[Tensor, ...]:
    """Sums over the pictures at hand, all of one shape -> the same over the whole batch.

    It is the same unless the batch is cut over several processes: then `nn.ranks` does the summing.
    """
    return SUMMING.get()(*sums)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` (n c h w) where `valid` (n 1 h w, 0 or 1) is 1; 0 where nothing is valid."""
    weight = valid.expand_as(values)
    total, count = summed((values * weight).sum(), weight.sum())
    return total / count.clamp_min(1.0)


def _gaussian_window(side: int, sigma: float, like: Tensor) -> Tensor:
    x = torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2
    bell = torch.exp(-(x**2) / (2 * sigma**2))
    return bell / bell.sum()


def ssim_map(a: Tensor, b: Tensor, side: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of two pictures per pixel and channel (Wang et al. 2004), n c h w in [-1, 1].

    `a`, `b`: n c h w in [0, 1]; Gaussian window of `side` pixels, as in DRAEM. The window is separable, so it runs as two
    depthwise convolutions; always in float32, because variances are small differences of large numbers.
    """
    a, b = a.float(), b.float()
    channels = a.shape[1]
    bell = _gaussian_window(side, sigma, a)
    tall = bell.view(1, 1, side, 1).expand(5 * channels, 1, side, 1)
    wide = bell.view(1, 1, 1, side).expand(5 * channels, 1, 1, side)
    stack = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    pad = side // 2
    blurred = F.conv2d(
        F.conv2d(stack, tall, padding=(pad, 0), groups=5 * channels), wide, padding=(0, pad), groups=5 * channels
    )
    mean_a, mean_b, square_a, square_b, product = blurred.chunk(5, dim=1)
    var_a, var_b, cov = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def focal_map(logit: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss per pixel of a two-class problem given as one logit (Lin et al. 2017), no class weight.

    `logit`, `target` (0 or 1): n 1 h w. The softmax of two channels equals the sigmoid of their difference.
    """
    cross = F.binary_cross_entropy_with_logits(logit.float(), target, reduction="none")
    return (1.0 - torch.exp(-cross)) ** gamma * cross


def reconstruction_losses(picture: Tensor, clean: Tensor, valid: Tensor, stride: int = 1) -> dict[str, Tensor]:
    """L2 and 1 - SSIM between a reconstruction and the good picture, over valid pixels (DRAEM, eq. 1 and 2).

    `picture`, `clean`: n 3 h w in [0, 1]; `valid`: n 1 h w; `stride` 2 takes SSIM on 2 x 2 means, which is much cheaper.
    """
    losses = {"l2": masked_mean((picture - clean) ** 2, valid)}
    if stride > 1:
        picture, clean = F.avg_pool2d(picture, stride), F.avg_pool2d(clean, stride)
        valid = F.avg_pool2d(valid, stride).floor()
    losses["ssim"] = masked_mean(1.0 - ssim_map(picture, clean), valid)
    return losses


def dice_loss(probability: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """1 - dice coefficient over the batch (Milletari et al. 2016, arXiv 1606.04797, with squares), smoothed by one pixel.

    probability, mask, valid: n 1 h w, in [0, 1]. Over the batch, because the overlap of a good picture alone is always zero.
    """
    probability, mask = probability * valid, mask * valid
    both, found, wanted = summed((probability * mask).sum(), probability.square().sum(), mask.sum())
    return 1 - (2 * both + 1) / (found + wanted + 1)


def cosine_schedule(progress: float, warm_up: float = 0.03) -> float:
    """Linear warm-up over the share `warm_up`, then a cosine to zero at the end of the budget (assumption)."""
    if progress < warm_up:
        return max(progress / warm_up, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min((progress - warm_up) / (1 - warm_up), 1.0)))


def drops(factor: float, places: Sequence[float]) -> Callable[[float], float]:
    """A step schedule: multiplied by `factor` at each of `places`, progress in [0, 1]."""
    return lambda progress: factor ** sum(progress >= place for place in places)
