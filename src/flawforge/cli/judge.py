"""Commands that judge: inspect, export, bench."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flawforge.cli.options import (
    COUNT,
    FILE,
    MODEL,
    NEW,
    NG_FOUND,
    PATH,
    SOURCE,
    Command,
    Number,
    Share,
    check_any,
    need_serve,
    option,
    pictures,
    rules_of,
    with_backend,
    with_db,
    with_device,
    with_max_pixels,
    with_rules,
    with_seed,
    with_threads,
)
from flawforge.cli.output import (
    counter,
    fail,
    hint,
    next_steps,
    note_version,
    output,
    progress_bar,
    quoted,
    say,
    say_aside,
    tell,
    write_json,
)
from flawforge.types import ConfigError

SAMPLE_EVERY = 50  # as `serve` has it: about one part in 50 is reviewed, whatever its score
FAILS = {"ng": ("NG",), "review": ("NG", "REVIEW")}


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@click.argument("paths", nargs=-1, type=SOURCE)
@option(
    "-o",
    "--out",
    type=PATH,
    help="Write rows and index.html to this folder, which must be new or empty. [default: print rows]",
)
@option("--overlays", is_flag=True, help="Also save each picture with its heat map and marked regions; needs -o.")
@option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="Row format; parquet needs -o. [default: csv; jsonl for - and --watch]",
)
@option(
    "--csv-dialect",
    "dialect",
    type=click.Choice(["standard", "excel"]),
    default="standard",
    show_default=True,
    help="excel: semicolons, decimal commas and a byte order mark, for Excel in countries that write 1,5.",
)
@option("--watch", type=PATH, help="Watch this folder and judge each new picture, until Ctrl-C.")
@with_db
@option("--copy-ng", type=PATH, metavar="FOLDER", help="Copy the pictures that are judged NG to this folder.")
@option(
    "--fail-on",
    type=click.Choice(list(FAILS)),
    help=f"End with exit code {NG_FOUND} where a picture is judged NG (review: NG or REVIEW).",
)
@option("--threshold", type=Number(), section="Limits", help="Judge NG above this score, instead of MODEL's threshold.")
@option(
    "--false-alarm",
    type=Share(),
    section="Limits",
    help="Share of good parts that may be judged NG. [default: MODEL's own]",
)
@option(
    "--review",
    type=Share(),
    section="Limits",
    help="Share of good parts that may be judged NG or REVIEW. [default: MODEL's own]",
)
@option(
    "--confidence",
    type=Share(),
    section="Limits",
    help="Keep the rates with this probability, for example 95%. [default: as in MODEL]",
)
@with_rules
@with_device
@with_backend
@with_max_pixels
@option(
    "--ray",
    metavar="ADDRESS",
    section="Cluster",
    help="Judge on a Ray cluster: local, auto (the one that this machine has joined) or HOST:PORT. PATHS may be CSV or "
    "Parquet tables of paths, or addresses such as s3://BUCKET/FOLDER; -o gets Parquet parts, and the same command "
    "continues a run that was stopped.",
)
@option(
    "--ray-workers",
    type=COUNT,
    section="Cluster",
    help="Judging processes at most, each of --threads cores (1). [default: as many as the cluster has room for]",
)
def inspect(
    model: Path,
    paths: tuple[Any, ...],
    out: Path | None,
    form: str | None,
    dialect: str,
    overlays: bool,
    watch: Path | None,
    db: str | None,
    station: str,
    copy_ng: Path | None,
    fail_on: str | None,
    device: str,
    backend: str | None,
    threads: int | None,
    max_pixels: int,
    threshold: float | None,
    false_alarm: float | None,
    review: float | None,
    confidence: float | None,
    ray: str | None,
    ray_workers: int | None,
    **rules: Any,
) -> None:
    """Judge PATHS (pictures or folders) with MODEL: OK, REVIEW or NG, one row per picture.

    If PATHS is -, it reads one path per line from standard input and prints a JSON line for each at once. Rates, threshold
    and rules given here replace MODEL's own. score_normalised is 0.5 at the NG threshold of every model. A picture unlike
    every good picture (valid: False) is NG; a low score is raised above the scores of all calibration pictures. Judging
    continues after a file or folder that cannot be read; such a file gets a row with an error, and the exit code is 1. With
    -o, each row is saved at once, and the folder contains unfinished.txt until the run ends. index.html shows the most
    anomalous pictures first; - and --watch write none.
    """
    if ray is not None:
        from flawforge.cli import on_ray

        if db is not None:
            raise ConfigError("--db was given with --ray, which writes Parquet parts alone; leave one of the two out.")
        on_ray.check_inspect(paths, out, ray_workers, form, overlays=overlays, watch=watch, copy_ng=copy_ng)
    elif ray_workers is not None or any(isinstance(path, str) for path in paths):
        what = "--ray-workers" if ray_workers is not None else next(path for path in paths if isinstance(path, str))
        raise ConfigError(f"{what} was given without a cluster to judge on; add --ray local, or leave it out.")
    if overlays and out is None:
        raise ConfigError("--overlays was given without a folder to write to; add -o FOLDER.")
    if not paths and watch is None:
        raise ConfigError("No picture was given; give pictures, folders, - for paths from standard input, or --watch.")
    if output().json == "-" and out is None:
        raise ConfigError("--json - was given and the rows are printed there too; add -o FOLDER, or --format jsonl alone.")
    changes: dict[str, Any] = {
        "false_alarm": false_alarm,
        "review": review,
        "confidence": confidence,
        "threshold": threshold,
    }
    if ray is not None:
        assert out is not None  # checked above
        inspector = _opened(model, device, backend, threads or 1, max_pixels, changes, rules)
        result = on_ray.inspect(model, inspector, paths, out, ray, ray_workers, threads or 1)
        if any(result.totals[verdict] for verdict in FAILS.get(fail_on or "", ())):
            sys.exit(NG_FOUND)
        return
    from flawforge_runtime.feed import Source, check_watch

    if watch is not None:
        check_watch(watch, {"--copy-ng": copy_ng, "--out": out})
    if copy_ng is not None:
        _check_copies(copy_ng, paths)
    source = Source(paths, watch, sys.stdin, say_aside)
    if not source.live:
        check_any(paths)
    files = None if source.live else list(source)
    form = form or ("jsonl" if source.live else "csv")
    import dataclasses

    from flawforge.judging import rows

    rows.check_form(form)
    inspector = _opened(model, device, backend, threads, max_pixels, changes, rules)
    if changes["threshold"] is not None and inspector.calibration is not None:
        hint(inspector.calibration.lines()[0])
    tally = rows.Tally()
    place = f"in {out / rows.rows_file(form)}" if out is not None else "printed"
    wanted = rows.Pictures(overlays=overlays, thumbnails=files is not None, copy_ng=copy_ng)
    try:
        with (
            rows.open_results(out, form, dialect) as (write, folder),
            _keeper(db, station, model, inspector, watch is not None) as keeper,
            progress_bar("inspecting", None if files is None else len(files), "pictures") as bar,
        ):
            inspector = dataclasses.replace(inspector, progress=lambda row, of: bar.at(bar.done, note=f"row {row} of {of}"))
            chosen = source if files is None else files
            wanted.folder, wanted.thumbnails = folder, wanted.thumbnails and folder is not None
            try:
                for row in rows.judge_all(inspector, chosen, write, tally, wanted, say_aside, keeper):
                    bar.more()
                    if source.watching and out is not None:
                        say(_verdict_line(row))
            except KeyboardInterrupt:
                if not source.watching:  # the way to end a watch
                    raise
    except KeyboardInterrupt:
        fail(
            f"Interrupted; {tally.count} judged, the rows so far are {place}."
            if tally.count
            else "Interrupted before the first picture was judged."
        )
    faults = tally.faults(source.missed)
    page = _page(out, wanted, rows.rows_file(form), _title(model, paths))
    if out is not None or source.watching:
        drawn = sum(bool(card.overlay) for card in wanted.cards)
        places = [f"rows are {place}"]
        places += [f"{drawn} overlays in {out / 'overlays'}"] if out is not None and drawn else []
        places += [f"pictures in {page}"] if page is not None else []
        say(f"{tally}; {'; '.join(places)}", err=out is None)
    else:
        hint(str(tally))
    write_json({**tally.as_dict(), "model_id": inspector.about["model_id"], "rows": str(out) if out else ""})
    if faults:
        fail(faults)
    if any(tally.verdicts[verdict] for verdict in FAILS.get(fail_on or "", ())):
        sys.exit(NG_FOUND)


def _check_copies(copy_ng: Path, paths: Sequence[Path | str]) -> None:
    """Raises ConfigError where the copies would lie among the pictures, and count as parts the next time."""
    around = [
        path
        for path in paths
        if isinstance(path, Path) and path.is_dir() and copy_ng.resolve().is_relative_to(path.resolve())
    ]
    if around:
        raise ConfigError(
            f"--copy-ng {copy_ng} lies in {around[0]}, whose pictures are all judged: the copies would count as other parts "
            "the next time; give a folder elsewhere."
        )


@contextmanager
def _keeper(db: str | None, station: str, model: Path, inspector: Any, once: bool) -> Iterator[Any]:
    """What judges a path and records the verdict; None without --db."""
    if db is None:
        yield None
        return
    need_serve()
    from flawforge.serve.shelf import opened
    from flawforge.serve.watching import Keeper
    from flawforge.store.opening import open_store
    from flawforge.store.verdicts import check_text

    check_text("station", station)
    with open_store(db) as store:
        served = opened(model, model.resolve().name, inspector)
        yield Keeper(store, served, station=station, keep="rejects", sample_every=SAMPLE_EVERY, once=once, say=say_aside)


def _opened(
    model: Path,
    device: str,
    backend: str | None,
    threads: int | None,
    max_pixels: int,
    changes: dict[str, Any],
    rules: dict[str, Any],
) -> Any:
    """The Inspector with the limits that were given; those of `changes` that are None are the model's own."""
    import dataclasses

    from flawforge.judging.loading import load

    loaded = load(model, device=device, backend=backend, threads=threads)
    note_version(model)
    inspector = dataclasses.replace(loaded, max_pixels=max_pixels)
    changes = {**changes, "rules": rules_of(inspector.calibration, **rules)}
    if inspector.calibration is not None and any(value is not None for value in changes.values()):
        inspector = inspector.with_calibration(inspector.calibration.moved(**changes))
    return inspector


