"""What a folder keeps for people: results by time, a page of thumbnails, a sheet of good pictures, acceptance criteria."""

from __future__ import annotations

import datetime
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from flawforge.reporting import good_sheet as sheets
from flawforge.reporting.acceptance import FAIL, NOT_ENOUGH, PASS, Acceptance, Criterion, accept, enough
from flawforge.reporting.good_sheet import good_sheet
from flawforge.reporting.index import Card, write_index
from flawforge.reporting.kept import KINDS, NAMES, Kept, album, as_json, keep, kept, write_json
from flawforge.types import DataError, Decision
from flawforge_runtime.rates import share_interval

# ---- results by time


def stored(root: Path, kind: str, name: str, when: str = "", **result: Any) -> Path:
    """A result folder as another run left it; when: as it states it, "" = it states none."""
    folder = root / kind / name
    folder.mkdir(parents=True)
    facts = {"kept": {"when": when, "data": name}} if when else {}
    (folder / f"{kind}.json").write_text(json.dumps({**result, **facts}))
    return folder


def test_the_stated_time_decides_and_not_the_folder(tmp_path: Path) -> None:
    """A folder that was copied keeps its name; a result says itself when it was measured, in whatever zone."""
    early = stored(tmp_path, "drift", "20260102-100000", "2026-01-02T10:00:00+00:00")
    late = stored(tmp_path, "drift", "20260102-110000", "2026-01-02T11:00:00+05:00")  # 06:00 in the other's zone
    assert [one.folder for one in kept(tmp_path)] == [early, late]
    assert album(tmp_path, "drift") == late
    assert all(one.when.utcoffset() is not None for one in kept(tmp_path))


def test_all_kinds_come_together_in_the_order_of_time(tmp_path: Path) -> None:
    for minute, kind in enumerate(KINDS):
        stored(tmp_path, kind, f"20260102-10{minute:02d}00", f"2026-01-02T10:{minute:02d}:00+00:00")
    assert [one.kind for one in kept(tmp_path)] == list(reversed(KINDS))
    assert [one.kind for one in kept(tmp_path, "proof")] == ["proof"]
    assert set(NAMES) == set(KINDS)


def test_runs_of_one_second_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    when = "2026-01-02T10:00:00+00:00"
    names = [f"20260102-100000{suffix}" for suffix in ("", "-2", "-3", "-10", "-11")]
    for name in reversed(names):
        stored(tmp_path, "proof", name, when)
    assert [one.folder.name for one in kept(tmp_path)] == names[::-1]
    assert album(tmp_path, "proof").name == names[-1]


@pytest.mark.parametrize("when", ["yesterday", "2026-13-01T00:00:00", "", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_is_none_is_that_of_the_file(tmp_path: Path, when: str) -> None:
    folder = stored(tmp_path, "drift", "20260102-100000", when)
    os.utime(folder / "drift.json", (1_000_000_000, 1_000_000_000))
    (one,) = kept(tmp_path)
    assert one.when.timestamp() == 1_000_000_000


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"text"', "\x00", "[" * 100_000])
def test_what_is_no_object_is_named_and_hides_no_other(tmp_path: Path, text: str) -> None:
    whole = stored(tmp_path, "evaluation", "20260102-100000")
    broken = stored(tmp_path, "evaluation", "20260102-110000")
    (broken / "evaluation.json").write_text(text)
    assert [one.folder for one in kept(tmp_path)] == [whole]
    with pytest.raises(DataError, match=r"20260102-110000/evaluation\.json is not a JSON object; remove its folder"):
        Kept("evaluation", broken, datetime.datetime.now().astimezone()).read()


@pytest.mark.parametrize(
    ("kind", "result", "counts", "limit", "model"),
    [
        ("evaluation", {"counts": {"good": 3, "defective": 4, "invalid": 1}}, {"good": 3, "defective": 4}, None, ""),
        ("evaluation", {"counts": 7, "operating_point": 7, "model": "m"}, {}, None, ""),
        ("evaluation", {"operating_point": {"threshold": 2}, "model": {"model_id": "m"}}, {}, 2.0, "m"),
        ("proof", {"goods": 5, "false_alarm": {"threshold": 1.5}}, {"good": 5}, 1.5, ""),
        ("proof", {"goods": "five", "false_alarm": {"threshold": "high"}}, {}, None, ""),
        ("drift", {"n": 9, "threshold": 0.5, "model": {"model_id": None}}, {"parts": 9}, 0.5, ""),
        ("drift", {"kept": "torn"}, {}, None, ""),
    ],
)
def test_what_a_result_says_of_itself_or_does_not(
    tmp_path: Path, kind: str, result: dict[str, Any], counts: dict[str, int], limit: float | None, model: str
) -> None:
    stored(tmp_path, kind, "20260102-100000", **result)
    (one,) = kept(tmp_path)
    assert (one.counts, one.limit, one.model_id, one.data) == (counts, limit, model, "")
    assert one.read() == result


def test_what_a_killed_run_left_is_cleared_and_other_files_stay(tmp_path: Path) -> None:
    place = tmp_path / "drift"
    (place / ".20260102-100000.tmp").mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    (place / "2026-by-hand").mkdir()  # no result in it
    one = keep(tmp_path, "drift", {"n": 1})
    assert {path.name for path in place.iterdir() if not path.name.startswith(".")} == {
        "notes.txt",
        "2026-by-hand",
        one.folder.name,
    }
    assert not (place / ".20260102-100000.tmp").exists()
    assert kept(tmp_path) == (one,)


def test_pictures_that_lie_elsewhere_are_copied_and_missing_ones_stop_it(tmp_path: Path) -> None:
    source = tmp_path / "00_good.webp"
    source.write_bytes(b"picture")
    result = {"n": 1, "overlays": [{"file": "00_good.webp", "group": "good"}]}
    one = keep(tmp_path, "drift", result, files={"00_good.webp": source}, data="a/b", of="2026-01-01 10:00:00")
    assert (one.folder / "00_good.webp").read_bytes() == b"picture"
    assert one.read()["overlays"] == result["overlays"]
    assert one.text.endswith(", scores of 2026-01-01 10:00:00")
    with pytest.raises(FileNotFoundError):
        keep(tmp_path, "drift", result, files={"00_good.webp": tmp_path / "gone"})
    assert kept(tmp_path) == (one,)


def test_json_keeps_any_name_and_no_number_that_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"name": "Prüfling \udce4 部"})
    assert "Prüfling \\udce4 部" in (tmp_path / "r.json").read_text(encoding="utf-8")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "r.json", {"share": bad})
    assert "Prüfling" in (tmp_path / "r.json").read_text(encoding="utf-8")  # the old one is whole
    assert as_json({"b": 1, "a": 2}).index('"b"') < as_json({"b": 1, "a": 2}).index('"a"')


