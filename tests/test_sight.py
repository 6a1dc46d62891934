"""What the report says of a proof: rounded up, never better than measured, and nothing that was not shown."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flawforge.reporting import answer, charts, pod_words
from flawforge_runtime.calibrate import calibrate


def curve(kind: str, contrast: float, bound: float | None, **more: Any) -> dict[str, Any]:
    points = [[5.0, 0.2, 0.1, 0.4], [20.0, 0.7, 0.5, 0.9], [80.0, 0.97, 0.85, 0.99]]
    row = {
        "kind": kind,
        "contrast": contrast,
        "unit": "px",
        "a50": 9.2,
        "a90": 30.4,
        "a90_95": bound,
        "n": 48,
        "hits": 30,
        "smallest": 5.0,
        "largest": 80.0,
        "points": points,
        "bins": [[5.0, 20.0, 9, 20, 0, 1]],
        "why": "",
    }
    return row | more


def proof(*curves: dict[str, Any]) -> dict[str, Any]:
    return {
        "curves": list(curves),
        "goods": 40,
        "false_alarm": {"promised": 0.01},
        "rejected_elsewhere": {"count": 0},
        "forgers": {
            "trained_on": ["perlin"],
            "proved_with": ["scratch"],
            "families_trained_on": ["texture"],
            "families_proved_with": ["physical"],
        },
    }


@given(st.floats(0.01, 900), st.sampled_from(["px", "mm"]))
def test_sizes_are_rounded_up(value: float, unit: str) -> None:
    shown = float(pod_words.size(value, unit).split()[0])
    assert shown >= value * (1 - 1e-6)
    assert shown <= (value + 1 if unit == "px" else value * 1.11)


def test_what_is_not_shown_is_never_a_number() -> None:
    rows = [curve("scratch", 0.1, None, a90=None, a50=None, why="too few"), curve("dent", 0.1, None)]
    seen = pod_words.view(proof(*rows))
    assert seen is not None
    assert seen["best"]["text"] == seen["rows"][0]["bound"] == "not shown"
    assert seen["sentences"] == [
        "At contrast 10 %, finding 9 of 10 was not demonstrated for any kind of synthetic defect up to 80 px."
    ]
    assert "a90/95: not shown<" in str(charts.pod_curves(rows))


def test_where_none_was_missed_the_page_says_so() -> None:
    """32 of 32 found is no failure to find, even where too few were tried to show 9 of 10."""
    whole: dict[str, Any] = {"n": 32, "hits": 32, "smallest": 6.7, "largest": 90.0}
    rows = [curve("crack", 0.3, None, a90=None, **whole), curve("dent", 0.3, 68.2, **whole), curve("blob", 0.3, None)]
    seen = pod_words.view(proof(*rows))
    assert seen is not None
    cells = [row["cells"][0]["text"] for row in seen["smallest"]["rows"]]
    assert cells == ["all 32 found, from 7 px", "69 px (all 32 found, from 7 px)", "not shown"]
    assert [row["bound"] for row in seen["rows"]] == ["all found", "69 px", "not shown"]
    assert seen["rows"][0]["a90"] == "all found"
    assert seen["smallest"]["unbounded"]
    assert seen["sentences"] == [
        "At contrast 30 %, 9 of 10 synthetic defects are found from these sizes on: dent 69 px; not demonstrated for blob; "
        "none was missed, but more are needed to show it: crack (all 32 found, from 7 px)."
    ]
    assert "a90/95: all found (30 %)" in str(charts.pod_curves(rows[:1]))
    head = answer.answer(calibrate(range(99), 0.01), None, proof(rows[0]))[0]
    assert head["text"].startswith("Not yet: it found all synthetic defects")


def test_a_reason_is_a_footnote_and_not_a_cell_repeated() -> None:
    rows = [curve(kind, 0.1, None, why="too few") for kind in "abc"] + [curve("d", 0.1, None, why="they fall")]
    seen = pod_words.view(proof(*rows, curve("e", 0.1, 12.0)))
    assert seen is not None
    assert seen["reasons"] == [{"mark": "a", "text": "too few"}, {"mark": "b", "text": "they fall"}]
    assert [row["mark"] for row in seen["rows"]] == ["a", "a", "a", "b", ""]


def test_the_first_screen_has_a_table_of_sizes_drawn_to_scale() -> None:
    rows = [curve("dent", 0.1, None), curve("dent", 0.3, 22.8), curve("scratch", 0.3, 50.0)]
    seen = pod_words.view(proof(*rows), shorter_side=100)
    assert seen is not None
    assert seen["smallest"]["contrasts"] == ["30 %", "10 %"]
    (dent, scratch) = seen["smallest"]["rows"]
    assert [cell["text"] for cell in dent["cells"]] == ["23 px", "not shown"]
    assert [cell["text"] for cell in scratch["cells"]] == ["50 px", "–"]
    assert 'r="11.0"' in scratch["cells"][0]["dot"]  # half of the frame
    assert dent["cells"][1]["dot"] == ""
    unknown = pod_words.view(proof(*rows))
    assert unknown is not None
    assert not unknown["smallest"]["to_scale"]


def test_the_worst_kind_speaks_for_all() -> None:
    rows = [curve("scratch", 0.3, 15.2), curve("dent", 0.3, 40.1), curve("scratch", 0.1, None), curve("dent", 0.1, 66.0)]
    said = pod_words.sentences(rows)
    assert said == [
        "At contrast 30 %, 9 of 10 synthetic defects are found from these sizes on: scratch 16 px, dent 41 px.",
        "At contrast 10 %, 9 of 10 synthetic defects are found from these sizes on: dent 66 px; not demonstrated for "
        "scratch.",
    ]
    assert pod_words.best(rows)["text"] == "41 px"


def test_the_smallest_size_tried_is_a_limit_and_no_figure() -> None:
    seen = pod_words.view(proof(curve("dent", 0.3, 12.0, a50=5.0)))
    assert seen is not None
    assert seen["rows"][0]["a50"] == "≤ 5 px"


def test_a_family_in_training_and_proof_is_said() -> None:
    circle = proof(curve("dent", 0.3, 12.0))
    circle["forgers"]["families_trained_on"] = ["physical"]
    seen = pod_words.view(circle)
    assert seen is not None
    assert seen["circular"] == ["physical"]
    assert pod_words.view(None) is None


def test_the_first_screen_says_what_is_seen_and_a_drift_overrules_it() -> None:
    calibration = calibrate(range(99), 0.01)
    shown = answer.answer(calibration, None, proof(curve("dent", 0.3, 12.0)))
    assert {each["tone"] for each in shown} == {"open", "found"}
    assert shown[0]["text"].startswith("Not yet: it has been tested on synthetic defects only")
    assert any("At contrast 30 %" in each["text"] for each in shown)
    blind = answer.answer(calibration, None, proof(curve("dent", 0.3, None), curve("dent", 0.1, None)))
    assert blind[0]["tone"] == "warn"
    assert blind[0]["text"].startswith("No, not on this evidence")
    drifted = answer.answer(calibration, None, proof(curve("dent", 0.3, 12.0)), {"alarm": True, "text": "the lamp."})
    assert drifted[0]["tone"] == "warn"
    assert drifted[0]["text"].startswith("No: production parts no longer resemble")
    assert {"tone": "warn", "text": "Drift: the lamp."} in drifted


def test_charts_hold_every_contrast_and_escape_nothing_raw() -> None:
    drawn = str(charts.pod_curves([curve("<b>", 0.1, None), curve("<b>", 0.3, 12.34)]))
    assert "<b>" not in drawn
    assert "a90/95: not shown (10 %), 13 px (30 %)" in drawn  # rounded up, as in the table
    assert len(re.findall("<polygon", drawn)) == 1  # the bounds of the second are lines, so that bands never mix
    assert len(re.findall('class="bound', drawn)) == 2
    assert "curve dash0 series0" in drawn
    assert "curve dash1 series1" in drawn
    assert "Nothing to draw" in str(charts.pod_curves([]))
    assert "alarm" in str(charts.evidence([1.0, 2.0, 200.0], 111.0))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"kind": "dent", "size": 12.4, "unit": "px", "contrast": 0.3, "score": 1.0, "group": "missed", "rejected": True},
            "dent, 12 px, contrast 30 %, but it marks another place; score 1",
        ),
        ({"score": 1.0, "p_value": 0.25}, "score 1"),
    ],
)
def test_captions(row: dict[str, Any], words: str) -> None:
    assert pod_words.caption(row) == words
