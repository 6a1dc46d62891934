"""ISSTAD: a masked autoencoder of good pictures, then trained to restore corrupted ones and to segment the corruption.

Jin, Guo, Zhu: "ISSTAD - Incremental self-supervised learning based on transformer for anomaly detection and localization",
arXiv 2303.17354, and its two released repositories. We had the abstract, the overview figure and the released code, not the
paper's full text, so sections are named by content.

    paper                                here
    public MAE weights of ImageNet       `TrunkPatches`: features of ImageNet below the transformer, or --init
    step 1, masked autoencoder           `hiding_loss` (mean squared error of hidden patches), nn.vit
    step 2, frozen encoder               `stages` (frozen=("encoder",)), a decoder with more blocks than step 1 trained
    reconstruction head (RCH)            Isstad.repair, on the last block
    pixel classification head (PCH)      Isstad.classify, one layer, shared, after every block (deep supervision)
    pixel-level augmentation             forge.corrupt.PixelCorrupt ("new": released code, "old": the figure)
    loss                                 `repairing_loss`: cross-entropy 3:1 + 0.5 MSE + 0.1 (1 - SSIM)
    score                                `combined`, `score_rule`
    incremental learning                 `start`: stage 2 on the encoder of another model (--init)

Profile `paper`: ViT-L/16 with the published sizes and schedule, meant for `--size 224` and MAE weights by --init. Profile
`cpu` is our reconstruction for two cores: a small transformer over a frozen trunk. Its encoder has trained for minutes only,
so it keeps learning in stage 2 (`freeze`). With --trunk none it reads patches of pixels and trains from scratch.

docs/methods/isstad.md, "Defects of the release", says where we depart from the released code and why. In short: the target
of the reconstruction is the clean picture, patches stay in order, both stages normalise in the same way, masks keep their
border pixels, gradients are zeroed every step, and no map is rescaled to its own range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.forge.corrupt import PixelCorrupt
from flawforge.nn.efficientnet_lite import Lite, standardised
from flawforge.nn.losses import cosine_schedule, masked_mean, reconstruction_losses, summed
from flawforge.nn.ranks import rand
from flawforge.nn.vit import Decoder, Encoder, draw_hidden, initialise, patchify, positions, unpatchify
from flawforge.types import (
    Batch,
    ConfigError,
    Evidence,
    Forger,
    Init,
    Method,
    ModelError,
    ScoreRule,
    Train,
    TrainingSettings,
    Turn,
)

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which public MAE weights were made with
STAGE_ONE, STAGE_TWO = "hide and guess", "repair and point"


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of ISSTAD, here those of --trunk none; the comments give the released code's values."""

    backbone: Literal["", "lite0", "lite1", "lite2"] = ""  # "", MAE weights by --init instead; the trunk under the encoder
    patch: Annotated[int, Interval(ge=2, le=64)] = 16  # 16; a power of 2 for the convolutional stem, 8 or 16 with a trunk
    stem: Literal["linear", "convolutional"] = "linear"  # "linear"; how a patch is read
    width: Annotated[int, Ge(4)] = 128  # 1024
    depth: Annotated[int, Ge(1)] = 4  # 24
    heads: Annotated[int, Ge(1)] = 4  # 16
    decoder_width: Annotated[int, Ge(4)] = 96  # 512
    decoder_depth: Annotated[int, Ge(1)] = 2  # 12
    decoder_heads: Annotated[int, Ge(1)] = 3  # 16
    masked_depth: Annotated[int, Ge(1)] = 1  # 6; decoder blocks that stage 1 trains
    grid: Annotated[int, Ge(0)] = 0  # 14; side of the grid of patches that positions are spread over; 0 = the canvas's own
    masked_share: Annotated[float, Interval(ge=0, lt=1)] = 0.2  # 305 / 505; stage 1's part of the budget, 0 = no stage 1
    masked: Literal["pixels", "features"] = "pixels"  # "pixels"; what stage 1 guesses: "features" are the trunk's
    hidden: Annotated[float, Interval(gt=0, lt=1)] = 0.75  # 0.75
    crop: Annotated[float, Interval(gt=0, le=1)] = 1.0  # 0.2; least share of the picture that a crop of stage 1 shows
    flip: bool = False  # True; stage 1 mirrors half of the pictures
    freeze: bool = False  # True; False = stage 2 trains the encoder too
    target: Literal["clean", "identity"] = "clean"  # "identity": the repair's target is the corrupted picture
    supervise: Literal["all", "last"] = "all"  # "all": the pixel classifier learns after every decoder block
    corruption: Literal["new", "old"] = "new"  # "new"; "old" is the overview figure's
    batch: Annotated[int, Ge(2)] = 8  # 20 in stage 1, 16 in stage 2
    epochs: Annotated[float, Ge(0)] = 0.0  # 305 + 200; 0 = the budget is given in minutes or steps
    masked_learning_rate: Annotated[float, Gt(0)] = 6e-4  # 1e-3 * batch / 256
    learning_rate: Annotated[float, Gt(0)] = 6e-4  # 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.05  # 0.05
    warm_up: Annotated[float, Interval(ge=0, lt=1)] = 0.05  # 40 / 305 in stage 1, none in stage 2
    forge_share: Annotated[float, Interval(ge=0, le=1)] = 2 / 3  # 2 / 3
    good_weight: Annotated[float, Gt(0)] = 3.0  # 3; a good pixel's weight in the cross-entropy, a corrupted one has 1
    ssim_stride: Literal[1, 2] = 2  # 1; 2 = SSIM on 2 x 2 means
    combine: Literal["product", "probability", "error", "sum", "release"] = "product"  # "release"
    blur: Annotated[float, Ge(0)] = 4.0  # 4; standard deviation in canvas pixels
    top: Annotated[float, Interval(gt=0, le=1)] = 0.01  # 1; share of the map's highest pixels whose mean is the score
    carry: Literal["encoder", "all"] = "encoder"  # "all": --init MODEL gives its decoder and heads too


