"""Thresholds and the guard, from good pictures that training never saw; for a fit, and anew for a model that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from flawforge.fitting.planning import Plan
from flawforge.fitting.promises import promised_rates
from flawforge.judging import loading
from flawforge.pictures import dataset, tolerance
from flawforge.pictures.batches import alike, find_batches
from flawforge.pictures.copies import fingerprint, likeness
from flawforge.pictures.listing import check_for_fit, part_of
from flawforge.pictures.screening import outlier_limit
from flawforge.proving import leakage
from flawforge.proving.again import judge_again
from flawforge.reporting import card
from flawforge.reporting.commands import options
from flawforge.reporting.good_sheet import FILE, MOST, good_sheet
from flawforge.types import DataError, ImageError, ModelError
from flawforge_runtime import bundle, calibrate, images, inspector
from flawforge_runtime.guard import Guard, Traits, fit_guard
from flawforge_runtime.looks import LOOKS, looks_of
from flawforge_runtime.rates import noun, percent, percent_up, pictures_needed, share_interval, strictest_rate

Show = Callable[[str], None]

UNSURE = 0.01  # chance at most that --yes is asked for of pictures that are as good as those before
FAR = 0.6  # normalised by the old limits: a new one above is a quarter further from the median good picture
FOREIGN = 0.5  # share of pictures that are like no good one, above which it is another product, camera or light
SPARE = 2.0  # rejects beyond the expected ones that good pictures may have where the limit rises so far
LOOK = "look at these good pictures: {file}"
NAMED = 3  # most anomalous calibration pictures that are named
GUARDED = 300  # good pictures that the guard is fitted to at most; a millisecond each beside reading them


def described(model: inspector.Inspector, paths: Sequence[Path], tolerate: str = "", seed: int = 0) -> list[Traits]:
    """What the guard is fitted to: each picture, and a varied copy where good parts may vary; unreadable ones left out."""
    kinds = tolerance.kinds_from(tolerate)
    traits: list[Traits] = []
    for place, path in enumerate(paths):
        try:
            picture = images.read_picture(path, max_pixels=model.max_pixels, depth=model.depth)
        except ImageError:
            continue
        traits.append(model.describe(picture))
        if kinds:
            pixels = tolerance.vary(picture.pixels, kinds, np.random.default_rng([seed, place]))
            traits.append(model.describe(dataclasses.replace(picture, pixels=pixels)))
    return traits


def guard_of(model: inspector.Inspector, plan: Plan, show: Show) -> Guard:
    """The guard of a plan's good pictures, trained on or held back; at most GUARDED of them, spread over their names."""
    paths = sorted(entry.path for entry in (*plan.train, *plan.held))
    paths = paths[:: max(1, -(-len(paths) // GUARDED))]
    traits = described(model, paths, plan.request.tolerate, plan.request.seed)
    guard = fit_guard(traits, model.guard_size)
    # Every picture was described as often as any other, but for those that cannot be read, which fit has left out before.
    alone = [str(paths[place * len(paths) // len(traits)]) for place in guard.apart]
    if alone:
        show(
            "good pictures that are unlike all others, so parts like them will be judged NG; check that they are good: "
            + ", ".join(alone)
        )
    return guard


@dataclasses.dataclass(frozen=True)
class Scored:
    """Thresholds, and the pictures behind them.

    skipped  (path, sentence) of those that cannot be read
    ranked   (path, score), most anomalous first
    """

    calibration: calibrate.Calibration
    skipped: tuple[tuple[Path, str], ...]
    ranked: tuple[tuple[Path, float], ...]

    def lines(self) -> list[str]:
        """For people: which pictures lie nearest to the limits, or above them, and which do not belong to the others."""
        named = ", ".join(f"{path.name} ({score:.4g})" for path, score in self.ranked[:NAMED])
        return [f"most anomalous calibration pictures, by score: {named}", *self.calibration.doubts]


def doubts_of(calibration: calibrate.Calibration, ranked: Sequence[tuple[Path, float]]) -> tuple[str, ...]:
    """A sentence where calibration pictures stand out from the others, with the limit that there would be without them."""
    limit = outlier_limit([score for _, score in ranked])
    odd = [(path, score) for path, score in ranked if limit is not None and score > limit]
    if not odd:
        return ()
    rest = [score for _, score in ranked[len(odd) :]]
    rate = max(calibration.false_alarm, strictest_rate(len(rest), calibration.confidence))
    without = calibrate.calibrate(rest, rate, confidence=calibration.confidence).threshold
    named = ", ".join(f"{path.name} ({score:.4g})" for path, score in odd[:NAMED])
    return (
        f"{len(odd)} of {len(ranked)} calibration pictures stand out from the others: {named}; check that they show good "
        f"parts, for they set the limit: NG is above {calibration.threshold:.4g}, and would be above {without:.4g} without "
        "them",
    )


def calibrate_on(
    model: inspector.Inspector,
    paths: Sequence[Path],
    false_alarm: float,
    review: float,
    *,
    confidence: float | None = None,
    parts: Mapping[Path, str] | None = None,
    batches: Mapping[Path, str] | None = None,
    rules: calibrate.Rules | None = None,
    tolerate: str = "",
    seed: int = 0,
    loosen: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Scored:
    """Judge good pictures that training never saw, and set the thresholds. Unreadable ones are skipped and named.

    parts     which part each picture shows: then a part counts once, by the highest of its pictures
    batches   which block of neighbours each picture lies in; {} = there are none, None = not known: they are looked for.
              Where scores of one block are alike, a block counts once, and the rates are raised to what so many support
    tolerate  kinds of variation that good parts may show: each picture is judged once, varied at random by seed and place
    loosen    the rates are raised to what the readable pictures support, where some cannot be read
    progress  called with (done, all)
    Raises CalibrationError where the readable ones cannot carry the rates.
    """
    judgements: list[tuple[Path, float, float]] = []
    likenesses = {}
    looks: list[dict[str, float]] = []
    names: list[str] = []
    skipped = []
    kinds = tolerance.kinds_from(tolerate)
    for place, path in enumerate(paths):
        progress(place, len(paths))
        try:
            picture = images.read_picture(path, max_pixels=model.max_pixels, depth=model.depth)
            if kinds:
                pixels = tolerance.vary(picture.pixels, kinds, np.random.default_rng([seed, place]))
                picture = dataclasses.replace(picture, pixels=pixels)
            judged = model.judge(picture)
        except ImageError as error:
            skipped.append((path, str(error)))
            continue
        judgements.append((path, judged.score, judged.peak))
        likenesses[path] = likeness(picture.pixels)
        looks.append(looks_of(picture.pixels))
        names.append(fingerprint(path))
    ranked = sorted(((path, score) for path, score, _ in judgements), key=lambda row: -row[1])
    if parts is None and batches is None:
        production = find_batches([[path] for path, _ in ranked], likenesses, seed)
        batches = production.of() if production else {}
    rates, doubts = (false_alarm, review), list[str]()
    together: Mapping[Path, str] = parts or {}
    scores, blocks = [score for _, score, _ in judgements], [(batches or {}).get(path, "") for path, _, _ in judgements]
    in_batches = bool(batches) and alike(scores, blocks, seed)
    if in_batches:
        together = batches or {}
        rates, doubt = rates_of_batches(len(scores), len(set(blocks)), rates, confidence)
        doubts.append(doubt)
    highest: dict[Path | str, tuple[float, float]] = {}
    for path, score, peak in judgements:
        key: Path | str = together.get(path, "") or path
        highest[key] = max(highest.get(key, (score, peak))[0], score), max(highest.get(key, (score, peak))[1], peak)
    if loosen and skipped and highest:
        least = strictest_rate(len(highest), confidence)
        rates = max(rates[0], least), max(rates[1], least)
    calibration = calibrate.calibrate(
        [score for score, _ in highest.values()],
        rates[0],
        review=rates[1],
        peaks=[peak for _, peak in highest.values()],
        confidence=confidence,
        per_part=parts is not None,
        rules=rules,
        mark_rate=model.rule.mark_rate,
    )
    table = {name: tuple(statistics[name] for statistics in looks) for name in LOOKS}
    calibration = dataclasses.replace(calibration, looks=table, pictures=tuple(sorted(names)), batches=in_batches)
    calibration = dataclasses.replace(calibration, doubts=(*doubts, *doubts_of(calibration, ranked)))
    return Scored(calibration, tuple(skipped), tuple(ranked))


def on_another_day(
    model: inspector.Inspector, scored: Scored, folder: Path, both: bool, **how: Any
) -> tuple[calibrate.Calibration, list[str]]:
    """Good pictures of another day held against the thresholds; with `both`, thresholds that keep the rates on either day.

    model, how  as in `calibrate_on`, which judges the pictures; scored: what it said of the first day's
    With `both` the limits are those of the day whose NG limit is higher, so the rate of the other day is no higher.
    Returns the calibration and sentences for people. Raises DataError where the folder holds no picture of good parts.
    """
    entries = [entry for entry in dataset.read_listing(folder).entries if entry.label == 0]
    if not entries:
        raise DataError(f"--other-day {folder} holds no picture that is labelled good; give a folder of good parts.")
    paths, trained = leakage.unseen([entry.path for entry in entries], model)
    first, notes = scored.calibration, leakage.left_out(trained, len(entries))
    loose = strictest_rate(len(paths), how.get("confidence"))
    rates = max(first.false_alarm, loose), max(first.review, loose)
    other = calibrate_on(model, [path for path in paths if isinstance(path, Path)], *rates, **how)
    scores = [score for _, score in other.ranked]
    rejected = sum(score > first.threshold for score in scores)
    low, high = (percent(share) for share in share_interval(rejected, len(scores)))
    note = f"another day: {rejected} of {len(scores)} good pictures are NG ({low} to {high}, 95 % interval)"
    bound = first.rate_ng.bound
    if share_interval(rejected, len(scores))[0] <= bound:
        return first, [*notes, f"{note}, in line with the stated {percent(first.rate_ng.expected)} of the first"]
    note += f", more than the {percent(bound)} that were stated at most"
    if not both:
        return first, [*notes, f"{note}: the rate does not hold on that day; --both-days sets limits that hold on both"]
    if other.calibration.threshold <= first.threshold:
        return first, [*notes, note]
    return other.calibration, [*notes, f"{note}: the limits are now those of that day, the higher ones"]


def write_sheet(
    folder: Path, model: inspector.Inspector, ranked: Sequence[tuple[Path, float]], suspects: Sequence[Path]
) -> Path:
    """The good pictures to look at, suspects and then the most anomalous of calibration, as a sheet in the model folder.

    Pictures that cannot be read any more are left out. Returns the file. OSError passes through.
    """
    scores = dict(ranked)
    judged = []
    for path in dict.fromkeys([*suspects[: MOST // 2], *(path for path, _ in ranked)]):
        try:
            picture = images.read_picture(path, max_pixels=model.max_pixels, depth=model.depth)
            decision = model.decide(model.judge(picture))
        except (ImageError, OSError):
            continue
        what = f"calibration score {scores[path]:.4g}" if path in scores else "trained on"
        what += ", stands out" if path in suspects else ""
        judged.append((f"{path.name}: {what}", picture.pixels, decision))
        if len(judged) == MOST:
            break
    if judged:
        images.write_image(
            folder / FILE, good_sheet(judged, "Good pictures that look least like the others: are they good?")
        )
    return folder / FILE


def rates_of_batches(
    pictures: int, count: int, rates: tuple[float, float], confidence: float | None
) -> tuple[tuple[float, float], str]:
    """The rates for NG and for NG or REVIEW, raised to what so many batches support, and what to tell."""
    least = strictest_rate(count, confidence)
    note = (
        "scores of neighbours in name are more alike than chance allows, so "
        f"{pictures} calibration pictures count as {count} batches"
    )
    if least > rates[0]:
        needed = pictures_needed(rates[0], confidence)
        note += f", which support {percent_up(least)}; {percent(rates[0])} needs {needed} batches"
    return (max(rates[0], least), max(rates[1], least)), note


def recalibrate(
    folder: Path,
    good: Path,
    false_alarm: float | None,
    review: float | None,
    *,
    confidence: float | None = None,
    group_by: str | None = None,
    rules: calibrate.Rules | None = None,
    yes: bool = False,
    other_day: Path | None = None,
    both_days: bool = False,
    source: str = "GOOD",
    progress: Callable[[int, int], None] = lambda done, of: None,
    **how: Any,
) -> tuple[calibrate.Calibration, list[str]]:
    """New thresholds for an existing model from new good pictures; the model is replaced as a whole.

    The results that its folder keeps are judged again at the new thresholds.

    confidence, group_by  as `fit` takes them; rules  None = as the model has them; how  as `loading.load` takes it
    yes  the pictures show good parts, even if the model rejects more of them than it did of those before, or they are too
         few to state as low a rate; see `compared`
    other_day, both_days  as `fit` takes them, see `on_another_day`
    source  where the pictures come from, as the command line has it, for the report
    Pictures that the model was trained on are left out. Returns the calibration and notes for people. Raises DataError (also
    where all pictures were trained on, or where `yes` is needed), CalibrationError, ModelError, ConfigError.
    """
    with bundle.hold(folder):
        return _recalibrate(
            folder, good, false_alarm, review, confidence, group_by, rules, yes, other_day, both_days, source, progress, how
        )


def _recalibrate(
    folder: Path,
    good: Path,
    false_alarm: float | None,
    review: float | None,
    confidence: float | None,
    group_by: str | None,
    rules: calibrate.Rules | None,
    yes: bool,
    other_day: Path | None,
    both_days: bool,
    source: str,
    progress: Callable[[int, int], None],
    how: Mapping[str, Any],
) -> tuple[calibrate.Calibration, list[str]]:
    check_for_fit(good)
    listing = dataset.read_listing(good)
    entries = [entry for entry in listing.entries if entry.label == 0]
    if not entries:
        raise DataError(f"{good} holds no picture that is labelled good; give a folder of pictures of good parts.")
    model = loading.load(folder, **how)
    if model.content is None:
        raise ModelError(f"{folder} was opened without its content; open it with flawforge.load.")
    left, trained = leakage.unseen([entry.path for entry in entries], model)
    new = set(left)
    entries = [entry for entry in entries if entry.path in new]
    parts = part_of(entries, group_by)
    n = len(entries) if parts is None else len(set(parts.values()))
    rates, notes = promised_rates(n, false_alarm, review, confidence)
    given: dict[str, Any] = {"false-alarm": false_alarm, "review": review, "confidence": confidence, "group-by": group_by}
    given |= {"other-day": other_day and "PATH", "both-days": both_days or None, "yes": yes or None}
    if rules is not None:
        given |= {"min-area": rules.min_area, "max-count": rules.max_count, "scale": rules.mm_per_pixel}
    if rules is None and model.calibration is not None:
        rules = model.calibration.rules
    paths = [entry.path for entry in entries]
    fitted = {"tolerate": model.content.config.get("tolerate", ""), "seed": model.content.config["seed"]}
    scored = calibrate_on(
        model,
        paths,
        *rates,
        confidence=confidence,
        parts=parts,
        rules=rules,
        loosen=false_alarm is None,
        progress=progress,
        **fitted,
    )
    calibration = scored.calibration
    if scored.skipped and false_alarm is None:  # the rates were lowered to what is left
        notes = promised_rates(calibration.n, None, review, confidence)[1]
    notes = (*listing.notes, *leakage.left_out(trained, trained + len(entries)), *notes)
    skipped = dict(scored.skipped)
    judged = [path for path in paths if path not in skipped]
    traits = described(model, judged, **fitted)
    foreign: set[Path] = set()
    if model.guard is not None:
        shots = len(traits) // len(judged)  # of each picture: itself, and a varied copy where good parts may vary
        foreign = {
            path
            for path, traits_of_picture in zip(judged, traits[::shots], strict=True)
            if model.guard.unlike(traits_of_picture)
        }
    moves: list[str] = []
    if model.calibration is not None:
        moves = compared(model.calibration, scored, foreign, yes, asked=false_alarm is not None)
    if other_day is not None:
        how_judged = {"confidence": confidence, "rules": rules, **fitted}
        calibration, notes_of_day = on_another_day(model, scored, other_day, both_days, **how_judged)
        calibration, notes = (
            dataclasses.replace(calibration, doubts=(*calibration.doubts, *notes_of_day)),
            (*notes, *notes_of_day),
        )
    if model.guard is not None:
        new_guard = model.guard.widened(traits)
        still = [path for path, each in zip(judged, traits[::shots], strict=True) if new_guard.unlike(each)]
        if foreign:
            note = f"{len(foreign)} of {len(judged)} pictures were like no good picture before; from now on they are"
            notes = (*notes, note + (f", but for those that differ from all others: {still[0].name}" if still else ""))
    else:
        new_guard = fit_guard(traits, model.guard_size)
    calibration = dataclasses.replace(calibration, again=" ".join([source, *options(given)]))
    content = dataclasses.replace(model.content, calibration=calibration, guard=new_guard)
    bundle.rewrite(folder, dataclasses.replace(content, card=card.model_card(content)))
    stored = judge_again(folder, calibration, content.model_id, widened=new_guard != model.guard)
    skips = [f"skipped: {reason}" for _, reason in scored.skipped]
    sheet = LOOK.format(file=write_sheet(folder, model, scored.ranked, ()))
    return calibration, [*notes, *skips, *scored.lines(), *stored, sheet, *moves]


def counted(calibration: calibrate.Calibration) -> str:
    """1 calibration picture, 12 calibration parts."""
    return f"{calibration.n} calibration {noun(calibration.n, calibration.of)}"


def compared(
    old: calibrate.Calibration, scored: Scored, foreign: Collection[Path], yes: bool, asked: bool = False
) -> list[str]:
    """How the limit moves, and how many of the pictures were NG before; DataError where `yes` is needed for that.

    foreign  pictures that the guard rejects, whatever their score
    asked    the false-alarm rate was asked for, so that it may be a higher one than before
    More than half of the pictures like no good one are refused whatever `yes` says: that is another product, or another
    camera or light, which the features and what is normal know nothing of.
    `yes` is needed where the pictures state no rate or a higher one than those before; where more of them were NG than a
    model that keeps its rate (with 95 % confidence) rejects of good pictures in all but a share of UNSURE of cases; and
    where the limit rises above FAR and more of them were NG than are expected, by more than SPARE.
    """
    new, was, few = scored.calibration, percent_up(old.false_alarm), ""
    if new.rate_ng.unstated and not old.rate_ng.unstated:
        few = f"{counted(new)} cannot state a false-alarm rate, and the {counted(old)} so far state {was}"
    elif not asked and new.false_alarm > old.false_alarm * (1.0 + 1e-9):
        now = percent_up(new.false_alarm)
        few = f"The false-alarm rate would rise from {was} ({counted(old)}) to {now} ({counted(new)})"
    scores = [score for _, score in scored.ranked]
    rejected = sum(score > old.threshold or path in foreign for path, score in scored.ranked)
    moved = f"NG limit moves from {old.threshold:.4g} to {new.threshold:.4g}"
    count = f"{rejected} of {len(scores)} pictures were NG before"
    bound, usual = old.rate_ng.bound, old.rate_ng.expected
    chance, far = float(binom.sf(rejected - 1, len(scores), bound)), old.normalised(new.threshold)
    wrong = f"{percent(bound)} at most were expected of good parts; the {moved}" if chance < UNSURE else ""
    if not wrong and far > FAR and rejected > usual * len(scores) + SPARE:
        wrong = f"{percent(usual)} were expected of good parts; the {moved}"
    if len(foreign) > FOREIGN * len(scores):
        raise DataError(
            f"{len(foreign)} of {len(scores)} pictures are like no good picture of this product, so nothing was changed; "
            "give pictures of this product, or, if product, camera or light have changed, fit a new model."
        )
    if not yes and (wrong or few):
        named = ", ".join(path.name for path, _ in scored.ranked[:NAMED])
        ways = [f"{count}, and {wrong}. Look at {named} first; remove those that are not good"] if wrong else []
        ways += [f"{few}; give more pictures of good parts"] if few else []
        all_the_same = "add --yes if all are good" if wrong else "add --yes to replace the limits all the same"
        raise DataError(f"{'. '.join(ways)}, or {all_the_same}.")
    return [f"{moved}; {count}"]
