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
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for results and overlays. [default: print rows]")
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl"]), help="Row format. [default: csv, and jsonl for - and --watch]"
)
@click.option("--overlays", is_flag=True, help="Also write each picture with its heat map and marked regions; needs -o.")
@click.option("--threshold", type=float, help="NG above this score, instead of MODEL's own threshold.")
@click.option("--false-alarm", type=float, help="Another promised share of NG among good parts. [default: MODEL's own]")
@click.option("--review", type=float, help="Another promised share of NG or REVIEW. [default: MODEL's own]")
@click.option("--confidence", type=float, help="Keep the rates with this probability. [default: as MODEL does]")
@with_rules
@click.option(
    "--watch", type=click.Path(path_type=Path), help="Judge pictures as they come to lie in this folder, until Ctrl-C."
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
    """Judge PATHS (pictures or folders) with MODEL: OK, REVIEW or NG, one row each.

    A path of - reads paths from standard input, one a line, and gives a JSON line for each as it comes. Rates, threshold
    and rules are MODEL's own unless given here; the raw score is in every row whatever they are. A file or folder that
    cannot be read is named, a file has a row with an error, and the rest goes on; the exit code is then 1. With -o rows are
    on the disk as they come; until the end FOLDER holds a file unfinished.txt.
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
@click.option("--to", required=True, type=click.Choice(["onnx", "openvino"]), help="What will judge.")
@click.option("--int8", is_flag=True, help="Weights and activations in 8 bits: faster, and no longer the same scores.")
@click.option(
    "--good",
    type=click.Path(path_type=Path),
    help="Good pictures to compare on. [default: those that fit held back, where they still are]",
)
@click.option("--pictures", default=64, show_default=True, help="How many to compare, half of them forged; at least 64.")
@click.option("--max-flips", default=0.02, show_default=True, help="With --int8: share of verdicts that may change.")
@with_seed
def export(model: Path, out: Path, to: str, **options: Any) -> None:
    """Write MODEL as a folder that judges without torch, after proving that it judges alike.

    Good and forged pictures are judged by both. In float32 one changed verdict refuses the export, and nothing is written.
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
@click.option("--repeats", default=200, show_default=True, help="Judgements to time; at least 20.")
@click.option("--threads", type=int, help="Threads of the network, at most the cores. [default: all]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every number to this file.")
def bench(
    what: str, model: Path, paths: tuple[Path, ...], repeats: int, threads: int | None, json_file: Path | None
) -> None:
    """Measure; WHAT is speed: MODEL, a model or an export, on PATHS from file to verdict, memory, and the cold start."""
    from flawforge.judging import speed

    files = pictures(paths)
    with counter(what) as show:
        result = speed.measure(model, files, repeats=repeats, threads=threads, progress=show)
    tell(result, json_file)
