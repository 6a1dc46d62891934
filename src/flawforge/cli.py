"""Thin commands: parse, call the library, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flawforge import __version__
from flawforge.types import ConfigError, Decision, FlawforgeError

METHOD = "auto"  # as fitting.METHOD; both are repeated so that --help imports neither OpenCV nor torch (tested)
MAX_PIXELS = 100_000_000  # as images.MAX_PIXELS


class _Group(click.Group):
    """Every error that we foresee is one sentence on standard error and exit code 1; usage errors are click's code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlawforgeError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("Interrupted; what was finished is kept, and a fit goes on with the same command and --resume.")
        except OSError as error:
            _fail(_disk_sentence(error))


def _fail(sentence: str) -> None:
    click.echo(f"flawforge: {sentence}", err=True)
    sys.exit(1)


def _disk_sentence(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is full{place}; nothing half-written was left: free some space and run the command again."
    return f"{error.strerror or error}{place}; check that the path exists and that you may use it."


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="flawforge")
def main() -> None:
    """Train on good parts. Forge the flaws. Find the real ones.

    A higher score is stranger. Every command works without a network.
    """


def _max_pixels(command: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option("--max-pixels", default=MAX_PIXELS, show_default=True, help="Refuse larger pictures unread.")
    return option(command)


def _rates(command: Callable[..., Any]) -> Callable[..., Any]:
    alarm = click.option("--false-alarm", type=float, help="Share of good parts that may be judged NG. [default: 0.01, or "
                         "the strictest rate that the held-back pictures can promise]")  # fmt: skip
    review = click.option("--review", type=float, help="Share of good parts that may be judged NG or REVIEW. [default: "
                          "0.05, or the strictest that can be promised]")  # fmt: skip
    confidence = click.option("--confidence", type=float, help="Keep the rates with this probability, for example 0.95, "
                              "and not only on average; it takes more pictures.")  # fmt: skip
    return alarm(review(confidence(command)))


def _rules(command: Callable[..., Any]) -> Callable[..., Any]:
    area = click.option("--min-area", type=float, help="Marked regions of less are not counted: px, or mm2 with --scale.")
    count = click.option("--max-count", type=int, help="A part with so many counted regions, or fewer, is OK. [default: 0]")
    scale = click.option("--scale", type=float, help="Millimetres of one pixel.")
    return area(count(scale(command)))


def _rules_of(calibration: Any, min_area: float | None, max_count: int | None, scale: float | None) -> Any:
    """The model's rules with what was given; None where nothing was."""
    from flawforge_runtime.calibrate import Rules

    if min_area is None and max_count is None:
        if scale is not None:
            raise ConfigError(f"--scale {scale:g} was given without a rule to measure by; add --min-area.")
        return None
    old = calibration.rules if calibration is not None else Rules()
    area = old.min_area if min_area is None else min_area
    return Rules(area, old.max_count if max_count is None else max_count, old.mm_per_pixel if scale is None else scale)


_group_by = click.option("--group-by", metavar="REGEX", help="Pictures of one part share what this finds in FOLDER/NAME; "
                         "parts are then held back whole and counted once. [default: the CSV's column group]")  # fmt: skip


_device = click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]),
                       help="Where the network runs.")  # fmt: skip


def _backend(command: Callable[..., Any]) -> Callable[..., Any]:
    backend = click.option("--backend", type=click.Choice(["torch", "onnx", "openvino"]), help="Must be what MODEL was "
                           "exported to. [default: what MODEL holds]")  # fmt: skip
    threads = click.option("--threads", type=int, help="Threads of the network, at most the cores. [default: all]")
    return backend(threads(command))


_seed = click.option("--seed", default=0, show_default=True, help="Every random draw follows from it.")


@contextmanager
def _bar(label: str, total: float | None, unit: str) -> Iterator[Any]:
    from tqdm import tqdm

    # Without a terminal a bar is a log: one line in half a minute is enough.
    quiet = {} if sys.stderr.isatty() else {"mininterval": 30.0, "maxinterval": 30.0}
    with tqdm(total=total, desc=label, unit=unit, dynamic_ncols=True, **quiet) as bar:
        yield bar


