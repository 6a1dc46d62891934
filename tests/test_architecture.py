"""The shape of the house: arrows, names, depth, and what is loaded when."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import flawforge
import flawforge_runtime
import house
from flawforge import fitting
from flawforge.cli import fit, options
from flawforge_runtime import images

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "flawforge"
RUNTIME = ROOT / "runtime" / "src" / "flawforge_runtime"
FILES = [(source, path) for source in (SOURCE, RUNTIME) for path in source.rglob("*.py")]
MODULES = sorted(
    each.name
    for room in (flawforge, flawforge_runtime)
    for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
)
LEARNING = ("nn", "methods", "fitting")
WITH_TORCH = tuple(f"flawforge.{room}" for room in LEARNING)


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    program = f"import sys\n{code}\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_imports_keep_their_contracts() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nA new module? Give it a room in pyproject.toml."
    assert " 0 broken" in done.stdout


def test_the_nouns_and_the_file_writer_import_nothing_of_ours() -> None:
    for path in (RUNTIME / "types.py", RUNTIME / "files.py", SOURCE / "types.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) and not node.level else ""
            above = path.parent == SOURCE and module == "flawforge_runtime.types"
            above |= path.name == "types.py" and module.startswith("flawforge_runtime")
            assert above or not module.startswith("flawforge"), path


def test_this_tree_is_what_is_tested() -> None:
    """`pip install -e .` alone copies the runtime; a change of it would then go untested."""
    for room, source in ((flawforge, SOURCE), (flawforge_runtime, RUNTIME)):
        assert Path(str(room.__file__)).parent == source, "run: pip install --no-deps -e . -e ./runtime (or: make venv)"


def test_the_two_distributions_have_one_version_and_one_licence() -> None:
    projects = [tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"] for part in (".", "runtime")]
    versions = {flawforge.__version__, flawforge_runtime.__version__, *(each["version"] for each in projects)}
    assert len(versions) == 1
    assert (ROOT / "runtime" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_no_folder_deeper_than_two_and_no_name_that_says_nothing() -> None:
    for source, path in FILES:
        assert len(path.relative_to(source).parts) <= 2, path
        assert path.stem not in ("utils", "util", "common", "helpers", "helper", "base", "misc", "core", "tools"), path


def test_files_stay_readable() -> None:
    """A room is split at 480 lines; a paper's one file may be longer, until a second paper needs a part of it."""
    lines = {path: len(path.read_text().splitlines()) for _, path in FILES}
    long = {str(path): n for path, n in lines.items() if n > (600 if path.parent.name == "methods" else 480)}
    assert not long


def test_a_method_is_read_in_an_hour() -> None:
    """What `draem` costs to read: its file, and every module of ours that its imports lead to.

    Counted are the modules of flawforge and flawforge_runtime named by import statements, at the top of a file and inside
    functions, followed from file to file; imports under `if TYPE_CHECKING:` are left out, and so is a package's `__init__`
    from which only modules are imported. Lines are those that hold code. `tools/house.py` counts.
    """
    modules, lines = house.cost("flawforge.methods.draem")
    assert modules <= 10, house.reading("flawforge.methods.draem")
    assert lines <= 1500


def test_the_architecture_page_has_the_contracts_and_the_figures() -> None:
    """Folders and modules as they are now. The figures change with every commit: their table is there, with each column."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    folders = next(each["layers"] for each in linter if each.get("containers") == ["flawforge"])
    drawn = page.split("```text\n")[1].split("\n```")[0]
    assert drawn.split("\n") == folders
    generator = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    assert generator["modules"]() in page, "docs/architecture.md is not what the contracts say; run: make docs"
    head, _, row = page.rstrip().split("\n")[-3:]
    assert head.count("|") == row.count("|") == 9
    assert row.split("|")[1].strip().isdigit()


def test_help_loads_nothing_heavy() -> None:
    show = "from flawforge.cli import main\ntry:\n    main({})\nexcept SystemExit as end:\n    assert not end.code"
    for code in ("import flawforge", show.format(["--help"]), show.format(["fit", "--help"])):
        heavy = loaded_after(code) & {"torch", "cv2", "pydantic", "scipy", "sklearn", "jinja2", "lightning_fabric", "PIL"}
        assert not heavy, code


def test_only_the_learning_rooms_load_torch() -> None:
    """Looking at data, evaluating and reporting need none."""
    free = [name for name in MODULES if not name.startswith(WITH_TORCH)]
    assert {"flawforge.judging.loading", "flawforge.pictures.dataset", "flawforge.reporting.report"} <= set(free)
    code = "import importlib\n" + "\n".join(
        f"importlib.import_module({name!r})\nassert 'torch' not in sys.modules, {name!r}" for name in free
    )
    assert "cv2" in loaded_after(code)


def test_the_runtime_judges_without_flawforge_and_torch() -> None:
    judge = """
import numpy as np
from flawforge_runtime import bundle
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.types import ScoreRule
network = lambda batch: (batch.mean(axis=1), batch.mean(axis=(1, 2, 3)))
decision = Inspector(network, (32, 32), ScoreRule(), calibrate([0.1, 0.2, 0.3], 0.25))(np.full((40, 40, 3), 255, np.uint8))
assert decision.verdict == "NG"
"""
    assert not loaded_after(judge) & {"flawforge", "torch", "lightning_fabric", "scipy", "sklearn", "pydantic"}


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
    assert options.MAX_PIXELS == images.MAX_PIXELS
    assert fit.METHOD == fitting.METHOD
