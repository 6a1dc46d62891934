"""The promise: exact leave-one-out laws, refusals, p-values."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from flawforge.types import CalibrationError
from flawforge_runtime.calibrate import Rules, calibrate, calibration_from_dict
from flawforge_runtime.rates import ROUNDED, expected_rate, highest_share, percent, pictures_needed, rank, strictest_rate


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


@pytest.mark.parametrize("n", range(1, 201))
def test_with_ties_the_promise_holds_for_every_n_and_rate_and_for_regions(n: int) -> None:
    """Leave one out of n + 1 scores with ties: no rate j / (n + 1) is exceeded, by the verdict, the p-value or a mark."""
    rng = np.random.default_rng(n)
    scores = rng.integers(0, max(2, n // 3), n + 1).astype(float)
    peaks = rng.integers(0, max(2, n // 2), n + 1).astype(float)
    made = [
        calibrate(np.delete(scores, i), 1 / (n + 1), review=n / (n + 1), peaks=np.delete(peaks, i)) for i in range(n + 1)
    ]
    p_values = np.array([each.p_value(score) for each, score in zip(made, scores, strict=True)])
    for k in sorted({1, max(1, n // 20), max(1, n // 3), n}):
        assert (p_values <= k / (n + 1) + 1e-9).sum() <= k
        at_rate = [each.moved(k / (n + 1), review=n / (n + 1)) for each in made]
        assert sum(each.verdict(score) == "NG" for each, score in zip(at_rate, scores, strict=True)) <= k
        assert sum(peak > each.pixel_threshold for each, peak in zip(at_rate, peaks, strict=True)) <= k


@given(st.integers(1, 500), st.floats(1e-4, 0.999), st.sampled_from([None, 0.5, 0.8, 0.95, 0.999]))
@settings(max_examples=300, deadline=None)
def test_every_rate_that_n_cannot_carry_is_refused_with_the_number_that_can(
    n: int, rate: float, confidence: float | None
) -> None:
    needed = pictures_needed(rate, confidence)
    if n >= needed:
        assert 1 <= rank(n, rate, confidence) <= n
        assert strictest_rate(n, confidence) <= rate * (1 + 1e-6)
    elif rate >= strictest_rate(n, confidence) * (1 - ROUNDED):
        assert rank(n, rate, confidence) == 1
    else:
        with pytest.raises(CalibrationError, match=f"calibrate on {needed} pictures"):
            calibrate(range(n), rate, confidence=confidence)
        assert strictest_rate(n, confidence) > rate
        assert rank(needed, rate, confidence) >= 1


def test_the_kth_largest_by_hand() -> None:
    scores = [0.1 * i for i in range(1, 20)]  # n = 19
    assert calibrate(scores, 0.05).threshold == scores[-1]
    assert calibrate(scores, 0.10).threshold == scores[-2]
    assert rank(99, 0.29) == 29  # 0.29 * 100 is 28.999999999999996 in floating point


@pytest.mark.parametrize(("rate", "needed"), [(0.1, 9), (0.05, 19), (0.02, 49), (0.01, 99), (0.001, 999)])
def test_the_number_of_pictures_that_a_rate_needs(rate: float, needed: int) -> None:
    assert pictures_needed(rate) == needed
    assert rank(needed, rate) == 1
    with pytest.raises(CalibrationError, match=f"calibrate on {needed} pictures"):
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
        ([], 0.05, {}, "0 calibration pictures do not support"),
        ([1.0] * 5, 0.05, {}, "calibrate on 19 pictures"),
        ([1.0] * 50, 0.0, {}, "between 0 and 1"),
        ([1.0] * 50, 1.0, {}, "between 0 and 1"),
        ([1.0] * 50, float("nan"), {}, "between 0 and 1"),
        ([1.0, float("nan")] * 25, 0.05, {}, "not finite"),
        ([1.0] * 50, 0.2, {"review": 0.1}, "below the false-alarm rate"),
        ([1.0] * 50, 0.2, {"peaks": [1.0]}, "one peak per score"),
        ([1.0] * 50, 0.05, {"peaks": [1.0] * 49 + [float("nan")]}, "peaks hold a value"),
    ],
)
def test_refusals(scores: list[float], rate: float, options: dict[str, object], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        calibrate(scores, rate, **options)  # type: ignore[arg-type]


def test_what_calibrate_was_given_is_kept_wherever_the_limits_go() -> None:
    calibration = dataclasses.replace(calibrate(range(40), 0.1), again="GOOD --yes")
    assert calibration_from_dict(json.loads(json.dumps(calibration.as_dict()))) == calibration
    assert calibration.moved(0.2).again == "GOOD --yes"
    assert "again" not in calibrate(range(40), 0.1).as_dict()


def test_limits_that_are_moved_keep_what_the_calibration_pictures_were() -> None:
    known = {"folds": 5, "pictures": ("0" * 12,), "doubts": ("one",), "batches": True, "looks": {"brightness": (1.0,)}}
    calibration = dataclasses.replace(calibrate(range(40), 0.1), **known)  # type: ignore[arg-type]
    assert calibration.moved(calibration.false_alarm) == calibration


def test_json_round_trip_ignores_an_edited_threshold() -> None:
    calibration = calibrate([3.0, 1.0, 2.0, 5.0], 0.25, review=0.5)
    stored = json.loads(json.dumps(calibration.as_dict()))
    assert calibration_from_dict(stored) == calibration
    assert calibration_from_dict(stored | {"threshold": -1e9}) == calibration


@pytest.mark.parametrize(("rate", "needed"), [(0.1, 29), (0.05, 59), (0.02, 149), (0.01, 299)])
def test_the_number_of_pictures_that_a_rate_with_confidence_needs(rate: float, needed: int) -> None:
    assert pictures_needed(rate, 0.95) == needed
    assert rank(needed, rate, 0.95) == 1
    with pytest.raises(CalibrationError, match=f"with 0.95 confidence: .*calibrate on {needed} pictures"):
        rank(needed - 1, rate, 0.95)
    assert strictest_rate(needed, 0.95) <= rate < strictest_rate(needed - 1, 0.95)
    assert rank(needed, strictest_rate(needed, 0.95), 0.95) == 1


@given(st.integers(1, 400), st.floats(0.005, 0.5), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
@settings(max_examples=150, deadline=None)
def test_the_rank_with_confidence_is_the_largest_that_keeps_the_rate(n: int, rate: float, confidence: float) -> None:
    """Against scipy: the rate behind the k-th largest is Beta(k, n + 1 - k), and must lie below `rate` often enough."""
    largest = max((k for k in range(1, n + 1) if binom.cdf(k - 1, n, rate) <= 1 - confidence), default=0)
    if largest == 0:
        with pytest.raises(CalibrationError):
            rank(n, rate, confidence)
        assert n < pictures_needed(rate, confidence)
    else:
        assert rank(n, rate, confidence) == largest
        assert beta.cdf(rate, largest, n + 1 - largest) >= confidence - 1e-9
        assert largest <= rank(n, rate)


def test_with_confidence_the_rate_holds_in_95_of_100_calibrations() -> None:
    """Scores are uniform, so the true rate behind a threshold t is 1 - t."""
    rng = np.random.default_rng(0)
    kept = sum(1 - calibrate(rng.random(120), 0.05, confidence=0.95).threshold <= 0.05 for _ in range(1000))
    assert kept >= binom.ppf(0.001, 1000, 0.95)
    on_average = sum(1 - calibrate(rng.random(120), 0.05).threshold <= 0.05 for _ in range(1000))
    assert on_average < kept  # what the confidence is for


def test_marks_are_as_sure_as_verdicts() -> None:
    """Of 99 the second highest is the limit of 5 % with 95 % confidence, where the fifth is that on average."""
    sure, plain = calibrate(range(99), 0.05, confidence=0.95), calibrate(range(99), 0.05)
    assert sure.pixel_threshold == sure.threshold == 97
    assert plain.pixel_threshold == plain.threshold == 94


def test_moving_the_threshold_keeps_the_scores_and_says_what_it_promises() -> None:
    calibration = calibrate(range(99), 0.05, review=0.1)
    stricter = calibration.moved(0.01)
    assert (stricter.threshold, stricter.review_threshold, stricter.scores) == (98, 89, calibration.scores)
    looser = calibration.moved(0.2)
    assert looser.review_threshold == looser.threshold
    own = calibration.moved(threshold=50.5)
    assert own.threshold == own.review_threshold == 50.5
    assert own.carried(50.5) == pytest.approx(49 / 100)
    assert own.verdict(51) == "NG"
    assert own.p_value(51) == calibration.p_value(51)
    assert calibration_from_dict(json.loads(json.dumps(own.as_dict()))) == own
    sure = calibration.moved(confidence=0.95)
    assert sure.threshold > calibration.threshold
    assert calibration_from_dict(json.loads(json.dumps(sure.as_dict()))) == sure
    with pytest.raises(CalibrationError, match="finite"):
        calibration.moved(threshold=float("inf"))
    with pytest.raises(CalibrationError, match="calibrate on 999 pictures"):
        calibration.moved(0.001)


@pytest.mark.parametrize(("n", "average", "bound"), [(12, 0.0769, 0.221), (20, 0.0476, 0.139), (99, 0.0100, 0.0298)])
def test_both_numbers_at_the_lowest_limit(n: int, average: float, bound: float) -> None:
    rate = expected_rate(n, 1)
    assert (rate.expected, rate.bound) == pytest.approx((average, bound), abs=5e-5 + 5e-4 * (n < 99))
    assert rate.confidence == 0.95


@given(st.integers(1, 400), st.data())
@settings(max_examples=100, deadline=None)
def test_the_two_numbers_are_mean_and_quantile_of_the_beta_law(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    sure = data.draw(st.sampled_from([None, 0.5, 0.8, 0.95, 0.999]))
    rate = expected_rate(n, k, sure)
    assert rate.expected == pytest.approx(beta.mean(k, n + 1 - k), rel=1e-12)
    assert rate.bound == pytest.approx(beta.ppf(sure or 0.95, k, n + 1 - k), abs=1e-7)
    assert (rate.rank, rate.n, rate.confidence) == (k, n, sure or 0.95)


def test_the_bound_holds_in_95_of_100_calibrations_and_the_average_on_average() -> None:
    """Scores are uniform, so the true rate behind a threshold t is 1 - t. No use of the law: drawn and counted."""
    rng = np.random.default_rng(1)
    rates = [(1 - each.threshold, each.rate_ng) for each in (calibrate(rng.random(20), 0.05) for _ in range(2000))]
    truth = np.array([true for true, _ in rates])
    (expected,) = {said.expected for _, said in rates}
    (bound,) = {said.bound for _, said in rates}
    assert abs(truth.mean() - expected) < 4 * truth.std() / math.sqrt(len(truth))
    kept = int((truth <= bound).sum())
    assert binom.ppf(1e-4, 2000, 0.95) <= kept <= binom.ppf(1 - 1e-4, 2000, 0.95)
    assert 0.3 < (truth > expected).mean() < 0.45  # an average is exceeded often: never call it a limit


def test_a_limit_below_all_scores_bounds_nothing() -> None:
    calibration = calibrate(range(20), 0.05).moved(threshold=-1.0)
    assert calibration.rate_ng.expected == calibration.rate_ng.bound == 1.0
    assert calibration.rate_flagged == calibration.rate_ng


def test_the_expected_rates_follow_threshold_confidence_and_parts() -> None:
    plain = calibrate(range(99), 0.05, review=0.1)
    assert (plain.rate_ng.rank, plain.rate_flagged.rank) == (5, 10)
    assert plain.moved(threshold=95.5).rate_ng == expected_rate(99, 4)  # 96, 97 and 98 lie above it
    assert plain.moved(threshold=95.5).rate_flagged == plain.rate_flagged
    assert plain.moved(threshold=50.0).rate_flagged == expected_rate(99, 49)
    sure = calibrate(range(99), 0.05, confidence=0.9)
    assert (sure.rate_ng.confidence, sure.rate_ng.bound <= 0.05) == (0.9, True)
    parts = calibrate(range(19), 0.05, per_part=True)
    assert (parts.rate_ng.of, parts.rate_ng.n) == ("parts", 19)
    assert parts.as_dict()["expected"]["ng"] == parts.rate_ng.as_dict()
    old = {key: value for key, value in parts.as_dict().items() if key != "expected"}  # files written before
    assert calibration_from_dict(old) == parts


def test_the_limits_are_told_one_per_line_and_an_average_is_never_called_a_limit() -> None:
    ng, review, basis = calibrate(range(99), 0.01, review=0.05).lines()
    assert ng == "NG (rejected) above score 98: 1 % of good parts on average, up to 3 % for this model (95 % confidence)"
    assert review == "REVIEW above score 94: 5 % of good parts NG or REVIEW on average, up to 9 % for this model"
    assert "99 calibration pictures" in basis
    assert "higher score = more anomalous" in basis
    few = calibrate(range(12), 1 / 13, per_part=True)
    assert few.lines()[1] == "no REVIEW band: with 12 calibration parts it takes a --review rate of 15.4 % or more"
    for text in (few.text, calibrate(range(99), 0.01).text):
        assert "at most" not in text
        assert "≤" not in text
        assert "\n" not in text


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.025, "2.5 %"), (0.1, "10 %"), (1.0, "100 %"), (0.0001, "< 0.1 %"), (0.9999, "> 99.9 %")],
)
def test_percent(share: float, words: str) -> None:
    assert percent(share) == words


@given(
    st.lists(st.integers(1, 400), max_size=8), st.floats(0, 300), st.integers(0, 5), st.sampled_from(["OK", "REVIEW", "NG"])
)
@settings(max_examples=100, deadline=None)
def test_rules_never_make_a_verdict_worse(areas: list[int], least: float, count: int, verdict: str) -> None:
    after, why = Rules(least, count).judge(verdict, areas)
    enough = sum(area >= least for area in areas) > count
    if Rules(least, count) == Rules():
        assert after == verdict
    else:
        assert after == (verdict if enough else "OK")
    assert bool(why) == (after != verdict)


def test_areas_in_square_millimetres() -> None:
    assert Rules(1.0, mm_per_pixel=0.1).counted([99, 100, 101]) == 2
    assert Rules(49.0, mm_per_pixel=0.7).counted([99, 100]) == 1  # by the last bit, .7 * .7 * 100 is less than 49
    assert "OK by rule: 0 marked regions of 4 mm2 or more, 0 allowed" in Rules(4.0, mm_per_pixel=0.1).judge("NG", [399])[1]
    calibration = calibrate(range(19), 0.05, rules=Rules(4.0, 1, 0.1))
    assert calibration_from_dict(json.loads(json.dumps(calibration.as_dict()))) == calibration
    for wrong in (
        {"min_area": -1.0},
        {"max_count": -1},
        {"max_count": 1001},
        {"mm_per_pixel": 0.0},
        {"min_area": float("nan")},
    ):
        with pytest.raises(CalibrationError):
            Rules(**wrong)  # type: ignore[arg-type]


def test_a_rule_that_no_region_could_meet_is_put_aside() -> None:
    assert Rules(100.0).judge("NG", [99], 100)[0] == "OK"
    verdict, why = Rules(101.0).judge("NG", [99], 100)
    assert verdict == "NG"
    assert why == "the rules are put aside: no region can be of 101 px or more on a picture of 100 px"
    assert Rules(1.0, mm_per_pixel=0.1).judge("NG", [99], 100)[0] == "OK"
    assert Rules(1.1, mm_per_pixel=0.1).judge("REVIEW", [99], 100)[0] == "REVIEW"


def test_rules_are_said_where_the_limits_are() -> None:
    """They decide verdicts too: whoever reads the limits reads them."""
    assert Rules().text == Rules(mm_per_pixel=0.1).text == ""
    assert Rules(20.0).text == "a part with no marked region of 20 px or more is OK by rule, whatever its score"
    assert Rules(0.5, 1, 0.05).text == (
        "a part with at most 1 marked region of 0.5 mm2 or more (a pixel is 0.05 mm wide) is OK by rule, whatever its score"
    )
    rules = Rules(0.0, 2)
    assert f"rules: {rules.text}" in calibrate(range(19), 0.05, rules=rules).lines()
    assert "rules" not in calibrate(range(19), 0.05).text


@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0, float("nan")])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(CalibrationError, match=r"from 0\.5 to below 1"):
        rank(100, 0.1, confidence)


def test_a_model_from_before_confidence_and_rules_still_opens() -> None:
    old = {"scores": list(range(19)), "peaks": list(range(19)), "false_alarm": 0.05, "review": 0.1}
    assert calibration_from_dict(old) == calibrate(range(19), 0.05, review=0.1)


# ---- laws of rules and of moved thresholds

SCORES = st.lists(st.floats(-100, 100, width=32), min_size=19, max_size=60)


@given(SCORES, st.floats(0.06, 0.5), st.floats(-1, 1), st.floats(0.1, 10))
@settings(max_examples=60, deadline=None)
def test_thresholds_move_with_the_scores(scores: list[float], rate: float, offset: float, scale: float) -> None:
    one = calibrate(scores, rate)
    other = calibrate([scale * score + offset for score in scores], rate)
    assert other.threshold == pytest.approx(scale * one.threshold + offset, rel=1e-6, abs=1e-6)
    assert other.rank == one.rank
    assert one.verdict(max(scores) + 1) == "NG"
    assert one.verdict(min(scores)) == "OK"


@given(SCORES, st.floats(0.06, 0.5), st.floats(0.06, 0.5))
@settings(max_examples=60, deadline=None)
def test_a_higher_rate_never_raises_a_threshold(scores: list[float], a: float, b: float) -> None:
    low, high = sorted((a, b))
    strict, loose = calibrate(scores, low), calibrate(scores, high)
    assert loose.threshold <= strict.threshold
    both = calibrate(scores, low, review=high)
    assert both.review_threshold <= both.threshold
    assert both.threshold == strict.threshold
    assert both.review_threshold == loose.threshold


@given(SCORES, st.floats(-150, 150))
@settings(max_examples=60, deadline=None)
def test_a_threshold_of_ones_own_promises_what_it_carries(scores: list[float], threshold: float) -> None:
    moved = calibrate(scores, 0.1).moved(threshold=threshold)
    assert moved.threshold == threshold
    assert moved.carried(threshold) == pytest.approx((1 + sum(score > threshold for score in scores)) / (len(scores) + 1))
    assert moved.review_threshold <= threshold
    assert moved.scores == calibrate(scores, 0.1).scores


@given(st.lists(st.floats(0, 100), max_size=8), st.floats(0, 50), st.floats(0.01, 2))
@settings(max_examples=60, deadline=None)
def test_areas_are_counted_in_the_unit_of_the_rules(areas: list[float], least: float, side: float) -> None:
    assert Rules(least).counted(areas) == sum(area >= least for area in areas)
    assert Rules(least, mm_per_pixel=side).counted(areas) == sum(area * side**2 >= least for area in areas)


@given(SCORES)
@settings(max_examples=40, deadline=None)
def test_a_score_beyond_is_above_everything(scores: list[float]) -> None:
    made = calibrate(scores, 0.1)
    assert made.beyond > max(scores)
    assert made.beyond > made.threshold
    assert made.verdict(made.beyond) == "NG"
    assert made.p_value(made.beyond) == pytest.approx(1 / (len(scores) + 1))
    own = made.moved(threshold=1e6)
    assert own.beyond > own.threshold
    assert own.verdict(own.beyond) == "NG"


@pytest.mark.parametrize(("events", "of"), [(0, 5), (1, 20), (3, 40), (7, 7), (0, 1)])
def test_the_highest_share_is_scipys_clopper_pearson(events: int, of: int) -> None:
    expected = 1.0 if events == of else float(beta.ppf(0.975, events + 1, of - events))
    assert highest_share(events, of) == pytest.approx(expected, abs=1e-6)


def test_marks_at_a_rate_of_their_own_by_hand() -> None:
    """Of 19 good pictures one has a far higher place than all others: at 5 % it sets the limit, at 20 % it cannot."""
    peaks = [*range(1, 19), 1000]
    plain = calibrate(range(19), 0.05, peaks=peaks)
    marked = calibrate(range(19), 0.05, peaks=peaks, mark_rate=0.2)
    assert plain.pixel_threshold == 1000
    assert marked.pixel_threshold == 16  # the fourth largest: 0.2 * 20
    assert (marked.threshold, marked.review_threshold) == (plain.threshold, plain.review_threshold)
    assert marked.rate_marked.expected == pytest.approx(4 / 20)
    assert any(
        line.startswith("pixels are marked above 16: 20 % of good parts get a mark on average") for line in marked.lines()
    )
    assert not any("marked" in line for line in plain.lines())
    assert "mark_rate" not in plain.as_dict()  # models of before stay as they are
    for each in (plain, marked):
        assert calibration_from_dict(each.as_dict()) == each
    # A verdict that is looser than the marks takes them along: what is NG more often may be marked as often.
    assert marked.moved(0.5).pixel_threshold == calibrate(range(19), 0.5, peaks=peaks).pixel_threshold
    assert marked.moved(0.1).pixel_threshold == marked.pixel_threshold


@pytest.mark.parametrize("n", range(9, 60, 7))
def test_the_rate_of_marks_holds_for_every_n(n: int) -> None:
    """Leave one out of n + 1 peaks, with ties: no more than the stated share has a mark."""
    peaks = np.random.default_rng(n).integers(0, n // 2, n + 1).astype(float)
    made = [calibrate(np.arange(n), 1 / (n + 1), peaks=np.delete(peaks, i), mark_rate=0.3) for i in range(n + 1)]
    alarms = sum(peak > each.pixel_threshold for each, peak in zip(made, peaks, strict=True))
    assert alarms <= made[0].rate_marked.expected * (n + 1) + 1e-9
    assert made[0].rate_marked.expected <= 0.3
