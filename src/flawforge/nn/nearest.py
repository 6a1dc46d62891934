"""Distances to the nearest of many stored vectors; the result for a picture does not depend on the rest of its batch.

|q - b|^2 = |q|^2 + |b|^2 - 2 q.b is fast but a small difference of large numbers. Its rounding depends on how the product is
tiled, and so on the batch: that is how, with `torch.cdist`, a picture's map changes with the others of its batch. Here every
picture is a product of its own shape (`baddbmm`), and both sides are centred on the mean of the stored vectors, so that the
numbers are small.

    `distances`  from the product alone: the fastest, one matrix product and a minimum in an export's graph. Distances below
                 the rounding error are 0
    `nearest`    the product only finds the nearest vector; the distance is computed from the difference itself. It also
                 returns that vector's index. `torch.cdist` without products gives the same distances in ten times as long
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 4096  # stored vectors at a time: n p BLOCK floats are held
SAME = 1e-6  # squared distances below this share of the squared lengths are rounding


def distances(queries: Tensor, bank: Tensor) -> Tensor:
    """n p d vectors and k d stored ones -> Euclidean distance to the nearest, n p. k >= 1. In an export k is fixed."""
    middle = bank.mean(dim=0)
    bank, queries = bank - middle, queries - middle
    best, long = None, bank.square().sum(dim=1)
    for start in range(0, len(bank), BLOCK):
        least = _products(queries, bank[start : start + BLOCK]).amin(dim=1)
        best = least if best is None else torch.minimum(best, least)
    assert best is not None, "a bank holds something"
    own = queries.square().sum(dim=2)
    squared = own + best
    return torch.where(squared > SAME * (own + long.mean()), squared, torch.zeros_like(squared)).sqrt()


def nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """n p d vectors and k d stored ones -> (Euclidean distance to the nearest n p, its index in the bank n p).

    Of several that are equally near (up to rounding) any may be returned. k >= 1. In an export the bank's size is fixed.
    """
    middle = bank.mean(dim=0)
    bank, queries = bank - middle, queries - middle
    best, place = _in_block(queries, bank[:BLOCK])
    for start in range(BLOCK, len(bank), BLOCK):
        squared, index = _in_block(queries, bank[start : start + BLOCK])
        nearer = squared < best
        best, place = torch.where(nearer, squared, best), torch.where(nearer, index + start, place)
    return best.sqrt(), place


def _in_block(queries: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """n p d and k d -> (squared distance to the nearest n p, which n p)."""
    index = _products(queries, block).argmin(dim=1)
    return (queries - block[index]).square().sum(dim=2), index


def _products(queries: Tensor, block: Tensor) -> Tensor:
    """n p d and k d -> squared distances less the queries' own squared lengths, n k p.

    Queries lie in the last dimension: so features n d h w need not be laid out anew, and networks' runtimes look for a
    minimum along another dimension several times faster.
    """
    n = queries.shape[0]
    lengths = block.square().sum(dim=1)[:, None].expand(n, -1, 1)
    return torch.baddbmm(lengths, block.expand(n, -1, -1), queries.transpose(1, 2), alpha=-2)


def reweighted(distance: Tensor, place: Tensor, queries: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """PatchCore's score of a picture, eq. 7 (Roth et al., CVPR 2022): n, from the n p distances and indices of `nearest`.

    The largest distance s, between q and the stored b, times 1 - exp(s) / sum exp |q - m| over the `neighbours` stored m
    nearest to b, b included: the weight is larger where b is isolated among the stored vectors.
    """
    n, k = distance.shape[0], min(neighbours, len(bank))
    worst = distance.argmax(dim=1, keepdim=True)
    query = queries.gather(1, worst[..., None].expand(n, 1, queries.shape[2]))  # n 1 d
    stored = bank[place.gather(1, worst)]
    apart = (stored - bank).square().sum(dim=2)  # n k; from the difference, so that a stored vector is nearest to itself
    around = bank[apart.topk(k, dim=1, largest=False).indices]
    away = (query - around).square().sum(dim=2).sqrt()
    score = distance.gather(1, worst)
    return (score * (1 - torch.exp(score - away.logsumexp(dim=1, keepdim=True))))[:, 0]
