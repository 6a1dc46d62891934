"""POD curves against independent oracles, bounds against known truths, and the pass rules of 90/95."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from flawforge.proving.hitmiss import DROP, bootstrap_a90, demonstrates, fit_curve, lower_bound
from flawforge.types import ConfigError

SIZES = np.geomspace(3, 80, 48)


def trials(mu: float, slope: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sizes from 3 to 80, evenly in the logarithm as the proof pictures have them, and outcomes of a known POD."""
    sizes = 3 * (80 / 3) ** ((np.arange(n) + rng.random(n)) / n)
    return sizes, (rng.random(n) < expit(slope * np.log(sizes / mu))).astype(int)


def penalised(b: np.ndarray, x: np.ndarray, hits: np.ndarray) -> float:
    """Firth's log-likelihood, written down again from the paper."""
    p = np.clip(expit(b[0] + b[1] * x), 1e-15, 1 - 1e-15)
    design = np.stack([np.ones_like(x), x], axis=1)
    information = design.T @ (design * (p * (1 - p))[:, None])
    return float((hits * np.log(p) + (1 - hits) * np.log1p(-p)).sum() + 0.5 * np.linalg.slogdet(information)[1])


@pytest.mark.parametrize(("hits", "n"), [(29, 29), (45, 46), (59, 61), (73, 76)])
def test_the_pass_rules_of_90_95(hits: int, n: int) -> None:
    assert demonstrates(hits, n)
    assert not demonstrates(hits - 1, n)
    assert not demonstrates(hits - 1, n - 1)  # one specimen fewer, as many misses


