"""Maps from features: which places a picture's features speak for, and what the detector answers for a picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flawforge.nn import localise
from flawforge.nn.density import Moments, PictureDensity
from flawforge.nn.localise import Detector, Form, StageMap, WindowMap
from flawforge.nn.pretext import Pretext
from flawforge.types import Batch

FORM = Form(dims=6, step=8, sigma=4.0, keep="places")


def pretext(classes: int = 3, seed: int = 0) -> Pretext:
    torch.manual_seed(seed)
    return Pretext("resnet18-tiny", classes, (8,))


def pictures(n: int, h: int = 64, w: int = 64, seed: int = 0) -> Tensor:
    """One part with a little noise."""
    generator = torch.Generator().manual_seed(99)
    one = torch.rand(3, h, w, generator=generator)
    noise = torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(seed))
    return (one + 0.03 * noise).clamp(0, 1)


def batch_of(images: Tensor, valid: Tensor | None = None) -> Batch:
    ones = torch.ones(len(images), 1, *images.shape[2:])
    return Batch(images, images, 0 * ones, ones if valid is None else valid, torch.arange(len(images)))


def detector(kind: str, seed: int = 0) -> Detector:
    net = pretext(seed=seed)
    torch.manual_seed(seed)
    surface: StageMap | WindowMap = (
        StageMap(net.trunk.widths[:3], FORM) if kind == "stages" else WindowMap(pretext(2, seed + 1), FORM, 16)
    )
    return Detector(net, PictureDensity(net.trunk.widths[-1]), surface).eval()


def fitted(kind: str, images: Tensor, size: int = 4, valid: Tensor | None = None) -> Detector:
    net = detector(kind)
    with torch.no_grad():
        looked = localise.begin(net)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            localise.look(net, looked, batch_of(images[part], None if valid is None else valid[part]))
        localise.fit_densities(net, looked)
    return net


def test_features_are_drawn_once_in_order_and_without_repeats() -> None:
    torch.manual_seed(3)
    picked = StageMap((4, 8, 16), FORM).picked.tolist()
    assert picked == sorted(set(picked))
    assert len(picked) == 6
    assert max(picked) < 28
    assert StageMap((2, 2), FORM).picked.tolist() == [0, 1, 2, 3]  # no more than there are
    torch.manual_seed(3)
    assert StageMap((4, 8, 16), FORM).picked.tolist() == picked


@pytest.mark.parametrize(("h", "w"), [(64, 64), (64, 96), (72, 40), (70, 90)])
@pytest.mark.parametrize("kind", ["stages", "windows"])
def test_a_map_has_the_pictures_size(kind: str, h: int, w: int) -> None:
    net = fitted(kind, pictures(4, h, w))
    with torch.no_grad():
        evidence = net(pictures(2, h, w, seed=5))
    if kind == "stages" or (h % 8 == 0 and w % 8 == 0):
        assert evidence.map.shape == (2, h, w)
    assert evidence.map.ndim == 3
    assert evidence.score.shape == (2,)
    assert torch.isfinite(evidence.map).all()


@pytest.mark.parametrize("kind", ["stages", "windows"])
def test_a_changed_place_is_stranger_there(kind: str) -> None:
    net = fitted(kind, pictures(12))
    good = pictures(1, seed=77)
    spoilt = good.clone()
    spoilt[:, :, 16:32, 40:56] = 1 - spoilt[:, :, 16:32, 40:56]
    with torch.no_grad():
        change = net(spoilt).map[0] - net(good).map[0]
    inside = change[16:32, 40:56].mean()
    assert float(inside) > 2 * float(change[48:, :16].abs().mean())
    row, column = divmod(int(change.argmax()), 64)
    assert 8 <= row < 40
    assert 32 <= column < 64


@pytest.mark.parametrize("kind", ["stages", "windows"])
def test_batches_of_any_size_fit_the_same_densities(kind: str) -> None:
    images = pictures(6)
    with torch.no_grad():
        one, two = (fitted(kind, images, size)(pictures(2, seed=8)) for size in (6, 2))
    torch.testing.assert_close(one.map, two.map, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.score, two.score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["stages", "windows"])
def test_places_that_are_mostly_border_teach_nothing(kind: str) -> None:
    """The lower half of every picture is border: whatever lies there, the places of the upper half stay as they are."""
    images, valid = pictures(5), torch.ones(5, 1, 64, 64)
    valid[:, :, 32:] = 0
    wild = images.clone()
    wild[:, :, 56:] = 1.0
    with torch.no_grad():
        one, two = (fitted(kind, x, valid=valid).surface.places for x in (images, wild))
    assert bool((one.known == two.known).all())
    rows = one.known.shape[0]
    assert one.known[: rows // 3].all()
    assert not one.known[-rows // 4 :].any()


def test_the_share_that_counts_is_a_half() -> None:
    """A cell of 8 x 8 pixels counts with 32 judged pixels and not with 31."""
    net = detector("stages")
    images = pictures(1)
    known = []
    for judged in (31, 32):
        valid = torch.zeros(1, 1, 64, 64)
        valid.view(1, 8, 8, 8, 8)[0, 2, :, 3, :] = (torch.arange(64) < judged).float().reshape(8, 8)
        moments = Moments()
        with torch.no_grad():
            levels = net.picture.levels(images)
            net.surface.look(moments, images, levels, valid)
        known.append(moments.n.reshape(8, 8))
    assert float(known[0].sum()) == 0
    assert float(known[1].sum()) == 1
    assert float(known[1][2, 3]) == 1


def test_a_windows_features_are_those_of_the_crop_alone() -> None:
    net = detector("windows")
    surface: Any = net.surface
    image = pictures(1)
    with torch.no_grad():
        grid = surface._features(image)
        crop = surface.crop.pooled(image[:, :, 16:32, 24:40])[0].index_select(0, surface.picked)
    assert grid.shape == (1, 6, 7, 7)
    torch.testing.assert_close(grid[0, :, 2, 3], crop, rtol=1e-4, atol=1e-5)


def test_stage_features_are_the_stages_on_the_forms_grid() -> None:
    net = detector("stages")
    surface: Any = net.surface
    image = pictures(1)
    with torch.no_grad():
        levels = net.picture.levels(image)
        grid = surface._features(levels, (64, 64))
    whole = torch.cat([F.adaptive_avg_pool2d(level, 8) for level in levels[:2]], dim=1)
    place = [i for i, channel in enumerate(surface.picked.tolist()) if channel < whole.shape[1]]
    expected = whole.index_select(1, surface.picked[place])
    torch.testing.assert_close(grid[:, place], expected)


def test_both_densities_say_what_they_found() -> None:
    facts = fitted("stages", pictures(3)).facts()
    assert len(facts) == 2
    assert facts[0].startswith("pictures are judged by")
    assert facts[1].startswith("places are judged by")


def test_the_heads_answer_for_training_alone() -> None:
    net = detector("windows")
    x = pictures(2)
    assert net.classify(x).shape == (2, 3)
    assert net.classify_crops(x[:, :, :16, :16]).shape == (2, 2)
    before = net(x).map if net.surface.places.known.numel() > 1 else None
    assert before is None  # not fitted yet
    with pytest.raises(AssertionError):
        detector("stages").classify_crops(x)
