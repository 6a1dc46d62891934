"""Write docs/architecture.md: the folders and modules as the import contracts order them, and the figures of tools/house.py.

Run by `make docs`. A test compares folders and modules with the contracts; the figures change with every commit, so only
their table's head is compared.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import house

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
TOP = """# Architecture

*Written by `make docs` from the import contracts and the sources; do not edit by hand.*

flawforge consists of two Python packages. `flawforge_runtime` judges pictures and does not depend on torch. `flawforge`
trains, calibrates, measures and reports, and judges with the code of the runtime. Imports point down only. The order of the
folders is stated in [decision 36](decisions/0036-folders.md) and enforced by the import contracts in `pyproject.toml`.

## Folders

A folder may import from the lines below its own. Folders on one line do not know each other. Everything may import from
`flawforge_runtime`.

"""
MODULES = """
## Modules

A module may import from modules to the right of the next `>`. Modules parted by `|` do not know each other. Where modules
are parted by commas, no order is enforced.

"""
FIGURES = """
## Figures

Measured by [tools/house.py](../tools/house.py), which says what is counted. The last column is what one reads to understand
a method in full: its file, and every module of ours that its imports lead to.

"""


def contracts() -> dict[str, list[str]]:
    """Package -> its layers from the top down, as pyproject.toml has them."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layered: list[dict[str, Any]] = [each for each in linter["contracts"] if each["type"] == "layers"]
    return {package: each["layers"] for each in layered for package in each["containers"]}


def layers() -> str:
    """The folders of flawforge, one layer a line."""
    return "\n".join(["```text", *contracts()["flawforge"], "```"]) + "\n"


def modules() -> str:
    """A table of all packages: what each is for, and the order of its modules."""
    ordered = contracts()
    folders = [name for layer in ordered.pop("flawforge") for name in layer.split(" | ")]
    rows = ["| package | what it holds | its modules |", "|---|---|---|"]
    for name in [*(f"flawforge.{folder}" for folder in folders if folder != "__main__"), "flawforge_runtime"]:
        layered = ordered.get(name) or [(" | " if name == "flawforge.methods" else ", ").join(siblings(name))]
        rows.append(f"| `{name}` | {purpose(name)} | {' > '.join(layered).replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def siblings(package: str) -> list[str]:
    """The modules of a package without a contract of its own, by name; none where it is a module."""
    path = house.module_path(ROOT, package)
    assert path is not None, package
    return sorted(each.stem for each in path.parent.glob("*.py") if each != path) if path.name == "__init__.py" else []


def purpose(package: str) -> str:
    """The first line of its docstring."""
    path = house.module_path(ROOT, package)
    assert path is not None, package
    return (ast.get_docstring(house.parsed(path)) or "").splitlines()[0]


def page() -> str:
    """The whole page."""
    return TOP + layers() + MODULES + modules() + FIGURES + house.table()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