@contextmanager
def _counter(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, all) shown as a bar with an ETA."""
    with _bar(label, 1, "") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Model folder to write; must not exist.")
@click.option("--method", default=METHOD, show_default=True, help="See `flawforge methods`.")
@click.option("--profile", default="", help="A method's settings by name, such as cpu or paper. [default: cpu]")
@click.option("--minutes", type=float, help="Training time, where a method trains. [default: 10, or its schedule]")
@click.option("--steps", type=int, help="Training steps instead of minutes; repeatable to the bit.")
@click.option("--size", default=256, show_default=True, help="Working size: a canvas of about SIZE x SIZE pixels.")
@click.option("--tile", type=int, help="Cut large pictures into tiles of so many of their pixels; each becomes a canvas.")
@click.option("--roi", type=click.Path(path_type=Path), help="Mask picture, white = judged.")
@click.option("--textures", type=click.Path(path_type=Path), help="Folder of pictures to forge textures from.")
@click.option("--init", type=click.Path(path_type=Path), help="Start from a model folder, a .safetensors file of outside "
              "weights, or timm:NAME, for methods that can.")  # fmt: skip
@_rates
@click.option("--holdout", default="0.2", show_default=True, help="Share of good pictures held back for calibration, or a "
              "file name pattern such as 'batch7*'.")  # fmt: skip
@_group_by
@click.option("--folds", type=int, help="For few pictures: learn from all and calibrate on all, by so many fits more, each "
              "of the same length; a weaker promise than a hold-out's.")  # fmt: skip
@click.option("--tolerate", default="", metavar="KINDS", help="Variation that good parts may show although the pictures do "
              "not: all, or any of brightness,turn,shift,jpeg,blur. It is learnt, and costs sensitivity.")  # fmt: skip
@_seed
@click.option("--workers", default=1, show_default=True, help="Threads that forge ahead; changes speed, never results.")
@_device
@click.option("--devices", default=1, show_default=True, help="Number of devices; only 1 is built so far.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with method settings; --set wins over it.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="One method setting; may be given several times.")
@click.option("--resume", is_flag=True, help="Go on with a fit that was stopped; give the same options as before.")
@click.option("--checkpoint-every", default=60.0, show_default=True, help="Seconds between checkpoints.")
@click.option("--dry-run", is_flag=True, help="Check the data, forecast time and memory, and stop.")
@_max_pixels
def fit(data: Path, out: Path, pairs: tuple[str, ...], config: Path | None, holdout: str, devices: int, resume: bool,
        dry_run: bool, folds: int | None, **options: Any) -> None:  # fmt: skip
    """Learn good parts from DATA and write a calibrated model.

    DATA is a folder in MVTec layout (only train/good is read), a plain folder of good pictures, or a CSV with image_path.
    """
    if devices != 1:
        raise ConfigError(f"--devices was given as {devices}; only 1 is built so far.")
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
    _fit(request, resume, dry_run)


def _fit_in_folds(request: Any, folds: int) -> None:
    from flawforge.folds import run

    with _counter(f"{folds} fits and the last one") as count:
        inspector = run(request, folds, show=lambda line: click.echo(f"  {line}"), on_fold=count)
    _say_promise(inspector.calibration)
    click.echo(f"model: {request.out}")


def _fit(request: Any, resume: bool = False, dry_run: bool = False) -> Any:
    from flawforge import fitting

    with _counter("checking data") as show:
        plan = fitting.plan(request, progress=show)
    for line in (*plan.report.lines(), *plan.notes):
        click.echo(f"  {line}")
    canvas = "{} x {} (h x w)".format(*plan.canvas)
    click.echo(f"  {len(plan.train)} to train on, {len(plan.held)} held back; canvas {canvas}")
    pictures = fitting.load_pictures(plan)
    for line in fitting.forecast(plan, pictures).lines():
        click.echo(f"  {line}")
    if dry_run:
        return None
    with _bar(request.method, 100, "%") as bar:
        bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"

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
            request, resume=resume, made=plan, pictures=pictures, show=lambda line: bar.write(f"  {line}"), on_tick=on_tick
        )
    _say_promise(inspector.calibration)
    click.echo(f"model: {request.out}")
    return inspector


def _say_promise(calibration: Any) -> None:
    of = "parts" if calibration.per_part else "pictures"
    sure = "" if calibration.confidence is None else f" with {calibration.confidence:.4g} confidence"
    if calibration.folds:
        sure = f" in {calibration.folds} folds, which is weaker than a hold-out,"
    click.echo(
        f"promised{sure} from {calibration.n} held-back good {of}: at most {calibration.false_alarm:.2%} of good parts NG "
        f"(score above {calibration.threshold:.4g}), at most {calibration.review:.2%} NG or REVIEW "
        f"(score above {calibration.review_threshold:.4g}); a higher score is stranger"
    )


def _share_or_pattern(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path))
@_rates
@_group_by
@_rules
@_device
@_backend
def calibrate(model: Path, good: Path, false_alarm: float | None, review: float | None, confidence: float | None,
              group_by: str | None, device: str, backend: str | None, threads: int | None,
              **rules: Any) -> None:  # fmt: skip
    """Set MODEL's thresholds anew from GOOD pictures that it was not trained on.

    Rules take a verdict back to OK where too few regions are marked; they never break the promise, and may raise escapes.
    """
    from flawforge import fitting
    from flawforge_runtime import bundle

    calibration, notes = fitting.recalibrate(
        model, good, false_alarm, review, confidence=confidence, group_by=group_by, device=device, backend=backend,
        threads=threads, rules=_rules_of(bundle.read(model).calibration, **rules),
    )  # fmt: skip
    for note in notes:
        click.echo(f"  {note}")
    _say_promise(calibration)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for results and overlays. [default: print rows]")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="Row format. [default: csv, and jsonl for - and "
              "--watch]")  # fmt: skip
@click.option("--overlays", is_flag=True, help="Also write each picture with its heat map and marked regions; needs -o.")
@click.option("--threshold", type=float, help="NG above this score, instead of MODEL's own threshold.")
@click.option("--false-alarm", type=float, help="Another promised share of NG among good parts. [default: MODEL's own]")
@click.option("--review", type=float, help="Another promised share of NG or REVIEW. [default: MODEL's own]")
@click.option("--confidence", type=float, help="Keep the rates with this probability. [default: as MODEL does]")
@_rules
@click.option("--watch", type=click.Path(path_type=Path), help="Judge pictures as they come to lie in this folder, until "
              "Ctrl-C.")  # fmt: skip
@_device
@_backend
@_max_pixels
def inspect(model: Path, paths: tuple[Path, ...], out: Path | None, form: str | None, overlays: bool, watch: Path | None,
            device: str, backend: str | None, threads: int | None, max_pixels: int, threshold: float | None,
            false_alarm: float | None, review: float | None, confidence: float | None, **rules: Any) -> None:  # fmt: skip
    """Judge PATHS (pictures or folders) with MODEL: OK, REVIEW or NG, one row each.

    A path of - reads paths from standard input, one a line, and gives a JSON line for each as it comes. Rates, threshold
    and rules are MODEL's own unless given here; the raw score is in every row whatever they are. A file that cannot be
    read is named and the rest goes on; the exit code is then 1.
    """
    if overlays and out is None:
        raise ConfigError("--overlays was given without a folder to write to; add -o FOLDER.")
    if not paths and watch is None:
        raise ConfigError("No picture was given; give pictures, folders, - for paths from standard input, or --watch.")
    import dataclasses

    from flawforge import rows
    from flawforge.loading import load
    from flawforge_runtime.feed import row
    from flawforge_runtime.inspector import inspect_paths

    opened = load(model, device=device, backend=backend, threads=threads)
    inspector = dataclasses.replace(opened, max_pixels=max_pixels)
    moves: dict[str, Any] = {"false_alarm": false_alarm, "review": review, "confidence": confidence, "threshold": threshold}
    moves["rules"] = _rules_of(inspector.calibration, **rules)
    if inspector.calibration is not None and any(value is not None for value in moves.values()):
        inspector = inspector.with_calibration(inspector.calibration.moved(**moves))
    live = watch is not None or Path("-") in paths
    known = [] if live else rows.pictures_of(paths)
    files = rows.streamed(paths, watch, sys.stdin) if live else known
    form = form or ("jsonl" if live else "csv")
    done, failed = 0, 0
    progress = _bar("inspecting", None if live else len(known), "picture")
    with rows.open_results(out, form) as (write, folder), progress as bar:
        inspector = dataclasses.replace(inspector, progress=lambda row, of: bar.set_postfix_str(f"row {row} of {of}"))
        for result in inspect_paths(inspector, files):
            bar.update()
            done += 1
            if isinstance(result, Decision):
                write(row(result, inspector.about["model_id"]))
                if overlays and folder is not None:
                    rows.write_overlay(folder, result, inspector, max_pixels)
                continue
            failed += 1
            bar.write(f"skipped: {result[1]}", file=sys.stderr)
            if live and form == "jsonl":
                write({"image_path": str(result[0]), "error": result[1]})
    if failed:
        _fail(f"{failed} of {done} files could not be judged; they are named above, the rest is done.")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every number to this file.")
@_seed
@_device
@_backend
def evaluate(model: Path, data: Path, json_file: Path | None, seed: int, **how: Any) -> None:
    """Judge DATA's labelled test pictures with MODEL and print what it is worth, with 95 % intervals.

    Nothing is fitted on them; the thresholds are the model's own.
    """
    from flawforge.loading import load
    from flawforge.overlays import write_json

    inspector = load(model, **how)
    result = _evaluate(inspector, model, data, seed)
    if json_file is not None:
        write_json(json_file, result)
    for line in _result_lines(result):
        click.echo(line)


def _evaluate(inspector: Any, model: Path, data: Path, seed: int) -> dict[str, Any]:
    from flawforge.data import read_entries
    from flawforge.evaluate import draw_telling, save_evaluation
    from flawforge.evaluate import evaluate as judge_all

    entries = read_entries(data)
    with _counter("evaluating") as show:
        result = judge_all(inspector, entries, seed=seed, progress=show)
    try:
        save_evaluation(model, result, draw_telling(inspector, entries, result))
    except PermissionError:
        click.echo(f"  {model} cannot be written to, so the report will not show this evaluation", err=True)
    return result


def _estimate(estimate: dict[str, float | None] | None) -> str:
    if not estimate or estimate["value"] is None:
        return "n/a"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _result_lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['counts']['good']} good and {result['counts']['defective']} defective pictures"]
    for group in ("image", "pixel"):
        for name, estimate in (result[group] or {}).items():
            if isinstance(estimate, dict) and "value" in estimate:
                lines.append(f"  {group + ' ' + name:<22}{_estimate(estimate)}")
    point = result["operating_point"]
    lines.append(f"  {'false-alarm rate':<22}{_estimate(point['false_alarm_rate'])}")
    lines.append(f"  {'escape rate':<22}{_estimate(point['escape_rate'])}")
    return lines


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every number to this file.")
@click.option("--kind", "kinds", multiple=True, metavar="NAME", help="Forger of controlled size; several times if you like. "
              "[default: six physical ones, without the families that MODEL was trained on]")  # fmt: skip
@click.option("--contrast", "contrasts", multiple=True, type=float, help="Tone change, share of the full range; several "
              "times if you like. [default: 0.1 and 0.3]")  # fmt: skip
@click.option("--sizes", nargs=2, type=float, help="Smallest and largest defect, in px, or mm with --scale. [default: "
              "1.2 % to 30 % of the picture's shorter side]")  # fmt: skip
@click.option("--count", default=48, show_default=True, help="Forgeries per kind and contrast; 29 are the least that can "
              "show 90 % with 95 % confidence.")  # fmt: skip
@click.option("--scale", type=float, help="Millimetres of one pixel; sizes are then given and reported in mm.")
@_seed
@_device
def pod(model: Path, good: Path, json_file: Path | None, seed: int, device: str, **wanted: Any) -> None:
    """Forge defects of known size into GOOD pictures and say how small a one MODEL finds.

    Pictures that MODEL was trained on are left out, so the folder that `fit` was given will do: its held-back pictures are
    used. The result is forged-defect POD with 95 % bounds; "not reached" is said instead of a number.
    """
    from flawforge.loading import load
    from flawforge.overlays import write_json

    result = _pod(load(model, device=device), model, good, seed, **wanted)
    if json_file is not None:
        write_json(json_file, result)
    for line in _pod_lines(result):
        click.echo(line)


def _pod(inspector: Any, model: Path, good: Path, seed: int, kinds: tuple[str, ...] = (),
         contrasts: tuple[float, ...] = (), sizes: tuple[float, float] | None = None, count: int = 48,
         scale: float | None = None) -> dict[str, Any]:  # fmt: skip
    from flawforge.data import good_entries, read_entries
    from flawforge.pod import forgers_of, prove, save_proof, unseen
    from flawforge.proof import CONTRASTS, Recipe, held_out_kinds

    config = inspector.content.config
    entries = read_entries(good)
    paths = [entry.path for entry in good_entries(entries) or [entry for entry in entries if entry.label == 0]]
    paths, seen = unseen(paths, config)
    if seen:
        click.echo(f"  {seen} pictures that the model was trained on are left out, {len(paths)} remain")
    trained_on = forgers_of(config)
    if sizes is not None:
        sizes = (sizes[0] / (scale or 1.0), sizes[1] / (scale or 1.0))
    recipe = Recipe(kinds or held_out_kinds(trained_on), contrasts or CONTRASTS, sizes, count, seed)
    with _counter("proving") as show:
        result, shown = prove(inspector, paths, recipe, trained_on=trained_on, scale=scale, progress=show)
    result["trained_pictures_left_out"] = seen
    try:
        save_proof(model, result, shown)
    except PermissionError:
        click.echo(f"  {model} cannot be written to, so the report will not show this proof", err=True)
    return result


def _pod_lines(result: dict[str, Any]) -> list[str]:
    alarm = result["false_alarm"]
    lines = [f"forged-defect POD at a promised false-alarm rate of {alarm['promised']:.2%}, {result['goods']} good pictures"]
    if alarm["n"]:
        lines.append(f"  false alarms on the {alarm['n']} not calibrated on: {_estimate(alarm['measured'])}")
    lines.append(f"  {'kind':<12}{'contrast':>9}{'found':>9}{'a50':>12}{'a90':>12}{'a90/95':>12}")

    def size(value: float | None) -> str:
        return "not reached" if value is None else f"{value:.3g} {result['unit']}"

    for row in result["curves"]:
        found = f"{row['hits']}/{row['n']}"
        a50, a90, bound = (size(row[key]) for key in ("a50", "a90", "a90_95"))
        lines.append(f"  {row['kind']:<12}{row['contrast']:>9g}{found:>9}{a50:>12}{a90:>12}{bound:>12}")
    return lines


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every number to this file.")
@click.option("--alarm", default=0.01, show_default=True, help="Probability of a false alarm, however long one watches.")
@click.option("--defects", default=0.1, show_default=True, help="Share of defective parts that is normal on this line.")
@click.option("--group-by", metavar="REGEX", help="Pictures of one part share what this finds in FOLDER/NAME.")
@_seed
@_device
def drift(model: Path, paths: tuple[Path, ...], json_file: Path | None, alarm: float, defects: float,
          group_by: str | None, seed: int, device: str) -> None:  # fmt: skip
    """Are PATHS (parts in use, in their order) still like the good parts that MODEL was calibrated on?

    Folders are taken in the order of their file names. The report of MODEL shows the last check.
    """
    from flawforge.drift import watch
    from flawforge.listing import Entry, part_of
    from flawforge.loading import load
    from flawforge.overlays import save_album, write_json
    from flawforge.rows import pictures_of

    files = pictures_of(paths)
    parts = part_of([Entry(path) for path in files], group_by) if group_by is not None else None
    inspector = load(model, device=device)
    with _counter("watching") as show:
        result = watch(inspector, files, alarm=alarm, defects=defects, parts=parts, seed=seed, progress=show)
    try:
        save_album(model, "drift", result)
    except PermissionError:
        click.echo(f"  {model} cannot be written to, so the report will not show this check", err=True)
    if json_file is not None:
        write_json(json_file, result)
    click.echo(("DRIFT: " if result["alarm"] else "") + result["text"])


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", default=Path("report.html"), show_default=True, type=click.Path(path_type=Path),
              help="The page to write.")  # fmt: skip
def report(model: Path, out: Path) -> None:
    """Write MODEL's report: one self-contained HTML page, with pictures where `evaluate` was run."""
    from flawforge.report import write_report

    click.echo(f"report: {write_report(model, out)}")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
