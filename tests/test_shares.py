"""Verdicts counted by hand; stored results judged again at other limits; training pictures that are no proof."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from flawforge.pictures.copies import fingerprint, likeness, pack
from flawforge.proving import again, leakage, shares
from flawforge.proving.intervals import Estimate
from flawforge.reporting.kept import keep, kept
from flawforge.types import DataError
from flawforge_runtime.calibrate import Calibration, Rules, calibrate
from flawforge_runtime.images import read_picture, write_image

# Nine scores 1 to 9 at 20 %: NG above 8 (the 2nd largest), REVIEW above 7 (the 3rd).
CALIBRATION = calibrate([float(score) for score in range(1, 10)], 0.2, review=0.3)
# What `calibrate` sets later: five times as high.
HIGHER = calibrate([5.0 * score for score in range(1, 10)], 0.2, review=0.3)


def row(label: int, score: float, kind: str = "", **more: Any) -> dict[str, Any]:
    """One picture of an evaluation at CALIBRATION."""
    return {
        "path": f"{kind or 'good'}/{score:g}.png",
        "label": label,
        "kind": kind,
        "score": score,
        "p_value": CALIBRATION.p_value(score),
        "verdict": CALIBRATION.verdict(score),
        **more,
    }


GOOD = [row(0, score) for score in (1.0, 2.0, 3.0, 7.5, 8.5)]
DEFECTIVE = [row(1, 4.0, "dent"), row(1, 7.5, "dent"), row(1, 30.0, "dent"), row(1, 50.0, "hole")]


# ---- counts


def test_the_table_by_hand() -> None:
    assert shares.confusion_of([*GOOD, *DEFECTIVE]) == {
        "good": {"OK": 3, "REVIEW": 1, "NG": 1},
        "defective": {"OK": 1, "REVIEW": 1, "NG": 2},
    }
    found = shares.rates_of(GOOD, DEFECTIVE)
    assert {name: estimate.value for name, estimate in found.items()} == {
        "false_alarm_rate": 1 / 5,
        "escape_rate": 2 / 4,
        "passed_rate": 1 / 4,
        "review_rate_good": 1 / 5,
        "review_rate_defective": 1 / 4,
    }
    assert shares.escape_rate(DEFECTIVE) == found["escape_rate"]


ROWS = st.lists(
    st.fixed_dictionaries({"label": st.sampled_from([0, 1]), "verdict": st.sampled_from(shares.VERDICTS)}), max_size=40
)


@given(ROWS)
@settings(deadline=None, max_examples=40)
def test_every_picture_is_counted_once_and_the_rates_are_those_of_the_table(rows: list[dict[str, Any]]) -> None:
    table = shares.confusion_of(rows)
    assert sum(sum(counts.values()) for counts in table.values()) == len(rows)
    good, defective = ([each for each in rows if each["label"] == label] for label in (0, 1))
    assert sum(table["defective"].values()) == len(defective)
    found = shares.rates_of(good, defective)
    for name, group, verdicts in (
        ("false_alarm_rate", "good", ["NG"]),
        ("review_rate_good", "good", ["REVIEW"]),
        ("escape_rate", "defective", ["OK", "REVIEW"]),
        ("passed_rate", "defective", ["OK"]),
        ("review_rate_defective", "defective", ["REVIEW"]),
    ):
        of, events = sum(table[group].values()), sum(table[group][verdict] for verdict in verdicts)
        if not of:
            assert found[name] == Estimate(None, None, None)
            continue
        exact = binomtest(events, of).proportion_ci(0.95, "exact")
        assert found[name] == pytest.approx((events / of, exact.low, exact.high), abs=1e-6)
    if defective:
        passed, review, escaped = (found[name].value for name in ("passed_rate", "review_rate_defective", "escape_rate"))
        assert passed + review == pytest.approx(escaped)


def test_an_operating_point_tells_limits_promise_and_what_was_measured() -> None:
    told = shares.operating_point(CALIBRATION, shares.rates_of(GOOD, DEFECTIVE))
    assert (told["threshold"], told["review_threshold"]) == (8.0, 7.0)
    assert (told["promised_false_alarm"], told["promised_review"]) == (0.2, 0.3)
    assert told["calibration_pictures"] == 9
    assert told["false_alarm_rate"]["value"] == 0.2
    assert set(told["escape_rate"]) == {"value", "low", "high"}
    json.dumps(told, allow_nan=False)


# ---- judged again


def evaluation(**more: Any) -> dict[str, Any]:
    kinds = {name: {"n": n, "escape_rate": {"value": 9.0}} for name, n in (("dent", 3), ("hole", 1))}
    shown = [("top_miss", DEFECTIVE[1]), ("escape", DEFECTIVE[0]), ("top_catch", DEFECTIVE[2]), ("false_alarm", GOOD[4])]
    overlays = [{"file": f"{n}.webp", "group": group, **each} for n, (group, each) in enumerate(shown)]
    return {"pictures": [*GOOD, *DEFECTIVE], "kinds": kinds, "pixel": None, "overlays": overlays, "notes": ["one"], **more}


def test_an_evaluation_at_higher_limits_by_hand() -> None:
    """NG above 40 now: the dent of 30 escapes, the false alarm of 8.5 is gone."""
    found = again.evaluation_at(evaluation(), HIGHER)
    assert not isinstance(found, str)
    assert found["confusion"] == {
        "good": {"OK": 5, "REVIEW": 0, "NG": 0},
        "defective": {"OK": 3, "REVIEW": 0, "NG": 1},
    }
    assert found["operating_point"]["threshold"] == 40.0
    assert found["operating_point"]["escape_rate"]["value"] == 3 / 4
    assert found["kinds"]["dent"]["n"] == 3
    assert [found["kinds"][name]["escape_rate"]["value"] for name in ("dent", "hole")] == [1.0, 0.0]
    assert [each["p_value"] for each in found["pictures"]] == [HIGHER.p_value(each["score"]) for each in (*GOOD, *DEFECTIVE)]
    assert [each["score"] for each in found["pictures"]] == [each["score"] for each in (*GOOD, *DEFECTIVE)]
    assert [each["group"] for each in found["overlays"]] == ["top_miss", "escape", "good"]  # the top catch is none now
    assert found["notes"] == ["one"]


def test_the_same_limits_change_nothing() -> None:
    found = again.evaluation_at(evaluation(), CALIBRATION)
    assert not isinstance(found, str)
    assert found["pictures"] == [*GOOD, *DEFECTIVE]
    assert found["confusion"] == shares.confusion_of([*GOOD, *DEFECTIVE])
    assert [each["file"] for each in found["overlays"]] == ["0.webp", "1.webp", "2.webp", "3.webp"]


def test_what_was_like_no_good_picture_is_rejected_at_any_limit() -> None:
    strange = row(1, 2.0, "hole", valid=False)
    found = again.evaluation_at(evaluation(pictures=[*GOOD, strange]), HIGHER)
    assert not isinstance(found, str)
    last = found["pictures"][-1]
    assert (last["verdict"], last["p_value"]) == ("NG", 0.1)
    assert last["score"] > max(HIGHER.scores)
    assert found["kinds"]["hole"]["escape_rate"]["value"] == 0.0


def test_marks_of_old_limits_have_no_overlap_to_tell() -> None:
    found = again.evaluation_at(evaluation(pixel={"auroc": {"value": 0.9}, "iou": {"value": 0.5}}), HIGHER)
    assert not isinstance(found, str)
    assert found["pixel"] == {"auroc": {"value": 0.9}}


@pytest.mark.parametrize("rules", [Rules(min_area=3), Rules(max_count=1), Rules(3, 1, 0.1)])
def test_rules_on_regions_cannot_be_judged_by_scores(rules: Rules) -> None:
    assert again.evaluation_at(evaluation(), dataclasses.replace(HIGHER, rules=rules)) == again.RULED
    assert again.proof_at({}, dataclasses.replace(HIGHER, rules=rules)) == again.RULED
    scale = dataclasses.replace(HIGHER, rules=Rules(mm_per_pixel=0.1))  # a scale alone decides nothing
    assert not isinstance(again.evaluation_at(evaluation(), scale), str)


def proof() -> dict[str, Any]:
    goods = [{"path": f"good{n}.png", "score": score, "verdict": "OK"} for n, score in enumerate((0.5, 7.5, 20.0))]
    sizes = [(2.0, 10.0, True), (4.0, 30.0, False), (8.0, 45.0, True), (16.0, 60.0, True)]
    trials = [
        {"kind": "dent", "contrast": 0.5, "size": size, "good": "good0.png", "score": score, "pointed": pointed}
        for size, score, pointed in sizes
    ]
    shown = [
        {"group": "found", "score": 45.0, "verdict": "NG", "rejected": True},
        {"group": "found", "score": 10.0, "verdict": "NG", "rejected": True},
        {"group": "missed", "score": 5.0, "verdict": "OK", "rejected": False},
        {"group": "hardest", "score": 20.0, "verdict": "NG"},
    ]
    recipe = {"kinds": ["dent"], "contrasts": [0.5], "seed": 0}
    return {"good_scores": goods, "mm_per_pixel": None, "recipe": recipe, "trials": trials, "overlays": shown}


def test_a_pod_at_higher_limits_by_hand() -> None:
    found = again.proof_at(proof(), HIGHER)
    assert not isinstance(found, str)
    assert [each["verdict"] for each in found["trials"]] == ["OK", "OK", "NG", "NG"]
    assert [each["hit"] for each in found["trials"]] == [False, False, True, True]
    assert found["rejected_elsewhere"]["count"] == 0
    assert found["rejected_elsewhere"]["of"] == 2
    assert [each["verdict"] for each in found["good_scores"]] == ["OK", "OK", "OK"]
    assert found["false_alarm"]["threshold"] == 40.0
    kept_ones = [(each["group"], each["score"]) for each in found["overlays"]]
    assert kept_ones == [("found", 45.0), ("missed", 5.0), ("hardest", 20.0)]  # the one of 10 is found no more
    assert found["overlays"][2]["verdict"] == "OK"
    assert "rejected" not in found["overlays"][2]


def test_at_the_first_limits_the_reject_beside_the_defect_counts() -> None:
    found = again.proof_at(proof(), CALIBRATION)
    assert not isinstance(found, str)
    assert [each["hit"] for each in found["trials"]] == [True, False, True, True]
    assert (found["rejected_elsewhere"]["count"], found["rejected_elsewhere"]["of"]) == (1, 4)
    assert found["rejected_elsewhere"]["value"] == 0.25
    assert [each["verdict"] for each in found["good_scores"]] == ["OK", "REVIEW", "NG"]


def test_sizes_in_millimetres_are_stored_and_judged_again_as_such() -> None:
    found = again.proof_at(proof() | {"mm_per_pixel": 0.1}, CALIBRATION)
    assert not isinstance(found, str)
    assert [each["size"] for each in found["trials"]] == pytest.approx([2.0, 4.0, 8.0, 16.0])
    (curve,) = found["curves"]
    assert (curve["unit"], curve["smallest"], curve["largest"]) == ("mm", pytest.approx(2.0), pytest.approx(16.0))


def model_with(tmp_path: Path, *results: tuple[str, dict[str, Any]]) -> Path:
    for data, result in results:
        keep(tmp_path, "evaluation", result | {"model": {"model_id": "m1"}, "overlays": []}, data=data)
    return tmp_path


def test_the_newest_of_each_data_set_is_kept_again_beside_the_old_one(tmp_path: Path) -> None:
    model = model_with(tmp_path, ("a", evaluation()), ("b", evaluation()), ("a", evaluation(notes=["newest"])))
    before = kept(model)
    lines = again.judge_again(model, HIGHER, "m1")
    assert len(lines) == 2
    assert all(line.startswith("judged again at the new limits: evaluation of ") for line in lines)
    after = kept(model)
    assert after[2:] == before
    assert {one.data for one in after[:2]} == {"a", "b"}
    assert all(one.limit == 40.0 and one.of for one in after[:2])
    notes = next(one for one in after[:2] if one.data == "a").read()["notes"]
    assert notes[0] == "newest"
    assert notes[1].startswith("Judged again at the limits that flawforge calibrate has set since, from the scores of ")


def test_results_of_another_model_or_with_a_hole_are_left_as_they_are(tmp_path: Path) -> None:
    broken = evaluation(pictures=[{"label": 0}])
    model = model_with(tmp_path, ("a", broken))
    assert again.judge_again(model, HIGHER, "m2") == []
    (line,) = again.judge_again(model, HIGHER, "m1")
    assert line.startswith("not judged again, because it holds a value that cannot be used: evaluation of a")
    (line,) = again.judge_again(model, dataclasses.replace(HIGHER, rules=Rules(min_area=2)), "m1")
    assert line.startswith(f"not judged again, because {again.RULED}")
    assert len(kept(model)) == 1


def test_a_drift_check_of_parts_is_not_set_against_pictures() -> None:
    by_part: Calibration = dataclasses.replace(HIGHER, per_part=True)
    parts = {"parts": [{"part": "serial 7", "score": 1.0}]}
    pictures = {"parts": [{"part": "a/7.png", "score": 1.0}, {"part": "picture 2", "score": 2.0}]}
    assert again.drift_at(parts, HIGHER) == "it counts parts and the limits do not"
    assert again.drift_at(pictures, by_part) == "it counts pictures and the limits do not"


# ---- training pictures


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six pictures that are unlike each other."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(6)]
    for path in paths:
        write_image(path, np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8))
    return paths


def inspector(paths: list[Path], **more: Any) -> Any:
    """What is judged by, with a config that names its training pictures."""
    training = {
        "fingerprints": [fingerprint(path) for path in paths],
        "likenesses": pack(likeness(read_picture(path).pixels) for path in paths),
    }
    return SimpleNamespace(content=SimpleNamespace(config={"training": training}), **more)


def test_what_was_trained_on_is_found_under_another_name_too(noise: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "another name.png"
    copy.write_bytes(noise[1].read_bytes())
    found = leakage.trained_on(inspector(noise[:3]), [copy, *noise[2:], np.zeros((4, 4, 3), np.uint8)])
    assert found == {copy, noise[2]}
    left, count = leakage.unseen([copy, *noise[2:]], inspector(noise[:3]))
    assert (left, count) == (noise[3:], 2)
    assert leakage.left_out(count, 5) == ["2 of 5 pictures were left out, as the model was trained on them; 3 remain"]


def test_a_larger_copy_is_not_read_where_pixels_are_limited(noise: list[Path]) -> None:
    """It is named as too large when it is judged; only its file is known."""
    limited = inspector(noise[:3], max_pixels=10)
    assert leakage.trained_on(limited, noise) == set(noise[:3])


def test_who_tells_nothing_has_seen_nothing(noise: list[Path]) -> None:
    assert leakage.config_of(SimpleNamespace()) == {}
    assert leakage.config_of(SimpleNamespace(content=None)) == {}
    assert leakage.unseen(list(noise), SimpleNamespace(content=None)) == (noise, 0)
    assert leakage.unseen([], SimpleNamespace()) == ([], 0)


def test_training_pictures_alone_prove_nothing(noise: list[Path]) -> None:
    with pytest.raises(DataError, match=r"All 3 pictures were trained on, so they prove nothing; give pictures that"):
        leakage.unseen(noise[:3], inspector(noise[:3]))
