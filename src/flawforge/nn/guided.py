"""Statistics of the good pictures and a segmenter guided by them, in one net, shared by `guided` and `auto`.

`methods.guided` states the idea and the source of each part; `nn.gate` decides which maps are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.head_start import head_start
from flawforge.nn.losses import cosine_schedule, dice_loss, focal_map, masked_mean
from flawforge.nn.normality import Normality, beside, looks
from flawforge.nn.patches import start_from
from flawforge.nn.patchstats import PatchStats, Scale, even_light
from flawforge.nn.patchstats_fit import spaced
from flawforge.nn.patchstats_judge import cells
from flawforge.nn.unet import UNet, initialise
from flawforge.types import Batch, Collect, Demand, Evidence, Init, Stage, Train, TrainingSettings, Turn

NATS = 24.0  # fused surprise at which the skip bends from a line to a logarithm
LEAST = 3  # reserved pictures that a gate needs; with fewer nothing is trained
RESERVED = 64  # reserved good pictures at most that set the units and by which the gate judges, evenly spread
THIN = 2  # of the reserved good pictures' maps every second pixel of every second row is looked at, and counts four times
CANDIDATES = ("statistics", "segmenter", "sum")
USES = {"statistics": (1.0, 0.0), "segmenter": (0.0, 1.0), "sum": (1.0, 1.0)}  # weights of statistics and segmenter
Use = Literal[
    "gate",
    "statistics",
    "segmenter",
    "sum",
    "statistics/segmenter",
    "statistics/sum",
    "segmenter/statistics",
    "segmenter/sum",
    "sum/statistics",
    "sum/segmenter",
]  # one for both, or picture/map
FORM = ("width", "normalised", "raw", "filters", "side", "cell", "light")  # what the shipped weights were trained with
NAMED = {(True, False): "the statistics alone", (False, True): "the segmenter alone", (True, True): "their sum"}
AIMS, MEASURES = ("picture", "map"), ("AUROC", "average precision of pixels among those of good pictures")


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of statistics (see `patchstats`), segmenter and gate."""

    normalised: tuple[Scale, ...] = (1, 2, 4)
    raw: tuple[Scale, ...] = (1, 2, 4)
    filters: Annotated[int, Interval(ge=1, le=27)] = 14
    side: Literal[3, 5, 7, 9, 11] = 7
    cell: Literal[2, 4, 8, 16] = 4
    block: Literal[1, 2, 4] = 2
    light: Annotated[int, Ge(9)] = 33
    folds: Annotated[int, Ge(2)] = 5
    backbone: str = ""  # the trunk whose features are looked at beside the picture; "" = none
    numbers: Annotated[int, Ge(2)] = 96  # principal components of its features that the Gaussians are over
    memory: Annotated[int, Ge(1)] = 1000  # good patches in its memory
    choices: Annotated[int, Ge(1)] = 12  # batches of forged pictures by which the families of statistics are chosen
    width: Annotated[int, Ge(1)] = 16
    head_start: bool = True  # begin with the weights that ship with flawforge, where they fit `width`
    use: Use = "sum"
    seen: Annotated[float, Ge(0)] = 3.0  # nats by which a forged region must raise the statistics to be learnt from
    learning_rate: Annotated[float, Gt(0)] = 2e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    focal: Annotated[float, Ge(0)] = 5.0  # weight of the focal loss beside the dice loss
    proofs: Annotated[int, Ge(1)] = 20  # batches of forged pictures that the gate looks at
    top: Annotated[float, Interval(gt=0, le=1)] = 0.001
    forge_share: Annotated[float, Interval(ge=0, le=1)] = 0.75


TINY = Config(
    normalised=(1,),
    raw=(2,),
    filters=4,
    side=5,
    folds=2,
    width=2,
    batch=4,
    proofs=2,
    head_start=False,
    learning_rate=5e-3,
    precision="32-true",
)


class Seen(NamedTuple):
    """The segmenter's inputs for n pictures.

    picture   n c h/2 w/2: -log p of the filters, deviation of the pixels, the picture itself and in even light
    fused     n 1 gh gw: the statistics' map
    maps      n 2 h/2 w/2: -log p of the trunk's families; None without a trunk
    features  n d h/8 w/8: the trunk's features, and their difference to the nearest good patch; None without a trunk
    """

    picture: Tensor
    fused: Tensor
    maps: Tensor | None
    features: Tensor | None


