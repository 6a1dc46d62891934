"""Commands that measure a model: evaluate, pod, drift, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flawforge.cli.options import counter, pictures, tell, with_acceptance, with_backend, with_device, with_seed


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option(
    "--large-masks",
    is_flag=True,
    help="Accept masks that mark more than half of a picture. [default: they count as "
    "inverted, and pixel figures are withheld if most masks do so]",
)
@with_acceptance
@with_seed
@with_device
@with_backend
def evaluate(
    model: Path,
    data: Path,
    json_file: Path | None,
    large_masks: bool,
    accept_false_alarms: float | None,
    accept_escapes: float | None,
    seed: int,
    **how: Any,
) -> None:
    """Judge the labelled test pictures in DATA with MODEL and print its accuracy, with 95 % intervals.

    Nothing is fitted on them; MODEL's own thresholds apply. Masks can be pictures in any supported format (several in a
    folder count as one), LabelMe or COCO files. Missing or implausible masks are reported.
    """
    from flawforge import api

    with counter("evaluating") as show:
        result = api.evaluate(model, data, large_masks=large_masks, seed=seed, progress=show, **how)
    result = result.accepted(accept_false_alarms, accept_escapes)
    tell(result, json_file)
    if result.acceptance is not None:
        sys.exit(result.acceptance.exit_code)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="NAME",
    help="Forger with controlled size; can be given several times. "
    "[default: six physical ones, without the families that MODEL was trained on]",
)
@click.option(
    "--contrast",
    "contrasts",
    multiple=True,
    type=float,
    help="Change in tone, as share of the full range; can be given several times. [default: 0.1 and 0.3]",
)
@click.option(
    "--sizes",
    nargs=2,
    type=float,
    help="Smallest and largest defect, in px, or mm with --scale. [default: 1.2 % to 30 % of the picture's shorter side]",
)
@click.option(
    "--count",
    default=48,
    show_default=True,
    help="Forgeries per kind and contrast; at least 29 are needed to show 90 % with 95 % confidence.",
)
@click.option("--scale", type=float, help="Width of a pixel in millimetres; sizes are then given and reported in mm.")
@click.option(
    "--group-by",
    metavar="REGEX",
    help="Pictures whose FOLDER/NAME gives the same match belong to one part. False alarms are then "
    "counted per part. [default: the CSV's column group]",
)
@with_seed
@with_device
def pod(model: Path, good: Path, json_file: Path | None, seed: int, device: str, **wanted: Any) -> None:
    """Forge defects of known size into GOOD pictures and measure how small a defect MODEL finds.

    Pictures that MODEL was trained on are left out, so you can give the folder that `fit` used: its held-back pictures
    remain. The result is the probability of detection (POD) of forged defects by size, with 95 % bounds. A size that the
    model does not reach is "not reached".
    """
    from flawforge import api

    with counter("proving") as show:
        result = api.pod(model, good, seed=seed, device=device, progress=show, **wanted)
    tell(result, json_file)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--alarm", default=0.01, show_default=True, help="Probability of a false alarm, however long you watch.")
@click.option("--defects", default=0.1, show_default=True, help="Share of defective parts that is normal on this line.")
@click.option("--group-by", metavar="REGEX", help="Pictures whose FOLDER/NAME gives the same match belong to one part.")
@with_seed
@with_device
def drift(model: Path, paths: tuple[Path, ...], json_file: Path | None, **how: Any) -> None:
    """Check whether PATHS, pictures of production parts in order, still resemble the good parts MODEL was calibrated on.

    Folders are taken in the order of their file names. The report of MODEL shows the last check.
    """
    from flawforge import api

    files = pictures(paths)
    with counter("watching") as show:
        result = api.drift(model, files, progress=show, **how)
    tell(result, json_file)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", default=Path("report.html"), show_default=True, type=click.Path(path_type=Path), help="The page to write."
)
@click.option("--title", default="", help="Title of the page. [default: the name of MODEL]")
@click.option("--note", default="", help="Text below the title, such as part number, line, camera and author.")
@click.option("--logo", type=click.Path(path_type=Path), help="Picture for the top of the page: PNG, JPEG, WebP or SVG.")
@with_acceptance
def report(model: Path, out: Path, **what: Any) -> None:
    """Write MODEL's report: one self-contained HTML page, with the results of `evaluate`, `pod` and `drift`.

    With acceptance criteria the page gives PASS, FAIL or NOT ENOUGH DATA for each, and the exit code is 0, 6 or 5. Without
    them it never says yes.
    """
    from flawforge.reporting.report import report as write

    result = write(model, out, **what)
    tell(result)
    if result.exit_code:
        sys.exit(result.exit_code)
