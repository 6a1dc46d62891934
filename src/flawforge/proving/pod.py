"""Forged-defect probability of detection: what a calibrated model finds, by kind, contrast and size, and what it misses.

Defects of known size are forged into good pictures that the model was not trained on (proof.py), each is judged at the
model's own thresholds, and hit/miss curves are fitted (hitmiss.py), in the manner of MIL-HDBK-1823A. The false-alarm
rate on the same pictures, unforged, stands beside them.

A hit    the verdict is NG, and something that the model marks touches the defect. A reject that points elsewhere is a
         false call on a bad part, not a detection; `rejected` counts those too, so that the difference can be seen.
A miss   everything else; REVIEW is a miss, as `evaluate` counts it an escape.
Touches  a marked pixel within a 64th of the picture's shorter side of the defect (4 px of 256): maps are coarse.

Call it forged-defect POD, never POD: how far it tells the truth on real defects is measured in benchmarks/pod_trust.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.forge import FORGERS
from flawforge.proving import hitmiss, intervals
from flawforge.proving.specimens import Forgery, Recipe, families_of, held_out_kinds, proof_pictures
from flawforge.reporting.overlays import Drawn, overlay, save_album, scale_of
from flawforge.types import CalibrationError, ConfigError, DataError, Decision, Image, ImageError, Mask
from flawforge_runtime.calibrate import Calibration
from flawforge_runtime.images import MAX_PIXELS, read_picture

BOOTSTRAP = 400  # replicates, where good pictures carry more than one forgery of a curve
POINTS = 25  # sizes at which a curve is written down
BINS = 6  # of sizes, for the counts beside a curve
SIDE = 200  # longest side in pixels of a picture in an overlay; two stand side by side in a narrow column
HIT = "verdict NG and a marked region touches the defect (within 1/64 of the picture's shorter side)"
SIZE = "largest extent (maximum Feret diameter) of the forged mask"


class Judge(Protocol):
    """What is proved: an Inspector, or anything that judges as one."""

    @property
    def calibration(self) -> Calibration | None: ...

    @property
    def about(self) -> Mapping[str, Any]: ...

    @property
    def roi(self) -> Mask | None: ...

    def __call__(self, picture: Any, image_path: str = "") -> Decision: ...


@dataclass(frozen=True)
class Trial:
    """One forgery judged. size in px of the picture; good is the index of its good picture; pointed: see `touches`."""

    kind: str
    contrast: float
    size: float
    good: int
    score: float
    verdict: str
    pointed: bool

    @property
    def rejected(self) -> bool:
        return self.verdict == "NG"

    @property
    def hit(self) -> bool:
        return self.rejected and self.pointed


@dataclass(frozen=True)
class Shown:
    """One drawn picture. group: "hardest_good" | "missed" | "found"; caption: facts for people."""

    group: str
    caption: Mapping[str, Any]
    image: Drawn


def touches(decision: Decision, mask: Mask) -> bool:
    """Something that the model marks lies on the defect mask h w, or within a 64th of the shorter side of it."""
    reach = max(1, round(min(mask.shape) / 64))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    if decision.pred_mask.any():
        return bool((decision.pred_mask & near).any())
    return any(bool(near[region.y, region.x]) for region in decision.regions)  # a reject without a marked pixel points too


def judge_forgeries(inspector: Judge, forgeries: Iterable[Forgery]) -> Iterator[tuple[Trial, Forgery, Decision]]:
    """Judge proof pictures one after another. Raises CalibrationError for a model without thresholds."""
    for each in _one_ahead(iter(forgeries)):
        decision = inspector(each.image)
        pointed = touches(decision, each.mask)
        trial = Trial(each.kind, each.contrast, each.size, each.good, decision.pred_score, decision.verdict, pointed)
        yield trial, each, decision


def _one_ahead(forgeries: Iterator[Forgery]) -> Iterator[Forgery]:
    """The same, the next one being forged in a thread while this one is judged."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, forgeries, None)
        while (made := waiting.result()) is not None:
            waiting = pool.submit(next, forgeries, None)
            yield made


