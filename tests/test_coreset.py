"""The coreset against a plain loop and against every possible choice; streams against their own bound; nearest vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from flawforge.nn import coreset
from flawforge.nn.coreset import Stream, greedy, sketch
from flawforge.nn.nearest import nearest, reweighted

CLOUDS = st.tuples(st.integers(1, 14), st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 100.0]))


def cloud(n: int, d: int, seed: int, lump: float = 0.0) -> Tensor:
    """n d points; with a lump, most of them lie together."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n, d))
    points[: n // 2] += lump
    return torch.from_numpy(points).float()


def one_by_one(points: np.ndarray, k: int) -> list[int]:
    """Gonzalez as he wrote it: the farthest from those taken, each against all."""
    chosen = [int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())]
    near = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < k:
        chosen.append(int(near.argmax()))
        near = np.minimum(near, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return chosen


def radius(points: np.ndarray, chosen: np.ndarray) -> float:
    return float(cdist(points, chosen).min(axis=1).max())


def least_radius(points: np.ndarray, k: int) -> float:
    """The best that any k of the points can do, by trying all."""
    apart = cdist(points, points)
    return min(float(apart[:, list(c)].min(axis=1).max()) for c in itertools.combinations(range(len(points)), k))


def test_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0], [6.0], [20.0]])
    cover = greedy(points, 3)
    assert cover.chosen.tolist() == [4, 0, 3]  # farthest from the mean 6.4, from 20, from both
    assert cover.owner.tolist() == [1, 1, 2, 2, 0]
    torch.testing.assert_close(cover.distance, torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0]))
    assert cover.radius == pytest.approx(1)


@pytest.mark.parametrize("lump", [0.0, 3.0, 50.0])
@pytest.mark.parametrize(("n", "k"), [(60, 20), (700, 300), (2500, 1200)])
def test_blocks_choose_what_the_plain_loop_chooses(n: int, k: int, lump: float) -> None:
    points = cloud(n, 6, seed=n, lump=lump).double()
    assert greedy(points, k).chosen.tolist() == one_by_one(points.numpy(), k)


def test_rounds_and_blocks_of_any_size_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(500, 3, seed=4).double()
    expected = greedy(points, 90)
    for rows, fewest, most in ((7, 1, 1), (64, 2, 5), (499, 16, 400)):
        monkeypatch.setattr(coreset, "ROWS", rows)
        monkeypatch.setattr(coreset, "FEWEST", fewest)
        monkeypatch.setattr(coreset, "MOST", most)
        found = greedy(points, 90)
        assert torch.equal(found.chosen, expected.chosen)
        assert torch.equal(found.owner, expected.owner)


@settings(max_examples=60, deadline=None)
@given(CLOUDS, st.integers(1, 5))
def test_radius_is_at_most_twice_the_best(shape: tuple[int, int, int, float], k: int) -> None:
    points = cloud(*shape)
    k = min(k, len(points))
    cover = greedy(points, k)
    exact = points.double().numpy()
    assert cover.radius == pytest.approx(radius(exact, exact[cover.chosen.numpy()]), abs=1e-2 * shape[3] + 1e-3)
    assert cover.radius <= 2 * least_radius(exact, k) + 1e-3 * (1 + shape[3])


@settings(max_examples=60, deadline=None)
@given(CLOUDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_a_stream_keeps_its_bound_however_it_is_cut(
    shape: tuple[int, int, int, float], keep: int, spare: int, step: int
) -> None:
    points = cloud(*shape)
    stream = Stream(keep, keep + spare, torch.eye(points.shape[1]))
    for block in points.split(step):
        stream.add(block)
        assert stream.held <= keep + spare
    kept, reach = stream.finish()
    exact, slack = points.double().numpy(), 1e-2 * (1 + shape[3])
    assert len(kept) <= keep
    assert radius(exact, kept.double().numpy()) <= reach + slack
    assert reach <= 2 * stream.reductions * least_radius(exact, min(keep, len(exact))) + slack
    assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in points.tolist()}


def test_a_stream_that_fits_chooses_as_greedy_does() -> None:
    points = cloud(300, 20, seed=1)
    stream = Stream(40, 301, torch.eye(20))
    for block in points.split(77):
        stream.add(block)
    kept, reach = stream.finish(25)
    cover = greedy(points, 25)
    assert torch.equal(kept, points[cover.chosen])
    assert reach == pytest.approx(cover.radius, rel=1e-5)
    assert (stream.seen, stream.reductions) == (300, 1)


def test_a_long_stream_is_nearly_as_good_as_all_at_once() -> None:
    points = cloud(6000, 8, seed=2)
    stream = Stream(128, 512, torch.eye(8))
    for block in points.split(250):
        stream.add(block)
    kept, reach = stream.finish()
    found, at_once = radius(points.numpy(), kept.numpy()), greedy(points, 128).radius
    assert found <= 1.35 * at_once
    assert found <= reach + 1e-4


