"""How a command speaks: lines, a progress bar, JSON, a log file. One place, so that --quiet and --json - hold everywhere."""

from __future__ import annotations

import datetime
import io
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from flawforge import __version__
from flawforge.types import ConfigError
from flawforge_runtime.names import shown
from flawforge_runtime.outputs import check_output, write_output

KEY = "flawforge.output"
FORMS = {  # of a bar, where its end is known and where it is not
    True: "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left{postfix}",
    False: "{desc}: {elapsed} elapsed{postfix}",
}
PAUSE = 30.0  # seconds between two lines of progress where there is no terminal


@dataclass
class Output:
    """What the options of EVERYWHERE ask for.

    json     file for the result, "-" = standard output; lines for people then go to standard error
    quiet    no lines, no progress: results, warnings and errors alone
    verbose  seconds before each line, and the traceback of an error
    log      every line is appended here, with its time
    bar      the progress bar on the terminal, if there is one now
    """

    json: str = ""
    quiet: bool = False
    verbose: bool = False
    log: io.FileIO | None = None
    start: float = field(default_factory=time.monotonic)
    bar: Any = None

    def write(self, line: str, err: bool, quiet: bool) -> None:
        """Print a line, above the progress bar where there is one; keep it in the log. quiet: --quiet hides it.

        A log that cannot be written to any more is said once, and the command goes on without it.
        """
        line = shown(line)
        why = self._keep(line)
        if not (quiet and self.quiet):
            self._print(line, err)
        if why:
            self._print(f"the log file takes no more lines ({why}); this and later ones are printed alone", err=True)

    def _print(self, line: str, err: bool) -> None:
        if self.verbose:
            line = f"[{time.monotonic() - self.start:6.1f} s] {line}"
        err = err or self.json == "-"
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr if err else sys.stdout)
        else:
            click.echo(line, err=err)

    def _keep(self, line: str) -> str:
        """Add a line to the log; why that failed, "" where it did not, or where there is no log."""
        if self.log is None:
            return ""
        text = f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n"
        try:
            left = text.encode(errors="backslashreplace")
            while left:
                left = left[self.log.write(left) :]
        except OSError as error:
            self.log = None  # its owner, the command's context, closes it
            return error.strerror or type(error).__name__
        return ""


def output() -> Output:
    """That of the running command; a plain one outside of any."""
    context = click.get_current_context(silent=True)
    if context is None:
        return Output()
    settings: Output = context.meta.setdefault(KEY, Output())
    return settings


def say(line: str, err: bool = False) -> None:
    """Print one line for people; what a file's name may hold does not reach the terminal raw."""
    output().write(line, err, quiet=not err)


def hint(line: str) -> None:
    """As `say`, on standard error: standard output holds the result alone."""
    output().write(line, True, quiet=True)


def say_aside(line: str) -> None:
    """As `say`, on standard error, also with --quiet: a warning."""
    output().write(line, True, quiet=False)