def prove(
    inspector: Judge,
    goods: Sequence[Image | Path],
    recipe: Recipe | None = None,
    *,
    trained_on: Sequence[str] = (),
    scale: float | None = None,
    parts: Mapping[Path, str] | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[Shown]]:
    """The JSON-able result of `flawforge pod --json`, and pictures to look at.

    goods       good pictures that training never saw: h w 3 arrays or paths; their order does not matter
    recipe      what to forge; None = the default, without the families of `trained_on`
    trained_on  names of the forgers that the model was trained on
    scale       mm per pixel of the pictures; sizes are then in mm, else in px
    parts       which part each path shows: parts are then counted and drawn whole; None = each picture is a part

    Raises CalibrationError for a model without thresholds, DataError where no good picture can be read.
    """
    start = time.perf_counter()
    if inspector.calibration is None:
        raise CalibrationError("The model has no thresholds yet; run `flawforge calibrate MODEL GOOD` first.")
    if scale is not None and not 0.0 < scale < 1e3:
        raise ConfigError(f"--scale was given as {scale:g}; give the millimetres of one pixel, for example 0.05.")
    recipe = recipe or Recipe(held_out_kinds(trained_on))
    total = len(goods) + len(recipe.kinds) * len(recipe.contrasts) * recipe.count
    show = progress or (lambda done, of: None)
    album = _Album()
    judged, kept, skipped = _judge_goods(inspector, goods, album, lambda done: show(done, total))
    trials = []
    made = proof_pictures(kept, recipe, roi=inspector.roi, max_pixels=max_pixels, depth=getattr(inspector, "depth", None))
    for trial, forgery, decision in judge_forgeries(inspector, made):
        trials.append(trial)
        album.add(trial, forgery, decision)
        show(len(goods) + len(trials), total)
    show(total, total)
    keys = [(kind, contrast) for kind in recipe.kinds for contrast in recipe.contrasts]
    by_curve = [[each for each in trials if (each.kind, each.contrast) == key] for key in keys]
    of = _parts_of(kept, parts)
    curves = [_curve(rows, *key, scale, recipe.seed, of) for key, rows in zip(keys, by_curve, strict=True)]
    found = [each for each in trials if each.rejected]
    elsewhere = sum(not each.pointed for each in found)
    names = [str(good) if isinstance(good, Path) else f"picture {index}" for index, good in enumerate(kept)]
    result = {
        "false_alarm": _false_alarm(inspector.calibration, judged, kept, of),
        "forgers": {
            "trained_on": list(trained_on),
            "proved_with": list(recipe.kinds),
            "families_trained_on": list(families_of(trained_on)),
            "families_proved_with": list(families_of(recipe.kinds)),
        },
        "curves": curves,
        "rejected_elsewhere": {"count": elsewhere, "of": len(found), **intervals.rate(elsewhere, len(found))._asdict()},
        "size": SIZE,
        "hit": HIT,
        "unit": _unit(scale),
        "mm_per_pixel": scale,
        "recipe": dataclasses.asdict(recipe),
        "goods": len(kept),
        "skipped": skipped,
        "model": dict(inspector.about),
        "seconds": {"total": time.perf_counter() - start},
        "trials": [_row(each, scale, names) for each in trials],
        "good_scores": [
            {"path": name, "score": score, "verdict": verdict} for name, (score, verdict) in zip(names, judged, strict=True)
        ],
    }
    return result, album.drawn(inspector.calibration, names, scale)


def _parts_of(goods: Sequence[Image | Path], parts: Mapping[Path, str] | None) -> list[int]:
    """A number for the part that each good picture shows; one's own where that is not known."""
    names: dict[Any, int] = {}
    named = [parts[good] if parts is not None and isinstance(good, Path) else index for index, good in enumerate(goods)]
    return [names.setdefault(name, len(names)) for name in named]


def _row(trial: Trial, scale: float | None, names: Sequence[str]) -> dict[str, Any]:
    size = trial.size * (scale or 1.0)
    return {**dataclasses.asdict(trial), "hit": trial.hit, "size": size, "good": names[trial.good]}


def save_proof(folder: Path, result: Mapping[str, Any], shown: Sequence[Shown] = ()) -> Path:
    """Write `folder`/proof for the report: proof.json and the pictures; returns it. OSError passes through."""
    return save_album(Path(folder), "proof", result, [(one.group, one.caption, one.image) for one in shown])


def unseen(paths: Sequence[Path], config: Mapping[str, Any]) -> tuple[list[Path], int]:
    """(the pictures that training did not see, how many it did), by the fingerprints in the model's config.

    A model that has none tells nothing: then all are taken for unseen. DataError where none is left.
    """
    seen = set((config.get("training") or {}).get("fingerprints") or [])
    left = [path for path in paths if not seen or fingerprint(path) not in seen]
    if paths and not left:
        raise DataError(
            f"All {len(paths)} pictures were trained on, so they prove nothing; give good pictures that are new to it."
        )
    return left, len(paths) - len(left)


