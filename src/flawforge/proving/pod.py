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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from flawforge.config import checked_seed
from flawforge.forge import FORGERS
from flawforge.pictures import copies
from flawforge.pictures.defects import Defects
from flawforge.proving import intervals, leakage
from flawforge.proving.curves import HEAD, KindCurve, Trial, tally, unit_of
from flawforge.proving.intervals import Estimate
from flawforge.proving.specimens import (
    CONTRASTS,
    COUNT,
    Forgery,
    Recipe,
    families_of,
    held_out_kinds,
    proof_pictures,
)
from flawforge.reporting import pod_words
from flawforge.reporting.close_ups import close_up, large
from flawforge.reporting.kept import Kept, keep
from flawforge.types import ConfigError, DataError, Decision, Image, ImageError, Mask
from flawforge_runtime.calibrate import Calibration, calibrated
from flawforge_runtime.drawing import Drawn
from flawforge_runtime.images import MAX_PIXELS, as_picture
from flawforge_runtime.rates import ExpectedRate

HIT = "verdict NG and a marked region touches the defect (within 1/64 of the picture's shorter side)"
GRAFTED = "  real defects that training never saw, grafted onto the good pictures at 0.5 to 2 times their size:"
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
class Shown:
    """One drawn picture; caption: facts for people.

    group  "hardest_good" | "missed" | "found"; "top_good" | "top_miss" | "top_catch" for the first screen
    """

    group: str
    caption: Mapping[str, Any]
    image: Drawn


@dataclass(frozen=True)
class FalseAlarm:
    """Good pictures, or parts where pictures show one part several times, against the rate that was asked for.

    promised              the rate that was asked for; `expected` is what the calibration pictures say of it
    measured              the share of those judged NG that were not calibrated on; `n` of them, `of` "parts" or "pictures"
    calibrated_on         how many prove nothing, for the thresholds were set with them
    calibration_pictures  that the thresholds were set with
    """

    promised: float
    measured: Estimate
    n: int
    of: str
    threshold: float
    calibrated_on: int
    calibration_pictures: int
    expected: ExpectedRate

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"measured": self.measured._asdict(), "expected": self.expected.as_dict()}


