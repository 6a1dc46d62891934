"""A batch that is cut into equal parts, one for each process of a fit, and still counts as one batch.

Each process holds a part of the batch and computes the loss of all of it. What a loss sums over the batch goes through
`losses.summed`, what it draws for each picture comes from `rand`, and batch norm takes its moments from all parts. Then the
mean of the processes' gradients is the gradient of the whole batch, up to rounding.

    here          source
    `_Summed`     the derivative of a sum over processes is the sum of their derivatives; as torch.distributed.nn has it
    `whole_norm`  Ioffe & Szegedy (2015) over all parts, as torch.nn.SyncBatchNorm, which needs a GPU. Moments of parts are
                  added as by Chan, Golub & LeVeque (1979)

Outside `cut_into` there is one part, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from flawforge.nn.losses import SUMMING
from flawforge.types import TrainingError

GONE = "Another device of this fit has stopped"


class Parted(TrainingError):
    """Another process of the fit is gone, so nothing can be summed with it."""


@dataclass(frozen=True)
class Part:
    """Which of `count` equal parts of every batch this process holds."""

    rank: int = 0
    count: int = 1


WHOLE = Part()
_PART: ContextVar[Part] = ContextVar("part", default=WHOLE)


def add(x: Tensor) -> Tensor:
    """The sum of x over all processes, in its place. Raises Parted where one is gone."""
    try:
        distributed.all_reduce(x)
    except RuntimeError as error:
        raise Parted(f"{GONE} ({' '.join(str(error).split())[:200]}).") from error
    return x


def first_says(x: Tensor) -> Tensor:
    """The x of the first process, in place of one's own. Raises Parted where it is gone."""
    try:
        distributed.broadcast(x, 0)
    except RuntimeError as error:
        raise Parted(f"{GONE} ({' '.join(str(error).split())[:200]}).") from error
    return x


class _Summed(torch.autograd.Function):
    """The sum over all processes; so is its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return add(x.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return add(gradient.clone(memory_format=torch.contiguous_format))


def _summed(*sums: Tensor) -> tuple[Tensor, ...]:
    """Sums over this process's part of a batch, all of one shape -> the same over the whole batch."""
    whole: Tensor = _Summed.apply(torch.stack(sums))
    return whole.unbind()


def rand(pictures: int, *shape: int) -> Tensor:
    """As torch.rand(pictures, *shape), drawn for the whole batch; of it the rows of this process's part."""
    part = _PART.get()
    return torch.rand(pictures * part.count, *shape)[pictures * part.rank : pictures * (part.rank + 1)]


def average(parameters: Sequence[Tensor]) -> None:
    """The mean of the processes' gradients, in place of one's own. Every process has the same parameters with a gradient."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = add(torch.cat([gradient.flatten() for gradient in gradients])) / _PART.get().count
    for gradient, mean in zip(gradients, whole.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


@contextmanager
def cut_into(net: nn.Module, part: Part) -> Iterator[None]:
    """Inside, batches are cut into parts and this process holds one of them; the batch norms of `net` see all of them."""
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)] if part.count > 1 else []
    token = _PART.set(part)
    summing = SUMMING.set(_summed if part.count > 1 else SUMMING.get())
    for norm in norms:
        norm.__dict__["forward"] = partial(whole_norm, norm)
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)
        SUMMING.reset(summing)
        _PART.reset(token)


def whole_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """n c or n c h w -> the same, normalised by the moments of the whole batch, of which x is one of several equal parts."""
    if not norm.training or norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return type(norm).forward(norm, x)
    part, kind = _PART.get(), x.dtype
    x = x if kind == torch.float64 else x.float()
    count = x.numel() // x.shape[1] * part.count
    own = torch.stack(torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)).double()
    every: Tensor = _Summed.apply(torch.stack([own if k == part.rank else torch.zeros_like(own) for k in range(part.count)]))
    variances, means = every.unbind(dim=1)
    mean = means.mean(dim=0)
    variance = (variances + (means - mean).square()).mean(dim=0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        norm.running_var.lerp_((variance * count / max(count - 1, 1)).to(norm.running_var), share)
    wide = (1, -1, *(1 for _ in x.shape[2:]))
    scale = (variance + norm.eps).rsqrt() * (norm.weight if norm.affine else 1.0)
    # The mean goes first: a channel that hardly varies would lose its gradient in rounding.
    y = (x - mean.to(x.dtype).view(wide)) * scale.to(x.dtype).view(wide)
    return (y + norm.bias.view(wide) if norm.affine else y).to(kind)
