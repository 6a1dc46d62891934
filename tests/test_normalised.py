"""The score on one scale for all models, and p-values in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.types import p_words

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=30)


@given(SCORES, st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.none() | st.floats(-1e6, 1e6))
def test_it_rises_with_the_score_and_is_a_half_at_the_limit(
    scores: list[float], one: float, other: float, fixed: float | None
) -> None:
    calibration = calibrate(scores, 0.34).moved(threshold=fixed)
    low, high = (calibration.normalised(score) for score in sorted((one, other)))
    assert 0.0 <= low <= high <= 1.0
    assert calibration.normalised(calibration.threshold) == 0.5
    for score in (one, other):
        if calibration.verdict(score) == "NG":
            assert calibration.normalised(score) >= 0.5
        else:
            assert calibration.normalised(score) <= 0.5


def test_by_hand() -> None:
    calibration = calibrate([1.0, 2.0, 6.0], 0.25)  # NG above 6, the median is 2
    assert [calibration.normalised(score) for score in (2.0, 6.0, 10.0, 18.0)] == [0.25, 0.5, 0.75, 0.875]
    assert calibration.normalised(1e308) == pytest.approx(1.0)
    assert calibration.normalised(-1e308) == pytest.approx(0.0)
    equal = calibrate([3.0, 3.0, 3.0], 0.25)
    assert equal.normalised(3.0) == 0.5
    assert equal.normalised(3.1) > 0.7
    own = calibration.moved(threshold=0.0)
    assert own.normalised(-1.0) < 0.5 < own.normalised(1.0)


@given(st.integers(1, 5000))
def test_the_lowest_p_value_is_a_bound_that_is_true(n: int) -> None:
    least = 1 / (n + 1)
    words = p_words(least, least)
    assert words.startswith("< ")
    assert least < float(words[2:]) <= 1.12 * least


def test_other_p_values_are_rounded() -> None:
    assert p_words(1 / 21, 1 / 21) == "< 0.048"
    assert p_words(2 / 21, 1 / 21) == "= 0.095"
    assert p_words(1.0, 0.5) == "= 1"
    assert p_words(0.5, 0.0) == "= 0.5"