@given(st.integers(1, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_the_lower_bound_is_the_binomial_tail(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(1, n))
    bound = lower_bound(hits, n)
    assert binom.sf(hits - 1, n, bound) == pytest.approx(0.05)
    assert lower_bound(hits - 1, n) < bound
    assert lower_bound(0, n) == 0.0


def test_the_curve_is_maximum_likelihood() -> None:
    for seed in range(5):
        sizes, hits = trials(12, 3, 60, np.random.default_rng(seed))
        curve = fit_curve(sizes, hits)
        oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(np.log(sizes)[:, None], hits)
        assert not curve.firth
        assert curve.b1 == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
        assert curve.b0 == pytest.approx(oracle.intercept_[0], rel=1e-4)
        assert curve.a90 == pytest.approx(math.exp((math.log(9) - curve.b0) / curve.b1))
        assert curve.pod(curve.a50) == pytest.approx(0.5)


def test_separated_trials_take_firths_curve() -> None:
    hits = (SIZES > 15).astype(int)
    curve = fit_curve(SIZES, hits)
    x = np.log(SIZES)
    oracle = minimize(
        lambda b: -penalised(b, x, hits),
        [-10.0, 4.0],
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 5000},
    )
    assert curve.firth
    assert [curve.b0, curve.b1] == pytest.approx(oracle.x, rel=1e-4)
    assert 14 < curve.a50 < 16
    assert curve.a90 < curve.a90_95 < 40


@pytest.mark.parametrize("seed", range(3))
def test_a90_95_is_the_root_of_the_profile_likelihood(seed: int) -> None:
    """By another road: hold POD(size) at 0.90, maximise over the slope alone, find the size where that costs DROP / 2."""
    sizes, hits = trials(12, 4, 60, np.random.default_rng(seed))
    curve, x = fit_curve(sizes, hits), np.log(sizes)
    best = minimize(
        lambda b: -penalised(b, x, hits), [curve.b0, curve.b1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
    )

    def cost(at: float) -> float:
        held = minimize_scalar(
            lambda s: -penalised(np.array([math.log(9) - s * at, s]), x, hits),
            bounds=(0.01, 40),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return 2 * (held.fun - best.fun) - DROP

    root = brentq(cost, (math.log(9) - best.x[0]) / best.x[1], math.log(400))
    found = max((math.log(9) - b0) / b1 for b0, b1 in curve.region)
    assert found == pytest.approx(root, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "slope", "n"), [(12, 4, 48), (12, 2.5, 60), (5, 6, 48)])
def test_a90_95_covers_the_true_a90(mu: float, slope: float, n: int) -> None:
    """At least 95 % of repeated proofs, within the error of as many; "not reached" claims nothing, so it cannot be wrong."""
    rng, truth, repeats = np.random.default_rng(0), mu * 9 ** (1 / slope), 150
    found = [fit_curve(*trials(mu, slope, n, rng)).a90_95 for _ in range(repeats)]
    covered = sum(each is None or each >= truth for each in found)
    assert covered >= binom.ppf(0.01, repeats, 0.95)
    assert sum(each is not None for each in found) > repeats / 2
    assert np.median([each for each in found if each is not None]) < 2.5 * truth  # it says something


def test_pointwise_bounds_cover_the_true_pod() -> None:
    rng, at = np.random.default_rng(1), np.array([8.0, 12.0, 20.0])
    truth, below, above = expit(4 * np.log(at / 12)), np.zeros(3), np.zeros(3)
    for _ in range(150):
        low, high = fit_curve(*trials(12, 4, 48, rng)).bounds(at)
        below, above = below + (low <= truth), above + (high >= truth)
    assert (below >= binom.ppf(0.01, 150, 0.95)).all()
    assert (above >= binom.ppf(0.01, 150, 0.95)).all()


@given(st.lists(st.tuples(st.floats(2, 90), st.booleans()), min_size=1, max_size=30), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_trials_changes_nothing(rows: list[tuple[float, bool]], random: object) -> None:
    turned = list(rows)
    random.shuffle(turned)  # type: ignore[attr-defined]
    one, two = (fit_curve([a for a, _ in each], [h for _, h in each]) for each in (rows, turned))
    assert np.array_equal(one.region, two.region)
    assert (one.b0, one.b1, one.a50, one.a90, one.a90_95) == (two.b0, two.b1, two.a50, two.a90, two.a90_95)


@given(st.lists(st.tuples(st.floats(2, 90), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_trials_give_an_ordered_curve_inside_its_bounds(rows: list[tuple[float, bool]]) -> None:
    sizes = np.array([a for a, _ in rows])
    curve = fit_curve(sizes, [h for _, h in rows])
    grid = np.geomspace(curve.low, curve.high, 9)
    low, high = curve.bounds(grid)
    assert (np.diff(curve.pod(grid)) >= -1e-12).all()
    assert (np.diff(low) >= -1e-12).all()
    assert (low <= curve.pod(grid) + 1e-9).all()
    assert (curve.pod(grid) <= high + 1e-9).all()
    sizes_of = [each for each in (curve.a50, curve.a90, curve.a90_95) if each is not None]
    assert sizes_of == sorted(sizes_of)
    assert all(curve.low <= each <= curve.high * (1 + 1e-9) for each in sizes_of)


def test_never_a_number_where_it_is_not_reached() -> None:
    half = fit_curve(SIZES, np.arange(48) % 2)  # a coin at every size
    assert half.a90 is None
    assert half.a90_95 is None
    none = fit_curve(SIZES, np.zeros(48, int))
    assert (none.a50, none.a90, none.a90_95) == (None, None, None)
    late = fit_curve(SIZES, (SIZES > 70).astype(int))  # the last few only: 0.90 lies beyond what was tried
    assert late.a90_95 is None


def test_all_found_is_as_good_as_its_number() -> None:
    assert fit_curve(SIZES, np.ones(48, int)).a90 == SIZES[0]
    few, many = (fit_curve(np.geomspace(3, 80, n), np.ones(n, int)) for n in (5, 200))
    assert few.a90_95 is None or few.a90_95 > 20
    assert many.a90_95 < 10


def test_a_kind_that_is_lost_as_it_grows_has_no_a90() -> None:
    curve = fit_curve(SIZES, (SIZES < 20).astype(int))
    assert curve.falls
    assert (curve.a50, curve.a90, curve.a90_95) == (None, None, None)


def test_a_ceiling_below_090_is_seen_in_the_counts() -> None:
    """The logistic curve cannot level off; the plain count above its a90/95 can say so."""
    sizes = np.repeat(np.geomspace(3, 80, 40), 10)
    hits = (sizes > 6) & (np.tile(np.arange(10), 40) < 8)  # 8 of 10 at every larger size
    curve = fit_curve(sizes, hits.astype(int))
    assert curve.a90_95 is None


def test_the_bootstrap_by_picture_widens_what_is_not_independent() -> None:
    """Each of 10 pictures decides alone whether any of its 12 forgeries is found: 120 trials, but 10 of them at most."""
    rng = np.random.default_rng(3)
    pictures = np.repeat(np.arange(10), 12)
    sizes = np.geomspace(3, 80, 120)[rng.permutation(120)]
    eye = rng.normal(0, 0.8, 10)[pictures]
    hits = (np.log(sizes) + eye > math.log(10)).astype(int)
    curve = fit_curve(sizes, hits)
    by_picture = bootstrap_a90(sizes, hits, pictures, replicates=300, rng=np.random.default_rng(0))
    alone = bootstrap_a90(sizes, hits, np.arange(120), replicates=300, rng=np.random.default_rng(0))
    assert curve.a90 is not None
    assert alone is not None
    assert by_picture is None or by_picture > alone
    assert alone == pytest.approx(curve.a90_95, rel=0.3)


def test_the_bootstrap_gives_no_bound_beyond_the_sizes_tried() -> None:
    hits = (np.log(SIZES) + np.random.default_rng(0).normal(0, 0.5, 48) > math.log(60)).astype(int)
    assert bootstrap_a90(SIZES, hits, np.arange(48), replicates=100, rng=np.random.default_rng(0)) is None


@pytest.mark.parametrize("seed", range(5))
def test_of_two_replicates_the_higher_is_the_bound(seed: int) -> None:
    """The first is drawn alike for one and for two, so a second never lowers the bound."""
    sizes, hits = trials(12, 4, 60, np.random.default_rng(9))
    one, two = (
        bootstrap_a90(sizes, hits, np.arange(60), replicates=count, rng=np.random.default_rng(seed)) for count in (1, 2)
    )
    assert one is not None
    assert two is not None
    assert two >= one - 1e-6


@pytest.mark.parametrize(("sizes", "hits"), [([], []), ([1.0], [1, 0]), ([0.0], [1]), ([float("nan")], [1]), ([2.0], [0.5])])
def test_refusals(sizes: list[float], hits: list[float]) -> None:
    with pytest.raises(ConfigError):
        fit_curve(sizes, hits)
    with pytest.raises(ConfigError):
        lower_bound(2, 1)
