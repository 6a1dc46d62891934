"""Anomaly maps from features: a density at every place of a grid, upsampled by Gaussians; and the detector made of them.

    here          features                                                          grid
    `WindowMap`   of a second network at every window (CutPaste, section A.5)       (side - window) / step + 1
    `StageMap`    of the picture's own network, several stages concatenated         side / step
                  (as in PaDiM)
    `Detector`    a network that tells forged from good, a density of whole pictures for the score, one of the two maps

The first map is the paper's and expensive: 57 x 57 windows of 32 x 32 pixels cost as much as 50 pictures. The second needs
no forward pass besides the picture's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.density import Moments, PictureDensity, PlaceDensity, centred, spread
from flawforge.nn.pretext import Pretext, from_windows, on_one_grid, windows
from flawforge.nn.resnet import pooled
from flawforge.types import Batch, Evidence


@dataclass(frozen=True)
class Form:
    """Settings of both maps.

    dims            features at most, selected at random, the same for all places (PaDiM found this as good as a PCA)
    step            px between places
    sigma           px, of the Gaussian by which each place is upsampled
    keep, surprise  see `density.PlaceDensity`
    """

    dims: int
    step: int
    sigma: float
    keep: Literal["auto", "places", "shared"] = "auto"
    surprise: Literal["density", "distance"] = "density"


class _Picked(nn.Module):
    """A place density on some of the features."""

    picked: Tensor

    def __init__(self, features: int, form: Form) -> None:
        super().__init__()
        self.form = form
        dims = min(form.dims, features)
        self.register_buffer("picked", torch.randperm(features)[:dims].sort().values)
        self.places = PlaceDensity(dims, form.keep, form.surprise)

    def fact(self) -> str:
        """What was chosen, in one sentence's words."""
        return self.places.fact()


class StageMap(_Picked):
    """A map from the outputs of the first stages of a network; `widths` are the channels of those that are used."""

    def __init__(self, widths: Sequence[int], form: Form) -> None:
        super().__init__(sum(widths), form)
        self.stages = len(widths)

    def _features(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        grid = (-(-size[0] // self.form.step), -(-size[1] // self.form.step))
        return on_one_grid(levels[: self.stages], grid).index_select(1, self.picked)

    def look(self, moments: Moments, images: Tensor, levels: Sequence[Tensor], valid: Tensor) -> None:
        """Add good pictures n 3 h w, their stage outputs, valid n 1 h w; a place counts if at least half of it is judged."""
        features = self._features(levels, (valid.shape[-2], valid.shape[-1]))
        share = F.adaptive_avg_pool2d(valid.contiguous(), (features.shape[-2], features.shape[-1]))[:, 0]
        self.places.look(moments, features, (share >= 0.5).float())

    def forward(self, images: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """n 3 h w and the stage outputs -> n h w, higher = more anomalous."""
        size = (images.shape[-2], images.shape[-1])
        step = self.form.step
        return centred(self.places(self._features(levels, size)), step, 4 * step, self.form.sigma, size)


class WindowMap(_Picked):
    """A map from a network that was trained on crops, read at every window of side `window` px."""

    def __init__(self, crop: Pretext, form: Form, window: int) -> None:
        super().__init__(crop.widths[-1], form)
        self.crop, self.window = crop, window

    def _features(self, images: Tensor) -> Tensor:
        cut, grid = windows(images, self.window, self.form.step)
        return from_windows(self.crop.pooled(cut), grid).index_select(1, self.picked)

    def look(self, moments: Moments, images: Tensor, levels: Sequence[Tensor], valid: Tensor) -> None:
        """Add good pictures n 3 h w with valid n 1 h w; windows are computed one picture at a time, to bound memory."""
        for image, judged in zip(images, valid, strict=True):
            cut, grid = windows(judged[None], self.window, self.form.step)
            share = cut.mean(dim=(1, 2, 3)).reshape(1, *grid)
            self.places.look(moments, self._features(image[None]), (share >= 0.5).float())

    def forward(self, images: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """n 3 h w -> n h w, higher = more anomalous; the stage outputs are not used."""
        h, w = images.shape[-2:]
        grid = self.places(self._features(images))
        return spread(grid, self.form.step, self.window, self.form.sigma)[:, :h, :w]


class Detector(nn.Module):
    """A network that tells forged pictures from good ones, and two densities: of its pooled features, and of places.

    n 3 h w in [0, 1] -> Evidence.

    picture  the network; its head is used for training only
    whole    the density of pooled features, which gives the score
    surface  the map; a WindowMap has a network for crops of its own
    given    the trunk's weights from --trunk, before any fine-tuning (`nn.tuning`); not saved
    rivals   the two networks that a gate compares, passed from one of its stages to the next
    stands   whether the gate kept the fine-tuned weights
    said     sentences on what the gate decided
    """

    forward_methods = ("classify", "classify_crops")

    def __init__(self, picture: Pretext, whole: PictureDensity, surface: StageMap | WindowMap) -> None:
        super().__init__()
        self.picture, self.whole, self.surface = picture, whole, surface
        self.given: dict[str, Tensor] = {}
        self.rivals: list[Any] = []
        self.stands = False
        self.said: list[str] = []

    def classify(self, images: Tensor) -> Tensor:
        """n 3 h w -> logits n classes, the first good."""
        return self.picture.logits(images)

    def classify_crops(self, images: Tensor) -> Tensor:
        """n 3 s s -> logits n 2: good, forged. Only with a WindowMap."""
        assert isinstance(self.surface, WindowMap)
        return self.surface.crop.logits(images)

    def forward(self, images: Tensor) -> Evidence:
        levels = self.picture.levels(images)
        return Evidence(self.surface(images, levels), self.whole(pooled(levels)))

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, as sentences."""
        return [*self.said, self.whole.fact(), self.surface.fact()]


class Collected(NamedTuple):
    """What both densities are fitted to: pooled features n d in batches, and sums for every place."""

    pictures: list[Tensor]
    places: Moments


def begin(net: Detector) -> Collected:
    """An empty state."""
    return Collected([], Moments())


def look(net: Detector, collected: Collected, batch: Batch) -> None:
    """Add a batch of good pictures to both densities."""
    levels = net.picture.levels(batch.clean)
    net.whole.look(collected.pictures, pooled(levels))
    net.surface.look(collected.places, batch.clean, levels, batch.valid)


def fit_densities(net: Detector, collected: Collected) -> None:
    """Fit both densities to all good pictures that were added."""
    net.whole.finish(collected.pictures)
    net.surface.places.finish(collected.places)
