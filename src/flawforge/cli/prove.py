"""Commands that measure a model: evaluate, pod, drift, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flawforge.cli.known import FORGERS
from flawforge.cli.options import (
    COUNT,
    DATA,
    DRIFTED,
    FILE,
    MODEL,
    PATH,
    Command,
    Known,
    Number,
    Share,
    option,
    pictures,
    with_acceptance,
    with_backend,
    with_device,
    with_group_by,
    with_save,
    with_seed,
)
from flawforge.cli.output import counter, next_steps, note_version, quoted, tell


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@click.argument("data", type=DATA)
@with_save
@with_acceptance
@option(
    "--large-masks",
    is_flag=True,
    section="Advanced",
    help="Accept masks that mark more than half of a picture. [default: they count as "
    "inverted, and pixel figures are withheld if most masks do so]",
)
@with_seed
@with_device
@with_backend
def evaluate(model: Path, data: Path, accept_false_alarms: float | None, accept_escapes: float | None, **how: Any) -> None:
    """Judge the labelled test pictures in DATA with MODEL and print its accuracy, with 95 % intervals.

    Nothing is fitted on them; MODEL's own thresholds apply. Masks can be pictures in any supported format (several in a
    folder count as one), LabelMe or COCO files. Missing or implausible masks are reported. The result is added to MODEL with
    its date and replaces none; the report shows the newest.
    """
    from flawforge import api

    note_version(model)
    with counter("evaluating") as show:
        result = api.evaluate(model, data, progress=show, **how)
    result = result.accepted(accept_false_alarms, accept_escapes)
    tell(result)
    if result.saved:
        next_steps(f"flawforge report {quoted(model)} -o report.html")
    if result.acceptance is not None:
        sys.exit(result.acceptance.exit_code)


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@click.argument("good", type=DATA)
@option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="NAME",
    type=Known(FORGERS, "forger"),
    help="Forger with controlled size; can be given several times. "
    "[default: six physical ones, without the families that MODEL was trained on]",
)
@option(
    "--contrast",
    "contrasts",
    multiple=True,
    type=Share(),
    help="Change in tone, as share of the full range; can be given several times. [default: 10% and 30%]",
)
@option(
    "--sizes",
    nargs=2,
    type=Number(above=0),
    help="Smallest and largest defect, in px, or mm with --scale. [default: 1.2 % to 30 % of the picture's shorter side]",
)
@option(
    "--count",
    default=48,
    show_default=True,
    type=COUNT,
    help="Synthetic defects per kind and contrast; at least 29 are needed to show 90 % with 95 % confidence.",
)
@option(
    "--scale",
    type=Number(above=0, like=0.05),
    help="Width of a pixel in millimetres; sizes are then given and reported in mm.",
)
@option(
    "--defects",
    type=DATA,
    help="Pictures of real defects with masks, as `fit` takes them: those that MODEL was not trained on are grafted onto "
    "GOOD pictures and counted apart.",
)
@with_save
@with_group_by
@with_seed
@with_device
def pod(model: Path, good: Path, **wanted: Any) -> None:
    """Forge defects of known size into GOOD pictures and measure how small a defect MODEL finds.

    Pictures that MODEL was trained on are left out, so you can give the folder that `fit` used: its held-back pictures
    remain. The result is the probability of detection (POD) of synthetic defects by size, with 95 % bounds. A size that
    the trials do not show is "not shown", or "all found" where none was missed but more defects are needed to show it. The
    result is added to MODEL with its date and replaces none.
    """
    from flawforge import api

    note_version(model)
    with counter("measuring POD") as show:
        result = api.pod(model, good, progress=show, **wanted)
    tell(result)
    if result.saved:
        next_steps(f"flawforge report {quoted(model)} -o report.html")


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@click.argument("paths", nargs=-1, required=True, type=PATH)
@option(
    "--alarm",
    default=0.01,
    show_default=True,
    type=Share(),
    help="Probability of a false alarm, however long you watch.",
)
@option(
    "--defects",
    default=0.1,
    show_default=True,
    type=Share(),
    help="Share of defective parts that is normal on this line.",
)
@option(
    "--fail-on",
    type=click.Choice(["drift"]),
    help=f"End with exit code {DRIFTED} where the check alarms.",
)
@with_save
@with_group_by
@with_seed
@with_device
def drift(model: Path, paths: tuple[Path, ...], fail_on: str | None, **how: Any) -> None:
    """Check whether PATHS, pictures of production parts in order, still resemble the good parts MODEL was calibrated on.

    Folders are taken in the order of their file names. The result is added to MODEL with its date and replaces none; the
    report shows the newest.
    """
    pictures(paths, quiet=True)  # a wrong path is told before anything heavy is imported
    from flawforge import api

    note_version(model)
    with counter("checking for drift") as show:
        result = api.drift(model, paths, progress=show, **how)
    tell(result)
    if result.alarm and fail_on == "drift":
        sys.exit(DRIFTED)


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@option(
    "-o", "--out", default=Path("report.html"), show_default=True, type=PATH, help="Report to write: .html, .md or .json."
)
@option("--title", default="", help="Title of the page. [default: the name of MODEL]")
@option("--note", default="", help="Text below the title, such as part number, line, camera and author.")
@option("--logo", type=FILE, help="Picture for the top of the page: PNG, JPEG, WebP or SVG.")
@with_acceptance
def report(model: Path, out: Path, **what: Any) -> None:
    """Write MODEL's report: one self-contained HTML page, with the results of `evaluate`, `pod` and `drift`.

    With acceptance criteria the page gives PASS, FAIL or NOT ENOUGH DATA for each, and the exit code is 0, 6 or 5. Without
    them the report does not say whether the model is acceptable.
    """
    from flawforge.reporting.report import report as write

    result = write(model, out, **what)
    tell(result)
    if result.exit_code:
        sys.exit(result.exit_code)
