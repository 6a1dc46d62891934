"""Densities of features: against scikit-learn and textbook formulas, and the choice between places and one for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from flawforge.nn.density import BANK, JUDGES, Moments, PictureDensity, PlaceDensity, centred, spread


def looked(density: Any, features: torch.Tensor, *more: torch.Tensor, size: int = 7) -> Any:
    """Fitted in batches, as the engine shows the pictures."""
    seen: Any = [] if isinstance(density, PictureDensity) else Moments()
    for start in range(0, len(features), size):
        density.look(seen, features[start : start + size], *(m[start : start + size] for m in more))
    density.finish(seen)
    return density.eval()


def reloaded(density: Any, fresh: Any) -> Any:
    fresh.load_state_dict({k: v.clone() for k, v in density.state_dict().items()})
    return fresh.eval()


# ---- pictures


def test_a_picture_is_judged_as_scikit_learns_ledoit_wolf_judges_it() -> None:
    """More features than pictures: the sample covariance is singular."""
    rng = np.random.default_rng(0)
    good, new = rng.normal(3, 2, (20, 40)) @ rng.normal(0, 1, (40, 40)), rng.normal(3, 9, (5, 40))
    density = looked(PictureDensity(40), torch.tensor(good, dtype=torch.float32))
    oracle = LedoitWolf().fit(good.astype(np.float32).astype(np.float64))
    found = density(torch.tensor(new, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, 0.5 * oracle.mahalanobis(new.astype(np.float32)), rtol=2e-3)
    assert float(density.shrinkage) == pytest.approx(oracle.shrinkage_, rel=1e-4)
    assert f"{oracle.shrinkage_:.0%}" in density.fact()
    again = reloaded(density, PictureDensity(40))
    torch.testing.assert_close(again(torch.tensor(new, dtype=torch.float32)).numpy(), found)


@pytest.mark.parametrize("unit", [False, True])
def test_nearest_pictures_as_scikit_learn_finds_them(unit: bool) -> None:
    rng = np.random.default_rng(1)
    good, new = rng.normal(1, 1, (30, 6)).astype(np.float32), rng.normal(1, 2, (4, 6)).astype(np.float32)
    density = looked(PictureDensity(6, "nearest", unit, neighbours=4), torch.tensor(good))
    if unit:
        good, new = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (good, new))
    expected = NearestNeighbors(n_neighbors=4).fit(good).kneighbors(new)[0].mean(axis=1)
    np.testing.assert_allclose(density(torch.tensor(new)).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert "4 nearest among 30" in density.fact()
    again = reloaded(density, PictureDensity(6, "nearest", unit, 4))
    torch.testing.assert_close(again(torch.tensor(new)), density(torch.tensor(new)))


def test_at_most_so_many_pictures_are_kept_spread_over_all() -> None:
    features = torch.arange(2.0 * BANK + 3)[:, None]
    density = looked(PictureDensity(1, "nearest", neighbours=1), features, size=512)
    assert len(density.bank) == BANK
    assert (density.bank[1:] - density.bank[:-1]).amax() <= 3


@pytest.mark.parametrize("how", ["gaussian", "nearest"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_pictures_and_constant_features_still_give_numbers(how: Any, count: int) -> None:
    for features in (torch.zeros(count, 3), torch.rand(count, 3)):
        density = looked(PictureDensity(3, how), features)
        assert torch.isfinite(density(torch.rand(5, 3))).all()
        assert density(features + 1).min() > density(features).max()


# ---- places


def places(seed: int = 0, m: int = 60, d: int = 3, size: tuple[int, int] = (4, 5), own: float = 0.0) -> torch.Tensor:
    """m d gh gw; a place's mean and spread are its own, `own` times as unlike the others' as the pictures are unlike."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(m, d, *size, generator=generator)
    mean = own * torch.randn(d, *size, generator=torch.Generator().manual_seed(99))
    scale = torch.exp(own * torch.randn(1, *size, generator=torch.Generator().manual_seed(98)) / 3)
    return mean + scale * draw


def test_the_good_pictures_decide_whether_places_differ() -> None:
    alike = looked(PlaceDensity(3), places(own=0.0))
    assert alike.chosen[0] == 1
    assert len(alike.factor) == 1
    assert "one Gaussian for all of them, under which left-out" in alike.fact()
    apart = looked(PlaceDensity(3), places(own=3.0))
    assert apart.chosen[0] == 0
    assert apart.factor.shape == (20, 3, 3)
    assert "a Gaussian each, under which left-out" in apart.fact()


def test_one_gaussian_for_all_is_the_pooled_sample_covariance() -> None:
    features = places()
    density = looked(PlaceDensity(3, "shared", "distance"), features)
    flat = features.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    new = places(5, m=2)
    rest = new.permute(0, 2, 3, 1).reshape(-1, 3).numpy() - flat.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", rest, np.linalg.inv(np.cov(flat.T, bias=True)), rest).reshape(2, 4, 5)
    np.testing.assert_allclose(density(new).numpy(), expected, rtol=1e-2)
    assert "as asked" in density.fact()


