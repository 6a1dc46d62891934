"""Write docs/python.ipynb: docs/python.md as a notebook. Run by `make docs`; a test compares the two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent / "python.md"
NOTEBOOK = SOURCE.with_suffix(".ipynb")
TOOLS = "*Written by `make docs` from [python.md](python.md). To run it: `pip install flawforge jupyterlab`, `jupyter lab`.*"


def notebook(page: str) -> str:
    """A notebook (nbformat 4.5) of the page: a code cell for each Python block, and the text between them."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)):
        text = part.strip().replace("# Python API\n", f"# Python API\n\n{TOOLS}\n", 1)
        if not text:
            continue
        cell: dict[str, Any] = {"cell_type": "code" if number % 2 else "markdown", "id": f"cell-{number}", "metadata": {}}
        cell |= {"source": text.splitlines(keepends=True)} | ({"execution_count": None, "outputs": []} if number % 2 else {})
        cells.append(cell)
    python = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"cells": cells, "metadata": python, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    print(NOTEBOOK)
