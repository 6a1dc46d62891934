"""The command fit: its options, its progress and what Ctrl-C leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flawforge.cli import known
from flawforge.cli.options import (
    COUNT,
    DATA,
    FILE,
    PATH,
    Command,
    Known,
    Number,
    ShareOrPattern,
    option,
    unknown,
    with_device,
    with_group_by,
    with_max_pixels,
    with_other_day,
    with_rates,
    with_seed,
)
from flawforge.cli.output import Bar, counter, fail, next_steps, progress_bar, quoted, say, tell, write_json
from flawforge.types import ConfigError

METHOD = "auto"  # as fitting.METHOD; both are repeated so that --help imports neither OpenCV nor torch (tested)
MINUTES = Number(above=0, like=10)


@click.command(cls=Command)
@click.argument("data", type=DATA, required=False)
@option("-o", "--out", required=True, type=PATH, help="Model folder to write; must not exist.")
@option(
    "--method",
    default=METHOD,
    show_default=True,
    type=Known(known.METHODS, "method"),
    metavar="NAME",
    help="See `flawforge methods`.",
)
@option(
    "--minutes",
    type=MINUTES,
    help="Training time, for methods that train; statistics count against it, calibration does not. "
    "[default: 10, or the method's schedule]",
)
@option("--size", default=256, show_default=True, type=COUNT, help="Working size: a canvas of about SIZE x SIZE pixels.")
@option("--tile", type=COUNT, help="Tile size in pixels for large pictures; each tile is processed at --size.")
@option(
    "--roi",
    type=FILE,
    help="Mask picture whose white area is judged; or auto, to locate the part in the good pictures.",
)
@option("--ignore", type=FILE, help="Mask picture, white = not judged; no synthetic defect is drawn there.")
@option(
    "--holdout",
    default="0.2",
    show_default=True,
    type=ShareOrPattern(),
    metavar="SHARE",
    help="Share of good pictures held back for calibration, or a file name pattern such as 'batch7*'.",
)
@option(
    "--folds",
    type=Number(whole=True, least=2),
    help="Cross-validation for small sets: a fit for each fold and a final one on all pictures, so that every picture "
    "serves for training and for calibration. N folds take N + 1 times as long; the stated false-alarm rate is weaker "
    "than with a hold-out.",
)
@option("--strict", is_flag=True, help="Refuse to fit if any good picture stands out from the others.")
@option("--clean", is_flag=True, help="Leave out good pictures that stand out from the others; each is named.")
@option("--resume", is_flag=True, help="Continue a fit that was stopped; give the same options as before.")
@option("--dry-run", is_flag=True, help="Check the data, forecast time and memory, and stop.")
@option(
    "--products",
    type=FILE,
    section="Cluster",
    help="TOML file of products instead of DATA: fits and proves a model for each, in folders of OUT, with the options in "
    "that file alone. Finished products are skipped.",
)
@option(
    "--ray",
    metavar="ADDRESS",
    section="Cluster",
    help="Ray cluster for --products: local, auto (the one that this machine has joined) or HOST:PORT. [default: local]",
)
@with_rates
@with_other_day
@option(
    "--profile",
    default="",
    section="Advanced",
    help="Named settings of the method, such as cpu or paper. [default: cpu]",
)
@option(
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(["wall", "cpu"]),
    section="Advanced",
    help="What --minutes counts: wall, or cpu: processor time, so that other programs do not shorten training.",
)
@option(
    "--steps",
    type=COUNT,
    section="Advanced",
    help="Training steps instead of minutes; the result is the same to the bit on every run.",
)
@option(
    "--depth",
    type=click.IntRange(8, 16),
    section="Advanced",
    help="Bit depth of the camera, if its pictures are stored with 16 bits: for example 12. [default: 16]",
)
@option(
    "--align",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "on", "off"]),
    section="Advanced",
    help="Align parts before they are judged: on, off, or auto: only if it helps on the good pictures.",
)
@option(
    "--tolerate",
    default="",
    metavar="KINDS",
    section="Advanced",
    help="Accept variation that the good pictures do not show: all, or any of "
    "brightness,turn,shift,jpeg,blur. Costs sensitivity.",
)
@with_group_by
@option(
    "--defects",
    type=DATA,
    help="A few pictures of real defects with masks: MVTec layout, a folder with masks beside the pictures, or a CSV. They "
    "are grafted onto good pictures in training; no threshold is set with them.",
)
@option("--textures", type=FILE, section="Advanced", help="Folder of pictures to take textures for synthetic defects from.")
@option(
    "--init",
    type=FILE,
    section="Advanced",
    help="Start from a model folder, a .safetensors file or timm:NAME, for methods that support it.",
)
@option(
    "--trunk",
    default="",
    section="Advanced",
    help="Network that computes the features: lite0, lite1 or lite2 (trained on ImageNet, "
    "from an installed package), a model folder, a .safetensors file or timm:NAME; none or the name of a ResNet = "
    "trained on DATA alone. [default: the method's own]",
)
@with_seed
@option(
    "--workers",
    default=1,
    show_default=True,
    type=Number(whole=True, least=0),
    section="Advanced",
    help="Threads that prepare synthetic defects ahead of training. They affect speed, not results.",
)
@with_device
@option(
    "--devices",
    default=1,
    show_default=True,
    type=COUNT,
    section="Cluster",
    help="Devices of this machine to learn on: GPUs, or processes on the CPU. Each step's batch is cut into as many parts.",
)
@option(
    "--nodes",
    default=1,
    show_default=True,
    type=COUNT,
    section="Cluster",
    help="Machines to learn on, with --devices each: give the command on all of them, with NODE_RANK, MASTER_ADDR and "
    "MASTER_PORT set.",
)
@option("--config", type=FILE, section="Advanced", help="TOML file with method settings; --set wins over it.")
@option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    section="Advanced",
    help="One method setting; can be given several times.",
)
@option(
    "--checkpoint-every",
    default=60.0,
    show_default=True,
    type=Number(above=0),
    section="Advanced",
    help="Seconds between checkpoints.",
)
@with_max_pixels
def fit(
    data: Path | None,
    out: Path,
    products: Path | None,
    ray: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    resume: bool,
    dry_run: bool,
    folds: int | None,
    **options: Any,
) -> None:
    """Learn from the good pictures in DATA and write a calibrated model.

    DATA is a folder in MVTec layout (only train/good is read), a plain folder of good pictures, or a CSV with image_path.
    """
    if products is not None or data is None or ray is not None:
        from flawforge.cli import on_ray

        on_ray.fit_products(products, data, out, ray)
        return
    settings = _checked(options, out, pairs, config, resume, dry_run, folds)
    from flawforge import fitting

    request = fitting.Request(data=data, out=out, settings=settings, **options)
    if _learns_along(request, resume, dry_run):
        return
    if folds is not None:
        _fit_in_folds(request, folds, dry_run)
    else:
        with _resumable(out):
            fit_with_progress(request, resume, dry_run)
    if not dry_run:
        real = f" --defects {quoted(request.defects)}" if request.defects else ""
        next_steps(
            f"flawforge inspect {quoted(out)} PICTURES -o judged --overlays",
            f"flawforge pod {quoted(out)} {quoted(data)}{real}",
        )


def _learns_along(request: Any, resume: bool, dry_run: bool) -> bool:
    """Whether this is another machine than the first of a fit on several: then it has learnt along, and written nothing."""
    from flawforge import fitting
    from flawforge.fitting.devices import place_of

    place = None if dry_run else place_of(request.devices, request.nodes)
    if place is None or not place.node:
        return False
    say(f"machine {place.node} of {place.nodes}, counted from 0: learning along; machine 0 writes {request.out}")
    fitting.follow(request, resume=resume)
    return True


def _checked(
    options: dict[str, Any],
    out: Path,
    pairs: tuple[str, ...],
    config: Path | None,
    resume: bool,
    dry_run: bool,
    folds: int | None,
) -> dict[str, Any]:
    """The settings of --config and --set; whatever can be refused before torch is imported is refused here."""
    from flawforge.config import parse_pairs, read_toml
    from flawforge.fitting.places import check_output
    from flawforge.pictures.tolerance import kinds_from

    method = known.METHODS[options["method"]]
    profiles, names = method.profiles.split(), method.settings.split()
    if options["profile"] and options["profile"] not in profiles:
        raise ConfigError(f"--profile: {unknown('profile', options['profile'], profiles)}")
    settings = (read_toml(config) if config else {}) | parse_pairs(pairs)
    for name in settings:
        if name not in names:
            raise ConfigError(f"--set: {unknown('setting', name, names)}")
    if options["steps"] is not None and options["minutes"] is not None:
        raise ConfigError(
            f"--steps {options['steps']} and --minutes {options['minutes']:g} were given; give one of the two."
        )
    if folds is not None and resume:
        raise ConfigError("--folds and --resume cannot be combined; leave one of them out.")
    check_other_day(options["other_day"], options["both_days"])
    kinds_from(options["tolerate"])
    if not dry_run:
        check_output(out, resume)
    return settings


def check_other_day(folder: Path | None, both: bool) -> None:
    """ConfigError for --both-days without --other-day."""
    if both and folder is None:
        raise ConfigError("--both-days was given without pictures of another day; add --other-day FOLDER.")


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Ctrl-C in a fit offers --resume only if there is a checkpoint to resume from."""
    from flawforge.fitting.places import checkpoint_file

    try:
        yield
    except KeyboardInterrupt:
        if not checkpoint_file(out).is_file():
            fail("Interrupted before the first checkpoint; nothing was saved, so run the same command again.")
        fail("Interrupted; to continue, run the same command with --resume.")


