"""Train a trunk of natural images further on forgeries, and keep what it learnt only where that proves better.

Li, Sohn, Yoon, Pfister: "CutPaste", CVPR 2021, arXiv 2104.04015, appendix A.1: a pretrained EfficientNet is trained further,
first the head alone at 0.03 (10 of 74 epochs), then all layers at 1e-4, batch norm frozen.

    here          paper
    `lessons`     the head alone, then all layers; `Lite` has its batch norms folded in, which is a frozen one
    `gate`        ours, for training on a few forgeries can spoil features: does it?

The gate asks on good pictures that training never saw. Both networks, as given and as trained, get their densities from the
other good pictures; then forgeries of a family that training never used are judged by both. The trained features stand
only where the mean of AUROC (pictures) and average precision (pixels) surely gains (one-sided 95 %, picture by picture).
No label and no test picture is involved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from flawforge.nn.gains import Proof, average_precision, least_gains, top_mean
from flawforge.nn.localise import Collected, Detector, begin, fit_densities, look
from flawforge.nn.pretext import classifying
from flawforge.types import Batch, Collect, ConfigError, Forger, Init, Prove, Stage, Train, TrainingSettings

FOLDS, LEAST = 5, 3  # every fifth good picture is reserved for the gate; with fewer than three reserved nothing is trained
JUDGES = 32  # reserved good pictures at most among which forgeries must stand out
THIN = 2  # of their maps every second pixel of every second row is looked at, and counts four times
TOP = 0.001  # share of a map whose mean is the score, where the score is the map's


@dataclass(frozen=True)
class TunedSettings(TrainingSettings):
    """Settings of a method that may start from a trunk; the comments give CutPaste's values for a pretrained network."""

    backbone: str = ""  # EfficientNet-B4; the trunk that training starts from, "" = a network of `variant` from nothing
    tuning: Literal["gate", "always", "never"] = "gate"  # "always"; the rest only with a backbone
    head_share: Annotated[float, Interval(gt=0, lt=1)] = 0.14  # 10 of 74 epochs; of the budget, on the head alone
    tune_rate: Annotated[float, Gt(0)] = 1e-4  # 1e-4; learning rate of all layers together
    proofs: Annotated[int, Ge(1)] = 8  # none; batches of forged pictures that the gate looks at


Settings = TypeVar("Settings", bound=TunedSettings)
Loss = Callable[[Any, Batch], dict[str, Tensor]]


def take_trunk(net: Detector, init: Init) -> list[str]:
    """Start the picture's network from --trunk; returns what to tell people. Raises ModelError where it does not fit."""
    origin = f"a {init.about['method']} model" if init.about else init.source or "weights from outside"
    net.picture.trunk.fill(init, f"--trunk ({origin})")
    net.given = {name: value.clone() for name, value in net.picture.trunk.state_dict().items()}
    return [f"the network starts from the features of {origin} (sha256 {init.sha256[:12]})"]


def refuse_both(config: TunedSettings) -> None:
    """Raises ConfigError where --init is given to a network that starts from a trunk."""
    if config.backbone:
        raise ConfigError(
            f"--init was given, but the network starts from --trunk {config.backbone}; leave out one of the two, or give "
            "the weights as --trunk."
        )


def reserved(pictures: int) -> Sequence[int]:
    """Places of the good pictures that the gate asks; none where they are too few."""
    places = range(0, pictures, FOLDS)
    return places if len(places) >= LEAST else []


def taught(pictures: int) -> Sequence[int]:
    """Places of those that training may use; none where a gate has too few."""
    return [place for place in range(pictures) if place % FOLDS] if reserved(pictures) else []


def head_lesson(config: TunedSettings, name: str, loss: Loss, *, rate: float, decay: float) -> list[Train]:
    """The head alone learns, on the trunk as it was given; nothing where the trunk is not trained."""
    if config.tuning == "never":
        return []
    turn = classifying("head", lambda net: net.picture.head, loss, rate=rate, decay=decay)
    draw = taught if config.tuning == "gate" else None
    return [Train(name, [turn], frozen=("picture.trunk",), share=config.head_share, draw=draw)]


def whole_lesson(config: TunedSettings, name: str, loss: Loss, *, decay: float) -> list[Train]:
    """All layers learn; nothing where the trunk is not trained."""
    if config.tuning == "never":
        return []
    turn = classifying("picture", lambda net: net.picture, loss, rate=config.tune_rate, decay=decay)
    draw = taught if config.tuning == "gate" else None
    return [Train(name, [turn], share=1.0 - config.head_share, draw=draw)]


def decided(net: Detector, config: Settings) -> Settings:
    """The settings by which another fit does what the gate chose here."""
    return (
        replace(config, tuning="always" if net.stands else "never")
        if config.backbone and config.tuning == "gate"
        else config
    )


# ---- the gate


@dataclass
class Rivals:
    """The network as given and as trained, what their densities are fitted to, and the reserved good pictures.

    step, came  every `step`-th of the reserved pictures that came was kept
    """

    nets: tuple[Detector, Detector]
    looked: tuple[Collected, Collected]
    good: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    step: int = 1
    came: int = 0

    def keep(self, image: Tensor, valid: Tensor) -> None:
        """At most JUDGES, evenly spread over all that come: where there are too many, every second goes."""
        self.came += 1
        if (self.came - 1) % self.step:
            return
        self.good.append((image, valid))
        if len(self.good) > JUDGES:
            del self.good[1::2]
            self.step *= 2