class Guided(nn.Module):
    """Statistics and segmenter. n 3 h w in [0, 1] on the fitted canvas -> Evidence; h and w multiples of 16."""

    placed = True
    forward_methods = ("segment",)
    mean: Tensor
    deviation: Tensor
    fold_mean: Tensor
    fold_deviation: Tensor
    unit: Tensor
    use: Tensor
    evidence: Tensor
    first: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stats = Normality(config, config.folds)
        self.branches = len(self.stats.branches)
        self.unet = UNet(self.branches + 3 + 24, 4, config.width)
        initialise(self.unet)
        if self.stats.trunk is not None:  # they add nothing at first, so that the head start is what it was
            self.beside_maps = _silent(self.stats.maps - self.branches, config.width)
            self.beside_features = _silent(2 * self.stats.trunk.features.width, 4 * config.width)
        self.skip, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.full((1,), -4.0))
        if config.head_start:
            head_start(self, {name: getattr(config, name) for name in FORM})
        self.register_buffer("mean", torch.zeros(3, 0, 0))
        self.register_buffer("deviation", torch.ones(3, 0, 0))
        self.register_buffer("fold_mean", torch.zeros(0, 3, 0, 0))  # the same without the pictures of one fold each
        self.register_buffer("fold_deviation", torch.ones(0, 3, 0, 0))
        self.register_buffer("unit", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # of statistics and segmenter: middle, width
        self.register_buffer("use", torch.tensor([[1.0, 0.0], [1.0, 0.0]]))  # for picture and map: weight of either
        self.register_buffer("evidence", torch.zeros(2, 3, 2))  # picture and map, CANDIDATES: mean, least gain
        self.register_buffer("first", torch.zeros(1, dtype=torch.int64))  # pictures of the first fold
        self.segmenting = self.apart = False
        self.register_load_state_dict_pre_hook(_resize)
        self.register_load_state_dict_post_hook(lambda module, _: module.settle())
        # Of reserved good pictures: both maps 2 h w, and where they are valid h w.
        self.reserved: list[tuple[Tensor, Tensor]] = []
        self.trained = False  # whether there were enough reserved pictures for a gate, and so for training

    def settle(self) -> None:
        """Note what is not computed: an unused segmenter, and a second map where picture and map use the same weights."""
        self.segmenting = bool(self.use[:, 1].any())
        self.apart = bool((self.use[0] != self.use[1]).any())

    def look(self, images: Tensor, folds: Sequence[int] | None = None, inner: Tensor | None = None) -> Seen:
        """n 3 h w, inner n 4 (see types.Batch) -> the segmenter's inputs, always in float32.

        folds  for each picture the fold whose pictures the statistics leave out; None = the statistics use all
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            images, trunk = images.float(), self.stats.trunk
            if folds is None:
                mean, deviation = self.mean, self.deviation
                surprises, even = PatchStats.look(self.stats, images, inner)
            else:
                own = list(folds)
                mean, deviation = self.fold_mean[own], self.fold_deviation[own]
                surprises = PatchStats.surprises(self.stats, images, folds, inner)
                even = even_light(images.contiguous(), self.stats.light)
            features = None
            if trunk is not None:
                x = trunk.embed(images)
                difference = trunk.difference(x, folds)
                distance = difference.square().sum(dim=1).sqrt()
                surprises = beside(surprises, trunk.of_features(x, distance, images, folds, inner))
                features = torch.cat([x, difference], dim=1).clamp(-8, 8) / 4
            half = cells(images, 2) if torch.compiler.is_exporting() else F.avg_pool2d(images, 2)
            z = ((half - mean) / deviation).clamp(-8, 8) / 4
            maps = F.interpolate(surprises.clamp_min(0).log1p(), z.shape[-2:], mode="bilinear", align_corners=False)
            parts = [maps[:, : self.branches], z, F.pixel_unshuffle(images, 2), F.pixel_unshuffle(even, 2) / 2]
            rest = maps[:, self.branches :] if trunk is not None else None
            return Seen(torch.cat(parts, dim=1), self.stats.fuse(surprises), rest, features)

    def segment(self, picture: Tensor, guide: Tensor, maps: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Parts of `Seen`, and the guide n 1 h w (`enlarge(guide_of(fused))`) -> logits n 1 h w."""
        h, w = picture.shape[-2:]
        padded, extra = _padded(picture, 32), dict[int, Tensor]()
        if maps is not None and features is not None:
            extra = {0: self.beside_maps(_padded(maps, 32)), 2: self.beside_features(_padded(features, 8))}
        logit = F.pixel_shuffle(self.unet.climb(self.unet.descend(padded, extra))[..., :h, :w], 2)
        return logit + self.bias + self.skip * guide

    def learning(self) -> list[nn.Parameter]:
        """The parameters that the segmenter's training changes; none of the trunk's."""
        parts = [self.unet, *(getattr(self, name) for name in ("beside_maps", "beside_features") if hasattr(self, name))]
        return [*(parameter for part in parts for parameter in part.parameters()), self.skip, self.bias]

    def both(self, images: Tensor, folds: Sequence[int] | None = None, inner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """n 3 h w, inner n 4 -> the maps of statistics and segmenter, n h w each, not standardised; see `look`."""
        looked = self.look(images, folds, inner)
        coarse = torch.cat([looked.fused, guide_of(looked.fused)], dim=1)
        full = self.stats.full(coarse) if folds is None else enlarge(coarse, images)
        return full[:, 0], self.segment(looked.picture, full[:, 1:], looked.maps, looked.features)[:, 0].float()

    def forward(self, images: Tensor, inner: Tensor | None = None) -> Evidence:
        if not self.segmenting:
            judged = self.stats.judged(images, inner)
            return Evidence(judged, judged.flatten(1).amax(dim=1))
        maps = torch.stack(self.both(images, inner=inner))
        middle, width = self.unit[:, 0], self.unit[:, 1]
        maps = (maps - middle[:, None, None, None]) / width[:, None, None, None]
        picture, pixels = ((maps * weight[:, None, None, None]).sum(dim=0) for weight in self.use)
        return Evidence(pixels, picture.flatten(1).amax(dim=1), picture if self.apart else None)

    def facts(self) -> list[str]:
        """What the fit decided from the good pictures, as sentences."""
        lines = []
        for aim, measure, weights, row in zip(AIMS, MEASURES, self.use.tolist(), self.evidence, strict=True):
            line = f"for the {aim} {NAMED[(bool(weights[0]), bool(weights[1]))]}"
            if row.any():
                means = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(CANDIDATES, row[:, 0].tolist(), strict=True))
                least = zip(CANDIDATES[1:], row[1:, 1].tolist(), strict=True)
                gains = ", ".join(f"{name} {gain:+.3f}" for name, gain in least)
                line += f"; {measure} on proof forgeries: {means}; gain over the statistics at least (95 %): {gains}"
            lines.append(line)
        return [*lines, *self.stats.facts()]


def _silent(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1 x 1 convolution that says nothing until it has learnt something."""
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def guide_of(fused: Tensor) -> Tensor:
    """Fused surprise (-log p), n 1 gh gw -> the same on the scale of the segmenter's logit."""
    return 2 * (fused.clamp_min(0) / NATS).log1p()


def _padded(x: Tensor, side: int) -> Tensor:
    """n c h w -> h and w up to a multiple of `side`, the edge repeated below and right."""
    return F.pad(x, (0, -x.shape[-1] % side, 0, -x.shape[-2] % side), mode="replicate")


def enlarge(coarse: Tensor, images: Tensor) -> Tensor:
    """n c gh gw -> n c h w, the size of the pictures."""
    return F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)


def _resize(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The pixel reference takes the canvas's size, which is known only from the good pictures or from the file."""
    for name in ("mean", "deviation", "fold_mean", "fold_deviation"):
        if prefix + name in state:
            setattr(module, name, torch.empty_like(state[prefix + name]))
    state.setdefault(prefix + "first", torch.zeros(1, dtype=torch.int64))  # older models lack it, and need it no more


# ---- the pixel reference


@dataclass
class Pixels:
    """Sums of the good pictures at half resolution, by fold; empty before the first batch. first: indices of the first
    fold's pictures; n folds 1 1 1; total and squares folds 3 h/2 w/2."""

    first: set[int] = field(default_factory=set)
    n: Tensor = field(default_factory=lambda: torch.zeros(0))
    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    squares: Tensor = field(default_factory=lambda: torch.zeros(0))


def look_at_pixels(net: Guided, pixels: Pixels, batch: Batch) -> None:
    """Add the good pictures and their squares at half resolution to the sums of their folds."""
    x = F.avg_pool2d(batch.clean.contiguous(), 2).double()
    folds = net.stats.folds
    if not len(pixels.n):
        pixels.n = x.new_zeros(folds, 1, 1, 1)
        pixels.total, pixels.squares = (x.new_zeros(folds, *x.shape[1:]) for _ in range(2))
    pixels.first |= {index for index in batch.index.tolist() if index % folds == 0}
    for index, picture in zip(batch.index.tolist(), x, strict=True):
        pixels.n[index % folds] += 1
        pixels.total[index % folds] += picture
        pixels.squares[index % folds] += picture.square()


def fit_pixels(net: Guided, pixels: Pixels) -> None:
    """Mean and standard deviation of every pixel, of all pictures and without each fold; at least two grey levels."""

    def fitted(n: Tensor, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        mean = total / n.clamp_min(1)
        variance = (squares / n.clamp_min(1) - mean.square()).clamp_min(0) * n / (n - 1).clamp_min(1)
        return mean.float(), (variance + (2 / 255) ** 2).sqrt().float()

    net.first.fill_(len(pixels.first))
    parts = pixels.n, pixels.total, pixels.squares
    net.mean, net.deviation = (moment[0] for moment in fitted(*(part.sum(dim=0, keepdim=True) for part in parts)))
    net.fold_mean, net.fold_deviation = fitted(*(part.sum(dim=0, keepdim=True) - part for part in parts))


def inner_of(batch: Batch, place: int) -> Tensor | None:
    """Where the picture at this place of the batch lies on the canvas, 1 4; None where all pictures cover it."""
    inner: Tensor | None = batch.inner
    return None if inner is None else inner[place : place + 1]


# ---- the segmenter


def learnable(fused: Tensor, clean: Tensor, mask: Tensor, valid: Tensor, nats: float) -> Tensor:
    """Weights n 1 h w: `valid` without the forged regions where the statistics nowhere rise by `nats` above the good ones.

    Texture pasted into the same texture is invisible: learning to mark it would be learning to raise false alarms.
    fused, clean: fused surprise of the forged and of the good pictures, n 1 gh gw.
    """
    rise = F.interpolate(fused - clean, mask.shape[-2:], mode="bilinear", align_corners=False)[:, 0].cpu().numpy()
    weights = valid.clone()
    for i, forged in enumerate(mask[:, 0].cpu().numpy() > 0):
        if not forged.any():
            continue
        labels, count = ndimage.label(forged, structure=np.ones((3, 3)))
        highest = ndimage.maximum(rise[i], labels, np.arange(1, count + 1))
        blind = np.isin(labels, 1 + np.flatnonzero(highest < nats))
        weights[i, 0][torch.from_numpy(blind).to(weights.device)] = 0
    return weights


Fused = dict[tuple[int, float], Tensor]  # place and sum of a good picture -> its fused surprise


def fused_clean(net: Any, batch: Batch, folds: Sequence[int], known: Fused) -> Tensor:
    """The good pictures' fused surprise n 1 gh gw, computed once and cached in `known` (augmented copies by their sum)."""
    keys = list(zip(batch.index.tolist(), batch.clean.double().sum(dim=(1, 2, 3)).tolist(), strict=True))
    for i, key in enumerate(keys):
        if key not in known:
            with torch.no_grad(), torch.autocast(batch.clean.device.type, enabled=False):
                known[key] = net.stats.fuse(
                    net.stats.surprises(batch.clean[i : i + 1], folds[i : i + 1], inner_of(batch, i))
                )
    return torch.cat([known[key] for key in keys])


def loss(net: Any, batch: Batch, config: Config, known: Fused) -> dict[str, Tensor]:
    """Focal and dice loss over valid pixels, without forged regions that are invisible to the statistics (`learnable`)."""
    folds = [index % config.folds for index in batch.index.tolist()]
    looked = net.look(batch.forged, folds, batch.inner)
    weights = learnable(looked.fused, fused_clean(net, batch, folds, known), batch.mask, batch.valid, config.seen)
    guide = enlarge(guide_of(looked.fused), batch.forged)
    picture = looked.picture.contiguous(memory_format=torch.channels_last)
    logit = net.segment(picture, guide, looked.maps, looked.features).float()
    return losses(logit, batch.mask, weights, config)


def losses(logit: Tensor, mask: Tensor, weights: Tensor, config: Config) -> dict[str, Tensor]:
    """Focal loss per pixel and dice loss over the batch, with the weights n 1 h w; logit and mask n 1 h w."""
    return {
        "focal": config.focal * masked_mean(focal_map(logit, mask), weights),
        "dice": dice_loss(logit.sigmoid(), mask, weights),
    }


# ---- one unit for both maps


@dataclass
class Reserved:
    """Reserved good pictures: their indices, and the maps of them and of their augmented copies, as in `Guided.reserved`."""

    places: set[int] = field(default_factory=set)
    maps: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def look_at_units(net: Guided, reserved: Reserved, batch: Batch) -> None:
    """Keep both maps of the first fold's good pictures, judged by Gaussians fitted without that fold."""
    for i, index in enumerate(batch.index.tolist()):
        rank, other = divmod(index, net.stats.folds)
        if other == 0 and spaced(rank, int(net.first), RESERVED):
            maps = torch.stack(net.both(batch.clean[i : i + 1], [0], inner_of(batch, i)))[:, 0].cpu()
            reserved.places.add(index)
            reserved.maps.append((maps, batch.valid[i, 0].cpu() > 0))


def units_demand(net: Guided, canvas: tuple[int, int], pictures: int) -> Demand:
    """Memory for the reserved pictures' maps, and for their subsampled and sorted copies."""
    count = min(-(-pictures // net.stats.folds), RESERVED)
    return Demand(count * canvas[0] * canvas[1] * 4 * (2 + 2 * len(CANDIDATES) // THIN**2), None)


def fit_units(net: Guided, reserved: Reserved) -> None:
    """Each map's median, and its distance to the 99th percentile, on good pictures: the scale on which the two are added."""
    net.reserved, net.trained = reserved.maps, len(reserved.places) >= LEAST
    for place in range(2):
        values = torch.cat([maps[place][valid] for maps, valid in reserved.maps]).double().numpy()
        middle, high = np.quantile(values, (0.5, 0.99)) if len(values) else (0.0, 1.0)
        net.unit[place, 0], net.unit[place, 1] = float(middle), float(max(high - middle, 1e-6))


def pack(net: Guided, config: Config) -> None:
    """Drop the tensors that only training and gate needed; without a gate, apply `use` if there was any training."""
    if config.use != "gate":
        picture, _, pixels = config.use.partition("/")
        chosen = [picture, pixels or picture] if net.trained else ["statistics"] * 2
        net.use[:] = torch.tensor([USES[use] for use in chosen])
    net.stats.forget_folds()
    net.fold_mean, net.fold_deviation = net.fold_mean[:0].clone(), net.fold_deviation[:0].clone()
    net.settle()
    net.reserved = []


# ---- stages


def reserved(config: Config, pictures: int) -> Sequence[int]:
    """Indices of the first fold among that many good pictures; the segmenter is never trained on them."""
    return range(0, pictures, config.folds)


def statistics(config: Config) -> list[Stage]:
    """The passes over the good pictures; without a trunk the net is usable after them."""
    return [
        *looks(bool(config.backbone)),
        Collect(
            "pixels",
            lambda module: Pixels(),
            look_at_pixels,
            fit_pixels,
            usable=config.use != "statistics" and not config.backbone,
        ),
    ]


def segmenter(config: Config) -> list[Stage]:
    """Train the segmenter, then standardise both maps; no stage where `use` is "statistics"."""
    if config.use == "statistics":
        return []

    def optimiser(parameters: Sequence[Any]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)

    def taught(pictures: int) -> Sequence[int]:
        return [i for i in range(pictures) if i % config.folds] if len(reserved(config, pictures)) >= LEAST else []

    known: Fused = {}
    turn = Turn(
        name="segmenter",
        parameters=lambda module: module.learning(),
        optimiser=optimiser,
        loss=lambda module, batch: loss(module, batch, config, known),
        schedule=cosine_schedule,
    )
    units = Collect("units", lambda module: Reserved(), look_at_units, fit_units, demand=units_demand)
    return [Train("segmenter", [turn], draw=taught), units]


def packed(config: Config) -> Collect:
    """The last stage: keep only what judging needs."""

    def finish(module: Guided, state: None) -> None:
        pack(module, config)

    return Collect("pack", lambda module: None, lambda module, state, batch: None, finish)


def decided(net: Guided, config: Config) -> Config:
    """The settings that make another fit use what the gate chose here, for picture and map."""
    named = {weights: name for name, weights in USES.items()}
    picture, pixels = (named[row[0], row[1]] for row in net.use.tolist())
    return replace(config, use=cast(Use, picture if picture == pixels else f"{picture}/{pixels}"))


def trunk(net: Guided, config: Config, init: Init) -> list[str]:
    """Load the features of --trunk; returns sentences for the user. Raises ModelError where they do not fit."""
    assert net.stats.trunk is not None, "the form that --trunk fills has one"
    return start_from(net.stats.trunk.features, init)
