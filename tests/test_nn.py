"""Shared nets and losses, against published sizes and slow textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from flawforge.methods.draem import PAPER, Config, Draem, step_schedule
from flawforge.nn.losses import focal_map, masked_mean, reconstruction_losses, ssim_map
from flawforge.nn.schedules import cosine_schedule, drops
from flawforge.nn.unet import Autoencoder, UNet


def parameters(net: torch.nn.Module) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


def test_published_sizes() -> None:
    """DRAEM: 69.0 M and 28.4 M, 97.4 M together; the cpu profile is between 1 and 3 M."""
    with torch.device("meta"):
        assert parameters(Autoencoder(3, 128)) == pytest.approx(69.0, abs=0.05)
        assert parameters(UNet(6, 2, 64)) == pytest.approx(28.4, abs=0.05)
        assert parameters(Draem(PAPER)) == pytest.approx(97.4, abs=0.05)
        assert 1 < parameters(Draem(Config())) < 3


@pytest.mark.parametrize("stride", [1, 2])
def test_shapes(stride: int) -> None:
    x = torch.rand(2, 3, 64, 128)
    assert Autoencoder(3, 2, stride)(x).shape == x.shape
    assert UNet(3, 2, 2, stride)(x).shape == (2, 2, 64, 128)


def test_the_autoencoder_shows_its_decoder_finest_first() -> None:
    net = Autoencoder(3, 2, 2).eval()
    x = torch.rand(2, 3, 64, 128)
    picture, features = net.decode(x)
    torch.testing.assert_close(picture, net(x))
    assert [tuple(each.shape[1:]) for each in features] == [(2, 32, 64), (2, 16, 32), (4, 8, 16), (8, 4, 8), (16, 2, 4)]


def test_sizes_that_the_net_cannot_halve_are_padded_and_cut_back() -> None:
    net = Draem(Config(reconstruct_width=2, segment_width=2)).eval()
    reconstruction, logit = net.reconstruct_and_segment(torch.rand(1, 3, 70, 96))
    assert reconstruction.shape == (1, 3, 70, 96)
    assert logit.shape == (1, 1, 70, 96)


def test_the_autoencoder_has_no_way_round_its_bottleneck() -> None:
    """Away from a changed pixel the output may change only through the coarse bottleneck, never by a skip of that pixel."""
    net = Autoencoder(3, 2).eval()
    with torch.no_grad():
        for block in net.down[4:]:
            for parameter in block.parameters():
                parameter.zero_()
        a, b = net(torch.zeros(1, 3, 32, 32)), net(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(a, b)


def test_ssim_against_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 40))

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5, mode="constant")

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    expected = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    found = ssim_map(torch.tensor(a[None, None]), torch.tensor(b[None, None]))[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    same = ssim_map(torch.tensor(a[None, None]), torch.tensor(a[None, None]))
    np.testing.assert_allclose(same.numpy(), 1.0, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_by_its_formula(gamma: float) -> None:
    logit = torch.tensor([[-3.0, 0.0, 4.0]]).view(1, 1, 1, 3)
    target = torch.tensor([[1.0, 0.0, 1.0]]).view(1, 1, 1, 3)
    p = 1 / (1 + np.exp(-logit.numpy().ravel()))
    right = np.where(target.numpy().ravel() == 1, p, 1 - p)
    expected = -((1 - right) ** gamma) * np.log(right)
    np.testing.assert_allclose(focal_map(logit, target, gamma).numpy().ravel(), expected, rtol=1e-5)


def test_what_is_not_valid_never_counts() -> None:
    picture, clean = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    valid = torch.zeros(1, 1, 32, 32)
    valid[..., :16] = 1
    changed = picture.clone()
    changed[..., 30:] = 9.0  # further than an SSIM window from the valid half
    before, after = (reconstruction_losses(x, clean, valid, 1) for x in (picture, changed))
    for name in before:
        torch.testing.assert_close(before[name], after[name])
    assert masked_mean(torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)) == 0


def test_schedules() -> None:
    assert [step_schedule(p) for p in (0, 0.79, 0.8, 0.9, 1)] == pytest.approx([1, 1, 0.2, 0.04, 0.04])
    falling = drops(0.1, (0.5, 0.7, 0.9))
    assert [falling(p) for p in (0, 0.49, 0.5, 0.7, 0.9, 1)] == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])
    assert cosine_schedule(0.03) == pytest.approx(1)
    assert cosine_schedule(1.0) == pytest.approx(0)
    assert cosine_schedule(0.0) > 0
    rates = [cosine_schedule(p) for p in np.linspace(0.03, 1, 50)]
    assert rates == sorted(rates, reverse=True)
