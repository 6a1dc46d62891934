"""The command line without a fit: values it takes, sections of its help, names it knows, and how it tells an error."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.shell_completion import CompletionItem
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.cli import known, main
from flawforge.cli.options import (
    DATA,
    ERROR,
    FILE,
    MAX_PIXELS,
    MODEL,
    NEW,
    SECTIONS,
    USAGE,
    Command,
    Group,
    Known,
    Number,
    Share,
    ShareOrPattern,
    check_any,
    option,
    pictures,
    rules_of,
    unknown,
)
from flawforge.cli.output import output, quoted, write_json
from flawforge.forge import FORGERS
from flawforge.methods import METHODS
from flawforge.types import ConfigError, DataError
from flawforge_runtime import images
from flawforge_runtime.calibrate import Rules

COMMANDS = sorted(main.commands)


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def sentence(kind: click.ParamType, text: str) -> str:
    """What a person reads where an option of this kind refuses a text."""
    with pytest.raises(click.BadParameter) as refused:
        kind.convert(text, None, None)
    return refused.value.message


# ---- values


@given(st.floats(0.001, 0.999), st.sampled_from(["{}%", "{} %", "  {}%", "{}%  "]))
@settings(deadline=None, max_examples=40)
def test_a_percentage_is_its_share(share: float, form: str) -> None:
    text = form.format(repr(100 * share))
    assert Share().convert(text, None, None) == pytest.approx(share)
    assert ShareOrPattern().convert(text, None, None) == pytest.approx(share)


@given(st.floats(allow_nan=True, allow_infinity=True).filter(lambda x: not 0 < x < 1))
@settings(deadline=None, max_examples=40)
def test_no_number_outside_is_a_share(number: float) -> None:
    assert sentence(Share(), repr(number)).startswith(f"{number!r} was given; give a share between 0 and 1")
    assert "or a file name pattern" in sentence(ShareOrPattern(), repr(number))


@given(st.integers(-50, 50), st.integers(-20, 0), st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_a_number_is_taken_exactly_within_its_bounds(number: int, least: int, most: int) -> None:
    for kind in (Number(least=least, most=most, whole=True), Number(least=least, most=most)):
        if least <= number <= most:
            assert kind.convert(str(number), None, None) == number
        else:
            assert sentence(kind, str(number)).endswith(f"number from {least} to {most}.")
    above = Number(above=least)
    if number > least:
        assert above.convert(str(number), None, None) == number
    else:
        assert sentence(above, str(number)) == f"{number} was given; give a number above {least}."


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "one", "", "1,5", "0x10"])
def test_what_is_no_number_is_refused(text: str) -> None:
    assert sentence(Number(), text) == f"{text} was given; give a number."
    assert sentence(Number(whole=True, like=3), text) == f"{text} was given; give a whole number, for example 3."


def test_whole_numbers_stay_whole() -> None:
    kind = Number(whole=True, least=1)
    assert kind.name == "integer"
    assert kind.convert("12345678901234567890", None, None) == 12345678901234567890
    assert sentence(kind, "1.0") == "1.0 was given; give a whole number from 1."
    assert Number().name == "number"


@pytest.mark.parametrize(("given", "near"), [("patchstat", "patchstats"), ("dream", "draem"), ("padin", "padim")])
def test_a_slip_of_the_finger_is_answered_with_the_nearest_name(given: str, near: str) -> None:
    assert sentence(Known(METHODS, "method"), given) == f"there is no method '{given}'; did you mean {near}?"


def test_a_name_like_no_other_is_answered_with_all() -> None:
    told = unknown("method", "###", list(METHODS))
    assert all(name in told for name in METHODS)
    assert "did you mean" not in told


def test_names_are_completed_from_their_beginning() -> None:
    kind = Known(["scratch", "stain", "dent"], "kind")
    command = click.Command("work", params=[click.Option(["--kind"], type=kind)])
    found = kind.shell_complete(click.Context(command), command.params[0], "s")
    assert all(isinstance(item, CompletionItem) for item in found)
    assert [item.value for item in found] == ["scratch", "stain"]
    assert [item.value for item in kind.shell_complete(click.Context(command), command.params[0], "")] == list(kind.names)
    assert kind.convert("dent", None, None) == "dent"


# ---- what is known without torch


def test_the_known_methods_are_those_of_the_table() -> None:
    assert list(known.METHODS) == list(METHODS)
    for name, method in METHODS.items():
        told = known.METHODS[name]
        assert told.title == method.title
        assert told.paper == method.paper
        assert told.profiles.split() == list(method.profiles)
        for config in method.profiles.values():
            assert told.settings.split() == [field.name for field in dataclasses.fields(config)]


def test_the_known_forgers_are_those_of_the_table() -> None:
    assert list(known.FORGERS) == list(FORGERS)
    assert all(told.endswith(".") and "\n" not in told for told in known.FORGERS.values())


def test_the_limit_of_pixels_is_the_decoders() -> None:
    assert MAX_PIXELS == images.MAX_PIXELS


# ---- help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_sections_in_their_order_and_every_option_in_one(name: str) -> None:
    command = main.commands[name]
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        path = [name] if leaf is command else [name, str(leaf.name)]
        told = run(main, *path, "--help")
        assert told.exit_code == 0
        found = [
            line.rstrip(":") for line in told.stdout.splitlines() if line.rstrip(":") in SECTIONS and line.endswith(":")
        ]
        assert found == [section for section in SECTIONS if section in found]
        assert "Output" in found
        for param in leaf.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert param.help, param.name
                assert any(each in told.stdout for each in param.opts), param.name
        for each in ("--json", "--quiet", "--verbose", "--log-file"):
            assert told.stdout.count(f"{each} ") >= 1, each


def test_a_section_holds_the_options_that_name_it() -> None:
    @click.command(cls=Command)
    @option("--size", help="How large.")
    @option("--rate", section="Limits", help="How often.")
    @option("--threads", section="Advanced", help="How many.")
    def work(size: str, rate: str, threads: str) -> None:
        """Work."""

    lines = [line.split()[0] for line in run(work, "--help").stdout.splitlines() if line.startswith(("  -", *SECTIONS))]
    assert lines[:7] == ["Options:", "--size", "Limits:", "--rate", "Advanced:", "--threads", "--recipe"]
    assert lines[7:] == ["Output:", "--json", "-q,", "-v,", "--log-file", "-h,"]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_is_none_is_a_usage_error(name: str) -> None:
    told = run(main, name, "--no-such-option")
    assert told.exit_code == USAGE
    assert "--no-such-option" in told.stderr or "Usage:" in told.stderr
    assert "Traceback" not in told.output


# ---- errors


@pytest.fixture
def failing() -> Any:
    """(error) -> what a person sees where a command raises it."""

    def seen(error: BaseException, *options: str) -> Result:
        @click.group(cls=Group)
        def group() -> None:
            """A group."""

        @group.command()
        def work() -> None:
            raise error

        return run(group, "work", *options)

    return seen


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("wrong setting."), USAGE, "flawforge: wrong setting."),
        (DataError("wrong data."), ERROR, "flawforge: wrong data."),
        (KeyboardInterrupt(), ERROR, "flawforge: Interrupted before it was done."),
        (OSError(errno.ENOSPC, "No space left", "/d/x"), ERROR, "flawforge: The disk is full at /d/x; nothing half-written"),
        (OSError(errno.EACCES, "Permission denied", "/d/x"), ERROR, "flawforge: Permission denied at /d/x; check that"),
        (OSError("odd"), ERROR, "flawforge: odd; check that the path exists"),
    ],
)
def test_an_error_is_one_sentence_and_a_code(failing: Any, error: BaseException, code: int, words: str) -> None:
    told = failing(error)
    assert told.exit_code == code
    assert told.stdout == ""
    assert told.stderr.startswith(words)
    assert told.stderr.count("\n") == 1


def test_verbose_adds_the_traceback_and_quiet_hides_no_error(failing: Any) -> None:
    assert failing(DataError("wrong data."), "--quiet").stderr == "flawforge: wrong data.\n"
    told = failing(DataError("wrong data."), "--verbose").stderr
    assert "s] flawforge: wrong data." in told


def test_what_is_no_error_of_ours_is_not_hidden(failing: Any) -> None:
    told = failing(ZeroDivisionError("a bug"))
    assert isinstance(told.exception, ZeroDivisionError)


# ---- paths


def test_paths_are_looked_at_before_the_work(tmp_path: Path) -> None:
    @click.group(cls=Group)
    def group() -> None:
        """A group."""

    @group.command()
    @option("--model", type=MODEL)
    @option("--data", type=DATA)
    @option("--new", type=NEW)
    @option("--file", type=FILE, multiple=True)
    def work(**given: Any) -> None:
        click.echo("worked")

    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "a.txt").touch()
    for options in (
        ("--model", str(taken)),
        ("--data", str(tmp_path / "none")),
        ("--new", str(taken)),
        ("--file", str(taken), "--file", str(tmp_path / "none")),
    ):
        told = run(group, "work", *options)
        assert told.exit_code in (ERROR, USAGE), options
        assert "worked" not in told.stdout
        assert told.stderr.startswith("flawforge: ")
    for options in ((), ("--new", str(tmp_path / "fresh")), ("--file", "auto"), ("--file", "timm:resnet18")):
        assert run(group, "work", *options).stdout == "worked\n", options


def test_one_path_that_is_there_is_enough(tmp_path: Path) -> None:
    check_any([])
    check_any([tmp_path / "none", tmp_path])
    with pytest.raises(DataError, match=r"There is no file or folder .*a; check the path\.$"):
        check_any([tmp_path / "a"])
    with pytest.raises(DataError, match=r"a nor any of the others; check the path\.$"):
        check_any([tmp_path / "a", tmp_path / "b"])
    images.write_image(tmp_path / "part.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "notes.txt").touch()
    assert pictures([tmp_path], quiet=True) == [tmp_path / "part.png"]


def test_rules_keep_what_was_not_given() -> None:
    old = SimpleNamespace(rules=Rules(5.0, 2, 0.1))
    assert rules_of(old, None, None, None) is None
    assert rules_of(old, 7.0, None, None) == Rules(7.0, 2, 0.1)
    assert rules_of(old, None, 0, None) == Rules(5.0, 0, 0.1)
    assert rules_of(None, None, None, 0.2) == Rules(0.0, 0, 0.2)


def test_a_scale_alone_does_not_change_the_unit_of_the_models_least_area() -> None:
    pixels = SimpleNamespace(rules=Rules(20.0, 2))
    with pytest.raises(ConfigError, match=r"below 20 px; with --scale .*\(20 px are 0\.05 mm2\)"):
        rules_of(pixels, None, None, 0.05)
    assert rules_of(pixels, 0.05, None, 0.05) == Rules(0.05, 2, 0.05)
    assert rules_of(SimpleNamespace(rules=Rules(0.5, 2, 0.1)), None, None, 0.05) == Rules(0.5, 2, 0.05)


# ---- output


def test_a_path_is_quoted_as_a_shell_takes_it() -> None:
    assert quoted("plain/part.png") == "plain/part.png"
    assert quoted(Path("two words/it's.png")) == "'two words/it'\"'\"'s.png'"


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    @click.command(cls=Command)
    def work() -> None:
        output().write("bad\x1b[31m.png", err=False, quiet=False)

    told = run(work).stdout
    assert "\x1b" not in told
    assert told.startswith("bad")


def test_json_holds_no_number_that_json_has_no_word_for(tmp_path: Path) -> None:
    @click.command(cls=Command)
    def work() -> None:
        write_json({"share": float("nan")})

    out = tmp_path / "r.json"
    assert isinstance(run(work, "--json", str(out)).exception, ValueError)
    assert not out.exists()
    assert run(work).exit_code == 0  # nobody asked


def test_json_on_standard_output_is_whole_with_names_in_any_script() -> None:
    @click.command(cls=Command)
    def work() -> None:
        output().write("for people", err=False, quiet=False)
        write_json({"name": "Müller 部品", "share": 0.5})

    told = run(work, "--json", "-")
    assert json.loads(told.stdout) == {"name": "Müller 部品", "share": 0.5}
    assert told.stderr == "for people\n"
    assert output().json == ""  # outside of any command
