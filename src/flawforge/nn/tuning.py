"""Fine-tune a pretrained trunk on forgeries, and keep the result only where a gate shows a gain.

Li, Sohn, Yoon, Pfister: "CutPaste", CVPR 2021, arXiv 2104.04015, appendix A.1: a pretrained EfficientNet is fine-tuned,
first the head alone at 0.03 (10 of 74 epochs), then all layers at 1e-4, batch norm frozen.

    here                            paper
    `head_lesson`, `whole_lesson`   the head alone, then all layers; `Lite` has its batch norms folded, so they are frozen
    `gate`                          ours: fine-tuning on a few forgeries can degrade features

The gate uses good pictures that are held out of training. Both networks, pretrained and fine-tuned, get their densities from
the other good pictures; then both judge forgeries of a held-out family. The fine-tuned features are kept only where the mean
of AUROC (pictures) and average precision (pixels) gains significantly (one-sided 95 %, over pictures). No label and no test
picture is involved.
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
    """Settings of a method that can start from a trunk; the comments give CutPaste's values for a pretrained network."""

    backbone: str = ""  # EfficientNet-B4; the trunk that training starts from, "" = a network of `variant` from nothing
    tuning: Literal["gate", "always", "never"] = "gate"  # "always"; the rest only with a backbone
    head_share: Annotated[float, Interval(gt=0, lt=1)] = 0.14  # 10 of 74 epochs; of the budget, on the head alone
    tune_rate: Annotated[float, Gt(0)] = 1e-4  # 1e-4; learning rate of all layers together
    proofs: Annotated[int, Ge(1)] = 8  # none; batches of forged pictures that the gate looks at


Settings = TypeVar("Settings", bound=TunedSettings)
Loss = Callable[[Any, Batch], dict[str, Tensor]]


def take_trunk(net: Detector, init: Init) -> list[str]:
    """Start the picture's network from --trunk; returns sentences for the user. Raises ModelError if it does not fit."""
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
    """Indices of the good pictures held out for the gate; none where there are too few."""
    places = range(0, pictures, FOLDS)
    return places if len(places) >= LEAST else []


def taught(pictures: int) -> Sequence[int]:
    """Indices of those that training may use; none where there are too few for a gate."""
    return [place for place in range(pictures) if place % FOLDS] if reserved(pictures) else []


def head_lesson(config: TunedSettings, name: str, loss: Loss, *, rate: float, decay: float) -> list[Train]:
    """Train the head alone, on the pretrained trunk; no stage where the trunk is not fine-tuned."""
    if config.tuning == "never":
        return []
    turn = classifying("head", lambda net: net.picture.head, loss, rate=rate, decay=decay)
    draw = taught if config.tuning == "gate" else None
    return [Train(name, [turn], frozen=("picture.trunk",), share=config.head_share, draw=draw)]


def whole_lesson(config: TunedSettings, name: str, loss: Loss, *, decay: float) -> list[Train]:
    """Train all layers; no stage where the trunk is not fine-tuned."""
    if config.tuning == "never":
        return []
    turn = classifying("picture", lambda net: net.picture, loss, rate=config.tune_rate, decay=decay)
    draw = taught if config.tuning == "gate" else None
    return [Train(name, [turn], share=1.0 - config.head_share, draw=draw)]


def decided(net: Detector, config: Settings) -> Settings:
    """The settings that make another fit do what the gate chose here."""
    return (
        replace(config, tuning="always" if net.stands else "never")
        if config.backbone and config.tuning == "gate"
        else config
    )


# ---- the gate


@dataclass
class Rivals:
    """The pretrained and the fine-tuned network, what their densities are fitted to, and the reserved good pictures.

    step, came  of the `came` reserved pictures so far, every `step`-th was kept
    """

    nets: tuple[Detector, Detector]
    looked: tuple[Collected, Collected]
    good: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    step: int = 1
    came: int = 0

    def keep(self, image: Tensor, valid: Tensor) -> None:
        """Keep at most JUDGES, evenly spread over a stream of unknown length: every second one is dropped when full."""
        self.came += 1
        if (self.came - 1) % self.step:
            return
        self.good.append((image, valid))
        if len(self.good) > JUDGES:
            del self.good[1::2]
            self.step *= 2


def as_given(net: Detector) -> Detector:
    """A copy of the detector with the trunk's weights as from --trunk."""
    twin = copy.deepcopy(net)
    twin.picture.trunk.load_state_dict(net.given)
    return twin


def begin_rivals(net: Detector) -> Rivals:
    """Both networks, before any picture."""
    return Rivals((as_given(net), net), (begin(net), begin(net)))


def compare(net: Detector, rivals: Rivals, batch: Batch) -> None:
    """Add good pictures to both densities of both networks; keep the reserved ones for later."""
    held = batch.index % FOLDS == 0
    for place in torch.nonzero(held)[:, 0].tolist():
        rivals.keep(batch.clean[place : place + 1], batch.valid[place : place + 1])
    others = Batch(*(None if each is None else each[~held].contiguous() for each in batch))
    if len(others.clean):
        for rival, looked in zip(rivals.nets, rivals.looked, strict=True):
            look(rival, looked, others)


def judge_good(net: Detector, rivals: Rivals) -> None:
    """Fit the densities of both networks, for the next stage; with too few pictures, restore the pretrained trunk."""
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
    """Scores and map values of both networks on the reserved good pictures."""
    (rivals,), scores, quiet = net.rivals, [], []
    for image, valid in rivals.good:
        score, maps = worth(rivals, image, valid, by_map)
        scores.append(score)
        quiet.append(maps[:, ::THIN, ::THIN][:, valid[0, 0, ::THIN, ::THIN].cpu() > 0])
    return rivals, Proof(torch.stack(scores), torch.cat(quiet, dim=1).sort(dim=1).values)


def prove(net: Detector, state: tuple[Rivals, Proof], batch: Batch, by_map: bool) -> None:
    """Append, for each forged picture and network: the mean of AUROC against the good ones and average precision."""
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
    """Keep the fine-tuned features where their gain is significant; else restore the pretrained ones."""
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
    """Two stages after training: a pass over the good pictures with both networks, then the forgeries; none without a gate.

    by_map  score a picture by its map, not by its density
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
