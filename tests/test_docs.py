"""What the pages say is what the code does: options, settings, links, figures, and the quick start as printed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from flawforge.cli.app import leaves
from flawforge.forge import FORGERS
from flawforge.methods import METHODS
from printed import smaller
from test_no_network import ALONE, may_unshare

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
QUICK_START = ROOT / "docs" / "quick-start.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
STALE = "is not what the code says; run: make docs"


def script(name: str) -> dict[str, Any]:
    """The names in one of our scripts, without running it as a program."""
    folder = str((ROOT / name).parent)
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(str(ROOT / name))
    finally:
        sys.path.remove(folder)


def test_cli_page_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == script("docs/make_cli.py")["page"](), f"docs/cli.md {STALE}"


def test_api_page_lists_the_public_names() -> None:
    assert (ROOT / "docs" / "api.md").read_text() == script("docs/make_api.py")["page"](), f"docs/api.md {STALE}"


def test_the_notebook_is_the_page() -> None:
    page, file = (ROOT / "docs" / "python.md").read_text(), ROOT / "docs" / "python.ipynb"
    assert file.read_text() == script("docs/make_notebook.py")["notebook"](page), f"{file.name} {STALE}"
    cells = json.loads(file.read_text())["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    program = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert program == "\n\n".join(
        block.strip() for block in page.split("```python\n")[1:] for block in [block.split("```")[0]]
    )


def test_every_command_and_option_stands_on_its_page() -> None:
    """Not by way of the generator, which could forget one."""
    text = (ROOT / "docs" / "cli.md").read_text()
    for name, command in leaves():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            for option in parameter.opts if isinstance(parameter, click.Option) else [(parameter.name or "").upper()]:
                assert option in section, f"{name} {option}"


def test_examples_are_commands_that_exist() -> None:
    examples = script("docs/make_cli.py")["EXAMPLES"]
    assert set(examples) == {name for name, _ in leaves()}
    commands = dict(leaves())
    for name, lines in examples.items():
        for line in lines:
            program, *arguments = shlex.split(line.partition(">")[0])
            words = name.split()
            assert [program, *arguments[: len(words)]] == ["flawforge", *words]
            commands[name].make_context(name, arguments[len(words) :])


def test_forger_pages_are_what_the_forgers_say() -> None:
    pages = script("docs/make_forgers.py")["pages"]()
    folder = ROOT / "docs" / "forgers"
    assert {path.name for path in folder.iterdir()} == set(pages), f"docs/forgers {STALE}"
    for name, text in pages.items():
        assert (folder / name).read_text() == text, f"docs/forgers/{name} {STALE}"


def test_every_setting_of_a_forger_is_on_its_page() -> None:
    for name, kind in FORGERS.items():
        text = (ROOT / "docs" / "forgers" / f"{name}.md").read_text()
        assert (kind.__doc__ or "").splitlines()[0] in text
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            assert f"| `{field.name}` |" in text, f"{name}: {field.name}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_page(name: str) -> None:
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.exists(), f"write {page}: paper section, our function, our deviation"
    text = page.read_text()
    assert script("docs/make_methods.py")["filled"](text, METHODS[name]) == text, f"{page} {STALE}"
    for field in dataclasses.fields(next(iter(METHODS[name].profiles.values()))):
        assert f"| `{field.name}` |" in text
    assert f"({name}.md)" in (ROOT / "docs" / "methods" / "README.md").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_functions_that_a_method_page_names_are_there(name: str) -> None:
    source = "".join(path.read_text() for part in ("methods", "nn") for path in (ROOT / "src/flawforge" / part).glob("*.py"))
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text().partition("<!-- settings")[0]
    cells = [line.split(" | ")[-2] for line in page.splitlines() if line.count(" | ") >= 2]
    named = {word.split(".")[-1] for cell in cells for word in re.findall(r"`([\w.]+)`", cell)}
    assert len(named) >= 5
    for word in named:
        assert re.search(rf"^\s*(def|class) {word}\b", source, re.MULTILINE), f"{name}.md names {word}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} -> {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} -> {link}"


def test_readme_figures_are_the_recorded_ones() -> None:
    text = README.read_text()
    page = script("benchmarks/readme_table.py")
    assert page["filled"](text, methods=page["DEFAULT"]) == text, f"README.md {STALE}"
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), f"docs/results.md {STALE}"
    assert len(text.splitlines()) <= 90


def test_guard_page_is_the_csv() -> None:
    text = (ROOT / "docs" / "how-to" / "other-products.md").read_text(encoding="utf-8")
    assert script("benchmarks/guard_page.py")["filled"](text) == text, f"docs/how-to/other-products.md {STALE}"


def test_the_page_on_reviews_is_the_csv() -> None:
    text = (ROOT / "docs" / "how-to" / "learn-from-reviews.md").read_text()
    assert script("benchmarks/real_defects_page.py")["filled"](text) == text, f"docs/how-to/learn-from-reviews.md {STALE}"


def test_readme_table_counts_each_row_once(tmp_path: Path) -> None:
    columns = [
        "data",
        "method",
        "profile",
        "minutes",
        "size",
        "settings",
        "seed",
        "n_good",
        "n_defective",
        "image_auroc",
        "image_auroc_low",
        "image_auroc_high",
        "pixel_ap",
        "aupro_0.3",
        "false_alarm_rate",
        "promised_false_alarm",
        "escape_rate",
        "error",
        "clock",
    ]
    rows = [
        ["b", "draem", "cpu", "10", "256", "", "4", "4", "6", "0.1", "0.1", "0.1", "0.1", "", "0", "0.05", "1", "", "wall"],
        ["b", "draem", "cpu", "10", "256", "", "0", "4", "6", "0.5", "0.4", "0.6", "0.7", "", "0", "0.05", "1", ""],
        ["b", "draem", "cpu", "10", "256", "", "0", "4", "6", "0.9", "0.8", "1", "0.8", "", "0", "0.05", "0.5", ""],
        ["b", "draem", "cpu", "10", "256", "", "1", "4", "6", "0.7", "0.6", "0.8", "0.6", "", "0.5", "0.05", "0.5", ""],
        ["b", "draem", "cpu", "1", "256", "", "2", "4", "6", "0.1", "0.1", "0.1", "0.1", "", "0", "0.05", "1", ""],
        ["b", "draem", "cpu", "10", "256", "", "3", "", "", "", "", "", "", "", "", "", "", "stopped"],
        ["aws_cookies", "draem", "cpu", "10", "256", "", "0", "2", "3", "1", "0.9", "1", "", "", "", "0.1", "", ""],
    ]
    file = tmp_path / "accuracy.csv"
    file.write_text("".join(",".join(row) + "\n" for row in [columns, *rows]))
    table = script("benchmarks/readme_table.py")["table"](file).splitlines()[2:]
    assert table == [
        "| AWS cookies | 2 / 3 | `draem` cpu | 1.000 (0.900 to 1.000) | n/a | n/a | n/a | n/a (0.100) | n/a |",
        "| b | 4 / 6 | `draem` cpu | 0.800 (0.700 to 0.900 in 2 seeds) | 0.700 | n/a | n/a | 0.250 (0.050) | 0.500 |",
    ]
    assert script("benchmarks/readme_table.py")["table"](tmp_path / "none.csv") == "not measured yet\n"


def test_the_comparison_is_the_recorded_one(tmp_path: Path) -> None:
    page = script("benchmarks/comparison_page.py")
    assert page["PAGE"].read_text() == page["page"](), "run `make docs`"
    columns = ["data", "method", "minutes", "clock", "size", "profile", "settings", "seed", "error", *page["FIGURES"]]
    rows = [
        ["aws_cookies", "draem", "2", "cpu", "256", "cpu", "", "0", "", "0.1", *"00000"],
        ["aws_cookies", "draem", "2", "cpu", "256", "cpu", "", "0", "", "0.5", *"00000"],  # again: this one stands
        ["aws_cookies", "draem", "2", "cpu", "256", "cpu", "", "1", "", "0.8", *"00000"],
        ["aws_cookies", "draem", "2", "cpu", "256", "cpu", "", "2", "stopped", "", *[""] * 5],
        ["aws_cookies", "draem", "2", "", "256", "cpu", "", "3", "", "1", *"00000"],  # by the wall clock
        ["mvtec_bottle", "auto", "2", "cpu", "256", "cpu", "", "0", "", "0.9", *"00000"],
    ]
    file = tmp_path / "accuracy.csv"
    file.write_text("".join(",".join(row) + "\n" for row in [columns, *rows]))
    assert page["table"](page["runs"](file), "image_auroc").splitlines() == [
        "| | MVTec AD bottle | AWS cookies |",
        "|---|---|---|",
        "| `auto` | 0.900 (one seed) |  |",
        "| `draem` |  | 0.650 (0.500 to 0.800) |",
    ]


def test_ablation_tables_are_the_recorded_ones() -> None:
    tables = script("benchmarks/ablation_tables.py")
    for each in tables["TABLES"]:
        page = tables["PAGES"] / each.page
        assert tables["filled"](page.read_text(), each) == page.read_text(), f"{each.page} {STALE}"


def test_an_ablation_is_paired_by_seed(tmp_path: Path) -> None:
    tables = script("benchmarks/ablation_tables.py")
    own = {"ap": ("own_ap", "{}, its own score")}
    table = tables["Table"]("x", "x.csv", "x.md", "base", {"minutes": "1", "size": "128"}, {"ap": "AP"}, own)
    rows = [
        ("base", 1, 0, 0.5),
        ("base", 1, 1, 0.6),
        ("base", 1, 2, 0.7),
        ("base", 2, 0, 0.0),
        ("up", 1, 0, 0.6),
        ("up", 1, 1, 0.8),
        ("up", 1, 2, 0.8),
        ("mixed", 1, 0, 0.6),
        ("mixed", 1, 1, 0.4),
        ("mixed", 1, 2, 0.7),
        ("two", 1, 1, 0.7),
        ("two", 1, 2, 0.8),
        ("two", 1, 3, 0.0),
    ]
    text = "".join(f"{name},mvtec_bottle,{minutes},128,{seed},{value},,\n" for name, minutes, seed, value in rows)
    text += "dies,mvtec_bottle,1,128,0,,,it has collapsed\ndies,mvtec_bottle,1,128,1,0.7,0.9,\n"
    (tmp_path / "x.csv").write_text("variant,data,minutes,size,seed,ap,own_ap,stopped\n" + text)
    lines = tables["lines"](table, tmp_path).splitlines()
    counts = tables["Table"]("x", "x.csv", "x.md", "base", {"minutes": "1", "size": "128"}, {"steps": "steps"})
    (tmp_path / "steps").mkdir()
    made = "".join(
        f"{name},mvtec_bottle,1,128,{seed},{steps}\n"
        for name, seed, steps in (("base", 0, 90), ("base", 1, 80), ("up", 1, 70))
    )
    (tmp_path / "steps" / "x.csv").write_text("variant,data,minutes,size,seed,steps\n" + made)
    assert tables["lines"](counts, tmp_path / "steps").splitlines()[-2:] == ["| base | 80 to 90 |", "| up | 70 |"]
    assert lines[0].startswith("1 minute of processor time per fit, a canvas of 128 x 128 pixels, 3 seeds;")
    assert lines[4:] == [
        "| base | 0.600 (0.500 to 0.700) |",
        "| up | **+0.133 (+0.100 to +0.200)** |",
        "| mixed | -0.033 (-0.200 to +0.100) |",
        "| two | +0.100 (+0.100 to +0.100) |",
        "| dies (1 of 2 fits stopped) | +0.100 (one seed) |",
        "| dies, its own score | +0.300 (one seed) |",
    ]
    assert tables["lines"](table, tmp_path / "none") == "not measured yet\n"


def test_the_speed_on_its_page_is_the_recorded_one() -> None:
    page = script("benchmarks/speed_table.py")
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), "run `make docs`"


def test_a_row_of_speed_stands_beside_anomalibs(tmp_path: Path) -> None:
    stages = ("decode", "resize", "to network", "network", "score", "map to own size", "regions")
    columns = [
        "data",
        "who",
        "method",
        "backend",
        "precision",
        "threads",
        "trunk",
        "use",
        "p50",
        "p95",
        "p99",
        "cold_start_seconds",
        "resident_mb",
        "processor",
        "date",
        *(f"ms {stage}" for stage in stages),
    ]
    ours, theirs = ["b", "flawforge", "auto"], ["b", "anomalib", "padim"]
    first, second = "2026-01-02T10", "2026-01-03T10"
    rows = [
        [*ours, *["onnx", "float32", "2"], "", "", *["9", "9", "9", "1", "500", "chip"], first, *"1234567"],
        [*ours, *["onnx", "float32", "2"], "", "", *["8", "9", "10", "0.5", "400", "chip"], first, *"1234567"],
        [*ours, *["onnx", "float32", "2", "lite0", "statistics", "7", "9", "10", "1", "4", "chip"], second, *"1234567"],
        [*ours, *["openvino", "int8", "2"], "", "", *["4", "5", "6"], "", "400", "chip", first, *"1111111"],
        [*theirs, "openvino", "", "2", "", "", *["16", "20", "30"], "", "", "", first, *[""] * 7],
    ]
    file = tmp_path / "speed.csv"
    file.write_text("".join(",".join(row) + "\n" for row in [columns, *rows]))
    lines = script("benchmarks/speed_table.py")["table"](file).splitlines()
    assert "| b | `auto` onnx | 8.0 | 9.0 | 10.0 | 0.50 | 0.50 | 400 |" in lines
    assert "| b | `auto` lite0, statistics alone, onnx | 7.0 | 9.0 | 10.0 |  | 1.00 | 4 |" in lines
    assert "| b | `auto` openvino int8 | 4.0 | 5.0 | 6.0 | 0.25 |  | 400 |" in lines
    assert "| b | anomalib: padim, openvino | 16.0 | 20.0 | 30.0 | 1.00 |  |  |" in lines
    assert "| b | `auto` onnx | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 6.0 | 7.0 |" in lines
    assert lines[-1] == "Measured on: chip, 2 threads."


def test_what_peers_do_is_the_recorded(tmp_path: Path) -> None:
    page, record = script("benchmarks/peer_page.py"), script("benchmarks/record.py")["record"]
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), "run `make docs`"
    rows = tmp_path / "rows.csv"
    assert page["table"](rows) == "not measured yet\n"
    row = {
        "data": "mvtec_bottle",
        "method": "patchcore",
        "peer": "patchcore",
        "minutes": None,
        "threads": 1,
        "pictures": None,
    }
    for key, mine, theirs in (("fit_cpu_seconds", 17, 215), ("judge_p50_ms", 20, 46)):
        row |= {key: mine, f"anomalib_{key}": theirs, f"ratio_{key}": theirs / mine}
    for key in page["FIGURES"]:
        row |= {key: 0.75, f"anomalib_{key}": 0.5}
    record(rows, row | {"judge_p50_ms": 99})
    record(rows, row | {"anomalib_coreset_ratio": 0.01})
    record(rows, row | {"pictures": 10, "data": "aws_cookies"})
    lines = page["table"](rows).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith(
        "| `patchcore` | PatchCore, 1% kept | MVTec AD bottle | 17 / 215 | 12.6 | 20 / 46 | 2.3 | 0.750 / 0.500 |"
    )
    assert lines[-1].endswith(", 1 thread.")


def test_the_cost_of_scale_is_the_recorded(tmp_path: Path) -> None:
    page, record = script("benchmarks/scale_page.py"), script("benchmarks/record.py")["record"]
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), "run `make docs`"
    points, nodes, speed = (tmp_path / f"{name}.csv" for name in ("points", "nodes", "speed"))
    assert page["tables"](points, nodes, speed) == "Not measured yet.\n"
    for count in (10, 20, 40):  # 2 s of the processor; by the clock 2 s on Ray after 30 s, 1.9 s without after 10 s
        seconds = {"ray_seconds": 30 + 2 * (count - 1), "ray_start": 30, "seconds": 10 + 1.9 * (count - 1), "start": 10}
        seconds |= {"cpu": 8 + 2 * (count - 1), "cpu_start": 8}
        record(points, {"what": "pictures", "x": count, **seconds, "bytes_each": 500, "load": 1.5, "method": ""})
    for side in (256, 1024):  # four times the side, sixteen times the seconds
        told = {"x": side, "n": 11, "cpu": 10 + 10 * (side / 256) ** 2, "cpu_start": 10, "bytes_each": side**2}
        record(points, {"what": "side", **told, "load": 1.5})
    seconds = {
        "plain_seconds": 101,
        "one_seconds": 110,
        "two_seconds": 60,
        "plain_start": 1,
        "one_start": 10,
        "two_start": 10,
    }
    record(speed, {"pictures": 101, "load": 0.5, **seconds, "two_to_one": 2.0, "one_to_plain": 1.0})
    text = page["tables"](points, nodes, speed)
    assert "two workers judge **2.00 times** as fast" in text
    assert "| two workers | 60 | 10.0 | 0.5 |" in text
    assert "| pictures judged | 10 | 40 | 2 to 2 a picture | 500 B to 500 B, bytes of its row | 1.00 |" in text
    assert "1 to 16 a picture | 65.5 kB to 1.05 MB, bytes read | 2.00 |" in text
    assert "**232 cores**" in text  # 10,000,000 pictures of 2 s in 86,400 s
    assert "15 machines of 16" in text
    assert "| 2 | 23 |" in text  # 20 s later, and 0.9 s less a picture
    assert "| 1,024 | 16 | 1,852 | 10.5 TB |" in text
    assert text.endswith("Not measured yet.\n")
    assert page["drawing"](points).count("<circle") == 5
    assert "busy with" not in text
    again = {"ray_seconds": 108, "ray_start": 30, "seconds": 84.1, "start": 10, "cpu": 86, "cpu_start": 8}
    record(points, {"what": "pictures", "x": 40, **again, "bytes_each": 500, "load": 3.0})
    assert "busy with" in page["tables"](points, nodes, speed)


def test_the_regret_on_its_page_is_the_recorded_one() -> None:
    page = script("benchmarks/regret_table.py")
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), "run `make docs`"


def test_the_four_papers_on_their_pages_are_the_recorded(tmp_path: Path) -> None:
    page, record = script("benchmarks/papers_page.py"), script("benchmarks/record.py")["record"]
    for name, (file, _) in page["TABLES"].items():
        text = (page["PAGES"] / file).read_text(encoding="utf-8")
        assert page["filled"](text, name) == text, "run `make docs`"
    assert page["against_draem"](tmp_path) == "not measured yet\n"
    fits = [("sgsf", "lite0", 0, 0.5), ("sgsf", "lite0", 1, 0.75), ("sgsf", "", 0, 0.25), ("draem", "", 0, 0.125)]
    for method, trunk, seed, precision in fits:
        row = {"data": "mvtec_bottle", "method": method, **page["TEN"], "trunk": trunk, "seed": seed}
        record(tmp_path / "accuracy.csv", row | dict.fromkeys(page["FIGURES"], 1.0) | {"pixel_ap": precision})
    same = "1.000 (one seed)"
    assert page["against_draem"](tmp_path).splitlines()[2:] == [
        "| MVTec AD bottle | `sgsf` | 1.000 (1.000 to 1.000) | 0.625 (0.500 to 0.750) "
        + "| 1.000 (1.000 to 1.000) " * 3
        + "|",
        f"| MVTec AD bottle | `draem` | {same} | 0.125 (one seed) | {same} | {same} | {same} |",
    ]
    lines = page["papers"](tmp_path).splitlines()
    assert "| [sgsf](sgsf.md) | target | 0.990 | 0.850 |  |  |  |" in lines
    assert f"| sgsf | `--trunk none` | {same} | 0.250 (one seed) | {same} | {same} | {same} |" in lines
    assert not any(line.startswith("| draem") for line in lines)


def test_what_auto_is_worth_is_the_recorded(tmp_path: Path) -> None:
    page, record = script("benchmarks/auto_page.py"), script("benchmarks/record.py")["record"]
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), "run `make docs`"
    tables = [page[name](tmp_path) for name in ("few", "worth", "moved", "with_trunk")]
    assert tables == ["not measured yet\n"] * 4
    lite, none = "lite0", ""
    rows = [(10, 0, 0.9, lite), (2, 0, 0.5, lite), (2, 1, 0.7, lite), (2, 2, 0.0, none), (10, 0, 0.8, lite)]
    for count, seed, auroc, trunk in rows:
        record(
            tmp_path / "few_shot.csv",
            {
                "data": "mvtec_bottle",
                "method": "auto",
                "trunk": trunk,
                "settings": "use=statistics",
                "count": count,
                "seed": seed,
                "image_auroc": auroc,
                "pixel_ap": 0.25,
                "aupro_0.3": 0.5,
            },
        )
    same = dict.fromkeys(list(page["WORTH"])[2:], 0.5)
    fits = [
        ("auto", "cpu", 0, 0.9),
        ("auto", "cpu", 1, 0.7),
        ("auto", "cpu", 0, 0.8),
        ("auto", "wall", 0, 0.6),
        ("draem", "cpu", 0, 0.1),
    ]
    for method, clock, seed, precision in fits:
        row = {"data": "magnetic_tile", "method": method, **page["TEN"], "clock": clock, "seed": seed} | same
        record(tmp_path / "accuracy.csv", row | {"image_auroc": 0.5, "pixel_ap": precision})
    for align, variation, rate in ((False, "as it is", 0.25), (True, "as it is", 0.5), (True, "as it is", 0.125)):
        row = {"data": "magnetic_tile", "method": "auto", "tolerate": "all", "align": align, "variation": variation}
        record(tmp_path / "robustness.csv", row | {"false_alarm_rate": rate, "promised": 0.01, "escape": 0})
    assert page["moved"](tmp_path).splitlines()[2:] == [
        "| Magnetic tile | `auto --tolerate all` | 1.0% | 25.0% | 0.0% |",
        "| Magnetic tile | `auto --tolerate all --align on` | 1.0% | 12.5% | 0.0% |",
    ]
    row = {"data": "magnetic_tile", "method": "auto", **page["TEN"], "trunk": "lite0"} | same
    record(tmp_path / "accuracy.csv", row | {"seed": 0, "image_auroc": 0.5, "pixel_ap": 0.25})
    record(tmp_path / "accuracy.csv", row | {"seed": 0, "image_auroc": 0.5, "pixel_ap": 0.5})
    for minutes, settings, auroc in ((1, "use=statistics", 0.5), (2, "", 0.25), (1, "use=statistics", 0.75)):
        fit = row | {"minutes": minutes, "settings": settings, "seed": 0, "image_auroc": auroc, "pixel_ap": 1}
        record(tmp_path / "auto_trunk.csv", fit)
    one = " | 0.500 (one seed)"
    assert page["with_trunk"](tmp_path).splitlines()[2:] == [
        "| Magnetic tile | target, ten minutes | 0.930 | 0.450 | 0.800 | 0.750 |  |  |  | |",
        "| Magnetic tile | ten minutes" + 7 * one + " | pixel AP |",
        "| Magnetic tile | target, statistics alone | 0.880 | 0.320 | 0.750 | 0.650 |  |  |  | |",
        "| Magnetic tile | statistics alone | 0.750 (one seed) | 1.000 (one seed)" + 5 * one + " | pixel AP |",
    ]
    half = "0.500 (0.500 to 0.500)"
    assert page["worth"](tmp_path).splitlines()[2:] == [
        "| Magnetic tile | target | 0.880 | 0.300 | 0.750 | 0.750 |  |  |  | |",
        f"| Magnetic tile | `auto` | {half} | 0.750 (0.700 to 0.800)" + 5 * f" | {half}" + " | pixel AP |",
        "| Magnetic tile | `patchstats` |" + 8 * "  |",
    ]
    assert page["few"](tmp_path).splitlines()[2:] == [
        "| 2 | 0.600 (0.500 to 0.700) | 0.250 (0.250 to 0.250) | 0.500 (0.500 to 0.500) |",
        "| 10 | 0.800 (one seed) | 0.250 (one seed) | 0.500 (one seed) |",
    ]


def test_forged_and_real_on_their_page_are_the_recorded_ones(tmp_path: Path) -> None:
    page = script("benchmarks/trust_page.py")
    assert page["filled"](page["PAGE"].read_text()) == page["PAGE"].read_text(), "run `make docs`"
    assert page["tables"](tmp_path / "none.csv") == "not measured yet\n"


def test_regret_is_what_the_chosen_one_falls_short_of_the_best(tmp_path: Path) -> None:
    page, record = script("benchmarks/regret_table.py"), script("benchmarks/record.py")["record"]
    path = tmp_path / "ablation.csv"
    facts = {"statistics": (0.9, 0.5, "picture"), "segmenter": (0.7, 0.4, "map"), "sum": (0.95, 0.8, "")}
    for seed in (1, 0, 1):  # the last of a seed stands
        for name, (auroc, precision, took) in facts.items():
            row = {
                "variant": "as shipped",
                "data": "parts",
                "minutes": 2.0,
                "seed": seed,
                "candidate": name,
                "chosen": took,
                "image_auroc": auroc if seed else 0.95,
                "pixel_ap": precision,
                "aupro_0.3": 1 - precision,
            }
            record(path, row)
    first, second = page["fits"](path)
    assert (page["chosen"](first, "picture"), page["chosen"](first, "map")) == ("statistics", "segmenter")
    assert page["regret"](first, "image_auroc", "statistics") == 0
    assert page["regret"](second, "image_auroc", "statistics") == pytest.approx(0.05)
    assert page["regret"](second, "pixel_ap", "segmenter") == pytest.approx(0.4)
    assert "| map | AUPRO 0.3 | 0.000 (0.000) | 0.100 (0.100) | 0.000 (0.000) | 0.400 (0.400) |" in page["table"](path)
    assert "| picture | image AUROC | 0.025 (0.050) | 0.025 (0.050) | 0.125 (0.250) | 0.000 (0.000) |" in page["table"](path)
    assert page["table"](tmp_path / "none.csv") == "not measured yet\n"


def test_picture_is_there_and_small() -> None:
    assert 10_000 < (ROOT / "docs" / "tour.jpg").stat().st_size < 150_000


def fenced(page: Path, language: str) -> str:
    """All blocks of one language on a page, one after another."""
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def commands(page: Path) -> list[list[str]]:
    return [words for line in fenced(page, "sh").splitlines() if (words := shlex.split(line, comments=True))]


def test_the_readme_shows_steps_of_the_quick_start() -> None:
    """The quick start is run below, so what the README shows is run too."""
    steps = commands(QUICK_START)
    assert len(commands(README)) == 5
    assert all(command in steps for command in commands(README))
    assert fenced(README, "python") == fenced(QUICK_START, "python") != ""
    assert commands(README) == [command for command in steps if command in commands(README)]


# Fewer parts and synthetic defects, and a demo without training: every command still runs to its end.
QUICK = {
    "--good 60 --minutes 0.2\n": "--good 24 --method patchstats --count 1\n",
    "-o washer --minutes 0.2": "-o washer --minutes 0.01 --size 64",
    "pod washer tour/parts/train/good": "pod washer tour/parts/train/good --count 1",
}


@pytest.mark.slow
@pytest.mark.timeout(900)  # six programs, each with its own start; a busy machine is slow at that
def test_quick_start_as_printed(tmp_path: Path) -> None:
    """Every command of the quick start and then its Python, in an empty folder; without a network where that can be had."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    alone = ALONE if may_unshare() else []
    commands, code = smaller(fenced(QUICK_START, "sh"), QUICK), fenced(QUICK_START, "python")
    said = ""
    for program in (["bash", "-euc", commands], [sys.executable, "-W", "error", "-c", code]):
        done = subprocess.run(
            [*alone, *program],
            cwd=tmp_path,
            env=os.environ | {"PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert re.search(r"^(OK|REVIEW|NG) ", done.stdout)
    assert "tour/report.html" in said
    page = (tmp_path / "tour" / "report.html").read_text()
    expected = ("What it finds: synthetic defects", "Most anomalous good parts", "a90/95", 'id="drift"')
    assert all(words in page for words in expected)
    assert "data:image/" in page
    assert not any(outside in page for outside in ('src="http', 'href="http', "url(http", "@import"))
    assert "<html" in (tmp_path / "washer.html").read_text()
    assert len((tmp_path / "judged" / "results.csv").read_text().splitlines()) == 11
    assert len(list((tmp_path / "judged" / "overlays").iterdir())) == 10
