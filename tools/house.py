"""Measure this repository for docs/architecture.md: sizes of files and functions, tests, what a method costs to read.

    python tools/house.py [FOLDER]

FOLDER is another checkout of this repository; its `src`, `runtime/src` and `tests` are read and nothing is imported.
`make docs` writes the table through docs/make_architecture.py.

Code lines are lines that hold code: no blank ones, no comments, no docstrings. A function's length is its code lines without
its decorators, those of functions inside it included. Parameters are all that a function names, `self` and `cls` left out.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("src", "runtime/src")
PACKAGES = ("flawforge", "flawforge_runtime")
SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class House:
    """What is measured; lengths are sorted, shortest first.

    files       lines of each source file, with blanks and comments
    functions   code lines of each function of the sources
    parameters  of each function of the sources
    code, tests code lines of sources and tests
    mocks       names and arguments of the tests that are `mock`, `mocker`, `Mock`, `MagicMock` or `AsyncMock`
    """

    files: tuple[int, ...]
    functions: tuple[int, ...]
    parameters: tuple[int, ...]
    code: int
    tests: int
    mocks: int


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def code_lines(path: Path) -> frozenset[int]:
    """Numbers of the lines that hold code."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in SILENT:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            found -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return frozenset(found)


def measured(root: Path = ROOT) -> House:
    """Read the sources and tests under `root`."""
    sources = [path for source in SOURCES for path in sorted((root / source).rglob("*.py"))]
    tests = sorted((root / "tests").rglob("*.py"))
    functions, parameters = [], []
    for path in sources:
        for node in ast.walk(parsed(path)):
            if isinstance(node, Function):
                functions.append(len(code_lines(path) & set(range(node.lineno, (node.end_lineno or 0) + 1))))
                parameters.append(parameters_of(node))
    return House(
        files=tuple(sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in sources)),
        functions=tuple(sorted(functions)),
        parameters=tuple(sorted(parameters)),
        code=sum(len(code_lines(path)) for path in sources),
        tests=sum(len(code_lines(path)) for path in tests),
        mocks=sum(mocks_in(parsed(path)) for path in tests),
    )


def parameters_of(function: Function) -> int:
    """How many parameters a function names, `self` and `cls` left out."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *(each for each in (given.vararg, given.kwarg) if each)]
    return sum(each.arg not in ("self", "cls") for each in named)


def mocks_in(tree: ast.Module) -> int:
    """Uses of unittest's mock and of pytest's mocker in a file."""
    names = {"Mock", "MagicMock", "AsyncMock", "mocker", "mock"}
    used = (
        node.id if isinstance(node, ast.Name) else node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.arg)
    )
    return sum(name in names for name in used)


def quantile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of the sorted values do not exceed."""
    return values[min(int(share * len(values)), len(values) - 1)]


# ---- what one algorithm costs to read


def module_path(root: Path, name: str) -> Path | None:
    """The file of one of our modules, a package's `__init__`; None where the name is no module of ours."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    for source in SOURCES:
        stem = root.joinpath(source, *parts)
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    return None


def imports(root: Path, name: str) -> Iterator[str]:
    """Modules of ours that a module's import statements name, at the top and inside functions.

    `from a import b` names a.b where that is a module, else a. Imports under `if TYPE_CHECKING:` do not count.
    """
    path = module_path(root, name)
    assert path is not None, name
    tree = parsed(path)
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [each if module_path(root, each) else node.module for each in inner]
        else:
            continue
        yield from (each for each in named if module_path(root, each))


def reading(name: str, root: Path = ROOT) -> tuple[str, ...]:
    """A module and every module of ours that its imports lead to, sorted by name."""
    found, ahead = {name}, [name]
    while ahead:
        for each in imports(root, ahead.pop()):
            if each not in found:
                found.add(each)
                ahead.append(each)
    return tuple(sorted(found))


def cost(name: str, root: Path = ROOT) -> tuple[int, int]:
    """Modules to read for one algorithm, and their code lines."""
    modules = reading(name, root)
    return len(modules), sum(len(code_lines(path)) for path in (module_path(root, each) for each in modules) if path)


def table(root: Path = ROOT) -> str:
    """One Markdown row of all that is measured, under its head."""
    house = measured(root)
    files, functions, parameters = house.files, house.functions, house.parameters
    costs = []
    for method in ("draem", "auto"):
        modules, lines = cost(f"flawforge.methods.{method}", root)
        costs.append(f"{method} {modules} modules, {lines:,} lines")
    cells = {
        "files": f"{len(files)}",
        "code lines": f"{house.code:,}",
        "lines of a file, median / p90 / max": f"{quantile(files, 0.5)} / {quantile(files, 0.9)} / {files[-1]}",
        "code lines of a function, median / p90 / p99": " / ".join(str(quantile(functions, p)) for p in (0.5, 0.9, 0.99)),
        "parameters, p90 / max": f"{quantile(parameters, 0.9)} / {parameters[-1]}",
        "test lines per code line": f"{house.tests / house.code:.2f}",
        "mocks": f"{house.mocks}",
        "what one algorithm costs to read": "; ".join(costs),
    }
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells, ["---"] * len(cells), cells.values())) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, metavar="FOLDER")
    print(table(parser.parse_args().root), end="")
