"""CutPaste: features learnt by telling pictures with a pasted patch from good ones, then the density of the good ones.

Li, Sohn, Yoon, Pfister: "CutPaste: self-supervised learning for anomaly detection and localization", CVPR 2021, arXiv
2104.04015.

    paper section                            here
    2.1, A.2 patch, scar                     `forger`: forge.cutpaste, labelled with which of the two it drew (`Labelled`)
    2.2 binary and 3-way classification      nn.pretext.Pretext, `picture_loss`
    2.3 Gaussian density of pooled features  nn.density.PictureDensity
    4.2, A.5 patch model on 64 x 64 crops    `crop_loss` on nn.pretext.crops, with several forgeries a picture (`Crowd`)
    A.5 windows of 32, stride 4, Gaussian    nn.localise.WindowMap
        upsampling
    4.2 one Gaussian per location, or one    nn.density.PlaceDensity: decided by the likelihood of good pictures; the authors
        for all                              chose by product
    A.1 optimisation                         nn.pretext.classifying
    A.1 a pretrained network: the head       nn.tuning, where a trunk is given (the default); fine-tuned weights are kept
        first, then all layers               only where our gate shows a gain

Profile `paper` keeps the published network, batch and schedule; what the paper does not give is marked in `Config`. Profile
`cpu` is our reconstruction for two cores. It starts from EfficientNet-Lite0; with --trunk none it trains from scratch, with:

    a quarter of the width (0.7 M parameters)                  150 pictures per second and core instead of 15
    batch 12 + 12 instead of 32 originals each way             more steps within a small budget
    map from the stages of the picture's own network           a map of windows costs as much as 50 pictures (`localise`)
    -2 log density instead of a distance                       see nn.density; places of low variance count for more
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from flawforge.forge.mixtures import Pipe
from flawforge.forge.paste import CutPaste
from flawforge.forge.physical import PHYSICAL
from flawforge.nn.density import PictureDensity
from flawforge.nn.localise import Collected, Detector, Form, StageMap, WindowMap, begin, fit_densities, look
from flawforge.nn.pretext import Labelled, Pretext, classifying, crops, pair, shown, told_apart, varied
from flawforge.nn.resnet import Variant, put_weights
from flawforge.nn.tuning import TunedSettings, decided, gate, head_lesson, refuse_both, take_trunk, whole_lesson
from flawforge.types import Batch, Collect, Forged, Forger, Init, Method, Sample, ScoreRule, Stage, Train

SHAPES = {"patch": "patch", "scar": "scar", "union": "both", "3-way": "both"}


@dataclass(frozen=True)
class Config(TunedSettings):
    """Settings of CutPaste, here those of --trunk none; the comments give the paper's values."""

    variant: Variant = "resnet18-quarter"  # resnet18
    hidden: tuple[Annotated[int, Ge(1)], ...] = (128,)  # not given; public codes: 512 once or 8 times, then 128
    task: Literal["patch", "scar", "union", "3-way"] = "3-way"  # 3-way
    shift: Annotated[float, Interval(ge=0, le=0.25)] = 0.04  # "random translation", amount not given
    jitter: Annotated[float, Interval(ge=0, le=1)] = 0.1  # "colour jitter", amount not given
    density: Literal["gaussian", "nearest"] = "gaussian"  # gaussian
    unit: bool = False  # False; a public code scales features to length 1
    localise: Literal["stages", "windows"] = "stages"  # windows
    stages: Annotated[int, Interval(ge=1, le=4)] = 2  # the trunk's first stages that the map of `stages` uses
    crop: Annotated[int, Ge(8)] = 64  # 64; crops that the patch model is trained on
    crops: Annotated[int, Ge(2)] = 96  # 64 or 96; crops in a batch
    patches: Annotated[int, Ge(1)] = 6  # pieces pasted into a picture before it is cut into crops (ours)
    window: Annotated[int, Ge(8)] = 32  # 32; section 4.2 speaks of 64
    step: Annotated[int, Ge(1)] = 8  # 4
    sigma: Annotated[float, Gt(0)] = 8.0  # not given; FCDD's code has 10 for a kernel of 32
    dims: Annotated[int, Ge(1)] = 56  # all 512; features that the map uses
    keep: Literal["auto", "places", "shared"] = "auto"  # by hand, per product
    surprise: Literal["density", "distance"] = "density"  # distance
    score: Literal["picture", "map"] = "picture"  # picture
    batch: Annotated[int, Ge(2)] = 12  # 32 originals, each good and forged (64; 96 for 3-way)
    epochs: Annotated[float, Ge(0)] = 0.0  # 65,536 updates; 0 = the budget is given in minutes or steps
    learning_rate: Annotated[float, Gt(0)] = 0.03  # 0.03
    weight_decay: Annotated[float, Ge(0)] = 3e-5  # 3e-5
    crop_share: Annotated[float, Interval(gt=0, lt=1)] = 0.3  # two models, 65,536 updates each
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
    localise="windows",
    step=4,
    sigma=10.0,
    dims=128,
    surprise="distance",
    batch=32,
    epochs=20_000,
    crop_share=0.5,
    precision="32-true",
)
TINY = Config(
    variant="resnet18-tiny",
    hidden=(8,),
    localise="windows",
    crop=32,
    crops=8,
    patches=2,
    window=16,
    step=8,
    sigma=5.0,
    dims=6,
    batch=4,
    precision="32-true",
)


