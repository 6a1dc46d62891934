"""Coreset selection: exact greedy k-centre, computed in blocks, and over a stream in bounded memory.

    here        source
    `greedy`    Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38 (1985):
                take the point farthest from those taken. Its radius is at most twice the best possible. PatchCore (Roth et
                al., CVPR 2022, arXiv 2106.08265, algorithm 1) calls it the coreset. The blocks are ours
    `Stream`    ours: a store of fixed size, reduced by `greedy` whenever it is full
    `sketch`    Johnson & Lindenstrauss (1984); Dasgupta & Gupta (2003): a random projection keeps distances. 128 numbers, as
                PatchCore's code has it

The plain loop makes k passes over all n points, and memory bandwidth is the limit. But as long as the farthest of a few
candidates is farther than every other point was, the next choice is among the candidates. So a whole round of choices
follows from the distances between the candidates alone, and one matrix product per round updates all n distances. The
choices are those of the plain loop, up to ties and rounding.

All distances are Euclidean. Only the sketch is random.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 4096  # points in one block of a product with the chosen ones
FEWEST, MOST = 16, 1024  # candidates in a round
SAME = 1e-6  # squared distances below this share of the mean squared length are rounding


class Cover(NamedTuple):
    """The chosen points among n, and each point's distance to the nearest of them.

    chosen    k, indices of points in the order of choice
    owner     n, which of the chosen (0 .. k - 1) is nearest
    distance  n, the distance to it
    """

    chosen: Tensor
    owner: Tensor
    distance: Tensor

    @property
    def radius(self) -> float:
        """The largest distance of any point to its nearest chosen one."""
        return float(self.distance.max())


def greedy(points: Tensor, k: int) -> Cover:
    """Choose k of n d points, each the farthest from those before; the first is the farthest from the mean.

    Fewer than k where there are fewer distinct points. The radius is at most twice the smallest that k centres can have.
    Raises ValueError where there are no points.
    """
    if not len(points) or k < 1:
        raise ValueError(f"{len(points)} points and {k} to choose were given; give at least 1 of both.")
    points = points - points.mean(dim=0)  # smaller numbers, less rounding in the products
    lengths = points.square().sum(dim=1)
    same = SAME * float(lengths.mean())
    near = torch.full_like(lengths, math.inf)  # squared distance to the nearest chosen
    owner = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    new = lengths.argmax()[None]
    chosen = new
    width = FEWEST
    while True:
        _serve(points, lengths, new, len(chosen) - len(new), near, owner)
        near[chosen] = 0.0
        if len(chosen) >= min(k, len(points)):
            break
        farthest = near.topk(min(width + 1, len(points)))
        if float(farthest.values[0]) <= same:
            break
        bar = float(farthest.values[-1]) if len(points) > width else -1.0
        candidates = farthest.indices[:width]
        picked = _round(points[candidates], farthest.values[:width], max(bar, same), k - len(chosen))
        new = candidates[picked]
        chosen = torch.cat([chosen, new])
        # A round costs the square of its width; what was not picked of it was for nothing.
        width = min(2 * width, MOST) if 2 * len(new) > width else max(width // 2, FEWEST) if 8 * len(new) < width else width
    return Cover(chosen, owner, near.clamp_min(0).sqrt())


def _serve(points: Tensor, lengths: Tensor, new: Tensor, first: int, near: Tensor, owner: Tensor) -> None:
    """Let the newly chosen points serve those to whom they are nearer; in place."""
    theirs, squares = points[new].T.contiguous(), lengths[new][None]
    for start in range(0, len(points), ROWS):
        rows = slice(start, start + ROWS)
        best, which = torch.addmm(squares, points[rows], theirs, alpha=-2).min(dim=1)
        best += lengths[rows]
        nearer = best < near[rows]
        near[rows] = torch.where(nearer, best, near[rows])
        owner[rows] = torch.where(nearer, which + first, owner[rows])


def _round(candidates: Tensor, near: Tensor, bar: float, room: int) -> Tensor:
    """Choices among b candidates, at most `room`, as long as the farthest of them is farther than `bar`; at least one."""
    lengths = candidates.square().sum(dim=1)
    between = torch.addmm(lengths[None], candidates, candidates.T, alpha=-2) + lengths[:, None]
    between.fill_diagonal_(-1.0)
    rows, left = between.cpu().numpy(), near.cpu().numpy().copy()
    picked: list[int] = []
    while len(picked) < room:
        best = int(left.argmax())
        if picked and left[best] < bar:
            break
        picked.append(best)
        if len(picked) == len(left):
            break
        left = rows[best].clip(max=left)
    return torch.tensor(picked, device=candidates.device)


def sketch(features: int, numbers: int = 128) -> Tensor:
    """A random projection, features x numbers, from torch's generator; squared distances are preserved in expectation.

    The identity where it would not reduce the dimension.
    """
    if features <= numbers:
        return torch.eye(features)
    return torch.randn(features, numbers) / math.sqrt(numbers)


class Stream:
    """A coreset of points that arrive in any number of blocks: at most `capacity` are held, and `keep` are left in the end.

    projection  d p, applied before distances are measured (see `sketch`); the points are stored unprojected. It may be
                replaced as more points are seen; each selection uses the current one
    From a stream that fits, the choice is exactly that of `greedy`. A longer one is reduced to `keep` each time the store is
    full; `reach` is then an accumulated upper bound on the distance of any point ever added to one that is left. Each of m
    reductions adds at most twice the smallest possible radius, so the bound is at most 2 m of those.
    """

    def __init__(self, keep: int, capacity: int, projection: Tensor) -> None:
        if not 1 <= keep < capacity:
            raise ValueError(f"A coreset of {keep} in a store of {capacity} was asked for; the store must be the larger.")
        self.keep, self.capacity, self.projection = keep, capacity, projection
        self.seen = self.held = self.reductions = 0
        self._points = self._reach = torch.zeros(0)

    @staticmethod
    def memory(keep: int, capacity: int, features: int, projected: int) -> int:
        """Bytes at the peak: the store, its copies during a reduction, and a block of distances."""
        stored = capacity * (features + 2 * projected + 4) + keep * (features + projected)
        return 4 * (stored + ROWS * MOST + 2 * MOST * MOST)

    @staticmethod
    def work(points: int, keep: int, capacity: int, projected: int) -> float:
        """Floating-point operations for a stream of `points`, summed over all reductions."""
        if points <= capacity:
            return 2.0 * points * min(keep, points) * projected
        return 2.0 * keep * projected * (math.ceil((points - capacity) / (capacity - keep)) + 1) * capacity

    def add(self, points: Tensor) -> None:
        """Add n d points."""
        while len(points):
            if self.held == self.capacity:
                self._reduce(self.keep)
            self._make_room(points)
            taken, points = points[: self.capacity - self.held], points[self.capacity - self.held :]
            places = slice(self.held, self.held + len(taken))
            self._points[places] = taken
            self._reach[places] = 0.0
            self.held += len(taken)
            self.seen += len(taken)

    def finish(self, keep: int | None = None) -> tuple[Tensor, float]:
        """The points that are left, at most `keep` of them, and `reach`. Raises ValueError where none were added."""
        self._reduce(min(keep or self.keep, self.keep))
        return self._points[: self.held].clone(), float(self._reach[: self.held].max())

    def _make_room(self, like: Tensor) -> None:
        """The store grows by doubling up to its capacity, so that few pictures cost little."""
        size, needed = len(self._points), min(self.held + len(like), self.capacity)
        if needed <= size:
            return
        bigger = min(max(2 * size, needed), self.capacity)
        for name, width in (("_points", like.shape[1:]), ("_reach", ())):
            grown = like.new_zeros(bigger, *width)
            if self.held:
                grown[: self.held] = getattr(self, name)[: self.held]
            setattr(self, name, grown)

    def _reduce(self, keep: int) -> None:
        cover = greedy(self._points[: self.held] @ self.projection, keep)
        reach = self._reach.new_zeros(len(cover.chosen))
        reach.scatter_reduce_(0, cover.owner, cover.distance + self._reach[: self.held], "amax")
        self.held, self.reductions = len(cover.chosen), self.reductions + 1
        self._points[: self.held] = self._points[cover.chosen]
        self._reach[: self.held] = reach
