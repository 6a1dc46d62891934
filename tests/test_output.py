"""What a person may give an option, how far a fit is said to be, and where lines go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from flawforge.cli.app import main
from flawforge.cli.fit import Course
from flawforge.cli.options import Command, Known, Number, Share, ShareOrPattern
from flawforge.cli.output import Bar, counter, next_steps, say, say_aside, tell
from flawforge.fitting.engine import Tick
from flawforge_runtime.types import ConfigError


def taken(kind: click.ParamType, text: str) -> Any:
    """What an option of this kind makes of a text; the sentence where it is refused."""
    try:
        return kind.convert(text, None, None)
    except click.BadParameter as error:
        return error.message


@pytest.mark.parametrize(
    ("text", "share"), [("0.05", 0.05), ("5%", 0.05), (" 5 % ", 0.05), ("0.1%", 0.001), ("1e-3", 0.001)]
)
def test_a_share_may_be_a_percentage(text: str, share: float) -> None:
    assert taken(Share(), text) == pytest.approx(share)
    assert taken(ShareOrPattern(), text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "1", "5", "100%", "-1%", "nan", "many", "%", ""])
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    assert "such as 0.05, or a percentage such as 5%" in taken(Share(), text)


def test_ends_and_patterns() -> None:
    assert [taken(Share(ends=True), text) for text in ("0", "100%")] == [0.0, 1.0]
    assert taken(ShareOrPattern(), "batch7*") == "batch7*"
    assert "file name pattern" in taken(ShareOrPattern(), "7")


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        (Number(above=0), "0.2", 0.2),
        (Number(above=0, like=10), "0", "0 was given; give a number above 0, for example 10."),
        (Number(whole=True, least=1), "2.5", "2.5 was given; give a whole number from 1."),
        (Number(least=0, most=9), "10", "10 was given; give a number from 0 to 9."),
        (Number(), "inf", "inf was given; give a number."),
        (Number(), "nan", "nan was given; give a number."),
        (Known(["scratch", "stain"], "forger"), "scrach", "there is no forger 'scrach'; did you mean scratch?"),
        (Known(["scratch", "stain"], "forger"), "qqq", "there is no forger 'qqq'; allowed are scratch, stain."),
    ],
)
def test_a_refusal_says_what_was_given_and_what_is_allowed(kind: click.ParamType, text: str, found: Any) -> None:
    assert taken(kind, text) == found


STAGES = (
    ("filters", "statistics", 2.0),
    ("first calibration", "check", 1.0),
    ("segmenter", "training", 5.0),
    ("pack", "check", 0.5),
    ("calibration", "check", 1.0),
)


class Seen(Bar):
    """A bar that remembers what it showed."""

    def __init__(self) -> None:
        super().__init__("fit", None, "s")
        self.shown: list[tuple[float, float | None, str]] = []

    def at(self, done: float, total: float | None = None, note: str = "") -> None:
        super().at(done, total, note)
        self.shown.append((done, total, note))


@given(st.lists(st.tuples(st.sampled_from([stage for stage, _, _ in STAGES] + ["unknown"]), st.floats(0, 1)), max_size=30))
def test_progress_stays_within_the_forecast(ticks: list[tuple[str, float]]) -> None:
    """Also where a stage comes that the forecast did not name, or one comes again."""
    bar = Seen()
    course = Course(bar)
    course.checking(1, 2)
    course.forecast(STAGES)
    for stage, share in ticks:
        course.tick(Tick(stage, 1, share, 0.0, {}))
    for done, total, note in bar.shown[1:]:
        assert total is not None
        assert 0 <= done <= total
        assert note in ("statistics", "training", "check")


def test_a_fit_goes_from_its_beginning_to_its_end() -> None:
    bar = Seen()
    course = Course(bar)
    course.forecast(STAGES)
    for stage, _, _ in STAGES:
        for share in (0.5, 1.0):
            if "calibration" in stage:
                course.calibrating(int(2 * share), 2)
            else:
                course.tick(Tick(stage, 1, share, 0.0, {}))
    done = [each for each, _, _ in bar.shown]
    assert done == sorted(done)
    assert bar.shown[-1][0] == bar.shown[-1][1]
    assert [note for _, _, note in bar.shown[1::2]] == [part for _, part, _ in STAGES]


class Result:
    """What the library gives."""

    unsaved = "not kept"

    def lines(self) -> list[str]:
        return ["the result"]

    def as_dict(self) -> dict[str, Any]:
        return {"n": 1}


@click.command(cls=Command)
def speak() -> None:
    """Say something of every kind."""
    with counter("working") as show:
        show(1, 2)
        say("a line")
    say_aside("a warning")
    tell(Result())
    next_steps("one", "two")


def spoken(*options: str) -> Any:
    return CliRunner().invoke(speak, options, catch_exceptions=False)


def test_the_result_goes_to_standard_output_and_the_rest_beside_it(tmp_path: Path) -> None:
    plain = spoken()
    assert plain.stdout == "a line\nthe result\n"
    assert plain.stderr == "a warning\n  not kept\nnext: one\n      two\n"
    quiet = spoken("--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "a warning\n  not kept\n")
    as_json = spoken("--json", "-")
    assert json.loads(as_json.stdout) == {"n": 1}
    assert "the result" in as_json.stderr
    assert spoken("--json", str(tmp_path / "r.json")).stdout == plain.stdout
    assert json.loads((tmp_path / "r.json").read_text()) == {"n": 1}
    assert "s] a line" in spoken("--verbose").stdout


@pytest.mark.parametrize("place", [".", "..", "folder", "folder/"])
def test_a_folder_for_the_result_is_refused_before_the_work(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked = []

    @click.command(cls=Command)
    def work() -> None:
        worked.append(place)
        tell(Result())

    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^--json .* is a folder; give a file, or - for standard output\.$"):
        CliRunner().invoke(work, ["--json", place], catch_exceptions=False)
    assert not worked
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder"]


def test_the_log_keeps_what_quiet_hides_and_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for options in (("--quiet",), ()):
        spoken("--log-file", str(log), *options)
    lines = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert lines == ["a line", "a warning", "the result", "  not kept", "next: one", "      two"] * 2
    with pytest.raises(ConfigError, match="cannot be written to"):
        spoken("--log-file", str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no full device")
@pytest.mark.parametrize("options", [(), ("--quiet",), ("--json", "-")])
def test_a_log_on_a_full_disk_is_said_once_and_costs_no_line(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    plain, full = spoken(*options), spoken(*options, "--log-file", str(tmp_path / "log"))
    assert full.exit_code == 0
    assert full.stdout == plain.stdout
    told = "the log file takes no more lines (No space left on device); this and later ones are printed alone"
    lines = full.stderr.splitlines()
    assert lines.count(told) == 1
    lines.remove(told)
    assert lines == plain.stderr.splitlines()


def test_a_log_whose_reader_goes_away_is_said_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    read = []

    @click.command(cls=Command)
    def work() -> None:
        say("heard")
        read.append(os.read(reader, 1000))
        os.close(reader)
        say("lost")
        say("lost too")

    done = CliRunner().invoke(work, ["--log-file", str(tmp_path / "pipe")], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == "heard\nlost\nlost too\n"
    assert done.stderr == "the log file takes no more lines (Broken pipe); this and later ones are printed alone\n"
    assert read[0].endswith(b" heard\n")


@pytest.mark.parametrize(
    "arguments", [("fit", "nowhere", "-o", "model"), ("inspect", "nowhere"), ("results", "export", "none.db", "-o", "a.csv")]
)
def test_an_error_is_a_sentence_in_the_log_too(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*arguments, "--log-file", "log.txt"])
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("flawforge: ")
    assert [each.split(" ", 1)[1] for each in (tmp_path / "log.txt").read_text().splitlines()] == [line]


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command(cls=Command)
    def work() -> None:
        with counter("working") as show:
            for done in range(1, 5):
                now[0] += 20.0
                show(done, 8)

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines = CliRunner().invoke(work, [], catch_exceptions=False).stderr.splitlines()
    assert lines == ["working: 25%, 40 s elapsed, about 120 s left", "working: 50%, 80 s elapsed, about 80 s left"]
