"""DRAEM: a reconstructive net and a discriminative net trained on forged defects.

Zavrtanik, Kristan, Skocaj: "DRAEM - A discriminatively trained reconstruction embedding for surface anomaly detection",
ICCV 2021, arXiv 2108.07610, and the authors' released code. The first net is trained to restore the good picture from a
forged one; the second gets both and segments the forged pixels.

    paper section                     here
    3.1 reconstructive sub-network    nn.unet.Autoencoder, nn.losses.reconstruction_losses (eq. 1-3: L2 + SSIM)
    3.2 discriminative sub-network    nn.unet.UNet on concat(reconstruction, picture), `segmentation_loss` (focal)
    3.3 simulated anomalies           forge.texture.Perlin
    3.4 detection                     `score_rule`: maximum of the 21 x 21 mean of the map

Profile `paper` keeps the published sizes (97.4 M parameters) and schedule (Adam 1e-4, batch 8, 700 epochs, x 0.2 at 80 %
and 90 %, as in the released code). Profile `cpu` is our reconstruction for two cores; what differs and why:

    half resolution (`stride` 2) and an eighth / a quarter of the widths     2.9 M parameters, about 20 pictures a second
    SSIM on 2 x 2 means                                                     SSIM would otherwise cost a third of a step
    AdamW 2e-3, warm-up and cosine to zero over the budget                  the published schedule needs GPU-hours
    map = logit instead of probability                                      a probability saturates; ties cannot be ranked
    smoothing 11 instead of 21                                              small defects survive it
    no rotation of the picture as augmentation                              parts are usually aligned (assumption)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.forge.texture import Perlin
from flawforge.nn.losses import cosine_schedule, focal_map, masked_mean, reconstruction_losses
from flawforge.nn.unet import Autoencoder, UNet, initialise, state_prior
from flawforge.types import Batch, Evidence, Forger, Method, ScoreRule, Train, TrainingSettings, Turn


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of DRAEM; the comments give the paper's (or its released code's) values."""

    reconstruct_width: Annotated[int, Ge(1)] = 16  # 128
    segment_width: Annotated[int, Ge(1)] = 16  # 64
    stride: Literal[1, 2] = 2  # 1; 2 = both nets work at half resolution
    batch: Annotated[int, Ge(2)] = 8  # 8
    learning_rate: Annotated[float, Gt(0)] = 2e-3  # 1e-4
    weight_decay: Annotated[float, Ge(0)] = 1e-4  # 0
    schedule: Literal["cosine", "steps"] = "cosine"  # "steps": x 0.2 at 80 % and at 90 %
    forge_share: Annotated[float, Interval(ge=0, le=1)] = 0.5  # 0.5
    ssim_stride: Literal[1, 2] = 2  # 1; 2 = SSIM on 2 x 2 means
    focal_gamma: Annotated[float, Ge(0)] = 2.0  # 2
    prior: Annotated[float, Interval(gt=0, lt=1)] = 0.5  # 0.5; share of defective pixels that the untrained segmenter states
    evidence: Literal["logit", "probability"] = "logit"  # "probability"
    smooth: Annotated[int, Ge(1)] = 11  # 21


PAPER = Config(
    reconstruct_width=128,
    segment_width=64,
    stride=1,
    epochs=700,
    learning_rate=1e-4,
    weight_decay=0.0,
    schedule="steps",
    precision="32-true",
    ssim_stride=1,
    evidence="probability",
    smooth=21,
)
TINY = Config(reconstruct_width=4, segment_width=4, batch=4, learning_rate=5e-3, precision="32-true", smooth=3)


class Draem(nn.Module):
    """Both nets. n 3 h w in [0, 1], any size -> Evidence; padded by replication to multiples of 32 * stride."""

    forward_methods = ("reconstruct_and_segment",)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.multiple = 32 * config.stride
        self.evidence = config.evidence
        self.reconstruct = Autoencoder(3, config.reconstruct_width, config.stride)
        self.segment = UNet(6, 2, config.segment_width, config.stride)
        initialise(self)
        state_prior(self.segment.out, config.prior)

    def reconstruct_and_segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """n 3 h w -> (reconstruction n 3 h w, anomaly logit n 1 h w). Two output channels as published; the softmax of
        two channels is the sigmoid of their difference, so the difference is all that matters."""
        h, w = images.shape[-2:]
        pad = (-w % self.multiple, -h % self.multiple)
        if any(pad):
            images = F.pad(images, (0, pad[0], 0, pad[1]), mode="replicate")
        reconstruction = self.reconstruct(images)
        good, bad = self.segment(torch.cat([reconstruction, images], dim=1)).chunk(2, dim=1)
        return reconstruction[..., :h, :w], (bad - good)[..., :h, :w]

    def forward(self, images: Tensor) -> Evidence:
        _, logit = self.reconstruct_and_segment(images)
        surface = logit[:, 0].float()
        if self.evidence == "probability":
            surface = surface.sigmoid()
        return Evidence(surface, surface.flatten(1).amax(dim=1))


def segmentation_loss(logit: Tensor, mask: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Focal loss of the marked pixels (eq. 4), over valid pixels."""
    return masked_mean(focal_map(logit, mask, gamma), valid)


def loss(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """The terms of eq. 5's total loss, with unit weights as published."""
    picture, logit = net.reconstruct_and_segment(batch.forged)
    losses = reconstruction_losses(picture.float(), batch.clean, batch.valid, config.ssim_stride)
    return losses | {"focal": segmentation_loss(logit.float(), batch.mask, batch.valid, config.focal_gamma)}


def step_schedule(progress: float) -> float:
    """The released code's schedule: progress in [0, 1] -> factor of the learning rate, x 0.2 at 80 % and again at 90 %."""
    return 0.2 ** ((progress >= 0.8) + (progress >= 0.9))


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine_schedule, "steps": step_schedule}


def stages(net: Draem, config: Config) -> Sequence[Train]:
    """One stage, one optimiser over both nets."""

    def optimiser(parameters: Sequence[Any]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)

    turn = Turn(
        name="both",
        parameters=lambda module: list(module.parameters()),
        optimiser=optimiser,
        loss=lambda module, batch: loss(module, batch, config),
        schedule=SCHEDULES[config.schedule],
    )
    return [Train("reconstruct and segment", [turn])]


def forger(config: Config) -> Forger:
    """Perlin masks filled with texture; opacity uniform in [0.2, 1] as in the released code."""
    return Perlin()


def score_rule(config: Config) -> ScoreRule:
    """Section 3.4: the maximum of the locally averaged map; higher = more anomalous."""
    return ScoreRule(reduce="max", smooth=config.smooth)


METHOD = Method(
    name="draem",
    title="reconstruction and segmentation, trained on synthetic defects in the shape of Perlin noise",
    paper="Zavrtanik et al., ICCV 2021, arXiv 2108.07610; `cpu` is a reimplementation at half resolution",
    profiles={"cpu": Config(), "paper": PAPER},
    tiny=TINY,
    build=Draem,
    stages=stages,
    forger=forger,
    score=score_rule,
    parts=True,
)
