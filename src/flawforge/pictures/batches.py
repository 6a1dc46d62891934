"""Were pictures taken in batches? Neighbours in the order of their names that are more alike than chance allows say so.

Parts of one batch share tool wear, material and light. If single pictures are held back, each has neighbours of its batch
among the training pictures, as parts of the next batch will not: the false-alarm rate comes out too low. So where neighbours
are alike, whole blocks of neighbours are held back; and where their scores are alike as well, a block counts once.

Both tests are permutation tests. The order is that of the names with numbers in them read as numbers ("9" before "10").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.01  # of the test on pictures: chance that pictures in no order are taken for batches
SCORE_LEVEL = 0.05  # of the test on scores
SHUFFLES = 999
TOO_FEW = (
    "{n} good pictures are too few to tell whether they come in batches, {least} are needed: if they do, more good parts of "
    "other batches are rejected than is stated; calibrate on pictures of several batches"
)
LEAST = 30  # units below which batches are not looked for: too few blocks would be left
BLOCKS = 20  # at least so many blocks are cut, so that a fifth of them is several
FADED = 0.25  # of the likeness of direct neighbours: where less is left, a block ends
MOST = 1000  # units that are compared, evenly spread in runs; more tell no more


@dataclass(frozen=True)
class Batches:
    """Blocks of pictures that were taken together.

    blocks   paths, in the order of their names; every picture is in exactly one block
    length   units (pictures, or groups of near-duplicates) in a block
    nearer   how much less than any two pictures direct neighbours differ, a share
    """

    blocks: tuple[tuple[Path, ...], ...]
    length: int
    nearer: float

    def of(self) -> dict[Path, str]:
        """{path: its block}."""
        return {path: f"block {number}" for number, block in enumerate(self.blocks) for path in block}

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"neighbours in name differ {self.nearer:.0%} less than other pictures do, so they seem to come in batches: "
            f"{len(self.blocks)} blocks of {self.length} neighbours are held back or trained on as a whole (--group-by or "
            "--holdout PATTERN decide otherwise)"
        ]


def in_order(paths: Sequence[Path]) -> list[Path]:
    """Sorted by folder and name, numbers by value."""
    return sorted(paths, key=lambda path: [_key(part) for part in (str(path.parent), path.name)])


def _key(text: str) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", text)
    return [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces]


def find_batches(
    units: Sequence[Sequence[Path]], likenesses: Mapping[Path, NDArray[np.float16]], seed: int = 0
) -> Batches | None:
    """Blocks of neighbours, where direct neighbours are more alike than chance allows; else None.

    units       pictures that stay together anyway (near-duplicates, or single ones); every picture in exactly one
    likenesses  of each picture, as `copies.likeness` gives them
    """
    rank = {path: place for place, path in enumerate(in_order([path for unit in units for path in unit]))}
    ordered = sorted((sorted(unit, key=rank.__getitem__) for unit in units), key=lambda unit: rank[unit[0]])
    if len(ordered) < LEAST or any(unit[0] not in likenesses for unit in ordered):
        return None
    x = np.stack([likenesses[unit[0]] for unit in ordered[:MOST]]).astype(np.float32)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    apart = np.sqrt(np.maximum(_squared(x), 0))
    if _chance(apart, np.random.default_rng(seed)) > LEVEL:
        return None
    usual = float(apart[np.triu_indices(len(x), 1)].mean())
    nearer = [1 - float(np.diagonal(apart, lag).mean()) / usual for lag in range(1, len(x) // 2)]
    faded = next((lag for lag, share in enumerate(nearer) if share < FADED * nearer[0]), len(nearer))
    length = int(np.clip(faded, 2, max(2, len(ordered) // BLOCKS)))
    starts = range(0, len(ordered), length)
    blocks = tuple(tuple(path for unit in ordered[start : start + length] for path in unit) for start in starts)
    return Batches(blocks, length, nearer[0])


def _squared(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """n d -> mean squared differences n n."""
    square = np.square(x).sum(axis=1)
    return np.asarray((square[:, None] + square - 2 * x @ x.T) / x.shape[1])


def _chance(apart: NDArray[np.float32], rng: np.random.Generator) -> float:
    """n n distances in order -> how often an order at random has neighbours as near to each other as this one has."""
    count = len(apart)
    own = float(np.diagonal(apart, 1).mean())
    nearer = 0
    for _ in range(SHUFFLES):
        order = rng.permutation(count)
        nearer += float(apart[order[:-1], order[1:]].mean()) <= own + 1e-9
    return (1 + nearer) / (1 + SHUFFLES)


def alike(scores: Sequence[float], blocks: Sequence[str], seed: int = 0) -> bool:
    """Whether scores of one block are more alike than chance allows; judged by ranks, so that one outlier decides nothing.

    False where no block has two scores, or all lie in one block.
    """
    x = np.argsort(np.argsort(np.asarray(scores, np.float64), kind="stable"), kind="stable").astype(np.float64)
    _, place = np.unique(np.asarray(blocks), return_inverse=True)
    counts = np.bincount(place)
    if len(counts) < 2 or counts.max() < 2:
        return False

    def between(values: NDArray[np.float64]) -> float:
        return float((np.square(np.bincount(place, values)) / counts).sum())

    own, rng = between(x), np.random.default_rng(seed)
    as_far = sum(between(rng.permutation(x)) >= own - 1e-9 for _ in range(SHUFFLES))
    return (1 + as_far) / (1 + SHUFFLES) <= SCORE_LEVEL
