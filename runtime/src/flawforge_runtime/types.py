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

import math
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


OK_BY_RULE = "OK by rule"  # in the note of a decision whose score says otherwise


@dataclass(frozen=True)
class ScoreRule:
    """How judging turns a map into one score per picture, in numpy, over the valid pixels only.

    reduce  "max": the highest value of the smoothed map; "top": the mean of its highest `top` share;
            "network": the score that the method itself returns
    smooth  side in canvas pixels of the mean filter laid over the map first; 1 = none
    top     share of the valid pixels in (0, 1], used by "top"
    mark_rate  share of good pictures that may get a mark, for maps where one picture in many has a far higher place than all
               others; None = the false-alarm rate (docs/decisions/0044)
    """

    reduce: str = "max"
    smooth: int = 1
    top: float = 0.001
    mark_rate: float | None = None


@dataclass(frozen=True)
class Region:
    """One connected marked region in the picture's own pixels; `peak` is the map's highest value in it."""

    x: int
    y: int
    w: int
    h: int
    area: int
    peak: float


def p_words(p_value: float, least: float) -> str:
    """A p-value for people: "= 0.12"; "< 0.048", rounded up, where it is the least that there can be, and so a bound."""
    if p_value > least * (1 + 1e-9):
        return f"= {p_value:.2g}"
    step = 10.0 ** (math.floor(math.log10(p_value)) - 1)
    return f"< {math.ceil(p_value / step + 1e-9) * step:.2g}"


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
    score_normalised  the score on one scale for all models, in [0, 1]: 0.5 at `threshold`, see `Calibration.normalised`;
                 None = not known
    review_threshold  the score above which the verdict is REVIEW; None = not known
    least_p      the lowest p-value that the calibration can give
    mm_per_pixel width of a pixel in mm; None = not known, areas are in px
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
    score_normalised: float | None = None
    review_threshold: float | None = None
    least_p: float = 0.0
    mm_per_pixel: float | None = None

    @property
    def p_text(self) -> str:
        """The p-value for people, such as "= 0.12"; "< 0.048" where it is the lowest that the calibration can give."""
        return p_words(self.p_value, self.least_p)

    @property
    def largest_area(self) -> float:
        """Area of the largest marked region, in px, or mm2 where `mm_per_pixel` is known; 0 where nothing is marked."""
        return max((region.area for region in self.regions), default=0) * (self.mm_per_pixel or 1.0) ** 2

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, and picture and heat map side by side."""
        from flawforge_runtime import drawing

        own = self.anomaly_map
        scale = self.scale or drawing.Scale(float(own.min()), float(own.max()) + 1e-6)
        picture = (
            np.full((*own.shape, 3), 128, np.uint8) if self.picture is None else drawing.fit_to(self.picture, own.shape)
        )
        drawn = drawing.side_by_side(picture, scale.ramp(own), self.pred_mask, max_side=360)
        score = f"score {self.pred_score:.4g}, NG above {self.threshold:.4g}, p-value {self.p_text}"
        return drawing.figure(drawn, self.verdict, [f"{self.image_path or 'picture'}: {score}", *self.notes])

    def __repr__(self) -> str:
        unlike = "" if self.valid else ", not like any good picture"
        return f"<Decision {self.verdict} on {self.image_path!r}, score {self.pred_score:.6g}{unlike}>"
