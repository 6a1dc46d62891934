"""Where a part lies: shift and turn against a template, found by its grey values, undone before judging.

A pose is looked for by ECC (Evangelidis and Psarakis, PAMI 2008; OpenCV's findTransformECC), which brightness and contrast
do not move, from rest and from the shift that phase correlation sees (Kuglin and Hines, 1975). It is believed only where the
picture, so laid, is like the template and the pose lies within REACH and TURN; else the picture is judged as it lies.
Poses are rounded, so that another processor's last digits give the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime.types import Image, Map, Mask

REACH = 0.25  # most that a part may be shifted, as share of the canvas's shorter side; assumption
TURN = 20.0  # degrees, most that it may be turned; assumption
COARSE, FINE = 4, 2  # the canvas is shrunk by so much, first and then
STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
BLUR = 5  # px of ECC's Gaussian window
NOT_FOUND = "no pose was found, so the part was judged as it lies"


@dataclass(frozen=True)
class Template:
    """What good parts look like when they lie as they should.

    grey   h w uint8 on the canvas
    least  correlation with the template below which a pose is not believed, in [-1, 1]
    """

    grey: NDArray[np.uint8]
    least: float


@dataclass(frozen=True)
class Pose:
    """How a part lies: the template turned by `turn` degrees about the canvas's centre, then shifted by (right, down) px.

    likeness  correlation with the template once this is undone, in [-1, 1]
    """

    turn: float
    right: float
    down: float
    likeness: float

    def matrix(self, canvas: tuple[int, int]) -> NDArray[np.float64]:
        """2 x 3: a place (x, y) of the template -> the place in the picture."""
        x, y = (canvas[1] - 1) / 2, (canvas[0] - 1) / 2
        matrix: NDArray[np.float64] = np.asarray(cv2.getRotationMatrix2D((x, y), -self.turn, 1.0), dtype=np.float64)
        matrix[:, 2] += self.right, self.down
        return matrix


def grey_of(pixels: Image) -> NDArray[np.uint8]:
    """h w 3 uint8 or float32 in [0, 1] -> h w uint8."""
    eight = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(eight), cv2.COLOR_RGB2GRAY))


def find(pixels: Image, valid: Mask, template: Template) -> Pose | None:
    """The pose of the part on the canvas h w 3; None where none is believed.

    valid  h w bool, True where the canvas shows the picture and not its border
    """
    canvas = template.grey.shape[0], template.grey.shape[1]
    grey = grey_of(pixels).astype(np.float32)
    still = template.grey.astype(np.float32)
    tries = [_refined(_matrix_of((0.0, 0.0)), still, grey, valid, COARSE)]
    shift = _shift(still, grey)
    if max(map(abs, shift)) >= COARSE:
        tries.append(_refined(_matrix_of(shift), still, grey, valid, COARSE))
    converged = [result for result in tries if result is not None]
    if not converged:
        return None
    best = max(converged, key=lambda result: result[1])
    fine = _refined(best[0], still, grey, valid, FINE)
    if fine is None:
        return None
    pose = _pose(fine[0], canvas, fine[1])
    near = max(abs(pose.right), abs(pose.down)) <= REACH * min(canvas) and abs(pose.turn) <= TURN
    return pose if near and pose.likeness >= template.least else None


def lay(pixels: Image, pose: Pose) -> Image:
    """The canvas picture h w c with its part laid as in the template; where nothing is known, the edge is repeated."""
    h, w = pixels.shape[:2]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(pixels, pose.matrix((h, w)), (w, h), flags=how, borderMode=cv2.BORDER_REPLICATE))


def lay_mask(mask: Mask, pose: Pose) -> Mask:
    """Where `lay` shows what the mask h w marks; False where nothing is known."""
    h, w = mask.shape
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), pose.matrix((h, w)), (w, h), flags=how) > 0)


def back(anomaly_map: Map, pose: Pose) -> Map:
    """A map of the laid picture, h w, as the picture lies; places that were laid off the canvas take the lowest value."""
    h, w = anomaly_map.shape
    lowest = float(anomaly_map.min())
    laid = cv2.warpAffine(anomaly_map, pose.matrix((h, w)), (w, h), flags=cv2.INTER_LINEAR, borderValue=lowest)
    return np.asarray(laid, dtype=np.float32)


def back_at(row: int, column: int, pose: Pose, canvas: tuple[int, int]) -> tuple[int, int]:
    """The place (row, column) of the laid picture, as the picture lies; on the canvas."""
    x, y = pose.matrix(canvas) @ (column, row, 1.0)
    return min(max(round(y), 0), canvas[0] - 1), min(max(round(x), 0), canvas[1] - 1)


def _matrix_of(shift: tuple[float, float]) -> NDArray[np.float32]:
    return np.array([[1, 0, shift[0]], [0, 1, shift[1]]], dtype=np.float32)


def _shrunk(grey: Map, factor: int) -> Map:
    h, w = grey.shape
    small = cv2.resize(grey, (max(8, w // factor), max(8, h // factor)), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def _shift(still: Map, grey: Map) -> tuple[float, float]:
    """(right, down) in canvas pixels by phase correlation."""
    one, two = (_shrunk(picture, COARSE) for picture in (still, grey))
    window = cv2.createHanningWindow(one.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(one - one.mean(), two - two.mean(), window)
    return x * COARSE, y * COARSE


def _refined(
    start: NDArray[np.float32], still: Map, grey: Map, valid: Mask, factor: int
) -> tuple[NDArray[np.float32], float] | None:
    """(matrix in canvas pixels, correlation) by ECC on shrunk pictures; None where it does not converge."""
    one, two = _shrunk(still, factor), _shrunk(grey, factor)
    scale = np.array([still.shape[1] / one.shape[1], still.shape[0] / one.shape[0]], dtype=np.float32)
    inside = cv2.resize(valid.astype(np.uint8), one.shape[::-1], interpolation=cv2.INTER_NEAREST)
    matrix = start.copy()
    matrix[:, 2] /= scale
    try:
        likeness, matrix = cv2.findTransformECC(one, two, matrix, cv2.MOTION_EUCLIDEAN, STEPS, inside, BLUR)
    except cv2.error:  # it does not converge, or nothing overlaps
        return None
    matrix[:, 2] *= scale
    return (matrix, float(likeness)) if np.isfinite(matrix).all() else None


def _pose(matrix: NDArray[np.float32], canvas: tuple[int, int], likeness: float) -> Pose:
    """Rounded to a twentieth of a degree and an eighth of a pixel."""
    turn = float(np.degrees(np.arctan2(float(matrix[1, 0]), float(matrix[0, 0]))))
    x, y = (canvas[1] - 1) / 2, (canvas[0] - 1) / 2
    right, down = (float(shift) for shift in matrix.astype(np.float64) @ (x, y, 1.0) - (x, y))
    return Pose(round(turn * 20) / 20, round(right * 8) / 8, round(down * 8) / 8, likeness)
