"""AnoSeg: an adversarially trained segmentation network with coordinate channels, and a detector that reuses its map.

Song, Kong, Park, Kim, Kang: "AnoSeg: Anomaly segmentation network using self-supervised learning", arXiv 2110.03396. We
worked from a transcript of sections 3, A and B and of their figures; docs/methods/anoseg.md states line by line what is
known, measured from a figure, or assumed. No reference implementation exists. In the paper's map 1 means normal: `normal`
below is that map; Evidence is inverted, so that higher is more anomalous.

    paper                                  here
    fig. 3   hard augmentation             forge.hard_augment, `forger`
    fig. 4   coordinate channels           `coordinates`
    tab. 6   generator, two decoders       `Generator`: `Trunk` or nn.resnet on 5 channels, `Decoder` twice
    tab. 6   discriminator                 `Discriminator`
    3.2      L_Seg, L_Re, L_Adv            `segmentation_loss`, `rebuild_loss`, `adversarial_loss`
    3.4, A   detector on the frozen net    `Detector`, `classification_loss`, `feature_loss`
    3.4      image score, alpha, beta      `detector_score`

Every batch holds each of its pictures twice, good and forged: x_Seg = {x_Nor, x_Ano}, in equal parts.

Profile `paper` keeps the published layers. Profile `cpu` is ours: the encoder is a trunk pretrained on ImageNet (--trunk
none: a ResNet-18 of half the width, trained from scratch); the decoders have a fifth of the width and work at a reduced
resolution; the map's decoder has skip connections from the encoder's finer stages (`skips`); spectral norm and a lower
learning rate hold the critic back; the map is a logit; L_Seg is balanced. docs/methods/anoseg.md explains each choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from flawforge.forge.paste import HardAugment
from flawforge.nn import collapse
from flawforge.nn.efficientnet_lite import Lite, standardised
from flawforge.nn.losses import cosine_schedule, drops, masked_mean
from flawforge.nn.resnet import ResNet, imagenet, put_weights
from flawforge.types import (
    Batch,
    Evidence,
    Forger,
    Init,
    Method,
    ModelError,
    ScoreRule,
    Stage,
    Train,
    TrainingSettings,
    Turn,
)

Share = Annotated[float, Interval(ge=0, le=1)]
Weight = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of AnoSeg (--trunk none); the comments give the paper's value, or "unknown" and what `paper` assumes."""

    backbone: Literal["", "lite0", "lite1", "lite2"] = ""  # ""; the trunk that takes the place of the ResNet-18
    encoder_rate: Weight = 0.1  # ours; a trunk's learning rate as a multiple of the maker's, 0 = it stays as it is
    encoder_width: Annotated[int, Ge(1)] = 32  # 64 (ResNet-18)
    decoder_width: Annotated[int, Ge(1)] = 24  # 128
    critic_width: Annotated[int, Ge(1)] = 16  # 64
    picture_stride: Literal[1, 2, 4] = 4  # 1; 4 = the picture's decoder ends at a quarter of the resolution, unfolded
    map_stride: Literal[1, 2, 4] = 2  # 1; the same of the map's decoder
    skips: bool = True  # False; True = the map's decoder sees the encoder's stages of strides 16, 8 and 4
    coordinates: bool = True  # True
    critic_side: Literal[32, 64, 128, 256] = 128  # 256, the pictures' own side; others are resized to it
    critic_norm: Literal["batch", "spectral"] = "spectral"  # "batch"
    critic_rate: Annotated[float, Gt(0)] = 0.5  # unknown: 1; the critic's learning rate as a multiple of the maker's
    forging: Literal["hard", "rotate_permute", "cutpaste"] = "hard"  # "hard"; the others leave out jitter, or all three
    masked: bool = True  # True; False = forged pixels are rebuilt like any other
    segment: Annotated[float, Gt(0)] = 1.0  # unknown: 1
    balance: bool = True  # False; True = in L_Seg, all forged pixels weigh as much as all normal ones
    rebuild: Weight = 1.0  # unknown: 1
    adversarial: Weight = 0.1  # unknown: 0.1; 0 = no critic
    score: Literal["detector", "top"] = "top"  # "detector"; "top" = mean of the map's highest `top`, and no detector
    detector_share: Annotated[float, Interval(gt=0, lt=1)] = 0.33  # unknown: 0.5; the detector's part of the budget
    detector_adversarial: Weight = 1.0  # unknown: 1
    detector_features: Weight = 1.0  # unknown: 1
    detector_rebuild: Annotated[float, Gt(0)] = 1.0  # unknown: 1
    class_head: bool = False  # False (the formula shares D); True = the classification has its own output
    alpha: Weight = 1.0  # 1
    beta: Weight = 0.1  # 0.1
    batch: Annotated[int, Ge(2)] = 4  # unknown: 8; so many good pictures and as many forgeries of them
    forge_share: Share = 1.0  # 1: every picture is seen good and forged
    epochs: Annotated[float, Ge(0)] = 0.0  # unknown: 500; 0 = the budget is given in minutes or steps
    learning_rate: Annotated[float, Gt(0)] = 1e-3  # unknown: 1e-4
    schedule: Literal["cosine", "flat"] = "cosine"  # unknown: "flat"
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"  # unknown: "32-true"
    check_every: Annotated[int, Ge(0)] = 10  # ours: steps between looks for a collapse; 0 = never look
    patience: Annotated[int, Ge(1)] = 500  # ours: steps of a stage before a collapse may stop the fit
    evidence: Literal["logit", "probability"] = "logit"  # "probability"
    smooth: Annotated[int, Ge(1)] = 5  # unknown: 4; mean filter on the map before it becomes a score
    top: Annotated[float, Interval(gt=0, le=1)] = 0.001  # ours
    mark_rate: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # ours; good pictures that may get a mark, 0 = as false alarms


