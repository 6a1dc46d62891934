"""Whatever an option is given, a command ends with a sentence and an exit code, never with a traceback."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flawforge.cli.app import leaves, main

VALUES = ("", "nan", "-1", "0", "1e999", "9" * 30, ".", "a,b", "=", "１", "\x07")
# These two would begin to work: a demo with its defaults, a service without an end.
COMMANDS = {name: command for name, command in leaves() if name not in ("demo", "serve")}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_value_of_an_option_ends_in_a_traceback(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = COMMANDS[name].params
    needed = ["nowhere" for each in parameters if isinstance(each, click.Argument) and each.required]
    options = [each.opts[-1] for each in parameters if isinstance(each, click.Option) and not each.is_flag]
    assert len(options) >= 2  # --json and --log-file at least
    for option in options:
        for value in VALUES:
            done = CliRunner().invoke(main, [*name.split(), *needed, option, value])
            assert done.exception is None or isinstance(done.exception, SystemExit), (option, value, done.exception)
            assert done.exit_code in (0, 1, 2), (option, value)
            if done.exit_code:
                assert done.stderr.strip(), (option, value)
                assert "Traceback" not in done.output
    for flag in ("--help", "-h"):
        assert CliRunner().invoke(main, [*name.split(), flag]).exit_code == 0
