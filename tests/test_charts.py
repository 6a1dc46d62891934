"""Charts hold for any scores: every coordinate is a number inside the picture, and words never become markup."""

from __future__ import annotations

import datetime
import itertools
import math
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.reporting import charts
from flawforge_runtime.drawing import AT_THRESHOLD

SCORES = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=12)


def coordinates(markup: str) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in re.findall(r' (x|y|x1|x2|y1|y2|cx|cy|width|height)="([^"]*)"', markup)]


@settings(max_examples=150, deadline=None)
@given(good=SCORES, defective=SCORES, threshold=st.floats(width=32))
def test_every_coordinate_lies_in_the_picture(good: list[float], defective: list[float], threshold: float) -> None:
    for markup in (
        charts.histogram(good, defective, [(threshold, "NG", "ng"), (threshold, "REVIEW", "review")]),
        charts.trade_off(good, defective, threshold),
    ):
        for name, value in coordinates(str(markup)):
            assert math.isfinite(value)
            assert -1 <= value <= (charts.WIDTH if "x" in name or name == "width" else charts.HEIGHT) + 1


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_an_axis_keeps_the_order_and_its_ticks_lie_on_it(values: list[float]) -> None:
    axis = charts.axis(values, 10, 110)
    places = [axis(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 <= place <= 110 for place in places)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(axis.low - 1e-6 * abs(axis.low) <= tick <= axis.high + 1e-6 * abs(axis.high) for tick in ticks)


def test_ticks_are_round() -> None:
    assert charts.Axis(0, 1, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.Axis(-3, 7.5, 0, 100).ticks() == pytest.approx([-2.5, 0, 2.5, 5, 7.5])
    assert charts.Axis(0.001, 12, 0, 100, log=True).ticks() == pytest.approx([0.001, 0.01, 0.1, 1, 10])


def test_the_histogram_counts_every_picture_once() -> None:
    markup = str(charts.histogram([0.1, 0.1, 0.2], [0.2, 0.9, 0.9, 0.9], []))
    found = re.findall(r"<title>(\d+) (good|defective)</title>", markup)
    assert sum(int(n) for n, kind in found if kind == "good") == 3
    assert sum(int(n) for n, kind in found if kind == "defective") == 4


def test_the_trade_off_passes_through_the_threshold_in_use() -> None:
    """By hand: 1 of 4 good above 3, and 1 of 2 defective at or below it."""
    markup = str(charts.trade_off([1, 2, 3, 4], [2.5, 9], 3))
    assert "in use: 25 % / 50 %" in markup
    x = charts.Axis(0, 0.5, charts.LEFT, charts.WIDTH - charts.RIGHT)(0.25)
    y = charts.Axis(0, 1, charts.HEIGHT - charts.BOTTOM, charts.TOP)(0.5)
    assert f'cx="{x:.1f}" cy="{y:.1f}"' in markup
    assert f"{x:.1f},{y:.1f}" in markup


def test_the_trade_off_of_a_good_model_is_looked_at_closely() -> None:
    """No error at all: both axes end at 20 %. Half of all wrong: they end at 100 %."""
    x, y = charts.trade_axes([1, 2], [8, 9], 5)
    assert (x.high, y.high) == (0.2, 0.2)
    x, y = charts.trade_axes([1, 9], [1, 9], 5)
    assert (x.high, y.high) == (1.0, 1.0)
    assert charts.trade_axes([1], [2], None)[0].high == 0.2


@settings(max_examples=100, deadline=None)
@given(
    good=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    defective=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    cut=st.integers(0, 9),
)
def test_the_trade_off_is_a_staircase_that_never_leaves_the_picture(good: list[int], defective: list[int], cut: int) -> None:
    markup = str(charts.trade_off(good, defective, cut))
    for text in re.findall('points="([^"]*)"', markup):
        points = [tuple(map(float, pair.split(","))) for pair in text.split()]
        assert all(charts.LEFT - 0.1 <= x <= charts.WIDTH - charts.RIGHT + 0.1 for x, _ in points)
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            assert x1 == x2 or y1 == y2
            assert x2 >= x1  # more good parts rejected,
            assert y2 >= y1  # fewer defects missed: down the picture


def test_a_histogram_without_defects_uses_the_whole_height() -> None:
    alone, both = (str(charts.histogram([1.0, 1.0, 2.0], bad, [])) for bad in ([], [3.0]))
    heights = [[float(h) for h in re.findall('<rect class="good"[^>]*height="([^"]*)"', markup)] for markup in (alone, both)]
    assert max(heights[0]) > 1.9 * max(heights[1])
    assert "defective" not in alone
    assert ">good</text>" in alone
    assert ">2</text>" in alone  # the count that the highest bar stands for


def test_the_bar_of_a_rate_is_drawn_to_scale() -> None:
    markup = str(charts.rate_bar((0.05, 0.14), (0.15, 0.03, 0.38), 0.1))
    axis = charts.Axis(0, 1.12 * 0.38, charts.LABELS, charts.BAR - 14)
    for share in (0.05, 0.14):
        assert f'width="{axis(share) - charts.LABELS:.1f}"' in markup
    assert f'cx="{axis(0.15):.1f}"' in markup
    assert f'x1="{axis(0.03):.1f}" y1="50.0" x2="{axis(0.38):.1f}" y2="50.0"' in markup
    assert "accepted 10 %" in markup
    assert "Nothing to draw" in str(charts.rate_bar())
    assert ">measured<" not in str(charts.rate_bar((0.01, 0.03)))


@settings(max_examples=60, deadline=None)
@given(low=st.floats(-1e3, 1e3), step=st.floats(1e-3, 1e3))
def test_the_colour_bar_marks_the_limit_where_the_maps_take_its_colour(low: float, step: float) -> None:
    markup = str(charts.colour_bar(low, low + step))
    at = 8 + AT_THRESHOLD * (charts.BAR - 16)
    assert abs(float(re.findall(r'<line class="axis" x1="([^"]*)"', markup)[0]) - at) < 0.2
    assert "marked above" in markup
    for name, value in coordinates(markup):
        assert math.isfinite(value), name


def test_the_colours_of_the_bar_are_those_of_the_maps() -> None:
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1]
    for i, colour in enumerate(charts.RAMP):
        assert np.abs(ramp[round(25.5 * i)].astype(int) - colour).max() <= 6


@pytest.mark.parametrize(("share", "radius"), [(0.0, 0.6), (0.5, 11.0), (1.0, 22.0), (3.0, 22.0)])
def test_a_dot_is_as_large_as_its_share_of_the_frame(share: float, radius: float) -> None:
    assert f'r="{radius:.1f}"' in str(charts.size_dot(share))


def test_names_of_losses_are_escaped_and_told_apart_by_stage() -> None:
    rows = [{"step": s, "losses": {"<b>&": 1.0 / (s + 1), "bad": math.nan}} for s in range(3)]
    markup = str(charts.training_curves(rows))
    assert "<b>" not in markup
    assert "&lt;b&gt;&amp;" in markup
    assert "bad" not in markup
    staged = [{"stage": f"s{s}", "step": s, "losses": {"a": 1.0}} for s in range(2)]
    assert "s0: a" in str(charts.training_curves(staged))
    assert "s1: a" in str(charts.training_curves(staged))


def test_nothing_to_draw_is_said_in_words() -> None:
    for markup in (charts.histogram([], [math.nan], []), charts.trade_off([1.0], [], 1.0), charts.training_curves([])):
        assert "Nothing to draw" in str(markup)


def test_a_fit_of_a_single_step_is_drawn() -> None:
    drawn = charts.training_curves([{"stage": "both", "step": 1, "losses": {"l2": 0.5}}])
    assert "polyline" in drawn
    assert "l2" in drawn


# ---- axes


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(-1e6, 1e6))
def test_a_linear_axis_is_linear_inside_and_stops_at_its_ends(low: float, width: float, value: float) -> None:
    axis = charts.Axis(low, low + width, 20, 120)
    share = min(max((value - low) / width, 0), 1)
    assert axis(value) == pytest.approx(20 + 100 * share, abs=1e-3)
    turned = charts.Axis(low, low + width, 120, 20)
    assert axis(value) + turned(value) == pytest.approx(140)


