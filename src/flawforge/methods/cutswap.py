"""CutSwap: features learnt by classifying pictures with two salient patches swapped, then the density of the good ones.

Qin, Gu, Yu, Zhang, arXiv 2311.18332; Signal, Image and Video Processing 18 (2024). Only the abstract was available to us.
Its content is in the left column; everything else is an ASSUMPTION that follows CutPaste's recipe, marked so in `Config`.

    known from the abstract                                  here
    LayerCAM turns features of several levels into maps      `see`, nn.layercam
    clustering gives several centroids                       forge.cutswap: of the saliency alone, k-means or fuzzy c-means
    on each map, a pixel pair of the cluster whose           forge.cutswap; it gets the maps through `CutSwap.priors`
        centroid is the most salient
    the pixels define a patch pair, which is swapped         forge.cutswap
    such negatives train a feature extractor                 `loss`, nn.pretext
    (how anomalies are then scored: not known)               nn.density, nn.localise: CutPaste's density

LayerCAM needs a class score. The abstract names no network; one trained on ImageNet is the most likely. By default the
network starts from EfficientNet-Lite0, and the classifier of the same package predicts the class, so the maps guide the
swaps from the first step. The head is trained first, then all layers, and a gate decides whether the fine-tuned features are
kept (nn.tuning). With --trunk none the saliency is the network's own: it first trains on swaps at random places, for
`warm_share` of the budget; then LayerCAM of its predicted class is computed once for every good picture, and training goes
on with swaps at salient places. With --init and a ResNet whose file has its classifier (`fc`) the first part is skipped.

The maps are computed in one pass over the good pictures, kept in the checkpoint as 8 bits at each level's own size, and
dropped before the model is saved.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval, MinLen
from numpy.typing import NDArray
from torch import Tensor

from flawforge.forge import salient
from flawforge.forge.mixtures import Pipe
from flawforge.forge.physical import PHYSICAL
from flawforge.nn.density import PictureDensity, resized
from flawforge.nn.layercam import layercam
from flawforge.nn.localise import Collected, Detector, Form, StageMap, begin, fit_densities, look
from flawforge.nn.pretext import Labelled, Pretext, classifying, either, pair, shown, told_apart, varied
from flawforge.nn.resnet import Variant, pooled, put_weights
from flawforge.nn.trunks import classifier_of
from flawforge.nn.tuning import TunedSettings, decided, gate, head_lesson, refuse_both, take_trunk, whole_lesson
from flawforge.types import Batch, Collect, Forged, Forger, Init, Method, Sample, ScoreRule, Stage, Train

SALIENT = ("salient1", "salient2", "salient3", "salient4")


@dataclass(frozen=True)
class Config(TunedSettings):
    """Settings of CutSwap, here those of --trunk none. The paper's are not known; a comment says where ours come from."""

    variant: Variant = "resnet18-quarter"  # resnet18 likely
    hidden: tuple[Annotated[int, Ge(1)], ...] = (128,)  # as for cutpaste
    saliency: Literal["network", "none"] = "network"  # "none" = swaps at random places (control)
    levels: Annotated[tuple[Annotated[int, Interval(ge=1, le=4)], ...], MinLen(1)] = (1, 2, 3, 4)  # "multilevel"; all stages
    reading: Literal["binary", "levels", "all"] = "binary"  # a class per level; all levels in one picture
    clusters: Annotated[int, Interval(ge=1, le=16)] = 3  # "several"
    clustering: Literal["kmeans", "fuzzy"] = "kmeans"  # not named
    pick: Literal["highest", "lowest", "random"] = "highest"  # highest (known)
    exchange: bool = True  # True (known)
    area: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.02, 0.15)  # CutPaste's
    warm_share: Annotated[float, Interval(gt=0, lt=1)] = 0.3  # ours; of the budget, on swaps at random places
    shift: Annotated[float, Interval(ge=0, le=0.25)] = 0.04  # as for cutpaste
    jitter: Annotated[float, Interval(ge=0, le=1)] = 0.1  # as for cutpaste
    density: Literal["gaussian", "nearest"] = "gaussian"  # CutPaste's
    unit: bool = False
    stages: Annotated[int, Interval(ge=1, le=4)] = 2  # the trunk's first stages that the map uses (ours)
    step: Annotated[int, Ge(1)] = 8  # px between places of the map (ours)
    sigma: Annotated[float, Gt(0)] = 8.0
    dims: Annotated[int, Ge(1)] = 56  # features that the map uses
    keep: Literal["auto", "places", "shared"] = "auto"
    surprise: Literal["density", "distance"] = "density"
    score: Literal["picture", "map"] = "picture"
    batch: Annotated[int, Ge(2)] = 12  # each good and forged
    learning_rate: Annotated[float, Gt(0)] = 0.03  # CutPaste's
    weight_decay: Annotated[float, Ge(0)] = 3e-5  # CutPaste's
    forge_share: Annotated[float, Interval(gt=0, le=1)] = 1.0  # 1: every forged picture has its good one beside it


