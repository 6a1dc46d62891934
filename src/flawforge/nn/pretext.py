"""Features learnt by telling good pictures from forged ones: for CutPaste, CutSwap and other methods.

Li, Sohn, Yoon, Pfister: "CutPaste: self-supervised learning for anomaly detection and localization", CVPR 2021, arXiv
2104.04015, sections 2.2 and A.1, A.2 and A.5.

    here            paper
    `Pretext`       ResNet, global mean, an MLP head; the head's size is not given (public codes: layers of 512, then 128).
                    Appendix: also a pretrained EfficientNet, here any trunk (`nn.tuning`)
    `told_apart`    cross-entropy {normal, one class for each kind of forgery}
    `varied`        random translation and colour jitter of every input; amounts not given
    `classifying`   SGD, momentum 0.9, L2, one cosine cycle; a warm-up over the first 3 % is ours
    `crops`         the patch model is trained on crops
    `windows`       and evaluated at every window of the picture
    `Labelled`      labels each forgery with its class

Every forged picture comes with its own good one (`Batch.clean`), so a batch holds both, as in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.losses import cosine_schedule
from flawforge.nn.resnet import ResNet, imagenet, pooled
from flawforge.nn.trunks import trunk_of
from flawforge.types import Batch, Forged, Forger, Sample, Turn

STAGES = 4


def head(inputs: int, classes: int, hidden: Sequence[int] = (512, 128)) -> nn.Sequential:
    """n inputs -> n classes: layers of `hidden` widths, each linear, batch norm, ReLU, then a linear one."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class Pretext(nn.Module):
    """A trunk of four stages and a head that classifies pictures.

    variant   of a residual trunk, a name in `resnet.VARIANTS`
    classes   number of the head's classes; 0 is good
    hidden    widths of the head's layers, each linear, batch norm, ReLU
    stem      of the residual trunk, see `resnet.ResNet`
    backbone  another trunk instead, a name that `trunks.trunk_of` takes; "" = the residual one
    widths    channels of the stages
    """

    def __init__(
        self,
        variant: str,
        classes: int,
        hidden: Sequence[int] = (512, 128),
        stem: Literal["full", "small"] = "full",
        backbone: str = "",
    ) -> None:
        super().__init__()
        self.trunk: Any = trunk_of(backbone, STAGES) if backbone else ResNet(variant, stem=stem)
        self.widths: tuple[int, ...] = tuple(self.trunk.widths)[-STAGES:]
        self.own = not backbone
        self.head = head(self.widths[-1], classes, hidden)

    def levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """n 3 h w in [0, 1] -> the outputs of the trunk's four stages, at strides 4 to 32 if it is convolutional."""
        seen: tuple[Tensor, ...] = self.trunk(imagenet(images) if self.own else images)
        return seen[-STAGES:]

    def pooled(self, images: Tensor) -> Tensor:
        """n 3 h w in [0, 1] -> n d, the last stage's mean."""
        return pooled(self.levels(images))

    def logits(self, images: Tensor) -> Tensor:
        """n 3 h w in [0, 1] -> n classes."""
        return self.head(self.pooled(images))


# ---- training


def told_apart(logits: Tensor, kind: Tensor) -> Tensor:
    """Cross-entropy of logits n classes and classes `kind` n; a kind beyond the head's classes counts as its last."""
    return F.cross_entropy(logits.float(), kind.clamp_max(logits.shape[1] - 1))


def either(logits: Tensor, kind: Tensor) -> Tensor:
    """Cross-entropy of good against forged, all forged classes of the logits merged: for forgeries of no known class."""
    logits = logits.float()
    forged = logits[:, 1:].logsumexp(dim=1)
    return F.binary_cross_entropy_with_logits(forged - logits[:, 0], (kind > 0).to(logits.dtype))


def shown(logits: Tensor, kind: Tensor) -> dict[str, Tensor]:
    """The accuracy of good against forged, for display only."""
    right = (logits.detach().argmax(dim=1) > 0) == (kind > 0)
    return {"accuracy": right.float().mean()}


def pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """The good pictures of a batch and what was forged from them: 2n 3 h w, and their kinds 2n."""
    return torch.cat([batch.clean, batch.forged]), torch.cat([torch.zeros_like(batch.kind), batch.kind])


def varied(images: Tensor, shift: float, jitter: float) -> Tensor:
    """Augment each picture: translated by up to `shift` of its side either way, edges replicated, and colours jittered.

    n 3 h w in [0, 1] -> the same. jitter: brightness, contrast and saturation each by a factor within 1 +- jitter. Draws
    from torch's generator.
    """
    n, _, h, w = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    reach = [round(shift * side) for side in (h, w)]
    if any(reach):
        moves = torch.stack([torch.randint(-r, r + 1, (n,)) for r in reach], dim=1).tolist()
        moved = torch.empty_like(images)
        for image, out, (dy, dx) in zip(images, moved, moves, strict=True):
            _shifted(image, out, dy, dx)
        images = moved
    if jitter:
        bright, contrast, colour = (1 + jitter * (2 * torch.rand(3, n, 1, 1, 1) - 1)).to(images)
        # The three in a row, as one sum: of the picture, of its grey, and of its mean.
        grey = images.mean(dim=1, keepdim=True)
        level = (1 - contrast) * bright * grey.mean(dim=(2, 3), keepdim=True)
        rest = grey * ((1 - colour) * contrast * bright) + level
        images = (images * (colour * contrast * bright)).add_(rest).clamp_(0, 1)
    return images


