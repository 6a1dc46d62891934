"""One hit/miss curve of a proof: its counts, its bins, its bound, and why there is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from flawforge.proving import curves
from flawforge.proving.curves import BINS, HEAD, KindCurve, Trial, kind_curve


def trials(sizes: Any, hits: Any, goods: Any = None, verdicts: Any = None) -> list[Trial]:
    """Of one kind, found where `hits` says so."""
    goods = range(len(sizes)) if goods is None else goods
    made = []
    for i, (size, hit, good) in enumerate(zip(sizes, hits, goods, strict=True)):
        verdict = ("NG" if hit else "OK") if verdicts is None else verdicts[i]
        made.append(Trial("stain", 0.3, float(size), int(good), 1.0, verdict, bool(hit)))
    return made


def falling_out(seed: int = 0, n: int = 60) -> list[Trial]:
    """Larger ones are found more often, half of them from 20 px on."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(np.log(4), np.log(100), n))
    return trials(sizes, rng.random(n) < 1 / (1 + np.exp(-4 * np.log(sizes / 20))))


def curve_of(some: list[Trial], scale: float | None = None, parts: Any = None) -> KindCurve:
    parts = range(1 + max((trial.good for trial in some), default=0)) if parts is None else parts
    return kind_curve(some, "stain", 0.3, scale, 0, list(parts))


@pytest.mark.parametrize(
    ("verdict", "pointed", "rejected", "hit"),
    [("NG", True, True, True), ("NG", False, True, False), ("REVIEW", True, False, False), ("OK", True, False, False)],
)
def test_a_hit_is_rejected_and_pointed_at(verdict: str, pointed: bool, rejected: bool, hit: bool) -> None:
    trial = Trial("stain", 0.3, 9.0, 0, 1.0, verdict, pointed)
    assert trial.rejected is rejected
    assert trial.hit is hit


def test_counts_are_those_of_the_trials() -> None:
    some = falling_out()
    curve = curve_of(some)
    assert (curve.n, curve.hits) == (60, sum(trial.hit for trial in some))
    assert curve.rejected == sum(trial.rejected for trial in some)
    assert (curve.smallest, curve.largest) == (min(t.size for t in some), max(t.size for t in some))
    assert curve.recall.value == pytest.approx(curve.hits / 60)
    low, high = beta.ppf([0.025, 0.975], [curve.hits, curve.hits + 1], [61 - curve.hits, 60 - curve.hits])
    assert (curve.recall.low, curve.recall.high) == pytest.approx((low, high), abs=1e-6)
    assert curve.unit == "px"


def test_the_bounds_are_in_order_and_the_points_rise() -> None:
    curve = curve_of(falling_out())
    assert curve.a50 is not None
    assert curve.a90 is not None
    assert curve.a50_95 is not None
    assert curve.a90_95 is not None
    assert curve.a50 < curve.a50_95 <= curve.a90_95
    assert curve.a50 < curve.a90 < curve.a90_95
    assert curve.why == ""
    sizes, pod, low, high = np.array(curve.points).T
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(pod) >= 0).all()
    assert (low <= pod + 1e-9).all()
    assert (pod <= high + 1e-9).all()
    assert np.interp(np.log(curve.a50), np.log(sizes), pod) == pytest.approx(0.5, abs=0.02)


@given(st.floats(0.01, 10))
@settings(max_examples=10, deadline=None)
def test_millimetres_are_pixels_times_the_scale(scale: float) -> None:
    some = falling_out(1)
    px, mm = curve_of(some), curve_of(some, scale)
    assert mm.unit == "mm"
    assert (mm.hits, mm.n, mm.rejected) == (px.hits, px.n, px.rejected)
    for name in ("a50", "a90", "a90_95", "smallest", "largest"):
        assert getattr(mm, name) == pytest.approx(getattr(px, name) * scale, rel=1e-4)


@given(st.lists(st.tuples(st.floats(3, 200), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_bins_hold_every_trial_once(rows: list[tuple[float, bool]]) -> None:
    sizes, hits = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], int)
    bins = curves._bins(sizes, hits)
    assert 1 <= len(bins) <= BINS
    assert sum(row[3] for row in bins) == len(rows)
    assert sum(row[2] for row in bins) == hits.sum()
    for start, end, found, of, low, high in bins:
        assert start <= end
        assert 0 <= low <= found / of <= high <= 1
    assert [row[0] for row in bins] == sorted(row[0] for row in bins)


def test_no_trial_is_a_curve_that_says_so() -> None:
    curve = curve_of([])
    assert (curve.n, curve.hits, curve.a90_95) == (0, 0, None)
    assert curve.why == "none could be forged"
    assert curve.points == ()
    assert "not shown" in curve.line
    assert "n/a" in curve.line


@pytest.mark.parametrize(
    ("hits", "why"),
    [
        ([1] * 15 + [0] * 15, "larger ones are found less often"),
        ([1] * 8, "all 8 found, from 5 px; more defects are needed to show 90 %"),
        ([1], "the only one found, from 5 px; more defects are needed to show 90 %"),
        ([0] * 30, "90 % is not demonstrated by the sizes and the number tried"),
    ],
)
def test_why_there_is_no_bound(hits: list[int], why: str) -> None:
    curve = curve_of(trials(np.geomspace(5, 100, len(hits)), hits))
    assert curve.a90_95 is None
    assert curve.why == why
    assert ("all found" in curve.line, "not shown" in curve.line) == (all(hits), not all(hits))


def parts_of_two_sorts() -> tuple[Any, Any, Any]:
    """Sizes, hits and parts: of ten parts eight are found from 6 px on, one from 40 and one from 100."""
    sizes, parts = np.repeat(np.geomspace(4, 120, 24), 10), np.tile(np.arange(10), 24)
    return sizes, sizes > np.array([6] * 8 + [40, 100])[parts], parts


def test_pictures_of_one_part_are_not_independent() -> None:
    """Drawn by part, often enough more than one is lost: there is no bound, though the curve alone has one."""
    sizes, hits, parts = parts_of_two_sorts()
    alone = curve_of(trials(sizes, hits))
    joined = curve_of(trials(sizes, hits, parts))
    assert alone.a90_95 is not None
    assert alone.a90_95_by == "profile likelihood"
    assert (joined.a90_95, joined.a90_95_by) == (None, "bootstrap by picture")
    assert joined.a90 == alone.a90


def test_parts_join_pictures_as_one_picture_would() -> None:
    sizes, hits, parts = parts_of_two_sorts()
    assert curve_of(trials(sizes, hits), parts=parts.tolist()) == curve_of(trials(sizes, hits, parts))


def test_the_dict_is_plain_json_and_the_line_fits_its_head() -> None:
    curve = curve_of(falling_out())
    stored = json.loads(json.dumps(curve.as_dict(), allow_nan=False))
    assert stored["a90_95"] == curve.a90_95
    assert stored["recall"]["value"] == curve.recall.value
    assert len(stored["points"]) == len(curve.points)
    assert len(curve.line) == len(HEAD)
    assert f"{curve.hits}/{curve.n}" in curve.line


def test_a_single_size_is_a_single_point() -> None:
    curve = curve_of(trials([20.0] * 10, [1] * 10))
    assert len(curve.points) == 1
    assert curve.smallest == curve.largest == 20.0


def test_units() -> None:
    assert curves.unit_of(None) == "px"
    assert curves.unit_of(0.1) == "mm"