def note_version(model: Path) -> None:
    """Say so where another flawforge made the model. What is no model is told by whoever opens it."""
    try:
        made_by = json.loads((model / "config.json").read_bytes())["flawforge_version"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return
    if isinstance(made_by, str) and made_by not in ("", __version__):
        say_aside(f"note: the model was made by flawforge {made_by}, and this is {__version__}")


def tell(result: Any, **more: Any) -> None:
    """Print a result of the library, say where it was kept, and write its JSON where --json asks for it."""
    for line in result.lines():
        say(line)
    if saved := getattr(result, "saved", None):
        hint(f"saved into {saved.folder.parent.parent} as {saved.text}")
    if unsaved := getattr(result, "unsaved", ""):
        say_aside(f"  {unsaved}")
    write_json({**result.as_dict(), **more})


def write_json(facts: Any) -> None:
    """Write JSON where --json asks for it."""
    settings = output()
    if not settings.json:
        return
    from flawforge.reporting import kept

    if settings.json == "-":
        click.echo(kept.as_json(facts), nl=False)
    else:
        write_output(Path(settings.json), kept.as_bytes(facts), "--json")


def next_steps(*commands: str) -> None:
    """Say which commands come next."""
    for number, command in enumerate(commands):
        hint(f"{'next: ' if not number else '      '}{command}")


def quoted(path: Path | str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def fail(sentence: str, code: int = 1) -> None:
    say_aside(f"flawforge: {sentence}")
    sys.exit(code)


class Bar:
    """Progress: a bar on a terminal, a line every half minute elsewhere, nothing with --quiet."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self.label, self.unit, self.total, self.done = label, unit, total, 0.0
        self.tqdm: Any = None
        self.start = self.said = time.monotonic()
        if not output().quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.tqdm = tqdm(total=total, desc=label, dynamic_ncols=True, bar_format=FORMS[bool(total)])

    def at(self, done: float, total: float | None = None, note: str = "") -> None:
        """So much is done, of so much in all (None = as before)."""
        self.done, self.total = done, self.total if total is None else total
        if self.tqdm is not None:
            self.tqdm.total, self.tqdm.bar_format = self.total, FORMS[bool(self.total)]
            if note:
                self.tqdm.set_postfix_str(note, False)
            self.tqdm.update(done - self.tqdm.n)
        elif not output().quiet and time.monotonic() - self.said > PAUSE:
            self.said = time.monotonic()
            click.echo(shown(f"{self.label}: {self._words()}{f', {note}' if note else ''}"), err=True)

    def more(self, note: str = "") -> None:
        """One more is done."""
        self.at(self.done + 1, note=note)

    def _words(self) -> str:
        spent = time.monotonic() - self.start
        if not self.total:
            return f"{self.done:g} {self.unit}, {spent:.0f} s"
        left = spent * (self.total / self.done - 1) if self.done else 0.0
        return f"{self.done / self.total:.0%}, {spent:.0f} s elapsed" + (f", about {left:.0f} s left" if left else "")


@contextmanager
def progress_bar(label: str, total: float | None, unit: str) -> Iterator[Bar]:
    """A Bar; lines that are said meanwhile come out above it."""
    bar, settings = Bar(label, total, unit), output()
    before, settings.bar = settings.bar, bar.tqdm
    try:
        yield bar
    finally:
        settings.bar = before
        if bar.tqdm is not None:
            bar.tqdm.close()


@contextmanager
def counter(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, all) shown as a bar with the time that is left."""
    with progress_bar(label, 1, "") as bar:
        yield bar.at


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            settings: Output = context.meta.setdefault(KEY, Output())
            setattr(settings, name, value)

    return callback


def _set_json(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value and value != "-" and Path(value).is_dir():  # said before the work, not after it
        raise ConfigError(f"--json {value} is a folder; give a file, or - for standard output.")
    if value and value != "-":
        check_output(Path(value), "--json")
    _set("json")(context, parameter, value)


def _set_log(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    check_output(value, "--log-file")
    try:
        log = value.open("ab", buffering=0)  # each line is written or missed at once, and closing it cannot fail
    except OSError as error:
        raise ConfigError(f"--log-file {value} cannot be written to ({error.strerror}); give another file.") from None
    context.find_root().call_on_close(log.close)  # an error is told after the command's own context is closed
    settings: Output = context.meta.setdefault(KEY, Output())
    settings.log = log


EVERYWHERE: tuple[tuple[list[str], dict[str, Any]], ...] = (
    (
        ["--json"],
        {"metavar": "FILE", "callback": _set_json, "help": "Write the result as JSON to this file; - = standard output."},
    ),
    (
        ["-q", "--quiet"],
        {"is_flag": True, "callback": _set("quiet"), "help": "Print results, warnings and errors only; no progress."},
    ),
    (
        ["-v", "--verbose"],
        {
            "is_flag": True,
            "callback": _set("verbose"),
            "help": "Print the time of each line, and the traceback of an error.",
        },
    ),
    (
        ["--log-file"],
        {
            "metavar": "FILE",
            "type": click.Path(path_type=Path),
            "callback": _set_log,
            "help": "Append every line that is printed to this file, with its time.",
        },
    ),
)
