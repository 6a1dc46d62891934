"""SGSF: defects forged in the salient region, and a segmenter guided by features of good pictures.

Xing, Sun, Li: "Self-supervised guided segmentation framework for unsupervised anomaly detection", arXiv 2209.12440 (SGSF),
and its journal version by Xing, Sun, Zeng, Li, IEEE TCSVT 34(6), 2024 (NIGSF). Only the two abstracts and a reader's note on
the journal version were available to us, and no code: this is a reconstruction, not a reproduction. docs/methods/sgsf.md
states for every part whether it is known, read from the note, or assumed.

    part of the paper                                     here
    SAM: masks inside the salient region                  `forger`: forge.salient.SaliencyPerlin, forged : good = 3 : 1
    NGN, contrast set by cosine similarity                `Sgsf.retrieve`, among the references that `stages` chooses first
    NGN, normal feature extractor (L2 + SSIM)             nn.unet.Autoencoder, nn.losses.reconstruction_losses
    fusion: concatenate and convolve at each scale        `GuidedUNet`
    features pretrained on ImageNet (assumed)             nn.trunks: for retrieval, and for guiding at strides 4, 8 and 16
    segmentation loss, focal                              `loss`
    image score: highest pixel, no smoothing              `score_rule` (profile cpu: mean filter)

`guidance` offers both readings. "reference" (journal version): the guide reconstructs a good picture that is similar to the
one to be judged, and its decoder's features go to the segmenter. "denoise" (our reading of the first version): the guide
restores the picture itself, without a reference. "both" concatenates the features of the two. "none": a plain U-Net, the
ablation.

By default the contrast set is retrieved by the features of EfficientNet-Lite0 (`look`), which is not trained: those of
stride 16, each channel standardised, as means over 2 x 2 places. The same features of the picture, and their absolute
difference from the reference's, join the guide's at strides 4, 8 and 16, reduced to NARROW channels by 1 x 1 convolutions.

Ours: with --trunk none the retrieval features are the good pictures at an eighth of their size. Either kind is projected on
its leading right singular vectors, the linear autoencoder in closed form (Eckart and Young 1936). It preserves position, so
that a reference has the pose of the part, and it is fixed while the nets train, so that keys are computed once. At most
`references` good pictures are kept, chosen greedily to maximise the mean similarity of all good pictures to their nearest
reference (facility location; Nemhauser, Wolsey and Fisher 1978). They are buffers: part of the model folder and of any
export. In training a picture is never its own reference, or the segmenter would only learn to subtract the two.

Profile `cpu` differs from profile `paper`: half resolution (`stride` 2), narrow nets, 32 references, AdamW with warm-up and
cosine over the budget, logit instead of probability (it never saturates), a small mean filter before the maximum; the
segmenter also gets the reference itself where references agree in detail (`show`, decided by the good pictures, see
`left_of_detail`), the fusion is `residual`, and forgeries are smaller and simpler. Over a trunk the segmenter begins with
rare defects (`prior`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.forge.salient import SaliencyPerlin
from flawforge.forge.texture import Perlin
from flawforge.nn.losses import cosine_schedule, drops, focal_map, masked_mean, reconstruction_losses
from flawforge.nn.trunks import trunk_of
from flawforge.nn.unet import Autoencoder, UNet, conv_bn_relu, initialise, state_prior
from flawforge.types import Batch, Collect, Evidence, Forger, Init, Method, ScoreRule, Train, TrainingSettings, Turn

STAGES = 3  # of the trunk: strides 4, 8 and 16
NARROW = 32  # channels that a stage of the trunk is brought to before the fusion, by a 1 x 1 convolution
LEAST = 1e-3  # of the largest deviation: no feature of the trunk counts as less spread
CELL = 8  # canvas pixels per side that the retrieval features average over
DIMENSIONS = 64  # of the retrieval features, at most
CANDIDATES = 1024  # good pictures, evenly spread, from which features are learnt and references chosen
RECALLED = 64  # references at most whose features of the trunk training keeps, about .7 MB each at 256 x 256


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of SGSF, here those of --trunk none; the comments give the note's of the journal form, or "assumed"."""

    backbone: str = ""  # not known; the trunk whose features retrieve and guide, "" = none
    guidance: Literal["reference", "denoise", "both", "none"] = "reference"  # "reference"
    contrast: Annotated[int, Ge(1)] = 4  # 5 in the settings, 4 found best: a reference is drawn from so many in training
    references: Annotated[int, Ge(0)] = 32  # all good pictures, which is 0 (up to CANDIDATES)
    show: Literal["alike", "always", "never"] = "alike"  # "never"; the segmenter also sees what the guide gives (ours)
    residual: bool = True  # False; True = what the fusion gives is added to the encoder's features (ours)
    detach: bool = False  # assumed: the segmentation loss also moves the guide
    masks: Literal["saliency_perlin", "everywhere", "perlin"] = "saliency_perlin"  # "saliency_perlin"; others: controls
    rule: Literal["mean_std", "otsu", "quantile", "uniform"] = "mean_std"  # "adaptive"; which rule is assumed
    spread: Annotated[float, Interval(ge=0, le=3)] = 1.5  # assumed: 1; standard deviations above the mean, of "mean_std"
    opacity: Annotated[float, Interval(ge=0, lt=1)] = 0.2  # assumed: 0.1; the least of a forgery's texture
    guide_width: Annotated[int, Ge(1)] = 8  # assumed: 128, DRAEM's
    segment_width: Annotated[int, Ge(1)] = 16  # 64: "the same U-Net" as DRAEM's
    stride: Literal[1, 2] = 2  # 1; 2 = both nets work at half resolution
    batch: Annotated[int, Ge(2)] = 8  # 16
    epochs: Annotated[float, Ge(0)] = 0.0  # not found, 700 assumed as in DRAEM; 0 = the budget is given in minutes or steps
    learning_rate: Annotated[float, Gt(0)] = 2e-3  # 1e-4
    weight_decay: Annotated[float, Ge(0)] = 1e-4  # 0
    schedule: Literal["cosine", "steps"] = "cosine"  # "steps": x 0.1 at 50 %, 70 % and 90 %
    forge_share: Annotated[float, Interval(ge=0, le=1)] = 0.75  # 0.75
    ssim_stride: Literal[1, 2] = 2  # 1; 2 = SSIM on 2 x 2 means
    focal_gamma: Annotated[float, Ge(0)] = 2.0  # 2
    prior: Annotated[float, Interval(gt=0, lt=1)] = 0.5  # 0.5; share of defective pixels that the untrained segmenter states
    evidence: Literal["logit", "probability"] = "logit"  # "probability"
    smooth: Annotated[int, Ge(1)] = 11  # 1


