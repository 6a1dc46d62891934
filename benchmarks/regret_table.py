"""Fill the regret of `auto`'s gate into docs/methods/auto.md from results/guided_ablation.csv. Run by `make docs`.

For each fit of the variant as shipped, the three candidates (statistics, segmenter, their sum) were evaluated on labelled
test pictures. Regret is the difference between the best of the three and the one that the gate chose without labels. The
regret of fixed rules, which need no gate, stands beside it. A test compares page and CSV.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from readme_table import NAMES
from record import between, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "guided_ablation.csv"
PAGE = ROOT / "docs" / "methods" / "auto.md"
START, END = "<!-- regret: written by make docs -->\n", "<!-- end of regret -->\n"
VARIANT = "as shipped"
MEASURES = (("picture", "image_auroc", "image AUROC"), ("map", "pixel_ap", "pixel AP"), ("map", "aupro_0.3", "AUPRO 0.3"))
CANDIDATES = ("statistics", "segmenter", "sum")

Row = dict[str, str]


def fits(results: Path = RESULTS) -> list[dict[str, Row]]:
    """{candidate: row} of each fit as shipped; if a fit was measured again, its last rows count."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in read(results)[1]:
        if row["variant"] == VARIANT:
            found.setdefault((row["data"], row["minutes"], row["seed"]), {})[row["candidate"]] = row
    return [found[key] for key in sorted(found) if set(found[key]) == set(CANDIDATES)]


def chosen(fit: dict[str, Row], aim: str) -> str:
    """The candidate that the gate chose for "picture" or "map"."""
    return next(name for name, row in fit.items() if aim in row["chosen"].split(" and "))


def regret(fit: dict[str, Row], column: str, candidate: str) -> float:
    """How far a candidate's figure on test pictures lies below the best one's; 0 or more."""
    return max(float(row[column]) for row in fit.values()) - float(fit[candidate][column])


def table(results: Path = RESULTS) -> str:
    """Two Markdown tables: every fit, then the gate beside fixed rules."""
    measured = fits(results)
    if not measured:
        return "not measured yet\n"
    lines = ["| data set | minutes, seed | for | figure | gate chose | value | best candidate | value | regret |"]
    lines += ["|---" * 9 + "|"]
    for fit in measured:
        one = fit["sum"]
        for aim, column, words in MEASURES:
            took, best = chosen(fit, aim), max(fit, key=lambda name: float(fit[name][column]))
            cells = [
                NAMES.get(one["data"], one["data"]),
                f"{one['minutes']}, {one['seed']}",
                aim,
                words,
                took,
                f"{float(fit[took][column]):.3f}",
                best,
                f"{float(fit[best][column]):.3f}",
                f"{regret(fit, column, took):.3f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Mean regret over {len(measured)} fits (largest in brackets):",
        "",
        "| for | figure | gate | " + " | ".join(f"always {name}" for name in CANDIDATES) + " |",
        "|---" * 6 + "|",
    ]
    for aim, column, words in MEASURES:
        rules = [[regret(fit, column, chosen(fit, aim)) for fit in measured]]
        rules += [[regret(fit, column, name) for fit in measured] for name in CANDIDATES]
        cells = [aim, words, *(f"{statistics.mean(each):.3f} ({max(each):.3f})" for each in rules)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def filled(text: str, results: Path = RESULTS) -> str:
    """docs/methods/auto.md with its tables as the CSV has them. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{table(results)}\n")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
