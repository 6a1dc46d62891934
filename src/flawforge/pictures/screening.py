"""Which of the good pictures may not be good: each is compared with all the others before anything is learnt from them.

    score    how far the strangest patch of a picture lies from the nearest patch of other pictures, by the features of a
             trunk trained on natural images, or by plain pixels where outside weights are forbidden
    limit    above it a picture is proposed to be left out; see `outlier_limit`

A picture is never compared with others of its own part or of its own fold, so a defect that is photographed twice does not
vouch for itself. Nothing here removes a picture; `fit --clean` does, and names each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flawforge.nn.efficientnet_lite import packaged
from flawforge.nn.nearest import distances
from flawforge.nn.patches import PatchFeatures
from flawforge.types import ConfigError

TRUNK, STAGES, GRID = "lite0", (1, 2, 3), 16
FOLDS = 5
PATCHES = 8000  # of the other folds' that a picture is compared with, drawn at random
RATE = 0.05  # share of clean folders in which any picture is proposed, if good scores have no heavier a tail than assumed
LEAST = 10  # pictures below which nothing is proposed: too few to know how good ones vary
SHOWN = 3  # of the most anomalous pictures that are named whether or not they are proposed
TINY = 1e-9


@dataclass(frozen=True)
class Screening:
    """What a comparison of the good pictures with each other found.

    scores     (picture, score), most anomalous first; a score is a distance, in the features' own units
    limit      pictures above it are proposed to be left out; None = there are too few pictures to tell
    features   what they were compared by, for people
    """

    scores: tuple[tuple[Path, float], ...]
    limit: float | None
    features: str

    @property
    def suspects(self) -> tuple[tuple[Path, float], ...]:
        """The pictures above the limit, most anomalous first."""
        return tuple(each for each in self.scores if self.limit is not None and each[1] > self.limit)

    def lines(self) -> list[str]:
        """For people: the suspects, or the most anomalous pictures where there are none."""
        if self.limit is None:
            return [f"{len(self.scores)} good pictures are too few to tell which of them are unlike the others"]
        typical = float(np.median([score for _, score in self.scores]))
        if not self.suspects:
            named = ", ".join(f"{path.name} ({score / typical:.1f})" for path, score in self.scores[:SHOWN])
            return [
                f"no good picture stands out from the others; the most anomalous, as multiples of a typical one's score: "
                f"{named}"
            ]
        lines = [
            f"{len(self.suspects)} of {len(self.scores)} good pictures stand out from all others (of folders with good "
            f"pictures only, 1 in {round(1 / RATE)} has any); look at them, and leave out those that are not good:"
        ]
        lines += [f"  {path}: {score / typical:.1f} times a typical score" for path, score in self.suspects]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "count": len(self.scores),
            "features": self.features,
            "limit": self.limit,
            "rate": RATE,
            "suspects": [{"path": str(path), "score": score} for path, score in self.suspects],
            "most_anomalous": [{"path": str(path), "score": score} for path, score in self.scores[:SHOWN]],
        }


def outlier_limit(values: Sequence[float], rate: float = RATE) -> float | None:
    """The value above which one of `values` stands out from the others; None for fewer than LEAST.

    Measured from the median in units of the median distance of the upper half to it, so that a quarter of outliers hardly
    moves it. The multiple allowed is such that of samples whose distances above the median are exponential (an assumption;
    in `screen`, of the scores' logarithms) a share of `rate` has any value above it, found by simulation for their number.
    """
    x = np.sort(np.asarray(values, np.float64))
    if len(x) < LEAST:
        return None
    middle, unit = _middle_and_unit(x)
    return float(middle + _multiple(len(x), rate) * unit)


def _middle_and_unit(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted values ... n -> their median, and the median of the upper half's distances to it, never zero; both ...."""
    middle = np.median(x, axis=-1)
    above = x[..., x.shape[-1] // 2 :] - middle[..., None]
    return middle, np.maximum(np.median(above, axis=-1), TINY * (1 + np.abs(middle)))


@cache
def _multiple(count: int, rate: float) -> float:
    """By simulation of 4,000 samples: the multiple of the unit that the largest of `count` exceeds at `rate`."""
    rng = np.random.default_rng(0)
    # The lower half mirrors the upper: of it only counts where the median lies among so many values.
    x = np.sort(rng.laplace(size=(4000, count)), axis=1)
    middle, unit = _middle_and_unit(x)
    return float(np.quantile((x[:, -1] - middle) / unit, 1 - rate))


def screen(
    pictures: Iterable[tuple[Path, Tensor, Tensor]],
    groups: Sequence[Sequence[Path]],
    features: Callable[[Tensor], Tensor],
    name: str,
    seed: int = 0,
) -> Screening:
    """Compare each picture with the others.

    pictures  (path, 1 3 h w in [0, 1], where it is judged 1 1 h w), read once and in order
    groups    paths of pictures of one part: they stay in one fold
    features  1 3 h w -> 1 d gh gw; name: what they are, for people
    """
    paths: list[Path] = []
    patches: list[Tensor] = []
    for path, image, valid in pictures:
        with torch.inference_mode():
            description = features(image).float()
        judged = F.adaptive_max_pool2d(valid, description.shape[-2:])[0, 0] > 0
        paths.append(path)
        patches.append(description[0][:, judged].T.half())
    dealt = _folds(paths, groups, seed)
    rng = np.random.default_rng(seed)
    scale = _scale(patches)
    scores = torch.zeros(len(paths))
    for fold in range(FOLDS):
        own = [place for place, each in enumerate(dealt) if each == fold and len(patches[place])]
        others = [patches[place] for place, each in enumerate(dealt) if each != fold]
        if not own or not sum(map(len, others)):
            continue
        bank = _some(torch.cat(others), rng) * scale
        for place in own:
            scores[place] = distances(patches[place].float()[None] * scale, bank).max()
    order = sorted(range(len(paths)), key=lambda place: (-float(scores[place]), str(paths[place])))
    ranked = tuple((paths[place], float(scores[place])) for place in order)
    limit = outlier_limit(np.log(np.maximum([score for _, score in ranked], TINY)).tolist())
    return Screening(ranked, None if limit is None else float(np.exp(limit)), name)


def _folds(paths: Sequence[Path], groups: Sequence[Sequence[Path]], seed: int) -> list[int]:
    """The fold of each picture; a group stays together, folds are dealt at random."""
    first = {path: number for number, path in enumerate(paths)}
    unit = list(range(len(paths)))
    for group in groups:
        known = [first[path] for path in group if path in first]
        for place in known:
            unit[place] = min(unit[each] for each in known)
    own = sorted(set(unit))
    dealt = np.random.default_rng(seed).permutation(len(own)) % FOLDS
    of_unit = {each: int(fold) for each, fold in zip(own, dealt, strict=True)}
    return [of_unit[each] for each in unit]


def _scale(patches: Sequence[Tensor]) -> Tensor:
    """What makes each feature's deviation 1, over all patches; d."""
    count = sum(len(each) for each in patches)
    total = sum((each.double().sum(dim=0) for each in patches), torch.zeros(patches[0].shape[1], dtype=torch.float64))
    mean = total / max(count, 1)
    square = sum(((each.double() - mean).square().sum(dim=0) for each in patches), torch.zeros_like(mean))
    deviation = (square / max(count, 1)).sqrt()
    return (1 / deviation.clamp_min(max(1e-3 * float(deviation.max()), 1e-12))).float()


def _some(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """PATCHES of them at random, float32."""
    if len(patches) > PATCHES:
        patches = patches[torch.from_numpy(rng.choice(len(patches), PATCHES, replace=False))]
    return patches.float()


def features_for(outside_weights: bool) -> tuple[Callable[[Tensor], Tensor], str]:
    """What pictures are compared by, 1 3 h w -> 1 d gh gw, and its name: TRUNK's features, or plain pixels.

    Pixels where outside weights are forbidden, or the package that holds them is missing.
    """
    if outside_weights:
        try:
            weights = packaged(TRUNK)
        except ConfigError:
            return pixel_features, f"pixels, as the weights of {TRUNK} are not installed"
        net = PatchFeatures(TRUNK, STAGES, local=True, grid=GRID).eval().requires_grad_(False)
        net.trunk.fill(weights, TRUNK)
        return lambda image: net(image), f"features of {TRUNK}"
    return pixel_features, "pixels"


def pixel_features(image: Tensor) -> Tensor:
    """1 3 h w -> 1 48 gh gw: of each 16 x 16 pixels the 4 x 4 means, less their common mean, and that mean itself."""
    cells = F.pixel_unshuffle(F.avg_pool2d(image, 4), 4)
    colour = cells.unflatten(1, (3, 16)).mean(dim=2, keepdim=True)
    apart = (cells.unflatten(1, (3, 16)) - colour).flatten(1, 2)
    return torch.cat([apart, colour.flatten(1, 2)], dim=1)
