"""The default: fits statistics in seconds, then trains the guided segmenter, which counts only where it proves better.

Ours. `methods.guided` documents the statistics and the segmenter; this file adds the gate.

    part          in `nn`                     source
    statistics    `guided.statistics`         `patchstats`; over a trunk PatchCore's memory and PaDiM's Gaussians
    what counts   `evidence`                  ours: held-out forgers on reserved good pictures; then the model is usable
    segmenter     `guided.segmenter`          `methods.guided`
    gate          `gate`: `prove`, `decide`   ours: held-out forgers on reserved good pictures

On the first fold of the good pictures, which the segmenter is never trained on, defects of a held-out family (the physical
one) are forged. They decide which statistics count, and whether the sum of statistics and segmenter is better. No label, no
test picture and no picture of the calibration set is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    """Statistics, usable at once; then the segmenter; then the gate. With too few pictures for it, the statistics alone."""
    return [*statistics(config), *evidence(config, PHYSICAL), *segmenter(config), *gate(config, PHYSICAL), packed(config)]


def forger(config: Config) -> Forger:
    """Textures and pastes; the physical family is held out for the gate."""
    return Mix((Perlin(), CutPaste(), Nsa()))


def score_rule(config: Config) -> ScoreRule:
    """The mean of the map's highest `top` share of pixels (0.1 % by default); higher = more anomalous."""
    return ScoreRule(reduce="top", top=config.top)


METHOD = Method(
    name="auto",
    title="(default) fits statistics of natural-image features in seconds, then trains the guided segmenter, which counts "
    "only where it proves better",
    paper="ours, based on the idea of SGSF, arXiv 2209.12440, guided by closed-form statistics",
    profiles={"cpu": Config(use="gate", backbone="lite0")},
    tiny=replace(TINY, use="gate", backbone="lite0", numbers=8, memory=16, choices=2),
    build=Guided,
    stages=stages,
    forger=forger,
    score=score_rule,
    decided=decided,
    trunk=trunk,
    scratch=Config(use="gate"),
    parts=True,
)
