"""Features of a picture's patches on one grid, their origin, and the map made from patch distances.

here               source
`PatchFeatures`    PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265), section 3.1: 3 x 3 means of two stages, the
                   coarser one upsampled; PaDiM (Defard et al., ICPR 2021, arXiv 2011.08785), section III-A: three, not
                   averaged (ours: `grid`, which resamples them to a coarser grid)
`learning`         CutPaste (Li et al., CVPR 2021, arXiv 2104.04015): features learnt by telling good pictures from
                   forged ones, for use without pretrained weights (nn.pretext)
`start_from`       --trunk: installed weights, another model's folder or a file of weights (nn.trunks)
`blurred`          both papers: a Gaussian over the map
`PatchSettings`, `PatchNet`, `enlarged`, `learn_then`, `take_trunk`: shared by `padim` and `patchcore`
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval, Len
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn import pretext
from flawforge.nn.efficientnet_lite import Lite
from flawforge.nn.trunks import Residual, trunk_of
from flawforge.types import Batch, Collect, ConfigError, Init, Train, TrainingSettings

CLASSES = ("patch", "scar")  # CutPaste's two kinds, beside good


class PatchFeatures(nn.Module):
    """The stages `stages` of a trunk (1 = that of stride 4) on one grid; n 3 h w in [0, 1] -> n d gh gw.

    local          first average each stage over 3 x 3 of its places
    grid           canvas pixels from one patch to the next; 0 = the stride of the first stage used. Finer stages are
                   averaged, coarser ones upsampled
    width, stride  d, and the grid in use; gh = h / stride, rounded up
    given          the weights came from --trunk
    """

    def __init__(self, backbone: str, stages: Sequence[int], local: bool, grid: int = 0) -> None:
        super().__init__()
        self.stages, self.local, self.grid, self.given = tuple(sorted(stages)), local, grid, False
        self.trunk = trunk_of(backbone, self.stages[-1])
        first = self.trunk.first
        if self.stages[0] < first:
            raise ConfigError(f"Stage {self.stages[0]} was given; backbone {backbone} has stages from {first} on.")
        self.places = tuple(s - first for s in self.stages)
        self.width = sum(self.trunk.widths[i] for i in self.places)
        self.stride = int(grid or self.trunk.strides[self.places[0]])
        if not isinstance(self.trunk, Lite):  # that one always comes with weights
            self.head = pretext.head(int(self.trunk.widths[self.places[-1]]), 1 + len(CLASSES), (128,))

    def logits(self, images: Tensor) -> Tensor:
        """n 3 h w -> logits n classes (good, patch, scar): the pretext task of `learning`."""
        return self.head(self.trunk(images)[self.places[-1]].mean(dim=(2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.trunk(images)
        maps = [outputs[i] for i in self.places]
        if self.local:
            maps = [F.avg_pool2d(features, 3, 1, 1) for features in maps]
        size = [-(-side // self.grid) for side in images.shape[-2:]] if self.grid else maps[0].shape[-2:]
        return torch.cat([_laid(features, size) for features in maps], dim=1)

    def places_on(self, canvas: tuple[int, int]) -> int:
        """The number of patches of a canvas (h, w)."""
        return -(-canvas[0] // self.stride) * -(-canvas[1] // self.stride)


@dataclass(frozen=True)
class PatchSettings(TrainingSettings):
    """Settings of every method over `PatchFeatures`, here those of --trunk none; the comments give the papers' values."""

    batch: Annotated[int, Ge(2)] = 12  # no training; CutPaste 32, each also forged
    forge_share: Annotated[float, Interval(gt=0, le=1)] = 1.0  # no training; every forgery comes with its good picture
    backbone: str = "resnet18-quarter"  # "resnet18" or "wide_resnet50_2" with ImageNet's weights
    stages: Annotated[tuple[Annotated[int, Interval(ge=0, le=4)], ...], Len(1, 5)] = (1, 2, 3)  # PaDiM; PatchCore (2, 3)
    grid: Annotated[int, Ge(0)] = 0  # pixels from patch to patch; 0 = as in the first of the stages, the papers' way
    sigma: Annotated[float, Ge(0)] = 4.0  # 4
    learning_rate: Annotated[float, Gt(0)] = 0.03  # no training; CutPaste 0.03
    shift: Annotated[float, Interval(ge=0, le=0.25)] = 0.04  # no training; CutPaste moves inputs, amount not given
    jitter: Annotated[float, Interval(ge=0, le=1)] = 0.1  # no training; likewise for their colours