CPU = Config(backbone="lite0", mark_rate=0.1)
PAPER = Config(
    encoder_width=64,
    decoder_width=128,
    critic_width=64,
    picture_stride=1,
    map_stride=1,
    skips=False,
    critic_side=256,
    critic_norm="batch",
    critic_rate=1.0,
    balance=False,
    score="detector",
    detector_share=0.5,
    batch=8,
    epochs=1000,
    learning_rate=1e-4,
    schedule="flat",
    precision="32-true",
    patience=3000,
    evidence="probability",
    smooth=4,
)
TINY = Config(
    encoder_width=4,
    decoder_width=2,
    critic_width=2,
    critic_side=32,
    score="detector",
    learning_rate=5e-3,
    precision="32-true",
    check_every=0,
    smooth=3,
)


def coordinates(images: Tensor) -> Tensor:
    """n c h w -> n 2 h w: the row and the column of each pixel, from -1 to 1 (fig. 4)."""
    n, _, h, w = images.shape
    rows = torch.linspace(-1, 1, h, dtype=images.dtype, device=images.device).view(1, 1, h, 1).expand(n, 1, h, w)
    columns = torch.linspace(-1, 1, w, dtype=images.dtype, device=images.device).view(1, 1, 1, w).expand(n, 1, h, w)
    return torch.cat([rows, columns], dim=1)


