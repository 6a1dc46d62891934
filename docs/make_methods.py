"""Write the settings table of each docs/methods/<name>.md between its markers. Run by `make docs`; a test compares."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from flawforge.methods import METHODS
from flawforge.types import Method

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from record import between

FOLDER = Path(__file__).resolve().parent / "methods"
START, END = "<!-- settings: written by make docs -->\n", "<!-- end of settings -->\n"


def filled(text: str, method: Method) -> str:
    """The page with its table filled from the code. Raises ValueError if the markers are missing."""
    return between(text, START, END, table(method))


def table(method: Method) -> str:
    """One row per setting, one column per profile and one for --trunk none. The first profile is the default."""
    kinds = dict(method.profiles) | ({"--trunk none": method.scratch} if method.scratch else {})
    rows = ["| setting | " + " | ".join(f"`{name}`" for name in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for field in dataclasses.fields(method.tiny):
        values = [str(getattr(kind, field.name)) for kind in kinds.values()]
        rows.append(f"| `{field.name}` | " + " | ".join(values) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    for method in METHODS.values():
        page = FOLDER / f"{method.name}.md"
        page.write_text(filled(page.read_text(encoding="utf-8"), method), encoding="utf-8")
        print(page)
