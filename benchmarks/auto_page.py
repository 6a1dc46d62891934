"""Fill the tables of docs/methods/auto.md from results/*.csv. Run by `make docs`.

- Accuracy after ten minutes of processor time, beside the statistics alone and the targets: with the trunk (accuracy.csv and
  auto_trunk.csv) and without it (accuracy.csv).
- Accuracy after two minutes with few pictures, which the seed draws (few_shot.csv).
- False alarms under variation, one model each (robustness.csv).

Cells hold the mean over the seeds, and the lowest and highest seed. A test compares page and CSV.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from comparison_page import cell
from readme_table import NAMES
from record import between, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "methods" / "auto.md"
MARKS = "<!-- {}: written by make docs -->\n", "<!-- end of {} -->\n"
FIGURES = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP", "aupro_0.3": "AUPRO 0.3"}
WORTH = FIGURES | {
    "peak_on_defect": "map peaks on the defect",
    "iou": "IoU at the threshold",
    "false_alarm_rate": "false alarms",
    "escape_rate": "escapes",
}
TEN = {"minutes": "10", "size": "256", "profile": "cpu", "settings": "", "clock": "cpu"}
TARGETS = {  # set before anything was measured: image AUROC, pixel AP, AUPRO 0.3, peak on the defect
    "mvtec_bottle": (0.995, 0.90, 0.965, 0.98),
    "magnetic_tile": (0.88, 0.30, 0.75, 0.75),
    "kolektorsdd": (0.88, 0.35, 0.80, 0.80),
    "aws_cookies": (0.95, 0.35, 0.85, 0.50),
}
WITH_TRUNK = {  # set before these were measured: after ten minutes, and by the statistics alone
    "mvtec_bottle": ((1.0, 0.92, 0.97, 0.99), (1.0, 0.82, 0.955, 0.98)),
    "magnetic_tile": ((0.93, 0.45, 0.80, 0.75), (0.88, 0.32, 0.75, 0.65)),
    "kolektorsdd": ((0.93, 0.45, 0.90, 0.85), (0.88, 0.25, 0.83, 0.65)),
    "aws_cookies": ((1.0, 0.60, 0.95, 0.80), (0.99, 0.45, 0.93, 0.75)),
}
FEW = {"method": "auto", "trunk": "lite0", "settings": "use=statistics"}


def worth(folder: Path = RESULTS) -> str:
    """Markdown: one row per data set and method, without the trunk; if a seed was measured again, its last row counts."""
    found = latest(folder / "accuracy.csv", TEN | {"trunk": ""})
    sets = [name for name in NAMES if (name, "auto") in found]
    if not sets:
        return "not measured yet\n"
    lines = heading("method")
    for name in sets:
        lines.append(target(name, "target", TARGETS[name]))
        for method in ("auto", "patchstats"):
            lines.append(line(name, f"`{method}`", found.get((name, method), []), TARGETS[name]))
    return "\n".join(lines) + "\n"


def with_trunk(folder: Path = RESULTS) -> str:
    """Markdown: the default with the trunk after ten minutes and its statistics alone, each under its targets."""
    ten = latest(folder / "accuracy.csv", TEN | {"trunk": "lite0"})
    alone = latest(folder / "auto_trunk.csv", TEN | {"trunk": "lite0", "minutes": "1", "settings": "use=statistics"})
    sets = [name for name in NAMES if (name, "auto") in ten or (name, "auto") in alone]
    if not sets:
        return "not measured yet\n"
    lines = heading("fit")
    for name in sets:
        for title, rows, least in zip(("ten minutes", "statistics alone"), (ten, alone), WITH_TRUNK[name], strict=True):
            lines.append(target(name, f"target, {title}", least))
            lines.append(line(name, title, rows.get((name, "auto"), []), least))
    return "\n".join(lines) + "\n"


def latest(path: Path, told: dict[str, str]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """(data set, method) -> its rows with these values and no error, the last one of each seed."""
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in read(path)[1]:
        if not row.get("error") and all(row.get(key, "") == value for key, value in told.items()):
            found.setdefault((row["data"], row["method"]), {})[row["seed"]] = row
    return {key: list(rows.values()) for key, rows in found.items()}


def heading(of: str) -> list[str]:
    """The table's first two lines."""
    return [f"| data set | {of} | {' | '.join(WORTH.values())} | targets met |", "|---" * (len(WORTH) + 3) + "|"]


