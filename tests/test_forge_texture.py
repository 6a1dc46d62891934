"""DRAEM's forgery and SGSF's masks: operations by hand, opacities, thresholds, and where the masks lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flawforge.forge import texture
from flawforge.forge.salient import SaliencyPerlin
from flawforge.forge.texture import Perlin
from flawforge.types import Sample


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