def test_a_gaussian_of_its_own_is_near_the_places_sample_covariance_where_there_are_many_pictures() -> None:
    features = places(m=4000, own=2.0)
    density = looked(PlaceDensity(3, "places"), features, size=500)
    own = features[:, :, 1, 2].double().numpy()
    new = places(5, m=50, own=2.0)[:, :, 1, 2]
    covariance = np.cov(own.T)
    rest = new.numpy() - own.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", rest, np.linalg.inv(covariance), rest) + np.linalg.slogdet(covariance)[1]
    found = density(places(5, m=50, own=2.0))[:, 1, 2]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0.05, atol=0.1)


def test_density_counts_how_wide_a_place_usually_varies_and_distance_does_not() -> None:
    """-2 log density of a new good picture is the larger the wider the place; the distance is about d everywhere."""
    train, new = places(m=300, own=2.0), places(7, m=300, own=2.0)
    density, distance = (looked(PlaceDensity(3, "places", how), train)(new).mean(dim=0) for how in ("density", "distance"))
    width = train.var(dim=0).mean(dim=0).log().flatten()
    assert torch.corrcoef(torch.stack([density.flatten(), width]))[0, 1] > 0.95
    assert distance.min() > 2
    assert distance.max() < 4.5


def test_a_place_that_is_never_judged_is_as_strange_as_usual_and_teaches_nothing() -> None:
    features, valid = places(own=2.0), torch.ones(60, 4, 5)
    valid[:, 0] = 0
    wild = features.clone()
    wild[:, :, 0] = 1e3
    one, two = (looked(PlaceDensity(3), x, valid) for x in (features, wild))
    new = places(5, m=6, own=2.0)
    torch.testing.assert_close(one(new), two(new), rtol=1e-4, atol=1e-4)
    assert (one(new)[:, 0] == one.usual).all()
    assert one(new)[:, 1:].mean() == pytest.approx(float(one.usual), abs=3)


@pytest.mark.parametrize("keep", ["auto", "places", "shared"])
@pytest.mark.parametrize("features", [places(m=1), places(m=2), torch.zeros(3, 3, 2, 2)], ids=["one", "two", "constant"])
def test_few_or_constant_pictures_still_give_numbers(keep: Any, features: torch.Tensor) -> None:
    density = looked(PlaceDensity(3, keep), features)
    assert torch.isfinite(density(features)).all()
    assert density(features + 5).min() > density(features).max() - 20


@pytest.mark.parametrize("keep", ["places", "shared"])
def test_a_picture_is_judged_alone_and_a_model_folder_keeps_it_all(keep: Any) -> None:
    density = looked(PlaceDensity(3, keep), places(own=2.0))
    new = places(5, m=6, own=2.0)
    together = density(new)
    torch.testing.assert_close(torch.cat([density(x[None]) for x in new]), together)
    again = reloaded(density, PlaceDensity(3, keep))
    torch.testing.assert_close(again(new), together)
    assert again.fact() == density.fact()


def test_the_judges_are_few_and_spread_over_all_pictures() -> None:
    density, seen = PlaceDensity(1), Moments()
    for i in range(200):
        density.look(seen, torch.full((1, 1, 1, 1), float(i)))
    found = sorted(float(x[0, 0]) + float(seen.shift) for x, _ in seen.kept)
    assert JUDGES // 2 <= len(found) <= JUDGES
    assert np.ptp(np.diff(found)) == 0
    assert found[-1] - found[0] > 180


# ---- maps


def test_spread_lays_a_gaussian_on_every_window() -> None:
    grid = torch.zeros(1, 57, 57)
    grid[0, 20, 30] = 1
    found = spread(grid, 4, 32, 10.0)
    assert found.shape == (1, 256, 256)
    y, x = np.unravel_index(int(found.argmax()), (256, 256))
    assert abs(y - (20 * 4 + 15.5)) <= 0.5
    assert abs(x - (30 * 4 + 15.5)) <= 0.5
    by_hand, weight = np.zeros((256, 256)), np.zeros((256, 256))
    line = np.exp(-((np.arange(32) - 15.5) ** 2) / 200)
    for i in range(57):
        for j in range(57):
            here = np.s_[4 * i : 4 * i + 32, 4 * j : 4 * j + 32]
            weight[here] += np.outer(line, line)
            by_hand[here] += float(grid[0, i, j]) * np.outer(line, line)
    np.testing.assert_allclose(found[0].numpy(), by_hand / weight, atol=1e-6)


def test_a_flat_grid_gives_a_flat_map_up_to_the_edge() -> None:
    torch.testing.assert_close(spread(torch.full((2, 9, 7), 3.0), 4, 32, 10.0), torch.full((2, 64, 56), 3.0))
    torch.testing.assert_close(centred(torch.full((1, 8, 6), 2.0), 8, 24, 6.0, (64, 48)), torch.full((1, 64, 48), 2.0))


@pytest.mark.parametrize(("stride", "side"), [(8, 24), (4, 16), (8, 8)])
def test_a_cells_value_peaks_in_its_middle(stride: int, side: int) -> None:
    grid = torch.zeros(1, 8, 8)
    grid[0, 3, 5] = 1
    found = centred(grid, stride, side, side / 4, (8 * stride, 8 * stride))
    assert found.shape == (1, 8 * stride, 8 * stride)
    weight = found[0] / found.sum()
    rows = torch.arange(8 * stride) + 0.5
    assert float((weight.sum(dim=1) * rows).sum()) == pytest.approx(3.5 * stride, abs=0.3)
    assert float((weight.sum(dim=0) * rows).sum()) == pytest.approx(5.5 * stride, abs=0.3)
