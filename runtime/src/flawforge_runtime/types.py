"""The nouns that training and judging share. Imports nothing of ours, and no torch.

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

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # h w c, c in {1, 3}; uint8 in [0, 255] or float32 in [0, 1]
Mask = NDArray[np.bool_]  # h w
Map = NDArray[np.float32]  # h w, unbounded, higher = stranger


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
    """The judgement on one picture. A higher `pred_score` is stranger.

    anomaly_map  h w float32 at the picture's own size
    pred_mask    h w bool at the picture's own size
    p_value      share of good pictures expected to be at least this strange, in (0, 1]
    verdict      "OK" | "REVIEW" | "NG"; pred_label is True for NG
    threshold    the score above which the verdict is NG
    valid        False: not like any good picture, so the verdict is NG whatever the network says; a note says why
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

    def __repr__(self) -> str:
        unlike = "" if self.valid else ", not like any good picture"
        return f"<Decision {self.verdict} on {self.image_path!r}, score {self.pred_score:.6g}{unlike}>"
