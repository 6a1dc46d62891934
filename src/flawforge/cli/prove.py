"""Commands that measure a model: evaluate, pod, drift, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flawforge.cli.options import counter, pictures, say, with_backend, with_device, with_seed


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
@with_seed
@with_device
@with_backend
def evaluate(model: Path, data: Path, json_file: Path | None, large_masks: bool, seed: int, **how: Any) -> None:
    """Judge the labelled test pictures in DATA with MODEL and print its accuracy, with 95 % intervals.

    Nothing is fitted on them; MODEL's own thresholds apply. Masks can be pictures in any supported format (several in a
    folder count as one), LabelMe or COCO files. Missing or implausible masks are reported.
    """
    from flawforge.judging.loading import load
    from flawforge.reporting.overlays import write_json

    inspector = load(model, **how)
    result = evaluate_model(inspector, model, data, seed, large_masks=large_masks)
    if json_file is not None:
        write_json(json_file, result)
    for line in result_lines(result):
        say(line)


def evaluate_model(inspector: Any, model: Path, data: Path, seed: int, *, large_masks: bool = False) -> dict[str, Any]:
    from flawforge.pictures.dataset import read_listing
    from flawforge.proving.evaluate import draw_telling, save_evaluation
    from flawforge.proving.evaluate import evaluate as judge_all

    listing = read_listing(data)
    entries = listing.entries
    with counter("evaluating") as show:
        result = judge_all(inspector, entries, seed=seed, large_masks=large_masks, progress=show)
    result["notes"] += listing.mask_notes
    try:
        save_evaluation(model, result, draw_telling(inspector, entries, result))
    except (PermissionError, BlockingIOError):
        say(f"  {model} cannot be written to, so the report will not show this evaluation", err=True)
    return result


def estimate_text(estimate: dict[str, float | None] | None) -> str:
    if not estimate or estimate["value"] is None:
        return "n/a"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def result_lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['counts']['good']} good and {result['counts']['defective']} defective pictures"]
    for group in ("image", "pixel"):
        for name, estimate in (result[group] or {}).items():
            if isinstance(estimate, dict) and "value" in estimate:
                lines.append(f"  {group + ' ' + name:<22}{estimate_text(estimate)}")
    point = result["operating_point"]
    lines.append(f"  {'false-alarm rate':<22}{estimate_text(point['false_alarm_rate'])}")
    lines.append(f"  {'escape rate':<22}{estimate_text(point['escape_rate'])}")
    if result["skipped"]:
        first = result["skipped"][0]["reason"]
        lines.append(f"  note: {len(result['skipped'])} pictures cannot be read and were not judged; the first: {first}")
    return [*lines, *(f"  note: {note}" for note in result["notes"])]


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
    help="Pictures with the same match in FOLDER/NAME show one part. False alarms are then "
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
    from flawforge.judging.loading import load
    from flawforge.reporting.overlays import write_json

    result = pod_model(load(model, device=device), model, good, seed, **wanted)
    if json_file is not None:
        write_json(json_file, result)
    for line in pod_lines(result):
        say(line)


def pod_model(
    inspector: Any,
    model: Path,
    good: Path,
    seed: int,
    kinds: tuple[str, ...] = (),
    contrasts: tuple[float, ...] = (),
    sizes: tuple[float, float] | None = None,
    count: int = 48,
    scale: float | None = None,
    group_by: str | None = None,
) -> dict[str, Any]:
    from flawforge.pictures.dataset import good_entries, read_entries
    from flawforge.pictures.listing import part_of
    from flawforge.proving.pod import forgers_of, prove, save_proof, unseen
    from flawforge.proving.specimens import CONTRASTS, Recipe, held_out_kinds

    config = inspector.content.config
    entries = read_entries(good)
    good_ones = good_entries(entries) or [entry for entry in entries if entry.label == 0]
    parts = part_of(good_ones, group_by)
    if inspector.calibration is not None and inspector.calibration.per_part and parts is None:
        say("  the promise is on parts, and --group-by does not say which these show: each picture counts as one")
    paths = [entry.path for entry in good_ones]
    paths, seen = unseen(paths, config)
    if seen:
        say(f"  {seen} pictures that the model was trained on are left out, {len(paths)} remain")
    trained_on = forgers_of(config)
    if sizes is not None:
        sizes = (sizes[0] / (scale or 1.0), sizes[1] / (scale or 1.0))
    recipe = Recipe(kinds or held_out_kinds(trained_on), contrasts or CONTRASTS, sizes, count, seed)
    with counter("proving") as show:
        result, shown = prove(inspector, paths, recipe, trained_on=trained_on, scale=scale, parts=parts, progress=show)
    result["trained_pictures_left_out"] = seen
    try:
        save_proof(model, result, shown)
    except (PermissionError, BlockingIOError):
        say(f"  {model} cannot be written to, so the report will not show this proof", err=True)
    return result


def pod_lines(result: dict[str, Any]) -> list[str]:
    alarm = result["false_alarm"]
    lines = [f"forged-defect POD at a promised false-alarm rate of {alarm['promised']:.2%}, {result['goods']} good pictures"]
    if alarm["n"]:
        what = f"{alarm['n']} {alarm['of']} not calibrated on"
        lines.append(f"  false alarms on the {what}: {estimate_text(alarm['measured'])}")
    head = f"  {'kind':<12}{'contrast':>9}{'found':>9}{'95 %':>14}"
    lines.append(f"{head}{'a50':>12}{'a50/95':>12}{'a90':>12}{'a90/95':>12}")

    def size(value: float | None) -> str:
        return "not reached" if value is None else f"{value:.3g} {result['unit']}"

    for row in result["curves"]:
        found = f"{row['hits']}/{row['n']}"
        recall = row["recall"]
        share = "n/a" if recall["low"] is None else f"{recall['low']:.2f} to {recall['high']:.2f}"
        reached = "".join(f"{size(row[key]):>12}" for key in ("a50", "a50_95", "a90", "a90_95"))
        lines.append(f"  {row['kind']:<12}{row['contrast']:>9g}{found:>9}{share:>14}{reached}")
    return lines


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--alarm", default=0.01, show_default=True, help="Probability of a false alarm, however long you watch.")
@click.option("--defects", default=0.1, show_default=True, help="Share of defective parts that is normal on this line.")
@click.option("--group-by", metavar="REGEX", help="Pictures with the same match in FOLDER/NAME show one part.")
@with_seed
@with_device
def drift(
    model: Path,
    paths: tuple[Path, ...],
    json_file: Path | None,
    alarm: float,
    defects: float,
    group_by: str | None,
    seed: int,
    device: str,
) -> None:
    """Are PATHS (parts in use, in their order) still like the good parts that MODEL was calibrated on?

    Folders are taken in the order of their file names. The report of MODEL shows the last check.
    """
    from flawforge.judging.loading import load
    from flawforge.pictures.listing import Entry, part_of
    from flawforge.reporting.overlays import write_json

    files = pictures(paths)
    parts = part_of([Entry(path) for path in files], group_by) if group_by is not None else None
    result = watch_model(load(model, device=device), model, files, alarm=alarm, defects=defects, parts=parts, seed=seed)
    if json_file is not None:
        write_json(json_file, result)
    say(drift_line(result))


def watch_model(inspector: Any, model: Path, files: list[Path], **how: Any) -> dict[str, Any]:
    from flawforge.proving.drift import watch
    from flawforge.reporting.overlays import save_album

    with counter("watching") as show:
        result = watch(inspector, files, progress=show, **how)
    try:
        save_album(model, "drift", result)
    except (PermissionError, BlockingIOError):
        say(f"  {model} cannot be written to, so the report will not show this check", err=True)
    return result


def drift_line(result: dict[str, Any]) -> str:
    return ("DRIFT: " if result["alarm"] else "") + str(result["text"])


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", default=Path("report.html"), show_default=True, type=click.Path(path_type=Path), help="The page to write."
)
def report(model: Path, out: Path) -> None:
    """Write MODEL's report: one self-contained HTML page, with pictures where `evaluate` was run."""
    from flawforge.reporting.report import write_report

    say(f"report: {write_report(model, out)}")
