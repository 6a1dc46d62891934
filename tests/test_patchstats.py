"""Patch statistics against brute force and scipy: leave-one-out, whitening, tails, streaming, saving, poor data."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from flawforge import fitting
from flawforge.config import override
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.methods import METHODS
from flawforge.nn import gaussians, patchstats, patchstats_fit
from flawforge.types import Batch, ConfigError

TINY = METHODS["patchstats"].tiny


def pictures(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """n 3 h w: one drawn part, a little noise."""
    rng = np.random.default_rng(seed)
    part = cv2.GaussianBlur(rng.random((size, size, 3)).astype(np.float32), (0, 0), 2)
    part = (part - part.min()) / (part.max() - part.min())
    noisy = part + 0.03 * rng.standard_normal((n, size, size, 3)).astype(np.float32)
    return np.ascontiguousarray(noisy.clip(0, 1).transpose(0, 3, 1, 2))


def fitted(clean: np.ndarray, valid: np.ndarray | None = None, size: int = 4) -> patchstats.PatchStats:
    net = patchstats.PatchStats(TINY)
    fit(net, clean, np.ones_like(clean[:, :1]) if valid is None else valid, size)
    return net


def fit(net: patchstats.PatchStats, clean: np.ndarray, valid: np.ndarray, size: int = 4) -> None:
    def batches() -> list[Batch]:
        empty = np.zeros_like(valid)
        return [Batch(*(a[i : i + size] for a in (clean, clean, empty, valid))) for i in range(0, len(clean), size)]

    def never(stage: int, step: int) -> Batch:
        raise AssertionError("nothing here is trained on forged pictures")

    run = engine.Run(device="cpu")
    engine.fit(net, patchstats_fit.looks(), never, engine.Budget(steps=1), run, clean=lambda: iter(batches()))


def blocks(seed: int = 0, n: int = 6, d: int = 3, b: int = 4) -> tuple[Tensor, Tensor]:
    """Samples n d b of one block and their weights n b, some positions missing."""
    torch.manual_seed(seed)
    samples = torch.randn(n, d, b, dtype=torch.float64) * 2 + torch.arange(b)
    weight = torch.ones(n, b, dtype=torch.float64)
    weight[1, 0] = weight[3, 2] = 0
    return samples, weight


def moments(samples: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    held = samples * weight[:, None]
    return weight.sum(dim=0)[None], held.sum(dim=0)[None], torch.einsum("ndb,neb->de", held, held)[None]


def brute_force(samples: Tensor, weight: Tensor, left: int, tau: float, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """(squared distances, log densities) of picture `left` under the Gaussians of the others, by explicit loops."""
    rest = [i for i in range(len(samples)) if i != left]
    d, b = samples.shape[1:]
    scale, free, means = kappa * np.eye(d), kappa, []
    for p in range(b):
        x = np.array([samples[i, :, p].numpy() for i in rest if weight[i, p] > 0])
        mean = x.sum(axis=0) / (len(x) + tau)
        scale += sum(np.outer(v, v) for v in x) - (len(x) + tau) * np.outer(mean, mean)
        free += len(x) - len(x) / (len(x) + tau)
        means.append(mean)
    covariance = scale / free
    x = samples[left].numpy()
    distance = [mahalanobis(x[:, p], means[p], np.linalg.inv(covariance)) ** 2 for p in range(b)]
    density = [stats.multivariate_normal(means[p], covariance).logpdf(x[:, p]) for p in range(b)]
    return np.array(distance), np.array(density)


@pytest.mark.parametrize(("tau", "kappa"), [(0.1, 1.0), (4.0, 8.0), (256.0, 500.0)])
def test_leaving_a_picture_out_is_fitting_without_it(tau: float, kappa: float) -> None:
    samples, weight = blocks()
    count, total, outer = moments(samples, weight)
    mean, scale = gaussians.posterior(count, total, outer, torch.tensor([tau], dtype=torch.float64))
    inverse = torch.linalg.inv(scale[0] + kappa * torch.eye(3, dtype=torch.float64))
    for left in range(len(samples)):
        residual = (samples[left] - mean[0]) * weight[left]
        gram = residual.T @ inverse @ residual
        distance, _, _ = gaussians.leave_out(
            gram[None], weight[left][None], count, *(torch.tensor(x, dtype=torch.float64) for x in ([tau], kappa))
        )
        expected, _ = brute_force(samples, weight, left, tau, kappa)
        seen = weight[left].numpy() > 0
        np.testing.assert_allclose(distance[0].numpy()[seen], expected[seen], rtol=1e-9)


def test_likelihood_of_every_prior_is_the_brute_force_one() -> None:
    samples, weight = blocks(1)
    d = samples.shape[1]
    table = gaussians.likelihoods(samples[:, None], weight[:, None], *moments(samples, weight))
    assert table.shape == (len(gaussians.PRIORS) - 1, 1)
    for row, (tau, kappa) in zip(table, gaussians.PRIORS, strict=False):
        expected = 0.0
        for left in range(len(samples)):
            _, density = brute_force(samples, weight, left, tau, d * kappa)
            expected += float(((density + d / 2 * math.log(2 * math.pi)) * weight[left].numpy()).sum())
        assert float(row) == pytest.approx(expected, rel=1e-9)


def test_shared_likelihood_is_the_brute_force_one() -> None:
    torch.manual_seed(3)
    samples, weights = torch.randn(5, 2, 3, 4, dtype=torch.float64), torch.ones(5, 2, 4, dtype=torch.float64)
    weights[0, 0, 1] = 0
    held = samples * weights[:, :, None]
    each = [(w.sum(), x.sum(dim=(0, 2)), torch.einsum("kdb,keb->de", x, x)) for x, w in zip(held, weights, strict=True)]
    whole = tuple(sum(e[i] for e in each) for i in range(3))
    white = torch.eye(3, dtype=torch.float64)
    middle = whole[1] / whole[0]  # type: ignore[operator]
    found = gaussians.shared_likelihood(samples - middle[:, None], weights, each, whole, white)  # type: ignore[arg-type]
    expected = np.zeros(2)
    for left in range(5):
        rest = np.concatenate([samples[i].permute(0, 2, 1)[weights[i] > 0].numpy() for i in range(5) if i != left])
        law = stats.multivariate_normal(rest.mean(axis=0), np.cov(rest.T, bias=True))
        density = law.logpdf(samples[left].permute(0, 2, 1).numpy()) + 1.5 * math.log(2 * math.pi)
        expected += (density * weights[left].numpy()).sum(axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_share_is_even_and_never_too_many() -> None:
    for among in (1, 5, 64, 65, 206, 610):
        kept = [i for i in range(among) if patchstats_fit.spaced(i, among, 64)]
        assert len(kept) == min(among, 64)
        assert max(np.diff(kept), default=1) - min(np.diff(kept), default=1) <= 1


@pytest.mark.parametrize("among", [1, 4, 192, 193, 240, 480, 720, 960, 961, 1920])
def test_a_share_has_of_every_fold_as_many(among: int) -> None:
    net = patchstats.PatchStats(TINY, folds=5)
    pictures = torch.zeros(among, 1, 1, 1)
    parts = [Batch(*[pictures[i : i + 7]] * 4, torch.arange(i, min(i + 7, among))) for i in range(0, among, 7)]
    for part in parts:
        patchstats_fit.count(net, None, part)
    taken: list[int] = []
    come = patchstats_fit.begin_pass(net)
    for part in parts:
        batch, folds = patchstats_fit.fair_share(net, come, part, 192)
        assert folds == [int(index) % 5 for index in batch.index]
        taken += [int(index) for index in batch.index]
    assert len(taken) == min(among, 192)
    each = [[index for index in taken if index % 5 == fold] for fold in range(5)]
    assert max(map(len, each)) - min(map(len, each)) <= 1
    assert max((max(np.diff(part), default=5) - min(np.diff(part), default=5) for part in each), default=0) <= 5
    come = patchstats_fit.begin_pass(net)
    tails = [int(index) for part in parts for index in patchstats_fit.tail_share(net, come, part).index]
    assert len(tails) == min(among, 64)
    assert set(tails) <= set(taken)  # a picture that the Gaussians never saw cannot be left out of them
    each = [[index for index in tails if index % 5 == fold] for fold in range(5)]
    assert max(map(len, each)) - min(map(len, each)) <= 5


@pytest.mark.parametrize("folds", [0, 5])
def test_the_forecast_holds_the_moments(folds: int) -> None:
    net, pictures = patchstats.PatchStats(METHODS["patchstats"].profiles["cpu"], folds=folds), 8
    collect = patchstats_fit.looks()
    x = torch.from_numpy(np.random.default_rng(0).random((pictures, 3, 64, 96), dtype=np.float32))
    one = torch.ones_like(x[:, :1])
    batch = Batch(x, x, one * 0, one, torch.arange(pictures))
    for stage in collect[:2]:
        state = stage.begin(net)
        stage.visit(net, state, batch)
        stage.finish(net, state)
    state = collect[2].begin(net)
    collect[2].visit(net, state, batch)
    held = [each for seen in state[1] for each in (seen.shift, seen.n, seen.total, seen.outer)]
    kept = [part for seen in state[1] for sample in seen.samples for part in sample[:2]]
    size = sum(each.nbytes for each in held + kept)
    assert collect[2].demand is not None
    assert size < collect[2].demand(net, (64, 96), pictures).memory_bytes < 3 * size + 32 * 64 * 96 * 28


@pytest.mark.parametrize(
    "change", [{"side": 6}, {"cell": 3}, {"block": 3}, {"raw": [3]}, {"filters": 28}, {"normalised": [], "raw": []}]
)
def test_settings_that_cannot_work_are_refused_by_name(change: dict[str, Any]) -> None:
    for method in ("patchstats", "auto"):
        with pytest.raises(ConfigError, match=next(iter(change))):
            patchstats.PatchStats(override(METHODS[method].profiles["cpu"], change))


def test_whitener_makes_the_covariance_the_identity() -> None:
    x = np.random.default_rng(0).standard_normal((500, 4)) @ np.random.default_rng(1).standard_normal((4, 4))
    covariance = torch.from_numpy(np.cov(x.T))
    white = gaussians.whitener(covariance)
    np.testing.assert_allclose((white @ covariance @ white.T).numpy(), np.eye(4), atol=2e-2)


def test_pareto_finds_the_law_that_drew_the_sample() -> None:
    for shape in (0.05, 0.3):
        sample = np.sort(stats.genpareto(shape, scale=2.0).rvs(20000, random_state=np.random.default_rng(0)))
        scale, found = gaussians.pareto(torch.from_numpy(sample))
        assert (scale, found) == pytest.approx((2.0, shape), abs=0.08)


def test_surprise_is_the_tail_probability_increases_and_has_no_ceiling() -> None:
    good = stats.expon.rvs(size=100_000, random_state=np.random.default_rng(0))
    branch = patchstats.Branch(TINY, 1, True)
    knots, slopes, tail = gaussians.tail_of(torch.from_numpy(np.sort(good)))
    branch.knots.copy_(knots), branch.slopes.copy_(slopes), branch.tail.copy_(tail)
    x = torch.linspace(-1, 60, 2000)
    surprise = branch.surprise(x)
    assert bool((surprise.diff() > 0).all())
    at = (x > 0.7) & (x < 9)  # -log p of an exponential law is x itself
    np.testing.assert_allclose(surprise[at].numpy(), x[at].numpy(), rtol=0.08)


def test_distance_is_scipys_with_the_stored_mean_and_covariance() -> None:
    clean = pictures(8)
    net = fitted(clean)
    branch = net.branches[0]
    x = net.inputs(torch.from_numpy(pictures(1, seed=5)))[0][1]
    features = branch.features(x)
    squared = branch.from_blocks(branch.whitened(features, branch.gaussians()).square().sum(dim=1), features.shape[-2:])[0]
    for row, column in ((0, 0), (3, 5), (7, 7)):
        factor = branch.factor[(row // 2) * 4 + column // 2].double().numpy()
        here = np.s_[..., row, column]
        expected = mahalanobis(features[0][here].numpy(), branch.centre[here].numpy(), factor.T @ factor) ** 2
        assert float(squared[row, column]) == pytest.approx(expected, rel=1e-3)


def test_spread_is_the_scale_that_makes_the_distances_likeliest() -> None:
    branch = fitted(pictures(6)).branches[0]
    widths, d, n = branch.width_of.clone(), 2 * TINY.filters, 4000
    squared = torch.from_numpy(stats.chi2(d, scale=3.0).rvs((n, 8, 8), random_state=np.random.default_rng(0))).float()
    patchstats_fit.widen(branch, squared, torch.ones_like(squared))
    np.testing.assert_allclose(branch.spread.numpy(), 3.0, rtol=0.03)
    np.testing.assert_allclose((branch.width_of - widths).numpy(), d * np.log(3.0), rtol=0.03)  # |cS| = c^d |S|


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("contrast", [0.0, 0.5, 1.0])
def test_one_or_two_good_pictures_are_enough_to_fit(count: int, contrast: float) -> None:
    rng = np.random.default_rng(0)
    clean = (0.5 + contrast * (rng.random((count, 3, 64, 64), dtype=np.float32).round() - 0.5)).astype(np.float32)
    surface = fitted(clean)(torch.from_numpy(clean)).map
    assert bool(torch.isfinite(surface).all())


def test_a_forged_spot_is_the_strangest_place() -> None:
    net = fitted(pictures(12))
    bad = pictures(1, seed=0)[0].copy()
    bad[:, 12:18, 20:26] = 1 - bad[:, 12:18, 20:26]
    good_map = net(torch.from_numpy(pictures(13)[12:])).map[0]
    surface = net(torch.from_numpy(bad[None])).map[0]
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    assert 9 <= row < 21
    assert 17 <= column < 29
    assert float(surface.max()) > 2 * float(good_map.max())


def test_order_and_batch_size_do_not_matter() -> None:
    clean = pictures(9)
    one, other = fitted(clean), fitted(np.ascontiguousarray(clean[::-1]), size=2)
    probe = torch.from_numpy(pictures(2, seed=7))
    torch.testing.assert_close(one(probe).map, other(probe).map, rtol=2e-3, atol=2e-3)


def test_the_same_pictures_give_the_same_bits() -> None:
    one, other = fitted(pictures(5)), fitted(pictures(5))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_picture_is_judged_alone() -> None:
    net = fitted(pictures(6))
    probe = torch.from_numpy(np.concatenate([pictures(2, seed=3), np.zeros((1, 3, 32, 32), np.float32)]))
    together = net(probe).map
    for i in range(3):
        torch.testing.assert_close(together[i], net(probe[i : i + 1]).map[0], rtol=1e-4, atol=1e-4)


def test_outside_the_valid_region_nothing_is_learnt_and_nothing_is_strange() -> None:
    clean = pictures(6)
    valid = np.ones_like(clean[:, :1])
    valid[..., 20:] = 0
    clutter = clean.copy()
    clutter[..., 24:] = np.random.default_rng(1).random(clutter[..., 24:].shape, dtype=np.float32)
    net = fitted(clutter, valid=valid)
    assert float(net.branches[0].known.sum()) == 8 * 5
    surface = net(torch.from_numpy(clutter)).map
    assert float(surface[..., 28:].std()) < 0.2 * float(surface[..., :16].std())


def test_the_border_is_where_the_picture_does_not_lie_whatever_the_pixels_are() -> None:
    blank = torch.zeros(2, 3, 32, 28)
    inner = torch.tensor([[3.0, 27.0, 0.0, 24.0], [0.0, 32.0, 0.0, 28.0]])
    rows, columns = patchstats.outside(inner, blank)
    assert rows[0].nonzero().flatten().tolist() == [0, 1, 2, *range(27, 32)]
    assert columns[0].nonzero().flatten().tolist() == [*range(24, 28)]
    assert not rows[1].any()
    assert not columns[1].any()
    assert not any(each.any() for each in patchstats.outside(None, blank))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_blank_picture_is_stranger_than_the_good_ones(value: float) -> None:
    """It was taken for letterbox border once, and not judged at all."""
    net = fitted(pictures(8))
    blank = torch.full((1, 3, 32, 32), value)
    good = net(torch.from_numpy(pictures(4, seed=5))).map.flatten(1).mean(dim=1)
    assert float(net(blank).map.mean()) > float(good.max())


@pytest.mark.parametrize("kind", ["constant", "two", "one"])
def test_poor_data_still_gives_a_finite_map(kind: str) -> None:
    clean = {"constant": np.full((3, 3, 32, 32), 0.5, np.float32), "two": pictures(2), "one": pictures(1)}[kind]
    net = fitted(clean)
    for probe in (clean[:1], pictures(1, seed=9), np.zeros((1, 3, 32, 32), np.float32)):
        assert bool(torch.isfinite(net(torch.from_numpy(probe)).map).all())
    assert len(net.facts()) == len(net.branches)
    assert re.search(r": own statistics for each position on \d+ % of the picture, common ones on \d+ %$", net.facts()[0])


def test_the_main_road_fits_saves_and_loads_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for i, picture in enumerate(pictures(8, size=48)):
        cv2.imwrite(str(tmp_path / "good" / f"{i}.png"), np.uint8(picture.transpose(1, 2, 0) * 255))
    made = fitting.fit(tmp_path / "good", method="patchstats", out=tmp_path / "model", size=64, settings={"filters": 4})
    loaded = loading.load(tmp_path / "model")
    path = tmp_path / "good" / "0.png"
    one, other = made(path), loaded(path)
    assert one.pred_score == other.pred_score
    np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


@pytest.mark.parametrize("name", ["patchstats", "guided"])
def test_judging_is_the_fits_own_arithmetic_arranged_otherwise(name: str) -> None:
    """Real settings and tiny ones: scales that share a grid and scales that do not, one input and both."""
    size = 64
    form = METHODS["patchstats"].profiles["cpu"] if name == "patchstats" else METHODS["guided"].tiny
    clean = pictures(8, size)
    net = patchstats.PatchStats(form)
    fit(net, clean, np.ones_like(clean[:, :1]))
    strange = pictures(6, size, seed=4)
    strange[2] = 0.5
    strange[3, :, 20:30, 20:30] = 1.0
    x = torch.from_numpy(strange)
    with torch.inference_mode():
        for inner in (None, torch.tensor([[size // 8, size, 0, size], [0, size, size // 4, size]] * 3).float()):
            expected, (found, even) = net.surprises(x, inner=inner), net.look(x, inner)
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=2e-3)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(even.numpy(), patchstats.even_light(x, form.light).numpy(), atol=1e-3)
    assert not [key for key in net.state_dict() if "judge" in key]  # made from what is saved, and not saved
    again = patchstats.PatchStats(form)
    again.load_state_dict(net.state_dict())
    with torch.inference_mode():
        np.testing.assert_array_equal(again.look(x, inner)[0].numpy(), found.numpy())
