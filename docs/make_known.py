"""Write src/flawforge/cli/known.py from the tables of methods and forgers. Run by `make docs`; a test compares them."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "src" / "flawforge" / "cli" / "known.py"
TOP = '''"""The names that the command line checks before it imports torch, and what it lists without torch.

Written by `make docs` from METHODS and FORGERS; do not edit by hand.
"""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """What a method is, and the names of its profiles and settings, with spaces between them."""

    title: str
    paper: str
    profiles: str
    settings: str


'''


def page() -> str:
    """The whole module."""
    from flawforge.forge import FORGERS
    from flawforge.methods import METHODS

    lines = ["METHODS: dict[str, Known] = {\n"]
    for name, method in METHODS.items():
        first = next(iter(method.profiles.values()))
        settings = " ".join(field.name for field in dataclasses.fields(first))
        values = ", ".join(_quoted(value) for value in (method.title, method.paper, " ".join(method.profiles), settings))
        lines.append(f'    "{name}": Known({values}),\n')
    lines += ["}\n\n", "FORGERS: dict[str, str] = {\n"]
    lines += [f'    "{name}": {_quoted((kind.__doc__ or "").strip().splitlines()[0])},\n' for name, kind in FORGERS.items()]
    return TOP + "".join(lines) + "}\n"


def _quoted(text: str) -> str:
    """A string literal, in parentheses and over several lines where it is long."""
    parts = textwrap.wrap(text, 90, drop_whitespace=False, break_on_hyphens=False) or [""]
    words = [json.dumps(part, ensure_ascii=False) for part in parts]
    return words[0] if len(words) == 1 else "(\n" + "\n".join(words) + "\n)"


def write() -> None:
    """Write the module, formatted as the rest of the source."""
    import subprocess
    import sys

    PAGE.write_text(page(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(PAGE)], check=True)


if __name__ == "__main__":
    write()
    print(PAGE)