CPU = Config(
    backbone="lite0",
    tune_rate=1e-3,
    stages=3,
    dims=80,
    score="map",
    batch=8,
    precision="32-true",
)
PAPER = Config(
    variant="resnet18",
    hidden=(512, 128),
    stages=3,
    step=4,
    dims=100,
    surprise="distance",
    batch=32,
    epochs=10_000,
    precision="32-true",
)
TINY = Config(variant="resnet18-tiny", hidden=(8,), levels=(1, 2), dims=6, batch=4, precision="32-true")


class CutSwap(Detector):
    """A detector that also holds saliency maps of the good pictures. n 3 h w in [0, 1], any size -> Evidence.

    From the stage that computes them to the end of the fit, the maps are one buffer per level: pictures h w uint8.
    """

    salient1: Tensor

    def __init__(self, config: Config) -> None:
        classes = 1 + (len(config.levels) if config.reading == "levels" else 1)
        picture = Pretext(config.variant, classes, config.hidden, backbone=config.backbone)
        whole = PictureDensity(picture.widths[-1], config.density, config.unit)
        form = Form(config.dims, config.step, config.sigma, config.keep, config.surprise)
        super().__init__(picture, whole, StageMap(picture.widths[: config.stages], form))
        self.levels = config.levels
        for name in SALIENT:
            self.register_buffer(name, torch.zeros(0, 1, 1, dtype=torch.uint8))
        resized(self, SALIENT)
        self.guide: tuple[Any, ...] = ()  # from --init or --trunk, in no buffer: stages' outputs, and their classes' logits
        self.maps: list[NDArray[np.uint8]] = []

    def named_class(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """n 3 h w -> the stages' outputs, and n, the logit of the class that the guide, or else this network, predicts."""
        if self.guide:
            network, classes = (each.to(images.device) for each in self.guide)
            levels = list(network.levels(images))
            return levels, classes(levels[-1]).amax(dim=1)
        levels = list(self.picture.levels(images))
        return levels, self.picture.head(pooled(levels)).amax(dim=1)

    def priors(self, index: int) -> list[NDArray[np.float32]] | None:
        """The maps of one good picture or varied copy, by its place in the look at all of them. Fine to coarse, h w float32
        in [0, 1]; None where there are none yet.

        A forecast of the fit's duration passes only some of the pictures to `see`.
        """
        if index >= len(self.salient1):
            return None
        if not self.maps:
            self.maps = [getattr(self, name).cpu().numpy() for name in SALIENT]
        return [self.maps[level - 1][index].astype(np.float32) / np.float32(255) for level in self.levels]


# ---- saliency


def see(net: CutSwap, seen: list[list[Tensor]], batch: Batch) -> None:
    """Append LayerCAM maps of these good pictures at every stage to `seen`."""
    with torch.enable_grad():
        levels, score = net.named_class(batch.clean)
        maps = layercam(levels, score)
    seen.append([(255 * each).round().to(torch.uint8) for each in maps])


def remember(net: CutSwap, seen: list[list[Tensor]]) -> None:
    """Store the maps of all good pictures in the net, for the forger."""
    for place, name in enumerate(SALIENT):
        setattr(net, name, torch.cat([maps[place] for maps in seen]))
    net.maps = []


def finish(net: CutSwap, looked: Collected) -> None:
    """Fit the densities, and drop the maps."""
    fit_densities(net, looked)
    for name in SALIENT:
        setattr(net, name, torch.zeros(0, 1, 1, dtype=torch.uint8, device=net.salient1.device))
    net.maps, net.guide, net.given = [], (), {}


# ---- training


def loss(net: Any, batch: Batch, config: Config, warm: bool = False) -> dict[str, Tensor]:
    """Cross-entropy of good against swapped; with one class per level once there are maps (not while `warm`)."""
    pictures, kind = pair(batch)
    logits = net.classify(varied(pictures, config.shift, config.jitter))
    apart = either(logits, kind) if warm else told_apart(logits, kind)
    return {"classes": apart} | shown(logits, kind)


def stages(net: CutSwap, config: Config) -> Sequence[Stage]:
    """Train on swaps at random places, compute the saliency, train on swaps at salient places, fit the densities."""

    def told(warm: bool) -> Callable[[Any, Batch], dict[str, Tensor]]:
        return lambda module, batch: loss(module, batch, config, warm)

    rates = {"rate": config.learning_rate, "decay": config.weight_decay}

    def teach(name: str, share: float, warm: bool) -> Train:
        return Train(name, [classifying("picture", lambda m: m.picture, told(warm), **rates)], share=share)

    random, salient = "tell swaps at random places", "tell swaps at salient places"
    maps = Collect("saliency", lambda module: [], see, remember)
    saliency: list[Stage] = [maps] if config.saliency == "network" else []
    densities = Collect("densities", begin, look, finish)
    if config.backbone:
        if config.tuning == "never":
            return [densities]
        first = bool(net.guide) or not saliency  # whether the head, too, learns from what the whole network will
        name = salient if saliency else random
        head = head_lesson(config, f"{name if first else random}: the head", told(not saliency or not first), **rates)
        whole = whole_lesson(config, name, told(not saliency), decay=config.weight_decay)
        order: list[Stage] = [*saliency, *head, *whole] if first else [*head, *saliency, *whole]
        return [*order, *gate(config, AtLevel(PHYSICAL, None), config.score == "map"), densities]
    if not saliency:
        return [teach(random, 1.0, True), densities]
    if net.guide:
        return [*saliency, teach(salient, 1.0, False), densities]
    warm = config.warm_share
    return [teach(random, warm, True), *saliency, teach(salient, 1.0 - warm, False), densities]


def start(net: CutSwap, config: Config, init: Init) -> list[str]:
    """Take the trunk from --init: a flawforge model, or a ResNet in torchvision's naming, whose classifier is the guide.

    Raises ModelError where the weights do not fit, ConfigError where the network starts from --trunk.
    """
    refuse_both(config)
    put_weights(net.picture.trunk, init.tensors, "--init", prefer="picture.trunk.")
    classes = classifier_of(init, net.picture.widths[-1])
    if classes is None:
        return ["the network starts from --init and makes its own saliency, for the file has no classifier (fc)"]
    net.guide = (copy.deepcopy(net.picture).eval(), classes)
    return [f"the network starts from --init, whose classifier of {classes.classes} classes says where a picture is salient"]


def trunk(net: CutSwap, config: Config, init: Init) -> list[str]:
    """Start the network from --trunk; the classifier of its file, where there is one, is the guide."""
    notes = take_trunk(net, init)
    classes = classifier_of(init, net.picture.widths[-1])
    if classes is None:
        return [*notes, "the network makes its own saliency, for these weights have no classifier"]
    net.guide = (net.picture, classes)
    return [*notes, "the classifier of these weights says where a picture is salient"]


# ---- forging


@dataclass(frozen=True)
class AtLevel:
    """A forger that gets only one level of the saliency; with None, no saliency at all."""

    forger: Forger
    level: int | None

    @property
    def forgers(self) -> tuple[Forger, ...]:
        """The forgers that it is made of."""
        return (self.forger,)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        prior = sample.prior
        if self.level is None:
            prior = None
        elif prior is not None and prior.ndim == 3:
            prior = np.ascontiguousarray(prior[..., self.level])
        return self.forger(dataclasses.replace(sample, prior=prior), rng)


def forger(config: Config) -> Forger:
    """Swaps at salient places; without saliency, at random ones. The grids are the stages' at 256 px: 64 to 8 cells."""
    cells = tuple(128 >> level for level in config.levels)
    swap = salient.CutSwap(
        levels=cells,
        clusters=config.clusters,
        clustering=config.clustering,
        pick=config.pick,
        exchange=config.exchange,
        area=config.area,
    )
    if config.reading == "all":
        return Pipe(
            forgers=tuple(AtLevel(dataclasses.replace(swap, levels=(each,)), place) for place, each in enumerate(cells))
        )
    return Labelled(swap, "level", cells)


def score_rule(config: Config) -> ScoreRule:
    """The density of the whole picture, or the mean of the map's highest 0.1 % of pixels; higher = more anomalous."""
    return ScoreRule(reduce="network") if config.score == "picture" else ScoreRule(reduce="top")


METHOD = Method(
    name="cutswap",
    title="learns features that separate swapped salient patches from good pictures, then the density of good ones",
    paper="Qin et al., arXiv 2311.18332, only the abstract was available; the rest is our design, based on CutPaste",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=CutSwap,
    stages=stages,
    forger=forger,
    score=score_rule,
    prior="network",
    start=start,
    trunk=trunk,
    scratch=Config(),
    decided=decided,
)
