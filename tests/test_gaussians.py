"""Gaussians in closed form: posteriors, left-out pictures and tails against brute force, scipy and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import genpareto
from torch import Tensor

from flawforge.nn import gaussians
from flawforge.nn.gaussians import KNOTS, PRIORS, freedom, leave_out, pareto, posterior, ridged, tail_of, whitener


def covariance(seed: int, d: int = 4) -> Tensor:
    """A d d covariance with eigenvalues of different sizes."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d)) * np.exp(rng.normal(size=d))
    return torch.from_numpy(root @ root.T + 0.05 * np.eye(d))


def summed(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """count k b, total k d b and outer k d d of pictures m k d b."""
    m, k, _, b = pictures.shape
    return (
        torch.full((k, b), float(m), dtype=pictures.dtype),
        pictures.sum(dim=0),
        torch.einsum("mkdb,mkeb->kde", pictures, pictures),
    )


def drawn(seed: int, m: int = 7, k: int = 2, d: int = 3, b: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(m, k, d, b)))


@given(st.integers(0, 1000), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_a_whitener_whitens(seed: int, d: int) -> None:
    sigma = covariance(seed, d)
    white = whitener(sigma)
    torch.testing.assert_close(white, white.T, rtol=1e-6, atol=1e-9)
    values = torch.linalg.eigvalsh(white @ sigma @ white)
    assert float(values.max()) <= 1 + 1e-9  # the floor holds small ones below 1
    large = torch.linalg.eigvalsh(sigma) > 0.5 * sigma.trace() / d
    assert (values.sort().values[large] > 0.99).all()


def test_a_whitener_of_nothing_is_finite() -> None:
    assert torch.isfinite(whitener(torch.zeros(3, 3, dtype=torch.float64))).all()
    torch.linalg.cholesky(ridged(torch.zeros(3, 3, dtype=torch.float64)))
    torch.testing.assert_close(ridged(torch.eye(2)), torch.eye(2) * (1 + 1e-6))


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_the_posterior_is_that_of_pictures_at_zero(seed: int, tau: float) -> None:
    """tau pictures at zero (the prior mean) more: the mean is theirs and the scale is the scatter about it."""
    pictures = drawn(seed)
    mean, scale = posterior(*summed(pictures), torch.tensor([tau], dtype=torch.float64))
    expected = pictures.sum(dim=0) / (len(pictures) + tau)
    torch.testing.assert_close(mean, expected)
    apart = pictures - expected
    scatter = torch.einsum("mkdb,mkeb->kde", apart, apart) + tau * torch.einsum("kdb,keb->kde", expected, expected)
    torch.testing.assert_close(scale, scatter)


@given(st.floats(1, 50), st.floats(0.01, 100))
def test_freedom_is_what_the_means_leave(count: float, tau: float) -> None:
    left = float(freedom(torch.tensor([[count, count]], dtype=torch.float64), torch.tensor([tau], dtype=torch.float64)))
    assert left == pytest.approx(2 * (count - count / (count + tau)))
    assert -1e-9 <= left <= 2 * count


@given(st.integers(0, 1000), st.sampled_from([0.1, 4.0, 32.0]), st.sampled_from([1.0, 8.0]))
@settings(max_examples=30, deadline=None)
def test_leaving_a_picture_out_is_fitting_without_it(seed: int, tau: float, kappa: float) -> None:
    """The matrix inversion lemma against the plain way: fit to the others, judge the one."""
    pictures, d = drawn(seed), 3
    strength, prior = torch.tensor([tau], dtype=torch.float64), torch.tensor(kappa * d, dtype=torch.float64)
    count, total, outer = summed(pictures)
    mean, scale = posterior(count, total, outer, strength)
    whole = scale + prior * torch.eye(d, dtype=torch.float64)
    one, others = pictures[0], pictures[1:]
    residual = one - mean
    gram = residual.transpose(-1, -2) @ torch.linalg.solve(whole, residual)
    distance, gone, left = leave_out(gram, torch.ones(2, 2, dtype=torch.float64), count, strength, prior)

    without_mean, without_scale = posterior(*summed(others), strength)
    without = without_scale + prior * torch.eye(d, dtype=torch.float64)
    free = prior + freedom(count - 1, strength)
    rest = one - without_mean
    expected = (rest * torch.linalg.solve(without, rest)).sum(dim=1) * free[:, None]
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(gone, torch.linalg.slogdet(without)[1] - torch.linalg.slogdet(whole)[1])
    torch.testing.assert_close(left, free)


def test_the_likelihoods_are_those_of_leaving_each_out() -> None:
    """Every strength of the priors by brute force, over all pictures, up to the constants that all share."""
    pictures, d = drawn(3, m=5), 3
    weights = torch.ones(5, 2, 2, dtype=torch.float64)
    found = gaussians.likelihoods(pictures, weights, *summed(pictures))
    assert found.shape == (len(PRIORS) - 1, 2)
    for row, (tau, kappa) in zip(found, PRIORS, strict=False):
        strength = torch.tensor([tau], dtype=torch.float64)
        total = torch.zeros(2, dtype=torch.float64)
        for i in range(5):
            others = torch.cat([pictures[:i], pictures[i + 1 :]])
            count, sums, outer = summed(others)
            mean, scale = posterior(count, sums, outer, strength)
            held = scale + kappa * d * torch.eye(d, dtype=torch.float64)
            sigma = held / (kappa * d + freedom(count, strength))[:, None, None]
            rest = pictures[i] - mean
            distance = (rest * torch.linalg.solve(sigma, rest)).sum(dim=1)
            total += (-0.5 * (distance + torch.linalg.slogdet(sigma)[1][:, None])).sum(dim=1)
        torch.testing.assert_close(row, total)


def test_a_position_that_is_not_there_counts_for_nothing() -> None:
    pictures = drawn(4, m=6)
    weights = torch.ones(6, 2, 2, dtype=torch.float64)
    weights[2, 1] = 0
    held = pictures * weights[:, :, None]
    count, total = weights.sum(dim=0), held.sum(dim=0)
    outer = torch.einsum("mkdb,mkeb->kde", held, held)
    wild = pictures.clone()
    wild[2, 1] = 1e3  # never looked at
    one, two = (gaussians.likelihoods(x, weights, count, total, outer) for x in (pictures, wild))
    torch.testing.assert_close(one, two)


def test_one_gaussian_for_all_is_fitted_to_all_positions_of_the_others() -> None:
    pictures = drawn(5, m=4)
    flat = pictures.permute(0, 1, 3, 2).reshape(4, -1, 3)
    weights = torch.ones(4, 2, 2, dtype=torch.float64)
    own = [(torch.tensor(4.0, dtype=torch.float64), each.sum(dim=0), each.T @ each) for each in flat]
    whole = (torch.tensor(16.0, dtype=torch.float64), flat.sum(dim=(0, 1)), torch.einsum("mid,mie->de", flat, flat))
    middle = whole[1] / 16
    found = gaussians.shared_likelihood(pictures - middle[:, None], weights, own, whole, torch.eye(3, dtype=torch.float64))
    expected = torch.zeros(2, dtype=torch.float64)
    for i in range(4):
        others = torch.cat([flat[:i], flat[i + 1 :]]).reshape(-1, 3)
        sigma = ridged(torch.cov(others.T, correction=0))
        rest = flat[i] - others.mean(dim=0)
        squared = (rest * torch.linalg.solve(sigma, rest.T).T).sum(dim=1)
        each = -0.5 * (squared + torch.linalg.slogdet(sigma)[1])
        expected += each.reshape(2, 2).sum(dim=1)
    torch.testing.assert_close(found, expected)
    alone = gaussians.shared_likelihood(pictures[:1], weights[:1], own[:1], own[0], torch.eye(3, dtype=torch.float64))
    assert (alone == -math.inf).all()


# ---- tails


@given(st.integers(0, 1000), st.integers(20, 400))
@settings(max_examples=30, deadline=None)
def test_knots_are_quantiles_and_rise(seed: int, n: int) -> None:
    ordered = torch.from_numpy(np.sort(np.random.default_rng(seed).gamma(2.0, 1.0, n)))
    knots, slopes, tail = tail_of(ordered)
    assert len(knots) == len(KNOTS)
    assert len(slopes) == len(KNOTS) - 1
    assert (knots.diff() >= 1e-2 - 1e-9).all()
    assert (slopes > 0).all()
    assert float(tail[0]) > 0
    assert 0.01 <= float(tail[1]) <= 0.5
    for p, knot in zip(KNOTS, knots, strict=True):
        share = float((ordered > knot).double().mean())
        assert share <= p + 1 / n + 1e-9


@pytest.mark.parametrize("values", [[], [3.0], [2.0] * 50, [0.0, 1.0]])
def test_a_tail_of_hardly_anything_still_rises(values: list[float]) -> None:
    knots, slopes, tail = tail_of(torch.tensor(sorted(values), dtype=torch.float64))
    assert (knots.diff() > 0).all()
    assert (slopes > 0).all()
    assert torch.isfinite(tail).all()
    assert (tail > 0).all()


@pytest.mark.parametrize("shape", [0.05, 0.2, 0.4])
def test_a_pareto_law_is_found_again(shape: float) -> None:
    drawn_ = genpareto.rvs(shape, scale=2.0, size=20_000, random_state=np.random.default_rng(0))
    scale, found = pareto(torch.from_numpy(np.sort(drawn_)))
    assert found == pytest.approx(shape, abs=0.05)
    assert scale == pytest.approx(2.0, rel=0.06)


@given(st.floats(0.01, 1000), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_pareto_fit_scales_with_its_unit(unit: float, seed: int) -> None:
    excess = torch.from_numpy(np.sort(np.random.default_rng(seed).exponential(1.0, 60)))
    scale, shape = pareto(excess)
    other, same = pareto(excess * unit)
    assert same == pytest.approx(shape, abs=1e-6)
    assert other == pytest.approx(scale * unit, rel=1e-6)


def test_uniform_excesses_have_no_tail_and_get_the_least() -> None:
    _, shape = pareto(torch.linspace(0.01, 1, 500, dtype=torch.float64))
    assert shape == 0.01


@given(st.integers(0, 1000), st.integers(2, 6), st.floats(2, 500))
@settings(max_examples=40, deadline=None)
def test_shrinkage_is_a_weight_and_falls_with_more_samples(seed: int, d: int, free: float) -> None:
    sample = covariance(seed, d)[None]
    few, many = (float(gaussians.shrinkage(sample, torch.tensor([n]))) for n in (free, 10 * free))
    assert 0 <= many <= few <= 1
    turned = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(d, d))))[0]
    again = float(gaussians.shrinkage(turned @ sample @ turned.T, torch.tensor([free])))
    assert again == pytest.approx(few, abs=1e-6)  # the identity is the identity from every side


def test_the_identity_itself_needs_no_weight_of_its_own() -> None:
    assert float(gaussians.shrinkage(torch.eye(3, dtype=torch.float64)[None], torch.tensor([100.0]))) == 1
