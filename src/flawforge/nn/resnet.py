"""Residual networks: ResNet-18 and narrow variants, which are trained here, and larger ones for weights from a file.

He, Zhang, Ren, Sun: "Deep residual learning for image recognition", CVPR 2016, arXiv 1512.03385; the wide variant: Zagoruyko
and Komodakis, BMVC 2016, arXiv 1605.07146. Layers are named as in torchvision and timm, so that a file of either fits
without renaming; `load_weights` strips a prefix, ignores the classifier and refuses everything else.

    a method that needs            uses
    pooled features                `ResNet.forward(x)[-1].mean(dim=(2, 3))`
    features of several stages     `ResNet.forward(x)`, strides `ResNet.strides`, channels `ResNet.widths`
    more than three channels       `ResNet(channels=5)`
    crops of 32 or 64 px           `ResNet(stem="small")`: no stride before the first stage

Never read a file in a method's `build`: it runs whenever a model folder is opened, when the file may no longer exist. Read
it in `stages`, which runs only in a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.types import ModelError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # source: torchvision's published weights
COUNT = "num_batches_tracked"  # of a batch norm; not every file has it, and nothing that judges needs it
CLASSIFIERS = ("fc.", "head.", "classifier.")


@dataclass(frozen=True)
class Shape:
    """The architecture of a variant.

    depths      blocks in each of the four stages
    width       channels of the first stage (before a bottleneck's fourfold expansion)
    bottleneck  1x1, 3x3, 1x1 convolutions instead of two 3x3
    inner       channels of a bottleneck's 3x3 convolution, as a multiple of the stage's width
    """

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    width: int = 64
    bottleneck: bool = False
    inner: int = 1


Variant = Literal[
    "resnet18", "resnet18-half", "resnet18-quarter", "resnet18-tiny", "resnet34", "resnet50", "wide_resnet50_2"
]
VARIANTS: dict[str, Shape] = {
    "resnet18": Shape(),
    "resnet18-half": Shape(width=32),
    "resnet18-quarter": Shape(width=16),
    "resnet18-tiny": Shape(depths=(1, 1, 1, 1), width=4),
    "resnet34": Shape(depths=(3, 4, 6, 3)),
    "resnet50": Shape(depths=(3, 4, 6, 3), bottleneck=True),
    "wide_resnet50_2": Shape(depths=(3, 4, 6, 3), bottleneck=True, inner=2),
}


def imagenet(images: Tensor) -> Tensor:
    """n 3 h w in [0, 1] -> n 3 h w, standardised by the mean and deviation of ImageNet, as pretrained weights expect."""
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean[:, None, None]) / std[:, None, None]


class Basic(nn.Module):
    """Basic block: two 3 x 3 convolutions with a skip; n i h w -> n width h/stride w/stride, rounded up."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _way_round(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inside + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """Bottleneck block: 1 x 1, 3 x 3 (with the stride, as in torchvision), 1 x 1; n i h w -> n 4*width h/stride w/stride."""

    def __init__(self, inputs: int, width: int, stride: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width * inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * inner)
        self.conv2 = nn.Conv2d(width * inner, width * inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width * inner)
        self.conv3 = nn.Conv2d(width * inner, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _way_round(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.bn1(self.conv1(x)))
        inside = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(inside)))))
        return F.relu(inside + (x if self.downsample is None else self.downsample(x)))


def _way_round(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(Thinned(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class Thinned(nn.Conv2d):
    """1 x 1 convolution after subsampling rows and columns by `stride`; n i h w -> n o h/stride w/stride, rounded up.

    A strided 1 x 1 convolution gives the same result. But oneDNN's gradient of its weights writes past its memory for
    fewer than 16 channels in channels-last layout (https://github.com/uxlfoundation/oneDNN/issues/6035, seen with torch
    2.13).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.every = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.every, :: self.every])