def target(name: str, title: str, figures: Sequence[float]) -> str:
    """A row of targets."""
    cells = [f"{figure:.3f}" for figure in figures] + [""] * (len(WORTH) - len(figures))
    return f"| {NAMES[name]} | {title} | {' | '.join(cells)} | |"


def line(name: str, title: str, rows: Sequence[dict[str, str]], targets: Sequence[float]) -> str:
    """A row of means over these seeds."""
    return f"| {NAMES[name]} | {title} | {' | '.join([*(cell(rows, column) for column in WORTH), met(rows, targets)])} |"


def met(rows: Sequence[dict[str, str]], targets: Sequence[float]) -> str:
    """The targets that the mean over these rows reaches, by name; "" without rows."""
    if not rows:
        return ""
    columns = dict(zip(WORTH, targets, strict=False))
    means = {column: statistics.mean(float(row[column]) for row in rows if row.get(column)) for column in columns}
    return ", ".join(WORTH[column] for column, least in columns.items() if means[column] >= least) or "none"


def few(folder: Path = RESULTS) -> str:
    """Markdown: one row per number of pictures; if a seed was measured again, its last row counts."""
    found: dict[tuple[str, int], dict[str, dict[str, str]]] = {}
    for row in read(folder / "few_shot.csv")[1]:
        if all(row.get(key) == value for key, value in FEW.items()):
            found.setdefault((row["data"], int(row["count"])), {})[row["seed"]] = row
    if not found:
        return "not measured yet\n"
    sets = [name for name in NAMES if any(data == name for data, _ in found)]
    heads = [f"{NAMES[name]}, {title}" for name in sets for title in FIGURES.values()]
    lines = [f"| good pictures | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for count in sorted({count for _, count in found}):
        cells = [cell(list(found.get((name, count), {}).values()), column) for name in sets for column in FIGURES]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def moved(folder: Path = RESULTS) -> str:
    """Markdown: one row per model, its false-alarm rate under each variation; of repeated rows the last counts."""
    found: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in read(folder / "robustness.csv")[1]:
        options = [f"--tolerate {row['tolerate']}"] * bool(row["tolerate"]) + ["--align on"] * (row["align"] == "True")
        name = " ".join([row["method"], *options])
        found.setdefault((row["data"], row["method"], name), {})[row["variation"]] = row
    if not found:
        return "not measured yet\n"
    kinds = list(dict.fromkeys(variation for rows in found.values() for variation in rows))
    lines = [
        f"| data set | model | stated rate | {' | '.join(kinds)} | defects judged OK |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    for key in sorted(found, key=lambda key: (list(NAMES).index(key[0]), key[1:])):
        rows = found[key]
        first = next(iter(rows.values()))
        rates = [first["promised"], *(rows[kind]["false_alarm_rate"] for kind in kinds), first["escape"]]
        lines.append(f"| {NAMES[key[0]]} | `{key[2]}` | {' | '.join(f'{float(rate):.1%}' for rate in rates)} |")
    return "\n".join(lines) + "\n"


def filled(text: str, folder: Path = RESULTS) -> str:
    """The page with its tables filled from the CSVs. Raises ValueError if the markers are missing."""
    for name, table in (("ten minutes", worth), ("with the trunk", with_trunk), ("few-shot", few), ("robustness", moved)):
        first, last = (mark.format(name) for mark in MARKS)
        text = between(text, first, last, f"\n{table(folder)}\n")
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