def fingerprint(path: Path) -> str:
    """First 12 hex digits of the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def forgers_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The forgers that a model was trained on, from its config; none for a method that only looks at good pictures."""
    training = config.get("training") or {}
    if "forgers" in training:
        return tuple(training["forgers"])
    text = str(training.get("forger", "")) if training.get("steps") else ""
    return tuple(name for name, kind in FORGERS.items() if f"{kind.__name__}(" in text)


def _judge_goods(
    inspector: Judge, goods: Sequence[Image | Path], album: _Album, tell: Callable[[int], None]
) -> tuple[list[tuple[float, str]], list[Image | Path], list[dict[str, str]]]:
    judged: list[tuple[float, str]] = []
    kept: list[Image | Path] = []
    skipped: list[dict[str, str]] = []
    for index, good in enumerate(goods):
        try:
            decision = inspector(good)
        except ImageError as error:
            skipped.append({"path": str(good) if isinstance(good, Path) else f"picture {index}", "reason": str(error)})
            continue
        album.add_good(decision, good, len(kept))
        judged.append((decision.pred_score, decision.verdict))
        kept.append(good)
        tell(index + 1)
    if not kept:
        raise DataError("None of the good pictures can be read, so there is nothing to forge on; give readable ones.")
    return judged, kept, skipped


def _false_alarm(
    calibration: Calibration, judged: Sequence[tuple[float, str]], goods: Sequence[Image | Path], parts: Sequence[int]
) -> dict[str, Any]:
    """Promised and measured rates. What was calibrated on proves no rate, nor does a part of which any picture was.

    parts  a number for each picture; pictures of one part have the same. A part is rejected where any picture of it is.
    """
    rejected: dict[int, bool] = {}
    known: set[int] = set()
    for (score, verdict), good, part in zip(judged, goods, parts, strict=True):
        rejected[part] = rejected.get(part, False) or verdict == "NG"
        if _calibrated_on(calibration, good, score):
            known.add(part)
    fresh = [alarm for part, alarm in rejected.items() if part not in known]
    return {
        "promised": calibration.false_alarm,
        "measured": intervals.rate(sum(fresh), len(fresh))._asdict(),
        "n": len(fresh),
        "of": "parts" if len(rejected) < len(judged) else "pictures",
        "threshold": calibration.threshold,
        "calibrated_on": len(known),
        "calibration_pictures": calibration.n,
    }


def _calibrated_on(calibration: Calibration, good: Image | Path, score: float) -> bool:
    """By the file, where the calibration knows its files: under --tolerate its score is that of a varied copy."""
    if calibration.pictures and isinstance(good, Path):
        return fingerprint(good) in calibration.pictures
    return score in calibration.scores


def _curve(
    trials: Sequence[Trial], kind: str, contrast: float, scale: float | None, seed: int, parts: Sequence[int]
) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "contrast": contrast, "unit": _unit(scale), "n": len(trials)}
    if not trials:
        nothing = dict.fromkeys(("a50", "a50_95", "a90", "a90_95", "a90_95_by", "smallest", "largest"))
        return (
            row
            | nothing
            | {
                "hits": 0,
                "recall": intervals.rate(0, 0)._asdict(),
                "rejected": 0,
                "points": [],
                "bins": [],
                "falls": False,
                "separated": False,
                "contradicted": False,
                "why": "none could be forged",
            }
        )
    sizes = np.array([each.size for each in trials]) * (scale or 1.0)
    hits = np.array([each.hit for each in trials], int)
    numbered: dict[int, int] = {}  # in the order of the trials, which that of the pictures does not change
    goods = np.array([numbered.setdefault(parts[each.good], len(numbered)) for each in trials])
    curve = hitmiss.fit_curve(sizes, hits)
    bound, by = curve.a90_95, "profile likelihood"
    if bound is not None and len(set(goods.tolist())) < goods.size:
        # Forgeries on one picture are not independent: the wider of the two bounds holds.
        drawn = hitmiss.bootstrap_a90(sizes, hits, goods, replicates=BOOTSTRAP, rng=np.random.default_rng(seed))
        if drawn is None or drawn > bound:
            bound, by = drawn, "bootstrap by picture"
    grid = np.geomspace(curve.low, curve.high, POINTS) if curve.high > curve.low else np.array([curve.low])
    low, high = curve.bounds(grid)
    table = np.stack([grid, curve.pod(grid), low, high], axis=1)
    return row | {
        "a50": curve.a50,
        "a50_95": curve.a50_95,
        "a90": curve.a90,
        "a90_95": bound,
        "a90_95_by": by,
        "hits": curve.hits,
        "recall": intervals.rate(curve.hits, curve.n)._asdict(),
        "rejected": sum(each.rejected for each in trials),
        "smallest": curve.low,
        "largest": curve.high,
        "falls": curve.falls,
        "separated": curve.firth,
        "contradicted": curve.contradicted,
        "why": _why(curve, bound),
        "points": table.tolist(),
        "bins": _bins(sizes, hits),
    }


