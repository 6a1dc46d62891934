"""Fill the tables of docs/forged-and-real.md from results/pod_trust*.csv. Run by `make docs`.

Only the tables between the markers are generated. A test compares page and CSV.
"""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

from scipy.stats import spearmanr

from pod_trust import KEY
from readme_table import NAMES
from record import between, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "pod_trust.csv"
PAGE = ROOT / "docs" / "forged-and-real.md"
START, END = "<!-- trust: written by make docs -->\n", "<!-- end of trust -->\n"
STEPS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the predicted recall, for the calibration

Row = dict[str, str]


def models(results: Path = RESULTS) -> list[Row]:
    """The rows at the models' own promised rates; if a model was measured again, its last row counts."""
    latest = {tuple(row[name] for name in KEY): row for row in read(results)[1]}
    order = list(NAMES)
    own = [row for row in latest.values() if float(row["rate"]) == 0]
    return sorted(
        own, key=lambda row: (order.index(row["data"]) if row["data"] in order else len(order), row["method"], row["seed"])
    )


def bins(results: Path = RESULTS) -> list[Row]:
    """The size bins of `models`."""
    rows = read(results.with_name(f"{results.stem}_bins.csv"))[1]
    latest = {tuple(row[name] for name in (*KEY, "from")): row for row in rows if float(row["rate"]) == 0}
    return list(latest.values())


def tables(results: Path = RESULTS) -> str:
    """All tables of the page, or "not measured yet"."""
    rows = models(results)
    if not rows:
        return "not measured yet\n"
    sized = bins(results)
    return "\n".join([*_each(rows), "", *_together(rows), "", *_by_size(sized), "", *_calibration(sized), ""])


def _each(rows: list[Row]) -> list[str]:
    heads = (
        "data set",
        "method (minutes)",
        "stated false-alarm rate",
        "actual recall",
        "predicted recall, faint to clear",
        "predicted minus actual",
        "AUC of predicted recall",
        "larger than any synthetic",
    )
    lines = ["### Every model", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [
            NAMES.get(row["data"], row["data"]),
            f"`{row['method']}` ({row['minutes'] or 'none'})",
            f"{float(row['promised']):.3f}",
            _interval(row, "real"),
            f"{float(row['forged']):.2f}, {float(row['faint']):.2f} to {float(row['plain']):.2f}",
            _interval(row, "gap"),
            _interval(row, "concordance"),
            f"{row['n_beyond']} of {row['n_real']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _together(rows: list[Row]) -> list[str]:
    heads = (
        "data set",
        "models",
        "rank correlation of predicted and actual",
        "mean absolute difference",
        "actual lies between faint and clear",
    )
    lines = [
        "### Does a higher predicted recall mean a higher actual recall?",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    names = dict.fromkeys(row["data"] for row in rows)
    groups = {NAMES.get(name, name): [row for row in rows if row["data"] == name] for name in names}
    for name, some in {**groups, "all": rows}.items():
        between = sum(float(row["faint"]) <= float(row["real"]) <= float(row["plain"]) for row in some)
        gap = statistics.mean(abs(float(row["gap"])) for row in some)
        lines.append(f"| {name} | {len(some)} | {_rank(some, 'forged', 'real')} | {gap:.2f} | {between} of {len(some)} |")
    return lines


def _by_size(rows: list[Row]) -> list[str]:
    lines = [
        "### By size",
        "",
        "Predicted / actual recall, averaged over the methods, from the smallest fifth of the real "
        "defects to the largest. Brackets: no synthetic defect was as large.",
        "",
    ]
    lines += ["| data set | " + " | ".join(f"fifth {i}" for i in range(1, 6)) + " |", "|---" * 6 + "|"]
    for name in sorted({row["data"] for row in rows}, key=lambda each: list(NAMES).index(each) if each in NAMES else 9):
        mine = [row for row in rows if row["data"] == name]
        cells = []
        for start in sorted({float(row["from"]) for row in mine}):
            some = [row for row in mine if float(row["from"]) == start]
            text = " / ".join(f"{statistics.mean(float(row[key]) for row in some):.2f}" for key in ("predicted", "real"))
            cells.append(text if any(int(row["n_forged"]) for row in some) else f"({text})")
        lines.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")
    return lines


def _calibration(rows: list[Row]) -> list[str]:
    lines = [
        "### Calibration",
        "",
        "All size bins of all models, grouped by predicted recall. Each real defect counts once per method.",
        "",
        "| predicted | bins | mean predicted | mean actual | actual, lowest to highest bin |",
        "|---" * 5 + "|",
    ]
    for low, high in itertools.pairwise(STEPS):
        some = [row for row in rows if low <= float(row["predicted"]) < high or high == float(row["predicted"]) == 1]
        if some:  # the last step takes its upper end in
            real = [float(row["real"]) for row in some]
            mean = statistics.mean(float(row["predicted"]) for row in some)
            spread = f"{min(real):.2f} to {max(real):.2f}"
            lines.append(f"| {low:g} to {high:g} | {len(some)} | {mean:.2f} | {statistics.mean(real):.2f} | {spread} |")
    return lines


def _interval(row: Row, name: str) -> str:
    if not row[name]:
        return "n/a"
    sign = "+" if name == "gap" else ""
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def _rank(rows: list[Row], one: str, other: str) -> str:
    pairs = [(float(row[one]), float(row[other])) for row in rows]
    if len(pairs) < 3 or len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return "n/a"
    found = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    if len(pairs) < 4:
        return f"{found:+.2f}"
    held = min(max(found, -0.999), 0.999)
    reach = 1.96 * math.sqrt((1 + held**2 / 2) / (len(pairs) - 3))  # Bonett and Wright, Psychometrika 65 (2000)
    low, high = (math.tanh(math.atanh(held) + side * reach) for side in (-1, 1))
    return f"{found:+.2f} ({low:+.2f} to {high:+.2f})"


def filled(text: str, results: Path = RESULTS) -> str:
    """docs/forged-and-real.md with its tables as the CSVs have them. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{tables(results)}\n")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