def _shifted(image: Tensor, out: Tensor, dy: int, dx: int) -> None:
    """out[:, y, x] = image[:, y + dy, x + dx], beyond the edge its nearest pixel; both c h w."""
    h, w = image.shape[-2:]
    top, bottom = max(-dy, 0), h - max(dy, 0)
    left, right = max(-dx, 0), w - max(dx, 0)
    out[:, top:bottom, left:right] = image[:, top + dy : bottom + dy, left + dx : right + dx]
    out[:, top:bottom, :left] = out[:, top:bottom, left : left + 1]
    out[:, top:bottom, right:] = out[:, top:bottom, right - 1 : right]
    out[:, :top] = out[:, top : top + 1]
    out[:, bottom:] = out[:, bottom - 1 : bottom]


def classifying(
    name: str,
    part: Callable[[Any], nn.Module],
    loss: Callable[[Any, Batch], dict[str, Tensor]],
    *,
    rate: float,
    decay: float,
) -> Turn:
    """A turn that trains `part(net)` by SGD with momentum 0.9 on `loss(net, batch)`."""

    def optimiser(parameters: Sequence[Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)

    return Turn(name, lambda net: list(part(net).parameters()), optimiser, loss, cosine_schedule)


# ---- crops and windows


def crops(batch: Batch, side: int, most: int, least: float = 0.01) -> tuple[Tensor, Tensor]:
    """Crops of forged pictures m 3 side side, m <= most, and labels m: 1 where at least the share `least` is forged.

    The crops tile each picture from a random offset; at most `most` / 2 of each class are drawn. Crops with a smaller forged
    share above 0, and those of which less than half is judged, are left out. Draws from torch's generator.
    """
    h, w = batch.forged.shape[-2:]
    side = min(side, h, w)
    top, left = (int(torch.randint(min(side, over + 1), (1,))) for over in (h - side, w - side))

    def tiles(x: Tensor) -> Tensor:
        x = x[..., top:, left:].unfold(2, side, side).unfold(3, side, side)  # n c gh gw side side
        return x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    share = tiles(batch.mask).mean(dim=(1, 2, 3))
    judged = tiles(batch.valid).mean(dim=(1, 2, 3)) >= 0.5
    forged = torch.nonzero(judged & (share >= least))[:, 0].cpu()
    good = torch.nonzero(judged & (share == 0))[:, 0].cpu()
    forged, good = (x[torch.randperm(len(x))][: max(most // 2, 1)] for x in (forged, good))
    kept = torch.cat([good, forged]).to(batch.forged.device)
    kind = torch.cat([torch.zeros(len(good)), torch.ones(len(forged))]).long().to(kept.device)
    return tiles(batch.forged)[kept].contiguous(memory_format=torch.channels_last), kind


def windows(images: Tensor, side: int, step: int) -> tuple[Tensor, tuple[int, int]]:
    """Every window of `side` px, `step` px apart: n c h w -> (n * gh * gw) c side side, and (gh, gw).

    The picture's lower and right edge is replicated where the last window would exceed it.
    """
    h, w = images.shape[-2:]
    below, right = (max(side - size, 0) + -max(size - side, 0) % step for size in (h, w))
    if below or right:
        images = F.pad(images, (0, right, 0, below), mode="replicate")
    cut = images.unfold(2, side, step).unfold(3, side, step)  # n c gh gw side side
    gh, gw = cut.shape[2], cut.shape[3]
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), (gh, gw)


def from_windows(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(n * gh * gw) d -> n d gh gw."""
    gh, gw = grid
    return values.reshape(-1, gh, gw, values.shape[1]).permute(0, 3, 1, 2)


def on_one_grid(levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Stage outputs n c_i h_i w_i -> n sum(c_i) gh gw: averaged where finer than the grid, interpolated where coarser."""
    brought = []
    for level in levels:
        h, w = level.shape[-2:]
        if h > grid[0] and h % grid[0] == 0 and w % grid[1] == 0:
            level = F.avg_pool2d(level, (h // grid[0], w // grid[1]))
        elif (h, w) != grid:
            level = F.interpolate(level, grid, mode="bilinear", align_corners=False)
        brought.append(level)
    return torch.cat(brought, dim=1)


# ---- forging


@dataclass(frozen=True)
class Labelled:
    """A forger that labels each forgery with a class: 1 + the index in `values` of what it drew under `key`.

    A forgery without that key (a fallback) is of class 1.
    """

    forger: Forger
    key: str
    values: tuple[Any, ...]

    @property
    def forgers(self) -> tuple[Forger, ...]:
        """The forgers that it is made of."""
        return (self.forger,)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        forged = self.forger(sample, rng)
        drawn: Mapping[str, Any] = forged.drawn
        if drawn.get(self.key) not in self.values:
            return forged
        return dataclasses.replace(forged, drawn={**drawn, "class": 1 + self.values.index(drawn[self.key])})
