"""Fill the table of docs/how-to/learn-from-reviews.md from results/real_defects.csv. Run by `make docs`; a test compares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from readme_table import NAMES, ROOT
from record import between, read

RESULTS = ROOT / "benchmarks" / "results" / "real_defects.csv"
PAGE = ROOT / "docs" / "how-to" / "learn-from-reviews.md"
START, END = "<!-- real defects: written by make docs -->\n", "<!-- end of real defects -->\n"
HEAD = (
    "| product | taught | real defects | tested on | image AUROC | pixel AP | judged NG | what counts for the picture |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table(results: Path = RESULTS) -> str:
    """A Markdown table: each product and tested group, from no real defect to the most; without rows a sentence."""
    rows = read(results)[1]
    if not rows:
        return "Not measured yet.\n"
    key = ("data", "kind", "defects", "tested", "minutes", "size", "trunk", "good", "seed")
    rows = list({tuple(row.get(name, "") for name in key): row for row in rows}.values())  # of one measured again, the last
    ways = dict.fromkeys((row["minutes"], row["size"], row["trunk"] or "the default", row["good"]) for row in rows)
    told = "; ".join(
        f"{minutes} processor-minutes a fit, canvas {size}, trunk {trunk}, {good} good pictures"
        for minutes, size, trunk, good in ways
    )
    order = sorted(
        rows, key=lambda row: (list(NAMES).index(row["data"]), row["tested"] == "other kinds", int(row["defects"]))
    )
    return "\n".join([f"`auto`, one seed; {told}.\n", HEAD, *map(_line, order)]) + "\n"


def _line(row: Mapping[str, str]) -> str:
    auroc = f"{float(row['image_auroc']):.3f} ({float(row['image_auroc_low']):.2f} to {float(row['image_auroc_high']):.2f})"
    recall = f"{float(row['recall']):.2f} ({float(row['recall_low']):.2f} to {float(row['recall_high']):.2f})"
    use = row["use"].partition(";")[0].removeprefix("for the picture ")
    tested, pixels = f"{row['tested']}, {row['n_defective']} pictures", f"{float(row['pixel_ap']):.3f}"
    return f"| {' | '.join([NAMES[row['data']], row['kind'], row['defects'], tested, auroc, pixels, recall, use])} |"


def filled(text: str, results: Path = RESULTS) -> str:
    """The page with its table as the CSV has it. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{table(results)}\n")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
