"""PatchCore: the distance of a picture's patches to their nearest neighbours in a memory bank of good ones.

Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler: "Towards total recall in industrial anomaly detection", CVPR 2022, arXiv
2106.08265, and the authors' released code.

    paper section                          here
    3.1 locally aware patch features       nn.patches.PatchFeatures: 3 x 3 means of the stages, on one grid
    3.2 coreset, algorithm 1               nn.coreset.Stream: the same greedy selection, over a stream in bounded memory
    3.3 detection, eq. 6                   nn.nearest.distances
    3.3 detection, eq. 7                   nn.nearest.reweighted (`reweight`; not in the authors' code, nor in `cpu`)
    3.3 segmentation                       `PatchCore.forward`: upsampled, then a Gaussian of 4 pixels

The features are pretrained on ImageNet, as in the paper: by default those of EfficientNet-Lite0 from an installed package,
and nothing is trained. With --trunk none no outside weights are used: within --minutes a small ResNet learns to tell the
product's good pictures from CutPaste forgeries; then it is frozen. What else differs from the paper:

    the memory has bounds                   half a percent of all patches, 1000 to 4000, with a trunk; 1024 to 8192 without
    each feature is scaled (`standardise`)  by its standard deviation over good patches; not in the paper
    three stages on a grid of 8 pixels      paper: two, at strides 8 and 16
    stages concatenated as they are         the authors' code first averages channels down to 1024
    no crop                                 the authors resize to 256 and keep the middle 224
    unjudged patches                        patches that influence no judged pixel are not kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor

from flawforge.forge.paste import CutPaste
from flawforge.nn.coreset import Stream, sketch
from flawforge.nn.density import resized
from flawforge.nn.nearest import distances, nearest, reweighted
from flawforge.nn.patches import CLASSES, PatchNet, PatchSettings, enlarged, learn_then, reach, take_trunk
from flawforge.nn.pretext import Labelled
from flawforge.types import Batch, Collect, Demand, Evidence, Forger, Method, ScoreRule, Train

LEAST = 1e-3


@dataclass(frozen=True)
class Config(PatchSettings):
    """Settings of PatchCore, here those of --trunk none; the comments give the paper's (or its released code's) values."""

    stages: Annotated[tuple[Annotated[int, Interval(ge=0, le=4)], ...], Len(1, 5)] = (2, 3)  # (2, 3)
    standardise: bool = False  # no
    share: Annotated[float, Interval(gt=0, le=1)] = 0.1  # 0.25, 0.1 or 0.01 of all patches
    least: Annotated[int, Ge(1)] = 1024  # none; patches in the memory, whatever their share
    most: Annotated[int, Ge(1)] = 8192  # none
    store: Annotated[int, Ge(2)] = 4  # times `most`: patches held while looking
    sketch: Annotated[int, Ge(1)] = 128  # 128; numbers by which the coreset measures distances
    reweight: Annotated[int, Ge(0)] = 0  # neighbours in eq. 7, 0 = without; paper: with, number not found; anomalib: 9
    top: Annotated[float, Interval(ge=0, le=1)] = 0.0  # the score is the mean of this share of the map; 0 = its maximum: 0


CPU = Config(
    backbone="lite0",
    stages=(1, 2, 3),
    grid=8,
    standardise=True,
    share=0.005,
    least=1000,
    most=4000,
    store=32,
    sketch=176,
    top=0.001,
    batch=4,
    precision="32-true",
)
PAPER = Config(backbone="wide_resnet50_2", share=0.1, least=1, most=65536, store=2, reweight=9)
TINY = Config(backbone="resnet18-tiny", stages=(1, 2), least=8, most=64, store=2, batch=4, precision="32-true")


class PatchCore(PatchNet):
    """Trunk, the pretext task's head where it is trained, and the memory. n 3 h w in [0, 1], any h and w -> Evidence."""

    bank: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config, local=True)
        self.config = config
        self.register_buffer("bank", torch.zeros(1, self.features.width))
        self.register_buffer("scale", torch.ones(self.features.width) if config.standardise else None)
        self.register_buffer("projection", sketch(self.features.width, config.sketch), persistent=False)
        resized(self, ("bank",))

    def embed(self, images: Tensor) -> Tensor:
        """n 3 h w -> features of every patch, n gh gw d float32."""
        return self.features(images).float().permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> Evidence:
        x = self.embed(images)
        scale = self.get_buffer("scale") if self.config.standardise else None
        x = x if scale is None else x * scale
        n, gh, gw, d = x.shape
        queries = x.reshape(n, gh * gw, d)
        if self.config.reweight:
            distance, place = nearest(queries, self.bank)
            score = reweighted(distance, place, queries, self.bank, self.config.reweight)
        else:
            distance, score = distances(queries, self.bank), None
        maps = enlarged(distance.reshape(n, gh, gw), images.shape[-2:], self.config.sigma)
        return Evidence(maps, maps.flatten(1).amax(dim=1) if score is None else score)