def test_a_speck_in_a_million_is_kept() -> None:
    """A rare but good patch must stay in the memory, or it is called a defect later: what sampling at random would lose."""
    points = cloud(4000, 5, seed=3) * 0.1
    points[1234] = 9.0
    stream = Stream(16, 64, torch.eye(5))
    for block in points.split(500):
        stream.add(block)
    assert (stream.finish()[0] == 9.0).all(dim=1).any()


def test_points_that_are_equal_are_chosen_once() -> None:
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(50, 1)
    cover = greedy(points, 30)
    assert len(cover.chosen) == 2
    assert cover.radius == 0.0
    assert len(greedy(torch.ones(9, 3), 4).chosen) == 1


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="0 points"):
        greedy(torch.zeros(0, 3), 2)
    with pytest.raises(ValueError, match="store must be the larger"):
        Stream(5, 5, torch.eye(2))


def test_a_sketch_keeps_distances() -> None:
    torch.manual_seed(0)
    points = torch.randn(40, 600)
    before, after = torch.pdist(points), torch.pdist(points @ sketch(600))
    ratio = after / before
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    assert float(ratio.std()) == pytest.approx(1 / np.sqrt(2 * 128), rel=0.25)  # chi-square of 128 degrees
    assert torch.equal(sketch(100), torch.eye(100))


def test_the_memory_that_a_stream_names_is_what_it_holds() -> None:
    stream = Stream(64, 256, torch.eye(32))
    for _ in range(5):
        stream.add(torch.randn(100, 32))
    held = sum(each.nelement() * each.element_size() for each in (stream._points, stream._reach))
    assert held <= Stream.memory(64, 256, 32, 32) - 4 * (coreset.ROWS * coreset.MOST + 2 * coreset.MOST**2)
    assert held == 4 * 256 * (32 + 1)


# ---- nearest


@pytest.mark.parametrize("stored", [1, 5, 4096, 9000])
def test_nearest_is_nearest(stored: int) -> None:
    queries, bank = cloud(60, 12, 1).reshape(3, 20, 12), cloud(stored, 12, 2)
    distance, place = nearest(queries, bank)
    exact = cdist(queries.reshape(-1, 12).numpy(), bank.numpy())
    np.testing.assert_allclose(distance.flatten(), exact.min(axis=1), rtol=1e-5)
    assert place.flatten().tolist() == exact.argmin(axis=1).tolist()


def test_a_small_distance_far_from_the_origin_is_still_right() -> None:
    """Where |q|^2 + |b|^2 - 2 q.b has nothing left but rounding, and torch.cdist's default goes wrong."""
    bank = cloud(300, 64, 5) + 300.0
    away = 1e-3 * torch.ones(64)
    queries = (bank[:120] + away).reshape(4, 30, 64)
    exact = (queries.reshape(-1, 64).double() - bank[:120].double()).norm(dim=1)
    distance, place = nearest(queries, bank)
    np.testing.assert_allclose(distance.flatten(), exact, rtol=1e-4)
    assert place.flatten().tolist() == list(range(120))
    by_products = torch.cdist(queries[0], bank, compute_mode="use_mm_for_euclid_dist").amin(dim=1)
    assert float((by_products - exact[:30]).abs().max()) > 0.1 * float(exact.max())  # the trap is there


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 70), st.integers(1, 300), st.integers(0, 1000))
def test_a_picture_has_the_same_distances_alone_and_among_others(n: int, p: int, stored: int, seed: int) -> None:
    queries, bank = cloud(n * p, 9, seed).reshape(n, p, 9) + 50.0, cloud(stored, 9, seed + 1) + 50.0
    together = nearest(queries, bank)[0]
    alone = torch.cat([nearest(each[None], bank)[0] for each in queries])
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


def test_the_reweighted_score_by_hand() -> None:
    bank = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    queries = torch.tensor([[[0.1], [4.5]], [[10.0], [13.0]]])
    distance, place = nearest(queries, bank)
    found = reweighted(distance, place, queries, bank, neighbours=2)
    # Picture 1: 4.5 is 1.5 from 3; nearest to 3 are 3 and 1. Picture 2: 13 is 3 from 10; nearest to 10 are 10 and 3.
    expected = [
        1.5 * (1 - np.exp(1.5) / (np.exp(1.5) + np.exp(3.5))),
        3.0 * (1 - np.exp(3.0) / (np.exp(3.0) + np.exp(10.0))),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert reweighted(distance, place, queries, bank, neighbours=1).tolist() == pytest.approx([0, 0], abs=1e-6)
    far = reweighted(1000 * distance, place, 1000 * queries, 1000 * bank, neighbours=4)
    assert torch.isfinite(far).all()  # exp of a large distance must not overflow
