"""Write docs/forgers/<name>.md from the docstrings and defaults of the forgers. Run by `make docs`; a test compares."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from flawforge.forge import FAMILIES, FORGERS

FOLDER = Path(__file__).resolve().parent / "forgers"


def pages() -> dict[str, str]:
    """{file name: Markdown}, one page per forger and an index."""
    family = {name: group for group, names in FAMILIES.items() for name in names}
    index = [
        "# Forgers\n",
        "*Written by `make docs` from the code.*\n",
        "A forger draws one kind of synthetic defect into a good picture. Methods train on forgers, and",
        "`flawforge pod` measures with them. The [gallery](../gallery/README.md) shows each one.\n",
    ]
    index += ["| forger | family | what it draws |\n|---|---|---|"]
    made = {}
    for name, kind in FORGERS.items():
        first, body = _docstring(kind)
        index.append(f"| [`{name}`]({name}.md) | {family.get(name, '')} | {first} |")
        made[f"{name}.md"] = _page(name, kind, first, body)
    return made | {"README.md": "\n".join(index) + "\n"}


def _docstring(kind: type) -> tuple[str, list[str]]:
    first, *body = inspect.cleandoc(kind.__doc__ or "").splitlines()
    return first, body


def _page(name: str, kind: type, first: str, body: list[str]) -> str:
    prose, words = _settings(body, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    parts = [f"# {name}\n", "*Written by `make docs` from the code.*\n", f"{first}\n", *prose]
    instance = kind()
    parts.append("| setting | default | meaning |\n|---|---|---|")
    for field in fields(kind):  # type: ignore[arg-type]
        parts.append(f"| `{field.name}` | `{getattr(instance, field.name)!r}` | {words.get(field.name, '')} |")
    parts.append(f"\n```sh\nflawforge forge DATA -o forged --forger {name}\n```\n")
    return "\n".join(parts)


def _settings(body: list[str], names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Paragraphs, and the text of each setting: a line "name[, name]  text" starts one, indented lines continue it."""
    paragraphs: list[str] = [""]
    words: dict[str, str] = {}
    open_for: list[str] = []
    for line in body:
        found = re.match(r"([a-z_]+(?:, [a-z_]+)*)  ?\s*(\S.*)", line)
        listed = found[1].split(", ") if found else []
        begins = open_for or not paragraphs[-1]  # else it is a sentence that happens to begin with a setting's name
        if found and begins and all(name in names for name in listed):
            open_for = listed
            words |= {name: found[2].replace("|", "\\|") for name in listed}
        elif open_for and line.startswith("   "):
            words |= {name: f"{words[name]} {line.strip()}".replace("|", "\\|") for name in open_for}
        else:
            open_for = []
            paragraphs[-1] += f"{line}\n"
            if not line:
                paragraphs.append("")
    return [f"{each.strip()}\n" for each in paragraphs if each.strip()], words


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for file, text in written.items():
        (FOLDER / file).write_text(text, encoding="utf-8")
    print(f"{FOLDER}: {len(written)} pages")
