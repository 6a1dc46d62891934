"""Fill the tables of README.md (the default method) and docs/results.md (all methods) from results/accuracy.csv.
Run by `make docs`.

One row per data set and method. Only runs of ten minutes on one core count (or less, if the method ends earlier), at
working size 256, with no changed settings and no error. Several seeds give the mean and, for image AUROC, the lowest and
highest seed. A single seed gives the 95 % interval of the test pictures. A test compares pages and CSV.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from record import between, method_of, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.csv"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
DEFAULT = ("auto, lite0",)
START, END = "<!-- accuracy: written by make docs -->\n", "<!-- end of accuracy -->\n"
PROTOCOL = {"minutes": "10", "size": "256", "settings": ""}
HEADER = (
    "| data set | good / defective | method | image AUROC | pixel AP | AUPRO 0.3 | map peaks on defect "
    "| false alarms (stated) | escapes |\n|---|---|---|---|---|---|---|---|---|\n"
)
NAMES = {
    "mvtec_bottle": "MVTec AD bottle",
    "magnetic_tile": "Magnetic tile",
    "kolektorsdd": "KolektorSDD",
    "aws_cookies": "AWS cookies",
}


def table(results: Path = RESULTS, methods: tuple[str, ...] = ()) -> str:
    """The Markdown table of these methods (none given: all), or "not measured yet"."""
    rows = [row for row in read(results)[1] if _counts(row) and (not methods or method_of(row) in methods)]
    if not rows:
        return "not measured yet\n"
    keys = sorted({(_place(row["data"]), row["data"], method_of(row), row["profile"]) for row in rows})
    return HEADER + "".join(_line(*key[1:], rows) for key in keys)


def _counts(row: dict[str, str]) -> bool:
    if row.get("error") or row.get("clock") == "wall":
        return False
    return all(row.get(key, "") == value for key, value in PROTOCOL.items())


def _place(data: str) -> int:
    return list(NAMES).index(data) if data in NAMES else len(NAMES)


def _line(data: str, method: str, profile: str, rows: list[dict[str, str]]) -> str:
    mine = [row for row in rows if (row["data"], method_of(row), row["profile"]) == (data, method, profile)]
    latest = list({row["seed"]: row for row in mine}.values())  # if a seed was measured again, its last row counts
    first = latest[0]
    cells = [
        NAMES.get(data, data),
        f"{first['n_good']} / {first['n_defective']}",
        f"`{method}`" + (f" {profile}" if profile else ""),
        _auroc(latest),
        _mean(latest, "pixel_ap"),
        _mean(latest, "aupro_0.3"),
        _mean(latest, "peak_on_defect"),
        f"{_mean(latest, 'false_alarm_rate')} ({_mean(latest, 'promised_false_alarm')})",
        _mean(latest, "escape_rate"),
    ]
    return f"| {' | '.join(cells)} |\n"


def _auroc(rows: list[dict[str, str]]) -> str:
    if len(rows) == 1:
        return f"{_mean(rows, 'image_auroc')} ({_mean(rows, 'image_auroc_low')} to {_mean(rows, 'image_auroc_high')})"
    values = [float(row["image_auroc"]) for row in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f} in {len(values)} seeds)"


def _mean(rows: list[dict[str, str]], column: str) -> str:
    values = [float(row[column]) for row in rows if row.get(column)]
    return f"{statistics.mean(values):.3f}" if values else "n/a"


def filled(text: str, results: Path = RESULTS, methods: tuple[str, ...] = ()) -> str:
    """A page with its table as the CSV has it. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{table(results, methods)}\n")


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8"), methods=DEFAULT), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(README, PAGE)