@click.option("--to", required=True, type=click.Choice(["onnx", "openvino"]), help="What will judge.")
@click.option("--int8", is_flag=True, help="Weights and activations in 8 bits: faster, and no longer the same scores.")
@click.option("--good", type=click.Path(path_type=Path), help="Good pictures to compare on. [default: those that fit held "
              "back, where they still are]")  # fmt: skip
@click.option("--pictures", default=64, show_default=True, help="How many to compare, half of them forged; at least 64.")
@click.option("--max-flips", default=0.02, show_default=True, help="With --int8: share of verdicts that may change.")
@_seed
def export(model: Path, out: Path, to: str, **options: Any) -> None:
    """Write MODEL as a folder that judges without torch, after proving that it judges alike.

    Good and forged pictures are judged by both. In float32 one changed verdict refuses the export, and nothing is written.
    """
    from flawforge.export import export as write_export

    with _bar("exporting", 2 + options["int8"] + (to == "openvino"), "step") as bar:

        def step(name: str) -> None:
            bar.update()
            bar.set_postfix_str(name)

        parity = write_export(model, out, to, progress=step, **options)
    for line in parity.lines():
        click.echo(f"  {line}")
    if options["int8"] and parity.flips:
        click.echo(f"  first flip: {parity.flips[0]}; `flawforge calibrate {out} GOOD` sets the thresholds anew for int8")
    click.echo(f"export: {out}")


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
@click.option("--forger", "forgers", multiple=True, metavar="NAME", help="See `flawforge forgers`. [default: all]")
@click.option("--count", default=16, show_default=True, help="Forgeries per forger.")
@click.option("--textures", type=click.Path(path_type=Path), help="Folder of pictures to forge textures from.")
@_seed
def forge(data: Path, out: Path, forgers: tuple[str, ...], count: int, textures: Path | None, seed: int) -> None:
    """Forge defects into DATA's good pictures: pictures, masks and a contact sheet per forger."""
    from flawforge.data import good_entries, read_entries
    from flawforge.forge import FORGERS
    from flawforge.listing import textures_in
    from flawforge.preview import forge_preview

    with _bar("forging", len(forgers) or len(FORGERS), "forger") as bar:

        def turn(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        forge_preview(
            good_entries(read_entries(data)), out, forgers or None,
            count=count, seed=seed, textures=textures_in(textures), progress=turn,
        )  # fmt: skip
    click.echo(f"forgeries: {out}")


@main.command()
@click.argument("what", metavar="WHAT", type=click.Choice(["speed"]))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--repeats", default=200, show_default=True, help="Judgements to time; at least 20.")
@click.option("--threads", type=int, help="Threads of the network, at most the cores. [default: all]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write every number to this file.")
def bench(what: str, model: Path, paths: tuple[Path, ...], repeats: int, threads: int | None,
          json_file: Path | None) -> None:  # fmt: skip
    """Measure; WHAT is speed: MODEL, a model or an export, on PATHS from file to verdict, memory, and the cold start."""
    from flawforge import rows, speed
    from flawforge.overlays import write_json

    files = rows.pictures_of(paths)
    with _counter(what) as show:
        result = speed.measure(model, files, repeats=repeats, threads=threads, progress=show)
    if json_file is not None:
        write_json(json_file, result)
    for line in speed.lines(result):
        click.echo(line)


@main.command()
def methods() -> None:
    """List the methods and their profiles."""
    from flawforge.methods import METHODS

    for method in METHODS.values():
        click.echo(f"{method.name:<12}{method.title} [{', '.join(method.profiles)}]\n{'':<12}{method.paper}")


@main.command()
def forgers() -> None:
    """List the forgers and what each one does."""
    from flawforge.forge import FORGERS

    for name, kind in FORGERS.items():
        click.echo(f"{name:<18}{(kind.__doc__ or '').strip().splitlines()[0]}")


@main.command()
def doctor() -> None:
    """Say what this machine has, and whether flawforge can work on it."""
    from flawforge.doctor import examine

    healthy, lines = examine()
    for line in lines:
        click.echo(line)
    if not healthy:
        sys.exit(1)


@main.command()
@click.option("-o", "--out", default=Path("flawforge-demo"), show_default=True, type=click.Path(path_type=Path),
              help="Folder to write; must not exist.")  # fmt: skip
@click.option("--good", default=495, show_default=True, help="Good parts to learn from; a fifth is held back, and 99 of "
              "those promise 1 %.")  # fmt: skip
@click.option("--method", default=METHOD, show_default=True, help="See `flawforge methods`.")
@click.option("--minutes", default=1.5, show_default=True, help="Training time, for methods that train.")
@click.option("--count", default=48, show_default=True, help="Forgeries per kind and contrast to prove the model with.")
@_seed
def demo(out: Path, good: int, method: str, minutes: float, count: int, seed: int) -> None:
    """Render sample parts, fit, calibrate, evaluate, prove and report; no network, no data needed."""
    from flawforge.fitting import Request, check_output
    from flawforge.report import write_report
    from flawforge.washers import write_demo_parts

    check_output(out, resume=False)
    with _counter("rendering washers") as show:
        write_demo_parts(out / "parts", good=good, seed=seed, progress=show)
    model = out / "model"
    inspector = _fit(Request(out / "parts", model, method=method, minutes=minutes, seed=seed))
    result = _evaluate(inspector, model, out / "parts", seed)
    for line in (*_result_lines(result), *_pod_lines(_pod(inspector, model, out / "parts", seed, count=count))):
        click.echo(line)
    click.echo(f"open {write_report(model, out / 'report.html').resolve()}")
