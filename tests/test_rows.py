"""Rows that survive whatever ends a run, and two runs that want one folder."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from flawforge.judging.rows import UNFINISHED, open_results
from flawforge.types import DataError, ModelError

ROW: dict[str, Any] = {
    "image_path": "a.png",
    "pred_score": -1.5,
    "p_value": 1.0,
    "verdict": "OK",
    "pred_label": False,
    "threshold": 2.0,
    "regions": [{"x": 1}],
    "model_id": "0",
    "seconds": 0.1,
    "valid": True,
    "notes": ["one", "=two"],
}


def write(out: Path, form: str, *rows: dict[str, Any], end: BaseException | None = None) -> None:
    with open_results(out, form) as (put, _):
        for row in rows:
            put(row)
        if end is not None:
            raise end


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(2), MemoryError(), OSError(5, "Input/output error")])
def test_whatever_ends_a_run_its_rows_stay_and_the_folder_says_so(end: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(end)):
        write(tmp_path / "out", "csv", ROW, ROW, end=end)
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 3
    assert "has not come to the end" in (tmp_path / "out" / UNFINISHED).read_text()
    with pytest.raises(ModelError, match="exists already, with the rows of a run that has not come to its end"):
        write(tmp_path / "out", "csv")


def test_a_whole_run_leaves_no_mark_and_a_run_without_a_row_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "out", "jsonl", ROW)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.jsonl"]
    for form in ("csv", "jsonl"):
        with pytest.raises(ValueError):
            write(tmp_path / "new", form, end=ValueError())
    assert not (tmp_path / "new").exists()


def test_a_row_is_on_the_disk_before_the_next_picture(tmp_path: Path) -> None:
    with open_results(tmp_path / "out", "jsonl") as (put, _):
        for count in (1, 2):
            put(ROW)
            assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == count


def test_of_two_runs_the_second_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new", tmp_path / "empty"):
        with open_results(out, "csv") as (put, _):
            put(ROW)
            with pytest.raises(ModelError, match="exists already"):
                write(out, "jsonl", ROW)
        assert [path.name for path in out.iterdir()] == ["results.csv"]


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        write(tmp_path, "csv", ROW)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_full_disk_keeps_whole_rows(form: str, tmp_path: Path) -> None:
    """The system itself refuses to let the file grow, in the middle of the third row."""
    long = ROW | {"notes": ["word " * 200]}
    write(tmp_path / "two", form, long, long)
    two = (tmp_path / "two" / f"results.{form}").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(two) + 20, limits[1]))
    try:
        with pytest.raises(DataError, match=r"could not be written \(File too large\); its 2 rows so far are whole"):
            write(tmp_path / "full", form, long, long, long)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "full" / f"results.{form}").read_bytes() == two
    assert (tmp_path / "full" / UNFINISHED).exists()


def test_json_lines_hold_a_name_as_it_is_and_csv_holds_nothing_that_acts(tmp_path: Path) -> None:
    names = [b"\xe4\xff.png", b"=1+1.png", b"a\nb\r.png", b"\x1b[31m.png", "ä;-2.png".encode()]
    rows = [ROW | {"image_path": os.fsdecode(name)} for name in names]
    write(tmp_path / "j", "jsonl", *rows)
    lines = (tmp_path / "j" / "results.jsonl").read_bytes().decode("ascii").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert [os.fsencode(json.loads(line)["image_path"]) for line in lines] == names
    write(tmp_path / "c", "csv", *rows)
    text = (tmp_path / "c" / "results.csv").read_bytes().decode("utf-8")
    assert len(text.splitlines()) == 1 + len(names)
    cells = list(csv.DictReader(io.StringIO(text)))
    assert [row["image_path"] for row in cells] == [
        r"\xe4\xff.png",
        "'=1+1.png",
        r"a\nb\r.png",
        r"\x1b[31m.png",
        "ä;'-2.png",
    ]
    assert (cells[0]["notes"], cells[0]["pred_score"], cells[0]["regions"]) == ("one; =two", "-1.5", '[{"x": 1}]')


def test_a_picture_without_a_verdict_has_a_row_in_both_forms(tmp_path: Path) -> None:
    error = {"image_path": "b.png", "error": "b.png is empty."}
    write(tmp_path / "c", "csv", error, ROW)
    with (tmp_path / "c" / "results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert {key: value for key, value in first.items() if value} == error
    assert (second["verdict"], second["error"]) == ("OK", "")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "j", "jsonl", ROW | {"pred_score": float("nan")})
