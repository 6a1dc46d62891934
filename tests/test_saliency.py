"""Saliency: what it marks, when it says nothing, LayerCAM against gradients by hand, and the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flawforge.pictures import saliency as room
from flawforge.pictures.saliency import background_of, layercam, saliency, spectral_residual
from flawforge.types import ConfigError, Evidence


def part(seed: int = 0, shape: tuple[int, int] = (96, 128)) -> Any:
    """A coloured disc on a grey ground with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    disc = np.hypot(y - shape[0] / 2, x - shape[1] / 2) < min(shape) / 3
    picture = rng.normal(90, 3, (*shape, 3))
    picture[disc] += (80, 20, -30)
    return np.clip(picture, 0, 255).astype(np.uint8), disc


def texture(shape: tuple[int, int] = (96, 96)) -> Any:
    return np.random.default_rng(0).integers(100, 130, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["spectral", "foreground", "ones"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_have_the_pictures_size_and_lie_in_the_unit_interval(kind: str, dtype: Any, channels: int) -> None:
    picture = part()[0][..., :channels]
    picture = picture if dtype == np.uint8 else picture.astype(np.float32) / 255
    found = saliency(picture, kind)
    assert found.map.shape == picture.shape[:2]
    assert found.map.dtype == np.float32
    assert found.map.min() >= 0.0
    assert found.map.max() <= 1.0


def test_spectral_residual_finds_the_odd_one_out() -> None:
    """A lit, grainy ground with one spot: the spot is what the spectrum does not explain."""
    ground = np.random.default_rng(0).normal(90, 2, (64, 64, 1)) + np.arange(64)[None, :, None]
    picture = np.clip(ground, 0, 255).astype(np.uint8)
    picture[40:46, 20:26] = 220
    found = spectral_residual(picture)
    assert found[41:45, 21:25].min() > 0.9
    assert np.median(found) < 0.5


def test_spectral_residual_of_nothing_is_nothing() -> None:
    assert not spectral_residual(np.full((50, 60, 3), 77, np.uint8)).any()


@pytest.mark.parametrize("learnt", [True, False])
def test_foreground_is_the_part(learnt: bool) -> None:
    picture, disc = part()
    background = background_of([part(seed)[0] for seed in range(1, 6)]) if learnt else None
    found = saliency(picture, "foreground", background=background)
    marked = found.map > 0.5
    assert found.note == "foreground"
    assert (marked & disc).sum() / (marked | disc).sum() > 0.85


def test_a_texture_has_no_object_and_says_so() -> None:
    for kind in ("foreground", "spectral"):
        flat = np.full((64, 64, 3), 9, np.uint8) if kind == "spectral" else texture()
        found = saliency(flat, kind)
        assert (found.map == 1.0).all()
        assert found.note.startswith(f"ones: {kind} marks ")


class Head(torch.nn.Module):
    """One convolution whose score is the sum of its ReLU: LayerCAM can be worked out by hand."""

    def __init__(self, kernel: list[float]) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, len(kernel), 1, bias=False)
        self.conv.weight.data = torch.tensor(kernel)[:, None, None, None].expand(-1, 3, 1, 1).clone()

    def forward(self, images: torch.Tensor) -> Evidence:
        surface = self.conv(images).relu().sum(dim=1)
        return Evidence(surface, surface.flatten(1).sum(dim=1))


def test_layercam_by_hand() -> None:
    """Channels a = 3p and b = -3p of a grey picture p; the score's gradient is 1 where the channel is positive, so the CAM
    is a's activation alone, stretched: p itself, min-max."""
    picture = np.linspace(0.1, 0.9, 30, dtype=np.float32).reshape(5, 6, 1)
    found = layercam(picture, Head([1.0, -1.0]))
    np.testing.assert_allclose(found, (picture[..., 0] - 0.1) / 0.8, atol=1e-5)


class Pyramid(torch.nn.Module):
    """Two resolutions, a batch norm and a plain tensor of logits as output, as a classifier has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.two = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.two(self.norm(self.one(images)).relu()).relu().mean(dim=(2, 3))


def test_layercam_levels_and_an_untouched_network() -> None:
    network = Pyramid().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    picture = part(shape=(32, 40))[0]
    maps = [layercam(picture, network, level) for level in (0, 1)]
    np.testing.assert_allclose(layercam(picture, network), (maps[0] + maps[1]) / 2, atol=1e-6)
    with pytest.raises(ConfigError, match="levels 0 to 1"):
        layercam(picture, network, 2)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_layercam_of_our_own_method() -> None:
    from flawforge.methods import METHODS

    method = METHODS["draem"]
    torch.manual_seed(0)
    found = saliency(part(shape=(64, 64))[0], "layercam", network=method.build(method.tiny))
    assert found.map.shape == (64, 64)


def test_what_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(ConfigError, match="'depth' is unknown"):
        saliency(texture(), "depth")
    with pytest.raises(ConfigError, match="given no network"):
        saliency(texture(), "layercam")
    with pytest.raises(ConfigError, match="without convolutions"):
        layercam(texture(), torch.nn.Flatten())
    with pytest.raises(ConfigError, match="no picture"):
        background_of([])


def test_the_cache_answers_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = part()[0]
    first = saliency(picture, "spectral", cache=tmp_path / "maps")
    assert len(list((tmp_path / "maps").iterdir())) == 1
    monkeypatch.setattr(room, "spectral_residual", lambda _: pytest.fail("computed again"))
    second = saliency(picture, "spectral", cache=tmp_path / "maps")
    np.testing.assert_array_equal(first.map, second.map)
    assert first.note == second.note


def test_the_cache_tells_pictures_kinds_and_weights_apart(tmp_path: Path) -> None:
    picture = part()[0]
    changed = picture.copy()
    changed[0, 0, 0] ^= 1
    for each in (picture, changed):
        saliency(each, "spectral", cache=tmp_path)
    saliency(picture, "foreground", cache=tmp_path)
    saliency(picture, "foreground", background=background_of([part(3)[0]]), cache=tmp_path)
    network = Head([1.0, -1.0])
    saliency(picture, "layercam", network=network, cache=tmp_path)
    network.conv.weight.data[0] += 1.0
    saliency(picture, "layercam", network=network, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", [b"", b"no zip", None])
def test_a_damaged_cache_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    picture = part()[0]
    first = saliency(picture, "spectral", cache=tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:200] if damage is None else damage)
    np.testing.assert_array_equal(saliency(picture, "spectral", cache=tmp_path).map, first.map)
    assert len(file.read_bytes()) > 200
