"""Picture in, Decision out: the one inference path that the command line, evaluation, export and service share.

Everything around the network call is numpy and OpenCV: the network is any callable from n 3 h w float32 arrays to
(map n h w, score n), so a runtime without torch judges with the same code. A network may give a third array, n h w: the map
that a picture's score is read from where that is not the map that marks the pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime import bundle, images
from flawforge_runtime.calibrate import Calibration
from flawforge_runtime.types import (
    CalibrationError,
    Decision,
    FlawforgeError,
    Image,
    ImageError,
    Map,
    Mask,
    Region,
    ScoreRule,
)

UNCALIBRATED = "The model has no thresholds yet; run `flawforge calibrate MODEL GOOD` first."

Network = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]


@dataclass(frozen=True)
class Judged:
    """The raw judgement of one picture, before any threshold: what calibration collects.

    score        higher = stranger
    peak         the highest value of `anomaly_map`, h w at the picture's own size
    at           (row, column) in the picture's own pixels where the score's smoothed map is highest
    """

    score: float
    peak: float
    anomaly_map: Map
    at: tuple[int, int]


def picture_score(surface: Map, score: float, valid: Mask, rule: ScoreRule) -> tuple[float, tuple[int, int]]:
    """(score, (row, column) of the highest smoothed value), over the valid pixels of a canvas map h w."""
    smoothed = smooth(surface, valid, rule.smooth)
    inside = np.where(valid, smoothed, -np.inf)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    if rule.reduce == "max":
        score = float(inside[row, column])
    elif rule.reduce == "top":
        values = smoothed[valid]
        kept = max(1, round(rule.top * values.size))
        score = float(np.partition(values, values.size - kept)[-kept:].mean())
    return float(score), (int(row), int(column))


def smooth(surface: Map, valid: Mask, side: int) -> Map:
    """Mean over a `side` x `side` window, of the valid pixels in it only, so that a border never dilutes a defect."""
    if side <= 1:
        return surface
    weight = cv2.blur(valid.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    total = cv2.blur(np.where(valid, surface, 0).astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float32)


def find_regions(anomaly_map: Map, mask: Mask) -> tuple[Region, ...]:
    """Connected marked regions (8 neighbours), the strangest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = []
    for label in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[label])
        window = np.s_[y : y + h, x : x + w]
        peak = float(anomaly_map[window][labels[window] == label].max())
        found.append(Region(x, y, w, h, area, peak))
    return tuple(sorted(found, key=lambda region: -region.peak))


