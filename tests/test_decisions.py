"""One decision as a row, as JSON, as a line of a CSV for either kind of spreadsheet; and a measured speed in words."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.judging.rows import COLUMNS, DIALECTS, Tally, flat, open_results, overlay_path, picture_of, rows_file
from flawforge.judging.speed import Speed
from flawforge_runtime.feed import FIELDS, row_of
from flawforge_runtime.types import Decision, Region, p_words

SURFACE = np.zeros((4, 6), np.float32)
SMALL, LARGE = Region(0, 1, 2, 2, 4, 0.9), Region(3, 0, 3, 2, 5, 0.7)


def decision(**changed: Any) -> Decision:
    base = Decision("in/part 7.png", 2.5, 0.05, "NG", True, 2.0, SURFACE, SURFACE > 1, (SMALL, LARGE), 0.0123456)
    return dataclasses.replace(base, **changed)


def csv_of(tmp_path: Path, dialect: str, *rows: dict[str, Any]) -> list[dict[str, str]]:
    """The rows as a spreadsheet of this dialect reads them."""
    with open_results(tmp_path / dialect, "csv", dialect) as (put, folder):
        assert folder == tmp_path / dialect
        for row in rows:
            put(row)
    text = (tmp_path / dialect / rows_file("csv")).read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text), delimiter=";" if dialect == "excel" else ","))


# ---- rows


def test_a_row_by_hand() -> None:
    row = row_of(decision(notes=("first", "second"), review_threshold=1.5, mm_per_pixel=0.1, score_normalised=0.6), "m1")
    assert tuple(row) == FIELDS
    when = datetime.datetime.fromisoformat(row.pop("time"))
    assert when.utcoffset() is not None
    assert row == {
        "image_path": "in/part 7.png",
        "pred_score": 2.5,
        "score_normalised": 0.6,
        "p_value": 0.05,
        "verdict": "NG",
        "pred_label": True,
        "threshold": 2.0,
        "review_threshold": 1.5,
        "regions": [
            {"x": 0, "y": 1, "w": 2, "h": 2, "area": 4, "peak": 0.9},
            {"x": 3, "y": 0, "w": 3, "h": 2, "area": 5, "peak": 0.7},
        ],
        "region_count": 2,
        "largest_area": pytest.approx(0.05),
        "area_unit": "mm2",
        "model_id": "m1",
        "seconds": 0.0123,
        "valid": True,
        "notes": ["first", "second"],
    }
    assert row_of(decision(regions=()), "m1")["largest_area"] == 0
    assert row_of(decision(), "m1")["area_unit"] == "px"


@pytest.mark.parametrize("figure", ["pred_score", "p_value", "threshold"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_none_makes_an_error_and_never_a_verdict(figure: str, value: float) -> None:
    row = row_of(decision(**{figure: value}, verdict="OK"), "m1")
    assert row == {
        "image_path": "in/part 7.png",
        "error": "in/part 7.png was given a score that is not finite; check picture and model.",
    }


def test_a_tally_of_every_kind_of_row() -> None:
    tally = Tally()
    ruled = decision(verdict="OK", notes=("NG by its score, OK by rule: 1 marked region, 1 allowed",))
    results = [decision(), ruled, decision(valid=False), decision(verdict="REVIEW"), (Path("a"), "why")]
    for result in results:
        tally.add(row_of(result, "m1"))
    assert tally.count == 5
    assert str(tally) == (
        "4 judged: 1 OK (1 by rule, against the score), 1 REVIEW, 2 NG (1 not like any good picture), 1 could not be judged"
    )
    counts = {"count": 5, "OK": 1, "REVIEW": 1, "NG": 2, "not_like_any_good": 1, "ok_by_rule": 1, "not_judged": 1}
    assert tally.as_dict() == counts
    assert tally.faults(0) == "1 of 5 files could not be judged; they are named above, the rest is done."
    tally.undrawn, tally.uncopied = 2, 1
    assert tally.faults(2) == (
        "1 of 5 files could not be judged, 2 folders could not be read or held no picture, 2 overlays could not be written, "
        "1 NG picture could not be copied; they are named above, the rest is done."
    )
    assert Tally().faults(0) == ""


# ---- CSV


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_decision_in_either_dialect(tmp_path: Path, dialect: str) -> None:
    row = row_of(decision(notes=("one; two", 'say "three"'), pred_score=1234.5678), "m1") | {"overlay": "overlays/a.jpg"}
    (cells,) = csv_of(tmp_path, dialect, row)
    assert tuple(cells) == COLUMNS
    comma = "," if dialect == "excel" else "."
    assert cells["pred_score"] == f"1234{comma}57"
    assert cells["p_value"] == f"0{comma}05"
    assert [cells[key] for key in ("x", "y", "w", "h", "largest_area")] == ["3", "0", "3", "2", "5"]
    assert cells["notes"] == 'one; two; say "three"'
    assert (cells["verdict"], cells["valid"], cells["overlay"]) == ("NG", "True", "overlays/a.jpg")
    assert cells["review_threshold"] == cells["error"] == ""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_picture_that_was_not_judged_has_its_name_and_why(tmp_path: Path, dialect: str) -> None:
    (cells,) = csv_of(tmp_path, dialect, row_of((Path("a,b;c.png"), "a,b;c.png is\nempty."), "m1"))
    assert {key: value for key, value in cells.items() if value} == {
        "image_path": "a,b;c.png",
        "error": r"a,b;c.png is\nempty.",
    }


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-a.png", "@a.png", "＝a.png"])
def test_a_name_is_no_formula_of_a_spreadsheet(tmp_path: Path, name: str) -> None:
    for dialect in DIALECTS:
        (cells,) = csv_of(tmp_path, dialect, row_of(decision(image_path=name), "m1"))
        assert cells["image_path"] == f"'{name}"


@given(st.floats(-1e12, 1e12), st.text(max_size=20), st.sampled_from(DIALECTS))
@settings(deadline=None, max_examples=40)
def test_figures_come_back_to_six_digits_and_text_stays_in_its_cell(score: float, note: str, dialect: str) -> None:
    row = row_of(decision(pred_score=score, notes=(note, "end")), "m1")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), open_results(None, "csv", dialect) as (put, folder):
        put(row)
    assert folder is None
    text = printed.getvalue().removeprefix("\ufeff")
    (cells,) = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if dialect == "excel" else ",")
    found = float(cells["pred_score"].replace(",", "."))
    assert found == pytest.approx(score, rel=1e-5, abs=1e-300)
    assert cells["notes"].endswith("; end")
    assert cells["verdict"] == "NG"
    assert flat(row)["notes"] == f"{note}; end"


def test_json_lines_hold_every_field(tmp_path: Path) -> None:
    rows = [row_of(decision(notes=("ä\n",)), "m1"), row_of((Path("b"), "why"), "m1")]
    with open_results(tmp_path / "out", "jsonl") as (put, _):
        for row in rows:
            put(row)
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert [rows_file(form) for form in ("csv", "jsonl", "parquet")] == ["results.csv", "results.jsonl", "results.jsonl"]


def test_an_overlay_is_named_by_verdict_picture_and_row(tmp_path: Path) -> None:
    names = [overlay_path(tmp_path, decision(image_path=path), 7).name for path in ("a/part 7.png", "a:b?.png", "ü.x.png")]
    assert names == ["NG-part_7-000007.jpg", "NG-a_b_-000007.jpg", "NG-ü.x-000007.jpg"]
    long = overlay_path(tmp_path, decision(image_path="ü" * 300 + ".png"), 1).name
    assert len(long.encode()) <= 255
    kept = np.ones((4, 6, 3), np.uint8)
    assert picture_of(decision(picture=kept), 100) is kept


# ---- p-values


@given(st.integers(1, 3000), st.data())
@settings(deadline=None, max_examples=40)
def test_a_p_value_in_words_never_flatters(n: int, data: st.DataObject) -> None:
    least = 1 / (n + 1)
    above = data.draw(st.integers(0, n))
    p = (1 + above) / (n + 1)
    sign, number = p_words(p, least).split()
    if above == 0:
        assert sign == "<"
        assert p < float(number) <= 1.2 * p
    else:
        assert sign == "="
        assert float(number) == pytest.approx(p, rel=0.051)
    assert decision(p_value=p, least_p=least).p_text == f"{sign} {number}"


# ---- speed

SPEED = Speed(
    backend="onnx",
    threads=2,
    processor="A processor",
    cores=4,
    pictures=10,
    repeats=200,
    p50=12.34,
    p95=20.0,
    p99=25.06,
    mean=13.0,
    batch=8.01,
    stages={"decode": 3.14, "network": 7.0},
    cold_start_seconds=1.234,
    resident_mb=210.4,
)


def test_a_speed_in_words() -> None:
    assert SPEED.lines() == [
        "onnx, 2 threads of 4 cores, A processor",
        "file to verdict: p50 12.3 ms, p95 20.0 ms, p99 25.1 ms (200 judgements of 10 pictures)",
        "network in batches of 8: 8.0 ms a picture",
        "where: decode 3.1, network 7.0 ms",
        "memory: 210 MB resident",
        "first verdict 1.23 s after the start of a process",
    ]
    assert dataclasses.replace(SPEED, cold_start_seconds=None).lines() == SPEED.lines()[:-1]


def test_a_speed_as_json_and_back() -> None:
    told = json.loads(json.dumps(SPEED.as_dict(), allow_nan=False))
    assert Speed(**told) == SPEED
    assert list(told) == [field.name for field in dataclasses.fields(Speed)]
