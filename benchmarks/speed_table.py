"""Fill the tables of docs/speed.md from results/speed.csv. Run by `make docs`.

One row per data set, model, backend and precision: the last one measured. Each p50 is also given relative to anomalib's on
the same pictures, where both were measured on one day. A test compares page and CSV.
"""

from __future__ import annotations

from pathlib import Path

from readme_table import NAMES
from record import between, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed.csv"
PAGE = ROOT / "docs" / "speed.md"
START, END = "<!-- speed: written by make docs -->\n", "<!-- end of speed -->\n"
STAGES = ("decode", "resize", "to network", "network", "score", "map to own size", "regions")
KEY = ("data", "who", "method", "backend", "precision", "threads", "trunk", "use")
ORDER = ("openvino", "onnx", "torch")

Row = dict[str, str]


def table(results: Path = RESULTS) -> str:
    """Two Markdown tables, times and steps, or "not measured yet"."""
    rows = list({tuple(row[key] for key in KEY): row for row in read(results)[1]}.values())
    order = ("data", "who", "method", "trunk", "use")
    rows.sort(key=lambda row: (*(row[key] for key in order), ORDER.index(row["backend"]), row["precision"]))
    if not rows:
        return "not measured yet\n"
    peers = [row for row in rows if row["who"] == "anomalib" and row["precision"] != "float32"]
    theirs = {(row["data"], row["date"][:10]): float(row["p50"]) for row in peers}
    lines = ["| data set | model | p50 ms | p95 | p99 | p50 / anomalib's | first verdict, s | MB |", "|---" * 8 + "|"]
    for row in rows:
        beside = theirs.get((row["data"], row["date"][:10]))
        ratio = f"{float(row['p50']) / beside:.2f}" if beside else ""
        cells = [
            *_named(row),
            *(f"{float(row[key]):.1f}" for key in ("p50", "p95", "p99")),
            ratio,
            _rounded(row["cold_start_seconds"], 2),
            _rounded(row["resident_mb"], 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Time of each step, median in milliseconds:", ""]
    lines += [f"| data set | model | {' | '.join(STAGES)} |", "|---" * (2 + len(STAGES)) + "|"]
    for row in rows:
        if row["who"] == "flawforge":
            lines.append(f"| {' | '.join([*_named(row), *(_rounded(row[f'ms {stage}'], 1) for stage in STAGES)])} |")
    machines = sorted({f"{row['processor']}, {row['threads']} threads" for row in rows if row["who"] == "flawforge"})
    return "\n".join([*lines, "", f"Measured on: {'; '.join(machines)}."]) + "\n"


def _named(row: Row) -> list[str]:
    data = NAMES.get(row["data"], row["data"])
    if row["who"] == "anomalib":
        return [data, f"anomalib: {row['method']}, {row['backend']}" + (" float32" if row["precision"] == "float32" else "")]
    how = [row["trunk"], "statistics alone" if row["use"] == "statistics" else ""]
    backend = row["backend"] + (" int8" if row["precision"] == "int8" else "")
    return [data, f"`{row['method']}` {', '.join([*filter(None, how), backend])}"]


def _rounded(cell: str, digits: int) -> str:
    return f"{float(cell):.{digits}f}" if cell else ""


def filled(text: str, results: Path = RESULTS) -> str:
    """The page with its tables as the CSV has them. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{table(results)}\n")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
