"""Telling good from forged: losses by hand, variation, crops, windows, LayerCAM and its gridding trap."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flawforge.forge import FORGERS
from flawforge.nn.layercam import layercam
from flawforge.nn.pretext import (
    Labelled,
    Pretext,
    classifying,
    crops,
    either,
    from_windows,
    on_one_grid,
    pair,
    told_apart,
    varied,
    windows,
)
from flawforge.types import Batch, Forged, Sample


def tiny(classes: int = 3, seed: int = 0) -> Pretext:
    torch.manual_seed(seed)
    return Pretext("resnet18-tiny", classes, (8,))


def batch(n: int = 4, side: int = 96, seed: int = 0) -> Batch:
    """Grey pictures, half of them with a white box; picture i is forged where i is odd."""
    generator = torch.Generator().manual_seed(seed)
    clean = 0.3 + 0.2 * torch.rand(n, 3, side, side, generator=generator)
    mask = torch.zeros(n, 1, side, side)
    mask[1::2, :, 30:50, 40:70] = 1
    kind = (torch.arange(n) % 2).long()
    return Batch(torch.where(mask > 0, 1.0, clean), clean, mask, torch.ones_like(mask), torch.arange(n), kind)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]])
    log = logits - logits.exp().sum(dim=1, keepdim=True).log()
    assert float(told_apart(logits, torch.tensor([2, 1]))) == pytest.approx(-float(log[0, 2] + log[1, 1]) / 2, rel=1e-5)
    assert float(told_apart(logits[:, :2], torch.tensor([0, 4]))) == pytest.approx(
        float(told_apart(logits[:, :2], torch.tensor([0, 1])))
    )
    p_forged = 1 - log.exp()[:, 0]
    expected = -(math.log(float(p_forged[0])) + math.log(1 - float(p_forged[1]))) / 2
    assert float(either(logits, torch.tensor([2, 0]))) == pytest.approx(expected, rel=1e-4)


def test_a_pair_is_every_good_picture_and_what_was_forged_from_it() -> None:
    made = batch()
    pictures, kind = pair(made)
    assert torch.equal(pictures[:4], made.clean)
    assert torch.equal(pictures[4:], made.forged)
    assert kind.tolist() == [0, 0, 0, 0, 0, 1, 0, 1]


def test_variation_moves_each_picture_by_itself_and_stays_in_range() -> None:
    ramp = torch.linspace(0.2, 0.8, 40).expand(16, 3, 40, 40)
    torch.manual_seed(0)
    moved = varied(ramp, 0.1, 0.0)
    shifts = ((moved[:, 0, 20, 20] - ramp[:, 0, 20, 20]) / (0.6 / 39)).round().int()
    assert shifts.abs().max() <= 4
    assert len(set(shifts.tolist())) > 4
    for image, shift in zip(moved, shifts.tolist(), strict=True):
        torch.testing.assert_close(image[0, 0], ramp[0, 0, 0][(torch.arange(40) + shift).clamp(0, 39)])
    torch.manual_seed(0)
    assert torch.equal(varied(ramp, 0.1, 0.0), moved)
    picture = torch.rand(8, 3, 20, 20) * 0.4 + 0.3
    torch.manual_seed(1)
    found = varied(picture, 0.0, 0.2)
    torch.manual_seed(1)
    bright, contrast, colour = 1 + 0.2 * (2 * torch.rand(3, 8, 1, 1, 1) - 1)
    expected = picture * bright
    expected = expected.mean(dim=(1, 2, 3), keepdim=True).lerp(expected, contrast)
    torch.testing.assert_close(found, expected.mean(dim=1, keepdim=True).lerp(expected, colour))
    jittered = varied(torch.rand(8, 3, 20, 20), 0.0, 0.3)
    assert jittered.min() >= 0
    assert jittered.max() <= 1
    assert torch.equal(varied(ramp, 0.0, 0.0), ramp)


def test_a_few_steps_tell_forged_from_good() -> None:
    net = tiny(2)

    def loss(module: Pretext, made: Batch) -> dict[str, torch.Tensor]:
        pictures, kind = pair(made)
        return {"apart": told_apart(module.logits(pictures), kind)}

    turn = classifying("picture", lambda module: module, loss, rate=0.05, decay=0.0)
    optimiser = turn.optimiser(turn.parameters(net))
    assert {id(p) for p in turn.parameters(net)} == {id(p) for p in net.parameters()}
    assert turn.schedule(1.0) == pytest.approx(0)
    for step in range(25):
        losses = turn.loss(net, batch(8, seed=step))
        optimiser.zero_grad()
        losses["apart"].backward()
        optimiser.step()
    pictures, kind = pair(batch(8, seed=99))
    assert ((net.eval().logits(pictures).argmax(dim=1) > 0) == (kind > 0)).all()


# ---- crops and windows


def test_crops_are_as_many_good_as_forged_and_a_trace_is_left_out() -> None:
    made = batch(6, 96)
    for seed in range(8):
        torch.manual_seed(seed)
        cut, kind = crops(made, 16, 10)
        assert cut.shape[1:] == (3, 16, 16)
        assert len(cut) == len(kind) <= 10
        assert (kind == 0).sum() == 5
        white = (cut == 1).all(dim=1).float().mean(dim=(1, 2))
        assert torch.equal(white > 0, kind > 0)
        assert white[kind > 0].min() >= 0.01
    unjudged = made._replace(valid=torch.zeros_like(made.valid))
    assert len(crops(unjudged, 16, 10)[0]) == 0
    assert crops(made, 500, 4)[0].shape[2:] == (96, 96)


@pytest.mark.parametrize(
    ("size", "grid"), [((256, 256), (57, 57)), ((64, 96), (9, 17)), ((63, 70), (9, 11)), ((20, 40), (1, 3))]
)
def test_windows_cover_the_picture(size: tuple[int, int], grid: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    cut, found = windows(images, 32, 4)
    assert found == grid
    assert cut.shape == (2 * grid[0] * grid[1], 3, 32, 32)
    if min(size) >= 36:
        torch.testing.assert_close(cut[grid[0] * grid[1] + grid[1] + 2], images[1, :, 4:36, 8:40])
    values = from_windows(cut.mean(dim=(2, 3)), found)
    assert values.shape == (2, 3, *grid)
    torch.testing.assert_close(values[1, :, 0, -1], cut[grid[0] * grid[1] + grid[1] - 1].mean(dim=(1, 2)))


def test_stages_on_one_grid() -> None:
    levels = (torch.rand(1, 2, 16, 16), torch.rand(1, 3, 8, 8), torch.rand(1, 1, 4, 4))
    found = on_one_grid(levels, (8, 8))
    assert found.shape == (1, 6, 8, 8)
    torch.testing.assert_close(found[:, :2], F.avg_pool2d(levels[0], 2))
    torch.testing.assert_close(found[:, 2:5], levels[1])


# ---- classes


def test_a_labelled_forgery_says_its_class() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    forger = Labelled(FORGERS["cutpaste"](), "shape", ("patch", "scar"))
    for seed in range(6):
        forged = forger(Sample(image), np.random.default_rng(seed))
        assert forged.drawn["class"] == 1 + ("patch", "scar").index(forged.drawn["shape"])
        plain = FORGERS["cutpaste"]()(Sample(image), np.random.default_rng(seed))
        assert np.array_equal(plain.image, forged.image)

    def fallback(sample: Sample, rng: np.random.Generator) -> Forged:
        return Forged(sample.image, np.zeros((64, 64), bool), "x", {"fallback": "tone_patch"})

    assert "class" not in dataclasses.replace(forger, forger=fallback)(Sample(image), np.random.default_rng(0)).drawn


# ---- LayerCAM


def test_layercam_by_its_formula() -> None:
    """Score = sum of w * A at one place each: the gradient is w, so M is ReLU(sum ReLU(w) A), stretched."""
    activation = torch.rand(2, 3, 4, 5, requires_grad=True)
    weight = torch.randn(3, 4, 5)
    found = layercam([activation], (activation * weight).sum(dim=(1, 2, 3)))
    expected = (weight.clamp_min(0) * activation.detach()).sum(dim=1)
    low, high = (f(expected.flatten(1), dim=1)[:, None, None] for f in (torch.amin, torch.amax))
    torch.testing.assert_close(found[0], (expected - low) / (high - low))


def test_a_picture_without_any_gradient_gives_zeros() -> None:
    activation = torch.rand(1, 2, 3, 3, requires_grad=True)
    assert not layercam([activation], -(activation.sum(dim=(1, 2, 3))))[0].any()


def lattice(cam: torch.Tensor, period: int) -> float:
    """Deviation between the phases of a lattice, over their mean."""
    n, h, w = cam.shape
    phases = cam.reshape(n, h // period, period, w // period, period).mean(dim=(0, 1, 3))
    return float(phases.std() / phases.mean())


def test_the_gridding_trap_is_avoided() -> None:
    """Through stride-2 convolutions the plain gradient is a lattice; averaged over the coarsest cells it is none."""
    torch.manual_seed(0)
    net = Pretext("resnet18-quarter", 3, ()).eval()
    images = F.avg_pool2d(torch.rand(12, 3, 128, 128), 9, 1, 4) * 3 - 1
    levels = net.levels(images)
    score = net.head(levels[-1].mean(dim=(2, 3))).amax(dim=1)
    plain, even = layercam(levels, score.detach() + score, even=False), None
    levels = net.levels(images)
    even = layercam(levels, net.head(levels[-1].mean(dim=(2, 3))).amax(dim=1))
    for level in range(3):
        assert even[level].shape == levels[level][:, 0].shape
        assert lattice(plain[level], 2) > 0.2
        assert lattice(even[level], 2) < 0.08
    assert torch.equal(plain[3], even[3])


# ---- laws


@given(st.integers(0, 1000), st.integers(2, 5), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_losses_do_not_know_a_common_offset_or_the_order_of_pictures(seed: int, classes: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, classes, generator=generator)
    kind = torch.randint(0, classes, (6,), generator=generator)
    order = torch.randperm(6, generator=generator)
    for loss in (told_apart, either):
        found = loss(logits, kind)
        assert float(found) >= 0
        torch.testing.assert_close(loss(logits + offset, kind), found, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(loss(logits[order], kind[order]), found, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_with_two_classes_both_losses_ask_the_same(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, kind = torch.randn(5, 2, generator=generator), torch.randint(0, 2, (5,), generator=generator)
    torch.testing.assert_close(either(logits, kind), told_apart(logits, kind), rtol=1e-3, atol=1e-4)


@given(st.integers(33, 80), st.integers(33, 80), st.sampled_from([4, 8]))
@settings(max_examples=25, deadline=None)
def test_every_window_is_a_piece_of_its_picture(h: int, w: int, step: int) -> None:
    images = torch.arange(float(h * w)).reshape(1, 1, h, w).expand(1, 3, h, w)
    cut, (rows, columns) = windows(images, 32, step)
    assert len(cut) == rows * columns
    places = cut[:, 0, 0, 0].reshape(rows, columns)
    inside = places[: (h - 32) // step + 1, : (w - 32) // step + 1]
    expected = torch.arange(0, h - 31, step)[:, None] * w + torch.arange(0, w - 31, step)[None]
    torch.testing.assert_close(inside[: len(expected), : expected.shape[1]], expected.float())


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_values_of_windows_go_back_to_their_grid(n: int, rows: int, columns: int) -> None:
    values = torch.arange(float(n * rows * columns * 2)).reshape(n * rows * columns, 2)
    grid = from_windows(values, (rows, columns))
    assert grid.shape == (n, 2, rows, columns)
    torch.testing.assert_close(grid.permute(0, 2, 3, 1).reshape(-1, 2), values)
    for level in (torch.rand(n, 3, rows, columns), torch.rand(n, 1, rows, columns)):
        torch.testing.assert_close(on_one_grid((level,), (rows, columns)), level)
