"""Names shared by all of flawforge: pictures, evidence, stages, methods, errors. Imports no torch.

Data flows one way: images -> forge -> method -> Evidence(map, score) -> calibrated Decision -> report. The nouns of judging
and the errors are those of flawforge_runtime, which has no torch; they can be had from here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from flawforge_runtime.types import (
    CalibrationError,
    ConfigError,
    DataError,
    Decision,
    FlawforgeError,
    Image,
    ImageError,
    Map,
    Mask,
    ModelError,
    Region,
    ScoreRule,
    TrainingError,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "Batch",
    "CalibrationError",
    "Collect",
    "ConfigError",
    "DataError",
    "Decision",
    "Demand",
    "Draw",
    "Evidence",
    "FlawforgeError",
    "Forged",
    "Forger",
    "Image",
    "ImageError",
    "Init",
    "Map",
    "Mask",
    "Method",
    "ModelError",
    "Prove",
    "Region",
    "Sample",
    "ScoreRule",
    "Stage",
    "Train",
    "TrainingError",
    "TrainingSettings",
    "Turn",
]


@dataclass(frozen=True)
class Sample:
    """What a forger may look at.

    image    h w c good picture, c in {1, 3}; uint8 or float32 in [0, 1]
    prior    h w float32 in [0, 1], saliency, or h w k of k levels, finest first; None = not computed
    other    another good picture of the same shape and dtype; None = there is none
    texture  h' w' c picture of any size (from --textures), same dtype; None = the forger makes its own
    """

    image: Image
    prior: NDArray[np.float32] | None = None
    other: Image | None = None
    texture: Image | None = None


@dataclass(frozen=True)
class Forged:
    """A forged picture. Outside `mask` it equals the good picture to the bit; inside, it differs.

    image  same shape and dtype as the sample's image
    mask   h w bool, exact to the pixel; all False only where the forger leaves the picture good on purpose
    kind   the forger's name
    drawn  the parameters that were drawn, JSON-able; where there is a "class" (1, 2, ..), the batch's `kind` takes it
    """

    image: Image
    mask: Mask
    kind: str
    drawn: Mapping[str, Any] = field(default_factory=dict)


Forger = Callable[[Sample, np.random.Generator], Forged]


class Batch(NamedTuple):
    """One training batch; numpy arrays from `data`, tensors once the engine has moved them.

    forged  n 3 h w float32 in [0, 1], the pictures after forging (some are left good)
    clean   n 3 h w float32 in [0, 1], the same pictures before forging
    mask    n 1 h w float32, 1 = forged pixel
    valid   n 1 h w float32, 1 = a pixel of the picture, 0 = letterbox border or outside the region of interest
    index   n int64, each picture's place among the good pictures that are trained on; None = not known
    kind    n int64, 0 = left good, else the class that its forger says, 1 where it says none; None = not known
    inner   n 4 float32: first row, row after the last, first column, column after the last that the picture covers on the
            canvas; the rest is letterbox border; None = every picture covers the whole canvas
    """

    forged: Any
    clean: Any
    mask: Any
    valid: Any
    index: Any = None
    kind: Any = None
    inner: Any = None


class Evidence(NamedTuple):
    """What a detector says of n pictures. Higher = more anomalous, unbounded, the same type in every mode.

    map    n h w float32
    score  n float32; a method without a detector of its own returns its map's maximum
    score_map  n h w float32, the map that the picture's score is read from where that is not `map`; None = it is
    """

    map: torch.Tensor
    score: torch.Tensor
    score_map: torch.Tensor | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """What the training loop asks of every method's settings; each method's `Config` is one of these, with its own defaults.

    batch        pictures a step
    forge_share  share of a step's pictures that are forged
    epochs       passes over the good pictures where neither minutes nor steps are given; 0 = the default number of minutes
    precision    "bf16-mixed" is faster where the processor has it, "32-true" is exact
    """

    batch: Annotated[int, Ge(1)] = 8
    forge_share: Annotated[float, Interval(ge=0, le=1)] = 1.0
    epochs: Annotated[float, Ge(0)] = 0.0
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"


@dataclass(frozen=True)
class Turn:
    """One optimiser's part in a training step (a GAN has two turns, most methods one).

    parameters  net -> the parameters this turn moves
    optimiser   parameters -> torch optimiser
    loss        (net, batch) -> {name: scalar tensor}; their sum is minimised, each is shown by name;
                one without a gradient (`detach()`) is shown alone, such as a critic's accuracy
    schedule    progress in [0, 1] -> factor on the optimiser's learning rate
    """

    name: str
    parameters: Callable[[Any], Sequence[Any]]
    optimiser: Callable[[Sequence[Any]], Any]
    loss: Callable[[Any, Batch], dict[str, Any]]
    schedule: Callable[[float], float]


Draw = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Train:
    """A stage that learns by gradient.

    frozen  submodules that stay in eval mode
    share   its part of the budget
    forger  what this stage is taught with; None = the method's forger
    draw    number of good pictures -> places of those that it may train on; None = all
    """

    name: str
    turns: Sequence[Turn]
    frozen: Sequence[str] = ()
    share: float = 1.0
    forger: Forger | None = None
    draw: Draw | None = None


class Demand(NamedTuple):
    """What a stage will need beside the pictures and the network: bytes held at its peak, arithmetic operations in all.

    operations  None = its time is not worth a word
    """

    memory_bytes: int
    operations: float | None


@dataclass(frozen=True)
class Collect:
    """A stage that looks once at every good picture, without gradients.

    begin   net -> the state of this look, gone when it is finished; what later stages need is in the net
    visit   (net, state, batch) for every batch
    finish  (net, state)
    usable  the net judges once this stage is done, so `fit` calibrates and saves it before it goes on
    demand  (net, canvas (h, w), pictures) -> what it will need, for the forecast; None = nothing worth a word
    """

    name: str
    begin: Callable[[Any], Any]
    visit: Callable[[Any, Any, Batch], None]
    finish: Callable[[Any, Any], None]
    usable: bool = False
    demand: Callable[[Any, tuple[int, int], int], Demand] | None = None


@dataclass(frozen=True)
class Prove:
    """A stage that looks at `batches` batches of forged pictures, without gradients; begin, visit, finish as in Collect.

    forger  fakes every picture; of families that no Train stage has seen
    draw    as in Train: here the pictures that no Train stage has seen
    share   the part of a budget in minutes that is left free for it
    """

    name: str
    forger: Forger
    batches: int
    begin: Callable[[Any], Any]
    visit: Callable[[Any, Any, Batch], None]
    finish: Callable[[Any, Any], None]
    draw: Draw | None = None
    share: float = 0.1


Stage = Train | Collect | Prove


@dataclass(frozen=True)
class Init:
    """Weights that come from elsewhere (--init, --trunk): another model's, or weights from outside.

    tensors  name -> torch tensor, as the file names them
    about    the config.json of the model folder; empty for a file of outside weights
    sha256   of the file that held the tensors
    source   where that file came from, in words
    licence  of the weights, as their maker states it; "" = not known
    """

    tensors: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Method:
    """One paper, as a record. The registry is {name: Method}.

    name      what --method takes
    title     one line for people
    paper     citation and where we deviate
    profiles  {"cpu": config, "paper": config}, each of a TrainingSettings class of its own; the first is the default
    tiny      the smallest config that still learns, for tests
    build     config -> module with forward(n 3 h w) -> Evidence; draws its weights from torch's generator
    stages    (net, config) -> how it trains
    forger    config -> the forger it trains on; None = it trains on no forgeries
    score     config -> how its map becomes a score
    prior     kind of saliency that its forger looks at, as `saliency.saliency` names them; "" = none; "network" = maps that
              the network itself has made in a Collect stage: its method `priors(index)` gives those of one good picture, a
              sequence of maps h' w' float32 in [0, 1] of any size, finest first, or None while there are none
    start     (net, config, init) -> notes for people: puts weights from --init into the net, before `stages` is asked;
              raises ModelError where they do not fit; None = the method starts from nothing else
    trunk     as `start`, for the network of --trunk whose features the method looks at; it stays as it is given. The
              config's `backbone` names its form. None = the method has no such network
    scratch   the config that takes the place of one with outside weights where --trunk forbids them
    decided   (net, config) -> config: the settings with which another fit takes the choices that this fitted net took by
              looking at its pictures, so that scores of both are of one scale; None = it chooses nothing that changes scale
    parts     its batches may be cut over several processes: its losses sum over a batch by `losses.summed` and draw by
              `ranks.rand` alone
    """

    name: str
    title: str
    paper: str
    profiles: Mapping[str, Any]
    tiny: Any
    build: Callable[[Any], Any]
    stages: Callable[[Any, Any], Sequence[Stage]]
    forger: Callable[[Any], Forger] | None
    score: Callable[[Any], ScoreRule]
    prior: str = ""
    start: Callable[[Any, Any, Init], Sequence[str]] | None = None
    trunk: Callable[[Any, Any, Init], Sequence[str]] | None = None
    scratch: Any = None
    decided: Callable[[Any, Any], Any] | None = None
    parts: bool = False