@dataclass(frozen=True)
class Proof:
    """What a model finds of forged defects, by kind, contrast and size: forged-defect POD.

    false_alarm    expected and measured
    trained_on     the forgers that the model was trained on
    curves         what it finds, for each kind and contrast
    real           what it finds of real defects that are grafted onto good pictures; None = none were given
    elsewhere      share of the rejects that do not point at the defect: `elsewhere_count` of `rejected`
    recipe         what was forged, into `goods` good pictures
    left_out       pictures that the model was trained on, and that were therefore not used
    skipped        {"path", "reason"} of the pictures that cannot be read
    mm_per_pixel   sizes are in mm; None = in px
    trials         each forgery: kind, contrast, size, good, score, verdict, pointed, hit
    good_scores    {"path", "score", "verdict", "part"} of the good pictures; a part has a number
    shown          drawn pictures: the hardest good ones, the largest missed, the smallest found
    notes          what a reader must know
    saved          as what the model folder keeps it; None where it does not
    unsaved        why the model folder does not keep it; "" where it does, or was not to
    """

    false_alarm: FalseAlarm
    trained_on: tuple[str, ...]
    curves: tuple[KindCurve, ...]
    elsewhere: Estimate
    elsewhere_count: int
    rejected: int
    recipe: Recipe
    goods: int
    left_out: int
    skipped: tuple[Mapping[str, str], ...]
    mm_per_pixel: float | None
    model: Mapping[str, Any]
    seconds: float
    trials: tuple[Mapping[str, Any], ...]
    good_scores: tuple[Mapping[str, Any], ...]
    shown: tuple[Shown, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    saved: Kept | None = None
    unsaved: str = ""
    real: KindCurve | None = None

    def lines(self) -> list[str]:
        """For people."""
        alarm = self.false_alarm
        of = "1 good picture" if self.goods == 1 else f"{self.goods} good pictures"
        lines = [*(f"  {note}" for note in self.notes)]
        lines.append(f"probability of detection (POD, after MIL-HDBK-1823A) of synthetic defects, {of}")
        lines.append(f"  false alarms to expect: {alarm.expected.text}")
        if alarm.n:
            lines.append(f"  false alarms on the {alarm.n} {alarm.of} not calibrated on: {alarm.measured.text}")
        lines += [HEAD, *(curve.line for curve in self.curves)]
        if self.real is not None:
            lines += [GRAFTED, self.real.line]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """What `flawforge pod --json` writes."""
        real = {} if self.real is None else {"real_defects": self.real.as_dict()}
        return real | {
            "false_alarm": self.false_alarm.as_dict(),
            "forgers": {
                "trained_on": list(self.trained_on),
                "proved_with": list(self.recipe.kinds),
                "families_trained_on": list(families_of(self.trained_on)),
                "families_proved_with": list(families_of(self.recipe.kinds)),
            },
            "curves": [curve.as_dict() for curve in self.curves],
            "rejected_elsewhere": {"count": self.elsewhere_count, "of": self.rejected, **self.elsewhere._asdict()},
            "size": SIZE,
            "hit": HIT,
            "unit": unit_of(self.mm_per_pixel),
            "mm_per_pixel": self.mm_per_pixel,
            "recipe": dataclasses.asdict(self.recipe),
            "goods": self.goods,
            "skipped": [dict(item) for item in self.skipped],
            "model": dict(self.model),
            "seconds": {"total": self.seconds},
            "trials": [dict(row) for row in self.trials],
            "good_scores": [dict(row) for row in self.good_scores],
            "trained_pictures_left_out": self.left_out,
        }


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
    for forgery in _one_ahead(iter(forgeries)):
        decision = inspector(forgery.image)
        pointed = touches(decision, forgery.mask)
        trial = Trial(
            forgery.kind, forgery.contrast, forgery.size, forgery.good, decision.pred_score, decision.verdict, pointed
        )
        yield trial, forgery, decision


def _one_ahead(forgeries: Iterator[Forgery]) -> Iterator[Forgery]:
    """The same, the next one being forged in a thread while this one is judged."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, forgeries, None)
        while (forgery := waiting.result()) is not None:
            waiting = pool.submit(next, forgeries, None)
            yield forgery


def recipe_for(
    trained_on: Sequence[str],
    kinds: Sequence[str] = (),
    contrasts: Sequence[float] = (),
    sizes: tuple[float, float] | None = None,
    count: int = COUNT,
    scale: float | None = None,
    seed: int = 0,
) -> Recipe:
    """What to forge for a model that was trained on these forgers.

    kinds   () = those of no family that it was trained on
    sizes   smallest and largest, in px, or mm where `scale` says how many a pixel is
    Raises ConfigError for a scale that is none, and as `Recipe` and `held_out_kinds`.
    """
    _check_scale(scale)
    seed = checked_seed(seed)
    if sizes is not None:
        sizes = (sizes[0] / (scale or 1.0), sizes[1] / (scale or 1.0))
    return Recipe(tuple(kinds) or held_out_kinds(trained_on), tuple(contrasts) or CONTRASTS, sizes, count, seed)


def _check_scale(scale: float | None) -> None:
    if scale is not None and not 0.0 < scale < 1e3:
        raise ConfigError(f"--scale was given as {scale:g}; give the millimetres of one pixel, for example 0.05.")


def prove(
    inspector: Judge,
    goods: Sequence[Image | Path],
    recipe: Recipe | None = None,
    *,
    scale: float | None = None,
    parts: Mapping[Path, str] | None = None,
    defects: Defects | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Forge defects into good pictures, judge them, and measure the smallest size that the model finds.

    goods   good pictures, h w 3 arrays or paths; their order does not matter. Files that the model was trained on are left
            out, as far as it knows them. An array cannot be told from what it was trained on: give pictures new to it
    recipe  what to forge; None = the default, without the families that the model was trained on
    scale   mm per pixel of the pictures; sizes are then in mm, else in px
    parts   which part each path shows: parts are then counted and drawn whole; None = each picture is a part
    defects real ones that training never saw, which are grafted onto the good pictures beside the forged ones

    Raises CalibrationError for a model without thresholds, DataError where no good picture can be read or all were trained
    on, ConfigError.
    """
    start = time.perf_counter()
    calibration, config = calibrated(inspector.calibration), leakage.config_of(inspector)
    trained_on = forgers_of(config)
    recipe = recipe or recipe_for(trained_on)
    _check_scale(scale)
    pictures = [good if isinstance(good, Path) else as_picture(good).pixels for good in goods]
    goods, left_out = leakage.unseen(pictures, inspector)
    notes: list[str] = []
    if calibration.per_part and parts is None:
        notes.append("the expected rates are of parts, and --group-by does not say which these show: pictures are counted")
    notes += leakage.left_out(left_out, len(pictures))
    if config.get("training") and (arrays := sum(not isinstance(good, Path) for good in goods)):
        notes.append(f"{arrays} pictures were given as arrays; whether the model was trained on them cannot be told")
    pieces = defects.pieces(defects.pictures) if defects is not None else ()
    notes += [defects.counted, *defects.notes] if defects is not None else []
    total = len(goods) + (len(recipe.kinds) * len(recipe.contrasts) + bool(pieces)) * recipe.count
    show = progress or (lambda done, of: None)
    album = _Album()
    judged, readable, skipped = _judge_goods(inspector, goods, album, lambda done: show(done, total))
    notes += pod_words.too_few(recipe.count, len(readable))
    trials = []
    limits: dict[str, Any] = {
        "max_pixels": getattr(inspector, "max_pixels", MAX_PIXELS),
        "depth": getattr(inspector, "depth", None),
    }
    for trial, forgery, decision in judge_forgeries(
        inspector, proof_pictures(readable, recipe, pieces=pieces, roi=inspector.roi, **limits)
    ):
        trials.append(trial)
        album.add(trial, forgery, decision)
        show(len(goods) + len(trials), total)
    show(total, total)
    part_numbers = _parts_of(readable, parts)
    found = tally(trials, recipe.kinds, recipe.contrasts, scale, recipe.seed, part_numbers, real=bool(pieces))
    names = [str(good) if isinstance(good, Path) else f"picture {index}" for index, good in enumerate(readable)]
    good_scores = [
        {"path": name, "score": score, "verdict": verdict, "part": part}
        for name, (score, verdict), part in zip(names, judged, part_numbers, strict=True)
    ]
    return Proof(
        false_alarm=false_alarm_of(calibration, judged, readable, part_numbers),
        trained_on=trained_on,
        curves=found.curves,
        elsewhere=intervals.rate(found.elsewhere, found.rejected),
        elsewhere_count=found.elsewhere,
        rejected=found.rejected,
        recipe=recipe,
        goods=len(readable),
        left_out=left_out,
        skipped=tuple(skipped),
        mm_per_pixel=scale,
        model=dict(inspector.about),
        seconds=time.perf_counter() - start,
        trials=tuple(row_of(trial, scale, names) for trial in trials),
        good_scores=tuple(good_scores),
        shown=tuple(album.drawn(calibration, names, scale)),
        notes=tuple(notes),
        real=found.real,
    )


def _parts_of(goods: Sequence[Image | Path], parts: Mapping[Path, str] | None) -> list[int]:
    """A number for the part that each good picture shows; one's own where that is not known."""
    names: dict[Any, int] = {}
    named = [parts[good] if parts is not None and isinstance(good, Path) else index for index, good in enumerate(goods)]
    return [names.setdefault(name, len(names)) for name in named]


def row_of(trial: Trial, scale: float | None, names: Sequence[str]) -> dict[str, Any]:
    """A row of `Proof.trials`. names: of the good pictures."""
    size = trial.size * (scale or 1.0)
    return {**dataclasses.asdict(trial), "hit": trial.hit, "size": size, "good": names[trial.good]}


def save_proof(model: Path, result: Proof, data: str = "") -> Kept:
    """Keep a POD and its pictures in the model folder, see `reporting.kept.keep`."""
    pictures = [(shown.group, shown.caption, shown.image) for shown in result.shown]
    return keep(Path(model), "proof", result.as_dict(), pictures, data=data)


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
    readable: list[Image | Path] = []
    skipped: list[dict[str, str]] = []
    for index, good in enumerate(goods):
        try:
            decision = inspector(good)
        except ImageError as error:
            skipped.append({"path": str(good) if isinstance(good, Path) else f"picture {index}", "reason": str(error)})
            continue
        album.add_good(decision, good, len(readable))
        judged.append((decision.pred_score, decision.verdict))
        readable.append(good)
        tell(index + 1)
    if not readable:
        raise DataError("None of the good pictures can be read, so there is nothing to forge on; give readable ones.")
    return judged, readable, skipped


def false_alarm_of(
    calibration: Calibration, judged: Sequence[tuple[float, str]], goods: Sequence[Image | Path], parts: Sequence[int]
) -> FalseAlarm:
    """Expected and measured rates. What was calibrated on proves no rate, nor does a part of which any picture was.

    parts  a number for each picture; pictures of one part have the same. A part is rejected where any picture of it is.
    """
    rejected: dict[int, bool] = {}
    known: set[int] = set()
    for (score, verdict), good, part in zip(judged, goods, parts, strict=True):
        rejected[part] = rejected.get(part, False) or verdict == "NG"
        if calibrated_on(calibration, good, score):
            known.add(part)
    fresh = [alarm for part, alarm in rejected.items() if part not in known]
    return FalseAlarm(
        promised=calibration.false_alarm,
        measured=intervals.rate(sum(fresh), len(fresh)),
        n=len(fresh),
        of="parts" if len(rejected) < len(judged) else "pictures",
        threshold=calibration.threshold,
        calibrated_on=len(known),
        calibration_pictures=calibration.n,
        expected=calibration.rate_ng,
    )


def calibrated_on(calibration: Calibration, good: Image | Path, score: float) -> bool:
    """By the file, where the calibration knows its files: under --tolerate its score is that of a varied copy."""
    if calibration.pictures and isinstance(good, Path):
        return copies.fingerprint(good) in calibration.pictures
    return score in calibration.scores


class _Album:
    """The few pictures worth drawing, kept while judging: hardest good ones, largest missed, smallest found."""

    EACH = 6

    def __init__(self) -> None:
        self.goods: list[tuple[float, Decision, Image | Path, int]] = []
        self.missed: dict[tuple[str, float], tuple[Trial, Forgery, Decision]] = {}
        self.found: dict[str, tuple[Trial, Forgery, Decision]] = {}

    def add_good(self, decision: Decision, good: Image | Path, index: int) -> None:
        self.goods.append((-decision.pred_score, decision, good, index))
        self.goods = sorted(self.goods, key=lambda row: (row[0], row[3]))[:3]

    def add(self, trial: Trial, forgery: Forgery, decision: Decision) -> None:
        if trial.hit:
            before = self.found.get(trial.kind)
            if before is None or trial.size < before[0].size:
                self.found[trial.kind] = trial, forgery, decision
            return
        key = trial.kind, trial.contrast
        worst = self.missed.get(key)
        # One that was rejected, if for another place, is the lesser miss.
        if worst is None or (not trial.rejected, trial.size) > (not worst[0].rejected, worst[0].size):
            self.missed[key] = trial, forgery, decision

    def drawn(self, calibration: Calibration, names: Sequence[str], scale: float | None) -> list[Shown]:
        colours, shown = calibration.scale, list[Shown]()
        for _, decision, good, index in self.goods:
            pixels = as_picture(good).pixels
            score, p_value = decision.pred_score, decision.p_value
            caption = {"path": names[index], "verdict": decision.verdict, "score": score, "p_value": p_value}
            if not shown:
                shown.append(Shown("top_good", caption | {"panels": 1}, large(pixels, decision)))
            shown.append(Shown("hardest_good", caption | {"panels": 6}, close_up(pixels, decision, colours)))
        missed = sorted(self.missed.values(), key=lambda row: (row[0].rejected, -row[0].contrast, -row[0].size))[: self.EACH]
        detected = sorted(self.found.values(), key=lambda row: row[0].size)[: self.EACH]
        for group, first, rows in (("missed", "top_miss", missed), ("found", "top_catch", detected)):
            for place, (trial, forgery, decision) in enumerate(rows):
                caption = {
                    "path": names[trial.good],
                    "verdict": trial.verdict,
                    "score": trial.score,
                    "kind": trial.kind,
                    "p_value": decision.p_value,
                    "contrast": trial.contrast,
                    "size": trial.size * (scale or 1.0),
                    "unit": unit_of(scale),
                    "rejected": trial.rejected,
                }
                if place == 0:
                    shown.append(Shown(first, caption | {"panels": 1}, large(forgery.image, decision, forgery.mask)))
                drawn = close_up(forgery.image, decision, colours, forgery.mask)
                shown.append(Shown(group, caption | {"panels": 6}, drawn))
        return shown
