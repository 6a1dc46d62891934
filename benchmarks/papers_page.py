"""Fill the tables of the four papers' methods from results/accuracy.csv. Run by `make docs`.

- docs/methods/README.md: each method after ten minutes of processor time on bottle, beside its target and its form of
  --trunk none.
- docs/methods/sgsf.md: sgsf beside draem on every data set, after the same minutes.

Cells hold the mean over the seeds, and the lowest and highest seed. A test compares pages and CSV.
"""

from __future__ import annotations

from pathlib import Path

from auto_page import MARKS, RESULTS, ROOT, TEN, latest
from comparison_page import cell
from readme_table import NAMES
from record import between

PAGES = ROOT / "docs" / "methods"
ON = "mvtec_bottle"
TRUNK, NONE = {"trunk": "lite0"}, {"trunk": ""}
TARGETS = {  # with the trunk, on bottle; set before they were measured: for the mean, but the IoU in every seed
    "cutswap": {"image_auroc": 0.999, "pixel_ap": 0.75},
    "sgsf": {"image_auroc": 0.99, "pixel_ap": 0.85},
    "anoseg": {"image_auroc": 0.98, "iou": 0.45},
    "isstad": {"image_auroc": 0.97},
}
FIGURES = {
    "image_auroc": "image AUROC",
    "pixel_ap": "pixel AP",
    "aupro_0.3": "AUPRO 0.3",
    "peak_on_defect": "map peaks on the defect",
    "iou": "IoU at the threshold",
}


def papers(folder: Path = RESULTS) -> str:
    """Markdown: per method its target, its default, and its form of --trunk none."""
    csv = folder / "accuracy.csv"
    trunk, none = latest(csv, TEN | TRUNK), latest(csv, TEN | NONE)
    lines = [f"| method | | {' | '.join(FIGURES.values())} |", "|---" * (len(FIGURES) + 2) + "|"]
    for method, targets in TARGETS.items():
        wanted = [f"{targets[column]:.3f}" if column in targets else "" for column in FIGURES]
        lines.append(f"| [{method}]({method}.md) | target | {' | '.join(wanted)} |")
        for title, found in (("default", trunk), ("`--trunk none`", none)):
            if rows := found.get((ON, method)):
                lines.append(f"| {method} | {title} | {' | '.join(cell(rows, column) for column in FIGURES)} |")
    return "\n".join(lines) + "\n"


def against_draem(folder: Path = RESULTS) -> str:
    """Markdown: sgsf and draem on every data set where both were measured."""
    csv = folder / "accuracy.csv"
    found = latest(csv, TEN | TRUNK) | {key: rows for key, rows in latest(csv, TEN | NONE).items() if key[1] == "draem"}
    sets = [name for name in NAMES if (name, "sgsf") in found and (name, "draem") in found]
    if not sets:
        return "not measured yet\n"
    lines = [f"| data set | method | {' | '.join(FIGURES.values())} |", "|---" * (len(FIGURES) + 2) + "|"]
    for name in sets:
        for method in ("sgsf", "draem"):
            cells = [cell(found[name, method], column) for column in FIGURES]
            lines.append(f"| {NAMES[name]} | `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


TABLES = {"papers": ("README.md", papers), "sgsf and draem": ("sgsf.md", against_draem)}


def filled(text: str, name: str, folder: Path = RESULTS) -> str:
    """The page with this table. Raises ValueError if the markers are missing."""
    first, last = (mark.format(name) for mark in MARKS)
    return between(text, first, last, f"\n{TABLES[name][1](folder)}\n")


if __name__ == "__main__":
    for name, (file, _) in TABLES.items():
        page = PAGES / file
        page.write_text(filled(page.read_text(encoding="utf-8"), name), encoding="utf-8")
        print(page)
