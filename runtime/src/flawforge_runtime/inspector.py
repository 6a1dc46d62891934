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

from flawforge_runtime import bundle, images, poses, tiles
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

WHOLE = 25_000_000  # pixels; a larger picture of a model with tiles is read strip by strip, and its map shrunk
SHRUNK = 2048  # longest side of the map of such a picture

Network = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]


@dataclass(frozen=True)
class Judged:
    """The raw judgement of one picture, before any threshold: what calibration collects.

    score        higher = stranger
    peak         the highest value of `anomaly_map`, h w at the picture's own size
    at           (row, column) in the picture's own pixels where the score's smoothed map is highest
    notes        what people should know of how it was judged
    """

    score: float
    peak: float
    anomaly_map: Map
    at: tuple[int, int]
    notes: tuple[str, ...] = ()


def picture_score(surface: Map, score: float, valid: Mask, rule: ScoreRule) -> tuple[float, tuple[int, int]]:
    """(score, (row, column) of the highest smoothed value), over the valid pixels of a canvas map h w."""
    smoothed = smooth(surface, valid, rule.smooth)
    whole = bool(valid.all())
    inside = smoothed if whole else np.where(valid, smoothed, -np.inf)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    if rule.reduce == "max":
        score = float(inside[row, column])
    elif rule.reduce == "top":
        values = smoothed.ravel() if whole else smoothed[valid]
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
    marked = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(marked)  # labelling costs much, and most of a picture is unmarked
    if not width:
        return ()
    part = np.s_[top : top + height, left : left + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked[part], connectivity=8)
    found = []
    for label in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[label])
        window = np.s_[y : y + h, x : x + w]
        peak = float(anomaly_map[part][window][labels[window] == label].max())
        found.append(Region(left + x, top + y, w, h, area, peak))
    return tuple(sorted(found, key=lambda region: -region.peak))


