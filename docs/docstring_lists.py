"""Griffe extension: our docstrings list parameters as "name  what it is" lines; in the site they become a Markdown list."""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"([a-z_]+(?:, [a-z_]+)*)  +(\S.*)")


def as_markdown(text: str) -> str:
    """The docstring with each run of such lines, and the indented lines that continue them, as a list."""
    lines: list[str] = []
    listing = False
    for line in text.splitlines():
        item = ITEM.fullmatch(line)
        continues = listing and line.startswith("  ")
        if bool(item) != listing and not continues:
            lines.append("")
        listing = bool(item) or continues
        lines.append(f"- `{item[1]}`: {item[2]}" if item else f"    {line.strip()}" if continues else line)
    return "\n".join(lines)


class DocstringLists(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