# ---- page


def card(name: str, score: float, verdict: str = "OK", **more: Any) -> Card:
    row = {"image_path": name, "pred_score": score, "verdict": verdict, "notes": [], "model_id": "m1", **more}
    return Card(row, f"thumbnails/{score:g}.jpg")


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.data())
@settings(max_examples=15, deadline=None)
def test_cards_fall_by_score_and_are_counted(scores: list[float], data: st.DataObject) -> None:
    cards = [card(f"d/{n}.png", score, data.draw(st.sampled_from(["OK", "NG"]))) for n, score in enumerate(scores)]
    with tempfile.TemporaryDirectory() as folder:
        text = write_index(Path(folder), cards, "results.csv", "m").read_text(encoding="utf-8")
    found = [int(number) for number in re.findall(r"</b> \S+ d/(\d+)\.png", text)]
    assert sorted(found) == list(range(len(scores)))
    assert [scores[n] for n in found] == sorted(scores, reverse=True)
    for verdict in ("OK", "NG"):
        assert f'<b class="{verdict}">{sum(each.row["verdict"] == verdict for each in cards)} {verdict}</b>' in text


def test_a_name_shows_its_folder_alone_in_any_script(tmp_path: Path) -> None:
    text = write_index(tmp_path, [card("/a/b/Schicht 2/部品.png", 1.0), card("x.png", 0.5)], "r.csv", "m").read_text("utf-8")
    assert "Schicht 2/部品.png" in text
    assert "/a/b/" not in text
    assert "1 x.png" not in text
    assert "Model m1, " in text


# ---- sheet of good pictures


