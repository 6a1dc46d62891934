"""The promise: exact leave-one-out laws, refusals, p-values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.types import CalibrationError
from flawforge_runtime.calibrate import calibrate, calibration_from_dict, pictures_needed, rank, strictest_rate


@pytest.mark.parametrize("n", range(1, 201))
def test_leave_one_out_is_exact_for_every_n(n: int) -> None:
    """Of n + 1 exchangeable distinct scores, exactly k lie above the threshold that the other n set: no less, no more."""
    scores = np.random.default_rng(n).permutation(n + 1).astype(float)
    for rate in {r for r in (1 / (n + 1), 0.05, 0.29, 0.5) if r >= 1 / (n + 1)}:
        alarms = sum(scores[i] > calibrate(np.delete(scores, i), rate).threshold for i in range(n + 1))
        assert alarms == math.floor(rate * (n + 1) + 1e-9)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=40), st.floats(0.17, 0.9))
@settings(max_examples=100, deadline=None)
def test_ties_never_raise_the_false_alarm_rate(values: list[int], rate: float) -> None:
    scores = np.array(values, float)
    alarms = sum(scores[i] > calibrate(np.delete(scores, i), rate).threshold for i in range(len(scores)))
    assert alarms <= rate * len(scores) + 1e-9


def test_the_kth_largest_by_hand() -> None:
    scores = [0.1 * i for i in range(1, 20)]  # n = 19
    assert calibrate(scores, 0.05).threshold == scores[-1]
    assert calibrate(scores, 0.10).threshold == scores[-2]
    assert rank(99, 0.29) == 29  # 0.29 * 100 is 28.999999999999996 in floating point


@pytest.mark.parametrize(("rate", "needed"), [(0.1, 9), (0.05, 19), (0.02, 49), (0.01, 99), (0.001, 999)])
def test_the_number_of_pictures_that_a_rate_needs(rate: float, needed: int) -> None:
    assert pictures_needed(rate) == needed
    assert rank(needed, rate) == 1
    with pytest.raises(CalibrationError, match=f"hold back {needed} pictures"):
        rank(needed - 1, rate)
    assert strictest_rate(needed) == pytest.approx(rate)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=60), st.floats(-120, 120), st.floats(-120, 120))
@settings(max_examples=200, deadline=None)
def test_p_values_fall_with_the_score_and_agree_with_the_verdict(scores: list[float], a: float, b: float) -> None:
    calibration = calibrate(scores, 0.3, review=0.5)
    low, high = sorted((a, b))
    assert 0 < calibration.p_value(high) <= calibration.p_value(low) <= 1
    assert calibration.p_value(low) == (1 + sum(s >= low for s in scores)) / (len(scores) + 1)
    assert (calibration.verdict(a) == "NG") == (calibration.p_value(a) <= 0.3 + 1e-9)
    assert (calibration.verdict(a) != "OK") == (calibration.p_value(a) <= 0.5 + 1e-9)


def test_promised_rate_holds_on_fresh_scores() -> None:
    rng = np.random.default_rng(0)
    alarms = [np.mean(rng.normal(size=400) > calibrate(rng.normal(size=59), 0.05).threshold) for _ in range(400)]
    assert np.mean(alarms) <= 0.05 + 3 * np.std(alarms) / math.sqrt(len(alarms))


def test_three_verdicts_and_pixel_threshold() -> None:
    calibration = calibrate(range(19), 0.05, review=0.2, peaks=[s + 100 for s in range(19)])
    assert [calibration.verdict(s) for s in (15, 15.5, 18, 18.5)] == ["OK", "REVIEW", "REVIEW", "NG"]
    assert calibration.pixel_threshold == 118


@pytest.mark.parametrize(
    ("scores", "rate", "options", "words"),
    [
        ([], 0.05, {}, "0 held-back good pictures cannot promise"),
        ([1.0] * 5, 0.05, {}, "hold back 19 pictures"),
        ([1.0] * 50, 0.0, {}, "between 0 and 1"),
        ([1.0] * 50, 1.0, {}, "between 0 and 1"),
        ([1.0] * 50, float("nan"), {}, "between 0 and 1"),
        ([1.0, float("nan")] * 25, 0.05, {}, "not finite"),
        ([1.0] * 50, 0.2, {"review": 0.1}, "below the false-alarm rate"),
        ([1.0] * 50, 0.2, {"peaks": [1.0]}, "one peak per score"),
    ],
)
def test_refusals(scores: list[float], rate: float, options: dict[str, object], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        calibrate(scores, rate, **options)  # type: ignore[arg-type]


def test_json_round_trip_ignores_an_edited_threshold() -> None:
    calibration = calibrate([3.0, 1.0, 2.0, 5.0], 0.25, review=0.5)
    stored = json.loads(json.dumps(calibration.as_dict()))
    assert calibration_from_dict(stored) == calibration
    assert calibration_from_dict(stored | {"threshold": -1e9}) == calibration
