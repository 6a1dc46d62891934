"""DRAEM's forgery and SGSF's masks: operations by hand, opacities, thresholds, and where the masks lie."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.forge import texture
from flawforge.forge.salient import SaliencyPerlin
from flawforge.forge.texture import Perlin
from flawforge.types import ConfigError, Sample


def scene(shape: tuple[int, int] = (64, 96), channels: int = 3) -> Any:
    return np.random.default_rng(0).integers(90, 110, (*shape, channels), dtype=np.uint8)


def disc(shape: tuple[int, int] = (64, 96), radius: float = 20.0) -> Any:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return np.clip(1.5 - np.hypot(y - shape[0] / 2, x - shape[1] / 2) / radius, 0.0, 1.0).astype(np.float32)


def apply(names: list[str], picture: Any, seed: int = 0) -> Any:
    return texture.apply_operations(picture, names, np.random.default_rng(seed))


def test_inverting_twice_changes_nothing() -> None:
    np.testing.assert_array_equal(apply(["invert"], scene()), 255 - scene())
    np.testing.assert_array_equal(apply(["invert", "invert"], scene()), scene())


def test_tables_chained_are_tables_one_by_one() -> None:
    names = ["gamma", "solarise", "posterise", "tone"]
    rng = np.random.default_rng(4)
    stepwise = scene()
    for name in names:
        stepwise = texture.apply_operations(stepwise, [name], rng)
    np.testing.assert_array_equal(apply(names, scene(), 4), stepwise)


def test_solarise_inverts_the_bright_alone() -> None:
    picture = np.array([[[0], [31], [129], [255]]], np.uint8)
    np.testing.assert_array_equal(apply(["solarise"], picture)[0, :, 0], [0, 31, 126, 0])


def test_posterise_leaves_few_tones() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert len(np.unique(apply(["posterise"], ramp))) in (4, 8, 16)


def test_autocontrast_and_equalise_fill_the_range() -> None:
    for name in ("autocontrast", "equalise"):
        made = apply([name], scene())
        assert made.min() == 0
        assert made.max() == 255


def test_hue_turns_colour_and_leaves_grey() -> None:
    grey = np.repeat(scene(channels=1), 3, axis=2)
    np.testing.assert_array_equal(apply(["hue"], grey), grey)
    red = np.full((4, 4, 3), (200, 40, 40), np.uint8)
    assert (apply(["hue"], red) != red).any()


def test_operations_on_the_ramp_are_operations_on_the_picture() -> None:
    """Painting with a changed ramp saves time; it must not change the texture."""
    rng = np.random.default_rng(1)
    field = rng.random((20, 30)).astype(np.float32)
    ramp = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    for names, tolerance in ((["gamma", "invert"], 0), (["hue"], 1)):  # OpenCV's HSV rounds by place in the row
        early = texture.noise.paint(field, apply(names, ramp[None])[0])
        late = apply(names, texture.noise.paint(field, ramp))
        assert np.abs(early.astype(int) - late).max() <= tolerance


@pytest.mark.parametrize("opacity", [0.25, 0.5, 1.0])
def test_opacity_bounds_the_change(opacity: float) -> None:
    """|out - good| = opacity |texture - good|, so it cannot pass opacity times the greatest distance in the range."""
    image = np.full((64, 64, 3), 100, np.uint8)
    top = 0
    for seed in range(12):
        forged = Perlin(opacity=opacity)(Sample(image), np.random.default_rng(seed))
        assert forged.drawn["opacity"] == opacity
        top = max(top, int(np.abs(forged.image.astype(int) - 100).max()))
    assert top <= np.ceil(opacity * 155)
    assert top > 0.6 * opacity * 155


def test_a_given_texture_shows_through() -> None:
    image, given = np.full((64, 64, 3), (100, 90, 80), np.uint8), np.zeros((50, 50, 3), np.uint8)
    given[..., 1] = 255
    forged = Perlin(opacity=1.0, operations=0)(Sample(image, texture=given), np.random.default_rng(0))
    assert forged.drawn["source"] == "given"
    assert (forged.image[forged.mask] == (0, 255, 0)).all()


def test_a_given_texture_turns_grey_on_a_grey_picture() -> None:
    image, given = np.full((64, 64, 3), 100, np.uint8), np.zeros((50, 50, 3), np.uint8)
    image[::2] = 90
    given[..., 1] = 255
    image[0, 0] = 91, 90, 90  # one coloured pixel makes it a colour picture
    assert Perlin(opacity=1.0, operations=0)(Sample(image, texture=given), np.random.default_rng(0)).image.std(2).max() > 50
    image[0, 0] = 90
    made = Perlin(opacity=1.0, operations=0)(Sample(image, texture=given), np.random.default_rng(0)).image
    assert made.std(2).max() == 0


def test_paper_threshold_is_drawn_and_code_threshold_fixed() -> None:
    levels = {
        v: {Perlin(variant=v)(Sample(scene()), np.random.default_rng(s)).drawn["threshold"] for s in range(5)}
        for v in ("code", "paper")
    }
    assert levels["code"] == {0.5}
    assert len(levels["paper"]) == 5


def test_a_lower_threshold_forges_more() -> None:
    area = [
        np.mean([Perlin(threshold=t)(Sample(scene()), np.random.default_rng(s)).mask.mean() for s in range(15)])
        for t in (0.6, 0.3, 0.0)
    ]
    assert area[0] < area[1] < area[2]


def test_texture_pieces_come_from_the_picture() -> None:
    picture = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50, 1).astype(np.uint8)
    for seed in range(8):
        piece = texture.cut_from(picture, (25, 33), np.random.default_rng(seed))
        assert piece.shape == (25, 33, 1)
    assert texture.cut_from(picture, (200, 300), np.random.default_rng(0)).shape == (200, 300, 1)


@pytest.mark.parametrize("rule", ["mean_std", "otsu", "quantile", "uniform"])
def test_saliency_masks_lie_in_the_salient_region(rule: str) -> None:
    prior = disc()
    for seed in range(15):
        forged = SaliencyPerlin(rule=rule)(Sample(scene(), prior), np.random.default_rng(seed))
        assert forged.drawn["prior"] == "given"
        assert not (forged.mask & (prior <= 0.5)).any()


def test_quantile_rule_forges_the_drawn_share() -> None:
    prior = disc()
    region = np.count_nonzero(prior > 0.5)
    forger = SaliencyPerlin(rule="quantile", area=0.2, opacity=1.0)
    areas = [forger(Sample(scene(), prior), np.random.default_rng(s)).mask.sum() for s in range(20)]
    shares = np.array(areas) / region
    assert np.median(shares) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("radius", [4.0, 200.0])
def test_a_prior_without_an_object_is_set_aside(radius: float) -> None:
    forged = SaliencyPerlin()(Sample(scene(), disc(radius=radius)), np.random.default_rng(0))
    assert forged.drawn["prior"] == "guarded"


def test_without_a_prior_it_says_so() -> None:
    assert SaliencyPerlin()(Sample(scene()), np.random.default_rng(0)).drawn["prior"] == "none"


def test_no_empty_masks_where_draem_has_them() -> None:
    """The reason for the adaptive threshold: on a small object a fixed one leaves about one forgery in five empty."""
    sample = Sample(scene(), disc())
    redraws = [SaliencyPerlin()(sample, np.random.default_rng(s)).drawn["redraws"] for s in range(60)]
    assert np.mean(np.array(redraws) > 0) < 0.05


# ---- operations by their formulas

RAMP = np.arange(256, dtype=np.uint8)


@given(st.integers(0, 10_000), st.sampled_from(sorted(texture.TABLE_OPS)))
@settings(max_examples=50, deadline=None)
def test_a_table_operation_acts_on_each_tone_alone(seed: int, op: str) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    table = texture._table(op, np.random.default_rng(seed), RAMP)
    assert table.shape == (256,)
    np.testing.assert_array_equal(apply([op], image, seed), table[image])


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_tables_by_their_definitions(seed: int) -> None:
    gamma = texture._table("gamma", np.random.default_rng(seed), RAMP).astype(int)
    assert (gamma[0], gamma[255]) == (0, 255)
    assert (np.diff(gamma) >= 0).all()
    power = np.random.default_rng(seed).uniform(0.5, 2.0)
    np.testing.assert_allclose(gamma, 255 * (RAMP / 255.0) ** power, atol=0.6)
    posterised = texture._table("posterise", np.random.default_rng(seed), RAMP).astype(int)
    assert (posterised <= RAMP).all()
    assert len(set(np.diff(np.unique(posterised)))) == 1
    solarised = texture._table("solarise", np.random.default_rng(seed), RAMP).astype(int)
    assert ((solarised == RAMP) | (solarised == 255 - RAMP.astype(int))).all()
    assert (solarised[:32] == RAMP[:32]).all()
    assert (solarised[129:] == 255 - RAMP[129:].astype(int)).all()
    np.testing.assert_array_equal(texture._table("invert", np.random.default_rng(0), RAMP), RAMP[::-1])


@given(st.integers(0, 10_000), st.lists(st.sampled_from(texture.OPS), max_size=5))
@settings(max_examples=60, deadline=None)
def test_operations_keep_shape_and_type_and_never_change_their_input(seed: int, names: list[str]) -> None:
    for channels in (1, 3):
        image = np.random.default_rng(seed).integers(0, 256, (20, 24, channels), dtype=np.uint8)
        before = image.copy()
        made = apply(names, image, seed)
        assert made.shape == image.shape
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(image, before)
        np.testing.assert_array_equal(made, apply(names, image, seed))


def test_sharpening_adds_what_a_mean_takes_away() -> None:
    image = np.random.default_rng(0).integers(60, 200, (16, 16, 1), dtype=np.uint8)
    expected = 2.0 * image[..., 0].astype(float) - cv2.blur(image[..., 0], (3, 3)).astype(float)
    np.testing.assert_allclose(apply(["sharpen"], image)[..., 0], np.clip(expected, 0, 255), atol=1)
    flat = np.full((8, 8, 3), 90, np.uint8)
    np.testing.assert_array_equal(apply(["sharpen"], flat), flat)


def test_equalising_spreads_tones_evenly() -> None:
    image = np.random.default_rng(1).normal(120, 8, (64, 64, 1)).clip(0, 255).astype(np.uint8)
    counts, _ = np.histogram(apply(["equalise"], image), bins=4, range=(0, 256))
    assert counts.min() > 0.6 * counts.max()


def test_turning_keeps_the_middle() -> None:
    image = np.zeros((41, 41, 1), np.uint8)
    image[15:26, 15:26] = 200
    for seed in range(5):
        assert (apply(["turn"], image, seed)[18:23, 18:23] == 200).all()


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_piece_cut_from_a_flat_picture_is_flat_and_one_cut_elsewhere_is_in_range(seed: int) -> None:
    flat = np.full((30, 50, 3), (10, 20, 30), np.uint8)
    assert (texture.cut_from(flat, (17, 23), np.random.default_rng(seed)) == (10, 20, 30)).all()
    image = np.random.default_rng(seed).integers(50, 60, (30, 50, 3), dtype=np.uint8)
    piece = texture.cut_from(image, (17, 23), np.random.default_rng(seed))
    assert 50 <= piece.min() <= piece.max() <= 59


@given(st.integers(0, 5), st.integers(0, 2), st.floats(0, 180), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_lattice_is_a_power_of_two_within_its_exponents(low: int, more: int, turn: float, seed: int) -> None:
    field, drawn_ = texture.lattice_noise((48, 64), (low, low + more), turn, np.random.default_rng(seed))
    assert field.shape == (48, 64)
    assert all(min(2**low, 48) <= cells <= 2 ** (low + more) for cells in drawn_["cells"])
    assert all(cells & (cells - 1) == 0 or cells == 48 for cells in drawn_["cells"])
    assert abs(drawn_["turn"]) <= turn + 1e-3


@pytest.mark.parametrize("source", ["given", "self", "noise", "stripes", "auto"])
def test_the_source_is_as_asked_or_the_next_best(source: str) -> None:
    bare, with_texture = Sample(scene()), Sample(scene(), texture=np.zeros((40, 40, 3), np.uint8))
    rng = np.random.default_rng(0)
    without = {texture._choose_source(source, bare, rng) for _ in range(40)}
    given_one = {texture._choose_source(source, with_texture, rng) for _ in range(40)}
    fallback = {"given": {"self"}, "auto": {"self", "noise", "stripes"}}
    assert without == fallback.get(source, {source})
    assert given_one == ({"given"} if source in ("given", "auto") else {source})


def test_channels_of_a_texture_follow_the_picture() -> None:
    colour, grey = scene(), scene(channels=1)
    assert texture.as_channels(colour, True).shape[2] == 1
    np.testing.assert_array_equal(texture.as_channels(grey, False), np.repeat(grey, 3, axis=2))
    assert texture.as_channels(colour, False) is colour
    assert texture.as_channels(grey, True) is grey


def test_an_empty_mask_shows_no_texture() -> None:
    image = scene()
    out, drawn_ = texture.show_texture(
        Sample(image), np.zeros((64, 96), bool), np.random.default_rng(0), "code", None, 3, "auto"
    )
    np.testing.assert_array_equal(out, image)
    assert set(drawn_) == {"opacity"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": "draem"}, "variant is 'draem'; it must be one of 'code', 'paper'"),
        ({"cells": 3}, "cells is 3; it must be an ascending"),
        ({"turn": -1.0}, "turn is -1.0"),
        ({"opacity": (0.5, 1.2)}, "opacity"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"operations": -1}, "operations is -1"),
    ],
)
def test_a_setting_out_of_bounds_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"perlin: {words}"):
        Perlin(**fields)
