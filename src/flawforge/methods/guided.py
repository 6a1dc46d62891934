"""A segmenter trained on forged defects and guided by statistics of the good pictures; both maps are added.

Ours. The idea is SGSF's (arXiv 2209.12440): a segmenter gets, besides the picture, features of what is normal. Here these
are the closed-form statistics of `nn.normality`, so there is no guide to train, and the segmenter learns "this is less
likely than in good parts", which transfers between products.

    part                          in `nn.guided`           source
    guide                         `Guided.look`            -log p maps of the statistics: SGSF's guide in closed form
    the same over a trunk         `nn.trunkstats`          PatchCore (arXiv 2106.08265), PaDiM (arXiv 2011.08785)
    pixel reference               `look_at_pixels`         mean and deviation of every pixel of the good pictures
    segmenter                     `nn.unet.UNet`           DRAEM's discriminative net (arXiv 2108.07610), half resolution
    guide as a logit skip         `Guided.segment`         ours: an untrained segmenter repeats the statistics
    losses                        `loss`                   focal (Lin et al. 2017), dice over the batch (Milletari 2016)
    invisible forgeries           `learnable`              ours: forged regions that no statistic responds to are ignored
    head start                    `nn.head_start`          ours: weights trained on procedurally drawn products

Cross-fitting: the good pictures are split into `folds`, and the guide of a forged picture comes from Gaussians and a pixel
reference fitted without its fold, as it will for new parts. The first fold is withheld from the segmenter altogether, also
as a source of pasted patches.

All settings are assumptions: one set for every product. `auto` is the same with a gate (also available here as `use=gate`).
"""

from __future__ import annotations

from collections.abc import Sequence

from flawforge.forge.corrupt import Nsa
from flawforge.forge.mixtures import Mix
from flawforge.forge.paste import CutPaste
from flawforge.forge.physical import PHYSICAL
from flawforge.forge.texture import Perlin
from flawforge.nn.evidence import evidence
from flawforge.nn.gate import gate
from flawforge.nn.guided import TINY, Config, Guided, decided, packed, segmenter, statistics, trunk
from flawforge.types import Forger, Method, ScoreRule, Stage


def stages(net: Guided, config: Config) -> Sequence[Stage]:
    """Statistics, usable at once; then the segmenter. With too few pictures to train on, the statistics alone."""
    return [*statistics(config), *evidence(config, PHYSICAL), *segmenter(config), *gate(config, PHYSICAL), packed(config)]


def forger(config: Config) -> Forger:
    """Textures and pastes; the physical family is held out for the gate."""
    return Mix((Perlin(), CutPaste(), Nsa()))


def score_rule(config: Config) -> ScoreRule:
    """The mean of the map's highest `top` share of pixels (0.1 % by default); higher = more anomalous."""
    return ScoreRule(reduce="top", top=config.top)


METHOD = Method(
    name="guided",
    title="a segmenter trained on synthetic defects and guided by statistics of good pictures; both scores are added",
    paper="ours, based on the idea of SGSF, arXiv 2209.12440, guided by closed-form statistics",
    profiles={"cpu": Config(backbone="lite0")},
    tiny=TINY,
    build=Guided,
    stages=stages,
    forger=forger,
    score=score_rule,
    decided=decided,
    trunk=trunk,
    scratch=Config(),
    parts=True,
)