class Decoder(nn.Module):
    """Table 6: five pairs of a 3 x 3 and a transposed convolution, then two convolutions; no activation at the end.

    x n `inputs` h/32 w/32, finer: the encoder's outputs at strides 16, 8, 4 or nothing -> n `outputs` h w.
    With `stride` 2 or 4 the last one or two pairs are left out, and a pixel shuffle restores the resolution.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, finer: Sequence[int] = ()) -> None:
        super().__init__()
        widths = [4 * width, 2 * width, width, width, width][: 6 - stride.bit_length()]
        skips = [0, *finer, *[0] * 5]
        self.refine, self.rise = nn.ModuleList(), nn.ModuleList()
        for i, wide in enumerate(widths):
            self.refine.append(_conv_bn_relu(nn.Conv2d(inputs + skips[i], wide, 3, 1, 1, bias=False), wide))
            self.rise.append(_conv_bn_relu(nn.ConvTranspose2d(wide, wide, 4, 2, 1, bias=False), wide))
            inputs = wide
        last = nn.Conv2d(inputs + skips[len(widths)], width, 3, 1, 1, bias=False)
        self.end = nn.Sequential(_conv_bn_relu(last, width), nn.Conv2d(width, outputs * stride * stride, 3, 1, 1))
        self.unfold, self.skips = nn.PixelShuffle(stride), len(finer)

    def forward(self, x: Tensor, finer: Sequence[Tensor] = ()) -> Tensor:
        for i, (refine, rise) in enumerate(zip(self.refine, self.rise, strict=True)):
            x = rise(refine(x))
            if i < self.skips:
                x = torch.cat([x, finer[i]], dim=1)
        unfolded: Tensor = self.unfold(self.end(x))
        return unfolded


def _conv_bn_relu(layer: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class Trunk(Lite):
    """An EfficientNet-Lite as the encoder: its stages of strides 4, 8, 16 and 32, standardised, and `extra` channels at 32.

    A trunk has no filters for the coordinate channels, so they are concatenated to its output, where untrained layers begin.
    """

    def __init__(self, variant: str, extra: int) -> None:
        super().__init__(variant)
        self.widths = (*self.widths[1:-1], self.widths[-1] + extra)

    def read(self, images: Tensor, extra: Tensor) -> list[Tensor]:
        """n 3 h w in [0, 1] and n e h w, sides multiples of 32 -> each stage, n widths[i] h/strides[i] w/strides[i]."""
        with torch.autocast(images.device.type, enabled=False):  # depthwise convolutions are far slower in bfloat16
            *finer, deep = (standardised(each) for each in self(images.float())[1:])
        return [*finer, torch.cat([deep, F.avg_pool2d(extra, 32)], dim=1) if extra.shape[1] else deep]


class Generator(nn.Module):
    """Table 6's generator: an encoder, a decoder for the picture and, with `marks`, a second one for the map.

    images n 3 h w in [0, 1], extra n e h w -> (picture n 3 h w in [0, 1], logit of "normal" n 1 h w or None); any h, w.
    The encoder is a ResNet-18; with `marks` it is the trunk, where one is configured.
    """

    def __init__(self, extra: int, marks: bool, config: Config) -> None:
        super().__init__()
        self.encoder: ResNet | Trunk
        if config.backbone and marks:
            self.encoder = Trunk(config.backbone, extra)
        else:
            self.encoder = ResNet("resnet18", channels=3 + extra, width=config.encoder_width)
        deep, width = self.encoder.widths[-1], config.decoder_width
        finer = self.encoder.widths[2::-1] if config.skips else ()
        self.picture = Decoder(deep, width, 3, config.picture_stride)
        self.mark = Decoder(deep, width, 1, config.map_stride, finer) if marks else None

    def forward(self, images: Tensor, extra: Tensor) -> tuple[Tensor, Tensor | None]:
        h, w = images.shape[-2:]
        x = torch.cat([images, extra], dim=1)
        if h % 32 or w % 32:
            x = F.pad(x, (0, -w % 32, 0, -h % 32), mode="replicate")
        images, extra = x[:, :3], x[:, 3:]
        if isinstance(self.encoder, Trunk):
            *finer, deep = self.encoder.read(images, extra)
        else:
            *finer, deep = self.encoder(torch.cat([imagenet(images), extra], dim=1))
        picture = self.picture(deep)[..., :h, :w].float().sigmoid()
        if self.mark is None:
            return picture, None
        return picture, self.mark(deep, finer[::-1])[..., :h, :w].float()


class Discriminator(nn.Module):
    """Table 6's discriminator of a picture and its map of normal pixels: strided convolutions from `side` px to one place.

    picture n 3 h w, normal n 1 h w, both in [0, 1] -> (logit n `outputs`, features n f: the layer before it, 2 x 2 places).
    """

    def __init__(self, config: Config, outputs: int = 1) -> None:
        super().__init__()
        self.side = config.critic_side
        width, halvings = config.critic_width, config.critic_side.bit_length() - 1
        widths = [width, 2 * width, 4 * width, *[8 * width] * (halvings - 5), 2 * width]
        layers: list[nn.Module] = []
        for i, (inputs, wide) in enumerate(zip([4, *widths], widths, strict=False)):
            batch = config.critic_norm == "batch" and i > 0
            layers += [self._halve(inputs, wide, config, bias=not batch)]
            layers += [nn.BatchNorm2d(wide)] if batch else []
            layers += [nn.LeakyReLU(0.2)]
        self.features, self.last = nn.Sequential(*layers), self._halve(widths[-1], outputs, config)

    @staticmethod
    def _halve(inputs: int, outputs: int, config: Config, bias: bool = True) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=bias)
        return spectral_norm(layer) if config.critic_norm == "spectral" else layer

    def forward(self, picture: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([picture, normal], dim=1)
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)
        features = self.features(x)
        return self.last(features).float().flatten(1), features.float().flatten(1)


class AnoSeg(nn.Module):
    """Generator and discriminator, and the detector's pair of the same. n 3 h w in [0, 1], any h and w -> Evidence.

    The submodules are `maker` and `critic`, as saved models name them.
    """

    forward_methods = ("generate", "discriminate", "detector_generate", "detector_discriminate", "outlined_and_caught")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.maker = Generator(2 if config.coordinates else 0, True, config)
        self.critic = Discriminator(config) if config.adversarial else None
        with_detector = config.score == "detector"
        self.detector = Generator(1, False, config) if with_detector else None
        self.detector_critic = Discriminator(config, 2 if config.class_head else 1) if with_detector else None
        self.watch, self.detector_watch = collapse.Watch(), collapse.Watch()
        self.left: tuple[Tensor, ...] = ()  # from the maker's turn to the critic's; empty between steps

    def mark(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructed picture n 3 h w in [0, 1], and the logit of "normal" n 1 h w."""
        picture, logit = self.maker(images, coordinates(images) if self.config.coordinates else images[:, :0])
        return picture, logit

    def forward(self, images: Tensor) -> Evidence:
        _, logit = self.mark(images)
        surface = -logit[:, 0]
        if self.config.evidence == "probability":
            surface = surface.sigmoid()
        if self.detector is None or self.detector_critic is None:
            return Evidence(surface, surface.flatten(1).amax(dim=1))
        normal = logit.sigmoid()
        picture, _ = self.detector(images, normal)
        _, good = self.detector_critic(images, torch.ones_like(normal))
        _, found = self.detector_critic(picture, normal)
        return Evidence(surface, detector_score(good, found, images, picture, self.config))

    def generate(self, x: Tensor, normal: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reconstruction, map of normal pixels, and the critic's logit of the two; the critic's weights get no gradient."""
        picture, logit = self.mark(x)
        found = logit.sigmoid()
        if self.critic is None:
            return picture, found, None
        pair = _inside(picture, found, x, normal, valid)
        self.left = (pair[0].detach(), pair[1].detach())
        with _frozen(self.critic):
            return picture, found, self.critic(*pair)[0]

    def discriminate(self, x: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """The critic's logits of the real pairs (x, A), and of the pairs that the generator made earlier in this step."""
        assert self.critic is not None
        fake, self.left = self.left, ()
        return self.critic(x, normal)[0], self.critic(*fake)[0]

    def detector_generate(self, good: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstructed x_Nor, the critic's logit of the generated pair, and its features of that and of the real pair."""
        assert self.detector is not None
        assert self.detector_critic is not None
        ones = torch.ones_like(valid)
        with torch.no_grad():
            normal = self.mark(good)[1].sigmoid()
        picture, _ = self.detector(good, normal)
        pair = _inside(picture, normal, good, ones, valid)
        self.left = (pair[0].detach(), pair[1].detach())
        with _frozen(self.detector_critic):
            fake, found = self.detector_critic(*pair)
            _, wanted = self.detector_critic(good, ones)
        return picture, fake, found, wanted

    def detector_discriminate(self, good: Tensor, forged: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The detector's critic on (x_Nor, ones), the pair generated from x_Nor, and (x_Ano, A_Ano): n `outputs` each."""
        assert self.detector_critic is not None
        fake, self.left = self.left, ()
        pairs = ((good, torch.ones_like(mask)), fake, (forged, 1 - mask))
        real, made, anomalous = (self.detector_critic(*pair)[0] for pair in pairs)
        return real, made, anomalous

    def outlined_and_caught(self, good: Tensor, forged: Tensor, mask: Tensor, valid: Tensor) -> tuple[Tensor, Tensor] | None:
        """`collapse.outlined_and_caught` of this net; a method, so that distributed training can wrap it."""
        return collapse.outlined_and_caught(self, good, forged, mask, valid)

    def facts(self) -> list[str]:
        """What the fit measured of its own training, for the model's notes."""
        sentences = (
            (self.watch.outlined, "the map was higher inside the outline for {} of the last forgeries"),
            (self.watch.critic, "the critic was right about {} of the last pairs"),
            (self.detector_watch.caught, "the detector scored {} of the last forgeries above their good pictures"),
            (self.detector_watch.critic, "its critic was right about {} of the last pairs"),
        )
        told = [sentence.format(f"{float(share):.0%}") for share, sentence in sentences if share >= 0]
        return ["; ".join(told)] if told else []


def _inside(picture: Tensor, normal: Tensor, x: Tensor, real: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A made pair as the critic may see it: where nothing is judged it is the real one, so that no border gives it away."""
    return picture * valid + x * (1 - valid), normal * valid + real * (1 - valid)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module and stay out of its weights, which saves a third of its work."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def segmentation_loss(found: Tensor, normal: Tensor, valid: Tensor, balance: bool = False) -> Tensor:
    """L_Seg = E || A - A_hat ||_1, n 1 h w in [0, 1], over valid pixels. `balance`: the mean of the two classes' means.

    Balancing is ours. About 4 % of the pixels are forged and L1 is minimised by the median, so without it the net answers
    "normal" until it is nearly certain.
    """
    error = (found - normal).abs()
    if balance:
        return (masked_mean(error, valid * normal) + masked_mean(error, valid * (1 - normal))) / 2
    return masked_mean(error, valid)


def rebuild_loss(picture: Tensor, x: Tensor, normal: Tensor, valid: Tensor) -> Tensor:
    """L_Re = E || x A - x_hat A ||_1 / E || A ||_1 with the true A, so over good pixels alone. n 3 h w, masks n 1 h w."""
    return masked_mean((picture - x).abs(), normal * valid)


def adversarial_loss(logit: Tensor, real: bool) -> Tensor:
    """-log D where `real`, else -log(1 - D), of logits: L_Adv's terms of the critic and of the non-saturating generator."""
    return F.softplus(-logit if real else logit).mean()


def classification_loss(real: Tensor, anomalous: Tensor, forged: Tensor) -> Tensor:
    """L_cls: (x_Nor, ones) is normal, (x_Ano, A_Ano) is not; `forged` n is 1 where the picture was in fact forged."""
    told = F.softplus(anomalous) * forged
    return adversarial_loss(real, True) + told.sum() / forged.sum().clamp_min(1)


def feature_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """L_fea = E || f(x, ones) - f(x_hat, A_hat) ||^2, features n f; mean over f, so that its weight does not depend on f."""
    return (found - wanted).square().mean()


def detector_score(good: Tensor, found: Tensor, images: Tensor, picture: Tensor, config: Config) -> Tensor:
    """alpha MSE(f(x, ones), f(x_hat, A_hat)) + beta MSE(x, x_hat), n (section 3.4); higher = more anomalous."""
    features = (good - found).square().mean(dim=1)
    return config.alpha * features + config.beta * (images - picture).square().flatten(1).mean(dim=1)


def pairs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """x_Seg 2n 3 h w and A_Seg 2n 1 h w: good pictures with ones, then forgeries with 0 inside the outline; and `valid`."""
    normal = 1 - torch.cat([torch.zeros_like(batch.mask), batch.mask])
    return torch.cat([batch.clean, batch.forged]), normal, torch.cat([batch.valid, batch.valid])


def _accuracy(real: Tensor, *fakes: Tensor) -> Tensor:
    right = [(real > 0).float().mean(), *((fake < 0).float().mean() for fake in fakes)]
    return torch.stack(right).mean().detach()


def discriminator_losses(net: Any, batch: Batch) -> dict[str, Tensor]:
    """max_D of L_Adv, and the critic's accuracy."""
    real, fake = net.discriminate(*pairs(batch)[:2])
    accuracy = _accuracy(real, fake)
    net.watch.see("critic", accuracy, 0.98)
    return {"critic": adversarial_loss(real, True) + adversarial_loss(fake, False), "critic accuracy": accuracy}


def generator_losses(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """L_Seg, L_Re and min_G of L_Adv, each times its weight. Raises TrainingError where the map has collapsed."""
    x, normal, valid = pairs(batch)
    picture, found, fake = net.generate(x, normal, valid)
    losses = {"segment": config.segment * segmentation_loss(found, normal, valid, config.balance)}
    if config.rebuild:
        wanted = normal if config.masked else torch.ones_like(normal)
        losses["rebuild"] = config.rebuild * rebuild_loss(picture, x, wanted, valid)
    if fake is not None:
        losses["adversarial"] = config.adversarial * adversarial_loss(fake, True)
    return losses | collapse.check(net, net.watch, batch, "outlined", config.check_every, config.patience)


def detector_discriminator_losses(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """max_D of L_Adv^AD on normal pictures, and L_cls. With `class_head`, the second output is the classifier's."""
    real, fake, anomalous = net.detector_discriminate(batch.clean, batch.forged, batch.mask)
    forged = batch.mask.flatten(1).amax(dim=1)
    accuracy = _accuracy(real[:, :1], fake[:, :1])
    net.detector_watch.see("critic", accuracy, 0.98)
    return {
        "critic": adversarial_loss(real[:, :1], True) + adversarial_loss(fake[:, :1], False),
        "classes": classification_loss(real[:, -1], anomalous[:, -1], forged),
        "critic accuracy": accuracy,
    }


def detector_losses(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """min_G of L_Adv^AD, L_fea and L_Re on normal pictures. Raises TrainingError where the score has collapsed."""
    picture, fake, found, wanted = net.detector_generate(batch.clean, batch.valid)
    ones = torch.ones_like(batch.mask)
    losses = {"rebuild": config.detector_rebuild * rebuild_loss(picture, batch.clean, ones, batch.valid)}
    if config.detector_adversarial:
        losses["adversarial"] = config.detector_adversarial * adversarial_loss(fake, True)
    if config.detector_features:
        losses["features"] = config.detector_features * feature_loss(found, wanted)
    return losses | collapse.check(net, net.detector_watch, batch, "caught", config.check_every, config.patience)


def stages(net: AnoSeg, config: Config) -> Sequence[Stage]:
    """The map's net alternates with its critic; then the detector with its own, the map's net frozen; then a final check."""
    schedule = cosine_schedule if config.schedule == "cosine" else drops(1.0, ())

    slow = {id(p) for p in net.maker.encoder.parameters()} if config.backbone else set()
    still = bool(slow) and not config.encoder_rate

    def turn(name: str, part: str, loss: Any, factor: float = 1.0) -> Turn:
        def parameters(module: Any) -> list[Any]:
            return [p for p in module.get_submodule(part).parameters() if not (still and id(p) in slow)]

        def optimiser(parameters: Sequence[Any]) -> torch.optim.Optimizer:
            rate = config.learning_rate * factor
            groups = [{"params": [p for p in parameters if id(p) not in slow], "lr": rate}]
            trunk = [p for p in parameters if id(p) in slow]
            groups += [{"params": trunk, "lr": rate * config.encoder_rate}] if trunk else []
            return torch.optim.Adam(groups, betas=(0.5, 0.999))

        return Turn(name, parameters, optimiser, loss, schedule)

    first = [turn("generator", "maker", partial(generator_losses, config=config))]
    if config.adversarial:
        first.append(turn("discriminator", "critic", discriminator_losses, config.critic_rate))
    last = [collapse.last_look(forger(config))] if config.check_every else []
    trunk = ("maker.encoder",) if still else ()
    if config.score != "detector":
        return [Train("mark", first, trunk), *last]
    second = [
        turn("detector", "detector", partial(detector_losses, config=config)),
        turn("discriminator", "detector_critic", partial(detector_discriminator_losses, config=config), config.critic_rate),
    ]
    frozen = ("maker", "critic") if config.adversarial else ("maker",)
    share = config.detector_share
    return [Train("mark", first, trunk, share=1 - share), Train("detect", second, frozen, share=share), *last]


def start(net: AnoSeg, config: Config, init: Init) -> list[str]:
    """Take the encoder from --init: a flawforge model, or a ResNet in torchvision's or timm's naming. The filters of the
    coordinate channels start at zero.

    Raises ModelError where the weights do not fit, or where the encoder is a trunk.
    """
    if isinstance(net.maker.encoder, Trunk):
        raise ModelError("--init gives a ResNet's weights and a trunk has its place; add --trunk none, or leave out --init.")
    put_weights(net.maker.encoder, init.tensors, "--init", prefer="maker.encoder.")
    return ["the encoder starts from --init; decoders, critics and the detector start from nothing"]


def take_trunk(net: AnoSeg, config: Config, init: Init) -> list[str]:
    """The encoder from --trunk."""
    assert isinstance(net.maker.encoder, Trunk), "a trunk was chosen, so the settings have one"
    origin = f"a {init.about['method']} model" if init.about else init.source or "weights from outside"
    net.maker.encoder.fill(init, f"--trunk ({origin})")
    what = f"learns on at {config.encoder_rate:g} of the rate" if config.encoder_rate else "is not trained"
    return [f"the encoder starts from {origin} (sha256 {init.sha256[:12]}) and {what}; all else starts from nothing"]


def forger(config: Config) -> Forger:
    """Figure 3's hard augmentation, or a reduced form for the ablation."""
    return {
        "hard": HardAugment(),
        "rotate_permute": HardAugment(jitter=(0.0, 0.0, 0.0, 0.0)),
        "cutpaste": HardAugment(chance=0.0),
    }[config.forging]


def score_rule(config: Config) -> ScoreRule:
    """Section 3.4's score by the net itself; or the mean of the map's highest values."""
    return ScoreRule("network" if config.score == "detector" else "top", config.smooth, config.top, config.mark_rate or None)


METHOD = Method(
    name="anoseg",
    title="segmentation with an adversary and coordinates, then a detector that reuses the map",
    paper="Song et al., arXiv 2110.03396, from a transcript (see docs/methods/anoseg.md); `cpu` has narrower layers",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=AnoSeg,
    stages=stages,
    forger=forger,
    score=score_rule,
    start=start,
    trunk=take_trunk,
    scratch=Config(),
)
