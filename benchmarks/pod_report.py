"""What `flawforge pod` says of two methods on three real products: the curves of a report, without its photographs.

    FLAWFORGE_DATA=... python benchmarks/pod_report.py [--data NAME ...] [--method NAME ...] [--minutes 2] [--models DIR]
        [--count 48] [--out FILE]

Each model is fitted by the command line with processor time for a clock (or taken from --models, named as accuracy.py
names them); defects are forged into its held-back good pictures. results/pod_report.csv has a row for each kind and
contrast: found of how many with its 95 % interval, a50, a90 and a90/95 in px of the picture, empty where not reached.
results/pod_report.svg draws them. How far such figures tell of real defects: docs/forged-and-real.md.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flawforge.judging.loading import load
from flawforge.pictures.dataset import good_entries, read_entries
from flawforge.proving.pod import forgers_of, prove, recipe_for
from record import read, record

RESULTS = Path(__file__).resolve().parent / "results" / "pod_report.csv"
DATA, METHODS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd"), ("auto", "patchstats")
INKS = {0.1: "#2b6cb0", 0.3: "#7a4bb5"}
ROW, LABEL, SCALE, COLUMN = 20, 150, 230, 300  # px of a line, of the names, of the axis, of a method's column


def main() -> int:
    options = _options()
    root = Path(os.environ.get("FLAWFORGE_DATA", "none"))
    missing = [name for name in options.data if not (root / name).is_dir()]
    if missing:
        raise SystemExit(f"FLAWFORGE_DATA holds no {', '.join(missing)}; set it, or correct --data.")
    for name in options.data:
        for method in options.method:
            with tempfile.TemporaryDirectory() as temporary:
                for row in rows(root / name, method, options, Path(options.models or temporary)):
                    record(options.out, row)
            print(name, method, flush=True)
    options.out.with_suffix(".svg").write_text(drawing(read(options.out)[1]), encoding="utf-8")
    return 0


def rows(data: Path, method: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each curve of one model."""
    model = folder / f"{data.name}_{method}_0"
    if not model.is_dir():
        command = ["fit", str(data), "-o", str(model), "--method", method, "--clock", "cpu"]
        command += ["--minutes", f"{options.minutes:g}"]
        subprocess.run([sys.executable, "-m", "flawforge", *command], check=True, stdout=subprocess.DEVNULL)
    inspector = load(model)
    config = inspector.content.config
    goods = [entry.path for entry in good_entries(read_entries(data))]
    recipe = recipe_for(forgers_of(config), count=options.count)
    proof = prove(inspector, goods, recipe).as_dict()
    about = {
        "data": data.name,
        "method": method,
        "minutes": config["training"].get("minutes"),
        "promised": inspector.calibration.false_alarm,
        "model_id": inspector.about["model_id"],
        "goods": proof["goods"],
    }
    kept = ("kind", "contrast", "n", "hits", "a50", "a50_95", "a90", "a90_95", "a90_95_by", "smallest", "largest", "why")
    made = []
    for curve in proof["curves"]:
        found = curve["recall"]
        recall = {"found": found["value"], "found_low": found["low"], "found_high": found["high"]}
        made.append(about | {key: curve[key] for key in kept} | recall)
    return made


def drawing(table: list[dict[str, str]]) -> str:
    """A standalone SVG: a90 a dot, a90/95 the end of its bar; a line per kind and contrast, a column per method."""
    latest = {tuple(row[key] for key in ("data", "method", "kind", "contrast")): row for row in table}
    sets, methods = (list(dict.fromkeys(key[i] for key in latest)) for i in (0, 1))
    parts, top = [], 30
    for name in sets:
        some = [row for row in latest.values() if row["data"] == name]
        low = math.log(min(float(row["smallest"]) for row in some))
        high = math.log(max(float(row["largest"]) for row in some))
        lines = list(dict.fromkeys((row["kind"], float(row["contrast"])) for row in some))
        parts.append(f'<text x="8" y="{top}" font-size="15" font-weight="600">{name}</text>')
        for j, method in enumerate(methods):
            mine = {(row["kind"], float(row["contrast"])): row for row in some if row["method"] == method}
            left = LABEL + j * COLUMN
            promised = next((float(row["promised"]) for row in mine.values()), 0.0)
            parts.append(f'<text x="{left}" y="{top}">{method}, false alarms up to {100 * promised:.1f} %</text>')
            for tick in (4, 8, 16, 32, 64, 128, 256, 512):
                if low <= math.log(tick) <= high:
                    x = left + SCALE * (math.log(tick) - low) / (high - low)
                    foot = top + 14 + ROW * len(lines)
                    parts.append(f'<path d="M{x:.1f} {top + 8}V{foot}" stroke="#e5e8ec"/>')
                    parts.append(f'<text x="{x:.1f}" y="{foot + 13}" text-anchor="middle" fill="#555">{tick}</text>')
            for i, key in enumerate(lines):
                y, ink = top + 22 + ROW * i, INKS.get(key[1], "#333")
                if j == 0:
                    words = f"{key[0]}, {key[1]:g}"
                    parts.append(f'<text x="{LABEL - 12}" y="{y + 4}" text-anchor="end" fill="{ink}">{words}</text>')
                parts += _line(mine.get(key), left, y, low, high, ink)
        top += 22 + ROW * len(lines) + 46
    note = "px of the picture, largest extent; dot: a90; end of the bar: a90/95, from there on 9 of 10 are found (95 %)"
    parts.append(f'<text x="8" y="{top - 6}" fill="#555">{note}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABEL + COLUMN * len(methods)} {top + 10}" '
    about = 'font-family="sans-serif" font-size="12" role="img" aria-label="Sizes of forged defects that are found">'
    return "\n".join([head + about, f'<rect width="100%" height="{top + 10}" fill="#fff"/>', *parts, "</svg>", ""])


def _line(row: dict[str, str] | None, left: float, y: float, low: float, high: float, ink: str) -> list[str]:
    if row is None:
        return []
    place = lambda size: left + SCALE * (math.log(float(size)) - low) / (high - low)  # noqa: E731
    dot = f'<circle cx="{place(row["a90"]):.1f}" cy="{y}" r="4" fill="{ink}"/>' if row["a90"] else ""
    if not row["a90_95"]:
        return [dot, f'<text x="{left + SCALE + 6}" y="{y + 4}" fill="#999">not reached</text>']
    end = place(row["a90_95"])
    start = place(row["a90"]) if row["a90"] else end
    return [f'<path d="M{start:.1f} {y}H{end:.1f}M{end:.1f} {y - 5}V{y + 5}" stroke="{ink}" stroke-width="2"/>', dot]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--method", nargs="+", default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=2.0, help="of processor time, for models that are not there yet")
    parser.add_argument("--models", help="folder of fitted models, DATA_METHOD_0; fitted there where missing")
    parser.add_argument("--count", type=int, default=48, help="forgeries per kind and contrast")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
