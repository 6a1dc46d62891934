"""Commands that judge: inspect, export, bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flawforge.cli.options import (
    counter,
    fail,
    pictures,
    progress_bar,
    rules_of,
    say,
    say_aside,
    tell,
    with_backend,
    with_device,
    with_max_pixels,
    with_rules,
    with_seed,
)
from flawforge.types import ConfigError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Write results and overlays to this folder. [default: print rows]"
)
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl"]), help="Row format. [default: csv; jsonl for - and --watch]"
)
@click.option("--overlays", is_flag=True, help="Also save each picture with its heat map and marked regions; needs -o.")
@click.option("--threshold", type=float, help="Judge NG above this score, instead of MODEL's threshold.")
@click.option("--false-alarm", type=float, help="Share of good parts that may be judged NG. [default: MODEL's own]")
@click.option("--review", type=float, help="Share of good parts that may be judged NG or REVIEW. [default: MODEL's own]")
@click.option("--confidence", type=float, help="Keep the rates with this probability. [default: as in MODEL]")
@with_rules
@click.option(
    "--watch", type=click.Path(path_type=Path), help="Watch this folder and judge pictures as they arrive, until Ctrl-C."
)
@with_device
@with_backend
@with_max_pixels
def inspect(
    model: Path,
    paths: tuple[Path, ...],
    out: Path | None,
    form: str | None,
    overlays: bool,
    watch: Path | None,
    device: str,
    backend: str | None,
    threads: int | None,
    max_pixels: int,
    threshold: float | None,
    false_alarm: float | None,
    review: float | None,
    confidence: float | None,
    **rules: Any,
) -> None:
    """Judge PATHS (pictures or folders) with MODEL: OK, REVIEW or NG, one row per picture.

    The path - reads one path per line from standard input and prints a JSON line for each at once. Rates, threshold and
    rules given here replace MODEL's own; every row contains the raw score. A file or folder that cannot be read is
    reported, a file gets a row with an error, and judging continues; the exit code is then 1. With -o, each row is saved
    at once, and the folder contains unfinished.txt until the run ends.
    """
    if overlays and out is None:
        raise ConfigError("--overlays was given without a folder to write to; add -o FOLDER.")
    if not paths and watch is None:
        raise ConfigError("No picture was given; give pictures, folders, - for paths from standard input, or --watch.")
    import dataclasses

    from flawforge.judging import rows
    from flawforge.judging.loading import load
    from flawforge_runtime.feed import Source

    loaded = load(model, device=device, backend=backend, threads=threads)
    inspector = dataclasses.replace(loaded, max_pixels=max_pixels)
    changes: dict[str, Any] = {
        "false_alarm": false_alarm,
        "review": review,
        "confidence": confidence,
        "threshold": threshold,
    }
    changes["rules"] = rules_of(inspector.calibration, **rules)
    if inspector.calibration is not None and any(value is not None for value in changes.values()):
        inspector = inspector.with_calibration(inspector.calibration.moved(**changes))
    source = Source(paths, watch, sys.stdin, say_aside)
    files = None if source.live else list(source)
    form = form or ("jsonl" if source.live else "csv")
    tally = rows.Tally()
    place = f"in {out / f'results.{form}'}" if out is not None else "printed"
    total = None if files is None else len(files)
    try:
        with rows.open_results(out, form) as (write, folder), progress_bar("inspecting", total, "picture") as bar:
            inspector = dataclasses.replace(inspector, progress=lambda row, of: bar.set_postfix_str(f"row {row} of {of}"))
            overlay_folder = folder if overlays else None
            try:
                for _ in rows.judge_all(
                    inspector, source if files is None else files, write, tally, overlay_folder, say_aside
                ):
                    bar.update()
            except KeyboardInterrupt:
                if not source.watching:  # the way to end a watch
                    raise
    except KeyboardInterrupt:
        fail(
            f"Interrupted; {tally.count} judged, the rows so far are {place}."
            if tally.count
            else "Interrupted before the first picture was judged."
        )
    if out is not None or source.watching:
        say(f"{tally}; rows are {place}", err=out is None)
    if faults := tally.faults(source.missed):
        fail(faults)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
@click.option("--to", required=True, type=click.Choice(["onnx", "openvino"]), help="Backend that will judge.")
@click.option("--int8", is_flag=True, help="Use 8-bit weights and activations: faster, but scores change.")
@click.option(
    "--good",
    type=click.Path(path_type=Path),
    help="Good pictures for the comparison. [default: those that fit held back, if they still exist]",
)
@click.option(
    "--pictures", default=64, show_default=True, help="Number of pictures to compare, half of them forged; at least 64."
)
@click.option("--max-flips", default=0.02, show_default=True, help="With --int8: share of verdicts that may change.")
@with_seed
def export(model: Path, out: Path, to: str, **options: Any) -> None:
    """Write MODEL as a folder that judges without torch, after checking that it gives the same verdicts.

    Both judge good and forged pictures. A float32 export is refused if one verdict changes; nothing is written then.
    """
    from flawforge.judging.export import export as write_export

    with progress_bar("exporting", 2 + options["int8"] + (to == "openvino"), "step") as bar:

        def step(name: str) -> None:
            bar.update()
            bar.set_postfix_str(name)

        result = write_export(model, out, to, progress=step, **options)
    tell(result)


@click.command()
@click.argument("what", metavar="WHAT", type=click.Choice(["speed"]))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--repeats", default=200, show_default=True, help="Number of judgements to time; at least 20.")
@click.option("--threads", type=int, help="Threads of the network, at most the number of cores. [default: all]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
def bench(
    what: str, model: Path, paths: tuple[Path, ...], repeats: int, threads: int | None, json_file: Path | None
) -> None:
    """Measure the speed of a model or an export on PATHS: time from file to verdict, memory, cold start. WHAT is speed."""
    from flawforge.judging import speed

    files = pictures(paths)
    with counter(what) as show:
        result = speed.measure(model, files, repeats=repeats, threads=threads, progress=show)
    tell(result, json_file)