@dataclass(frozen=True)
class Inspector:
    """A trained network with all that judging needs.

    network      n 3 h w float32 in [0, 1] -> (map n h w, score n)
    canvas       (h, w) that every picture is letterboxed into
    rule         how a map becomes a score
    calibration  thresholds from held-back good pictures; None = scores only, and asking for a verdict is an error
    roi          h w bool, True = judged; applies to pictures of the same proportions; None = the whole picture
    about        facts on the model, for reports: model_id, method, profile, seed, flawforge_version, ...
    """

    network: Network
    canvas: tuple[int, int]
    rule: ScoreRule
    calibration: Calibration | None = None
    roi: Mask | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int = images.MAX_PIXELS
    content: bundle.Content | None = None

    def judge(self, picture: images.Picture) -> Judged:
        """Score and map without a threshold. Raises ImageError where the region of interest does not fit the picture."""
        pixels, placement = images.letterbox(picture.pixels, self.canvas)
        valid = images.valid_mask(placement)
        own_roi = None
        if self.roi is not None:
            own_roi = fit_roi(self.roi, picture.pixels.shape[:2])
            valid &= images.mask_on_canvas(own_roi, placement)
        if not valid.any():
            raise ImageError("The region of interest leaves no pixel of the picture to judge; give a larger one.")
        batch = to_network(pixels)
        maps, scores, *others = self.network(batch)
        if not all(np.isfinite(each).all() for each in (maps, scores, *others)):
            raise ImageError("The network gave a value that is not finite for this picture; check picture and model.")
        ground = others[0] if others else maps
        score, (row, column) = picture_score(ground[0], float(scores[0]), valid, self.rule)
        own_map = images.restore(maps[0], placement)
        if own_roi is not None:
            # Outside the region of interest nothing is judged: the map takes its lowest value there.
            own_map = np.where(own_roi, own_map, np.float32(own_map.min()))
        return Judged(score, float(own_map.max()), own_map, _own_pixel(row, column, placement))

    def __call__(self, picture: Any, image_path: str = "") -> Decision:
        """Judge a path, a PIL picture or an h w 3 uint8 array. A higher score is stranger.

        Raises ImageError for what is no picture, CalibrationError where the model has no threshold yet.
        """
        start = time.perf_counter()
        if self.calibration is None:
            raise CalibrationError(UNCALIBRATED)
        read = images.as_picture(picture, max_pixels=self.max_pixels)
        if not image_path and isinstance(picture, str | Path):
            image_path = str(picture)
        return self.decide(self.judge(read), image_path, read.notes, start)

    def decide(
        self, judged: Judged, image_path: str = "", notes: tuple[str, ...] = (), start: float | None = None
    ) -> Decision:
        """Thresholds, regions and rules on a raw judgement. start: when the work on the picture began; None = now.

        Raises CalibrationError where the model has no threshold yet.
        """
        start = time.perf_counter() if start is None else start
        if self.calibration is None:
            raise CalibrationError(UNCALIBRATED)
        calibration = self.calibration
        verdict = calibration.verdict(judged.score)
        mask = judged.anomaly_map > calibration.pixel_threshold
        regions = find_regions(judged.anomaly_map, mask)
        if verdict != "OK" and not regions:
            # The score's window mean can pass where no single pixel does; a reject must still point somewhere.
            row, column = judged.at
            regions = (Region(column, row, 1, 1, 1, float(judged.anomaly_map[row, column])),)
        verdict, by_rule = calibration.rules.judge(verdict, [region.area for region in regions])
        return Decision(
            image_path=image_path, pred_score=judged.score, p_value=calibration.p_value(judged.score), verdict=verdict,
            pred_label=verdict == "NG", threshold=calibration.threshold, anomaly_map=judged.anomaly_map, pred_mask=mask,
            regions=regions, seconds=time.perf_counter() - start,
            notes=(*notes, by_rule) if by_rule else notes,
        )  # fmt: skip

    def with_calibration(self, calibration: Calibration) -> Inspector:
        """The same network with other thresholds."""
        content = self.content and replace(self.content, calibration=calibration)
        return replace(self, calibration=calibration, content=content)

    def save(self, folder: str | Path) -> Path:
        """Write the model folder; refuses one that exists. Raises ModelError."""
        if self.content is None:
            raise CalibrationError("This inspector was not made by fit or load, so there is no model to save.")
        bundle.write(Path(folder), self.content)
        return Path(folder)


def _own_pixel(row: int, column: int, placement: images.Placement) -> tuple[int, int]:
    """The picture's own (row, column) under a canvas pixel."""
    own_row = int((row - placement.top + 0.5) * placement.own_height / placement.height)
    own_column = int((column - placement.left + 0.5) * placement.own_width / placement.width)
    return min(max(own_row, 0), placement.own_height - 1), min(max(own_column, 0), placement.own_width - 1)


def to_network(pixels: Image) -> NDArray[np.float32]:
    """h w 3 uint8 or float32 canvas picture -> 1 3 h w float32 in [0, 1]; training scales by the same rule."""
    scaled = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        scaled *= np.float32(1 / 255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def fit_roi(roi: Mask, size: tuple[int, int]) -> Mask:
    """The region of interest at a picture's own size (h, w). Raises ImageError where the proportions differ by over 2 %."""
    if roi.shape == size:
        return roi
    if abs(roi.shape[0] * size[1] / (roi.shape[1] * size[0]) - 1) > 0.02:
        raise ImageError(
            f"The region of interest is {roi.shape[1]} x {roi.shape[0]} pixels and the picture {size[1]} x {size[0]}; "
            "give a region of interest of the same proportions as the pictures."
        )
    return cv2.resize(roi.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def inspect_paths(inspector: Inspector, paths: Iterable[Path]) -> Iterator[Decision | tuple[Path, str]]:
    """Judge picture after picture; one that cannot be read yields (path, sentence) and the rest goes on."""
    for path in paths:
        try:
            yield inspector(path)
        except FlawforgeError as error:
            if isinstance(error, CalibrationError):
                raise
            yield path, str(error)


def from_content(content: bundle.Content, network: Network) -> Inspector:
    """An Inspector over a model folder's content and any backend's network."""
    config = content.config
    return Inspector(
        network=network,
        canvas=(int(config["canvas"][0]), int(config["canvas"][1])),
        rule=ScoreRule(**config["score_rule"]),
        calibration=content.calibration,
        roi=content.roi,
        about=bundle.about(content),
        max_pixels=int(config.get("max_pixels", images.MAX_PIXELS)),
        content=content,
    )