def judged(side: tuple[int, int], marked: bool = False, seed: int = 0) -> tuple[str, np.ndarray, Decision]:
    surface = np.random.default_rng(seed).random(side).astype(np.float32)
    marks = np.zeros(side, bool)
    marks[side[0] // 4 : side[0] // 2, side[1] // 4 : side[1] // 2] = marked
    picture = np.full((*side, 3), 128, np.uint8)
    return "a.png: 1", picture, Decision("a.png", 1.0, 0.5, "OK", False, 2.0, surface, marks, (), 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_sheet_has_two_in_a_row_whatever_their_size(count: int) -> None:
    one = good_sheet([judged((600, 600))], "t")
    sheet = good_sheet([judged((600, 600), seed=seed) for seed in range(count)], "t")
    assert sheet.dtype == np.uint8
    high = sheets.SIDE + sheets.CAPTION + sheets.GAP
    assert sheet.shape[0] == sheets.HEAD + -(-count // sheets.COLUMNS) * high + sheets.GAP
    assert sheet.shape[1] >= max(640, one.shape[1])
    assert (sheet[:, : sheets.GAP // 2] == 255).all()


def test_pictures_of_any_proportions_stand_on_one_sheet() -> None:
    sheet = good_sheet([judged((1, 1)), judged((10, 400)), judged((400, 10)), judged((30, 30))], "t")
    assert sheet.shape[0] > 2 * sheets.SIDE  # the tall one sets the height of every row
    assert (sheet < 255).any()


def test_order_and_letters() -> None:
    dark, light = judged((64, 64)), judged((64, 64))
    dark = ("a", np.zeros((64, 64, 3), np.uint8), dark[2])
    light = ("b", np.full((64, 64, 3), 200, np.uint8), light[2])
    first, second = (good_sheet(order, "t") for order in ([dark, light], [light, dark]))
    place = np.s_[sheets.HEAD + 20 : sheets.HEAD + 40, sheets.GAP + 20 : sheets.GAP + 40]
    assert first[place].mean() == pytest.approx(0, abs=1)
    assert second[place].mean() == pytest.approx(200, abs=1)
    assert np.array_equal(good_sheet([("ä部.png", *dark[1:])], "ü"), good_sheet([("??.png", *dark[1:])], "?"))


def test_a_mark_is_outlined_and_a_float_picture_looks_the_same() -> None:
    plain, marked = good_sheet([judged((64, 64))], "t"), good_sheet([judged((64, 64), marked=True)], "t")
    assert not np.array_equal(plain, marked)
    caption, picture, decision = judged((64, 64), marked=True)
    as_float = good_sheet([(caption, picture.astype(np.float32) / 255, decision)], "t")
    assert np.abs(as_float.astype(int) - marked).max() <= 1


# ---- acceptance


@given(st.integers(0, 12), st.integers(1, 400), st.sampled_from([0.005, 0.02, 0.1, 0.5]))
@settings(deadline=None)
def test_the_verdict_by_two_binomial_tails(events: int, of: int, accepted: float) -> None:
    """At the accepted share: PASS where so few are rarer than 2.5 %, FAIL where so many are; else neither."""
    events = min(events, of)
    few, many = binom.cdf(events, of, accepted), binom.sf(events - 1, of, accepted)
    low, high = share_interval(events, of)
    found = Criterion("escapes", accepted, events, of, low, high).verdict
    if min(abs(few - 0.025), abs(many - 0.025)) > 1e-6:
        assert found == (PASS if few < 0.025 and events < of else FAIL if many < 0.025 else NOT_ENOUGH)


@given(st.integers(0, 6), st.sampled_from([0.01, 0.05, 0.2]))
@settings(deadline=None, max_examples=20)
def test_enough_is_the_least_number_by_the_binomial_tail(events: int, accepted: float) -> None:
    n = enough(events, accepted)
    assert binom.cdf(events, n, accepted) <= 0.025 + 1e-9
    assert binom.cdf(events, n - 1, accepted) > 0.025 - 1e-9


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.05, PASS),
        (0.0, 0.0500001, NOT_ENOUGH),
        (0.05, 0.06, NOT_ENOUGH),
        (0.0500001, 0.06, FAIL),
        (None, None, NOT_ENOUGH),
    ],
)
def test_the_ends_of_the_interval_decide(low: float | None, high: float | None, verdict: str) -> None:
    found = Criterion("false alarms", 0.05, 1, 40, low, high)
    assert found.verdict == verdict
    assert found.text.startswith(f"{verdict}: false alarms of 5 % or less")
    assert found.as_dict()["verdict"] == verdict
    assert json.loads(json.dumps(found.as_dict()))["text"] == found.text


@given(st.lists(st.sampled_from([(0.0, 0.01), (0.0, 0.5), (0.4, 0.5), (None, None)]), min_size=1, max_size=2))
@settings(deadline=None, max_examples=40)
def test_together_the_worst_decides(ends: list[tuple[float | None, float | None]]) -> None:
    names = ("false alarms", "escapes")
    found = Acceptance(tuple(Criterion(name, 0.05, 1, 40, *each) for name, each in zip(names, ends, strict=False)))
    order = [PASS, NOT_ENOUGH, FAIL]
    assert found.verdict == max((each.verdict for each in found.criteria), key=order.index)
    assert found.exit_code == {PASS: 0, NOT_ENOUGH: 5, FAIL: 6}[found.verdict]
    assert found.as_dict()["exit_code"] == found.exit_code
    assert len(found.lines()) == len(ends)


def test_measured_counts_come_from_the_rate_and_the_pictures() -> None:
    rates = {"escape_rate": {"value": 2 / 30, "low": 0.008, "high": 0.22}}
    found = accept(rates, {"good": 5, "defective": 30}, escapes=0.05, false_alarms=0.01)
    assert found is not None
    alarms, escapes = found.criteria
    assert (escapes.events, escapes.of) == (2, 30)
    assert (alarms.events, alarms.of, alarms.verdict) == (0, 0, NOT_ENOUGH)
