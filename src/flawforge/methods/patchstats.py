"""Statistics of a product's own good pictures, in closed form: per-position Gaussians over learned PCA filters.

After PaDiM (Defard et al., ICPR 2021, arXiv 2011.08785), with principal components of the product's own patches in place
of a pretrained network. The statistics are in `nn.patchstats`, which `guided` uses too; this file holds the settings and
the entry of METHODS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from flawforge.nn.patchstats import PatchStats, Scale
from flawforge.nn.patchstats_fit import looks
from flawforge.types import Collect, Method, ScoreRule, TrainingSettings


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of the statistics. Scales are powers of two; at scale 2 the picture has half its size."""

    normalised: tuple[Scale, ...] = (1, 2, 4)
    raw: tuple[Scale, ...] = (1, 2, 4)
    filters: Annotated[int, Interval(ge=1, le=27)] = 14  # of side 3 there are no more
    side: Literal[3, 5, 7, 9, 11] = 7
    cell: Literal[2, 4, 8, 16] = 4  # canvas pixels between neighbouring Gaussians
    block: Literal[1, 2, 4] = 2  # block x block neighbours share one covariance
    light: Annotated[int, Ge(9)] = 33  # side of the window whose mean and deviation are "the illumination"
    top: float = 0.001
    batch: Annotated[int, Ge(1)] = 4
    forge_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


def stages(net: PatchStats, config: Config) -> Sequence[Collect]:
    """Four passes over the good pictures; nothing is trained by gradient."""
    return looks()


def score_rule(config: Config) -> ScoreRule:
    """The mean of the map's highest `top` share of pixels (0.1 % by default); higher = more anomalous."""
    return ScoreRule(reduce="top", top=config.top)


METHOD = Method(
    name="patchstats",
    title="statistics of the good pictures alone: Gaussians at every position over learned filters, fitted in seconds",
    paper="after PaDiM, Defard et al., ICPR 2021, arXiv 2011.08785, with PCA filters in place of a pretrained network",
    profiles={"cpu": Config()},
    tiny=Config(filters=4, side=5),
    build=PatchStats,
    stages=stages,
    forger=None,
    score=score_rule,
)
