"""`nn.patchstats` prepared for judging: the same surprises up to rounding, with all fitted constants folded in.

A fit needs every intermediate quantity; judging needs only the map. So here

- branches whose Gaussians stand on the same grid are stacked, and one operation serves them all;
- the noise floor is in the filters, and the known positions and spreads are in the scale of the distance;
- every linear operation on a small map (wide means, smoothing, upsampling) is one matrix for its rows and one for its
  columns: inference runtimes are fast at matrix products, and slow at slicing, padding and interpolation;
- a cell is known where the rows and columns in its filters' support lie inside the picture, which takes two comparisons.

The tables are computed from the fitted tensors and are not saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.gaussians import KNOTS

BINOMIAL = (0.25, 0.5, 0.25)


def pool(x: Tensor, side: int) -> Tensor:
    """n c h w -> n c h/side w/side, means over cells. (torch's own pooling is several times slower on few channels.)"""
    if side == 1:
        return x
    n, c, h, w = x.shape
    rows = x.reshape(n, c, h // side, side, w).mean(dim=3)
    columns = rows[..., ::side]
    for i in range(1, side):
        columns = columns + rows[..., i::side]
    return columns / side


def cells(x: Tensor, side: int) -> Tensor:
    """`pool` as a single operation in an export: a pooling, or for pictures a convolution.

    (A pooling of the picture would make OpenVINO convert its memory layout first.)
    """
    if side == 1 or not torch.compiler.is_exporting():
        return pool(x, side)
    if x.shape[1] > 3:
        return F.avg_pool2d(x, side)
    return F.conv2d(x, torch.eye(3)[:, :, None, None].expand(3, 3, side, side) / side**2, stride=side)


class Fitted(Protocol):
    """The attributes of a fitted `patchstats.Branch` that are read here; it documents their shapes."""

    scale: int
    normalised: bool
    side: int
    block: int
    grid: int
    stride: int
    skip: int
    width: int
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


def enlarging(own: int, size: int) -> Tensor:
    """Matrix size x own: linear interpolation of `own` values at `size` places, corners not aligned."""
    return F.interpolate(torch.eye(own)[None], size, mode="linear", align_corners=False)[0].T.contiguous()


def averaging(own: int, side: int) -> Tensor:
    """Matrix own x own: the mean over a window of `side` (odd) places, truncated at the ends."""
    near = (torch.arange(own)[:, None] - torch.arange(own)).abs() <= side // 2
    return near.float() / near.sum(dim=1, keepdim=True)


def smoothing(own: int) -> Tensor:
    """Matrix own x own: binomial mean over 3 places, the ends replicated."""
    return F.pad(torch.eye(own)[:, None], [1, 1], mode="replicate")[:, 0].unfold(1, 3, 1).matmul(torch.tensor(BINOMIAL)).T


def sandwich(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows H h, x n c h w, columns W w -> rows x columns', n c H W."""
    return rows @ x @ columns.T


class Even(nn.Module):
    """`patchstats.even_light` on one canvas: images n 3 h w -> the same with the illumination evened out."""

    mean_rows: Tensor
    mean_columns: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, size: Sequence[int], window: int) -> None:
        super().__init__()
        side = 2 * max(window // 8, 1) + 1
        for name, length in zip(("rows", "columns"), size, strict=True):
            means = averaging(length // 4, side).repeat_interleave(4, dim=1) / 4  # of the 4 x 4 means
            self.register_buffer(f"mean_{name}", means, persistent=False)
            self.register_buffer(name, enlarging(length // 4, length), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        mean = sandwich(self.mean_rows, images, self.mean_columns)
        square = sandwich(self.mean_rows, images.square(), self.mean_columns)
        variance = (square - mean.square()).mean(dim=1, keepdim=True).clamp_min(0)
        inverse = 1 / (variance.sqrt() + 0.05)
        return (images - sandwich(self.rows, mean, self.columns)) * sandwich(self.rows, inverse, self.columns)


class Stack(nn.Module):
    """The branches of one grid. `forward` gives the surprise of each, n branches gh gw."""

    centre: Tensor
    factor: Tensor
    log_offset: Tensor
    log_scale: Tensor
    signed: Tensor
    unsigned: Tensor
    smoother: Tensor
    per_spread: Tensor
    above_usual: Tensor
    known: Tensor
    usual: Tensor
    smooth_rows: Tensor
    smooth_columns: Tensor
    lows: Tensor
    highs: Tensor
    starts: Tensor
    slopes: Tensor
    last: Tensor
    tail_scale: Tensor
    tail_shape: Tensor

    def __init__(self, branches: Sequence[Fitted]) -> None:
        super().__init__()
        first = branches[0]
        self.kinds = [(branch.normalised, branch.scale) for branch in branches]
        self.margin, self.block, self.grid = first.side // 2, first.block, first.grid
        self.steps = [(branch.skip, branch.stride // branch.skip) for branch in branches]
        self.d, (self.gh, self.gw) = 2 * first.width, first.known.shape
        self.gh, self.gw = int(self.gh), int(self.gw)
        count, width = len(branches), first.width

        def keep(name: str, value: Tensor) -> None:
            self.register_buffer(name, value.detach().float().contiguous(), persistent=False)

        def of_each(name: str) -> Tensor:
            return torch.stack([getattr(branch, name) for branch in branches])

        for i, branch in enumerate(branches):
            keep(f"filters_{i}", branch.filters / branch.floor)
        # Of every branch first the strengths, log(0.1 + |v|), then the means, the sign of v times log(1 + 10 |v|).
        kinds = torch.tensor([0.0, 1.0]).repeat_interleave(width).repeat(count)[:, None, None]
        keep("log_offset", 0.1 + 0.9 * kinds)
        keep("log_scale", 1 + 9 * kinds)
        keep("signed", kinds)
        keep("unsigned", 1 - kinds)
        binomial = torch.tensor(BINOMIAL)
        keep("smoother", torch.outer(binomial, binomial).expand(self.d * count, 1, 3, 3))
        keep("centre", of_each("centre").flatten(0, 1))
        keep("factor", of_each("factor").flatten(0, 1).transpose(1, 2))
        usual = of_each("usual")[:, :, None]
        keep("per_spread", 1 / of_each("spread"))
        keep("above_usual", of_each("width_of") - usual)
        keep("known", of_each("known"))
        keep("usual", usual)
        keep("smooth_rows", smoothing(self.gh))
        keep("smooth_columns", smoothing(self.gw))
        # -log p is a broken line: one slope between each two knots, the first from below all of them.
        knots = of_each("knots")
        least = torch.full_like(knots[:, :1], torch.finfo(torch.float32).min)
        keep("lows", torch.cat([least, knots[:, 1:-1]], dim=1).T[:, :, None, None])
        keep("highs", knots[:, 1:].T[:, :, None, None])
        keep("starts", knots[:, :-1].T[:, :, None, None])
        keep("slopes", of_each("slopes").T[:, :, None, None])
        keep("last", knots[:, -1:, None])
        keep("tail_scale", of_each("tail")[:, :1, None])
        keep("tail_shape", of_each("tail")[:, 1:, None])
        for name, length, cells in (("rows", self.gh * self.grid, self.gh), ("columns", self.gw * self.grid, self.gw)):
            lowest: list[Tensor] = []
            highest: list[Tensor] = []
            for branch in branches:
                reach = branch.side // 2 * branch.scale
                lowest.append((torch.arange(cells) * self.grid - reach).clamp_min(0))
                highest.append((torch.arange(1, cells + 1) * self.grid - 1 + reach).clamp_max(length - 1))
            keep(f"lowest_{name}", torch.stack(lowest))  # pixels that the filters of each cell see, branches cells
            keep(f"highest_{name}", torch.stack(highest))

    def forward(self, inputs: dict[tuple[bool, int], Tensor], inner: Tensor) -> Tensor:
        parts = []
        for i, (kind, (skip, cell)) in enumerate(zip(self.kinds, self.steps, strict=True)):
            padded = F.pad(inputs[kind], [self.margin] * 4, mode="reflect")
            response = F.conv2d(padded, getattr(self, f"filters_{i}"), stride=skip)
            parts += [cells(response.abs(), cell), cells(response, cell)]
        x = F.conv2d(F.pad(torch.cat(parts, dim=1), [1] * 4, mode="replicate"), self.smoother, groups=len(self.smoother))
        logs = torch.log(self.log_offset + self.log_scale * x.abs())
        # The sign by a division: networks' runtimes have no quick one.
        sign = x / x.abs().clamp_min(1e-30)
        return self.surprise(self.distance(logs * (self.unsigned + self.signed * sign) - self.centre), inner)

    def distance(self, residual: Tensor) -> Tensor:
        """n branches*d gh gw -> Mahalanobis distances n branches gh gw."""
        b, high, wide = self.block, self.gh // self.block, self.gw // self.block
        x = residual.reshape(-1, len(self.kinds), self.d, high, b, wide, b).permute(1, 3, 5, 0, 4, 6, 2)
        white = torch.bmm(x.reshape(len(self.factor), -1, self.d), self.factor)
        squared = white.square().sum(dim=2).reshape(len(self.kinds), high, wide, -1, b, b)
        return squared.permute(3, 0, 1, 4, 2, 5).reshape(-1, len(self.kinds), self.gh, self.gw)

    def surprise(self, distance: Tensor, inner: Tensor) -> Tensor:
        """Distances n branches gh gw -> -log tail probability of the smoothed strangeness, n branches gh gw; inner n 4."""
        known_along = []
        for name, first, end in (("rows", 0, 1), ("columns", 2, 3)):
            lowest, highest = getattr(self, f"lowest_{name}"), getattr(self, f"highest_{name}")
            begins, ends = inner[:, first, None, None], inner[:, end, None, None]  # n 1 1
            known_along.append((lowest >= begins).float() * (highest < ends).float())  # n branches cells
        known = known_along[0][..., None] * known_along[1][:, :, None] * self.known
        strange = self.usual + known * (distance * self.per_spread + self.above_usual)
        x = sandwich(self.smooth_rows, strange, self.smooth_columns)
        lows, highs, starts, slopes = (table[:, None] for table in (self.lows, self.highs, self.starts, self.slopes))
        body = (slopes * (torch.minimum(torch.maximum(x, lows), highs) - starts)).sum(dim=0) - math.log(KNOTS[0])
        beyond = (x - self.last).clamp_min(0)
        return body + torch.log1p(self.tail_shape * beyond / self.tail_scale) / self.tail_shape


class Judge(nn.Module):
    """All branches of a fitted `patchstats.PatchStats`, for its own canvas alone."""

    full_rows: Tensor
    full_columns: Tensor

    def __init__(self, branches: Sequence[Fitted], window: int) -> None:
        super().__init__()
        first = branches[0]
        size = [int(side) * first.grid for side in first.known.shape]
        self.even = Even(size, window)
        grids = sorted({branch.grid for branch in branches})
        self.scales = {
            kind: sorted({branch.scale for branch in branches if branch.normalised == kind}) for kind in (True, False)
        }
        self.stacks = nn.ModuleList(Stack([branch for branch in branches if branch.grid == grid]) for grid in grids)
        stacked = [branch for grid in grids for branch in branches if branch.grid == grid]
        self.order = [next(i for i, branch in enumerate(stacked) if branch is own) for own in branches]
        for name, length in zip(("rows", "columns"), size, strict=True):
            self.register_buffer(f"full_{name}", enlarging(length // grids[0], length), persistent=False)
            for i, grid in enumerate(grids[1:], 1):
                self.register_buffer(f"{name}_{i}", enlarging(length // grid, length // grids[0]), persistent=False)
        self.to(first.known.device)

    def full(self, coarse: Tensor) -> Tensor:
        """n c gh gw on the finest grid -> n c h w, interpolated bilinearly."""
        return sandwich(self.full_rows, coarse, self.full_columns)

    def forward(self, images: Tensor, inner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """n 3 h w, inner n 4 -> (surprises n branches gh gw on the finest grid, the pictures in even light n 3 h w).

        inner  where each picture lies on the canvas, as in types.Batch; None = it covers the whole canvas
        """
        if inner is None:
            h, w = images.shape[-2:]
            inner = images.new_tensor([[0, h, 0, w]]).expand(len(images), 4)
        even = self.even(images)
        inputs = {}
        for normalised, scales in self.scales.items():
            x, at = even if normalised else images, 1
            for scale in scales:
                x, at = cells(x, scale // at), scale
                inputs[normalised, scale] = x
        maps = []
        for i, stack in enumerate(self.stacks):
            own = stack(inputs, inner)
            maps.append(sandwich(getattr(self, f"rows_{i}"), own, getattr(self, f"columns_{i}")) if i else own)
        surprises = torch.cat(maps, dim=1)
        if self.order != sorted(self.order):
            surprises = torch.cat([surprises[:, i : i + 1] for i in self.order], dim=1)
        return surprises, even
