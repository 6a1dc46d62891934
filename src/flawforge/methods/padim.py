"""PaDiM: one Gaussian of patch features for every position, and the Mahalanobis distance of a picture's patches to it.

Defard, Setkov, Loesch, Audigier: "PaDiM: a patch distribution modeling framework for anomaly detection and localization",
ICPR 2021 workshops, arXiv 2011.08785.

    paper section                          here
    III-A embedding extraction             nn.patches.PatchFeatures: stages 1 to 3 on one grid; `picks`: random numbers
    III-B learning of the normality        `gather` (sums and outer products, streamed), `settle` (eq. 1, with shrinkage)
    III-C inference, eq. 2                 `Padim.forward`: Mahalanobis distance, enlarged, a Gaussian of 4 pixels

The features are pretrained on ImageNet, as in the paper: by default those of EfficientNet-Lite0 from an installed package,
and nothing is trained. With --trunk none no outside weights are used: within --minutes a small ResNet learns to tell the
product's good pictures from CutPaste forgeries; then it is frozen. What else differs from the paper:

    a grid of 8 pixels with a trunk           the paper's is that of stage 1, 4 pixels: four times the matrices
    shrinkage towards the common covariance   eq. 1 adds 0.01 I, which dominates where pictures are fewer than features.
                                              The weight minimises the expected error (nn.gaussians.shrinkage), for each
                                              position ("common") or averaged over them ("even"); 0.01 of the common
                                              covariance is added besides (`shrink` "ridge" is eq. 1)
    letterbox border                          a position uses only the pictures in which it is judged
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from flawforge.forge.paste import CutPaste
from flawforge.nn.density import resized
from flawforge.nn.gaussians import shrinkage, whitener
from flawforge.nn.patches import CLASSES, PatchNet, PatchSettings, enlarged, learn_then, reach, take_trunk
from flawforge.nn.pretext import Labelled
from flawforge.types import Batch, Collect, Demand, Evidence, Forger, Method, ScoreRule, Train

CHUNK = 256  # places whose matrices are inverted at a time
RIDGE = 0.01  # the paper's


@dataclass(frozen=True)
class Config(PatchSettings):
    """Settings of PaDiM, here those of --trunk none; the comments give the paper's values."""

    numbers: Annotated[int, Ge(0)] = 64  # 100 of 448 or 550 of 1792, at random; 0 = all
    shrink: Literal["even", "common", "ridge"] = "common"  # "ridge"


CPU = Config(backbone="lite0", grid=8, numbers=100, shrink="even", batch=4, precision="32-true")
PAPER = Config(backbone="resnet18", numbers=100, shrink="ridge")
TINY = Config(backbone="resnet18-tiny", stages=(2, 3), numbers=6, batch=4, precision="32-true")


class Padim(PatchNet):
    """Trunk, the pretext task's head where it is trained, and the Gaussians. n 3 h w in [0, 1] on the fitted canvas."""

    picks: Tensor
    centre: Tensor
    factor: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config, local=False)
        self.config = config
        d = self.features.width
        kept = torch.randperm(d)[: config.numbers or d].sort().values
        self.register_buffer("picks", kept)
        self.register_buffer("centre", torch.zeros(len(kept), 1, 1))
        self.register_buffer("factor", torch.zeros(1, len(kept), len(kept)))
        resized(self, ("centre", "factor"))

    def embed(self, images: Tensor) -> Tensor:
        """n 3 h w -> the selected d features of every position, n d gh gw float32."""
        return self.features(images).float().index_select(1, self.picks)

    def forward(self, images: Tensor) -> Evidence:
        x = self.embed(images) - self.centre
        n, d, gh, gw = x.shape
        white = torch.bmm(self.factor, x.permute(2, 3, 1, 0).reshape(gh * gw, d, n))  # places d n
        distances = white.square().sum(dim=1).sqrt().T.reshape(n, gh, gw)
        maps = enlarged(distances, images.shape[-2:], self.config.sigma)
        return Evidence(maps, maps.flatten(1).amax(dim=1))


@dataclass
class Sums:
    """Sums for every position, about the first batch's mean for numerical stability; empty before that batch.

    size   gh gw, the grid of positions
    shift  positions d 1, the first batch's mean
    count  positions; total  positions d; outer  positions d d
    """

    size: tuple[int, int] = (0, 0)
    shift: Tensor = field(default_factory=lambda: torch.zeros(0))
    count: Tensor = field(default_factory=lambda: torch.zeros(0))
    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    outer: Tensor = field(default_factory=lambda: torch.zeros(0))


