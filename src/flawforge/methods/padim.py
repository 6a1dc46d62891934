"""PaDiM: one Gaussian for every place of the product, and a picture's distance to it.

Defard, Setkov, Loesch, Audigier: "PaDiM: a patch distribution modeling framework for anomaly detection and localization",
ICPR 2021 workshops, arXiv 2011.08785.

    paper section                          here
    III-A embedding extraction             nn.patches.PatchFeatures: stages 1 to 3 on one grid; `picks`: random numbers
    III-B learning of the normality        `gather` (sums and outer products, streamed), `settle` (eq. 1, with shrinkage)
    III-C inference, eq. 2                 `Padim.forward`: Mahalanobis distance, enlarged, a Gaussian of 4 pixels

The features are ImageNet's, as in the paper: by default those of EfficientNet-Lite0, which an installed package holds, and
nothing is trained. With --trunk none no outside weights are used: a small ResNet learns from the product's own good pictures
to tell them from CutPaste forgeries, within --minutes; then it is frozen. What else differs from the paper:

    a grid of 8 pixels with a trunk           the paper's is that of stage 1, 4 pixels: four times the matrices
    shrinkage towards the common covariance   eq. 1 adds 0.01 I; with fewer pictures than numbers that decides everything.
                                              The pull is that of the least expected error (nn.gaussians.shrinkage), each
                                              place's own ("common") or their mean for all ("even"); 0.01 of the common
                                              covariance stays on top (`shrink` "ridge" is eq. 1)
    letterbox border                          a place counts only the pictures in which it is judged
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
    """Trunk, the pretext's head where it is learnt, and the Gaussians. n 3 h w in [0, 1] on the canvas it was fitted on."""

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
        """n 3 h w -> the picked numbers of every place, n d gh gw float32."""
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
    """Of every place, about the first batch's mean, so that the numbers stay small; empty before that batch.

    size   gh gw, the places
    shift  places d 1, the first batch's mean
    count  places; total  places d; outer  places d d
    """

    size: tuple[int, int] = (0, 0)
    shift: Tensor = field(default_factory=lambda: torch.zeros(0))
    count: Tensor = field(default_factory=lambda: torch.zeros(0))
    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    outer: Tensor = field(default_factory=lambda: torch.zeros(0))


def gather(net: Padim, sums: Sums, batch: Batch) -> None:
    """Add the pictures to every place's count, sum and outer products."""
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
    """Turn the sums into a mean and the root of an inverse covariance for every place, which is written over the sums."""
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
    """What the Gaussians cost to fit: the outer products of every place, and the pictures' share of the arithmetic."""
    places, d = net.features.places_on(canvas), len(net.picks)
    return Demand(4 * places * d * (d + 2) + 6 * 8 * CHUNK * d * d, 2.0 * places * d * d * (pictures + 4 * d))


def stages(net: Padim, config: Config) -> Sequence[Train | Collect]:
    """The features are learnt, unless they came from --trunk; then one look at every good picture."""
    return learn_then(net, config, Collect("Gaussians", lambda module: Sums(), gather, settle, demand=demand))


def forger(config: Config) -> Forger:
    """CutPaste's patches and scars, each a class of its own (its 3-way question); the features are learnt from them."""
    return Labelled(CutPaste(), "shape", CLASSES)


def score_rule(config: Config) -> ScoreRule:
    """Section III-C: the map's maximum."""
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