@given(st.floats(1e-6, 1e3), st.floats(1.1, 1e6), st.floats(1e-9, 1e9))
def test_a_logarithmic_axis_puts_equal_factors_at_equal_distances(low: float, factor: float, value: float) -> None:
    axis = charts.Axis(low, low * factor**2, 0, 100, log=True)
    assert axis(low * factor) == pytest.approx(50, abs=1e-4)
    assert 0 <= axis(value) <= 100
    assert axis(0.0) == axis(-5.0) == 0  # what has no logarithm lies at the low end


@given(st.floats(-1e5, 1e5), st.floats(1e-2, 1e5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_ticks_are_evenly_spaced_and_few(low: float, width: float, log: bool) -> None:
    low = abs(low) + 1e-3 if log else low
    axis = charts.Axis(low, low + width, 0, 100, log=log)
    ticks = axis.ticks()
    assert ticks == sorted(ticks)
    assert len(ticks) <= 12
    if not log:
        assert len(ticks) >= 2
        steps = [b - a for a, b in itertools.pairwise(ticks)]
        assert max(steps) == pytest.approx(min(steps), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "log"),
    [([1.0, 15.0], True), ([1.0, 14.0], False), ([0.0, 100.0], False), ([-1.0, 100.0], False), ([3.0, 3.0], False)],
)
def test_an_axis_is_logarithmic_for_positive_values_over_a_wide_range(values: list[float], log: bool) -> None:
    axis = charts.axis(values, 0, 100)
    assert axis.log is log
    assert axis.low < min(values) <= max(values) < axis.high


# ---- the charts


def test_thresholds_are_drawn_in_order_with_their_labels_and_classes() -> None:
    markup = str(charts.histogram([1, 2], [5], [(4.0, "NG", "ng"), (3.0, "REVIEW", "review"), (math.inf, "never", "x")]))
    lines = re.findall(r'<line class="mark (\w+)" x1="([\d.]+)"', markup)
    assert [name for name, _ in lines] == ["review", "ng"]
    assert float(lines[0][1]) < float(lines[1][1])
    assert "never" not in markup


def test_bars_are_as_high_as_their_counts() -> None:
    markup = str(charts.histogram([0.0] * 4 + [1.0] * 2, [0.5], []))
    bars = re.findall(r'<rect class="(\w+)" x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', markup)
    heights = {name: [float(height) for each, height in bars if each == name] for name in ("good", "bad")}
    assert heights["good"][0] == pytest.approx(2 * heights["good"][1], rel=0.01)
    assert heights["bad"][0] == pytest.approx(heights["good"][0] / 4, rel=0.01)


def test_a_trade_off_without_a_limit_marks_none() -> None:
    assert "in use" not in str(charts.trade_off([1.0, 2.0], [1.5, 3.0], None))


@given(st.lists(st.floats(-5, 5), max_size=20), st.floats(-5, 5))
def test_the_share_above_is_the_mean(values: list[float], cut: float) -> None:
    expected = sum(value > cut for value in values) / len(values) if values else 0
    assert charts.share_above(values, cut) == pytest.approx(expected)


def test_only_numbers_are_finite() -> None:
    assert charts.finite([1, None, math.nan, 2.5, math.inf, -math.inf]) == [1.0, 2.5]


CURVE = {
    "kind": "scratch",
    "contrast": 0.3,
    "unit": "px",
    "points": [[5.0, 0.2, 0.1, 0.4], [20.0, 0.8, 0.6, 0.9], [60.0, 0.99, 0.9, 1.0]],
    "bins": [[5.0, 20.0, 3, 10, 0.1, 0.6], [20.0, 60.0, 9, 10, 0.5, 1.0]],
    "a90_95": 41.23,
}


def test_a_pod_chart_has_a_band_a_line_and_a_dot_for_each_count() -> None:
    markup = str(charts.pod_curves([CURVE, CURVE | {"contrast": 0.1, "a90_95": None}]))
    assert len(re.findall('<polygon class="band', markup)) == 1  # of the first; two bands would mix their colours
    assert len(re.findall('<polyline class="bound', markup)) == 2
    assert re.findall(r'<polyline class="curve (dash\d) series\d"', markup) == ["dash0", "dash1"]
    assert re.findall("<title>([^<]+)</title>", markup)[:2] == ["3 of 10 found, 5 to 20", "9 of 10 found, 20 to 60"]
    assert "a90/95: 42 px (30 %), not shown (10 %)" in markup  # rounded up, never down
    assert "Nothing to draw" in str(charts.pod_curves([CURVE | {"points": []}]))


def test_dots_lie_at_the_middle_of_their_sizes_and_at_their_share() -> None:
    markup = str(charts.pod_curves([CURVE]))
    x = charts.Axis(5 / 1.05, 60 * 1.05, charts.LEFT, charts.WIDTH - charts.RIGHT, log=True)
    y = charts.Axis(0, 1, charts.HEIGHT - charts.BOTTOM, charts.TOP)
    assert f'cx="{x(10.0):.1f}" cy="{y(0.3):.1f}"' in markup


def test_evidence_is_drawn_with_its_alarm_and_thinned_where_it_is_long() -> None:
    markup = str(charts.evidence([1.0, 2.0, 50.0], 20.0))
    assert 'class="mark ng"' in markup
    assert len(charts.finite([1.0])) == 1
    assert "Nothing to draw" in str(charts.evidence([1.0], 20.0))
    path = re.search(r'<polyline class="curve" points="([^"]+)"', str(charts.evidence([1.0] * 5000, 20.0)))
    assert path is not None
    assert len(path[1].split()) <= 420
    zero = str(charts.evidence([0.0, 0.0, 1.0], 20.0))  # wealth may be lost altogether
    assert "nan" not in zero
    assert "inf" not in zero


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_figure_that_is_none_has_no_whisker(value: float | None) -> None:
    assert charts.whisker(value, 0.1, 0.9) == ""


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_whisker_lies_in_its_picture(a: float, b: float, c: float) -> None:
    low, value, high = sorted((a, b, c))
    markup = str(charts.whisker(value, low, high))
    bar = re.search(r'<rect class="whisker" x="([\d.]+)" y="5" width="([\d.]+)"', markup)
    assert bar is not None
    start, width = float(bar[1]), float(bar[2])
    assert 4 <= start <= start + width <= 118
    dot = re.search(r'cx="([\d.]+)"', markup)
    assert dot is not None
    assert start - 0.11 <= float(dot[1]) <= start + max(width, 1.5) + 0.11
    assert "rect" not in str(charts.whisker(value, None, None))


def day(number: int) -> datetime.datetime:
    return datetime.datetime(2026, 11, number, tzinfo=datetime.UTC)


def test_rates_over_time_lie_where_time_and_share_put_them() -> None:
    rejected = [(day(1), 0.0), (day(2), 0.1), (day(5), 0.2)]
    markup = str(charts.rates_over_time([("rejected", rejected), ("<i>", rejected[:1])], (0.05, "promised 5 %"), "Rates"))
    solid, dashed = re.findall(r'<polyline class="curve (dash\d) series\d" points="([^"]*)"', markup)
    points = [tuple(map(float, pair.split(","))) for pair in solid[1].split()]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert (x3 - x1) / (x2 - x1) == pytest.approx(4, abs=0.01)
    assert (y1 - y3) / (y1 - y2) == pytest.approx(2, abs=0.01)
    assert y1 == charts.HEIGHT - charts.BOTTOM
    promise = re.search(r'<line class="mark ng" x1="[\d.]+" y1="([\d.]+)"', markup)
    assert promise is not None
    assert (y1 - float(promise[1])) / (y1 - y2) == pytest.approx(0.5, abs=0.01)
    assert solid[0] != dashed[0]  # not by colour alone
    assert "promised 5 %" in markup
    assert "<i>" not in markup
    assert markup.count("<circle") == 4


def test_rates_over_time_of_one_hour_or_of_none() -> None:
    markup = str(charts.rates_over_time([("rejected", [(day(1), 0.0)])], None, "Rates"))
    (x,) = re.findall(r'cx="([\d.]+)"', markup)
    assert float(x) == pytest.approx((charts.LEFT + charts.WIDTH - charts.RIGHT) / 2, abs=0.1)
    assert "mark" not in markup
    assert "Nothing to draw" in str(charts.rates_over_time([("rejected", [])], (0.1, "x"), "Rates"))