class PatchNet(nn.Module):
    """Features of patches, the head that trains them where there is no pretrained trunk, and the map made from distances.

    local  see `PatchFeatures`; `said` holds sentences on what the fit decided
    """

    forward_methods = ("logits",)

    def __init__(self, config: PatchSettings, local: bool) -> None:
        super().__init__()
        self.features = PatchFeatures(config.backbone, config.stages, local=local, grid=config.grid)
        self.said: list[str] = []

    def logits(self, images: Tensor) -> Tensor:
        """n 3 h w -> logits n classes of the pretext task."""
        return self.features.logits(images)

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, as sentences."""
        return self.said


def enlarged(distances: Tensor, size: Sequence[int], sigma: float) -> Tensor:
    """Distances n gh gw -> map n h w: upsampled bilinearly, then blurred by a Gaussian of `sigma` pixels."""
    maps = F.interpolate(distances[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
    return blurred(maps, sigma)


def learn_then(net: PatchNet, config: PatchSettings, collect: Collect) -> list[Train | Collect]:
    """Train the features, unless they come from --trunk; then one pass over the good pictures (`collect`)."""
    return [*learning(net.features, config.learning_rate, config.shift, config.jitter), collect]


def take_trunk(net: PatchNet, config: PatchSettings, init: Init) -> list[str]:
    """Load the features of --trunk; returns sentences for the user. Raises ModelError where they do not fit."""
    return start_from(net.features, init)


def _laid(maps: Tensor, size: Sequence[int]) -> Tensor:
    """n d h w -> the same on another grid: means of whole cells where it is coarser, bilinear where it is finer."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.shape[-2] > size[0]:
        every = [-(-own // wanted) for own, wanted in zip(maps.shape[-2:], size, strict=True)]
        ragged = any(own % step for own, step in zip(maps.shape[-2:], every, strict=True))
        return F.avg_pool2d(maps, every, ceil_mode=ragged)
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def learning(features: PatchFeatures, rate: float, shift: float, jitter: float) -> list[Train]:
    """The stage that trains `net.features`; none where they come from --trunk. The trunk ends with the last stage in use.

    `logits` must be among the net's `forward_methods`, and the method's forger must label the CLASSES. Raises ConfigError
    for a trunk that flawforge does not train.
    """
    if features.given:
        return []
    if not isinstance(features.trunk, Residual):
        raise ConfigError("This backbone is not trained here; give its weights with --trunk, or another backbone.")

    def loss(net: Any, batch: Batch) -> dict[str, Tensor]:
        images, kind = pretext.pair(batch)
        logits = net.logits(pretext.varied(images, shift, jitter))
        right = (logits.argmax(dim=1) == kind).float().mean()
        return {"cross_entropy": pretext.told_apart(logits, kind), "told right": right.detach()}

    turn = pretext.classifying("classify", lambda net: net.features, loss, rate=rate, decay=3e-5)
    return [Train("features", [turn])]


def start_from(features: PatchFeatures, init: Init) -> list[str]:
    """Load the weights of --trunk; returns sentences for the user. Raises ModelError where they do not fit."""
    origin = f"a {init.about['method']} model" if init.about else init.source or "weights from outside"
    features.trunk.fill(init, f"--trunk ({origin})")
    features.given = True
    return [f"the features are those of {origin} (sha256 {init.sha256[:12]}); nothing was trained"]


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """n h w -> the same blurred by a Gaussian of `sigma` pixels, truncated at 4 sigma, borders replicated; 0 = no blur."""
    if sigma <= 0:
        return maps
    reach = max(math.ceil(4 * sigma), 1)
    place = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    bell = torch.exp(-(place**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    x = F.pad(maps[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))[:, 0]


def reach(valid: Tensor, size: Sequence[int], pixels: float) -> Tensor:
    """Valid n 1 h w -> n gh gw bool: patches within `pixels` of a judged pixel, which therefore influence the map."""
    side = 2 * math.ceil(pixels) + 1
    near = valid.contiguous()
    if side > 1 and not bool(near.all()):
        near = F.max_pool2d(near, (side, 1), 1, (side // 2, 0))  # along each axis in turn: the same square, far sooner
        near = F.max_pool2d(near, (1, side), 1, (0, side // 2))
    return F.adaptive_max_pool2d(near, tuple(size))[:, 0] > 0