def gather(net: Padim, sums: Sums, batch: Batch) -> None:
    """Add the pictures to every position's count, sum and outer products."""
    x = net.embed(batch.clean)
    size = (x.shape[-2], x.shape[-1])
    weight = reach(batch.valid, size, 4 * net.config.sigma).flatten(1).to(x.dtype)  # n places
    x = x.flatten(2).permute(2, 1, 0)  # places d n
    if not len(sums.count):
        places, d, _ = x.shape
        sums.size, sums.shift, sums.count = size, x.mean(dim=2, keepdim=True), x.new_zeros(places)
        sums.total, sums.outer = x.new_zeros(places, d), x.new_zeros(places, d, d)
    x = (x - sums.shift) * weight.T[:, None]
    sums.count += weight.sum(dim=0)
    sums.total += x.sum(dim=2)
    sums.outer.baddbmm_(x, x.transpose(1, 2))


def settle(net: Padim, sums: Sums) -> None:
    """Turn the sums into a mean and a root of the inverse covariance for every position; overwrites the sums."""
    shrink, count, total, outer = net.config.shrink, sums.count, sums.total, sums.outer
    d, (gh, gw) = total.shape[1], sums.size
    mean = total / count.clamp_min(1)[:, None]
    known = count > 0
    centre = (sums.shift[..., 0] + mean).T
    common = centre[:, known].mean(dim=1, keepdim=True)
    net.register_buffer("centre", torch.where(known, centre, common).reshape(d, gh, gw).contiguous())
    free = (count - 1).clamp_min(0)
    for part in torch.arange(len(count), device=count.device).split(CHUNK):
        outer[part] -= torch.einsum("kd,ke,k->kde", mean[part], mean[part], count[part])
    eye = torch.eye(d, dtype=torch.float64, device=count.device)
    white = eye
    pulls = torch.zeros(len(count), dtype=torch.float64, device=count.device)
    if shrink != "ridge":
        white = whitener(outer.sum(dim=0, dtype=torch.float64) / free.sum().clamp_min(1))
        for part in torch.arange(len(count), device=count.device).split(CHUNK):
            pulls[part] = shrinkage(_whitened(outer[part], free[part], white), free[part].double())
        if shrink == "even":
            pulls[:] = pulls[known].mean()
    for part in torch.arange(len(count), device=count.device).split(CHUNK):
        covariance, pull = _whitened(outer[part], free[part], white), pulls[part][:, None, None]
        covariance = (1 - pull) * covariance + (pull + RIDGE) * eye
        root = torch.linalg.cholesky(covariance)
        outer[part] = torch.linalg.solve_triangular(root, white.expand_as(root), upper=False).float()
    net.register_buffer("factor", outer)
    if shrink != "ridge":
        pulled = float(pulls[known].mean())
        net.said = [
            f"{int(known.sum())} Gaussians of {d} numbers from {int(count.max())} good pictures; on average {pulled:.0%} of "
            "a covariance is the common one"
        ]


def _whitened(outer: Tensor, free: Tensor, white: Tensor) -> Tensor:
    """Sums of outer products k d d of so many degrees of freedom -> whitened covariances, double."""
    return white @ (outer.double() / free.clamp_min(1)[:, None, None]) @ white.T


def demand(net: Padim, canvas: tuple[int, int], pictures: int) -> Demand:
    """The cost of fitting the Gaussians: memory for the outer products of every position, and operations per picture."""
    places, d = net.features.places_on(canvas), len(net.picks)
    return Demand(4 * places * d * (d + 2) + 6 * 8 * CHUNK * d * d, 2.0 * places * d * d * (pictures + 4 * d))


def stages(net: Padim, config: Config) -> Sequence[Train | Collect]:
    """Train the features, unless they come from --trunk; then one pass over the good pictures."""
    return learn_then(net, config, Collect("Gaussians", lambda module: Sums(), gather, settle, demand=demand))


def forger(config: Config) -> Forger:
    """CutPaste's patches and scars, each a class of its own (its 3-way task), from which the features are learnt."""
    return Labelled(CutPaste(), "shape", CLASSES)


def score_rule(config: Config) -> ScoreRule:
    """Section III-C: the map's maximum; higher = more anomalous."""
    return ScoreRule(reduce="max")


METHOD = Method(
    name="padim",
    title="one Gaussian for each position on the part; features of a pretrained network, no training",
    paper="Defard et al., ICPR 2021, arXiv 2011.08785; `cpu` has a smaller trunk and a coarser grid",
    profiles={"cpu": CPU, "paper": PAPER},
    tiny=TINY,
    build=Padim,
    stages=stages,
    forger=forger,
    score=score_rule,
    trunk=take_trunk,
    scratch=Config(),
)
