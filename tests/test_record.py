"""The results file keeps every row, and every row keeps its origin."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from record import ORIGIN, between, read, record  # noqa: E402


def test_first_row_makes_folder_header_and_origin(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.csv"
    record(path, {"what": "a, b", "value": 0.123456789, "nothing": None})
    columns, rows = read(path)
    assert columns == ["what", "value", "nothing", *ORIGIN]
    assert len(rows) == 1
    assert (rows[0]["what"], rows[0]["value"], rows[0]["nothing"]) == ("a, b", "0.123457", "")
    assert all(rows[0][key] for key in ORIGIN)
    assert rows[0]["dirty"] in {"yes", "no"}
    assert "numpy" in rows[0]["versions"]


def test_a_later_row_with_new_keys_adds_columns_and_leaves_old_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    record(path, {"a": 1, "b": "é\nnew line"})
    before = read(path)[1][0]
    record(path, {"c": 3, "a": 2})
    columns, rows = read(path)
    assert columns == ["a", "b", "c", *ORIGIN]
    assert rows[0] == {**before, "c": ""}
    assert (rows[1]["a"], rows[1]["b"], rows[1]["c"]) == ("2", "", "3")


def test_a_given_command_wins_over_the_measured_one(tmp_path: Path) -> None:
    record(tmp_path / "x.csv", {"a": 1, "command": "flawforge fit parts -o m"})
    assert read(tmp_path / "x.csv")[1][0]["command"] == "flawforge fit parts -o m"


def test_the_data_folder_is_written_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAWFORGE_DATA", "/some/where/")
    record(tmp_path / "x.csv", {"command": "flawforge fit /some/where/bottle -o m"})
    assert read(tmp_path / "x.csv")[1][0]["command"] == "flawforge fit $FLAWFORGE_DATA/bottle -o m"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.csv"
    record(path, {"a": 1})
    before = path.read_bytes()

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        record(path, {"a": 2})
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def test_writers_at_the_same_time_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import pathlib, record\n"
        "record.origin = lambda: dict.fromkeys(record.ORIGIN, 'x')\n"
        f"for i in range(20): record.record(pathlib.Path({str(path)!r}), {{'who': sys.argv[1], 'i': i}})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, who]) for who in "abc"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    with path.open(newline="") as file:
        rows = [(row["who"], row["i"]) for row in csv.DictReader(file)]
    assert sorted(rows) == sorted((who, str(i)) for who in "abc" for i in range(20))


def test_a_table_is_put_between_its_markers_and_nowhere_else() -> None:
    page = "before\n<!-- a -->\nold\n<!-- end -->\nafter\n"
    assert between(page, "<!-- a -->\n", "<!-- end -->\n", "new\n") == page.replace("old", "new")
    for start, end in (("<!-- b -->\n", "<!-- end -->\n"), ("<!-- a -->\n", "<!-- stop -->\n")):
        with pytest.raises(ValueError, match="needs the lines"):
            between(page, start, end, "new\n")
