"""One file with the options of each command: the same as on the command line, and wrong keys get a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from flawforge.cli import main
from flawforge.cli.app import leaves
from flawforge.cli.recipe import keys_of


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_a_recipe_stands_for_the_options(washers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder: paths lie beside the recipe; what the command line says wins."""
    line = tmp_path / "line"
    line.mkdir()
    (line / "parts").symlink_to(washers)
    recipe = line / "line.toml"
    recipe.write_text(
        '[fit]\ndata = "parts"\nout = "model"\nmethod = "patchstats"\nsize = 64\nfalse_alarm = "20%"\nreview = "30%"\n'
        "seed = 3\nset = { filters = 4 }\n[inspect]\nmodel = 'model'\npaths = 'parts/test/good'\nout = 'judged'\n"
    )
    monkeypatch.chdir(tmp_path)
    done = run("fit", "--recipe", recipe, "--seed", 4)
    assert done.exit_code == 0, done.output
    config = json.loads((line / "model" / "config.json").read_text())
    assert (config["method"], config["seed"], config["settings"]["filters"]) == ("patchstats", 4, 4)
    assert json.loads((line / "model" / "calibration.json").read_text())["false_alarm"] == 0.2
    assert run("inspect", "--recipe", recipe).exit_code == 0
    assert (line / "judged" / "results.csv").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[inspect]\nmodel = 'm'\n", r"has no table \[fit\], it has \[inspect\]"),
        ("", r"has no table \[fit\], it has nothing"),
        ("[fit]\nminuts = 5\n", "has the key minuts, which `flawforge fit` does not know; did you mean minutes"),
        ("[fit]\nrecipe = 'other.toml'\n", "has the key recipe, which"),
        ("[fit]\nzzz = 5\n", "allowed are align, "),
        ("[fit]\nminutes = [1, 2]\n", "minutes was given as a list in the recipe; give one value"),
        ("[fit]\nminutes = 0\n", "0 was given; give a number above 0"),
        ("[fit\n", "which is no TOML file: "),
    ],
)
def test_a_wrong_recipe_gets_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    recipe = tmp_path / "line.toml"
    recipe.write_text(text)
    done = run("fit", tmp_path, "-o", tmp_path / "out", "--recipe", recipe)
    assert done.exit_code == 2
    assert re.search(sentence, done.stderr), done.stderr


def test_every_command_takes_a_recipe_and_its_keys_are_distinct() -> None:
    for name, command in leaves():
        for kind in (click.Argument, click.Option):
            keys = [key for param in command.params if isinstance(param, kind) for key in keys_of(param)]
            assert len(keys) == len(set(keys)), name
        assert "recipe" in keys, name


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    done = run("fit", tmp_path, "-o", tmp_path / "out", "--recipe", tmp_path / "none.toml")
    assert done.exit_code == 2
    assert "none.toml, which cannot be read (No such file or directory); check the path." in done.stderr
