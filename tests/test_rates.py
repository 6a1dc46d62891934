"""The arithmetic of rates against scipy on a grid: ranks, tolerance limits, Clopper-Pearson, and shares in words."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from flawforge_runtime.rates import (
    UNSTATED,
    expected_rate,
    highest_share,
    noun,
    percent,
    percent_up,
    pictures_needed,
    rank,
    share_interval,
    strictest_rate,
)
from flawforge_runtime.types import CalibrationError

COUNTS = (1, 2, 9, 19, 59, 99, 300, 2000)
SURE = (0.5, 0.8, 0.95, 0.99)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("sure", SURE)
def test_the_bound_is_the_quantile_of_the_beta_law(n: int, sure: float) -> None:
    for k in sorted({1, 2, max(1, n // 10), max(1, n // 2), n} & set(range(1, n + 1))):
        found = expected_rate(n, k, sure)
        assert found.bound == pytest.approx(beta.ppf(sure, k, n + 1 - k), abs=1e-7)
        assert found.expected == pytest.approx(beta.mean(k, n + 1 - k))
        assert (found.confidence, found.rank, found.n) == (sure, k, n)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("sure", SURE)
def test_the_strictest_rate_with_confidence_is_that_of_the_highest_score(n: int, sure: float) -> None:
    rate = strictest_rate(n, sure)
    assert rate == pytest.approx(beta.ppf(sure, 1, n))
    assert rank(n, rate, sure) == 1
    with pytest.raises(CalibrationError, match=r"do(es)? not support"):
        rank(n, rate * 0.999, sure)
    assert rank(n, float(f"{rate:.6g}"), sure) == 1


@pytest.mark.parametrize("n", COUNTS)
def test_the_strictest_rate_on_average(n: int) -> None:
    assert strictest_rate(n) == pytest.approx(beta.mean(1, n))
    assert rank(n, strictest_rate(n)) == 1
    with pytest.raises(CalibrationError, match=f"calibrate on {pictures_needed(strictest_rate(n) * 0.999)} pictures"):
        rank(n, strictest_rate(n) * 0.999)


def test_no_picture_supports_nothing() -> None:
    assert strictest_rate(0) == strictest_rate(0, 0.95) == 1.0


@given(st.floats(0.001, 0.6), st.sampled_from([None, 0.5, 0.9, 0.95]))
@settings(deadline=None)
def test_so_many_pictures_are_needed_and_one_fewer_is_too_few(rate: float, sure: float | None) -> None:
    n = pictures_needed(rate, sure)
    assert n >= 1
    assert rank(n, rate, sure) >= 1
    if n > 1:
        with pytest.raises(CalibrationError):
            rank(n - 1, rate * (1 - 2e-4), sure)


@given(st.integers(1, 500), st.floats(0.01, 0.9), st.sampled_from(SURE))
@settings(deadline=None)
def test_the_rank_with_confidence_keeps_the_rate_and_the_next_does_not(n: int, rate: float, sure: float) -> None:
    try:
        k = rank(n, rate, sure)
    except CalibrationError:
        k = 0
    if k:
        assert beta.cdf(rate, k, n + 1 - k) >= sure - 1e-7
    if k < n:
        assert beta.cdf(rate, k + 1, n - k) < sure + 1e-7


@pytest.mark.parametrize("n", [9, 99, 249, 999, 1999])
def test_the_rank_on_average_is_whole_arithmetic(n: int) -> None:
    """Against integers: floats must not lose a rank where the product is whole (0.29 * 100 is 28.999...)."""
    for thousandths in range(1, 1000):
        k = thousandths * (n + 1) // 1000
        if k:
            assert rank(n, thousandths / 1000) == k
        else:
            with pytest.raises(CalibrationError):
                rank(n, thousandths / 1000)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(CalibrationError, match=r"give a share between 0 and 1, for example 0\.05"):
        rank(10, rate)


@pytest.mark.parametrize("of", [1, 2, 7, 30, 200, 1000])
def test_the_interval_against_scipy(of: int) -> None:
    for events in sorted({0, 1, of // 3, of - 1, of}):
        low, high = share_interval(events, of)
        assert low == pytest.approx(beta.ppf(0.025, events, of - events + 1) if events else 0.0, abs=1e-7)
        assert high == pytest.approx(beta.ppf(0.975, events + 1, of - events) if events < of else 1.0, abs=1e-7)
        assert 0 <= low <= events / of <= high <= 1


@given(st.integers(1, 200), st.data())
@settings(deadline=None, max_examples=50)
def test_intervals_mirror_nest_and_shrink(of: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, of))
    low, high = share_interval(events, of)
    mirrored = share_interval(of - events, of)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-7)
    wide = share_interval(events, of, 0.99)
    assert wide[0] <= low + 1e-9
    assert high <= wide[1] + 1e-9
    assert highest_share(events, 2 * of) <= high + 1e-9
    if events < of:
        assert highest_share(events + 1, of) >= high - 1e-9


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
def test_the_interval_covers_at_least_as_often_as_stated(rate: float) -> None:
    n = 60
    covered = [low <= rate <= high for low, high in (share_interval(events, n) for events in range(n + 1))]
    assert np.dot(binom.pmf(np.arange(n + 1), n, rate), covered) >= 0.95


@given(st.floats(0, 1))
@settings(deadline=None)
def test_a_percentage_in_words_is_right_to_its_last_digit(share: float) -> None:
    words = percent(share)
    assert words.endswith(" %")
    number = words.removesuffix(" %")
    if number.startswith("<"):
        assert 0 < share < 0.001
    elif number.startswith(">"):
        assert 0.999 < share < 1
    else:
        assert float(number) == pytest.approx(100 * share, abs=0.05 + 1e-9)
        assert not number.endswith(".0")
        assert (number == "0") == (share == 0)
        assert (number == "100") == (share == 1)


@pytest.mark.parametrize(
    ("share", "words"), [(0.0004, "< 0.1 %"), (0.0006, "0.1 %"), (0.9996, "> 99.9 %"), (0.33333, "33.3 %")]
)
def test_the_ends_are_never_claimed(share: float, words: str) -> None:
    assert percent(share) == words


@given(st.integers(1, 3000))
@settings(deadline=None)
def test_a_percentage_rounded_up_is_no_less_and_hardly_more(n: int) -> None:
    share = 1 / (n + 1)
    printed = float(percent_up(share).removesuffix(" %")) / 100
    assert share - 1e-9 <= printed <= share + 0.001 + 1e-9
    assert (percent_up(0.01), percent_up(1 / 61), percent_up(1 / 61, 3)) == ("1 %", "1.7 %", "1.64 %")


@given(st.integers(1, 3000), st.sampled_from([None, 0.8, 0.95]))
@settings(deadline=None)
def test_a_lowest_rate_can_be_asked_for_as_it_is_printed(n: int, sure: float | None) -> None:
    lowest = strictest_rate(n, sure)
    with pytest.raises(CalibrationError) as refused:
        rank(n, 0.9 * lowest, sure)
    printed = str(refused.value).split("the lowest is ")[1].split(" %")[0]
    assert rank(n, min(float(printed) / 100, 0.9999), sure) >= 1
    assert rank(n, float(f"{lowest:.6g}"), sure) == 1


def test_asked_and_lowest_never_print_alike() -> None:
    with pytest.raises(CalibrationError) as refused:
        rank(59, 0.0166)
    assert str(refused.value) == (
        "59 calibration pictures do not support a false-alarm rate of 1.66 %: the lowest is 1.67 %; ask for a higher "
        "rate, or calibrate on 60 pictures."
    )


def test_an_expected_rate_in_words_and_as_a_dictionary() -> None:
    rate = expected_rate(20, 1)
    assert rate.text == "4.8 % of good parts on average, up to 13.9 % for this model (95 % confidence)"
    assert expected_rate(3, 1, of="parts").text == "rate not known: 3 calibration parts cannot support one (10 % needs 9)"
    assert expected_rate(3, 2).text.startswith("50 % of good parts")  # asked for, not the best that there is
    told = json.loads(json.dumps(rate.as_dict()))
    assert told == dataclasses.asdict(rate)
    assert told["of"] == "pictures"
    below = expected_rate(5, 6)
    assert (below.expected, below.bound) == (1.0, 1.0)


def test_what_counts_as_stated() -> None:
    stated = [n for n in range(1, 50) if not expected_rate(n, 1).text.startswith("rate not known")]
    assert stated[0] == math.ceil(1 / UNSTATED) - 1 == 4


def test_one_is_singular() -> None:
    assert [noun(n, of) for n in (1, 2) for of in ("pictures", "parts", "batches")] == [
        *("picture", "part", "batch"),
        *("pictures", "parts", "batches"),
    ]
    assert "1 calibration batch cannot support one" in expected_rate(1, 1, of="batches").text
