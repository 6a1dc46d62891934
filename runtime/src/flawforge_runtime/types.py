"""The nouns that training and judging share. Imports nothing of ours, but for drawing a Decision, and no torch.

Errors, all one sentence that says what was given, what is allowed and what to do:

    FlawforgeError
    +-- ImageError        a file that is no picture we can read
    +-- DataError         a folder or CSV that is no data set
    +-- ConfigError       an option or setting outside its bounds
    +-- CalibrationError  a promise that the pictures at hand cannot carry
    +-- ModelError        a model folder that is damaged, foreign or newer
    +-- TrainingError     a fit that cannot go on
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from flawforge_runtime.drawing import Scale

Image = NDArray[Any]  # h w c, c in {1, 3}; uint8 in [0, 255] or float32 in [0, 1]
Mask = NDArray[np.bool_]  # h w
Map = NDArray[np.float32]  # h w, unbounded, higher = more anomalous


class FlawforgeError(Exception):
    """Base of every error that flawforge raises on purpose; its text is one sentence for a person."""


class ImageError(FlawforgeError):
    """A file or array that is no picture we can read."""


class DataError(FlawforgeError):
    """A folder or CSV that is no usable data set."""


class ConfigError(FlawforgeError):
    """An option or setting outside its bounds."""


class CalibrationError(FlawforgeError):
    """A false-alarm rate that the held-back good pictures cannot promise."""


class ModelError(FlawforgeError):
    """A model folder that is damaged, truncated, foreign or of a newer format."""


class TrainingError(FlawforgeError):
    """A fit that cannot go on: a loss that is not finite, a run that cannot be resumed."""


@dataclass(frozen=True)
class ScoreRule:
    """How judging turns a map into one score per picture, in numpy, over the valid pixels only.

    reduce  "max": the highest value of the smoothed map; "top": the mean of its highest `top` share;
            "network": the score that the method itself returns
    smooth  side in canvas pixels of the mean filter laid over the map first; 1 = none
    top     share of the valid pixels in (0, 1], used by "top"
    """

    reduce: str = "max"
    smooth: int = 1
    top: float = 0.001


@dataclass(frozen=True)
class Region:
    """One connected marked region in the picture's own pixels; `peak` is the map's highest value in it."""

    x: int
    y: int
    w: int
    h: int
    area: int
    peak: float


@dataclass(frozen=True)
class Decision:
    """The judgement on one picture. A higher `pred_score` is more anomalous.

    anomaly_map  h w float32 at the picture's own size
    pred_mask    h w bool at the picture's own size
    p_value      share of good pictures expected to be at least this strange, in (0, 1]
    verdict      "OK" | "REVIEW" | "NG"; pred_label is True for NG
    threshold    the score above which the verdict is NG
    valid        False: not like any good picture, so the verdict is NG whatever the network says; a note says why
    picture      h w 3, what was judged, for a notebook to show; of another size where it was judged strip by strip; None =
                 not kept
    scale        of the heat map's colours, one for all pictures of a model; None = the map's own range
    """

    image_path: str
    pred_score: float
    p_value: float
    verdict: str
    pred_label: bool
    threshold: float
    anomaly_map: Map
    pred_mask: Mask
    regions: tuple[Region, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    valid: bool = True
    picture: Image | None = field(default=None, repr=False, compare=False)
    scale: Scale | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, and picture and heat map side by side."""
        from flawforge_runtime import drawing

        own = self.anomaly_map
        scale = self.scale or drawing.Scale(float(own.min()), float(own.max()) + 1e-6)
        picture = (
            np.full((*own.shape, 3), 128, np.uint8) if self.picture is None else drawing.fit_to(self.picture, own.shape)
        )
        drawn = drawing.side_by_side(picture, scale.ramp(own), self.pred_mask, max_side=360)
        score = f"score {self.pred_score:.4g}, NG above {self.threshold:.4g}, p-value {self.p_value:.3g}"
        return drawing.figure(drawn, self.verdict, [f"{self.image_path or 'picture'}: {score}", *self.notes])

    def __repr__(self) -> str:
        unlike = "" if self.valid else ", not like any good picture"
        return f"<Decision {self.verdict} on {self.image_path!r}, score {self.pred_score:.6g}{unlike}>"