def _fit_in_folds(request: Any, folds: int, dry_run: bool) -> None:
    """Say what was found and what all fits take together, then fit; with dry_run nothing is fitted."""
    from flawforge.fitting.folds import run
    from flawforge.fitting.forecasting import in_words

    with progress_bar("fit", None, "s") as bar:
        plan, _, forecast = _prepared(request, Course(bar), folds)
    seconds = (folds + 1) * forecast.seconds
    say(f"  {folds} folds and the final fit, {folds + 1} fits in all, take about {in_words(seconds)}")
    if dry_run:
        _write_forecast(plan, forecast, {"folds": folds, "seconds_in_all": seconds})
        return
    with counter(f"{folds} fits and the final one") as count:
        inspector = run(request, folds, made=plan, show=lambda line: say(f"  {line}"), on_fold=count)
    say(f"model: {request.out}")
    tell(inspector)


def _prepared(request: Any, course: Course, folds: int | None = None) -> tuple[Any, Any, Any]:
    """(plan, good pictures, forecast of one fit), each said as it is known."""
    from flawforge import fitting
    from flawforge.fitting import folds as in_folds

    if folds is None:
        plan = fitting.plan(request, progress=course.checking)
        for line in (*plan.report.lines(), *plan.notes):
            say(f"  {line}")
        plan = fitting.questioned(plan, course.comparing)
    else:
        plan = in_folds.plan(request, folds, course.checking, course.comparing)
        for line in (*plan.report.lines(), *plan.notes):
            say(f"  {line}")
    for line in plan.screening.lines() if plan.screening else ():
        say(f"  {line}")
    canvas = "{} x {} (h x w)".format(*plan.canvas)
    train, held = len(plan.train), len(plan.held)
    shares = f"{train + held} to train on and to calibrate with" if folds else f"{train} to train on, {held} held back"
    say(f"  {shares}; canvas {canvas}")
    pictures = fitting.load_pictures(plan)
    forecast = fitting.forecast(plan, pictures)
    for line in forecast.lines():
        say(f"  {line}")
    return plan, pictures, forecast


