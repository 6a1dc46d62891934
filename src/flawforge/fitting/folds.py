"""Few pictures: every good picture trains and every one calibrates, for k fits more. Cross-conformal (Vovk 2015).

The good pictures (or parts) are dealt into k folds. A model fitted without a fold scores it; the n scores of all folds set
the thresholds of one last model, fitted on all pictures. So 19 pictures carry 5 % and all 19 are learnt from.

What is promised is weaker than by a hold-out, and is said wherever the promise is: the scores come from models that saw
fewer pictures than the last one. The rate holds where that makes good parts no stranger to the last model than to those,
which more pictures rarely do; it is not proved for every method and data set (Barber et al. 2021, "Predictive inference
with the jackknife+", section 1: the jackknife's coverage needs a stable fit; keeping all k models, CV+, proves twice the
rate, and would cost k times as long for every picture judged).

Scores of all folds are thrown together, so they must be of one scale. A method that chooses by its pictures what its score
is made of (auto's gate) chooses in the first fold; the other folds and the last fit do as it did.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from flawforge import fitting
from flawforge.judging import loading
from flawforge.pictures import dataset
from flawforge.pictures.listing import part_of
from flawforge.types import ConfigError
from flawforge_runtime import bundle, calibrate, inspector

LOOSE = 0.5  # a rate that any fold carries; the fold's own thresholds are thrown away


def deal(units: Sequence[Sequence[Path]], folds: int, seed: int) -> list[list[Path]]:
    """The pictures of each fold; pictures of one unit stay together, folds differ by as little as dealing them out allows.

    ConfigError for fewer than 2 folds, or more than there are units.
    """
    if not 2 <= folds <= len(units):
        allowed = f"between 2 and {len(units)}" if len(units) >= 2 else "more good pictures"
        raise ConfigError(f"{folds} folds were asked for and there are {len(units)} good parts; give {allowed}.")
    order = np.random.default_rng(seed).permutation(len(units))
    dealt: list[list[Path]] = [[] for _ in range(folds)]
    for place in sorted(order, key=lambda unit: -len(units[unit])):
        min(dealt, key=len).extend(units[place])
    return dealt


def plan(
    request: fitting.Request,
    folds: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
    comparing: Callable[[int, int], None] = lambda done, of: None,
) -> fitting.Plan:
    """The plan of the fits, already `fitting.questioned`, with the rates that all good pictures together can promise.

    Raises as `fitting.plan`, `fitting.questioned` and `deal`; CalibrationError for a rate that so many do not support;
    ConfigError for a request with --confidence or several devices, for neither has a meaning here.
    """
    if request.confidence is not None:
        raise ConfigError("--folds was given with --confidence; confidence takes held-back pictures: leave one of them out.")
    if request.devices * request.nodes > 1:
        raise ConfigError("--folds was given with several devices; a fit of folds learns on one: leave one of them out.")
    # A hold-out may support less than what is asked for, so the plan is made without; all pictures decide below.
    loose = dataclasses.replace(request, false_alarm=None, review=None)
    made = fitting.questioned(fitting.plan(loose, progress=progress), comparing)
    held, good = (_parts(made, entries) for entries in (made.held, (*made.train, *made.held)))
    deal(_units(made), folds, request.seed)
    rates, notes = fitting.promised_rates(good, request.false_alarm, request.review)
    _, of_held = fitting.promised_rates(held, None, None, None, 0 if made.parts else good, request.holdout)
    notes = (*notes, *(note for note in made.notes if note not in of_held))
    return dataclasses.replace(made, request=request, rates=rates, notes=notes)


def _parts(made: fitting.Plan, entries: Sequence[dataset.Entry]) -> int:
    """How many pictures these are, or how many parts with --group-by."""
    parts = part_of(entries, made.request.group_by)
    return len(entries) if parts is None else len(set(parts.values()))


def _units(made: fitting.Plan) -> list[list[Path]]:
    """The pictures that stay together: duplicates, one part's, or one block's of a series."""
    everything = (*made.train, *made.held)
    parts = part_of(everything, made.request.group_by)
    blocks = made.batches.blocks if made.batches and parts is None else ()
    return dataset.units(everything, [*made.report.duplicate_groups, *fitting.same_part(parts), *blocks])


def run(
    request: fitting.Request,
    folds: int,
    *,
    made: fitting.Plan | None = None,
    show: fitting.Show = lambda line: None,
    on_fold: Callable[[int, int], None] = lambda done, of: None,
) -> inspector.Inspector:
    """Fit folds + 1 times, calibrate on all good pictures, save. Each fit has the whole budget of the request.

    made     what `plan` gave for this request
    on_fold  called with (fits done, fits in all)

    Raises as `plan` and `fitting.run`, and ConfigError if something is left of a fit that was stopped.
    """
    fitting.check_output(request.out, resume=False)
    made = made or plan(request, folds)
    everything, notes = (*made.train, *made.held), made.notes
    parts = part_of(everything, request.group_by)
    collected = []
    for number, fold in enumerate(deal(_units(made), folds, request.seed)):
        show(f"fold {number + 1} of {folds}: fitting without {len(fold)} pictures, then scoring them")
        content, calibration = _fold(request, made, everything, set(fold), parts)
        collected.append(calibration)
        if number == 0 and made.method.decided is not None:
            settings = made.method.decided(loading.torch_net(content), made.settings)
            for name, value in dataclasses.asdict(settings).items():
                if value != getattr(made.settings, name):
                    notes = (*notes, f"chosen in the first of {folds} folds, and kept in the others: {name} = {value}")
                    show(notes[-1])
            made = dataclasses.replace(made, settings=settings)
        on_fold(number + 1, folds + 1)
    pooled = calibrate.calibrate(
        [score for scored in collected for score in scored.scores],
        made.rates[0],
        review=made.rates[1],
        peaks=[peak for scored in collected for peak in scored.peaks],
        per_part=parts is not None,
        mark_rate=made.method.score(made.settings).mark_rate,
    )
    looks = {name: tuple(v for scored in collected for v in scored.looks[name]) for name in collected[0].looks}
    pictures = tuple(sorted(name for scored in collected for name in scored.pictures))
    pooled = dataclasses.replace(pooled, looks=looks, folds=folds, pictures=pictures)
    last = dataclasses.replace(made, train=everything, held=(), notes=notes, parts=parts)
    fitted = fitting.run(request, made=last, given=pooled, show=show)
    on_fold(folds + 1, folds + 1)
    return fitted


def _fold(
    request: fitting.Request,
    made: fitting.Plan,
    everything: Sequence[dataset.Entry],
    fold: set[Path],
    parts: Mapping[Path, str] | None,
) -> tuple[bundle.Content, calibrate.Calibration]:
    """A model fitted without one fold's pictures, and their scores by it."""
    held = tuple(entry for entry in everything if entry.path in fold)
    train = tuple(entry for entry in everything if entry.path not in fold)
    with tempfile.TemporaryDirectory(prefix="flawforge-fold-") as folder:
        some = dataclasses.replace(request, out=Path(folder) / "model")
        its = dataclasses.replace(made, request=some, train=train, held=held, rates=(LOOSE, LOOSE), parts=parts)
        fitted = fitting.run(some, made=its)
    assert fitted.calibration is not None, "a fit calibrates"
    assert fitted.content is not None, "a fit has its content"
    return fitted.content, fitted.calibration
