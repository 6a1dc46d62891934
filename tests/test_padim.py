"""PaDiM's Gaussians against numpy and scipy, its shrinkage against the best possible, and places without pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from flawforge import fitting
from flawforge.methods import padim
from flawforge.nn.gaussians import shrinkage
from flawforge.types import Batch

TINY = dataclasses.replace(padim.TINY, sigma=0.0)


def part(n: int, size: int = 64, seed: int = 0) -> Tensor:
    """n 3 h w: one part, a little noise."""
    rng = np.random.default_rng(seed)
    one = rng.random((3, size, size))
    return torch.from_numpy((one + 0.1 * rng.standard_normal((n, 3, size, size))).clip(0, 1).astype(np.float32))


def fitted(config: padim.Config, images: Tensor, size: int = 4, valid: Tensor | None = None) -> padim.Padim:
    net = fitting.seeded(padim.Padim, config, 0).eval()
    ones = torch.ones(len(images), 1, *images.shape[2:])
    valid = ones if valid is None else valid
    sums = padim.Sums()
    with torch.no_grad():
        for i in range(0, len(images), size):
            each = images[i : i + size]
            padim.gather(net, sums, Batch(each, each, 0 * ones[i : i + size], valid[i : i + size]))
        padim.settle(net, sums)
    return net


def test_the_distance_is_the_papers_at_every_place() -> None:
    """Equation 2 with the covariance of equation 1, 0.01 I in it, by numpy and scipy."""
    images, fresh = part(30), part(2, seed=0)[:1] * 0.8
    net = fitted(dataclasses.replace(TINY, shrink="ridge"), images)
    with torch.no_grad():
        seen, x = net.embed(images).double().numpy(), net.embed(fresh).double().numpy()[0]
        found = net(fresh).map[0]
    assert seen.shape == (30, 6, 8, 8)
    coarse = np.empty((8, 8))
    for row in range(8):
        for column in range(8):
            own = seen[:, :, row, column]
            inverse = np.linalg.inv(np.cov(own.T) + 0.01 * np.eye(6))
            coarse[row, column] = mahalanobis(x[:, row, column], own.mean(axis=0), inverse)
    expected = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None, None], (64, 64), mode="bilinear")[0, 0]
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("shrink", ["common", "ridge"])
def test_batches_of_any_size_give_the_same_gaussians(shrink: str) -> None:
    images = part(13)
    config = dataclasses.replace(TINY, shrink=shrink)
    with torch.no_grad():
        one, other = (fitted(config, images, size)(part(3, seed=9)).map for size in (13, 2))
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-3)


def test_the_picked_numbers_follow_the_seed_and_all_can_be_taken() -> None:
    a, b, other = (fitting.seeded(padim.Padim, TINY, seed).picks for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert len(set(a.tolist())) == 6
    assert fitting.seeded(padim.Padim, dataclasses.replace(TINY, numbers=0), 0).picks.tolist() == list(range(24))


def test_fewer_pictures_than_numbers_still_know_a_change() -> None:
    images = part(5)
    net = fitted(dataclasses.replace(TINY, numbers=20), images[:4])
    spoilt = images[4:].clone()
    spoilt[:, :, 24:40, 24:40] = 0.0
    with torch.no_grad():
        good, bad = net(images[4:]).map[0], net(spoilt).map[0]
    assert torch.isfinite(bad).all()
    row, column = divmod(int((bad - good).argmax()), 64)
    assert 16 <= row < 48
    assert 16 <= column < 48
    assert float(bad[28:36, 28:36].mean()) > 1.3 * float(good[28:36, 28:36].mean())
    assert "% of a covariance is the common one" in net.facts()[0]


def test_a_place_counts_only_the_pictures_in_which_it_is_judged() -> None:
    images, valid = part(12), torch.ones(12, 1, 64, 64)
    valid[6:, :, :32] = 0  # the upper half of the last six is border
    wrong = images.clone()
    wrong[6:, :, :8] = 1.0
    with torch.no_grad():
        a, b = (fitted(TINY, each, valid=valid).centre for each in (images, wrong))
    assert torch.equal(a[:, 0], b[:, 0])
    never = valid.clone()
    never[:, :, :32] = 0
    with torch.no_grad():
        net = fitted(TINY, images, valid=never)
        assert torch.isfinite(net(images).map).all()
    assert net.facts()[0].startswith("32 Gaussians of 6 numbers from 12 good pictures")


def test_a_single_picture_and_equal_pictures_are_no_end() -> None:
    for images in (part(1), torch.full((3, 3, 64, 64), 0.5)):
        with torch.no_grad():
            assert torch.isfinite(fitted(TINY, images)(part(2, seed=3)).map).all()


@pytest.mark.parametrize(("samples", "far"), [(6, 0.0), (12, 0.5), (40, 2.0), (400, 2.0)])
def test_shrinkage_is_nearly_the_best(samples: int, far: float) -> None:
    """Against the weight that minimises the true error, which only the test can know."""
    rng = np.random.default_rng(3)
    d = 8
    sigma = np.diag(np.exp(far * np.linspace(-1, 1, d)))
    drawn = rng.multivariate_normal(np.zeros(d), sigma, size=(400, samples + 1))
    covariances = np.stack([np.cov(each.T) for each in drawn])
    weights = shrinkage(torch.from_numpy(covariances), torch.full((400,), float(samples)).double())[:, None, None].numpy()

    def error(w: np.ndarray | float) -> float:
        return float((((1 - w) * covariances + w * np.eye(d) - sigma) ** 2).sum(axis=(1, 2)).mean())

    best = min(error(w) for w in np.linspace(0, 1, 51))
    assert error(weights) <= best + 0.05 * error(0.0)
    assert error(weights) <= 1.02 * error(0.0)
    assert ((weights >= 0) & (weights <= 1)).all()


def test_without_samples_the_common_covariance_is_all_there_is() -> None:
    assert shrinkage(torch.zeros(3, 4, 4), torch.tensor([0.0, 1.0, 1.9])).tolist() == [1, 1, 1]


def test_the_stated_memory_holds_the_sums() -> None:
    net = fitted(TINY, part(4))
    need = padim.demand(net, (64, 64), 4)
    assert need.memory_bytes >= net.factor.nelement() * 4
    assert padim.demand(net, (128, 128), 4).memory_bytes > need.memory_bytes
    assert padim.demand(net, (64, 64), 8).operations > need.operations
