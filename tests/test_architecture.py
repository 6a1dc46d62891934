"""The shape of the house: arrows, names, depth, and what is loaded when."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import flawforge
from flawforge import cli, fitting, images

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "flawforge"
MODULES = sorted(each.name for each in pkgutil.walk_packages(flawforge.__path__, "flawforge."))
WITH_TORCH = ("flawforge.nn", "flawforge.methods", "flawforge.engine", "flawforge.fitting")


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    program = f"import sys\n{code}\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_imports_keep_their_contracts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache",
         "--no-logo"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nA new module? Give it a room in pyproject.toml."
    assert " 0 broken" in done.stdout


def test_the_nouns_and_the_file_writer_import_nothing_of_ours() -> None:
    for name in ("types", "files"):
        tree = ast.parse((SOURCE / f"{name}.py").read_text())
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("flawforge")))


def test_no_folder_deeper_than_two_and_no_name_that_says_nothing() -> None:
    for path in SOURCE.rglob("*.py"):
        assert len(path.relative_to(SOURCE).parts) <= 2, path
        assert path.stem not in ("utils", "util", "common", "helpers", "helper", "base", "misc", "core", "tools"), path


def test_files_stay_readable() -> None:
    """A room is split at 450 lines; a paper's one file may be longer, until a second paper needs a part of it."""
    lines = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    long = {str(path): n for path, n in lines.items() if n > (600 if path.parent.name == "methods" else 450)}
    assert not long


def test_help_loads_nothing_heavy() -> None:
    show = "from flawforge.cli import main\ntry:\n    main({})\nexcept SystemExit as end:\n    assert not end.code"
    for code in ("import flawforge", show.format(["--help"]), show.format(["fit", "--help"])):
        heavy = loaded_after(code) & {"torch", "cv2", "pydantic", "scipy", "sklearn", "jinja2", "lightning_fabric", "PIL"}
        assert not heavy, code


def test_only_the_learning_rooms_load_torch() -> None:
    """A runtime without torch will share all the others."""
    free = [name for name in MODULES if not name.startswith(WITH_TORCH)]
    assert {"flawforge.inspector", "flawforge.bundle", "flawforge.data", "flawforge.report"} <= set(free)
    code = "import importlib\n" + "\n".join(
        f"importlib.import_module({name!r})\nassert 'torch' not in sys.modules, {name!r}" for name in free
    )
    assert "cv2" in loaded_after(code)


def test_the_learning_rooms_do_load_torch() -> None:
    """Else the list above could be emptied without anyone noticing."""
    assert "torch" in loaded_after("import flawforge.nn.unet")


def test_public_names_are_there() -> None:
    for name in flawforge.__all__:
        assert getattr(flawforge, name) is not None
    assert set(flawforge._HOME) | {"__version__"} == set(flawforge.__all__)
    assert dir(flawforge) == sorted(flawforge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flawforge.nothing


def test_every_module_says_what_it_is() -> None:
    for name in MODULES:
        assert importlib.import_module(name).__doc__, name


def test_cli_repeats_the_picture_limit_truly() -> None:
    assert cli.MAX_PIXELS == images.MAX_PIXELS
    assert cli.METHOD == fitting.METHOD
