"""A judged picture, drawn: outlines on the picture at the left, the heat map at the right; and as HTML for a notebook.

The colours of all pictures of one model mean the same, because the scale hangs on the calibration and never on the
picture: a pixel is clear up to what good pictures commonly reach, takes one and the same colour at the threshold, and
is brightest well above it. A good part therefore looks calm beside a bad one.

Imports nothing of ours, so that a Decision can show itself.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Drawn = NDArray[np.uint8]  # h w 3 RGB

MARKED = (255, 64, 160)  # pink: what the model marks
DEFECT = (0, 230, 255)  # cyan: the labelled defect; both hold on grey, on skin and for the colour-blind
AT_THRESHOLD = 0.4  # where on the colour ramp, 0 clear to 1 brightest, the threshold lies
OPAQUE = 0.8  # the heat map never hides the picture altogether
COLOURS = {"OK": "#1a7f37", "REVIEW": "#9a6700", "NG": "#cf222e"}


@dataclass(frozen=True)
class Scale:
    """Where a map's values lie on the colour ramp; higher = more anomalous.

    low        drawn clear, and all below
    threshold  marked above it; always at AT_THRESHOLD of the ramp
    """

    low: float
    threshold: float

    def ramp(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """h w map -> h w in [0, 1], linear; 0 at `low` or less, AT_THRESHOLD at the threshold."""
        return np.clip(AT_THRESHOLD * (values - self.low) / (self.threshold - self.low), 0, 1).astype(np.float32)


def side_by_side(
    pixels: NDArray[Any],
    strength: NDArray[np.float32],
    marks: NDArray[np.bool_],
    defect: NDArray[np.bool_] | None = None,
    *,
    max_side: int | None = None,
) -> Drawn:
    """Picture with outlines, and beside it picture with heat map: h' (2 w' + gap) 3 uint8 RGB.

    pixels    h w 3, uint8 or float32 in [0, 1]
    strength  h w in [0, 1], how hot: see `Scale.ramp`
    marks     h w, what the model marks; defect: h w, the labelled defect, None = not known
    max_side  longest side of one of the two in pixels; None = the picture's own size
    """
    size = pixels.shape[:2]
    factor = min(1.0, max_side / max(size)) if max_side else 1.0
    to = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    picture = _shrink(_as_uint8(pixels), to)
    left = outline(picture, _shrink_mask(marks, to), MARKED)
    if defect is not None:
        left = outline(left, _shrink_mask(defect, to), DEFECT)
    right = heat(picture, _shrink(strength, to))
    gap = np.full((to[0], 4, 3), 255, np.uint8)
    return np.concatenate((left, gap, right), axis=1)


def heat(picture: Drawn, strength: NDArray[np.float32]) -> Drawn:
    """The picture in grey under the colours of a ramp h w in [0, 1]: as bright as it is strong, clear at 0."""
    drawn = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    hot = strength > 0  # all else is clear, and most pixels are
    colour = cv2.applyColorMap((strength * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1][hot]
    cover = (OPAQUE * np.minimum(strength[hot] / AT_THRESHOLD, 1))[:, None]
    drawn[hot] = (drawn[hot] * (1 - cover) + colour * cover).round().astype(np.uint8)
    return np.asarray(drawn)


def outline(picture: Drawn, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Drawn:
    """A copy of the picture with the outer border of each region of a mask h w drawn just outside of it."""
    thick = 1 + max(mask.shape) // 500
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * thick + 1, 2 * thick + 1), np.uint8))
    drawn = picture.copy()
    drawn[(wide > 0) & ~mask] = colour
    return drawn


def _as_uint8(pixels: NDArray[Any]) -> Drawn:
    return pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def _shrink(array: NDArray[Any], to: tuple[int, int]) -> NDArray[Any]:
    if array.shape[:2] == to:
        return array
    return np.asarray(cv2.resize(array, to[::-1], interpolation=cv2.INTER_AREA))


def _shrink_mask(mask: NDArray[np.bool_], to: tuple[int, int]) -> NDArray[np.bool_]:
    """A pixel stays marked where any part of it was, so that a hairline does not vanish in a thumbnail."""
    return np.asarray(_shrink(mask.astype(np.float32), to) > 0)


def fit_to(pixels: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """A picture h w 3 at another size (h, w)."""
    return _shrink(pixels, (size[0], size[1]))


def figure(drawn: Drawn, verdict: str, lines: Iterable[str]) -> str:
    """HTML that stands alone: the verdict in its colour, lines of text, the picture. Text is escaped, whatever it holds."""
    _, png = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    image = base64.b64encode(png.tobytes()).decode()
    colour = COLOURS.get(verdict, "inherit")
    text = "<br>".join(escaped(line) for line in lines)
    return (
        f'<figure style="margin: 0"><figcaption><b style="color: {colour}">{escaped(verdict)}</b> {text}</figcaption>'
        f'<img alt="picture and heat map" src="data:image/png;base64,{image}"></figure>'
    )


def escaped(text: str) -> str:
    """Text as HTML shows it; what has no letter in UTF-8 as \\xNN."""
    return html.escape(text.encode(errors="backslashreplace").decode())
