"""Write docs/comparison.md, all methods at equal training time, from results/accuracy.csv. Run by `make docs`.

Only runs with the protocol below count: two minutes of processor time, working size 256, profile `cpu`, no
changed settings. A cell holds the mean over seeds and, in brackets, the lowest and highest seed. That is the spread of
the fit, not the interval of the test pictures, which every row of the CSV has. A test compares page and CSV.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from readme_table import NAMES
from record import method_of, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.csv"
PAGE = ROOT / "docs" / "comparison.md"
PROTOCOL = {"minutes": "2", "clock": "cpu", "size": "256", "profile": "cpu", "settings": ""}
FIGURES = {
    "image_auroc": "Image AUROC",
    "pixel_ap": "Pixel AP",
    "aupro_0.3": "AUPRO 0.3",
    "peak_on_defect": "Share of defective pictures whose map peaks on the defect",
    "false_alarm_rate": "False-alarm rate on good test pictures, at the default threshold",
    "escape_rate": "Escape rate at that threshold: share of defective pictures not judged NG",
}

Row = dict[str, str]


def runs(results: Path = RESULTS) -> dict[tuple[str, str], list[Row]]:
    """{(method, data set): one row per seed}; if a seed was measured again, its last row counts."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in read(results)[1]:
        if not row.get("error") and all(row.get(key, "") == value for key, value in PROTOCOL.items()):
            found.setdefault((method_of(row), row["data"]), {})[row["seed"]] = row
    return {key: list(seeds.values()) for key, seeds in found.items()}


def cell(rows: Sequence[Row], column: str) -> str:
    """Mean and range over seeds; "" where nothing was measured."""
    values = [float(row[column]) for row in rows if row.get(column)]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f} (one seed)"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(found: dict[tuple[str, str], list[Row]], column: str) -> str:
    """Markdown: one row per method, one column per data set."""
    methods = sorted({method for method, _ in found})
    sets = [name for name in NAMES if any(data == name for _, data in found)]
    lines = [f"| | {' | '.join(NAMES[name] for name in sets)} |", "|---" * (len(sets) + 1) + "|"]
    for method in methods:
        cells = [cell(found.get((method, name), []), column) for name in sets]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(results: Path = RESULTS) -> str:
    """All of docs/comparison.md."""
    found = runs(results)
    most = max((len(rows) for rows in found.values()), default=0)
    text = [
        "# Accuracy after two minutes\n",
        "Each method trained for two minutes of processor time on one core, on good pictures only: profile `cpu`, a canvas",
        f"of 256, last weights, the same settings for every product, up to {most} seeds. A cell holds the mean and, in",
        "brackets, the lowest and highest seed. An empty cell was not measured. `patchstats` takes seconds. A method",
        "named with a trunk, such as `patchcore, lite0`, uses the features of a network trained on ImageNet. The others use",
        "none (`--trunk none`), so the rows `auto` are not the default of `fit`, which is `auto, lite0`.\n",
        "Two minutes are short for methods that train by gradient descent. This page shows what a method achieves early;",
        "the [results](results.md) are after ten minutes. No setting was chosen with these figures.\n",
        "`benchmarks/accuracy.py --minutes 2` measures [every row](../benchmarks/results/accuracy.csv), and",
        "`benchmarks/comparison_page.py` writes this page.\n",
    ]
    for column, title in FIGURES.items():
        text += [f"## {title}\n", table(found, column)]
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
