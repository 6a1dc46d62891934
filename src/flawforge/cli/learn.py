"""Commands that learn: fit, calibrate, and the demo that goes the whole way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flawforge.cli.options import (
    counter,
    fail,
    progress_bar,
    rules_of,
    say,
    tell,
    with_backend,
    with_device,
    with_group_by,
    with_max_pixels,
    with_rates,
    with_rules,
    with_seed,
)
from flawforge.types import ConfigError
from flawforge_runtime.names import shown

METHOD = "auto"  # as fitting.METHOD; both are repeated so that --help imports neither OpenCV nor torch (tested)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Model folder to write; must not exist.")
@click.option("--method", default=METHOD, show_default=True, help="See `flawforge methods`.")
@click.option("--profile", default="", help="Named settings of the method, such as cpu or paper. [default: cpu]")
@click.option("--minutes", type=float, help="Training time, for methods that train. [default: 10, or the method's schedule]")
@click.option(
    "--clock",
    default="wall",
    show_default=True,
    help="What --minutes counts: wall, or cpu: processor time, so that other programs do not shorten training.",
)
@click.option("--steps", type=int, help="Training steps instead of minutes; the result is the same to the bit on every run.")
@click.option("--size", default=256, show_default=True, help="Working size: a canvas of about SIZE x SIZE pixels.")
@click.option(
    "--depth",
    type=click.IntRange(8, 16),
    help="Bit depth of the camera, if its pictures are stored with 16 bits: for example 12. [default: 16]",
)
@click.option("--tile", type=int, help="Split large pictures into square tiles of this many pixels.")
@click.option(
    "--roi",
    type=click.Path(path_type=Path),
    help="Mask picture whose white area is judged; or auto, to locate the part in the good pictures.",
)
@click.option("--ignore", type=click.Path(path_type=Path), help="Mask picture, white = not judged; nothing is forged there.")
@click.option(
    "--align",
    default="auto",
    show_default=True,
    help="Align parts before they are judged: on, off, or auto: align only if the good pictures show that it helps.",
)
@click.option("--textures", type=click.Path(path_type=Path), help="Folder of pictures to take textures for forgeries from.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Start from a model folder, a .safetensors file or timm:NAME, for methods that support it.",
)
@click.option(
    "--trunk",
    default="",
    help="Network that computes the features: lite0, lite1 or lite2 (trained on ImageNet, "
    "from an installed package), a model folder, a .safetensors file or timm:NAME; none or the name of a ResNet = "
    "trained on DATA alone. [default: the method's own]",
)
@with_rates
@click.option(
    "--holdout",
    default="0.2",
    show_default=True,
    help="Share of good pictures held back for calibration, or a file name pattern such as 'batch7*'.",
)
@with_group_by
@click.option(
    "--folds",
    type=int,
    help="For few pictures: use every picture for training and for calibration, at the cost of this many more fits "
    "of the same length. The stated false-alarm rate is weaker than with a hold-out.",
)
@click.option(
    "--tolerate",
    default="",
    metavar="KINDS",
    help="Accept variation that the good pictures do not show: all, or any of "
    "brightness,turn,shift,jpeg,blur. Costs sensitivity.",
)
@click.option("--strict", is_flag=True, help="Refuse to fit if any good picture stands out from the others.")
@click.option("--clean", is_flag=True, help="Leave out good pictures that stand out from the others; each is named.")
@with_seed
@click.option(
    "--workers",
    default=1,
    show_default=True,
    help="Threads that prepare synthetic defects ahead of training. They affect speed, not results.",
)
@with_device
@click.option("--devices", default=1, show_default=True, help="Number of devices; only 1 is supported.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with method settings; --set wins over it.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="One method setting; can be given several times.")
@click.option("--resume", is_flag=True, help="Continue a fit that was stopped; give the same options as before.")
@click.option("--checkpoint-every", default=60.0, show_default=True, help="Seconds between checkpoints.")
@click.option("--dry-run", is_flag=True, help="Check the data, forecast time and memory, and stop.")
@with_max_pixels
def fit(
    data: Path,
    out: Path,
    pairs: tuple[str, ...],
    config: Path | None,
    holdout: str,
    devices: int,
    resume: bool,
    dry_run: bool,
    folds: int | None,
    **options: Any,
) -> None:
    """Learn from the good pictures in DATA and write a calibrated model.

    DATA is a folder in MVTec layout (only train/good is read), a plain folder of good pictures, or a CSV with image_path.
    """
    if devices != 1:
        raise ConfigError(f"--devices was given as {devices}; only 1 is supported.")
    from flawforge.config import parse_pairs, read_toml

    settings = (read_toml(config) if config else {}) | parse_pairs(pairs)
    from flawforge import fitting

    request = fitting.Request(data=data, out=out, settings=settings, holdout=_share_or_pattern(holdout), **options)
    if not dry_run:
        fitting.check_output(out, resume)
    if folds is not None:
        if resume or dry_run:
            raise ConfigError("--folds was given with --resume or --dry-run; leave those out.")
        _fit_in_folds(request, folds)
        return
    with _resumable(out):
        _fit(request, resume, dry_run)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Ctrl-C in a fit offers --resume only if there is a checkpoint to resume from."""
    from flawforge.fitting import checkpoint_file

    try:
        yield
    except KeyboardInterrupt:
        if not checkpoint_file(out).is_file():
            fail("Interrupted before the first checkpoint; nothing was saved, so run the same command again.")
        fail("Interrupted; to continue, run the same command with --resume.")


