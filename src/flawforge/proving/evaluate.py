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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flawforge.config import checked_seed
from flawforge.pictures.listing import Entry
from flawforge.proving import intervals, leakage, metrics
from flawforge.proving.doubts import Doubts
from flawforge.proving.intervals import Estimate
from flawforge.proving.labelled import Labelled, choose, mask_of
from flawforge.proving.shares import VERDICTS, confusion_of, escape_rate, operating_point, plain, rates_of
from flawforge.reporting.acceptance import Acceptance, accept
from flawforge.reporting.close_ups import close_up, large
from flawforge.reporting.kept import Kept, keep
from flawforge.types import DataError, Decision, ImageError, Map, Mask
from flawforge_runtime import tiles
from flawforge_runtime.calibrate import Calibration, calibrated
from flawforge_runtime.drawing import Drawn
from flawforge_runtime.images import as_picture

POOLED = 400_000_000  # pixels; above it every second row and column is pooled, so that memory stays below about 6 GB
TRIED = 3  # times as many good pictures are judged as are shown, to find some without a mark
OWN_GRID = "the picture's own size"
FIRST = {"escape": "top_miss", "detection": "top_catch", "good": "top_good"}  # of these groups the first is drawn large too


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


@dataclass(frozen=True)
class Kind:
    """What a model is worth on one kind of defect; `count` pictures of it were judged."""

    count: int
    image_auroc: Estimate
    escape_rate: Estimate
    peak_on_defect: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on labelled pictures. Every estimate has a 95 % interval; it is None where it has no meaning.

    image        auroc, ap, f1_max over pictures
    pixel        auroc, ap, f1_max, aupro_0.3, aupro_0.05, iou, peak_on_defect; None where no mask counts
    rates        false_alarm_rate (good judged NG), escape_rate (defective not judged NG), passed_rate (defective judged OK),
                 review_rate_good, review_rate_defective
    calibration  the thresholds in use
    kinds        by the defect's name
    counts       pictures: good, defective, unreadable, without_mask, invalid (like no good picture)
    grid         of the pixel figures
    pooled       pictures that the pixel figures are of
    notes        what a reader must know
    skipped      {"path", "reason"} of the pictures that cannot be read
    pictures     one row each: path, kind, label, score, p_value, verdict, peak_on_defect, seconds, valid
    saved        as what the model folder keeps it; None where it does not
    unsaved      why the model folder does not keep it; "" where it does, or was not to
    acceptance   the criteria that it was held against, see `accepted`; None = none
    """

    image: Mapping[str, Estimate]
    pixel: Mapping[str, Estimate] | None
    rates: Mapping[str, Estimate]
    calibration: Calibration
    kinds: Mapping[str, Kind]
    counts: Mapping[str, int]
    model: Mapping[str, Any]
    seconds: Mapping[str, float]
    seed: int
    bootstrap: int
    grid: str
    pooled: int
    notes: tuple[str, ...]
    skipped: tuple[Mapping[str, str], ...]
    pictures: tuple[Mapping[str, Any], ...]
    saved: Kept | None = None
    unsaved: str = ""
    acceptance: Acceptance | None = None

    def accepted(self, false_alarms: float | None = None, escapes: float | None = None) -> Evaluation:
        """The same, held against the highest acceptable shares in (0, 1); None = no criterion. Raises ConfigError."""
        return replace(self, acceptance=accept(plain(self.rates), self.counts, false_alarms, escapes))

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """{"good": {"OK", "REVIEW", "NG"}, "defective": the same}: how many pictures got which verdict."""
        return confusion_of(self.pictures)

    def lines(self) -> list[str]:
        """For people."""
        rows = [("image", self.image), ("pixel", self.pixel or {})]
        named = [(f"{group} {name}", estimate) for group, estimates in rows for name, estimate in estimates.items()]
        lines = [f"{self.counts['good']} good and {self.counts['defective']} defective pictures"]
        lines += [f"  {name:<22}{estimate.text}" for name, estimate in named]
        lines.append(f"  {'verdict':<12}" + "".join(f"{verdict:>8}" for verdict in VERDICTS))
        lines += [
            f"  {name:<12}" + "".join(f"{count:>8}" for count in counts.values()) for name, counts in self.confusion.items()
        ]
        lines += [self._rate_line("false_alarm_rate", "good", "NG"), self._rate_line("escape_rate", "defective", "not NG")]
        if self.skipped:
            first = self.skipped[0]["reason"]
            lines.append(f"  note: {len(self.skipped)} pictures cannot be read and were not judged; the first: {first}")
        lines += [f"  note: {note}" for note in self.notes]
        return [*lines, *(f"  {line}" for line in (self.acceptance.lines() if self.acceptance else []))]

    def _rate_line(self, name: str, group: str, what: str) -> str:
        """A rate, its interval and its counts; beside the false alarms how many to expect."""
        counts = self.confusion[group]
        of = sum(counts.values())
        events = counts["NG"] if what == "NG" else of - counts["NG"]
        line = f"  {name.removesuffix('_rate').replace('_', '-') + ' rate':<22}{self.rates[name].text}"
        if not of:
            return line
        line += f", {events} of {of} {group} pictures {what}"
        return f"{line}; to expect: {self.calibration.rate_ng.text}" if name == "false_alarm_rate" else line

    def as_dict(self) -> dict[str, Any]:
        """What `flawforge evaluate --json` writes."""
        pixel: dict[str, Any] | None = None
        if self.pixel is not None:
            pixel = {**plain(self.pixel), "grid": self.grid, "pictures": self.pooled}
        return {
            "image": plain(self.image),
            "pixel": pixel,
            "operating_point": operating_point(self.calibration, self.rates),
            "confusion": self.confusion,
            "kinds": {name: _kind_as_dict(kind) for name, kind in self.kinds.items()},
            "counts": dict(self.counts),
            "model": dict(self.model),
            "seconds": dict(self.seconds),
            "seed": self.seed,
            "bootstrap": self.bootstrap,
            "notes": list(self.notes),
            "skipped": [dict(skip) for skip in self.skipped],
            "pictures": [dict(row) for row in self.pictures],
            "acceptance": self.acceptance.as_dict() if self.acceptance else None,
        }


@dataclass
class _Judgements:
    """What was judged so far. maps, masks, overlaps, marked: of those that count for pixel metrics."""

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
            self.maps = [array[::2, ::2].copy() for array in self.maps]
            self.masks = [array[::2, ::2].copy() for array in self.masks]
            self.pixels = sum(array.size for array in self.maps)


def evaluate(
    inspector: Judge,
    pictures: Sequence[Entry] | Sequence[Labelled],
    *,
    seed: int = 0,
    bootstrap: int = 500,
    large_masks: bool = False,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge labelled pictures and measure the model's accuracy.

    pictures     of entries the test pictures are judged; where there is none, all labelled ones are, with a note.
                 Of `labelled` pictures all are
    seed         of the bootstrap; the same seed gives the same bits
    bootstrap    replicates; 0 leaves the intervals at [0, 1], except those of rates, which are exact
    large_masks  masks that mark more than half of their pictures are right; else they are taken for inverted or white
                 where most do so (`pixel` is then None), or where one marks the picture's edge too (it is left out)
    notes        to be told with the result's own
    progress     called with (done, all)

    A metric that needs both classes is None without them, and `pixel` is None where no defective picture has a mask that
    counts; `notes` then say why, and name masks that are missing, empty or large.

    Pictures that the model was trained on are left out, with a note.

    Raises DataError where no picture is labelled, all were trained on or none can be read, ImageError for a mask of another
    size, CalibrationError for a model without thresholds.
    """
    seed = checked_seed(seed)
    start = time.perf_counter()
    calibration = calibrated(inspector.calibration)
    chosen, choice_notes = choose(pictures)
    chosen, trained = _unseen(inspector, chosen)
    choice_notes += leakage.left_out(trained, trained + len(chosen))
    if calibration.of != "pictures":
        choice_notes.append(
            f"The expected rates are of {calibration.of}; those here count pictures, which are rejected no more often"
        )
    judgements = _Judgements(any(case.label and case.mask is not None for case in chosen), Doubts(large_masks))
    for done, case in enumerate(chosen, 1):
        _judge(inspector, case, judgements)
        if progress is not None:
            progress(done, len(chosen))
    if not judgements.rows:
        raise DataError(f"None of the {len(chosen)} pictures can be read; the first: {judgements.skipped[0]['reason']}")
    rng = np.random.default_rng(seed)
    good, defective = ([row for row in judgements.rows if row["label"] == label] for label in (0, 1))
    without_mask = sum(row["peak_on_defect"] is None for row in defective)
    if judgements.doubts.inverted:
        for row in defective:
            row["peak_on_defect"] = None
    has_pixels = without_mask < len(defective) and not judgements.doubts.inverted
    pixel = _pixel(judgements, defective, bootstrap, rng) if has_pixels else None
    return Evaluation(
        image=_image(good, defective, bootstrap, rng),
        pixel=pixel,
        rates=rates_of(good, defective),
        calibration=calibration,
        kinds=_kinds(good, defective, bootstrap, rng),
        counts={
            "good": len(good),
            "defective": len(defective),
            "unreadable": len(judgements.skipped),
            "without_mask": without_mask,
            "invalid": sum(not row["valid"] for row in judgements.rows),
        },
        model=dict(inspector.about),
        seconds={
            "per_picture": statistics.median(row["seconds"] for row in judgements.rows),
            "total": time.perf_counter() - start,
        },
        seed=seed,
        bootstrap=bootstrap,
        grid=OWN_GRID if judgements.stride == 1 else f"one pixel in {judgements.stride} x {judgements.stride} of {OWN_GRID}",
        pooled=len(judgements.maps),
        notes=(*choice_notes, *_another_product(judgements.rows), *judgements.doubts.notes(len(defective)), *notes),
        skipped=tuple(judgements.skipped),
        pictures=tuple(judgements.rows),
    )


