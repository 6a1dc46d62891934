"""What several commands share: options, the kinds of values they take, and how an error reaches a person."""

from __future__ import annotations

import difflib
import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from flawforge.cli import recipe
from flawforge.cli.output import EVERYWHERE, fail, output, say_aside
from flawforge.types import ConfigError, DataError, FlawforgeError, ModelError

MAX_PIXELS = 100_000_000  # as images.MAX_PIXELS
ERROR, USAGE, NG_FOUND, DRIFTED = 1, 2, 3, 4  # exit codes; the report's criteria have 5 and 6
SECTIONS = ("Options", "Limits", "Cluster", "Advanced", "Output")


class Option(click.Option):
    """An option that stands in a section of --help: one of SECTIONS."""

    def __init__(self, *names: Any, section: str = "Options", **how: Any) -> None:
        super().__init__(*names, **how)
        self.section = section


def option(*names: str, **how: Any) -> Callable[..., Any]:
    """As click.option, with `section`."""
    return click.option(*names, cls=Option, **how)


class Command(click.Command):
    """A command whose --help has sections, and that takes the options of EVERYWHERE."""

    def __init__(self, *arguments: Any, **how: Any) -> None:
        super().__init__(*arguments, **how)
        self.params += [Option(names, section="Output", expose_value=False, **fixed) for names, fixed in EVERYWHERE]
        reads: dict[str, Any] = {"type": PATH, "callback": recipe.read, "is_eager": True, "help": recipe.HELP}
        self.params.append(Option(["--recipe"], metavar="FILE", section="Advanced", expose_value=False, **reads))

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Both, whatever context asks first: click keeps what it made for that one."""
        return ["-h", "--help"]

    def invoke(self, ctx: click.Context) -> Any:
        for param in self.params:
            value = ctx.params.get(param.name or "")
            if isinstance(param.type, Checked) and value is not None:
                for path in value if isinstance(value, tuple) else (value,):
                    param.type.check(path)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if row is not None:
                rows.setdefault(getattr(param, "section", "Output"), []).append(row)
        for section in SECTIONS:
            if section in rows:
                with formatter.section(section):
                    formatter.write_dl(rows[section])


class Group(click.Group):
    """Every error that we foresee is one sentence on standard error: exit code 2 for a wrong option or argument, else 1."""

    command_class = Command

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
            if output().verbose:
                traceback.print_exc()
            fail(str(error), USAGE if isinstance(error, ConfigError) else ERROR)
        except KeyboardInterrupt:
            fail("Interrupted before it was done.")
        except BrokenPipeError:  # the reader has seen enough, as `head` does: click ends quietly
            raise
        except OSError as error:
            fail(_disk_sentence(error))


class Share(click.ParamType):
    """A share in (0, 1), as 0.05 or as 5%. ends: 0 and 1 are shares too."""

    name = "share"

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        share = _share(str(value))
        if share is None or not 0 <= share <= 1 or (share in (0, 1) and not self.ends):
            self.fail(
                f"{value} was given; give a share between 0 and 1, such as 0.05, or a percentage such as 5%.", param, ctx
            )
        return share


class ShareOrPattern(click.ParamType):
    """A share as in `Share`, or any other text."""

    name = "share or pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        share = _share(str(value))
        if share is not None and not 0 < share < 1:
            self.fail(f"{value} was given; give a share between 0 and 1, such as 20%, or a file name pattern.", param, ctx)
        return str(value) if share is None else share


def _share(text: str) -> float | None:
    """0.05 of "0.05" and of "5%" or "5 %"; None where it is no number."""
    number = text.strip().removesuffix("%").strip()
    try:
        return float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        return None


class Number(click.ParamType):
    """A number within bounds.

    above, least, most  bounds; None = none
    whole               an integer
    like                an example for the sentence
    """

    def __init__(
        self,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
        whole: bool = False,
        like: object = "",
    ) -> None:
        self.above, self.least, self.most, self.whole, self.like = above, least, most, whole, like
        self.name = "integer" if whole else "number"

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        bounds = [f"above {self.above:g}" if self.above is not None else ""]
        bounds += [f"from {self.least:g}" if self.least is not None else ""]
        bounds += [f"to {self.most:g}" if self.most is not None else ""]
        words = " ".join(bound for bound in bounds if bound)
        return f"a{' whole' * self.whole} number {words}".rstrip() + (f", for example {self.like}" if self.like else "")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = int(str(value)) if self.whole else float(value)
        except ValueError:
            self.fail(f"{value} was given; give {self.allowed}.", param, ctx)
        inside = self.above is None or number > self.above
        inside &= self.least is None or number >= self.least
        inside &= self.most is None or number <= self.most
        if not inside or number in (float("inf"), float("-inf")) or number != number:
            self.fail(f"{value} was given; give {self.allowed}.", param, ctx)
        return number


COUNT = Number(whole=True, least=1)


class Known(click.ParamType):
    """One of some names; another gets the nearest one, or all. what: the names stand for, in words."""

    name = "name"

    def __init__(self, names: Iterable[str], what: str) -> None:
        self.names, self.what = tuple(names), what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.names:
            self.fail(unknown(self.what, str(value), self.names), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return [click.shell_completion.CompletionItem(name) for name in self.names if name.startswith(incomplete)]


def unknown(what: str, name: str, names: Sequence[str]) -> str:
    """The sentence for a name that is none of `names`."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"there is no {what} '{name}'; " + (f"did you mean {near[0]}?" if near else f"allowed are {', '.join(names)}.")


