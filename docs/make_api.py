"""Write docs/api.md, the list of public Python names. Run by `make docs`; a test compares the page with `page()`.

The page names each object where it is defined. mkdocstrings adds its signature and docstring when the site is built.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import flawforge
import flawforge_runtime

PAGE = Path(__file__).resolve().parent / "api.md"
TABLES = {
    "FORGERS": "Dictionary of all [forgers](forgers/README.md): name to class.",
    "METHODS": "Dictionary of all [methods](methods/README.md): name to `Method`.",
}
CALLED_PACKAGES = {"forge": "flawforge.reporting.contact_sheets"}  # packages that can be called, and where the function is
TOP = """# Python API

*Written by `make docs` from the code.*

```python
import flawforge as ff

inspector = ff.fit("parts/good", out="bracket")
decision = inspector("part.png")
```

`import flawforge` is fast: it loads torch only when a name that needs it is first used. An inspector judges a path, the
bytes of a file, a PIL image or an RGB array of shape (h, w, 3). Use `from_bgr` for pictures that OpenCV has read. Foreseen
errors, such as a wrong path or option, are raised as `FlawforgeError`. [How to use the library](python.md).

`flawforge_runtime` is the part that judges exported models without torch ([how](how-to/export.md)). It offers
{runtime} with the same meaning; its `load` opens exports only.
"""


def page() -> str:
    """The whole page as Markdown: a table of all names, then one entry for each function and class."""
    names = [name for name in flawforge.__all__ if not name.startswith("__")]
    shared = [f"`{name}`" for name in flawforge_runtime.__all__ if not name.startswith("__")]
    rows = [f"| `{name}` | {_summary(name)} |" for name in names]
    parts = [TOP.format(runtime=f"{', '.join(shared[:-1])} and {shared[-1]}"), "| name | what it is |\n|---|---|", *rows]
    kinds = {"Functions": inspect.isfunction, "Classes": inspect.isclass}
    for title, fits in kinds.items():
        parts += ["", f"## {title}"]
        parts += [f"\n::: {_home(value)}" for value in map(_object, names) if fits(value)]
    return "\n".join(parts) + "\n"


def _object(name: str) -> Any:
    value = getattr(flawforge, name)
    return getattr(import_module(CALLED_PACKAGES[name]), name) if inspect.ismodule(value) else value


def _summary(name: str) -> str:
    return TABLES.get(name) or (inspect.getdoc(_object(name)) or "").splitlines()[0].replace("|", "\\|")


def _home(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