def _another_product(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note where most pictures are like no good picture of the model's."""
    unlike = sum(not row["valid"] for row in rows)
    if 2 * unlike <= len(rows):
        return []
    return [f"{unlike} of {len(rows)} pictures are like no good picture of this model; check that they show its product"]


def _unseen(inspector: Judge, cases: Sequence[Labelled]) -> tuple[list[Labelled], int]:
    """(the cases that training did not see, how many it did). DataError where none is left."""
    left, trained = leakage.unseen([case.picture for case in cases], inspector)
    names = {id(picture) for picture in left}
    return [case for case in cases if id(case.picture) in names], trained


def _judge(inspector: Judge, case: Labelled, judgements: _Judgements) -> None:
    try:
        decision = inspector(case.picture)
    except ImageError as error:
        judgements.skipped.append({"path": case.name, "reason": str(error)})
        return
    mask: Mask | None = np.zeros(decision.anomaly_map.shape, bool) if case.label == 0 else None
    if case.label == 1:
        mask = _trusted(inspector, case, decision, judgements.doubts)
    if mask is not None and judgements.has_masks:
        judgements.pool(decision, mask)
    on_defect = metrics.peak_on_defect(decision.anomaly_map, mask) if mask is not None and case.label else None
    judgements.rows.append(
        {
            "path": case.name,
            "kind": case.kind,
            "label": case.label,
            "score": decision.pred_score,
            "p_value": decision.p_value,
            "verdict": decision.verdict,
            "peak_on_defect": on_defect,
            "seconds": decision.seconds,
            "valid": decision.valid,
        }
    )


def _trusted(inspector: Judge, case: Labelled, decision: Decision, doubts: Doubts) -> Mask | None:
    """The mask of a defective picture, None where it has none that counts; label files that cannot be read are noted."""
    try:
        mask = _mask(inspector, case, decision)
    except ImageError as error:
        if not isinstance(case.mask, Path) or case.mask.suffix.lower() != ".json":
            raise
        doubts.unread.append(str(error))
        return None
    if mask is None:
        return None
    return doubts.sift(case.mask if isinstance(case.mask, Path) else Path(case.name), mask)


def _mask(inspector: Judge, case: Labelled, decision: Decision) -> Mask | None:
    """The labelled defect at the size of the decision's map."""
    return mask_of(case, decision.anomaly_map.shape, inspector.max_pixels, shrunk=inspector.tile is not None)


def _image(
    good: Sequence[Mapping[str, Any]], defective: Sequence[Mapping[str, Any]], bootstrap: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    rows = [*good, *defective]
    return intervals.image_metrics(
        [row["score"] for row in rows], [bool(row["label"]) for row in rows], bootstrap=bootstrap, rng=rng
    )


def _pixel(
    judgements: _Judgements, defective: Sequence[Mapping[str, Any]], bootstrap: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    labels = [bool(mask.any()) for mask in judgements.masks]
    estimates = intervals.pixel_metrics(judgements.maps, judgements.masks, bootstrap=bootstrap, rng=rng)
    estimates["iou"] = intervals.overlap(np.array(judgements.overlaps), labels, bootstrap=bootstrap, rng=rng)
    estimates["peak_on_defect"] = _peak_on_defect(defective)
    return estimates


def _peak_on_defect(defective: Sequence[Mapping[str, Any]]) -> Estimate:
    peaks = [row["peak_on_defect"] for row in defective if row["peak_on_defect"] is not None]
    return intervals.rate(sum(peaks), len(peaks))


def _kinds(
    good: Sequence[Mapping[str, Any]], defective: Sequence[Mapping[str, Any]], bootstrap: int, rng: np.random.Generator
) -> dict[str, Kind]:
    kinds = {}
    for name in sorted({row["kind"] for row in defective}):
        rows = [row for row in defective if row["kind"] == name]
        auroc = _image(good, rows, bootstrap, rng)["auroc"]
        kinds[name] = Kind(len(rows), auroc, escape_rate(rows), _peak_on_defect(rows))
    return kinds


def _kind_as_dict(kind: Kind) -> dict[str, Any]:
    estimates = {name: getattr(kind, name) for name in ("image_auroc", "escape_rate", "peak_on_defect")}
    return {"count": kind.count, **plain(estimates)}


@dataclass(frozen=True)
class Shown:
    """One drawn picture. row: its row of `pictures`.

    group   "escape" | "false_alarm" | "detection" | "good"; "top_miss" | "top_catch" | "top_good" for the first screen
    panels  6: as `close_ups.close_up`; 1: as `close_ups.large`
    """

    group: str
    row: Mapping[str, Any]
    image: Drawn
    panels: int = 6


def telling(pictures: Sequence[Mapping[str, Any]], per_group: int = 4) -> dict[str, list[Mapping[str, Any]]]:
    """The rows to look at, up to `per_group` in each group.

    escape       defective, not NG, the lowest score first            false_alarm  good, NG, the highest score first
    detection    defective, NG, the highest score of each kind first  good         good, OK, the most typical score first
    """
    escapes = sorted((r for r in pictures if r["label"] and r["verdict"] != "NG"), key=lambda r: r["score"])
    alarms = sorted((r for r in pictures if not r["label"] and r["verdict"] == "NG"), key=lambda r: -r["score"])
    detected = sorted((r for r in pictures if r["label"] and r["verdict"] == "NG"), key=lambda r: -r["score"])
    accepted = [r for r in pictures if not r["label"] and r["verdict"] == "OK"]
    middle = statistics.median(r["score"] for r in accepted) if accepted else 0.0
    accepted.sort(key=lambda r: abs(r["score"] - middle))
    kinds = [[r for r in detected if r["kind"] == kind] for kind in sorted({r["kind"] for r in detected})]
    in_turn = [r for rank in itertools.zip_longest(*kinds) for r in rank if r is not None]
    groups = {"escape": escapes, "false_alarm": alarms, "detection": in_turn, "good": accepted}
    return {name: rows[:per_group] for name, rows in groups.items()}


def draw_telling(
    inspector: Judge, pictures: Sequence[Entry] | Sequence[Labelled], result: Evaluation, *, per_group: int = 3
) -> list[Shown]:
    """Judge the telling pictures of `result` once more and draw them, on the model's one colour scale.

    pictures  those that `evaluate` was given. Raises as `evaluate`.
    """
    by_name = {case.name: case for case in choose(pictures)[0]}
    scale, shown = calibrated(inspector.calibration).scale, []
    for group, rows in telling(result.pictures, TRIED * per_group).items():
        tried = rows if group == "good" else rows[:per_group]
        judged = [(row, inspector(by_name[row["path"]].picture)) for row in tried]
        if group == "good":  # one that is OK in spite of a marked speck is not the good part to show
            judged.sort(key=lambda pair: len(pair[1].regions) > 0)
        for place, (row, decision) in enumerate(judged[:per_group]):
            case, mask = by_name[row["path"]], None
            shape = decision.anomaly_map.shape
            if isinstance(case.picture, Path):
                pixels = tiles.picture_like(case.picture, shape, inspector.max_pixels)
            else:
                pixels = as_picture(case.picture).pixels
            with contextlib.suppress(ImageError):  # a label file that `evaluate` has named
                mask = _mask(inspector, case, decision) if case.label else None
            if place == 0 and group in FIRST:
                shown.append(Shown(FIRST[group], row, large(pixels, decision, mask), panels=1))
            shown.append(Shown(group, row, close_up(pixels, decision, scale, mask)))
    return shown


def save_evaluation(model: Path, result: Evaluation, overlays: Sequence[Shown] = (), data: str = "") -> Kept:
    """Keep an evaluation and its overlays in the model folder, see `reporting.kept.keep`.

    Each overlay has the keys "file", "group", "path", "kind", "score", "p_value", "verdict" and "panels".
    """
    keys = ("path", "kind", "score", "p_value", "verdict")
    pictures = [
        (drawn.group, {key: drawn.row[key] for key in keys} | {"panels": drawn.panels}, drawn.image) for drawn in overlays
    ]
    return keep(Path(model), "evaluation", result.as_dict(), pictures, data=data)