def _verdict_line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"not judged  {row['image_path']}"
    return f"{row['verdict']:<6}  {row['pred_score']:.4g} ({row['score_normalised']:.3f})  {row['image_path']}"


def _title(model: Path, paths: tuple[Any, ...]) -> str:
    """The model's name and those of the folders; a path in full would fill a phone's screen."""
    names = [Path(str(path)).name or str(path) for path in paths]
    return f"{model.resolve().name}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _page(out: Path | None, wanted: Any, results: str, title: str) -> Path | None:
    """Write index.html where there are pictures for it; a page that cannot be written is said, and costs no row."""
    if out is None or not wanted.cards:
        return None
    from flawforge.reporting.index import write_index

    try:
        return write_index(out, wanted.cards, results, title)
    except OSError as error:
        say_aside(f"index.html could not be written: {error.strerror or error}")
        return None


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@option("-o", "--out", required=True, type=NEW, help="Folder to write; must not exist.")
@option("--to", required=True, type=click.Choice(["onnx", "openvino"]), help="Backend that will judge.")
@option("--int8", is_flag=True, help="Use 8-bit weights and activations: faster, but scores change.")
@option(
    "--good",
    type=FILE,
    help="Good pictures for the comparison. [default: those that fit held back, if they still exist]",
)
@option(
    "--pictures",
    default=64,
    show_default=True,
    type=Number(whole=True, least=64),
    section="Advanced",
    help="Number of pictures to compare, half of them with synthetic defects; at least 64.",
)
@option(
    "--max-flips",
    default=0.02,
    show_default=True,
    type=Share(ends=True),
    section="Advanced",
    help="With --int8: share of verdicts that may change.",
)
@with_seed
def export(model: Path, out: Path, to: str, **options: Any) -> None:
    """Write MODEL as a folder that judges without torch, after checking that it gives the same verdicts.

    Both judge good pictures and pictures with synthetic defects. A float32 export is refused if one verdict changes; nothing
    is written then.
    """
    from flawforge.judging.export import export as write_export

    with progress_bar("exporting", 2 + options["int8"] + (to == "openvino"), "steps") as bar:
        result = write_export(model, out, to, progress=bar.more, **options)
    tell(result)
    next_steps(f"flawforge-runtime {quoted(out)} PICTURES", f"flawforge inspect {quoted(out)} PICTURES")


@click.command(cls=Command)
@click.argument("model", type=PATH)
@click.argument("paths", nargs=-1, required=True, type=PATH)
@option(
    "--repeats",
    default=200,
    show_default=True,
    type=Number(whole=True, least=20),
    help="Number of judgements to time; at least 20.",
)
@with_threads
def bench(model: Path, paths: tuple[Path, ...], repeats: int, threads: int | None) -> None:
    """Measure the speed of MODEL, a model or an export: file to verdict, memory, start-up.

    PATHS are pictures or folders of pictures.
    """
    if str(model) == "speed" and not model.exists() and len(paths) > 1:  # as it was called once: bench speed MODEL PATHS
        model, paths = paths[0], paths[1:]
    MODEL.check(model)
    files = pictures(paths)
    from flawforge.judging import speed

    with counter("timing") as show:
        result = speed.measure(model, files, repeats=repeats, threads=threads, progress=show)
    tell(result)