def as_given(net: Detector) -> Detector:
    """The same detector on the trunk that --trunk gave."""
    twin = copy.deepcopy(net)
    twin.picture.trunk.load_state_dict(net.given)
    return twin


def begin_rivals(net: Detector) -> Rivals:
    """Nothing has been looked at."""
    return Rivals((as_given(net), net), (begin(net), begin(net)))


def compare(net: Detector, rivals: Rivals, batch: Batch) -> None:
    """Show good pictures to both densities of both networks; the reserved ones are kept for later."""
    held = batch.index % FOLDS == 0
    for place in torch.nonzero(held)[:, 0].tolist():
        rivals.keep(batch.clean[place : place + 1], batch.valid[place : place + 1])
    others = Batch(*(None if each is None else each[~held].contiguous() for each in batch))
    if len(others.clean):
        for rival, looked in zip(rivals.nets, rivals.looked, strict=True):
            look(rival, looked, others)


def judge_good(net: Detector, rivals: Rivals) -> None:
    """Fit both; they stay with the network for the forgeries that come next."""
    if len(rivals.good) >= LEAST:
        for rival, looked in zip(rivals.nets, rivals.looked, strict=True):
            fit_densities(rival, looked)
        net.rivals = [rivals]
        return
    net.picture.trunk.load_state_dict(net.given)
    net.said = ["the features stay as they were given, for the good pictures are too few to prove that training helps"]


def worth(rivals: Rivals, images: Tensor, valid: Tensor, by_map: bool) -> tuple[Tensor, Tensor]:
    """One picture 1 3 h w, its valid pixels 1 1 h w -> scores 2 and maps 2 h w of both networks."""
    evidence = [rival(images) for rival in rivals.nets]
    maps = torch.cat([each.map for each in evidence]).cpu()
    scores = torch.cat([each.score for each in evidence]).cpu()
    return (top_mean(maps, valid[0, 0].cpu() > 0, TOP) if by_map else scores), maps


def begin_proof(net: Detector, by_map: bool) -> tuple[Rivals, Proof]:
    """What both say of the reserved good pictures."""
    (rivals,), scores, quiet = net.rivals, [], []
    for image, valid in rivals.good:
        score, maps = worth(rivals, image, valid, by_map)
        scores.append(score)
        quiet.append(maps[:, ::THIN, ::THIN][:, valid[0, 0, ::THIN, ::THIN].cpu() > 0])
    return rivals, Proof(torch.stack(scores), torch.cat(quiet, dim=1).sort(dim=1).values)


def prove(net: Detector, state: tuple[Rivals, Proof], batch: Batch, by_map: bool) -> None:
    """For each forged picture: how well both tell it from the good ones, and its pixels from all others."""
    rivals, proof = state
    for i, index in enumerate(batch.index.tolist()):
        mask, valid = batch.mask[i, 0].cpu() > 0, batch.valid[i : i + 1]
        judged = valid[0, 0].cpu() > 0
        if not (mask & judged).any():
            continue
        score, maps = worth(rivals, batch.forged[i : i + 1], valid, by_map)
        placement = ((score > proof.scores).double() + 0.5 * (score == proof.scores)).mean(dim=0)
        precision = average_precision(maps[:, judged], mask[judged], proof.quiet, THIN**2)
        proof.rows.append((index, (placement + precision) / 2))


def decide(net: Detector, state: tuple[Rivals, Proof]) -> None:
    """The trained features stand where they surely gain; else those that were given come back."""
    rows = state[1].rows
    pictures = sorted({index for index, _ in rows})
    values = [torch.stack([row for index, row in rows if index == each]).mean(dim=0).numpy() for each in pictures]
    gain = least_gains(np.stack(values))[1] if len(pictures) >= LEAST else -np.inf
    given, trained = np.mean(values, axis=0) if values else (0.0, 0.0)
    figures = (
        f"forged defects on {len(pictures)} reserved good pictures are found at {given:.3f} before and {trained:.3f} after"
    )
    net.stands = bool(gain > 0)
    if net.stands:
        net.said = [f"the features are those that training made: {figures}"]
    else:
        net.picture.trunk.load_state_dict(net.given)
        net.said = [f"the features stay as they were given: {figures}, no sure gain"]
    net.rivals = []


def gate(config: TunedSettings, forger: Forger, by_map: bool) -> list[Stage]:
    """Two stages after training: a look at the good pictures with both networks, then the forgeries; nothing without a gate.

    by_map  the score of a picture is that of its map
    """
    if config.tuning != "gate":
        return []
    return [
        Collect("before and after training", begin_rivals, compare, judge_good),
        Prove(
            "gate",
            forger,
            config.proofs,
            lambda net: begin_proof(net, by_map),
            lambda net, state, batch: prove(net, state, batch, by_map),
            decide,
            reserved,
            share=0.03,
        ),
    ]