class Spread:
    """The standard deviation of each of d features over a stream of patches."""

    def __init__(self) -> None:
        self.count, self.first, self.sums = 0, torch.zeros(0), torch.zeros(0)

    def add(self, patches: Tensor) -> None:
        """Add n d patches."""
        patches = patches.double()
        if not self.count and len(patches):
            self.first, self.sums = patches.mean(dim=0), patches.new_zeros(2, patches.shape[1])
        apart = patches - self.first
        self.sums += torch.stack([apart.sum(dim=0), apart.square().sum(dim=0)])
        self.count += len(patches)

    def scale(self) -> Tensor:
        """The factor that makes each deviation 1, d float32; deviations are floored at LEAST times the largest."""
        mean, square = self.sums / self.count
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        return deviation.clamp_min(max(LEAST * float(deviation.max()), 1e-12)).reciprocal().float()


class Passing(NamedTuple):
    """State of the pass over the good pictures: the coreset's stream, and the spread of each feature."""

    stream: Stream
    spread: Spread


def begin(net: PatchCore) -> Passing:
    """An empty state."""
    config = net.config
    return Passing(Stream(config.most, config.store * config.most, net.get_buffer("projection")), Spread())


def remember(net: PatchCore, passing: Passing, batch: Batch) -> None:
    """Add this batch's patches to the coreset's stream, but for those that influence no judged pixel."""
    config, projection = net.config, net.get_buffer("projection")
    x = net.embed(batch.clean)
    patches = x[reach(batch.valid, x.shape[1:3], 4 * config.sigma)]
    if config.standardise and len(patches):
        passing.spread.add(patches)
        passing.stream.projection = passing.spread.scale()[:, None] * projection
    passing.stream.add(patches)


def settle(net: PatchCore, passing: Passing) -> None:
    """Choose the memory from the patches that the stream holds."""
    stream, spread = passing
    seen = stream.seen
    keep = min(max(round(net.config.share * seen), net.config.least), net.config.most)
    bank, away = stream.finish(keep)
    if net.config.standardise:
        net.register_buffer("scale", spread.scale())
        bank = bank * net.get_buffer("scale")
    net.register_buffer("bank", bank.contiguous())
    # After several reductions the bound is many times the truth, and would only mislead.
    how_far = f"; none of the others is farther than {away:.3g} from it" if stream.reductions == 1 else ""
    net.said = [f"the memory holds {len(bank)} of {seen} good patches{how_far}"]


def demand(net: PatchCore, canvas: tuple[int, int], pictures: int) -> Demand:
    """The cost of building the memory: bytes at the peak, and floating-point operations."""
    config, patches = net.config, net.features.places_on(canvas) * pictures
    capacity, numbers = config.store * config.most, net.get_buffer("projection").shape[1]
    return Demand(
        Stream.memory(config.most, min(capacity, patches), net.features.width, numbers),
        Stream.work(patches, config.most, capacity, numbers),
    )


def stages(net: PatchCore, config: Config) -> Sequence[Train | Collect]:
    """Train the features, unless they come from --trunk; then one pass over the good pictures."""
    return learn_then(net, config, Collect("memory", begin, remember, settle, demand=demand))


def forger(config: Config) -> Forger:
    """CutPaste's patches and scars, each a class of its own (its 3-way task), from which the features are learnt."""
    return Labelled(CutPaste(), "shape", CLASSES)


def score_rule(config: Config) -> ScoreRule:
    """Section 3.3: the largest distance; with `reweight` weighted by eq. 7, then over all patches, judged or not."""
    if config.reweight:
        return ScoreRule(reduce="network")
    return ScoreRule(reduce="top", top=config.top) if config.top else ScoreRule(reduce="max")


METHOD = Method(
    name="patchcore",
    title="distance to a memory of good patches; features of a pretrained network, no training",
    paper="Roth et al., CVPR 2022, arXiv 2106.08265; `cpu` has a smaller trunk and memory",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=PatchCore,
    stages=stages,
    forger=forger,
    score=score_rule,
    trunk=take_trunk,
    scratch=Config(),
)
