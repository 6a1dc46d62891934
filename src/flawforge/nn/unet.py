"""Convolutional encoder-decoders after DRAEM's published code (Zavrtanik et al., ICCV 2021).

Both nets keep DRAEM's widths and depths. `stride` 2 is ours: a pixel unshuffle turns the picture into four times the
channels at half the resolution, and a pixel shuffle restores the output, at a quarter of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution, batch norm, ReLU; n inputs h w -> n outputs h w."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def double_conv(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    """Two `conv_bn_relu` in sequence; n inputs h w -> n outputs h w."""
    return nn.Sequential(conv_bn_relu(inputs, middle), conv_bn_relu(middle, outputs))


def upsample(x: Tensor) -> Tensor:
    """n c h w -> n c 2h 2w, bilinear with aligned corners as in DRAEM's code."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def initialise(module: nn.Module) -> None:
    """DRAEM's initial weights: convolutions N(0, 0.02), their biases as PyTorch draws them; batch-norm gains N(1, 0.02),
    biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def state_prior(out: nn.Conv2d, prior: float) -> None:
    """Let an untrained net of two logits state about this probability of the second one (Lin et al. 2017, section 3.3).

    0.5 changes nothing. Good pixels are many, so from there all weights of the last layer first turn towards "good", and the
    net may learn features of good parts alone: then every defect has the same logit, that of no feature. With a rare prior,
    good pixels are right from the beginning, and it learns features of defects.
    """
    assert out.bias is not None
    with torch.no_grad():
        out.bias[len(out.bias) // 2 :] += math.log(prior / (1.0 - prior))


class Autoencoder(nn.Module):
    """DRAEM's reconstructive net: four poolings and no skip connections, through which a defect could be copied.

    n c h w -> n c h w, unbounded; h and w multiples of 16 * stride.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        folded, b = channels * stride * stride, width
        self.fold, self.unfold = nn.PixelUnshuffle(stride), nn.PixelShuffle(stride)
        steps = [(folded, b), (b, 2 * b), (2 * b, 4 * b), (4 * b, 8 * b), (8 * b, 8 * b)]
        self.down = nn.ModuleList(double_conv(i, o, o) for i, o in steps)
        rises = [(8 * b, 4 * b), (4 * b, 2 * b), (2 * b, b), (b, b)]
        self.up = nn.ModuleList(nn.Sequential(conv_bn_relu(i, i), double_conv(i, i, o)) for i, o in rises)
        self.out = nn.Conv2d(b, folded, 3, padding=1)

    def decode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """n c h w -> (the output n c h w, the decoder's features: finest first, the bottleneck last)."""
        x = self.fold(x)
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
        features = [x]
        for block in self.up:
            x = block(upsample(x))
            features.insert(0, x)
        return self.unfold(self.out(x)), features

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(x)[0]


class UNet(nn.Module):
    """DRAEM's discriminative net: five poolings, and one upsampling per level with skip connections.

    n c h w -> n `outputs` h w logits; h and w multiples of 32 * stride.
    """

    def __init__(self, channels: int, outputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        folded, b = channels * stride * stride, width
        self.fold, self.unfold = nn.PixelUnshuffle(stride), nn.PixelShuffle(stride)
        widths = [b, 2 * b, 4 * b, 8 * b, 8 * b, 8 * b]
        self.down = nn.ModuleList(double_conv(i, o, o) for i, o in zip([folded, *widths], widths, strict=False))
        rises = [(8 * b, 8 * b), (8 * b, 4 * b), (4 * b, 2 * b), (2 * b, b), (b, b)]
        skips = [8 * b, 8 * b, 4 * b, 2 * b, b]
        self.rise = nn.ModuleList(conv_bn_relu(i, o) for i, o in rises)
        self.merge = nn.ModuleList(double_conv(o + s, o, o) for (_, o), s in zip(rises, skips, strict=True))
        self.out = nn.Conv2d(b, outputs * stride * stride, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.climb(self.descend(x, {}))

    def descend(self, x: Tensor, beside: Mapping[int, Tensor]) -> list[Tensor]:
        """n c h w -> the encoder's features, finest first. beside: tensors added to them, by level, 0 = finest."""
        x = self.fold(x)
        outputs: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            x = x + beside[level] if level in beside else x
            outputs.append(x)
        return outputs

    def climb(self, outputs: list[Tensor]) -> Tensor:
        """The encoder's features, finest first -> logits n `outputs` h w."""
        x = outputs[-1]
        for rise, merge, skip in zip(self.rise, self.merge, reversed(outputs[:-1]), strict=True):
            x = merge(torch.cat([rise(upsample(x)), skip], dim=1))
        return self.unfold(self.out(x))
