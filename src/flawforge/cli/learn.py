"""Commands that learn: calibrate, recalibrate, and the demo that goes the whole way; `fit` has its own file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from flawforge.cli import known
from flawforge.cli.fit import METHOD, MINUTES, check_other_day, fit_with_progress
from flawforge.cli.options import (
    COUNT,
    DATA,
    MODEL,
    PATH,
    Command,
    Known,
    need_serve,
    option,
    rules_of,
    with_backend,
    with_device,
    with_group_by,
    with_other_day,
    with_rates,
    with_results,
    with_rules,
    with_seed,
)
from flawforge.cli.output import counter, next_steps, note_version, output, quoted, say, tell, write_json
from flawforge.types import ConfigError


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@click.argument("good", type=DATA, required=False)
@option(
    "--reviews", "db", metavar="DB", help="Result store whose reviewed good parts take the place of GOOD: see recalibrate."
)
@with_rates
@with_other_day
@with_rules
@option(
    "--yes",
    is_flag=True,
    help="Go on if MODEL rejects many of the pictures, or if they are too few for its present rate. First check that all "
    "are good.",
)
@with_group_by
@with_device
@with_backend
def calibrate(
    model: Path,
    good: Path | None,
    db: str | None,
    false_alarm: float | None,
    review: float | None,
    other_day: Path | None,
    both_days: bool,
    **how: Any,
) -> None:
    """Set the thresholds of MODEL from GOOD pictures that it was not trained on.

    Rules can turn NG into OK if few regions are marked. They cannot add false alarms, but may let more defects pass. Stored
    results of `evaluate`, `pod` and `drift` are judged again at the new thresholds.
    """
    check_other_day(other_day, both_days)
    if (good is None) == (db is None):
        raise ConfigError("GOOD and --reviews say where the good pictures come from; give one of the two.")
    how |= {"other_day": other_day, "both_days": both_days}
    if good is None:
        _from_reviews(model, db, false_alarm, review, **how)
        return
    from flawforge import fitting

    _calibrate(model, lambda **more: fitting.recalibrate(model, good, false_alarm, review, **more), **how)


def _calibrate(model: Path, work: Callable[..., tuple[Any, Sequence[str]]], **how: Any) -> None:
    """Do the work with a counter, with the rules among the options, and say what came of it."""
    from flawforge_runtime import bundle

    note_version(model)
    rules = rules_of(bundle.read(model).calibration, *(how.pop(name) for name in ("min_area", "max_count", "scale")))
    with counter("calibrating") as show:
        calibration, notes = work(rules=rules, progress=show, **how)
    for note in notes:
        if note not in calibration.doubts:
            say(f"  {note}")
    for line in (*calibration.lines(), *calibration.doubts):  # what may be wrong comes last, where it is read
        say(line)
    write_json({"calibration": calibration.as_dict(), "notes": list(notes)})
    next_steps(f"flawforge evaluate {quoted(model)} DATA")


def _from_reviews(model: Path, db: str | None, false_alarm: float | None, review: float | None, **how: Any) -> None:
    need_serve()
    from flawforge.fitting.reviewed import recalibrate_from_reviews

    _calibrate(model, lambda **more: recalibrate_from_reviews(model, db or "", false_alarm, review, **more), **how)


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@option("--reviews", "db", required=True, metavar="DB", help="Result store: a SQLite file, or postgresql://USER@HOST/NAME.")
@with_results
@option(
    "--yes",
    is_flag=True,
    help="Go on if MODEL rejects many of the parts, or if they are too few for its present rate. First check that all are "
    "good.",
)
@with_rates
@with_rules
@with_device
@with_backend
def recalibrate(model: Path, db: str, false_alarm: float | None, review: float | None, **how: Any) -> None:
    """Set the thresholds of MODEL from reviewed good parts in the result store.

    Only randomly sampled parts count, and only those before the first one that has not been reviewed. Parts that were queued
    because of their verdict are the most anomalous ones: thresholds from them would have an unknown false-alarm rate.
    """
    _from_reviews(model, db, false_alarm, review, **how)


@click.command(cls=Command)
@option(
    "-o",
    "--out",
    default=Path("flawforge-demo"),
    show_default=True,
    type=PATH,
    help="Folder to write; must not exist.",
)
@option(
    "--good",
    default=495,
    show_default=True,
    type=COUNT,
    help="Good parts to render; a fifth is held back, and a false-alarm rate of 1 % needs 99 of those.",
)
@option(
    "--method",
    default=METHOD,
    show_default=True,
    type=Known(known.METHODS, "method"),
    metavar="NAME",
    help="See `flawforge methods`.",
)
@option("--minutes", default=1.5, show_default=True, type=MINUTES, help="Training time, for methods that train.")
@option("--count", default=32, show_default=True, type=COUNT, help="Synthetic defects per kind and contrast for the POD.")
@with_seed
def demo(out: Path, good: int, method: str, minutes: float, count: int, seed: int) -> None:
    """Run every step on rendered sample parts; needs no data and no internet."""
    from flawforge.fitting.places import check_output

    check_output(out, resume=False)
    from flawforge import api
    from flawforge.demo.washers import write_demo_parts
    from flawforge.fitting import Request
    from flawforge.reporting.report import report

    model, parts = out / "model", out / "parts"
    with counter("1 of 5, rendering washers") as show:
        write_demo_parts(parts, good=good, seed=seed, progress=show)
    say("2 of 5, fit")
    json, output().json = output().json, ""  # the last step writes it, for all
    fit_with_progress(Request(parts, model, method=method, minutes=minutes, seed=seed))
    with counter("3 of 5, evaluating") as show:
        tell(api.evaluate(model, parts, seed=seed, progress=show))
    with counter("4 of 5, measuring POD") as show:
        tell(api.pod(model, parts, count=count, seed=seed, progress=show))
    with counter("5 of 5, checking for drift") as show:
        tell(api.drift(model, parts / "test" / "good", seed=seed, progress=show))
    page = report(model, out / "report.html")
    output().json = json
    write_json(page.as_dict())
    say(f"open {(out / 'report.html').resolve()}")
