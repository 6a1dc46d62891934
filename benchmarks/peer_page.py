"""Fill the table of docs/peers.md from results/peer_trunk.csv. Run by `make docs`; a test compares page and CSV.

One row a data set and method: the last one measured, ours first, then anomalib's. Trials (`--pictures`) are left out.
"""

from __future__ import annotations

from pathlib import Path

from readme_table import NAMES, ROOT
from record import between, read

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "peer_trunk.csv", ROOT / "docs" / "peers.md"
START, END = "<!-- peers: written by make docs -->\n", "<!-- end of peers -->\n"
PEERS = {"patchcore": "PatchCore", "padim": "PaDiM"}
FIGURES = ("image_auroc", "pixel_ap", "aupro_0.3", "peak_on_defect")
COLUMNS = (
    "ours",
    "theirs",
    "data set",
    "fit, CPU s",
    "times as fast",
    "median of judging, ms",
    "times as fast",
    "image AUROC",
    "pixel AP",
    "AUPRO 0.3",
    "peak on the defect",
)

Row = dict[str, str]


def table(results: Path = RESULTS) -> str:
    """Markdown; "not measured yet" where there is no row."""
    rows = {(row["method"], row["data"]): row for row in read(results)[1] if not row["pictures"]}
    if not rows:
        return "not measured yet\n"
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for method in sorted({method for method, _ in rows}):
        for name in NAMES:
            if (method, name) in rows:
                lines.append(f"| {' | '.join(_cells(rows[method, name]))} |")
    machines = sorted({f"{row['machine']}, {row['threads']} thread{'s' * (row['threads'] != '1')}" for row in rows.values()})
    return "\n".join([*lines, "", f"Measured on: {'; '.join(machines)}."]) + "\n"


def _cells(row: Row) -> list[str]:
    minutes = f", {row['minutes']} min" if row["minutes"] else ""
    ours = "`auto`, its statistics" if row["method"] == "statistics" else f"`{row['method']}`{minutes}"
    share = f", {float(row['anomalib_coreset_ratio']):.0%} kept" if row.get("anomalib_coreset_ratio") else ""
    return [
        ours,
        PEERS[row["peer"]] + share,
        NAMES[row["data"]],
        f"{float(row['fit_cpu_seconds']):.0f} / {float(row['anomalib_fit_cpu_seconds']):.0f}",
        f"{float(row['ratio_fit_cpu_seconds']):.1f}",
        f"{float(row['judge_p50_ms']):.0f} / {float(row['anomalib_judge_p50_ms']):.0f}",
        f"{float(row['ratio_judge_p50_ms']):.1f}",
        *(f"{float(row[key]):.3f} / {float(row[f'anomalib_{key}']):.3f}" for key in FIGURES),
    ]


def filled(text: str, results: Path = RESULTS) -> str:
    """The page with its table as the CSV has it. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{table(results)}\n")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