def _fit_in_folds(request: Any, folds: int) -> None:
    from flawforge.fitting.folds import run

    with counter(f"{folds} fits and the final one") as count:
        inspector = run(request, folds, show=lambda line: say(f"  {line}"), on_fold=count)
    tell(inspector)
    say(f"model: {request.out}")


def _fit(request: Any, resume: bool = False, dry_run: bool = False) -> Any:
    from flawforge import fitting

    with counter("checking data") as show:
        plan = fitting.plan(request, progress=show)
    for line in (*plan.report.lines(), *plan.notes):
        say(f"  {line}")
    with counter("comparing good pictures") as show:
        plan = fitting.questioned(plan, show)
    for line in plan.screening.lines() if plan.screening else ():
        say(f"  {line}")
    canvas = "{} x {} (h x w)".format(*plan.canvas)
    say(f"  {len(plan.train)} to train on, {len(plan.held)} held back; canvas {canvas}")
    pictures = fitting.load_pictures(plan)
    for line in fitting.forecast(plan, pictures).lines():
        say(f"  {line}")
    if dry_run:
        return None
    with progress_bar(request.method, 100, "%") as bar:
        bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left{postfix}"

        stage = ""

        def on_tick(tick: Any) -> None:
            nonlocal stage
            if stage and tick.stage != stage:
                bar.reset()
            stage = tick.stage
            bar.set_description_str(f"{request.method}: {stage}", False)
            losses = [f"{name} {value:.4f}" for name, value in tick.losses.items()]
            bar.set_postfix_str(", ".join([f"step {tick.step}", *losses]), False)
            bar.update(100 * tick.progress - bar.n)

        inspector = fitting.run(
            request,
            resume=resume,
            made=plan,
            pictures=pictures,
            on_tick=on_tick,
            show=lambda line: bar.write(f"  {shown(line)}"),
        )
    tell(inspector)
    say(f"model: {request.out}")
    return inspector


def _share_or_pattern(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path))
@with_rates
@with_group_by
@with_rules
@click.option("--yes", is_flag=True, help="All pictures show good parts, even if the model rejects many of them.")
@with_device
@with_backend
def calibrate(
    model: Path,
    good: Path,
    false_alarm: float | None,
    review: float | None,
    confidence: float | None,
    group_by: str | None,
    yes: bool,
    device: str,
    backend: str | None,
    threads: int | None,
    **rules: Any,
) -> None:
    """Set the thresholds of MODEL from GOOD pictures that it was not trained on.

    Rules turn a verdict into OK if few regions are marked. They never raise the false-alarm rate, but can raise escapes.
    """
    from flawforge import fitting
    from flawforge_runtime import bundle

    calibration, notes = fitting.recalibrate(
        model,
        good,
        false_alarm,
        review,
        confidence=confidence,
        group_by=group_by,
        yes=yes,
        device=device,
        backend=backend,
        threads=threads,
        rules=rules_of(bundle.read(model).calibration, **rules),
    )
    for note in notes:
        say(f"  {note}")
    for line in calibration.lines():
        say(line)


@click.command()
@click.option(
    "-o",
    "--out",
    default=Path("flawforge-demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write; must not exist.",
)
@click.option(
    "--good",
    default=495,
    show_default=True,
    help="Good parts to render; a fifth is held back, and a false-alarm rate of 1 % needs 99 of those.",
)
@click.option("--method", default=METHOD, show_default=True, help="See `flawforge methods`.")
@click.option("--minutes", default=1.5, show_default=True, help="Training time, for methods that train.")
@click.option("--count", default=32, show_default=True, help="Forgeries per kind and contrast for the POD.")
@with_seed
def demo(out: Path, good: int, method: str, minutes: float, count: int, seed: int) -> None:
    """Run every step on rendered sample parts; needs no data and no internet."""
    from flawforge import api
    from flawforge.demo.washers import write_demo_parts
    from flawforge.fitting import Request, check_output
    from flawforge.reporting.report import report

    check_output(out, resume=False)
    with counter("rendering washers") as show:
        write_demo_parts(out / "parts", good=good, seed=seed, progress=show)
    model = out / "model"
    _fit(Request(out / "parts", model, method=method, minutes=minutes, seed=seed))
    with counter("evaluating") as show:
        tell(api.evaluate(model, out / "parts", seed=seed, progress=show))
    with counter("proving") as show:
        tell(api.pod(model, out / "parts", count=count, seed=seed, progress=show))
    with counter("watching") as show:
        tell(api.drift(model, out / "parts" / "test" / "good", seed=seed, progress=show))
    report(model, out / "report.html")
    say(f"open {(out / 'report.html').resolve()}")