CPU = Config(backbone="lite0")
PAPER = Config(
    patch=16,
    stem="linear",
    width=1024,
    depth=24,
    heads=16,
    decoder_width=512,
    decoder_depth=12,
    decoder_heads=16,
    masked_depth=6,
    grid=14,
    masked_share=305 / 505,
    crop=0.2,
    flip=True,
    freeze=True,
    batch=16,
    epochs=505,
    masked_learning_rate=6.25e-5,
    learning_rate=1e-3,
    warm_up=0.13,
    precision="32-true",
    ssim_stride=1,
    top=1.0,
)
TINY = Config(
    patch=8,
    stem="linear",
    width=16,
    depth=1,
    heads=2,
    decoder_width=16,
    decoder_depth=2,
    decoder_heads=2,
    masked_depth=1,
    masked_share=0.4,
    freeze=True,
    batch=4,
    learning_rate=5e-3,
    masked_learning_rate=5e-3,
    precision="32-true",
    blur=1.0,
)


class TrunkPatches(nn.Module):
    """A trunk's features of each patch: its stages of strides 4 to `patch`, finer ones unshuffled into the patch's channels.

    n 3 h w in [0, 1] -> n `width` h/patch w/patch; nothing here is trained. The hybrid architecture of Dosovitskiy et al.
    (arXiv 2010.11929, section 3.1: feature maps of a CNN in place of raw patches). The finer stages and the normalisation
    are ours: each stage is standardised over its channels at each place, as a trunk without batch norm has no fixed scale.
    """

    def __init__(self, backbone: str, patch: int) -> None:
        super().__init__()
        self.net = Lite(backbone, patch.bit_length() - 1).requires_grad_(False)
        self.folds = [patch // stride for stride in self.net.strides[1:]]
        self.width = sum(width * fold**2 for width, fold in zip(self.net.widths[1:], self.folds, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # its depthwise convolutions are far slower in bfloat16
            _, *stages = self.net(images.float())
        folded = [F.pixel_unshuffle(x, fold) if fold > 1 else x for x, fold in zip(stages, self.folds, strict=True)]
        return torch.cat([standardised(each) for each in folded], dim=1)


class Isstad(nn.Module):
    """Encoder, decoder and both heads. n 3 h w in [0, 1] -> Evidence; padded by replication to multiples of the patch."""

    forward_methods = ("guess_hidden", "repair_and_classify")
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        for what, width, heads in (
            ("width", config.width, config.heads),
            ("decoder_width", config.decoder_width, config.decoder_heads),
        ):
            if width % heads or width % 4:
                raise ConfigError(f"{what} is {width} with {heads} heads; give a multiple of 4 and of the heads.")
        if config.stem == "convolutional" and config.patch & (config.patch - 1):
            raise ConfigError(f"patch is {config.patch} with a convolutional stem; give a power of 2, or stem=linear.")
        if config.masked_depth > config.decoder_depth:
            raise ConfigError(f"masked_depth is {config.masked_depth}; give at most decoder_depth, {config.decoder_depth}.")
        if config.backbone and (config.patch not in (8, 16) or config.stem != "linear"):
            raise ConfigError(
                f"patch is {config.patch} and the stem {config.stem} with a trunk; give a patch of 8 or 16 and stem=linear."
            )
        if config.masked == "features" and not config.backbone:
            raise ConfigError("masked=features was given without a trunk; give --trunk lite0, or masked=pixels.")
        self.config = config
        self.trunk = TrunkPatches(config.backbone, config.patch) if config.backbone else None
        side, channels = (1, self.trunk.width) if self.trunk else (config.patch, 3)
        self.encoder = Encoder(side, config.width, config.depth, config.heads, config.grid, config.stem, channels)
        self.decoder = Decoder(config.width, config.decoder_width, config.decoder_depth, config.decoder_heads, config.grid)
        self.repair = nn.Linear(config.decoder_width, config.patch**2 * 3)
        self.classify = nn.Linear(config.decoder_width, config.patch**2 * 2)
        guesses = self.trunk is not None and config.masked == "features" and config.masked_share > 0
        self.describe = nn.Linear(config.decoder_width, channels) if guesses else None
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        self.started_after_stage_one = False  # set by `start`
        initialise(self)

    def padded(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        pad = (-w % self.config.patch, -h % self.config.patch)
        return F.pad(images, (0, pad[0], 0, pad[1]), mode="replicate") if any(pad) else images

    def read(self, images: Tensor) -> Tensor:
        """n 3 h w, sides multiples of the patch -> the encoder's input: normalised pixels, or the trunk's features."""
        return self.trunk(images) if self.trunk else (images - self.mean) / self.deviation

    def guess_hidden(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """n 3 h w, sides multiples of the patch -> (predicted patches n L d; their targets n L d; n L, 1 = was masked).

        d is the patch's normalised pixels, 3pp, or its features. With a trunk, masking comes after it, so visible patches
        carry some information on their masked neighbours.
        """
        rows, columns = (side // self.config.patch for side in images.shape[-2:])
        order, hidden = draw_hidden(len(images), rows * columns, self.config.hidden, images.device)
        read = self.read(images)
        after = self.decoder(self.encoder(read, order), rows, columns, order, self.config.masked_depth)
        last = self.decoder.norm(after[-1])
        if self.describe is not None:
            return self.describe(last), read.flatten(2).transpose(1, 2), hidden
        return self.repair(last), patchify((images - self.mean) / self.deviation, self.config.patch), hidden

    def repair_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """n 3 h w -> (restored pictures n 3 h w, in [0, 1] but for overshoot; anomaly logits n m h w, one map per block).

        Two output channels per pixel as published; the softmax of two channels is the sigmoid of their difference.
        """
        h, w = images.shape[-2:]
        images = self.padded(images)
        rows, columns = (side // self.config.patch for side in images.shape[-2:])
        after = self.decoder(self.encoder(self.read(images)), rows, columns)
        repaired = unpatchify(self.repair(self.decoder.norm(after[-1])), self.config.patch, rows, columns)
        repaired = repaired.float() * self.deviation + self.mean
        maps = []
        for tokens in after if self.config.supervise == "all" else after[-1:]:
            good, bad = unpatchify(self.classify(tokens), self.config.patch, rows, columns).float().chunk(2, dim=1)
            maps.append(bad - good)
        return repaired[..., :h, :w], torch.cat(maps, dim=1)[..., :h, :w]

    def forward(self, images: Tensor) -> Evidence:
        repaired, logits = self.repair_and_classify(images)
        probability = logits.sigmoid().mean(dim=1, keepdim=True)
        error = 4.0 * ((repaired - images) ** 2).mean(dim=1, keepdim=True)  # in the published units, pictures in [-1, 1]
        surface, score = combined(probability, error, self.config.combine, self.config.blur)
        return Evidence(surface[:, 0], score)


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of n 1 h w maps, truncated at 4 sigma, borders replicated; sigma in pixels, 0 = none."""
    if not sigma:
        return maps
    reach = int(4.0 * sigma + 0.5)
    x = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    bell = torch.exp(-(x**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    maps = F.conv2d(F.pad(maps, (0, 0, reach, reach), mode="replicate"), bell.view(1, 1, -1, 1))
    return F.conv2d(F.pad(maps, (reach, reach, 0, 0), mode="replicate"), bell.view(1, 1, 1, -1))


def combined(probability: Tensor, error: Tensor, how: str, sigma: float) -> tuple[Tensor, Tensor]:
    """Probability in [0, 1] and squared error in [0, 4], n 1 h w each -> (map n 1 h w, score n); higher = more anomalous.

    product      the square root of their product, both blurred: ranks pixels as the published Hadamard product does, on a
                 scale that is the same for every picture
    probability, error   one of them alone, blurred
    sum          their mean (published as "alpha", there with a rescaled error)
    release      as released: for the map the error is rescaled to [0, 1] within each picture, and the score is the mean of
                 the blurred product. For reference only: the maps of two pictures are not comparable
    """
    p, r = blurred(probability, sigma), blurred(error, sigma)
    if how == "release":
        low, high = error.amin(dim=(2, 3), keepdim=True), error.amax(dim=(2, 3), keepdim=True)
        surface = blurred(probability * (error - low) / (high - low).clamp_min(1e-12), sigma)
        return surface, blurred(p * r, sigma).mean(dim=(1, 2, 3))
    if how == "product":
        surface = (p * r).clamp_min(1e-20).sqrt()
    else:
        surface = {"probability": p, "error": r, "sum": 0.5 * p + 0.5 * r}[how]
    return surface, surface.amax(dim=(1, 2, 3))


def cropped(images: Tensor, valid: Tensor, least: float, flip: bool) -> tuple[Tensor, Tensor]:
    """A random resized crop per picture: area from the share `least` to all, aspect ratio scaled by 3/4 to 4/3.

    images n 3 h w, valid n 1 h w -> the same shapes. With `flip` half of them are mirrored. Draws from torch's CPU
    generator. A pixel stays valid only where all source pixels under it were.
    """
    if least >= 1.0 and not flip:
        return images, valid
    n = len(images)
    area, aspect = least + (1 - least) * rand(n), torch.exp((rand(n) * 2 - 1) * torch.tensor(4 / 3).log())
    if least >= 1.0:
        aspect = torch.ones(n)
    size = torch.stack([(area * aspect).sqrt().clamp_max(1.0), (area / aspect).sqrt().clamp_max(1.0)], dim=1)  # x, y
    shift = (rand(n, 2) * 2 - 1) * (1 - size)
    mirror = torch.where(rand(n) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = size[:, 0] * mirror, size[:, 1], shift
    where = F.affine_grid(theta.to(images.device), [n, 3, *images.shape[-2:]], align_corners=False)
    seen = partial(F.grid_sample, grid=where, padding_mode="border", align_corners=False)
    whole = -F.max_pool2d(-valid, 3, 1, 1)  # bicubic reaches one pixel further than bilinear
    return seen(images, mode="bicubic").clamp(0.0, 1.0), (seen(whole) > 1 - 1e-4).float()


def hiding_loss(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Stage 1: mean squared error of the masked patches' normalised pixels, over valid pixels.

    With masked="features": of their features, over patches that are valid as a whole.
    """
    images, valid = cropped(batch.clean, batch.valid, config.crop, config.flip)
    h, w = images.shape[-2:]
    pad = (0, -w % config.patch, 0, -h % config.patch)
    images, valid = F.pad(images, pad, mode="replicate"), F.pad(valid, pad)
    guess, wanted, hidden = net.guess_hidden(images)
    inside = patchify(valid.expand(-1, 3, -1, -1), config.patch)
    if config.masked == "features":
        inside = inside.amin(dim=2, keepdim=True).expand_as(wanted)
    counts = inside * hidden[:, :, None]
    wrong = (guess.float() - wanted) ** 2
    total, count = summed((wrong * counts).sum(), counts.sum())
    return {"hidden": total / count.clamp_min(1.0)}


def classification_loss(logits: Tensor, mask: Tensor, valid: Tensor, good_weight: float) -> Tensor:
    """Cross-entropy with weight `good_weight` on good pixels, over valid pixels and the m blocks' maps.

    logits n m h w; mask and valid n 1 h w.
    """
    cross = F.binary_cross_entropy_with_logits(logits, mask.expand_as(logits), reduction="none")
    return masked_mean(cross, valid * (mask + good_weight * (1 - mask)))


def repairing_loss(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """The terms of stage 2's loss: cross-entropy, 0.5 MSE, 0.1 (1 - SSIM); the MSE in the published units, [-1, 1]."""
    repaired, logits = net.repair_and_classify(batch.forged)
    target = batch.clean if config.target == "clean" else batch.forged
    parts = reconstruction_losses(repaired, target, batch.valid, config.ssim_stride)
    return {
        "classify": classification_loss(logits, batch.mask, batch.valid, config.good_weight),
        "repair": 0.5 * 4.0 * parts["l2"],
        "ssim": 0.1 * parts["ssim"],
    }


def stages(net: Isstad, config: Config) -> Sequence[Train]:
    """Stage 1 trains encoder, first decoder blocks and its head; stage 2 all but a frozen encoder; none trains the trunk."""

    def turn(name: str, parts: Any, loss: Any, rate: float) -> Turn:
        def optimiser(parameters: Sequence[Any]) -> torch.optim.Optimizer:
            decayed = [p for p in parameters if p.ndim > 1]
            plain = [p for p in parameters if p.ndim <= 1]
            groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))

        return Turn(name, parts, optimiser, partial(loss, config=config), partial(cosine_schedule, warm_up=config.warm_up))

    def first(module: Isstad) -> list[nn.Parameter]:
        decoder = module.decoder
        head = module.repair if module.describe is None else module.describe
        parts = (module.encoder, decoder.embed, decoder.blocks[: config.masked_depth], decoder.norm, head)
        return [decoder.mask_token, *(p for part in parts for p in part.parameters())]

    def second(module: Isstad) -> list[nn.Parameter]:
        left_out = ("decoder.mask_token", "trunk.", "describe.", *(("encoder.",) if config.freeze else ()))
        return [p for name, p in module.named_parameters() if not name.startswith(left_out)]

    trunk = ("trunk",) if config.backbone else ()
    one = Train(STAGE_ONE, [turn("guess", first, hiding_loss, config.masked_learning_rate)], trunk, config.masked_share)
    two = Train(
        STAGE_TWO,
        [turn("repair", second, repairing_loss, config.learning_rate)],
        frozen=(*trunk, *(("encoder",) if config.freeze else ())),
        share=1.0 - config.masked_share,
    )
    return [two] if net.started_after_stage_one or not config.masked_share else [one, two]


# Released MAE code and timm -> ours, by the first parts of a name; timm has no decoder.
OUTSIDE = {
    "patch_embed.proj": "encoder.patch",
    "cls_token": "encoder.cls_token",
    "blocks": "encoder.blocks",
    "norm": "encoder.norm",
    "decoder_embed": "decoder.embed",
    "mask_token": "decoder.mask_token",
    "decoder_blocks": "decoder.blocks",
    "decoder_norm": "decoder.norm",
    "decoder_pred": "repair",
}


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the released MAE code's or timm's naming -> under our names; ours are kept, unused ones dropped."""
    if any(key.startswith("encoder.") for key in tensors):
        return dict(tensors)
    found = {}
    for key, value in tensors.items():
        for theirs, ours in OUTSIDE.items():
            if key == theirs or key.startswith(f"{theirs}."):
                found[ours + key[len(theirs) :]] = value
    return found


def start(net: Isstad, config: Config, init: Init) -> list[str]:
    """Load the weights of --init into the net.

    From a model folder: the encoder (with `carry` = "all" the decoder and heads too); stage 1 is skipped where that model
    has had one. From a file of MAE weights: the encoder and, where it fits, the decoder; stage 1 continues from them.
    Raises ModelError where the encoder does not fit.
    """
    method = init.about.get("method", "isstad")
    if method != "isstad":
        raise ModelError(f"--init was given a model of {method}; isstad starts from an isstad model or from MAE weights.")
    theirs = init.about.get("settings", {})
    if theirs.get("backbone", "") != config.backbone:  # empty for weights from outside, too: those read pixels
        raise ModelError(
            f"The weights of --init read {theirs.get('backbone') or 'pixels'} and these settings read "
            f"{config.backbone or 'pixels'}; give --trunk {theirs.get('backbone') or 'none'}."
        )
    for key in ("heads", "grid"):  # no tensor's shape tells these
        if theirs.get(key, getattr(config, key)) != getattr(config, key):
            raise ModelError(
                f"The model of --init was fitted with {key}={theirs[key]} and these settings say {getattr(config, key)}; "
                f"give --set {key}={theirs[key]}."
            )
    given, target = renamed(init.tensors), net.state_dict()
    encoder = [key for key in target if key.startswith("encoder.")]
    _check_fit(given, target, encoder)
    if "pos_embed" in init.tensors:
        _check_positions(init.tensors["pos_embed"], config)
    taken = set(encoder)
    outside = not init.about
    light = tuple(f"decoder.blocks.{i}." for i in range(config.masked_depth))
    rest = [
        key
        for key in target
        if key not in taken
        and not key.startswith(("trunk.", "describe."))
        and (not outside or key.startswith((*light, "decoder.embed", "decoder.norm", "decoder.mask_token", "repair")))
    ]
    notes = []
    if (outside or config.carry == "all") and all(k in given and given[k].shape == target[k].shape for k in rest):
        taken |= set(rest)
    net.load_state_dict(target | {key: given[key].to(target[key].dtype) for key in taken})
    notes.append("encoder and decoder" if len(taken) > len(encoder) else "encoder alone")
    if outside:
        return [f"started from outside weights: {notes[0]}"]
    if not theirs.get("masked_share", 1.0):
        return [f"started from another model: {notes[0]}; it had no stage 1 ({STAGE_ONE}), so nothing is skipped"]
    net.started_after_stage_one = True
    cost = [row for row in init.about.get("history", ()) if row["stage"] == STAGE_ONE]
    saved = f"saved {cost[-1]['seconds']:.0f} s ({cost[-1]['step']} steps)" if cost else "its cost is not known"
    return [f"started from another model: {notes[0]}; stage 1 ({STAGE_ONE}) was skipped, {saved}"]


def _check_fit(given: Mapping[str, Tensor], target: Mapping[str, Tensor], keys: Sequence[str]) -> None:
    prefix = "encoder.blocks."
    held, needed = (len({key.split(".")[2] for key in names if key.startswith(prefix)}) for names in (given, keys))
    if held != needed:
        raise ModelError(
            f"The weights of --init hold {held} encoder blocks and these settings need {needed}; give --profile or depth as "
            "they were made with, or weights of a vision transformer in MAE's, timm's or flawforge's naming."
        )
    for key in keys:
        if key not in given:
            raise ModelError(f"The weights of --init lack {key}; give an MAE or isstad model of the same stem.")
        if given[key].shape != target[key].shape:
            theirs, ours = ("x".join(map(str, each.shape)) for each in (given[key], target[key]))
            raise ModelError(
                f"The weights of --init have {key} of {theirs} and these settings need {ours}; give --profile, patch, "
                "width, depth and heads as they were made with."
            )
        if not given[key].isfinite().all():
            raise ModelError(f"The weights of --init hold numbers that are not finite in {key}; give another file.")


def _check_positions(stored: Tensor, config: Config) -> None:
    """Weights that learnt positions of their own would be read at the wrong places."""
    side = round((stored.shape[1] - 1) ** 0.5)
    if stored.shape != (1, side * side + 1, config.width) or not torch.allclose(
        stored[0, 1:].float(), positions(side, side, config.width), atol=1e-3
    ):
        raise ModelError(
            "The weights of --init have learnt positions and isstad's are fixed sines and cosines; give weights of a masked "
            "autoencoder (MAE)."
        )


def take_trunk(net: Isstad, config: Config, init: Init) -> list[str]:
    """Load the trunk below the encoder from --trunk."""
    assert net.trunk is not None, "a trunk was chosen, so the settings have one"
    origin = f"a {init.about['method']} model" if init.about else init.source or "weights from outside"
    net.trunk.net.fill(init, f"--trunk ({origin})")
    return [f"patches are read by the features of {origin} (sha256 {init.sha256[:12]}), which are not trained"]


def forger(config: Config) -> Forger:
    """Pixel-level augmentation: that of the released code ("new"), or that of the overview figure ("old")."""
    return PixelCorrupt(version=config.corruption)


def score_rule(config: Config) -> ScoreRule:
    """The mean of the highest `top` share of the (blurred) map; of all of it in profile `paper`, as published."""
    return ScoreRule("network") if config.combine == "release" else ScoreRule("top", top=config.top)


METHOD = Method(
    name="isstad",
    title="a masked autoencoder that learns to repair synthetic defects and to locate them",
    paper="Jin et al., arXiv 2303.17354; `cpu` is a small reimplementation, without the bugs of the authors' code",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=Isstad,
    stages=stages,
    forger=forger,
    score=score_rule,
    start=start,
    trunk=take_trunk,
    scratch=Config(),
    parts=True,
)