def build(config: Config) -> Detector:
    """Section 2: a network for the picture, another for crops where the map is of windows, and the densities."""
    picture = Pretext(config.variant, 3 if config.task == "3-way" else 2, config.hidden, backbone=config.backbone)
    whole = PictureDensity(picture.widths[-1], config.density, config.unit)
    form = Form(config.dims, config.step, config.sigma, config.keep, config.surprise)
    if config.localise == "windows":
        return Detector(picture, whole, WindowMap(Pretext(config.variant, 2, config.hidden), form, config.window))
    return Detector(picture, whole, StageMap(picture.widths[: config.stages], form))


# ---- training


def picture_loss(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Section 2.2, eq. 1: cross-entropy, with one class for each kind of forgery in the 3-way task."""
    pictures, kind = pair(batch)
    logits = net.classify(varied(pictures, config.shift, config.jitter))
    return {"classes": told_apart(logits, kind)} | shown(logits, kind)


def crop_loss(net: Any, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Section 4.2: the same on crops. A crop counts as forged where a part of it is."""
    cut, kind = crops(batch, config.crop, config.crops)
    if len(cut) < 2:  # batch norm needs two; a region of interest may leave none
        return {"crops": 0.0 * sum(p.sum() for p in net.surface.crop.parameters())}
    logits = net.classify_crops(varied(cut, 0.0, config.jitter))
    return {"crops": told_apart(logits, kind)} | shown(logits, kind)


def stages(net: Detector, config: Config) -> Sequence[Stage]:
    """Train the picture's network, and the patch network where the map needs one; the gate of a trunk; the densities."""

    def loss(module: Any, batch: Batch) -> dict[str, Tensor]:
        return picture_loss(module, batch, config)

    rates = {"rate": config.learning_rate, "decay": config.weight_decay}
    name, plan = "tell pasted pictures from good ones", list[Stage]()
    if config.backbone:
        plan += head_lesson(config, f"{name}: the head", loss, **rates)
        plan += whole_lesson(config, name, loss, decay=config.weight_decay)
    else:
        plan.append(Train(name, [classifying("picture", lambda m: m.picture, loss, **rates)], share=1.0))
    if config.localise == "windows":
        turn = classifying("crops", lambda m: m.surface.crop, lambda m, batch: crop_loss(m, batch, config), **rates)
        share, crowd = config.crop_share / (1 - config.crop_share), Crowd(config.crop, config.patches)
        plan.append(Train("tell pasted crops from good ones", [turn], share=share, forger=crowd))
    plan += gate(config, PHYSICAL, config.score == "map") if config.backbone else []
    return [*plan, Collect("densities", begin, look, finish)]


def finish(net: Detector, looked: Collected) -> None:
    """Fit the densities, and drop the copy of the weights from --trunk."""
    fit_densities(net, looked)
    net.given = {}


def start(net: Detector, config: Config, init: Init) -> list[str]:
    """Take the trunk from --init: a flawforge model, or a ResNet in torchvision's or timm's naming.

    Raises ModelError where the weights do not fit, ConfigError where the network starts from --trunk.
    """
    refuse_both(config)
    put_weights(net.picture.trunk, init.tensors, "--init", prefer="picture.trunk.")
    return ["the picture's network starts from --init; CutPaste's own starts from nothing"]


def trunk(net: Detector, config: Config, init: Init) -> list[str]:
    """Start the picture's network from --trunk. Raises ModelError where the weights do not fit."""
    return take_trunk(net, init)


# ---- forging


@dataclass(frozen=True)
class Crowd:
    """Several CutPastes in one picture, each sized for a crop, so that most crops of the picture can be used.

    side   of the crops that the picture is cut into, in px; a patch's area is a share of a crop's
    count  how many patches are pasted, one after another
    """

    side: int
    count: int

    @property
    def forgers(self) -> tuple[Forger, ...]:
        """The forgers that it is made of."""
        return (self._one(1.0),)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        share = min(self.side**2 / (sample.image.shape[0] * sample.image.shape[1]), 1.0)
        return Pipe(forgers=(self._one(share),) * self.count)(sample, rng)

    def _one(self, share: float) -> Forger:
        return CutPaste(area=(max(0.02 * share, 0.0005), max(0.15 * share, 0.001)))


def forger(config: Config) -> Forger:
    """Section 2.1 and A.2; each forgery is labelled as a patch (class 1) or a scar (class 2)."""
    return Labelled(CutPaste(shape=SHAPES[config.task]), "shape", ("patch", "scar"))


def score_rule(config: Config) -> ScoreRule:
    """The density of the whole picture, or the mean of the map's highest 0.1 % of pixels; higher = more anomalous."""
    return ScoreRule(reduce="network") if config.score == "picture" else ScoreRule(reduce="top")


METHOD = Method(
    name="cutpaste",
    title="learns features that separate pasted pieces from good pictures, then the density of good ones",
    paper="Li et al., CVPR 2021, arXiv 2104.04015; `cpu` starts from EfficientNet-Lite0",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=build,
    stages=stages,
    forger=forger,
    score=score_rule,
    start=start,
    trunk=trunk,
    scratch=Config(),
    decided=decided,
)
