"""Rows that survive whatever ends a run, and two runs that want one folder."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawforge.judging import rows as rowing
from flawforge.judging.rows import COLUMNS, UNFINISHED, Pictures, Tally, check_form, flat, judge_all, open_results
from flawforge.types import ConfigError, DataError, ModelError, ScoreRule
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.inspector import Inspector

ROW: dict[str, Any] = {
    "image_path": "a.png",
    "pred_score": -1.5,
    "p_value": 1.0,
    "verdict": "OK",
    "pred_label": False,
    "threshold": 2.0,
    "regions": [{"x": 1, "y": 2, "w": 3, "h": 4, "area": 9}, {"x": 5, "y": 6, "w": 7, "h": 8, "area": 12}],
    "region_count": 2,
    "largest_area": 12.3456789,
    "area_unit": "px",
    "model_id": "0",
    "seconds": 0.1,
    "valid": True,
    "notes": ["one", "=two"],
}


def write(out: Path, form: str, *rows: dict[str, Any], end: BaseException | None = None, dialect: str = "standard") -> None:
    with open_results(out, form, dialect) as (put, _):
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
    assert (cells[0]["notes"], cells[0]["pred_score"], cells[0]["region_count"]) == ("one; =two", "-1.5", "2")


def test_a_picture_without_a_verdict_has_a_row_in_both_forms(tmp_path: Path) -> None:
    error = {"image_path": "b.png", "error": "b.png is empty."}
    write(tmp_path / "c", "csv", error, ROW)
    with (tmp_path / "c" / "results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert {key: value for key, value in first.items() if value} == error
    assert (second["verdict"], second["error"]) == ("OK", "")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "j", "jsonl", ROW | {"pred_score": float("nan")})


def test_a_flat_row_holds_the_largest_region_and_rounded_figures(tmp_path: Path) -> None:
    write(tmp_path / "c", "csv", ROW | {"pred_score": 1 / 3, "seconds": 123456.789, "score_normalised": None})
    with (tmp_path / "c" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert (row["x"], row["y"], row["w"], row["h"], row["largest_area"]) == ("5", "6", "7", "8", "12.3457")
    assert (row["pred_score"], row["seconds"], row["score_normalised"]) == ("0.333333", "123457", "")
    assert flat({"image_path": "b.png", "error": "no"})["x"] == ""


def test_excel_reads_semicolons_decimal_commas_and_a_byte_order_mark(tmp_path: Path) -> None:
    row = ROW | {"image_path": "a;=1.png", "pred_score": -0.5, "notes": ["3,5 px"]}
    write(tmp_path / "c", "csv", row, dialect="excel")
    data = (tmp_path / "c" / "results.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbftime;image_path;")
    (cells,) = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter=";")
    assert (cells["pred_score"], cells["image_path"], cells["notes"]) == ("-0,5", "a;'=1.png", "3,5 px")


def test_parquet_is_written_at_the_end_and_json_lines_until_then(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    error = {"image_path": os.fsdecode(b"\xe4.png"), "error": "no"}
    with open_results(tmp_path / "p", "parquet") as (put, _):
        put(ROW)
        put(error)
        assert len((tmp_path / "p" / "results.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["results.jsonl", "results.parquet"]
    first, second = parquet.read_table(tmp_path / "p" / "results.parquet").to_pylist()
    assert {key: first[key] for key in ROW} == ROW
    assert (second["image_path"], second["error"], second["verdict"]) == ("\\udce4.png", "no", None)


def test_parquet_without_its_package_or_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'flawforge\[parquet\]'"):
        check_form("parquet")
    with pytest.raises(ConfigError, match="pyarrow"):
        write(tmp_path / "p", "parquet", ROW)
    assert not (tmp_path / "p").exists()
    monkeypatch.setattr(rowing, "check_form", lambda form: None)
    with pytest.raises(ConfigError, match="add -o FOLDER"), open_results(None, "parquet"):
        pass


def bright(folder: Path, *levels: int) -> list[Path]:
    """Grey pictures of these levels."""
    folder.mkdir()
    paths = [folder / f"{place}.png" for place in range(len(levels))]
    for path, level in zip(paths, levels, strict=True):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(path)
    return paths


def test_rejects_are_copied_whole_and_never_over_another(tmp_path: Path) -> None:
    inspector = Inspector(
        lambda batch: (batch.mean(axis=1), batch.mean(axis=(1, 2, 3))),
        (32, 32),
        ScoreRule(),
        calibrate([0.1, 0.5], 0.34),
        about={"model_id": "0"},
    )
    paths = bright(tmp_path / "a", 10, 250) + bright(tmp_path / "b", 10, 240)
    tally, said = Tally(), list[str]()
    found = list(judge_all(inspector, paths, lambda row: None, tally, Pictures(copy_ng=tmp_path / "ng"), said.append))
    assert [row["verdict"] for row in found] == ["OK", "NG", "OK", "NG"]
    assert sorted(path.name for path in (tmp_path / "ng").iterdir()) == ["1-2.png", "1.png"]
    assert (tmp_path / "ng" / "1.png").read_bytes() == paths[1].read_bytes()
    assert (tmp_path / "ng" / "1-2.png").read_bytes() == paths[3].read_bytes()
    (tmp_path / "file").write_text("in the way")
    list(judge_all(inspector, paths[:2], lambda row: None, tally, Pictures(copy_ng=tmp_path / "file"), said.append))
    assert tally.uncopied == 1
    assert "could not be copied" in said[0]
    assert "1 NG picture could not be copied" in tally.faults(0)
