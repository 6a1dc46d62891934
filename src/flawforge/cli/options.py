"""What several commands share: options, progress, and how an error reaches a person."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flawforge.types import ConfigError, FlawforgeError
from flawforge_runtime.names import shown

MAX_PIXELS = 100_000_000  # as images.MAX_PIXELS


class Group(click.Group):
    """Every error that we foresee is one sentence on standard error and exit code 1; usage errors are click's code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal has no letters for must not end a run
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings.catch_warnings():
                # What a decoder remarks on a file names no file, and comes between the rows; what matters is in `notes`.
                warnings.filterwarnings("ignore", module=r"PIL\.")
                return super().invoke(ctx)
        except FlawforgeError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("Interrupted before it was done.")
        except BrokenPipeError:  # the reader has seen enough, as `head` does: click ends quietly
            raise
        except OSError as error:
            fail(_disk_sentence(error))


def say(line: str, err: bool = False) -> None:
    """Print one line for people; what a file's name may hold does not reach the terminal raw."""
    click.echo(shown(line), err=err)


def say_aside(line: str) -> None:
    """As `say`, on standard error, above a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(shown(line), file=sys.stderr)


def tell(result: Any, json_file: Path | None = None) -> None:
    """Print a result of the library, and write it where --json names a file."""
    if unsaved := getattr(result, "unsaved", ""):
        say(f"  {unsaved}", err=True)
    if json_file is not None:
        from flawforge.reporting.kept import write_json

        write_json(json_file, result.as_dict())
    for line in result.lines():
        say(line)


def fail(sentence: str) -> None:
    say(f"flawforge: {sentence}", err=True)
    sys.exit(1)


def pictures(paths: Iterable[Path]) -> list[Path]:
    """The pictures in PATHS; what is left out is said. Raises DataError where there is none."""
    from flawforge_runtime.feed import Source

    return list(Source(paths, say=say_aside))


def _disk_sentence(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is full{place}; nothing half-written was left: free some space and run the command again."
    return f"{error.strerror or error}{place}; check that the path exists and that you have access to it."


def with_max_pixels(command: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option(
        "--max-pixels", default=MAX_PIXELS, show_default=True, help="Refuse larger pictures without reading them."
    )
    return option(command)


def with_rates(command: Callable[..., Any]) -> Callable[..., Any]:
    alarm = click.option(
        "--false-alarm",
        type=float,
        help="False-alarm rate: share of good parts that may be judged NG. [default: 0.01, or "
        "the lowest rate that the held-back pictures support]",
    )
    review = click.option(
        "--review",
        type=float,
        help="Share of good parts that may be judged NG or REVIEW. [default: 0.05, or the lowest that is supported]",
    )
    confidence = click.option(
        "--confidence",
        type=float,
        help="Probability with which the rates hold, for example 0.95; else on average. Needs more pictures.",
    )
    return alarm(review(confidence(command)))


class Share(click.ParamType):
    """A share in (0, 1), as 0.05 or as 5%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            self.fail(
                f"{value} was given; give a share between 0 and 1, such as 0.05, or a percentage such as 5%.", param, ctx
            )
        return share


def with_acceptance(command: Callable[..., Any]) -> Callable[..., Any]:
    alarms = click.option(
        "--accept-false-alarms",
        type=Share(),
        help="Highest acceptable share of good parts judged NG, such as 2%. The result is PASS, FAIL or NOT ENOUGH DATA by "
        "the 95 % interval of the measured share; exit code 0, 6 or 5.",
    )
    escapes = click.option(
        "--accept-escapes",
        type=Share(),
        help="Highest acceptable share of defective parts not judged NG; the same.",
    )
    return alarms(escapes(command))


def with_rules(command: Callable[..., Any]) -> Callable[..., Any]:
    area = click.option("--min-area", type=float, help="Ignore marked regions smaller than this: px, or mm2 with --scale.")
    count = click.option(
        "--max-count",
        type=int,
        help="Judge a part OK if it has at most this many regions of at least --min-area. [default: 0]",
    )
    scale = click.option("--scale", type=float, help="Width of a pixel in millimetres.")
    return area(count(scale(command)))


def rules_of(calibration: Any, min_area: float | None, max_count: int | None, scale: float | None) -> Any:
    """The model's rules with what was given; None where nothing was."""
    from flawforge_runtime.calibrate import Rules

    if min_area is None and max_count is None:
        if scale is not None:
            raise ConfigError(f"--scale {scale:g} was given without a rule to measure by; add --min-area.")
        return None
    old = calibration.rules if calibration is not None else Rules()
    area = old.min_area if min_area is None else min_area
    return Rules(area, old.max_count if max_count is None else max_count, old.mm_per_pixel if scale is None else scale)


with_group_by = click.option(
    "--group-by",
    metavar="REGEX",
    help="Pictures whose FOLDER/NAME gives the same match belong to one part: held back together, counted once. "
    "[default: the CSV's column group]",
)


with_device = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where the network runs."
)


def with_backend(command: Callable[..., Any]) -> Callable[..., Any]:
    backend = click.option(
        "--backend",
        type=click.Choice(["torch", "onnx", "openvino"]),
        help="Must be the backend that MODEL was exported to. [default: the one in MODEL]",
    )
    threads = click.option("--threads", type=int, help="Threads of the network, at most the number of cores. [default: all]")
    return backend(threads(command))


with_seed = click.option("--seed", default=0, show_default=True, help="Seed of all random draws.")


@contextmanager
def progress_bar(label: str, total: float | None, unit: str) -> Iterator[Any]:
    from tqdm import tqdm

    # Without a terminal a bar is a log: one line in half a minute is enough.
    quiet = {} if sys.stderr.isatty() else {"mininterval": 30.0, "maxinterval": 30.0}
    with tqdm(total=total, desc=label, unit=unit, dynamic_ncols=True, **quiet) as bar:
        yield bar


@contextmanager
def counter(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, all) shown as a bar with an ETA."""
    with progress_bar(label, 1, "") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