class ResNet(nn.Module):
    """A residual trunk without its classifier.

    variant   a name in VARIANTS
    channels  of the input, 3 or more, normalised by the caller (see `imagenet`)
    width     channels of the first stage; 0 = the variant's own
    stem      "full": 7 x 7 with stride 2, then a pooling with stride 2, as published;
              "small": 3 x 3 with stride 1 and no pooling, for crops of 32 or 64 px
    stages    how many of the four stages to build, from the first

    widths    channels of each stage's output
    strides   input pixels from one output to the next, of each stage
    """

    def __init__(
        self,
        variant: str = "resnet18",
        channels: int = 3,
        width: int = 0,
        stem: Literal["full", "small"] = "full",
        stages: int = 4,
    ) -> None:
        super().__init__()
        shape = VARIANTS[variant]
        width = width or shape.width
        first, side = (2, 7) if stem == "full" else (1, 3)
        self.conv1 = nn.Conv2d(channels, width, side, first, side // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pooling = 2 if stem == "full" else 1
        self.widths = tuple(width * 2**i * (4 if shape.bottleneck else 1) for i in range(stages))
        self.strides = tuple(first * self.pooling * 2**i for i in range(stages))
        inputs = width
        for i in range(stages):
            blocks: list[nn.Module] = []
            for j in range(shape.depths[i]):
                stride = 2 if i and not j else 1
                common = inputs, width * 2**i, stride
                blocks.append(Bottleneck(*common, shape.inner) if shape.bottleneck else Basic(*common))
                inputs = self.widths[i]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        initialise(self)

    @property
    def layers(self) -> list[nn.Sequential]:
        """The stages, as a typed list."""
        return [part for name, part in self.named_children() if name.startswith("layer") and isinstance(part, nn.Sequential)]

    def stem(self, x: Tensor) -> Tensor:
        """n c h w -> the input of the first stage."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.max_pool2d(x, 3, 2, 1) if self.pooling == 2 else x

    def forward(self, x: Tensor, stages: int | None = None) -> tuple[Tensor, ...]:
        """n c h w of any size -> the outputs of the first `stages` stages (None = all), after ReLU.

        Each is n widths[i] h/strides[i] w/strides[i], rounded up.
        """
        x = self.stem(x)
        outputs = []
        for layer in self.layers[:stages]:
            x = layer(x)
            outputs.append(x)
        return tuple(outputs)


def initialise(net: nn.Module) -> None:
    """He's initial weights: convolutions N(0, 2 / fan_out), batch-norm gains 1, biases 0."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def load_weights(net: ResNet, path: Path) -> None:
    """`put_weights` from a safetensors file. Raises ModelError."""
    put_weights(net, _read(path), str(path))


def put_weights(net: ResNet, tensors: Mapping[str, Tensor], path: str, prefer: str = "") -> None:
    """Fill the trunk from tensors in torchvision's or timm's naming, any one prefix, the classifier ignored.

    path    what an error calls the source of the tensors
    prefer  the prefix to use where there are several trunks

    Where the net has more input channels than the file, the weights of the extra ones are zero, so that the initial outputs
    are those of the file's network. A net with fewer stages takes the first ones. Unless all weights fit, the net is
    unchanged and ModelError is raised.
    """
    tensors = _stripped(tensors, path, prefer)
    target = net.state_dict()
    spare = tuple(f"layer{i}." for i in range(len(net.layers) + 1, 5))
    left = [k for k in tensors if k not in target and not k.startswith((*CLASSIFIERS, *spare))]
    absent = [k for k in target if k not in tensors and not k.endswith(COUNT)]
    if left or absent:
        what = f"lacks {absent[0]}" if absent else f"has {left[0]}, which is no part of it"
        raise ModelError(f"{path} does not fit this network: it {what}; give the weights of the same variant.")
    new = {}
    for key, old in target.items():
        if key not in tensors:
            continue
        value = tensors[key]
        if not torch.isfinite(value).all():
            raise ModelError(f"{path} holds numbers that are not finite in {key}; give another file.")
        if key == "conv1.weight" and value.ndim == 4 and value.shape[1] < old.shape[1]:
            extra = value.new_zeros(value.shape[0], old.shape[1] - value.shape[1], *value.shape[2:])
            value = torch.cat([value, extra], dim=1)
        if value.shape != old.shape:
            raise ModelError(
                f"{path} does not fit this network: {key} is {_size(tensors[key])} and {_size(old)} is needed; "
                "give the weights of the same variant."
            )
        new[key] = value.to(old.dtype)
    net.load_state_dict(target | new)


def variant_of(tensors: Mapping[str, Tensor], prefer: str = "") -> str | None:
    """The name in VARIANTS of the trunk that the tensors hold, whole or its first stages; None = none, or several.

    prefer  as in `put_weights`
    """
    try:
        tensors = _stripped(tensors, "", prefer)
    except ModelError:
        return None
    shapes = {key: value.shape for key, value in tensors.items() if _tells(key)}
    held = {key.partition(".")[0] for key in shapes}
    for variant in VARIANTS:
        with torch.device("meta"):
            whole = ResNet(variant).state_dict()
        if shapes == {key: v.shape for key, v in whole.items() if _tells(key) and key.partition(".")[0] in held}:
            return variant
    return None


def _tells(key: str) -> bool:
    return key.startswith("layer") and not key.endswith(COUNT)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        why = "there is no such file" if not Path(path).is_file() else "it is no safetensors file"
        raise ModelError(
            f"Weights cannot be read from {path}, for {why}; give a file that safetensors.torch.save_file has written."
        ) from error


def classifier(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Weight classes d and bias classes of the linear layer that torchvision and timm call fc; None without one."""
    for key, weight in tensors.items():
        if key.endswith("fc.weight") and weight.ndim == 2 and key[:-6] + "bias" in tensors:
            return weight.float(), tensors[key[:-6] + "bias"].float()
    return None


def _stripped(tensors: Mapping[str, Tensor], path: str, prefer: str) -> dict[str, Tensor]:
    """The tensors under the one prefix that holds a residual trunk, without it."""
    mark = "layer1.0.conv1.weight"
    prefixes = [key[: -len(mark)] for key in tensors if key.endswith(mark)]
    prefixes = [prefer] if prefer in prefixes else prefixes
    if len(prefixes) != 1:
        held = f"{len(prefixes)} residual networks" if prefixes else "no residual network"
        raise ModelError(
            f"{path} holds {held} in torchvision's or timm's naming and exactly one is needed; give a file of one ResNet."
        )
    return {key[len(prefixes[0]) :]: value for key, value in tensors.items() if key.startswith(prefixes[0])}


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def pooled(features: Sequence[Tensor]) -> Tensor:
    """The last stage's mean over its places: n c h w -> n c."""
    return features[-1].mean(dim=(2, 3))