CPU = Config(backbone="lite0", precision="32-true", prior=0.1)
PAPER = Config(
    contrast=5,
    references=0,
    show="never",
    residual=False,
    spread=1.0,
    opacity=0.1,
    guide_width=128,
    segment_width=64,
    stride=1,
    batch=16,
    epochs=700,
    learning_rate=1e-4,
    weight_decay=0.0,
    schedule="steps",
    precision="32-true",
    ssim_stride=1,
    evidence="probability",
    smooth=1,
)
TINY = Config(references=4, guide_width=2, segment_width=8, batch=4, learning_rate=5e-3, precision="32-true", smooth=3)


class GuidedUNet(UNet):
    """DRAEM's discriminative U-Net on the picture alone, with fusion: at each scale the encoder's features are concatenated
    with the guide's and convolved back to their width, for the next level and the decoder. With `residual` the result is
    added to the features, so that an untrained guide cannot mask the picture."""

    def __init__(self, channels: int, width: int, stride: int, guides: Sequence[int], residual: bool) -> None:
        """`guides`: the guide's channels at each scale, finest first; deeper levels of the encoder have no fusion."""
        super().__init__(channels, 2, width, stride)
        self.residual = residual
        own = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.fuse = nn.ModuleList(conv_bn_relu(o + g, o) for o, g in zip(own, guides, strict=False))

    def forward(self, x: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
        """n 3 h w and the guide's features, finest first -> two logits, n 2 h w."""
        x, encoded = self.fold(x), []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            if level < len(self.fuse):
                fused = self.fuse[level](torch.cat([x, features[level]], dim=1))
                x = x + fused if self.residual else fused
            encoded.append(x)
        return self.climb(encoded)


class Sgsf(nn.Module):
    """Guide, segmenter and the references. n 3 h w in [0, 1] of any size -> Evidence; references have the fitted canvas.

    memory  m 3 h w float16 in [0, 1], good pictures; valid m 1 h w, 1 = a pixel that counts; whose m, the picture's index
    encoder d by 3 * cells, the retrieval features' projection; keys m d, the references' features, of length 1
    """

    forward_methods = ("guide_and_segment",)
    memory: Tensor
    valid: Tensor
    whose: Tensor
    encoder: Tensor
    keys: Tensor
    alike: Tensor
    left: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.guidance, self.detach, self.evidence = config.guidance, config.detach, config.evidence
        self.limit, self.multiple, b = config.references, 32 * config.stride, config.guide_width
        guided, self.refers = config.guidance != "none", config.guidance in ("reference", "both")
        sources = 2 if config.guidance == "both" else 1
        self.show = guided and config.show != "never"
        self.guide = Autoencoder(3, b, config.stride) if guided else None
        guides = [sources * width for width in (b, b, 2 * b, 4 * b, 8 * b)] if guided else []
        with torch.random.fork_rng(devices=[]):
            self.trunk: Any = trunk_of(config.backbone, STAGES) if guided and config.backbone else None
        self.first = 2 - (config.stride == 2)  # the segmenter's level of stride 4
        widths = [] if self.trunk is None else list(self.trunk.widths)[-STAGES:]
        for level in range(self.first, self.first + len(widths)):
            guides[level] += NARROW
        self.segment = GuidedUNet(3 + 3 * sources * self.show, config.segment_width, config.stride, guides, config.residual)
        for net in filter(None, (self.guide, self.segment)):
            initialise(net)
        state_prior(self.segment.out, config.prior)
        with torch.random.fork_rng(devices=[]):
            self.narrow = nn.ModuleList(nn.Conv2d(width * (1 + self.refers), NARROW, 1) for width in widths)
        for place, width in enumerate(widths):
            self.register_buffer(f"middle{place}", torch.zeros(width, 1, 1))
            self.register_buffer(f"scale{place}", torch.ones(width, 1, 1))
        if self.refers:
            self.register_buffer("memory", torch.zeros(0, 3, 0, 0, dtype=torch.float16))
            self.register_buffer("valid", torch.zeros(0, 1, 0, 0, dtype=torch.uint8))
            self.register_buffer("whose", torch.zeros(0, dtype=torch.int64))
            self.register_buffer("encoder", torch.zeros(0, 0))
            self.register_buffer("keys", torch.zeros(0, 0))
            self.register_buffer("alike", torch.ones(1))  # 0 = references differ in detail, so none is shown
            self.register_buffer("left", torch.zeros(1))  # of their detail, see `left_of_detail`
            self.register_load_state_dict_pre_hook(_resize_memory)
        self.always = config.show == "always"
        self.chosen: list[int] = []  # places of the references among the good pictures, from one stage to the next
        self.recalled: list[Tensor] = []  # each stage's features of the references, see `recall`

    def look(self, images: Tensor) -> list[Tensor]:
        """n 3 h w -> the trunk's features at strides 4, 8 and 16, standardised; an empty list without a trunk."""
        if self.trunk is None:
            return []
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            seen = self.trunk(self.pad(images.float()))[-STAGES:]
            return [(x - self.get_buffer(f"middle{i}")) * self.get_buffer(f"scale{i}") for i, x in enumerate(seen)]

    def recall(self, index: Tensor) -> list[Tensor]:
        """What `look` gives for the references n: kept from the first time on, because training draws the same few again."""
        if self.trunk is None or len(self.memory) > RECALLED:
            return self.look(self.memory[index].float())
        if not self.recalled:
            parts = [self.look(part.float().contiguous(memory_format=torch.channels_last)) for part in self.memory.split(8)]
            self.recalled = [torch.cat(stage) for stage in zip(*parts, strict=True)]
        return [stage[index] for stage in self.recalled]

    def beside(self, looked: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
        """The features of the pictures and of their references, both from `look` -> for the fusion, those of the pictures
        concatenated with the absolute difference of the two; without references, of the pictures alone."""
        if not self.refers:
            return [each.clamp(-8, 8) for each in looked]
        pairs = zip(looked, other, strict=True)
        return [torch.cat([each, (each - its).abs()], dim=1).clamp(-8, 8) for each, its in pairs]

    def encode(self, images: Tensor, looked: Sequence[Tensor] = ()) -> Tensor:
        """n 3 h w on the memory's canvas, and their features from `look` if known -> retrieval features n d of length 1."""
        if self.trunk is None:
            return F.normalize(shrink(images) @ self.encoder.T, dim=1)
        return F.normalize(gridded(looked or self.look(images)) @ self.encoder.T, dim=1)

    def rank(self, features: Tensor, count: int, itself: Tensor | None = None) -> Tensor:
        """Retrieval features n d -> n `count` indices of the most similar references, see `retrieve`."""
        similarity = features @ self.keys.T
        if itself is not None:
            similarity = similarity - 3.0 * (self.whose == itself[:, None]).to(similarity.dtype)
        return similarity.topk(min(count, len(self.keys)), dim=1).indices

    def retrieve(self, images: Tensor, count: int, itself: Tensor | None = None, looked: Sequence[Tensor] = ()) -> Tensor:
        """n 3 h w -> n `count` indices of the most similar references, nearest first; fewer where there are fewer.

        itself: n, which good picture each was forged from; a reference that is that picture, or a copy of it, comes last.
        """
        return self.rank(self.encode(images, looked), count, itself)

    def contrast(self, batch: Batch, count: int, looked: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, list[Tensor]]:
        """For each picture a reference drawn from its `count` most similar ones: n 3 h w, its valid pixels n 1 h w, and what
        `look` gives for it."""
        if not len(self.memory):  # no reference was collected (a forecast only times the steps): a neighbour does
            source = batch.clean.roll(1, dims=0)
            return source, batch.valid.roll(1, dims=0), self.look(source)
        near = self.retrieve(batch.forged, count, batch.index, looked)
        others = (self.whose != batch.index[:, None]).sum(dim=1).clamp(1, near.shape[1])  # itself, for want of another
        drawn = (torch.rand(len(near)).to(near.device) * others).long()
        index = near.gather(1, drawn[:, None])[:, 0]
        return self.memory[index].float(), self.valid[index].float(), self.recall(index)

    def guide_and_segment(
        self, images: Tensor, source: Tensor | None, beside: Sequence[Tensor] = ()
    ) -> tuple[Tensor | None, Tensor]:
        """Pictures n 3 h w, the guide's input `source` n 3 h w, the trunk's features -> (the guide's reconstruction n 3 h w,
        anomaly logit n 1 h w). With guidance "both" the restored pictures come first and the references after them, 2n."""
        h, w = images.shape[-2:]
        images = self.pad(images)
        pictures: list[Tensor] = []
        features: list[Tensor] = []
        if self.guide is not None and source is not None:
            source = self.pad(source)
            found = [self.guide.decode(each) for each in ([images, source] if self.guidance == "both" else [source])]
            pictures = [picture for picture, _ in found]
            features = [_beside(each) for each in zip(*(decoded for _, decoded in found), strict=True)]
            shown = [*pictures[:-1], source * self.alike] if self.refers else pictures
            if self.detach:
                features, shown = [each.detach() for each in features], [each.detach() for each in shown]
            told = (narrow(each) for narrow, each in zip(self.narrow, beside, strict=True)) if beside else ()
            for level, each in enumerate(told, start=self.first):
                features[level] = torch.cat([features[level], _sized(each, features[level])], dim=1)
            images = torch.cat([*shown, images], dim=1) if self.show else images
        good, bad = self.segment(images, features).chunk(2, dim=1)
        given = _beside(pictures, dim=0)[..., :h, :w] if pictures else None
        return given, (bad - good)[..., :h, :w]

    def pad(self, images: Tensor) -> Tensor:
        """Replicate the last row and column up to a size that both nets can halve."""
        h, w = images.shape[-2:]
        pad = (-w % self.multiple, -h % self.multiple)
        return F.pad(images, (0, pad[0], 0, pad[1]), mode="replicate") if any(pad) else images

    def nearest(self, images: Tensor, looked: Sequence[Tensor] = ()) -> Tensor:
        """n 3 h w -> the most similar reference of each, of the same size. Without references, the pictures themselves."""
        if not len(self.memory):
            return images
        canvas, size = self.memory.shape[-2:], images.shape[-2:]
        if canvas == size:
            return self.memory[self.retrieve(images, 1, looked=looked)[:, 0]].float()
        fitted = F.interpolate(images, canvas, mode="bilinear", align_corners=False)
        references = self.memory[self.retrieve(fitted, 1)[:, 0]].float()
        return F.interpolate(references, size, mode="bilinear", align_corners=False)

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, as sentences."""
        if not self.refers:
            return []
        shown = "it is shown to the segmenter" if self.show and float(self.alike) else "its features alone are the guide"
        return [
            f"{len(self.memory)} good pictures are kept as references; the most similar other one leaves "
            f"{float(self.left):.0%} of a reference's detail, so {shown}"
        ]

    def forward(self, images: Tensor) -> Evidence:
        looked = self.look(images)
        source = self.nearest(images, looked) if self.refers else images
        other = self.look(source) if self.refers else []
        _, logit = self.guide_and_segment(images, source, self.beside(looked, other))
        maps = logit[:, 0].float()
        if self.evidence == "probability":
            maps = maps.sigmoid()
        return Evidence(maps, maps.flatten(1).amax(dim=1))


def _resize_memory(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """The references' number and size are known only from the good pictures or from the file."""
    for name in ("memory", "valid", "whose", "encoder", "keys"):
        if prefix + name in state:
            setattr(module, name, torch.empty_like(state[prefix + name]))


def _beside(parts: Sequence[Tensor], dim: int = 1) -> Tensor:
    """One part as it is, several together."""
    return torch.cat(list(parts), dim=dim) if len(parts) > 1 else parts[0]


def _sized(x: Tensor, like: Tensor) -> Tensor:
    """n c h w -> of the size of `like`; a transformer's stages all have one stride."""
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


# ---- the references


def shrink(images: Tensor) -> Tensor:
    """n 3 h w -> the means over CELL x CELL pixels, n 3 * cells."""
    return F.avg_pool2d(images.float(), CELL).flatten(1)


def gridded(looked: Sequence[Tensor]) -> Tensor:
    """The trunk's features -> means of the coarsest stage over 2 x 2 places, n d: content and rough position."""
    return F.avg_pool2d(looked[-1], 2).flatten(1)


@dataclass
class Looked:
    """State of the pass: the good pictures downscaled, or with a trunk its features on a grid and each stage's moments.

    small    n d, in batches
    moments  for each stage, in batches: n 2 c, the mean and the mean square over all places
    """

    small: list[Tensor] = field(default_factory=list)
    moments: list[list[Tensor]] = field(default_factory=list)


def gather_small(net: Sgsf, state: Looked, batch: Batch) -> None:
    """Keep every good picture at an eighth of its size, or the trunk's features of it."""
    looked = net.look(batch.clean)
    state.small.append((gridded(looked) if looked else shrink(batch.clean)).cpu())
    if looked:
        exact = [each.double() for each in looked]
        state.moments.append([torch.stack([x.mean((2, 3)), x.square().mean((2, 3))], dim=1).cpu() for x in exact])


def learn_features(net: Sgsf, state: Looked) -> None:
    """Set the scale of the trunk's features, fit the linear autoencoder, and choose the references."""
    small = torch.cat(state.small).double()
    for place, parts in enumerate(zip(*state.moments, strict=True)):
        mean, square = torch.cat(parts).mean(dim=0)
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        scale = deviation.clamp_min(max(LEAST * float(deviation.max()), 1e-12)).reciprocal()
        net.get_buffer(f"middle{place}").copy_(mean[:, None, None])
        net.get_buffer(f"scale{place}").copy_(scale[:, None, None])
        if place == STAGES - 1:
            small = ((small.reshape(len(small), len(mean), -1) - mean[:, None]) * scale[:, None]).flatten(1)
    if not net.refers:
        return
    candidates = spread(len(small), CANDIDATES)
    _, values, vectors = torch.linalg.svd(small[candidates], full_matrices=False)
    dims = max(1, min(DIMENSIONS, int((values > 1e-6 * values[0]).sum())))
    net.encoder = vectors[:dims].float().to(net.keys.device)
    keys = F.normalize(small @ vectors[:dims].T, dim=1)
    net.chosen = sorted(candidates[i] for i in choose(keys[candidates], net.limit or len(candidates)))


def spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` pictures, evenly spread."""
    return [i for i in range(count) if count <= most or i * most % count < most]


def choose(keys: Tensor, count: int) -> list[int]:
    """Indices of `count` of the m d keys (of length 1): greedily, the next is the one that most raises the mean similarity
    of all keys to their most similar chosen one."""
    similarity = keys @ keys.T
    best = torch.full_like(similarity[0], -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(keys))):
        gain = (similarity - best[:, None]).clamp_min(0).sum(dim=0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        best = torch.maximum(best, similarity[:, chosen[-1]])
    return chosen


@dataclass
class References:
    """State of the second pass: the references found so far.

    looked    good pictures so far
    pictures  m 4 h w in batches, the last channel is `valid`; whose  m, the good picture's index
    """

    looked: int = 0
    pictures: list[Tensor] = field(default_factory=list)
    whose: list[Tensor] = field(default_factory=list)


def keep(net: Sgsf, references: References, batch: Batch) -> None:
    """Keep the chosen pictures, their valid pixels and their features."""
    places = range(references.looked, references.looked + len(batch.clean))
    references.looked += len(batch.clean)
    index = [place - places.start for place in net.chosen if place in places]
    if index:
        references.pictures.append(torch.cat([batch.clean[index], batch.valid[index]], dim=1).contiguous())
        references.whose.append(batch.index[index])


def lay_in(net: Sgsf, references: References) -> None:
    """Put the chosen pictures into the net's memory."""
    pictures = torch.cat(references.pictures)
    net.memory, net.valid = pictures[:, :3].half().contiguous(), (pictures[:, 3:] > 0).to(torch.uint8).contiguous()
    net.whose, net.recalled = torch.cat(references.whose).to(net.memory.device), []
    parts = [net.memory] if net.trunk is None else net.memory.split(16)
    net.keys = torch.cat([net.encode(part.float()) for part in parts])
    net.left.fill_(left_of_detail(net))
    net.alike.fill_(float(net.always or float(net.left) < 1))
    net.chosen = []


def left_of_detail(net: Sgsf) -> float:
    """Energy of the references' detail minus that of their most similar other reference, relative to the detail's energy:
    0 for equal pictures, 1 where subtracting gains nothing, 2 where the two are uncorrelated.

    Detail is a picture minus its means over CELL x CELL pixels. Where all references are of one picture: 2.
    """
    if len(net.whose.unique()) < 2:
        return 2.0
    references = net.memory.float()
    means = F.interpolate(F.avg_pool2d(references, CELL), references.shape[-2:], mode="bilinear", align_corners=False)
    detail = (references - means) * net.valid
    other = detail[net.rank(net.keys, 1, net.whose)[:, 0]]
    return float((detail - other * net.valid).square().sum() / detail.square().sum().clamp_min(1e-9))


# ---- training


def loss(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Loss terms: the guide's L2 and SSIM (where there is one), the segmenter's focal loss; unit weights, as published."""
    looked = net.look(batch.forged)
    source, target, valid, other = batch.forged, batch.clean, batch.valid, []
    if net.refers:
        source, valid, other = net.contrast(batch, config.contrast, looked)
        target = source
    if config.guidance == "both":
        target, valid = torch.cat([batch.clean, source]), torch.cat([batch.valid, valid])
    picture, logit = net.guide_and_segment(batch.forged, source, net.beside(looked, other))
    losses = {"focal": masked_mean(focal_map(logit.float(), batch.mask, config.focal_gamma), batch.valid)}
    if picture is not None:
        losses |= reconstruction_losses(picture.float(), target, valid, config.ssim_stride)
    return losses


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine_schedule, "steps": drops(0.1, (0.5, 0.7, 0.9))}


def stages(net: Sgsf, config: Config) -> Sequence[Train | Collect]:
    """Choose the references in two passes over the good pictures, then train guide and segmenter jointly."""

    def optimiser(parameters: Sequence[Any]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)

    turn = Turn(
        name="both",
        parameters=lambda module: [each for name, each in module.named_parameters() if not name.startswith("trunk.")],
        optimiser=optimiser,
        loss=lambda module, batch: loss(module, batch, config),
        schedule=SCHEDULES[config.schedule],
    )
    train = Train("guide and segment", [turn], frozen=("trunk",) if net.trunk is not None else ())
    features = Collect("retrieval features", lambda module: Looked(), gather_small, learn_features)
    if not net.refers:
        return [train] if net.trunk is None else [features, train]
    return [features, Collect("references", lambda module: References(), keep, lay_in), train]


def forger(config: Config) -> Forger:
    """Saliency Perlin masks filled with texture.

    "everywhere"  a control that differs only in the saliency: the whole picture is salient
    "perlin"      DRAEM's forger, which also has a fixed threshold and other textures; `rule`, `spread`, `opacity` are unused
    """
    if config.masks == "perlin":
        return Perlin()
    guard = (1.0, 1.0) if config.masks == "everywhere" else SaliencyPerlin.guard
    return SaliencyPerlin(rule=config.rule, spread=config.spread, opacity=(config.opacity, 1.0), guard=guard)


def trunk(net: Sgsf, config: Config, init: Init) -> list[str]:
    """Load the features of --trunk; ignored with guidance "none"."""
    if net.trunk is None:
        return ["nothing guides the segmenter, so --trunk is not looked at"]
    origin = f"a {init.about['method']} model" if init.about else init.source or "weights from outside"
    net.trunk.fill(init, f"--trunk ({origin})")
    return [f"the features that retrieve and guide are those of {origin} (sha256 {init.sha256[:12]}); they are not trained"]


def decided(net: Sgsf, config: Config) -> Config:
    """The settings that make another fit use the same `show` as this one decided."""
    if not net.refers or config.show != "alike":
        return config
    return replace(config, show="always" if float(net.alike) else "never")


def score_rule(config: Config) -> ScoreRule:
    """The maximum of the map after a mean filter of `smooth` px; published without one (`smooth` 1)."""
    return ScoreRule(reduce="max", smooth=config.smooth)


METHOD = Method(
    name="sgsf",
    title="segmentation guided by a similar good picture, trained on synthetic defects in the salient region",
    paper="after Xing et al., arXiv 2209.12440, and IEEE TCSVT 34(6), 2024; reconstructed from a reader's notes",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=Sgsf,
    stages=stages,
    forger=forger,
    score=score_rule,
    prior="foreground",
    decided=decided,
    trunk=trunk,
    scratch=Config(),
)
