"""How few good pictures will do, as a table: results/few_shot.csv -> docs/methods/auto.md. Run by `make docs`.

Of `auto` at two minutes: mean over the seeds, which draw the pictures, and their lowest and highest. A test compares
page and CSV.
"""

from __future__ import annotations

from pathlib import Path

from comparison_page import cell
from readme_table import NAMES
from record import read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "few_shot.csv"
PAGE = ROOT / "docs" / "methods" / "auto.md"
START, END = "<!-- few-shot: written by make docs -->\n", "<!-- end of few-shot -->\n"
FIGURES = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP", "aupro_0.3": "AUPRO 0.3"}
PROTOCOL = {"method": "auto", "minutes": "2"}


def table(results: Path = RESULTS) -> str:
    """Markdown: a row for each number of pictures; measured again, the last row of a seed stands."""
    found: dict[tuple[str, int], dict[str, dict[str, str]]] = {}
    for row in read(results)[1]:
        if all(row[key] == value for key, value in PROTOCOL.items()):
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


def filled(text: str, results: Path = RESULTS) -> str:
    """docs/methods/auto.md with its table as the CSV has it. Raises ValueError where the markers are missing."""
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"docs/methods/auto.md needs the lines {START.strip()} and {END.strip()}")
    return f"{before}{START}\n{table(results)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
