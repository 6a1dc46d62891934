"""What padim and patchcore share: patch features on a grid, the map made of distances, and where features come from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from flawforge import fitting
from flawforge.methods import METHODS
from flawforge.nn.patches import PatchFeatures, PatchNet, PatchSettings, blurred, enlarged, reach, take_trunk
from flawforge.types import Collect, Init, Train

BOTH = [METHODS["padim"], METHODS["patchcore"]]
SHARED = pytest.mark.parametrize("method", BOTH, ids=lambda method: method.name)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@SHARED
def test_both_methods_are_built_of_the_same_half(method: Any) -> None:
    net = fitting.seeded(method.build, method.tiny, 0)
    assert isinstance(net, PatchNet)
    assert isinstance(method.tiny, PatchSettings)
    shared = {field.name for field in dataclasses.fields(PatchSettings)}
    assert {"backbone", "stages", "grid", "sigma", "learning_rate", "shift", "jitter"} <= shared
    assert method.trunk is take_trunk


@SHARED
def test_without_a_trunk_the_features_are_learnt_first(method: Any) -> None:
    net = fitting.seeded(method.build, method.tiny, 0)
    kinds = [type(stage) for stage in method.stages(net, method.tiny)]
    assert kinds == [Train, Collect]
    assert net.logits(rand(2, 3, 64, 64)).shape == (2, 3)


@SHARED
def test_with_a_trunk_they_are_its_and_nothing_is_trained(method: Any) -> None:
    source, net = (fitting.seeded(method.build, method.tiny, seed) for seed in (0, 1))
    weights = source.features.trunk.state_dict()
    said = take_trunk(net, method.tiny, Init(weights, {"method": "cutpaste"}, "ab" * 32))
    assert said == ["the features are those of a cutpaste model (sha256 abababababab); nothing was trained"]
    assert [type(stage) for stage in method.stages(net, method.tiny)] == [Collect]
    for key, value in net.features.trunk.state_dict().items():
        if not key.endswith("tracked"):
            assert torch.equal(value, weights[key])


@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from([0, 4, 8, 16]))
@settings(max_examples=25, deadline=None)
def test_a_grid_covers_the_picture(h: int, w: int, grid: int) -> None:
    features = fitting.seeded(lambda g: PatchFeatures("resnet18-tiny", (1, 2), False, g), grid, 0).eval()
    with torch.no_grad():
        found = features(rand(1, 3, h, w))
    rows, columns = -(-h // features.stride), -(-w // features.stride)
    assert features.stride == (grid or 4)
    assert found.shape == (1, features.width, rows, columns)
    assert features.places_on((h, w)) == rows * columns


def test_patches_are_described_alone_and_by_their_neighbourhood() -> None:
    plain, local = (
        fitting.seeded(lambda mean: PatchFeatures("resnet18-tiny", (2,), mean), mean, 0).eval() for mean in (False, True)
    )
    x = rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(F.avg_pool2d(plain(x), 3, 1, 1), local(x))
        torch.testing.assert_close(local(x[1:2]), local(x)[1:2], rtol=1e-4, atol=1e-5)


@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([0.0, 1.0, 3.0]))
@settings(max_examples=25, deadline=None)
def test_a_flat_grid_of_distances_is_a_flat_map(rows: int, columns: int, sigma: float) -> None:
    flat = torch.full((2, rows, columns), 3.5)
    maps = enlarged(flat, (8 * rows, 8 * columns), sigma)
    assert maps.shape == (2, 8 * rows, 8 * columns)
    torch.testing.assert_close(maps, torch.full_like(maps, 3.5))


@given(st.integers(0, 100), st.floats(0.3, 4))
@settings(max_examples=20, deadline=None)
def test_the_blur_is_scipys_gaussian_with_a_repeated_border(seed: int, sigma: float) -> None:
    maps = rand(2, 18, 23, seed=seed).double()
    radius = int(np.ceil(4 * sigma))
    for ours, one in zip(blurred(maps, sigma), maps, strict=True):
        expected = ndimage.gaussian_filter(one.numpy(), sigma, mode="nearest", radius=max(radius, 1))
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)
    assert blurred(maps, 0.0) is maps


@given(st.integers(0, 100), st.sampled_from([0.0, 2.0, 5.0]))
@settings(max_examples=25, deadline=None)
def test_a_patch_counts_where_a_judged_pixel_lies_within_reach(seed: int, pixels: float) -> None:
    valid = (rand(1, 1, 32, 40, seed=seed) > 0.97).float()
    found = reach(valid, (8, 10), pixels)[0].numpy()
    side = 2 * int(np.ceil(pixels)) + 1
    near = ndimage.maximum_filter(valid[0, 0].numpy(), side, mode="constant") > 0
    np.testing.assert_array_equal(found, near.reshape(8, 4, 10, 4).any(axis=(1, 3)))
    wider = reach(valid, (8, 10), pixels + 3)[0].numpy()
    assert (wider | ~found).all()
    assert reach(torch.ones(1, 1, 32, 40), (8, 10), pixels).all()


@SHARED
def test_the_score_is_the_maps_maximum_unless_the_method_has_its_own(method: Any) -> None:
    net = fitting.seeded(method.build, method.tiny, 0).eval()
    if method.name == "padim":
        d = len(net.picks)
        net.centre, net.factor = torch.zeros(d, 8, 8), torch.eye(d).repeat(64, 1, 1)
    with torch.no_grad():
        evidence = net(rand(2, 3, 64, 64))
    assert evidence.map.shape == (2, 64, 64)
    torch.testing.assert_close(evidence.score, evidence.map.flatten(1).amax(dim=1))
    assert float(evidence.map.min()) >= 0
