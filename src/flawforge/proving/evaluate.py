"""An inspector and labelled pictures -> what it is worth, each number with a 95 % interval.

The thresholds come from the model's calibration and are never touched here: nothing is fitted on test pictures, except
F1-max, which by its definition picks its own threshold and is an upper bound.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flawforge.pictures import masks
from flawforge.pictures.listing import Entry
from flawforge.proving import intervals, metrics
from flawforge.proving.doubts import Doubts
from flawforge.proving.intervals import Estimate
from flawforge.reporting.overlays import Drawn, overlay, save_album, scale_of
from flawforge.types import CalibrationError, DataError, Decision, ImageError, Map, Mask
from flawforge_runtime import tiles
from flawforge_runtime.calibrate import Calibration

POOLED = 400_000_000  # pixels; above it every second row and column is pooled, so that memory stays below about 6 GB
OWN_GRID = "the picture's own size"
SIDE = 360  # longest side in pixels of a picture in an overlay


class Judge(Protocol):
    """What is evaluated: an Inspector, or anything that judges as one."""

    @property
    def calibration(self) -> Calibration | None: ...

    @property
    def tile(self) -> int | None: ...

    @property
    def max_pixels(self) -> int: ...

    @property
    def about(self) -> Mapping[str, Any]: ...

    def __call__(self, picture: Any, image_path: str = "") -> Decision: ...


@dataclass
class _Seen:
    """What is kept of the judged pictures. maps, masks, overlaps, marked: of those that count for pixel metrics."""

    has_masks: bool
    doubts: Doubts
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    overlaps: list[NDArray[np.int64]] = field(default_factory=list)
    stride: int = 1
    pixels: int = 0

    def pool(self, decision: Decision, mask: Mask) -> None:
        self.overlaps.append(metrics.overlap_counts([decision.pred_mask], [mask])[0])
        step = np.s_[:: self.stride, :: self.stride]
        self.maps.append(np.ascontiguousarray(decision.anomaly_map[step]))
        self.masks.append(np.ascontiguousarray(mask[step]))
        self.pixels += self.maps[-1].size
        while self.pixels > POOLED:
            self.stride *= 2
            self.maps = [each[::2, ::2].copy() for each in self.maps]
            self.masks = [each[::2, ::2].copy() for each in self.masks]
            self.pixels = sum(each.size for each in self.maps)


def evaluate(
    inspector: Judge,
    entries: Sequence[Entry],
    *,
    seed: int = 0,
    bootstrap: int = 500,
    large_masks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Judge the labelled test pictures and give the JSON-able result of `flawforge evaluate --json`.

    entries      the test pictures among them are judged; where there is none, all labelled ones are, with a note
    seed         of the bootstrap; the same seed gives the same bits
    bootstrap    replicates; 0 leaves the intervals at [0, 1], except those of rates, which are exact
    large_masks  masks that mark more than half of their pictures are right; else they are taken for inverted or white
                 where most do so (`pixel` is then null), or where one marks the picture's edge too (it is left out)
    progress     called with (done, all)

    In the result, `image` and `pixel` hold {"value", "low", "high"} each; a metric that needs both classes is null
    without them, and `pixel` is null where no defective picture has a mask that counts; `notes` then say why, and name
    masks that are missing, empty or large. `false_alarm_rate` is the share of good pictures judged NG, `escape_rate` the
    share of defective ones not judged NG, and of these `passed_rate` counts those judged OK, which no reviewer would see.
    `counts.invalid` are those that are like no good picture.
    `pictures` has one row each, `skipped` the unreadable ones and why.

    Raises DataError where no picture is labelled or none can be read, ImageError for a mask of another size,
    CalibrationError for a model without thresholds.
    """
    start = time.perf_counter()
    calibration = inspector.calibration
    if calibration is None:
        raise CalibrationError("The model has no thresholds yet; run `flawforge calibrate MODEL GOOD` first.")
    chosen, notes = choose(entries)
    if calibration.per_part:
        notes = [*notes, "The promise is on parts; the rates here count pictures, which are rejected no more often"]
    seen = _Seen(any(entry.label and entry.mask_path for entry in chosen), Doubts(large_masks))
    for done, entry in enumerate(chosen, 1):
        _judge(inspector, entry, seen)
        if progress is not None:
            progress(done, len(chosen))
    if not seen.rows:
        raise DataError(f"None of the {len(chosen)} pictures can be read; the first: {seen.skipped[0]['reason']}")
    rng = np.random.default_rng(seed)
    good, defective = ([row for row in seen.rows if row["label"] == label] for label in (0, 1))
    without = sum(row["peak_on_defect"] is None for row in defective)
    if seen.doubts.inverted:
        for row in defective:
            row["peak_on_defect"] = None
    pixel = _pixel(seen, defective, bootstrap, rng) if without < len(defective) and not seen.doubts.inverted else None
    notes = [*notes, *seen.doubts.notes(len(defective))]
    return {
        "image": _plain(_image(good, defective, bootstrap, rng)),
        "pixel": pixel,
        "operating_point": _operating_point(calibration, good, defective),
        "kinds": _kinds(good, defective, bootstrap, rng),
        "counts": {
            "good": len(good),
            "defective": len(defective),
            "unreadable": len(seen.skipped),
            "without_mask": without,
            "invalid": sum(not row["valid"] for row in seen.rows),
        },
        "model": dict(inspector.about),
        "seconds": {
            "per_picture": statistics.median(row["seconds"] for row in seen.rows),
            "total": time.perf_counter() - start,
        },
        "seed": seed,
        "bootstrap": bootstrap,
        "notes": list(notes),
        "skipped": seen.skipped,
        "pictures": seen.rows,
    }


