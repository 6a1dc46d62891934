"""Picture in, Decision out: the one inference path that the command line, evaluation, export and service share.

Everything around the network call is numpy and OpenCV: the network is any callable from n 3 h w float32 arrays to
(map n h w, score n), so a runtime without torch judges with the same code. A network may give a third array, n h w: the map
that a picture's score is read from where that is not the map that marks the pixels. A network whose attribute `placed` is
True takes a second array, n 4: where each picture lies on its canvas (see images.inner_of).

Before a picture is judged it is held against what good pictures are like (guard.py). One that is like none of them is NG,
whatever the network says.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawforge_runtime import bundle, images, looks, poses, tiles
from flawforge_runtime.calibrate import Calibration, calibrated
from flawforge_runtime.drawing import escaped
from flawforge_runtime.guard import UNLIKE, Guard, Traits, describe, size_for
from flawforge_runtime.maps import (
    NO_CLOCK,
    Judged,
    Laid,
    Step,
    find_regions,
    fit_roi,
    lay,
    of_another_size,
    picture_score,
    refuse_size,
    same_proportions,
    to_network,
    untimed,
)
from flawforge_runtime.origin import Origin, opened
from flawforge_runtime.rates import highest_share, percent, strictest_rate
from flawforge_runtime.types import (
    CalibrationError,
    Decision,
    Image,
    ImageError,
    Map,
    Mask,
    ModelError,
    Region,
    ScoreRule,
)

NO_FOLDER = (
    "This inspector is not what a model folder holds, so it cannot be sent to another process; save it with "
    "inspector.save(FOLDER) and call load(FOLDER) in the worker, or send what load(FOLDER) gives."
)

WHOLE = 25_000_000  # pixels; a larger picture of a model with tiles is read strip by strip, and its map shrunk
SHRUNK = 2048  # longest side of the map of such a picture
SEEN = 1024  # longest side, about, at which the guard sees such a picture
NOTHING_LEFT = "The region of interest leaves no pixel of the picture to judge; give a larger one."
NOT_FINITE = "The network gave a value that is not finite for this picture; check picture and model."

Network = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]


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
    depth        bits of the camera behind 16-bit pictures; None = 16
    tile         side in the picture's own pixels of the tiles that it is cut into; None = a picture is looked at whole
    guard        what good pictures are like; None = not known, as in models of before version 0.2
    progress     called with (rows done, all rows) while a picture is judged in tiles
    about        facts on the model, for reports: model_id, method, profile, seed, flawforge_version, ...
    origin       the folder that it was opened from, None for one that was not; so it can be pickled without its weights
    """

    network: Network
    canvas: tuple[int, int]
    rule: ScoreRule
    calibration: Calibration | None = None
    roi: Mask | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int = images.MAX_PIXELS
    depth: int | None = None
    template: poses.Template | None = None
    tile: int | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    guard: Guard | None = None
    progress: Callable[[int, int], None] | None = None
    content: bundle.Content | None = None
    origin: Origin | None = field(default=None, compare=False)

    def judge(self, picture: images.Picture, step: Step = untimed) -> Judged:
        """Score and map without a threshold, and whether the picture is like the good ones at all.

        step  called with the name of each step; what it gives is entered for as long as the step takes
        Raises ImageError for a picture far smaller or more oblong than those trained on, a region of interest that does not
        fit it, a value of the network that is not finite.
        """
        refuse_size(picture.pixels.shape[:2], self.sizes, self.canvas)
        if self.tile is not None:
            return self._judge_tiled(picture, step)
        with step("resize"):
            pixels, placement = images.letterbox(picture.pixels, self.canvas)
        with step("guard"):
            unlike = self._unlike(pixels[placement.inner], picture.pixels)
        roi = None if self.roi is None else fit_roi(self.roi, picture.pixels.shape[:2])
        with step("pose") if self.template is not None else NO_CLOCK:
            laid = lay(pixels, placement, roi, self.template)
        if not laid.valid.any():
            raise ImageError(NOTHING_LEFT)
        ((score, at, own_map),) = self._read([laid], step)
        if roi is not None and not laid.pose:
            # Outside the region of interest nothing is judged: the map takes its lowest value there.
            own_map = np.where(roi, own_map, np.float32(own_map.min()))
        notes: tuple[str, ...] = (poses.NOT_FOUND,) if self.template and not laid.pose else ()
        notes += of_another_size(picture.pixels.shape[:2], self.sizes, self.canvas)
        return _finite(Judged(score, float(own_map.max()), own_map, at, notes, unlike))

    def _read(self, laid: Sequence[Laid], step: Step) -> list[tuple[float, tuple[int, int], Map]]:
        """(score, (row, column) of its highest value, map h w) of each picture or tile, in its own pixels.

        The score is -inf where no pixel counts.
        """
        with step("to network"):
            batch = [to_network(picture.pixels) for picture in laid]
            inner = np.stack([picture.inner for picture in laid])
        with step("network"):
            maps, scores, *others = self.look(batch[0] if len(batch) == 1 else np.concatenate(batch), inner)
        score_maps, readings = others[0] if others else maps, []
        for index, picture in enumerate(laid):
            score, at = -math.inf, (0, 0)
            with step("score"):
                if picture.valid.any():
                    score, at = picture_score(score_maps[index], float(scores[index]), picture.valid, self.rule)
            with step("map to own size"):
                readings.append((score, picture.own_pixel(*at), picture.own_map(maps[index])))
        return readings

    def look(self, batch: NDArray[np.float32], inner: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """What the network says of n 3 h w pictures that lie at `inner`, n 4. Raises ImageError for a value not finite."""
        network: Callable[..., tuple[NDArray[np.float32], ...]] = self.network
        outputs = network(batch, inner) if getattr(network, "placed", False) else network(batch)
        n, _, h, w = batch.shape
        shapes = [(n, h, w), (n,), (n, h, w)][: len(outputs)]
        if [output.shape for output in outputs] != shapes:
            actual = ", ".join(str(output.shape) for output in outputs)
            raise ModelError(f"The network's outputs have shapes {actual}, {', '.join(map(str, shapes))} are needed.")
        if not all(np.isfinite(output).all() for output in outputs):
            raise ImageError(NOT_FINITE)
        return outputs

    def describe(self, picture: images.Picture) -> Traits:
        """What `guard.fit_guard` is fitted to, and what a picture is held against it by."""
        if self.tile is not None:
            return self._described(picture.pixels)
        pixels, placement = images.letterbox(picture.pixels, self.canvas)
        return self._described(pixels[placement.inner])

    @property
    def guard_size(self) -> tuple[int, int]:
        """(h, w) at which `describe` sees a picture."""
        return size_for(self.canvas)

    def _described(self, pixels: Image) -> Traits:
        # Where parts are laid alike the region of interest moves with the part, so the whole picture is described.
        return describe(pixels, self.guard_size, self.roi if self.template is None else None)

    def _unlike(self, pixels: Image, whole: Image) -> str:
        """Why a picture is not like any good one, from its pixels on the canvas; "" for one that may be."""
        if self.guard is not None:
            return self.guard.unlike(self._described(pixels))
        known = self.calibration.looks if self.calibration is not None else {}
        why = looks.outside(looks.looks_of(whole), known) if known else ""
        return f"{UNLIKE}: {why}" if why else ""

    def __call__(self, picture: Any, image_path: str = "") -> Decision:
        """Judge a path, the bytes of a file, a PIL picture or an h w 3 array in RGB order. A higher score is more anomalous.

        OpenCV reads pictures as BGR: give the path, or `flawforge.from_bgr(array)`.

        Raises ImageError for what is no picture, CalibrationError where the model has no threshold yet.
        """
        start = time.perf_counter()
        calibrated(self.calibration)
        read: images.Picture | None = None
        if self.tile is not None and isinstance(picture, str | Path):
            rows = tiles.open_rows(Path(picture), self.max_pixels, self.depth)
            if rows.height * rows.width > WHOLE:
                refuse_size((rows.height, rows.width), self.sizes, self.canvas)
                return self._decide_streamed(rows, image_path or str(picture), start)
            if isinstance(rows, tiles.Whole):
                read = images.Picture(rows.pixels, "", rows.notes())
        read = read or images.as_picture(picture, max_pixels=self.max_pixels, depth=self.depth)
        if not image_path and isinstance(picture, str | Path):
            image_path = str(picture)
        return replace(self.decide(self.judge(read), image_path, read.notes, start), picture=read.pixels)

    def decide(
        self, judged: Judged, image_path: str = "", notes: tuple[str, ...] = (), start: float | None = None
    ) -> Decision:
        """Thresholds, regions and rules on a raw judgement. start: when the work on the picture began; None = now.

        Raises CalibrationError where the model has no threshold yet.
        """
        start = time.perf_counter() if start is None else start
        mask = judged.anomaly_map > calibrated(self.calibration).pixel_threshold
        return self._decision(judged, mask, find_regions(judged.anomaly_map, mask), image_path, notes, start)

    def _decision(
        self, judged: Judged, mask: Mask, regions: tuple[Region, ...], image_path: str, notes: tuple[str, ...], start: float
    ) -> Decision:
        calibration = calibrated(self.calibration)
        if judged.unlike:
            return self._invalid(calibration, judged, mask, regions, image_path, notes, start)
        verdict = calibration.verdict(judged.score)
        if verdict != "OK" and not regions:
            # The score's window mean can pass where no single pixel does; a reject must still point somewhere.
            row, column = judged.at
            regions = (Region(column, row, 1, 1, 1, judged.peak),)
        verdict, by_rule = calibration.rules.judge(verdict, [region.area for region in regions], mask.size)
        return Decision(
            image_path=image_path,
            pred_score=judged.score,
            p_value=calibration.p_value(judged.score),
            verdict=verdict,
            pred_label=verdict == "NG",
            threshold=calibration.threshold,
            anomaly_map=judged.anomaly_map,
            pred_mask=mask,
            regions=regions,
            seconds=time.perf_counter() - start,
            notes=(*notes, *judged.notes, *((by_rule,) if by_rule else ())),
            **_on_scale(calibration, judged.score),
        )

    def _invalid(
        self,
        calibration: Calibration,
        judged: Judged,
        mask: Mask,
        regions: tuple[Region, ...],
        image_path: str,
        notes: tuple[str, ...],
        start: float,
    ) -> Decision:
        """NG for a picture like no good one: stranger than every good picture, its p-value at the floor, rules put aside."""
        h, w = judged.anomaly_map.shape
        score = max(judged.score, calibration.beyond)
        return Decision(
            image_path=image_path,
            pred_score=score,
            p_value=calibration.p_value(score),
            verdict="NG",
            pred_label=True,
            threshold=calibration.threshold,
            anomaly_map=judged.anomaly_map,
            pred_mask=mask,
            regions=regions or (Region(0, 0, w, h, w * h, judged.peak),),
            seconds=time.perf_counter() - start,
            notes=(judged.unlike, *notes, *judged.notes),
            valid=False,
            **_on_scale(calibration, score),
        )

    def _judge_tiled(self, picture: images.Picture, step: Step) -> Judged:
        with step("guard"):
            unlike = self._unlike(picture.pixels, picture.pixels)
        own_map = np.empty(picture.pixels.shape[:2], dtype=np.float32)

        def keep(top: int, band: Map, inside: Mask) -> None:
            own_map[top : top + len(band)] = np.where(inside, band, np.float32(band[inside].min() if inside.any() else 0))

        score, at = self._tiled(tiles.Whole(picture.pixels), keep, step)
        return _finite(Judged(score, float(own_map.max()), own_map, at, unlike=unlike))

    def _decide_streamed(self, rows: tiles.Rows, image_path: str, start: float) -> Decision:
        """A picture that is never in memory as a whole: regions are exact, map and mask are shrunk by maxima."""
        threshold, regions = calibrated(self.calibration).pixel_threshold, tiles.Regions()
        thumbnail = tiles.shrunk(rows, max(1, max(rows.height, rows.width) // SEEN))
        unlike = self._unlike(thumbnail, thumbnail)
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
        judged = _finite(Judged(score, float(small.max()), small, at, unlike=unlike))
        note = f"judged in tiles; map and mask hold the highest of {factor} x {factor} pixels"
        notes = *rows.notes(), note
        return replace(self._decision(judged, marked, regions.found(), image_path, notes, start), picture=thumbnail)

    def _tiled(
        self, rows: tiles.Rows, keep: Callable[[int, Map, Mask], None], step: Step = untimed
    ) -> tuple[float, tuple[int, int]]:
        """Give `keep` the blended map band by band; the score is the strangest tile's, with its place in own pixels."""
        assert self.tile is not None
        if self.roi is not None:
            same_proportions(self.roi, (rows.height, rows.width))
        best, best_at = -math.inf, (0, 0)

        def judge(tile_list: list[tuple[int, int, Image]]) -> list[Map]:
            nonlocal best, best_at
            laid = []
            with step("resize"):
                for top, left, pixels in tile_list:
                    inside = self._inside(rows, top, left, pixels.shape[0], pixels.shape[1])
                    laid.append(lay(*images.letterbox(pixels, self.canvas), None if inside.all() else inside))
            readings = self._read(laid, step)
            for (top, left, _), (score, (row, column), _) in zip(tile_list, readings, strict=True):
                if score > best:
                    best, best_at = score, (top + row, left + column)
            return [own_map for _, _, own_map in readings]

        for top, band in tiles.blended(rows, self.tile, tiles.batch_size(self.canvas, self.tile), judge):
            keep(top, band, self._inside(rows, top, 0, len(band), rows.width))
            if self.progress is not None:
                self.progress(top + len(band), rows.height)
        if best == -math.inf:
            raise ImageError(NOTHING_LEFT)
        return best, best_at

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

    def lines(self) -> list[str]:
        """For people, as `fit` ends: the limits and rates to expect, and how often the guard rejects good pictures."""
        lines = self.calibration.lines() if self.calibration is not None else ["no thresholds yet"]
        if self.guard is not None and self.guard.count:
            flagged, count = self.guard.flagged, self.guard.count
            most = percent(highest_share(flagged, count))
            lines.append(
                f"a picture unlike every good picture is NG too; this rejected {flagged} of {count} good pictures that the "
                f"limits had not seen ({percent(flagged / count)}, 95 % interval up to {most})"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Facts on the model, its thresholds and its guard, JSON-able."""
        return {
            "model": dict(self.about),
            "canvas": list(self.canvas),
            "tile": self.tile,
            "depth": self.depth,
            "calibration": self.calibration.as_dict() if self.calibration is not None else None,
            "guard": {"count": self.guard.count, "flagged": self.guard.flagged} if self.guard is not None else None,
        }

    def _repr_html_(self) -> str:
        """For a notebook: what it is, its limits, and the rates to expect."""
        return f"<p><b>{escaped(repr(self))}</b><br>{'<br>'.join(escaped(line) for line in self.lines())}</p>"

    def __repr__(self) -> str:
        product = repr(Path(self.origin.folder).name) if self.origin else "not opened from a folder"
        limits = "no thresholds"
        if self.calibration is not None:
            limits = f"REVIEW above {self.calibration.review_threshold:.6g}, NG above {self.calibration.threshold:.6g}"
        method, (high, wide) = self.about.get("method") or "of no method", self.canvas
        return f"<Inspector {method}, {product}, canvas {high} x {wide} (h x w), {limits}>"

    def __copy__(self) -> Inspector:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Inspector:
        """Nothing in it changes, so a copy need not hold the weights once more."""
        return replace(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """To pickle: the folder, what must be the same there, and all that may have been replaced since it was opened.

        A `progress` is not sent. Raises ModelError where no folder holds this network.
        """
        origin = self.origin
        if origin is None or origin.network is not self.network or self.content is None:
            raise ModelError(NO_FOLDER)
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name in ("network", "content", "origin", "progress"):
            del own[name]
        for name in ("roi", "template"):  # large, and as the folder has them, which the origin vouches for
            if own[name] is getattr(origin.content, name):
                del own[name]
        saved = {entry.name: getattr(self.content, entry.name) for entry in fields(self.content) if entry.name in own}
        return _arrived, (origin.load, origin.folder, dict(origin.how), origin.model, own, saved)


def _arrived(
    load: Callable[..., Inspector], folder: str, how: dict[str, Any], model: str, own: dict[str, Any], saved: dict[str, Any]
) -> Inspector:
    """An Inspector that was pickled, in the process that it came to."""
    inspector: Inspector = opened(load, folder, how, model)
    assert inspector.content is not None
    return replace(inspector, content=replace(inspector.content, **saved), **own)


def _on_scale(calibration: Calibration, score: float) -> dict[str, Any]:
    """The fields of a Decision that say where its score lies."""
    return {
        "scale": calibration.scale,
        "score_normalised": calibration.normalised(score),
        "review_threshold": calibration.review_threshold,
        "least_p": strictest_rate(calibration.n),
        "mm_per_pixel": calibration.rules.mm_per_pixel,
    }


def _finite(judged: Judged) -> Judged:
    """The last gate before a decision: smoothing, means and resizing come after the network's own check."""
    lowest = float(judged.anomaly_map.min())  # minimum and maximum of an array with a NaN are NaN
    if not all(math.isfinite(value) for value in (judged.score, judged.peak, lowest)):
        raise ImageError(NOT_FINITE)
    return judged


def _sizes(config: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    sizes = (config.get("data_report") or {}).get("sizes")
    if not sizes:
        return None
    (low_h, low_w), (high_h, high_w) = sizes["min"], sizes["max"]
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
        depth=config.get("depth"),
        template=content.template,
        tile=config.get("tile"),
        sizes=_sizes(config),
        guard=content.guard,
        content=content,
    )
