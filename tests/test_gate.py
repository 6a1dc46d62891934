"""The gate by its arithmetic, weights that ship, losses by their formulas, and schedules by their ends."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score
from torch import nn

from flawforge import fitting
from flawforge.forge.texture import Perlin
from flawforge.methods import METHODS
from flawforge.nn import gains, gate, guided
from flawforge.nn.head_start import head_start, recipe
from flawforge.nn.losses import cosine_schedule, dice_loss, drops, focal_map, masked_mean, reconstruction_losses, ssim_map
from flawforge.types import Prove

TINY = METHODS["auto"].tiny
SEEDS = st.integers(0, 2**32 - 1)

# ---- gate


@given(SEEDS, st.sampled_from([0.001, 0.01, 0.1, 1.0]))
@settings(deadline=None, max_examples=20)
def test_the_mean_of_the_highest_by_sorting(seed: int, top: float) -> None:
    rng = np.random.default_rng(seed)
    maps, valid = rng.standard_normal((3, 9, 11)).astype(np.float32), rng.random((9, 11)) < 0.7
    valid[0, 0] = True
    found = gains.top_mean(torch.from_numpy(maps), torch.from_numpy(valid), top)
    count = max(1, round(top * valid.sum()))
    expected = [np.sort(each[valid])[::-1][:count].mean() for each in maps]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@given(SEEDS, st.integers(1, 4), st.integers(-5, 5))
@settings(deadline=None, max_examples=20)
def test_average_precision_is_a_matter_of_order(seed: int, times: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    maps, mask = rng.integers(0, 6, (2, 40)).astype(np.float64), rng.random(40) < 0.3
    mask[0] = True
    quiet = np.sort(rng.integers(0, 6, (2, 15)).astype(np.float64), axis=1)

    def precision(move: float, by: float, more: int) -> torch.Tensor:
        values, others = (torch.from_numpy(by * each + move) for each in (maps, quiet))
        return gains.average_precision(values, torch.from_numpy(mask), others, more)

    found = precision(0.0, 1.0, times)
    labels = np.concatenate([mask, np.zeros(15 * times, bool)])
    for row, others, each in zip(maps, quiet, found, strict=True):
        values = np.concatenate([row, np.tile(others, times)])
        assert float(each) == pytest.approx(average_precision_score(labels, values))
    np.testing.assert_allclose(precision(shift, 2.0, times), found)
    assert bool((precision(0.0, 1.0, times + 1) <= found + 1e-12).all())  # more other places never help
    assert bool((found > 0).all())
    assert bool((found <= 1).all())


def test_candidates_are_in_units_of_good_pictures_and_the_last_is_the_sum() -> None:
    net = fitting.seeded(guided.Guided, TINY, 0)
    net.unit[:] = torch.tensor([[1.0, 2.0], [10.0, 5.0]])
    maps = torch.stack([torch.full((2, 3), 5.0), torch.full((2, 3), 20.0)])
    found = gate.candidates(net, maps)
    assert found.shape == (len(guided.CANDIDATES), 2, 3)
    assert [float(each[0, 0]) for each in found] == [2.0, 2.0, 4.0]


@given(SEEDS, st.integers(3, 20), st.sampled_from([0.5, 0.9, 0.95]))
@settings(deadline=None, max_examples=20)
def test_the_surely_gained_is_below_the_mean_and_falls_with_sureness(seed: int, pictures: int, sure: float) -> None:
    values = np.random.default_rng(seed).random((pictures, 3))
    rises = values - values[:, :1]
    found = gains.least_gains(values, sure)
    assert found[0] == 0
    for place in (1, 2):
        expected = stats.t.interval(2 * sure - 1, pictures - 1, rises[:, place].mean(), stats.sem(rises[:, place]))[0]
        assert found[place] == pytest.approx(expected if sure > 0.5 else rises[:, place].mean())
    assert (gains.least_gains(values, 0.99) <= found + 1e-12).all()
    np.testing.assert_allclose(gains.least_gains(values + 7.0, sure), found, atol=1e-9)


def used(values: np.ndarray, pictures: int = 8) -> list[list[float]]:
    """What the gate takes where every kept picture gives the values 2 3 of picture and map by candidates."""
    net = fitting.seeded(guided.Guided, TINY, 0)
    gate.decide(net, [(place % pictures, torch.from_numpy(values)) for place in range(2 * pictures)])
    return net.use.tolist()


@pytest.mark.parametrize(
    ("gain", "use"), [(0.0, "statistics"), (gate.MARGIN / 2, "statistics"), (2 * gate.MARGIN, "sum"), (-0.2, "statistics")]
)
def test_a_gain_beyond_the_margin_decides_for_picture_and_map_apart(gain: float, use: str) -> None:
    values = np.array([[0.5, 0.9, 0.5 + gain], [0.7, 0.9, 0.7]])
    assert used(values) == [list(guided.USES[use]), list(guided.USES["statistics"])]
    assert used(values[::-1].copy()) == [list(guided.USES["statistics"]), list(guided.USES[use])]


def test_too_few_kept_pictures_decide_nothing() -> None:
    net = fitting.seeded(guided.Guided, TINY, 0)
    before = net.use.tolist()
    rows = [(place, torch.tensor([[0.0, 1.0, 1.0]] * 2, dtype=torch.float64)) for place in range(guided.LEAST - 1)]
    gate.decide(net, rows * 5)
    assert net.use.tolist() == before


def test_the_gate_is_asked_only_where_the_settings_leave_it_open() -> None:
    for use in guided.USES:
        assert gate.gate(dataclasses.replace(TINY, use=use), Perlin()) == []
    (stage,) = gate.gate(dataclasses.replace(TINY, use="gate", proofs=7, folds=2), Perlin())
    assert isinstance(stage, Prove)
    assert stage.batches == 7
    assert stage.draw is not None
    assert list(stage.draw(2 * guided.LEAST - 2)) == []  # of so few pictures fewer than LEAST are kept
    assert list(stage.draw(2 * guided.LEAST)) == [0, 2, 4]


# ---- weights that ship


def test_the_file_is_the_one_of_the_recipe() -> None:
    data = resources.files("flawforge").joinpath("weights/guided.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == recipe()["sha256"]
    assert len(data) < 2**22


def test_another_form_leaves_every_weight_as_it_is() -> None:
    net = nn.Linear(3, 2)
    before = [p.detach().clone() for p in net.parameters()]
    form = recipe()["form"]
    for other in ({}, {**form, "width": -1}, {**form, "more": 1}, {key: form[key] for key in list(form)[1:]}):
        head_start(net, other)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_form_is_the_same_as_a_tuple_or_a_list() -> None:
    form = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe()["form"].items()}
    config = METHODS["auto"].profiles["cpu"]
    net = fitting.seeded(guided.Guided, dataclasses.replace(config, head_start=False), 0)
    shipped = fitting.seeded(guided.Guided, config, 1)
    head_start(net, form)
    for name, value in shipped.unet.state_dict().items():
        assert torch.equal(net.unet.state_dict()[name], value), name
    assert json.loads(json.dumps(form)) == recipe()["form"]


# ---- losses


def plane(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.random(shape, np.float32))


@given(SEEDS, st.floats(0, 5))
@settings(deadline=None, max_examples=25)
def test_focal_loss_by_probabilities(seed: int, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    logit = torch.from_numpy(rng.normal(0, 3, (2, 1, 4, 5)).astype(np.float32))
    target = (plane(rng, 2, 1, 4, 5) > 0.5).float()
    p = 1 / (1 + np.exp(-logit.double().numpy()))
    right = np.where(target.numpy() > 0, p, 1 - p)
    np.testing.assert_allclose(
        focal_map(logit, target, gamma), -((1 - right) ** gamma) * np.log(right), rtol=2e-3, atol=1e-5
    )
    mirrored = focal_map(-logit, 1 - target, gamma)
    torch.testing.assert_close(mirrored, focal_map(logit, target, gamma), rtol=1e-3, atol=1e-5)


def test_focal_loss_stays_finite_where_the_answer_is_sure_and_wrong() -> None:
    logit = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    loss = focal_map(logit, torch.tensor([1.0, 0.0, 1.0]))
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert logit.grad is not None
    assert bool(torch.isfinite(logit.grad).all())
    assert float(loss[2].detach()) == pytest.approx(0.25 * math.log(2))


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_dice_by_its_formula_and_without_what_is_not_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, mask, valid = plane(rng, 2, 1, 5, 6), (plane(rng, 2, 1, 5, 6) > 0.6).float(), (plane(rng, 2, 1, 5, 6) > 0.3).float()
    inside = valid.numpy() > 0
    a, b = p.numpy()[inside].astype(float), mask.numpy()[inside].astype(float)
    found = float(dice_loss(p, mask, valid))
    assert found == pytest.approx(1 - (2 * (a * b).sum() + 1) / ((a**2).sum() + b.sum() + 1), abs=1e-5)
    changed = torch.where(valid > 0, p, 1 - p)
    assert float(dice_loss(changed, mask, valid)) == pytest.approx(found)
    assert 0 <= found < 1


@given(SEEDS, st.floats(0.1, 3))
@settings(deadline=None, max_examples=15)
def test_a_masked_mean_is_linear_and_ignores_the_rest(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, valid = plane(rng, 2, 3, 4, 5), plane(rng, 2, 3, 4, 5), (plane(rng, 2, 1, 4, 5) > 0.4).float()
    valid[0, 0, 0, 0] = 1
    both = masked_mean(factor * a + b, valid)
    torch.testing.assert_close(both, factor * masked_mean(a, valid) + masked_mean(b, valid), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masked_mean(torch.where(valid > 0, a, a + 100), valid), masked_mean(a, valid))
    assert float(masked_mean(torch.full_like(a, 2.5), valid)) == pytest.approx(2.5)


@given(SEEDS)
@settings(deadline=None, max_examples=6)
def test_ssim_by_gaussian_windows_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 24, 20))
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2

    def blur(x: np.ndarray) -> np.ndarray:
        return ndimage.convolve(x, window, mode="constant")

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 1e-4, 9e-4
    expected = ((2 * mean_a * mean_b + c1) * (2 * both + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    found = ssim_map(*(torch.from_numpy(each)[None, None] for each in (a, b)))[0, 0]
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_reconstruction_is_worse_the_farther_it_is(stride: int) -> None:
    rng = np.random.default_rng(0)
    clean, noise, valid = plane(rng, 1, 3, 32, 32), plane(rng, 1, 3, 32, 32) - 0.5, torch.ones(1, 1, 32, 32)
    found = [reconstruction_losses(clean + amount * noise, clean, valid, stride) for amount in (0.0, 0.1, 0.2, 0.4)]
    for name in ("l2", "ssim"):
        values = [float(losses[name]) for losses in found]
        assert values == sorted(values), name
        assert values[0] == pytest.approx(0, abs=1e-5)
    assert float(found[3]["l2"]) == pytest.approx(16 * float(found[1]["l2"]), rel=1e-4)
    nothing = reconstruction_losses(clean + noise, clean, 0 * valid, stride)
    assert {float(value) for value in nothing.values()} == {0.0}


# ---- schedules


@given(st.floats(0.001, 0.5), st.floats(0, 1))
@settings(deadline=None)
def test_a_cosine_by_its_formula(warm_up: float, progress: float) -> None:
    found = cosine_schedule(progress, warm_up)
    assert 0 <= found <= 1
    if progress < warm_up:
        assert found == max(progress / warm_up, 1e-3)
    else:
        assert found == pytest.approx(math.cos(math.pi / 2 * (progress - warm_up) / (1 - warm_up)) ** 2, abs=1e-9)
    assert cosine_schedule(1.0, warm_up) == pytest.approx(0, abs=1e-9)
    assert cosine_schedule(warm_up, warm_up) == 1


@given(st.floats(0.01, 1), st.lists(st.floats(0, 1), max_size=5), st.floats(0, 1))
@settings(deadline=None)
def test_drops_count_the_places_that_are_passed(factor: float, places: list[float], progress: float) -> None:
    expected = 1.0
    for place in places:
        if place <= progress:
            expected *= factor
    assert drops(factor, places)(progress) == pytest.approx(expected)