class Checked(click.Path):
    """A path that the command looks at before it imports anything heavy. check: raises a FlawforgeError for a wrong one."""

    def __init__(self, check: Callable[[Path], object]) -> None:
        super().__init__(path_type=Path)
        self.check = check


def _check_model(folder: Path) -> None:
    """By its manifest; the weights are checked when it is opened."""
    from flawforge_runtime import bundle

    if not (folder / bundle.COMMIT).is_dir():
        bundle.read_manifest(folder)


def _check_data(data: Path) -> None:
    from flawforge.pictures.listing import read_listing

    read_listing(data)


def _check_new(folder: Path) -> None:
    from flawforge_runtime import bundle
    from flawforge_runtime.files import free

    if not free(folder):
        raise ModelError(bundle.TAKEN.format(folder=folder))


def _check_file(path: Path) -> None:
    if str(path) != "auto" and not str(path).startswith("timm:") and not path.exists():
        raise ConfigError(f"There is no file or folder {path}; check the path.")


class Place(click.Path):
    """A path, or an address such as s3://bucket/folder, which stays a str: as a Path it would lose one of its slashes."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


PATH = click.Path(path_type=Path)
SOURCE = Place()
MODEL, DATA, NEW, FILE = map(Checked, (_check_model, _check_data, _check_new, _check_file))


def check_any(paths: Sequence[Path]) -> None:
    """Raises DataError where none of PATHS is there; a single one that is not costs its own row alone."""
    if paths and not any(os.path.lexists(path) for path in paths):
        raise DataError(
            f"There is no file or folder {paths[0]}{' nor any of the others' * (len(paths) > 1)}; check the path."
        )


def pictures(paths: Iterable[Path], *, quiet: bool = False) -> list[Path]:
    """The pictures in PATHS; what is left out is said, unless `quiet`. Raises DataError where there is none."""
    from flawforge_runtime.feed import Source

    paths = tuple(paths)
    check_any(paths)
    return list(Source(paths) if quiet else Source(paths, say=say_aside))


def check_data(data: Path) -> None:
    """Refuse, before anything heavy is imported, a data set that is none. Raises DataError."""
    from flawforge.pictures.listing import read_listing

    read_listing(data)


def _disk_sentence(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is full{place}; nothing half-written was left: free some space and run the command again."
    return f"{error.strerror or error}{place}; check that the path exists and that you have access to it."


def with_max_pixels(command: Callable[..., Any]) -> Callable[..., Any]:
    return option(
        "--max-pixels",
        default=MAX_PIXELS,
        show_default=True,
        type=COUNT,
        section="Advanced",
        help="Refuse larger pictures without reading them.",
    )(command)


def with_rates(command: Callable[..., Any]) -> Callable[..., Any]:
    alarm = option(
        "--false-alarm",
        type=Share(),
        section="Limits",
        help="False-alarm rate: share of good parts that may be judged NG. [default: 1%, or "
        "the lowest rate that the held-back pictures support]",
    )
    review = option(
        "--review",
        type=Share(),
        section="Limits",
        help="Share of good parts that may be judged NG or REVIEW. [default: 5%, or the lowest that is supported]",
    )
    confidence = option(
        "--confidence",
        type=Share(),
        section="Limits",
        help="Confidence with which this model keeps the rates, such as 95%; needs more pictures. [default: on average]",
    )
    return alarm(review(confidence(command)))


def with_acceptance(command: Callable[..., Any]) -> Callable[..., Any]:
    alarms = option(
        "--accept-false-alarms",
        type=Share(),
        section="Limits",
        help="Highest acceptable share of good parts judged NG, such as 2%. The result is PASS, FAIL or NOT ENOUGH DATA by "
        "the 95 % interval of the measured share; exit code 0, 6 or 5.",
    )
    escapes = option(
        "--accept-escapes",
        type=Share(),
        section="Limits",
        help="Highest acceptable share of defective parts not judged NG; decided in the same way.",
    )
    return alarms(escapes(command))


def with_other_day(command: Callable[..., Any]) -> Callable[..., Any]:
    folder = option(
        "--other-day",
        type=DATA,
        metavar="FOLDER",
        section="Limits",
        help="Good pictures of another shift or day: their false-alarm rate is measured and stands beside the stated one.",
    )
    both = option(
        "--both-days", is_flag=True, section="Limits", help="Set limits that hold on the pictures of --other-day too."
    )
    return folder(both(command))


def with_results(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which results of a result store, and where their pictures are."""
    files = option("--files", type=FILE, metavar="FOLDER", help="Folder of kept pictures, as for `serve`.")
    served = option("--model", "served", default="", metavar="NAME", help="Only results of the model served by this name.")
    station = option("--station", default="", metavar="NAME", help="Only results of this station.")
    return files(served(station(command)))


