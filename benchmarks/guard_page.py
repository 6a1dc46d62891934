"""Fill the tables of docs/how-to/other-products.md from results/guard.csv. Run by `make docs`; a test compares them."""

from __future__ import annotations

from pathlib import Path

from readme_table import NAMES, ROOT
from record import between, read

RESULTS = ROOT / "benchmarks" / "results" / "guard.csv"
PAGE = ROOT / "docs" / "how-to" / "other-products.md"
START, END = "<!-- guard: written by make docs -->\n", "<!-- end of guard -->\n"
SHARES = ("0.05", "0.1", "0.25", "0.5", "0.9", "1")


def table(results: Path = RESULTS) -> str:
    """Two Markdown tables: pictures as they are, and pictures with a share of their rows or columns replaced."""
    latest = {(row["data"], row["kind"], row["share"]): row for row in read(results)[1]}
    names = [name for name in NAMES if any(key[0] == name for key in latest)]
    lines = ["| model | pictures | judged OK | rejected by the guard | total |", "|---|---|---|---|---|"]
    for name in names:
        for (data, kind, share), row in latest.items():
            if data == name and (share == "0" or kind.startswith("good ")):
                shown = kind if share == "0" else f"{NAMES[kind.removeprefix('good ')]}, good"
                guarded = int(row["invalid"]) + int(row["refused"])
                lines.append(f"| {NAMES[name]} | {shown} | {row['ok']} | {guarded} | {row['n']} |")
    kinds = dict.fromkeys(kind for _, kind, share in latest if share == "0.05")
    lines += ["", "| product | replaced by | " + " | ".join(f"{float(share):.0%}" for share in SHARES) + " |"]
    lines.append("|---|---|" + "---|" * len(SHARES))
    for name in names:
        for kind in kinds:
            cells = [latest[name, kind, share] for share in SHARES]
            counts = " | ".join(f"{row['ok']} of {row['n']}" for row in cells)
            lines.append(f"| {NAMES[name]} | {kind} | {counts} |")
    return "\n".join(lines) + "\n"


def filled(text: str, results: Path = RESULTS) -> str:
    """The page with its tables as the CSV has them. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{table(results)}\n")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