def _why(curve: hitmiss.Curve, bound: float | None) -> str:
    """Why there is no a90/95, in words; "" where there is one."""
    if bound is not None:
        return ""
    if curve.falls:
        return "larger ones are found less often"
    if curve.contradicted:
        return "too many are missed among the largest"
    return "the sizes and the number tried do not show 90 %"


def _bins(sizes: NDArray[np.float64], hits: NDArray[np.int_]) -> list[list[float | None]]:
    """[[from, to, hits, of, low, high]]: counts by size, evenly in the logarithm, with exact 95 % intervals."""
    edges = np.geomspace(sizes.min(), sizes.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, sizes, "right") - 1, 0, BINS - 1)
    rows: list[list[float | None]] = []
    for one in range(BINS):
        inside = hits[place == one]
        if inside.size:
            rate = intervals.rate(int(inside.sum()), inside.size)
            rows.append([float(edges[one]), float(edges[one + 1]), int(inside.sum()), inside.size, rate.low, rate.high])
    return rows


def _unit(scale: float | None) -> str:
    return "px" if scale is None else "mm"


class _Album:
    """The few pictures worth drawing, kept while judging: hardest good ones, largest missed, smallest found."""

    EACH = 8

    def __init__(self) -> None:
        self.goods: list[tuple[float, Decision, Image | Path, int]] = []
        self.missed: dict[tuple[str, float], tuple[Trial, Forgery, Decision]] = {}
        self.found: dict[str, tuple[Trial, Forgery, Decision]] = {}

    def add_good(self, decision: Decision, good: Image | Path, index: int) -> None:
        self.goods.append((-decision.pred_score, decision, good, index))
        self.goods = sorted(self.goods, key=lambda row: (row[0], row[3]))[:4]

    def add(self, trial: Trial, forgery: Forgery, decision: Decision) -> None:
        if trial.hit:
            before = self.found.get(trial.kind)
            if before is None or trial.size < before[0].size:
                self.found[trial.kind] = trial, forgery, decision
            return
        key = trial.kind, trial.contrast
        if key not in self.missed or trial.size > self.missed[key][0].size:
            self.missed[key] = trial, forgery, decision

    def drawn(self, calibration: Calibration, names: Sequence[str], scale: float | None) -> list[Shown]:
        colours, shown = scale_of(calibration), []
        for _, decision, good, index in self.goods:
            pixels = read_picture(good).pixels if isinstance(good, Path) else good
            score, p_value = decision.pred_score, decision.p_value
            caption = {"path": names[index], "verdict": decision.verdict, "score": score, "p_value": p_value}
            shown.append(Shown("hardest_good", caption, overlay(pixels, decision, colours, max_side=SIDE)))
        missed = sorted(self.missed.values(), key=lambda row: (-row[0].contrast, -row[0].size))[: self.EACH]
        found = sorted(self.found.values(), key=lambda row: row[0].size)[: self.EACH]
        for group, rows in (("missed", missed), ("found", found)):
            for trial, forgery, decision in rows:
                caption = {
                    "path": names[trial.good],
                    "verdict": trial.verdict,
                    "score": trial.score,
                    "kind": trial.kind,
                    "p_value": decision.p_value,
                    "contrast": trial.contrast,
                    "size": trial.size * (scale or 1.0),
                    "unit": _unit(scale),
                    "rejected": trial.rejected,
                }
                drawn = overlay(forgery.image, decision, colours, forgery.mask, max_side=SIDE)
                shown.append(Shown(group, caption, drawn))
        return shown
