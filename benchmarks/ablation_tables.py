"""Fill the ablation table of each page in docs/methods from results/*_ablation.csv. Run by `make docs`.

The first row is the method as shipped. Every other row changes the one thing that names it, and shows the difference to the
first row, paired by seed: mean, lowest and highest. Steps are shown as they are: in the same minutes a variant may make more
or fewer, and so may a host. A difference is bold if three or more seeds, and all of them, agree on
its sign. If a change has no effect, three seeds still agree in one cell of four. Fits that the method stopped have no
figures; their number is given. A test compares pages and CSV.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from readme_table import NAMES
from record import between, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "methods"
START, END = "<!-- ablation {}: written by make docs -->\n", "<!-- end of ablation {} -->\n"
ENOUGH = 3  # seeds that must agree on a sign before a difference is bold


@dataclass(frozen=True)
class Table:
    """One table: rows of `results` with these cells, against the variant `base`, on `page`.

    also  {column of figures: another column read in its place, as a line of its own where a row has it, and its name}
    """

    name: str
    results: str
    page: str
    base: str
    cells: Mapping[str, str]
    figures: Mapping[str, str]
    also: Mapping[str, tuple[str, str]] = field(default_factory=dict)


FIGURES = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP"}
OUTLINES = {"image_auroc_top": "image AUROC", "iou_calibrated": "IoU at the threshold", "iou_best": "best IoU"}
STEPS = {"steps": "steps"}
SHORT = {"minutes": "1", "size": "128", "settings": ""}
LONG = {"minutes": "5", "size": "256", "settings": ""}
NONE, TRUNK = {"trunk": ""}, {"trunk": "lite0"}
TABLES = (
    Table(
        "cutswap",
        "cut_ablation.csv",
        "cutswap.md",
        "cutswap",
        {"budget": "1 minutes", "size": "128", "settings": ""},
        FIGURES,
    ),
    Table(
        "cut-trunk",
        "cut_ablation.csv",
        "cutswap.md",
        "trunk frozen",
        {"budget": "5 minutes", "size": "256", "settings": ""},
        FIGURES | STEPS,
    ),
    Table(
        "sgsf-trunk",
        "sgsf_ablation.csv",
        "sgsf.md",
        "trunk, reference",
        LONG,
        FIGURES | STEPS,
    ),
    Table("sgsf", "sgsf_ablation.csv", "sgsf.md", "reference", SHORT, FIGURES),
    Table(
        "anoseg",
        "anoseg_ablation.csv",
        "anoseg.md",
        "as shipped",
        SHORT | NONE,
        OUTLINES,
        {"image_auroc_top": ("image_auroc_detector", "{}, its own score")},
    ),
    Table("anoseg over a trunk", "anoseg_ablation.csv", "anoseg.md", "as shipped", LONG | TRUNK, OUTLINES | STEPS),
    Table(
        "guided",
        "guided_ablation.csv",
        "guided.md",
        "as shipped",
        {"minutes": "2", "candidate": "sum"},
        FIGURES | {"aupro_0.3": "AUPRO 0.3"},
    ),
    Table("isstad", "isstad_ablation.csv", "isstad.md", "product", SHORT | NONE, FIGURES),
    Table("isstad over a trunk", "isstad_ablation.csv", "isstad.md", "product", LONG | TRUNK, FIGURES | STEPS),
)


def measured(table: Table, folder: Path = RESULTS) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """{(variant, data set): {seed: row}}, in the CSV's order; if a seed was measured again, its last row counts."""
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in read(folder / table.results)[1]:
        if all(row.get(key, "") == value for key, value in table.cells.items()):
            found.setdefault((row["variant"], row["data"]), {})[row["seed"]] = row
    for (variant, data), rows in list(found.items()):
        for column, (other, name) in table.also.items():
            own = {seed: {"seed": seed, column: row[other]} for seed, row in rows.items() if row.get(other)}
            if own:
                found[name.format(variant), data] = own
    return found


def lines(table: Table, folder: Path = RESULTS) -> str:
    """The Markdown table, or "not measured yet"."""
    found = measured(table, folder)
    sets = [name for name in NAMES if (table.base, name) in found]
    if not sets:
        return "not measured yet\n"
    names = list(dict.fromkeys(variant for variant, _ in found if variant != table.base))
    heads = [f"{NAMES[name]}, {title}" for name in sets for title in table.figures.values()]
    minutes, size = (table.cells.get("minutes") or table.cells["budget"].split()[0]), table.cells.get("size", "256")
    seeds = max(len(rows) for rows in found.values())
    text = [
        f"{counted(minutes, 'minute')} of processor time per fit, a canvas of {size} x {size} pixels, "
        f"{counted(seeds, 'seed')}; [`{table.results}`](../../benchmarks/results/{table.results}).",
        "",
    ]
    text += [f"| variant | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for variant in (table.base, *names):
        rows = [row for name in sets for row in found.get((variant, name), {}).values()]
        stopped = sum(bool(row.get("stopped")) for row in rows)
        label = f"{variant} ({stopped} of {len(rows)} fits stopped)" if stopped else variant
        cells = []
        for name in sets:
            mine, base = found.get((variant, name), {}), found[table.base, name]
            for column in table.figures:
                if column in STEPS:
                    cells.append(whole([int(row[column]) for row in mine.values() if row.get(column)]))
                elif variant == table.base:
                    cells.append(spread([float(row[column]) for row in base.values() if row.get(column)], ""))
                else:
                    both = [seed for seed in mine if seed in base and mine[seed].get(column) and base[seed].get(column)]
                    cells.append(spread([float(mine[s][column]) - float(base[s][column]) for s in both], "+"))
        text.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def counted(number: str | int, thing: str) -> str:
    """1 minute, 2 minutes."""
    return f"{number} {thing}" if str(number) == "1" else f"{number} {thing}s"


def whole(values: Sequence[int]) -> str:
    """Lowest to highest of some counts."""
    return " to ".join(str(value) for value in sorted({min(values), max(values)})) if values else ""


def spread(values: Sequence[float], sign: str) -> str:
    """Mean (lowest to highest); differences (sign = "+") are bold where ENOUGH of them agree on their sign."""
    if not values:
        return ""
    shown = f"{statistics.mean(values):{sign}.3f} ({min(values):{sign}.3f} to {max(values):{sign}.3f})"
    if len(values) == 1:
        shown = f"{values[0]:{sign}.3f} (one seed)"
    agree = sign and len(values) >= ENOUGH and (min(values) > 0 or max(values) < 0)
    return f"**{shown}**" if agree else shown


def filled(text: str, table: Table, folder: Path = RESULTS) -> str:
    """The page with its table between its markers. Raises ValueError if the markers are missing."""
    first, last = START.format(table.name), END.format(table.name)
    return between(text, first, last, f"\n{lines(table, folder)}\n")


if __name__ == "__main__":
    for each in TABLES:
        page = PAGES / each.page
        page.write_text(filled(page.read_text(encoding="utf-8"), each), encoding="utf-8")
        print(page)