@dataclass(frozen=True)
class Inspector:
    """A trained network with all that judging needs.

    network      n 3 h w float32 in [0, 1] -> (map n h w, score n)
    canvas       (h, w) that every picture is letterboxed into
    rule         how a map becomes a score
    calibration  thresholds from held-back good pictures; None = scores only, and asking for a verdict is an error
    roi          h w bool, True = judged; applies to pictures of the same proportions; None = the whole picture
    template     what parts are laid like before they are judged (see `poses`); None = they are judged as they lie
    sizes        least and greatest (h, w) of the pictures that it was trained on; None = not known
    tile         side in the picture's own pixels of the tiles that it is cut into; None = a picture is looked at whole
    progress     called with (rows done, all rows) while a picture is judged in tiles
    about        facts on the model, for reports: model_id, method, profile, seed, flawforge_version, ...
    """

    network: Network
    canvas: tuple[int, int]
    rule: ScoreRule
    calibration: Calibration | None = None
    roi: Mask | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int = images.MAX_PIXELS
    template: poses.Template | None = None
    tile: int | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    progress: Callable[[int, int], None] | None = None
    content: bundle.Content | None = None

    def judge(self, picture: images.Picture) -> Judged:
        """Score and map without a threshold. Raises ImageError where the region of interest does not fit the picture."""
        if self.tile is not None:
            return self._judge_tiled(picture)
        pixels, placement = images.letterbox(picture.pixels, self.canvas)
        valid = images.valid_mask(placement)
        own_roi = None
        pose = self.template and poses.find(pixels, valid, self.template)
        if pose:
            valid &= poses.lay_mask(valid, pose)
            pixels = images.pad(np.ascontiguousarray(poses.lay(pixels, pose)[placement.inner]), placement)
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
        surface = maps[0]
        if pose:
            row, column = poses.back_at(row, column, pose, self.canvas)
            surface = poses.back(np.where(valid, surface, surface[valid].min()), pose)
        own_map = images.restore(surface, placement)
        if own_roi is not None and not pose:
            # Outside the region of interest nothing is judged: the map takes its lowest value there.
            own_map = np.where(own_roi, own_map, np.float32(own_map.min()))
        notes: tuple[str, ...] = (poses.NOT_FOUND,) if self.template and not pose else ()
        notes += self._of_another_size(picture.pixels.shape[:2])
        return Judged(score, float(own_map.max()), own_map, _own_pixel(row, column, placement), notes)

    def _of_another_size(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What is to be said of a picture (h, w) of a size that training never saw."""
        if self.sizes is None:
            return ()
        ranges = list(zip(*self.sizes, strict=True))
        if all(low <= own <= high for own, (low, high) in zip(size, ranges, strict=True)):
            return ()
        trained = " x ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
        return (
            f"{size[0]} x {size[1]} pixels (h x w), trained on {trained}: resized onto the canvas "
            f"{self.canvas[0]} x {self.canvas[1]}, proportions kept",
        )

    def __call__(self, picture: Any, image_path: str = "") -> Decision:
        """Judge a path, a PIL picture or an h w 3 uint8 array. A higher score is stranger.

        Raises ImageError for what is no picture, CalibrationError where the model has no threshold yet.
        """
        start = time.perf_counter()
        if self.calibration is None:
            raise CalibrationError(UNCALIBRATED)
        if self.tile is not None and isinstance(picture, str | Path):
            rows, notes = tiles.open_rows(Path(picture), self.max_pixels)
            if rows.height * rows.width > WHOLE:
                return self._decide_streamed(rows, image_path or str(picture), notes, start)
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
        mask = judged.anomaly_map > self.calibration.pixel_threshold
        return self._decision(judged, mask, find_regions(judged.anomaly_map, mask), image_path, notes, start)

    def _decision(
        self, judged: Judged, mask: Mask, regions: tuple[Region, ...], image_path: str, notes: tuple[str, ...], start: float
    ) -> Decision:
        calibration = self.calibration
        if calibration is None:
            raise CalibrationError(UNCALIBRATED)
        verdict = calibration.verdict(judged.score)
        if verdict != "OK" and not regions:
            # The score's window mean can pass where no single pixel does; a reject must still point somewhere.
            row, column = judged.at
            regions = (Region(column, row, 1, 1, 1, judged.peak),)
        verdict, by_rule = calibration.rules.judge(verdict, [region.area for region in regions])
        return Decision(
            image_path=image_path, pred_score=judged.score, p_value=calibration.p_value(judged.score), verdict=verdict,
            pred_label=verdict == "NG", threshold=calibration.threshold, anomaly_map=judged.anomaly_map, pred_mask=mask,
            regions=regions, seconds=time.perf_counter() - start,
            notes=(*notes, *judged.notes, *((by_rule,) if by_rule else ())),
        )  # fmt: skip

    def _judge_tiled(self, picture: images.Picture) -> Judged:
        own_map = np.empty(picture.pixels.shape[:2], dtype=np.float32)

        def keep(top: int, band: Map, inside: Mask) -> None:
            own_map[top : top + len(band)] = np.where(inside, band, np.float32(band[inside].min() if inside.any() else 0))

        score, at = self._tiled(tiles.Whole(picture.pixels), keep)
        return Judged(score, float(own_map.max()), own_map, at)

    def _decide_streamed(self, rows: tiles.Rows, image_path: str, notes: tuple[str, ...], start: float) -> Decision:
        """A picture that is never in memory as a whole: regions are exact, map and mask are shrunk by maxima."""
        if self.calibration is None:
            raise CalibrationError(UNCALIBRATED)
        threshold, regions = self.calibration.pixel_threshold, tiles.Regions()
        factor = -(-max(rows.height, rows.width) // SHRUNK)
        shape = -(-rows.height // factor), -(-rows.width // factor)
        small = np.full(shape, -np.inf, dtype=np.float32)
        marked = np.zeros(shape, dtype=bool)

        def keep(top: int, band: Map, inside: Mask) -> None:
            band = np.where(inside, band, np.float32(band.min()))
            mask = inside & (band > threshold)
            regions.add(top, band, mask)
            places = (top + np.arange(len(band))) // factor
            across = np.arange(0, rows.width, factor)
            np.maximum.at(small, places, np.maximum.reduceat(band, across, axis=1))
            np.logical_or.at(marked, places, np.logical_or.reduceat(mask, across, axis=1))

        score, at = self._tiled(rows, keep)
        judged = Judged(score, float(small.max()), small, at)
        note = f"judged in tiles; map and mask hold the highest of {factor} x {factor} pixels"
        return self._decision(judged, marked, regions.found(), image_path, (*notes, note), start)

    def _tiled(self, rows: tiles.Rows, keep: Callable[[int, Map, Mask], None]) -> tuple[float, tuple[int, int]]:
        """Give `keep` the blended map band by band; the score is the strangest tile's, with its place in own pixels."""
        assert self.tile is not None
        if self.roi is not None:
            same_proportions(self.roi, (rows.height, rows.width))
        best: tuple[float, tuple[int, int]] | None = None

        def judge(some: list[tuple[int, int, Image]]) -> list[Map]:
            nonlocal best
            placed = [images.letterbox(pixels, self.canvas) for _, _, pixels in some]
            maps, scores, *others = self.network(np.concatenate([to_network(pixels) for pixels, _ in placed]))
            if not all(np.isfinite(each).all() for each in (maps, scores, *others)):
                raise ImageError("The network gave a value that is not finite for this picture; check picture and model.")
            ground = others[0] if others else maps
            for index, ((top, left, pixels), (_, placement)) in enumerate(zip(some, placed, strict=True)):
                inside = self._inside(rows, top, left, pixels.shape[0], pixels.shape[1])
                valid = images.valid_mask(placement)
                if not inside.all():
                    valid &= images.mask_on_canvas(inside, placement)
                if valid.any():
                    score, (row, column) = picture_score(ground[index], float(scores[index]), valid, self.rule)
                    if best is None or score > best[0]:
                        row, column = _own_pixel(row, column, placement)
                        best = score, (top + row, left + column)
            return [images.restore(own, placement) for own, (_, placement) in zip(maps, placed, strict=True)]

        for top, band in tiles.blended(rows, self.tile, tiles.batch_size(self.canvas, self.tile), judge):
            keep(top, band, self._inside(rows, top, 0, len(band), rows.width))
            if self.progress is not None:
                self.progress(top + len(band), rows.height)
        if best is None:
            raise ImageError("The region of interest leaves no pixel of the picture to judge; give a larger one.")
        return best

    def _inside(self, rows: tiles.Rows, top: int, left: int, height: int, width: int) -> Mask:
        """The region of interest in a window of the picture, without making it as large as the picture."""
        if self.roi is None:
            return np.ones((height, width), dtype=bool)
        high, wide = self.roi.shape
        down = (top + np.arange(height)) * high // rows.height
        along = (left + np.arange(width)) * wide // rows.width
        return np.asarray(self.roi[down[:, None], along[None]])

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
    same_proportions(roi, size)
    return cv2.resize(roi.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def same_proportions(roi: Mask, size: tuple[int, int], name: str = "The region of interest") -> None:
    """Raises ImageError where the region of interest differs from `size` (h, w) by over 2 % in its proportions."""
    if abs(roi.shape[0] * size[1] / (roi.shape[1] * size[0]) - 1) > 0.02:
        raise ImageError(
            f"{name} is {roi.shape[1]} x {roi.shape[0]} pixels and the picture {size[1]} x {size[0]}; "
            "give a mask of the same proportions as the pictures."
        )


def inspect_paths(inspector: Inspector, paths: Iterable[Path]) -> Iterator[Decision | tuple[Path, str]]:
    """Judge picture after picture; one that cannot be judged, for whatever reason, yields (path, sentence).

    Raises CalibrationError where the model has no threshold yet, and what `paths` itself raises.
    """
    for path in paths:
        result: Decision | tuple[Path, str]
        try:
            result = inspector(path)
        except CalibrationError:
            raise
        except FlawforgeError as error:
            result = path, str(error)
        except MemoryError:
            result = path, f"{path} takes more memory than there is; give a smaller picture."
        except Exception as error:  # of a library, or ours: it costs this picture, and no other
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")[:300]
            result = path, f"{path} could not be judged ({reason}); check picture and model."
        yield result  # outside of the except: an exception that is held keeps its arrays


def _sizes(config: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    found = (config.get("data_report") or {}).get("sizes")
    if not found:
        return None
    (low_h, low_w), (high_h, high_w) = found["min"], found["max"]
    return (int(low_h), int(low_w)), (int(high_h), int(high_w))


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
        template=content.template,
        tile=config.get("tile"),
        sizes=_sizes(config),
        content=content,
    )