def choose(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries to judge, and what a reader must know about the choice. Raises DataError where none is labelled."""
    labelled = [entry for entry in entries if entry.label is not None]
    if not labelled:
        raise DataError(
            "None of the pictures is labelled good or defective; give a folder in MVTec layout or a CSV with labels."
        )
    notes = []
    if len(labelled) < len(entries):
        notes.append(f"{len(entries) - len(labelled)} pictures without a label were left out")
    test = [entry for entry in labelled if entry.split == "test"]
    if not test:
        notes.append(
            "No picture is marked as a test picture, so all were judged; if `fit` saw some of them, the rates flatter"
        )
        return labelled, notes
    if not any(entry.label == 0 for entry in test):
        notes.append("There is no good test picture, so the false-alarm rate is not known; mark some with split test")
    return test, notes


def _judge(inspector: Judge, entry: Entry, seen: _Seen) -> None:
    try:
        decision = inspector(entry.path)
    except ImageError as error:
        seen.skipped.append({"path": str(entry.path), "reason": str(error)})
        return
    mask: Mask | None = np.zeros(decision.anomaly_map.shape, bool) if entry.label == 0 else None
    if entry.label == 1:
        mask = _trusted(inspector, entry, decision, seen.doubts)
    if mask is not None and seen.has_masks:
        seen.pool(decision, mask)
    on_defect = metrics.peak_on_defect(decision.anomaly_map, mask) if mask is not None and entry.label else None
    seen.rows.append(
        {
            "path": str(entry.path),
            "kind": entry.kind,
            "label": entry.label,
            "score": decision.pred_score,
            "p_value": decision.p_value,
            "verdict": decision.verdict,
            "peak_on_defect": on_defect,
            "seconds": decision.seconds,
            "valid": decision.valid,
        }
    )


def _trusted(inspector: Judge, entry: Entry, decision: Decision, doubts: Doubts) -> Mask | None:
    """The mask of a defective picture, None where it has none that counts; label files that cannot be read are noted."""
    try:
        mask = mask_of(inspector, entry, decision)
    except ImageError as error:
        if entry.mask_path is None or entry.mask_path.suffix.lower() != ".json":
            raise
        doubts.unread.append(str(error))
        return None
    return doubts.sift(entry.mask_path, mask) if entry.mask_path is not None and mask is not None else None


def mask_of(inspector: Judge, entry: Entry, decision: Decision) -> Mask | None:
    """The labelled defect at the size of the decision's map, which is shrunk where a picture was judged strip by strip."""
    if entry.mask_path is None:
        return None
    shape = decision.anomaly_map.shape
    return masks.read(entry.mask_path, entry.path, shape, inspector.max_pixels, shrunk=inspector.tile is not None)


def _image(
    good: Sequence[Mapping[str, Any]], defective: Sequence[Mapping[str, Any]], bootstrap: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    rows = [*good, *defective]
    return intervals.image_metrics(
        [row["score"] for row in rows], [bool(row["label"]) for row in rows], bootstrap=bootstrap, rng=rng
    )


def _pixel(seen: _Seen, defective: Sequence[Mapping[str, Any]], bootstrap: int, rng: np.random.Generator) -> dict[str, Any]:
    labels = [bool(mask.any()) for mask in seen.masks]
    found = intervals.pixel_metrics(seen.maps, seen.masks, bootstrap=bootstrap, rng=rng)
    found["iou"] = intervals.overlap(np.array(seen.overlaps), labels, bootstrap=bootstrap, rng=rng)
    peaks = [row["peak_on_defect"] for row in defective if row["peak_on_defect"] is not None]
    found["peak_on_defect"] = intervals.rate(sum(peaks), len(peaks))
    grid = OWN_GRID if seen.stride == 1 else f"one pixel in {seen.stride} x {seen.stride} of {OWN_GRID}"
    return {**_plain(found), "grid": grid, "pictures": len(seen.maps)}


def _operating_point(
    calibration: Calibration, good: Sequence[Mapping[str, Any]], defective: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    def share(rows: Sequence[Mapping[str, Any]], *verdicts: str) -> Estimate:
        return intervals.rate(sum(row["verdict"] in verdicts for row in rows), len(rows))

    rates = {
        "false_alarm_rate": share(good, "NG"),
        "escape_rate": share(defective, "OK", "REVIEW"),
        "passed_rate": share(defective, "OK"),
        "review_rate_good": share(good, "REVIEW"),
        "review_rate_defective": share(defective, "REVIEW"),
    }
    return {
        "threshold": calibration.threshold,
        "review_threshold": calibration.review_threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "promised_false_alarm": calibration.false_alarm,
        "promised_review": calibration.review,
        "calibration_pictures": calibration.n,
        **_plain(rates),
    }


def _kinds(
    good: Sequence[Mapping[str, Any]], defective: Sequence[Mapping[str, Any]], bootstrap: int, rng: np.random.Generator
) -> dict[str, Any]:
    kinds = {}
    for kind in sorted({row["kind"] for row in defective}):
        rows = [row for row in defective if row["kind"] == kind]
        peaks = [row["peak_on_defect"] for row in rows if row["peak_on_defect"] is not None]
        estimates = {
            "image_auroc": _image(good, rows, bootstrap, rng)["auroc"],
            "escape_rate": intervals.rate(sum(row["verdict"] != "NG" for row in rows), len(rows)),
            "peak_on_defect": intervals.rate(sum(peaks), len(peaks)),
        }
        kinds[kind] = {"count": len(rows), **_plain(estimates)}
    return kinds


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    return {name: estimate._asdict() for name, estimate in estimates.items()}


@dataclass(frozen=True)
class Shown:
    """One drawn picture. group: "escape" | "false_alarm" | "detection" | "good"; row: its row of `pictures`."""

    group: str
    row: Mapping[str, Any]
    image: Drawn


def telling(pictures: Sequence[Mapping[str, Any]], each: int = 4) -> dict[str, list[Mapping[str, Any]]]:
    """The rows to look at, up to `each` per group.

    escape       defective, not NG, the least strange first       false_alarm  good, NG, the strangest first
    detection    defective, NG, the strangest of each kind first   good         good, OK, the most typical score first
    """
    escapes = sorted((r for r in pictures if r["label"] and r["verdict"] != "NG"), key=lambda r: r["score"])
    alarms = sorted((r for r in pictures if not r["label"] and r["verdict"] == "NG"), key=lambda r: -r["score"])
    found = sorted((r for r in pictures if r["label"] and r["verdict"] == "NG"), key=lambda r: -r["score"])
    calm = [r for r in pictures if not r["label"] and r["verdict"] == "OK"]
    middle = statistics.median(r["score"] for r in calm) if calm else 0.0
    calm.sort(key=lambda r: abs(r["score"] - middle))
    kinds = [[r for r in found if r["kind"] == kind] for kind in sorted({r["kind"] for r in found})]
    in_turn = [r for rank in itertools.zip_longest(*kinds) for r in rank if r is not None]
    groups = {"escape": escapes, "false_alarm": alarms, "detection": in_turn, "good": calm}
    return {name: rows[:each] for name, rows in groups.items()}


def draw_telling(inspector: Judge, entries: Sequence[Entry], result: Mapping[str, Any], *, each: int = 4) -> list[Shown]:
    """Judge the telling pictures of `result` once more and draw them, on the model's one colour scale.

    entries  those that `evaluate` was given (for the masks). Raises as `evaluate`.
    """
    calibration = inspector.calibration
    if calibration is None:
        raise CalibrationError("The model has no thresholds yet; run `flawforge calibrate MODEL GOOD` first.")
    labelled = {str(entry.path): entry for entry in entries if entry.label == 1}
    scale, shown = scale_of(calibration), []
    for group, rows in telling(result["pictures"], each).items():
        for row in rows:
            decision = inspector(Path(row["path"]))
            pixels = tiles.picture_like(Path(row["path"]), decision.anomaly_map.shape, inspector.max_pixels)
            entry, mask = labelled.get(row["path"]), None
            if entry is not None:
                with contextlib.suppress(ImageError):  # a label file that `evaluate` has named
                    mask = mask_of(inspector, entry, decision)
            shown.append(Shown(group, row, overlay(pixels, decision, scale, mask, max_side=SIDE)))
    return shown


def save_evaluation(folder: Path, result: Mapping[str, Any], overlays: Sequence[Shown] = ()) -> Path:
    """Write `folder`/evaluation: evaluation.json and the overlays as WebP; all of it or, where it fails, nothing new.

    The JSON is `result` with one more key, "overlays": {"file", "group", "path", "kind", "score", "p_value",
    "verdict"} each. An older evaluation is replaced. OSError (a full disk) passes through. Returns the new folder.
    """
    keys = ("path", "kind", "score", "p_value", "verdict")
    pictures = [(one.group, {key: one.row[key] for key in keys}, one.image) for one in overlays]
    return save_album(Path(folder), "evaluation", result, pictures)
