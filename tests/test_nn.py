"""Shared nets and losses, against published sizes and slow textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from flawforge.methods.draem import PAPER, Config, Draem, step_schedule
from flawforge.nn.losses import cosine_schedule, dice_loss, drops, focal_map, masked_mean, reconstruction_losses, ssim_map
from flawforge.nn.unet import Autoencoder, UNet, state_prior


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


# ---- laws of the losses


def planes(seed: int, n: int = 2, c: int = 1, side: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, c, side, side), dtype=np.float32))


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_ssim_is_symmetric_and_one_for_equal_pictures_alone(seed: int) -> None:
    a, b = planes(seed, c=3, side=24), planes(seed + 1, c=3, side=24)
    torch.testing.assert_close(ssim_map(a, b), ssim_map(b, a))
    assert float(ssim_map(a, b).max()) <= 1 + 1e-4
    assert float(ssim_map(a, b).min()) >= -1 - 1e-4
    assert float(ssim_map(a, b).mean()) < 0.5


@given(st.floats(-20, 20), st.sampled_from([0.0, 1.0]), st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_focal_loss_falls_with_the_right_answer_and_never_beyond_cross_entropy(x: float, y: float, gamma: float) -> None:
    logit, target = torch.full((1, 1, 1, 1), x), torch.full((1, 1, 1, 1), y)
    loss = float(focal_map(logit, target, gamma))
    better = float(focal_map(logit + (0.5 if y else -0.5), target, gamma))
    plain = float(F.binary_cross_entropy_with_logits(logit, target))
    assert 0 <= loss <= plain + 1e-6
    assert better <= loss + 1e-7


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_masked_mean_is_numpys_over_the_valid_pixels(seed: int) -> None:
    values, valid = planes(seed, c=3), (planes(seed + 1) > 0.5).float()
    found = float(masked_mean(values, valid))
    kept = values.numpy()[np.broadcast_to(valid.numpy() > 0, values.shape)]
    assert found == pytest.approx(float(kept.mean()), abs=1e-5)
    torch.testing.assert_close(masked_mean(values, torch.ones_like(valid)), values.mean())


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_dice_is_least_for_the_mask_itself(seed: int) -> None:
    mask, valid = (planes(seed) > 0.6).float(), torch.ones(2, 1, 12, 12)
    perfect = float(dice_loss(mask, mask, valid))
    assert perfect == pytest.approx(0, abs=1e-6)
    wrong = float(dice_loss(1 - mask, mask, valid))
    half = float(dice_loss(0.5 * mask, mask, valid))
    assert perfect <= half <= wrong <= 1
    overlap, sizes = 2 * 0.5 * float(mask.sum()), 0.25 * float(mask.sum()) + float(mask.sum())
    assert half == pytest.approx(1 - (overlap + 1) / (sizes + 1), abs=1e-5)


def test_dice_over_a_batch_counts_pixels_and_not_pictures() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 0, 0] = 1
    shuffled = mask[[1, 0]]
    assert dice_loss(mask, mask, torch.ones_like(mask)) == dice_loss(shuffled, shuffled, torch.ones_like(mask))
    none = torch.zeros_like(mask)
    assert float(dice_loss(none, none, torch.ones_like(mask))) == 0  # nothing to find and nothing found
    assert float(dice_loss(1 - mask, mask, none)) == 0  # nothing counts


def test_a_reconstruction_that_is_the_picture_costs_nothing_at_either_stride() -> None:
    clean, valid = planes(0, c=3, side=32), torch.ones(2, 1, 32, 32)
    for stride in (1, 2):
        losses = reconstruction_losses(clean, clean, valid, stride)
        assert sorted(losses) == ["l2", "ssim"]
        assert all(float(loss) == pytest.approx(0, abs=1e-4) for loss in losses.values())
        worse = reconstruction_losses(clean + 0.1, clean, valid, stride)
        assert float(worse["l2"]) == pytest.approx(0.01, abs=1e-5)
        assert float(worse["ssim"]) > 0


@given(st.floats(0, 1), st.floats(0, 1))
def test_schedules_stay_in_the_unit_interval_and_fall(a: float, b: float) -> None:
    early, late = sorted((a, b))
    for schedule in (cosine_schedule, drops(0.1, (0.3, 0.6)), drops(0.5, ())):
        assert 0 <= schedule(late) <= 1 + 1e-12
        if schedule is not cosine_schedule or early >= 0.03:
            assert schedule(late) <= schedule(early) + 1e-12
    assert drops(0.5, ())(a) == 1


def test_a_warm_up_is_a_straight_line() -> None:
    assert [cosine_schedule(p, warm_up=0.1) for p in (0.0, 0.05, 0.1)] == pytest.approx([1e-3, 0.5, 1])
    assert cosine_schedule(0.55, warm_up=0.1) == pytest.approx(0.5)


@pytest.mark.parametrize("prior", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_untrained_segmenter_states_its_prior(prior: float, stride: int) -> None:
    net = UNet(3, 2, 2, stride)
    for parameter in net.out.parameters():
        torch.nn.init.zeros_(parameter)
    state_prior(net.out, prior)
    good, bad = net.eval()(torch.rand(1, 3, 64, 64)).chunk(2, dim=1)
    assert torch.allclose((bad - good).sigmoid(), torch.tensor(prior), atol=1e-6)
    assert not good.any()