def _write_forecast(plan: Any, forecast: Any, more: dict[str, Any]) -> None:
    """What --dry-run writes to standard output."""
    write_json({"forecast": forecast.as_dict(), **more, "data": plan.report.as_dict(), "notes": list(plan.notes)})


class Course:
    """Where a fit stands, on one bar in seconds of its forecast. Names for people: "statistics", "training", "check"."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.start = bar, time.monotonic()
        self.stages: list[tuple[str, str, float]] = []
        self.place, self.before = 0, 0.0

    def checking(self, done: int, of: int) -> None:
        """Reading the pictures; how long the rest takes is not known yet."""
        self.bar.at(time.monotonic() - self.start, note=f"checking picture {done} of {of}")

    def comparing(self, done: int, of: int) -> None:
        """Comparing the pictures with each other."""
        self.bar.at(time.monotonic() - self.start, note=f"comparing picture {done} of {of}")

    def forecast(self, stages: Any) -> None:
        """From here on the end is known."""
        self.stages, self.before = list(stages), time.monotonic() - self.start
        self.at(self.stages[0][0] if self.stages else "", 0.0)

    def tick(self, tick: Any) -> None:
        """One step of the fit."""
        self.at(tick.stage, tick.progress)

    def calibrating(self, done: int, of: int) -> None:
        """One picture of the calibration."""
        names = [name for name, _, _ in self.stages[self.place :]]
        following = next((name for name in names if "calibration" in name), "calibration")
        self.at(following, done / max(of, 1))

    def at(self, stage: str, share: float) -> None:
        """`share` of a stage is done, and all stages before it."""
        places = [place for place, (name, _, _) in enumerate(self.stages) if name == stage and place >= self.place]
        if places:
            self.place = places[0]
        done = self.before + sum(seconds for _, _, seconds in self.stages[: self.place])
        part = "check"
        if self.place < len(self.stages):
            done += min(share, 1.0) * self.stages[self.place][2]
            part = self.stages[self.place][1]
        total = self.before + sum(seconds for _, _, seconds in self.stages)
        self.bar.at(min(done, total), total, note=part)


def fit_with_progress(request: Any, resume: bool = False, dry_run: bool = False) -> Any:
    """Fit with a progress bar over all of it, say what was found, and return the inspector (None with dry_run)."""
    from flawforge import fitting

    with progress_bar("fit", None, "s") as bar:
        course = Course(bar)
        plan, pictures, forecast = _prepared(request, course)
        if dry_run:
            _write_forecast(plan, forecast, {})
            return None
        course.forecast(forecast.stages)
        inspector = fitting.run(
            request,
            resume=resume,
            made=plan,
            pictures=pictures,
            on_tick=course.tick,
            on_calibrate=course.calibrating,
            show=lambda line: say(f"  {line}"),
        )
    say(f"model: {request.out}")
    tell(inspector)
    return inspector
