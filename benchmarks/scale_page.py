"""Fill docs/cost-of-scale.md and draw results/scale_points.svg from scale.csv, scale_points.csv and scale_simulation.csv.

Run by `make docs`; a test compares page and CSV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from readme_table import ROOT
from record import between, read

POINTS, SIMULATION = (ROOT / "benchmarks" / "results" / f"scale_{name}.csv" for name in ("points", "simulation"))
WORKERS = POINTS.with_name("scale.csv")
PICTURE, PAGE = POINTS.with_suffix(".svg"), ROOT / "docs" / "cost-of-scale.md"
START, END = "<!-- cost of scale: written by make docs -->\n", "<!-- end of cost of scale -->\n"
A_DAY, DAY, CORES = 10_000_000, 86400, 16
BUSY = 2.0  # load from which seconds by the clock say little
NOT_YET = "Not measured yet.\n"
WORDS = {
    "pictures": ("pictures judged", "picture", "bytes of its row"),
    "side": ("side of the pictures judged, px", "picture", "bytes read"),
    "good": ("good pictures of a fit", "fit", "bytes of the model folder"),
    "fit side": ("side of a fit's pictures, px", "fit", "bytes of the model folder"),
    "products": ("products", "product", "bytes of the model folder"),
    "commit": ("rows of a part file", "part file recorded", "bytes of a row"),
}
PANEL, EDGE, ACROSS, INK = 230, 66, 3, "#2b6cb0"

Row = dict[str, str]


def points(results: Path = POINTS) -> dict[str, list[Row]]:
    """The last row of each point, by what grows."""
    latest = {(row["what"], float(row["x"])): row for row in read(results)[1]}
    found = {what: [latest[key] for key in sorted(latest) if key[0] == what] for what in WORDS}
    return {what: rows for what, rows in found.items() if rows}


def each(row: Row) -> float:
    """Seconds of one picture or fit, of the processor; of one product or part, by the clock."""
    if row["what"] in ("pictures", "side"):
        return by(row, "cpu", "cpu_start")
    if row["what"] in ("products", "commit"):
        return float(row["seconds"]) / float(row["x" if row["what"] == "products" else "n"])
    return float(row["cpu"])


def by(row: Row, whole: str, start: str) -> float:
    """Seconds of one picture, without the start, by two columns."""
    return (float(row[whole]) - float(row[start])) / (float(row["x" if row["what"] == "pictures" else "n"]) - 1)


def exponent(rows: Sequence[Row]) -> tuple[float, float]:
    """b of seconds of all = a x^b, without the start, by least squares of the logarithms; and a."""
    x = np.log([float(row["x"]) for row in rows])
    (slope, level) = np.polyfit(x, np.log([whole(row) for row in rows]), 1)
    return float(slope), float(np.exp(level))


def whole(row: Row) -> float:
    """What grows: seconds of all pictures or products; of one picture, fit or part where its own size grows."""
    return each(row) * (float(row["x"]) if row["what"] in ("pictures", "products") else 1.0)


def tables(results: Path = POINTS, simulation: Path = SIMULATION, speed: Path = WORKERS) -> str:
    """The page's measured part."""
    found = points(results)
    if "pictures" not in found:
        return NOT_YET
    lines = [
        "| what grows | from | to | seconds of one | bytes of one | seconds grow with the power |",
        "|---|---|---|---|---|---|",
    ]
    for what, rows in found.items():
        name, one, kind = WORDS[what]
        first, last = rows[0], rows[-1]
        seconds = f"{_shown(each(first))} to {_shown(each(last))} a {one}"
        size = f"{_bytes(first)} to {_bytes(last)}, {kind}"
        cells = (name, _count(float(first["x"])), _count(float(last["x"])), seconds, size, f"{exponent(rows)[0]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    row = found["pictures"][-1]
    origin = f"{row['machine']}, one core; {row['date'][:10]}, commit {row['commit']}"
    methods = sorted({fit["method"] for fit in (*found.get("good", ()), *found.get("fit side", ()))})
    fits = f"; fits by `{'`, `'.join(methods)}`" if methods else ""
    clocks = "Seconds of pictures and fits are processor time; those of products and part files are by the clock"
    if len(found.get("products", ())) > 1:
        begun, more = clock(found["products"], "seconds")
        clocks += f"; a run of products takes {_shown(begun)} s to begin, and {_shown(more)} s for each product"
    lines += ["", f"{clocks}. Measured on: {origin}{fits}. Load of the machine: {_loads(found)}.", ""]
    parts = (a_day(found), workers(speed), cheaper(found["pictures"]), simulated(simulation))
    return "\n".join([*lines, *(line for part in parts for line in (*part, ""))][:-1]) + "\n"


def a_day(found: dict[str, list[Row]]) -> list[str]:
    """What ten million pictures a day cost."""
    first, row = found["pictures"][0], found["pictures"][-1]
    seconds, size = each(row), float(first["bytes_each"])  # later points see pictures again, whose rows take less
    machines = math.ceil(A_DAY * seconds / DAY / CORES)
    lines = [
        "### Ten million pictures a day",
        "",
        f"A picture takes {_shown(seconds)} s of such a core, so {_count(A_DAY)} pictures a day take "
        f"**{_count(math.ceil(A_DAY * seconds / DAY))} cores** that do nothing else, or "
        f"{machines} machine{'s' * (machines > 1)} of {CORES}. Their rows take {_size(A_DAY * size)} a "
        f"day. One core judges about {DAY / seconds / 1e6:.2g} million pictures a day, a machine with {CORES} cores about "
        f"{CORES * DAY / seconds / 1e6:.2g} million.",
    ]
    for row in found.get("side", ()):
        read_ = A_DAY * float(row["bytes_each"])
        cores = math.ceil(A_DAY * each(row) / DAY)
        lines += (
            [] if lines[-1].startswith("|") else ["", "| side, px | s a picture | cores | read a day |", "|---|---|---|---|"]
        )
        lines.append(f"| {_count(float(row['x']))} | {_shown(each(row))} | {_count(cores)} | {_size(read_)} |")
    return lines


def clock(rows: Sequence[Row], column: str) -> tuple[float, float]:
    """Seconds by the clock of the start of a command, and of each picture: the line of least squares."""
    seconds = [float(row[column]) for row in rows]
    (slope, start) = np.polyfit([float(row["x"]) for row in rows], seconds, 1)
    return float(start), float(slope)


def cheaper(rows: Sequence[Row]) -> list[str]:
    """Up to where one machine is quicker without Ray."""
    (begun, seconds), (idle, alone) = clock(rows, "ray_seconds"), clock(rows, "seconds")
    late = begun - idle
    lines = [
        "### Where one machine stays cheaper",
        "",
        f"In clock time (the seconds above are processor time), a run on Ray starts {_shown(late)} s later than the plain "
        f"command, and then takes {_shown(seconds)} s per picture and core instead of {_shown(alone)} s. The plain command "
        "has one process, so it is done first with fewer pictures than:",
        "",
        "| cores for Ray | pictures |",
        "|---|---|",
    ]
    for cores in (2, 4, CORES, 16 * CORES):
        gain = alone - seconds / cores
        lines.append(f"| {cores} | {_count(math.ceil(late / gain)) if gain > 0 else 'any number'} |")
    if max(float(row["load"]) for row in rows) > BUSY:
        lines += ["", "The machine was busy with other work, so these figures by the clock are rough."]
    return [
        *lines,
        "",
        f"Add a second machine only when one cannot finish in time: {CORES} cores judge about "
        f"{CORES * DAY / each(rows[-1]) / 1e6:.2g} million pictures a day.",
    ]


def workers(results: Path = WORKERS) -> list[str]:
    """The last row of `speed`: without Ray, with one worker and with two."""
    rows = read(results)[1]
    lines = ["### Two workers on one machine", ""]
    if not rows:
        return [*lines, NOT_YET.strip()]
    row = rows[-1]
    took = {way: (float(row[f"{way}_seconds"]), float(row[f"{way}_start"])) for way in ("plain", "one", "two")}
    lines += [
        f"All {_count(float(row['pictures']))} pictures of the four data sets, by a default with its segmenter, on an idle "
        f"machine (load {row['load']}). Without the start, two workers judge **{float(row['two_to_one']):.2f} times** as "
        f"fast as one, and one worker {float(row['one_to_plain']):.2f} times as fast as the plain command.",
        "",
        "| way | whole command, s | its start, s | s a picture |",
        "|---|---|---|---|",
    ]
    for way, name in (("plain", "without Ray"), ("one", "one worker"), ("two", "two workers")):
        seconds, start = took[way]
        lines.append(
            f"| {name} | {seconds:.0f} | {start:.1f} | {_shown((seconds - start) / (float(row['pictures']) - 1))} |"
        )
    return lines


def simulated(results: Path = SIMULATION) -> list[str]:
    """The simulation's table."""
    rows = list({int(row["nodes"]): row for row in read(results)[1]}.values())
    lines = ["### A simulation of up to 1,000 nodes", ""]
    if not rows:
        return [*lines, NOT_YET.strip()]
    lines += [
        "No cluster of this size was measured. The simulation takes two figures from the table above: "
        f"{_shown(float(rows[0]['seconds_each']))} s per picture, and the seconds in which the driver records a part file. "
        f"A node has {CORES} cores, and workers' speeds differ by 10 % (assumptions). Ray's own scheduling, the network and "
        "faults are left out. Where the driver is busy all the time, more nodes do not help.",
        "",
        f"| nodes | workers | pictures in a part file | {_count(A_DAY)} pictures take | cores busy | driver busy |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        hours = float(row["seconds"]) / 3600
        took = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
        shares = f"{float(row['efficiency']):.0%} | {float(row['driver_busy']):.0%}"
        lines.append(
            f"| {_count(float(row['nodes']))} | {_count(float(row['workers']))} | {row['part']} | {took} | {shares} |"
        )
    return lines


def _loads(found: dict[str, list[Row]]) -> str:
    loads = [float(row["load"]) for rows in found.values() for row in rows]
    return f"{min(loads):g} to {max(loads):g}"


def _bytes(row: Row) -> str:
    return _size(float(row["bytes_each"]))


def _size(count: float) -> str:
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count:.0f} B"


def _shown(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def drawing(results: Path = POINTS) -> str:
    """A standalone SVG: a panel with logarithmic axes for each of what grows, its points and the fitted power."""
    found = points(results)
    step = PANEL + EDGE + 24
    width, height = EDGE + ACROSS * step, -(-len(found) // ACROSS) * step
    about = 'role="img" aria-label="Seconds over what grows, with fitted powers"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" {about}>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for i, (what, rows) in enumerate(found.items()):
        parts += _panel(what, rows, EDGE + i % ACROSS * step, 26 + i // ACROSS * step)
    return "\n".join([*parts, "</svg>", ""])


def _panel(what: str, rows: Sequence[Row], left: int, top: int) -> list[str]:
    xs, ys = [float(row["x"]) for row in rows], [whole(row) for row in rows]
    slope, level = exponent(rows)
    low, high = min(ys) / 1.5, max(ys) * 1.5

    def x(value: float) -> float:
        return left + PANEL * math.log(value / xs[0] * 1.2) / math.log(xs[-1] / xs[0] * 1.44)

    def y(value: float) -> float:
        return top + PANEL * (1 - math.log(value / low) / math.log(high / low))

    grown = "all" if what in ("pictures", "products") else f"one {WORDS[what][1]}"
    parts = [
        f'<rect x="{left}" y="{top}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>',
        f'<text x="{left}" y="{top - 8}">{WORDS[what][0]}: power {slope:.2f}</text>',
        f'<text x="{left - 54}" y="{top + PANEL / 2}" transform="rotate(-90 {left - 54} {top + PANEL / 2})" '
        f'text-anchor="middle">seconds, {grown}</text>',
        f'<line x1="{x(xs[0]):.1f}" y1="{y(level * xs[0] ** slope):.1f}" x2="{x(xs[-1]):.1f}" '
        f'y2="{y(level * xs[-1] ** slope):.1f}" stroke="#999" stroke-dasharray="4 3"/>',
    ]
    for at, value in zip(xs, ys, strict=True):
        parts.append(f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="4" fill="{INK}"/>')
        parts.append(f'<text x="{x(at):.1f}" y="{top + PANEL + 16}" text-anchor="middle">{_count(at)}</text>')
    for value in (min(ys), max(ys)):
        parts.append(f'<text x="{left - 4}" y="{y(value) + 4:.1f}" text-anchor="end">{_shown(value)}</text>')
    return parts


def filled(text: str, results: Path = POINTS, simulation: Path = SIMULATION) -> str:
    """The page with its figures as the CSVs have them. Raises ValueError where the markers are missing."""
    return between(text, START, END, f"\n{tables(results, simulation)}\n")


if __name__ == "__main__":
    if points():
        PICTURE.write_text(drawing(), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