def with_rules(command: Callable[..., Any]) -> Callable[..., Any]:
    area = option(
        "--min-area",
        type=Number(least=0),
        section="Limits",
        help="Ignore marked regions smaller than this: px, or mm2 with --scale.",
    )
    count = option(
        "--max-count",
        type=Number(whole=True, least=0),
        section="Limits",
        help="Accept a part with at most this many regions of at least --min-area. [default: 0]",
    )
    scale = option("--scale", type=Number(above=0, like=0.05), section="Limits", help="Width of a pixel in millimetres.")
    return area(count(scale(command)))


def rules_of(calibration: Any, min_area: float | None, max_count: int | None, scale: float | None) -> Any:
    """The model's rules with what was given; None where nothing was.

    Raises ConfigError where --scale would give the model's least area, in px so far, another unit without a word.
    """
    from flawforge_runtime.calibrate import Rules

    if min_area is None and max_count is None and scale is None:
        return None
    old = calibration.rules if calibration is not None else Rules()
    if scale is not None and min_area is None and old.min_area and old.mm_per_pixel is None:
        raise ConfigError(
            f"The model's rule ignores regions below {old.min_area:g} px; with --scale areas are mm2, so give --min-area in "
            f"mm2 as well ({old.min_area:g} px are {old.min_area * scale**2:g} mm2)."
        )
    area = old.min_area if min_area is None else min_area
    return Rules(area, old.max_count if max_count is None else max_count, old.mm_per_pixel if scale is None else scale)


def with_db(command: Callable[..., Any]) -> Callable[..., Any]:
    db = option(
        "--db",
        metavar="URL",
        help="Also record every verdict in this result store: a SQLite file, or postgresql://USER@HOST/NAME.",
    )
    station = option("--station", default="", metavar="NAME", help="Name of the station that verdicts are recorded under.")
    return db(station(command))


def need_serve() -> None:
    """Raises ConfigError where the packages of the result store and the service are missing."""
    from importlib.util import find_spec

    missing = [name for name in ("sqlalchemy", "alembic", "fastapi", "uvicorn", "prometheus_client") if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"Result store and service need {', '.join(missing)}, not installed here; pip install 'flawforge[serve]'."
        )


with_group_by = option(
    "--group-by",
    metavar="REGEX",
    section="Advanced",
    help="Regular expression for the part's number in FOLDER/NAME. Pictures of one part stay together and count once. "
    "[default: the column group of a CSV]",
)


with_device = option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    section="Advanced",
    help="Where the network runs.",
)


def with_backend(command: Callable[..., Any]) -> Callable[..., Any]:
    backend = option(
        "--backend",
        type=click.Choice(["torch", "onnx", "openvino"]),
        section="Advanced",
        help="Must be the backend that MODEL was exported to. [default: the one in MODEL]",
    )
    return backend(with_threads(command))


with_threads = option(
    "--threads",
    type=COUNT,
    section="Advanced",
    help="Threads of the network, at most the number of cores. [default: all]",
)

with_seed = option(
    "--seed",
    default=0,
    show_default=True,
    type=Number(whole=True, least=0, most=10**18),  # as config.MOST_SEED
    section="Advanced",
    help="Seed of all random draws.",
)

with_save = option(
    "--no-save",
    "save",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Do not add the result to MODEL, where the report finds it.",
)
