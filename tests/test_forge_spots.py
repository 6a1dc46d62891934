"""Stain, dent and blob on flat parts, where what they change can be told from what they are."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.forge import spots
from flawforge.forge.spots import Blob, Dent, Stain
from flawforge.types import ConfigError, Forged, Sample


def flat(tone: int = 128, channels: int = 1) -> Any:
    return np.full((120, 120, channels), tone, np.uint8)


def change(forged: Forged, tone: int = 128) -> Any:
    return forged.image.astype(int) - tone


def stained(seed: int, channels: int = 1, **fields: Any) -> Forged:
    plain: dict[str, Any] = {"size": 40.0, "contrast": 0.3, "sharpness": 1.0, "clouds": 0.0, "ring": 0.0, "tint": 0.0}
    return Stain(**(plain | fields))(Sample(_image(channels)), np.random.default_rng(seed))


def _image(channels: int) -> Any:
    image = flat(128, channels)
    if channels == 3:
        image[0, 0] = 128, 127, 126  # one pixel of colour: else three equal channels are a grey picture
    return image


# ---- stain


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_stain_is_even_inside_its_edge(seed: int) -> None:
    forged = stained(seed)
    inner = cv2.erode(forged.mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert inner.sum() > 200
    values = np.abs(change(forged)[inner])
    assert values.max() - values.min() <= 2
    assert values.mean() == pytest.approx(0.3 * 255, abs=2)


@pytest.mark.parametrize("seed", range(4))
def test_a_stain_without_sharpness_fades_from_its_middle(seed: int) -> None:
    """Mean change in rings of equal depth below the outline: it must rise inwards."""
    forged = stained(seed, sharpness=0.0)
    depth = cv2.distanceTransform(forged.mask.astype(np.uint8), cv2.DIST_L2, 5)
    strength = np.abs(change(forged)[..., 0]).astype(float)
    rings = [strength[(depth > low) & (depth <= low + 2)].mean() for low in range(0, int(depth.max()) - 2, 2)]
    assert len(rings) >= 4
    assert (np.diff(rings) > -0.5).all()
    assert rings[-1] > 3 * rings[0]


def test_a_ring_is_stronger_than_what_it_surrounds() -> None:
    """A coffee ring: with it, the middle is weaker than a band near the outline; without it, it is not."""
    ratio = {}
    for ring in (0.0, 0.6):
        ratios = []
        for seed in range(6):
            forged = stained(seed, ring=ring, size=60.0)
            depth = cv2.distanceTransform(forged.mask.astype(np.uint8), cv2.DIST_L2, 5)
            strength = np.abs(change(forged)[..., 0]).astype(float)
            band = (depth > 2.5) & (depth < 6)
            ratios.append(strength[depth > 0.7 * depth.max()].mean() / strength[band].mean())
        ratio[ring] = float(np.mean(ratios))
    assert ratio[0.0] == pytest.approx(1, abs=0.05)
    assert ratio[0.6] < 0.75


def test_clouds_make_a_stain_uneven() -> None:
    spread = {}
    for clouds in (0.0, 0.6):
        made = [stained(seed, clouds=clouds, size=60.0) for seed in range(5)]
        inner = [cv2.erode(f.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0 for f in made]
        spread[clouds] = np.mean([np.abs(change(f)[i]).std() for f, i in zip(made, inner, strict=True)])
    assert spread[0.6] > spread[0.0] + 3


def test_a_tint_colours_colour_pictures_alone() -> None:
    for seed in range(5):
        coloured, grey = stained(seed, channels=3, tint=0.4), stained(seed, channels=1, tint=0.4)
        tint = np.asarray(coloured.drawn["tint"])
        assert ((tint >= 0.6) & (tint <= 1.0)).all()
        assert grey.drawn["tint"] == [1.0]
        inner = cv2.erode(coloured.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        per_channel = np.abs(change(coloured)[inner]).mean(axis=0)
        np.testing.assert_allclose(per_channel / per_channel.max(), tint / tint.max(), atol=0.04)


def test_a_stain_lets_the_texture_show_through() -> None:
    """It adds to the surface: the change does not depend on what lies below, where nothing is clipped."""
    rng = np.random.default_rng(0)
    grain = rng.integers(100, 150, (120, 120, 1), dtype=np.uint8)
    plain = Stain(size=40.0, contrast=0.2, tone="darker", clouds=0.0, ring=0.0)
    one, two = (plain(Sample(image), np.random.default_rng(3)) for image in (grain, flat()))
    both = one.mask & two.mask & (np.abs(change(two)[..., 0]) > 3)  # a filled pinhole moves by the least change
    apart = (one.image.astype(int) - grain)[both] - change(two)[both]
    assert np.abs(apart).max() <= 1


# ---- dent


def dented(seed: int, **fields: Any) -> Forged:
    plain: dict[str, Any] = {"size": 40.0, "contrast": 0.3, "sharpness": 0.0, "raised": 0.0, "light": 0.0}
    return Dent(**(plain | fields))(Sample(flat()), np.random.default_rng(seed))


@pytest.mark.parametrize("light", [0.0, 45.0, 90.0, 200.0])
def test_a_dent_is_lit_on_one_flank_and_dark_on_the_other(light: float) -> None:
    """Lambert for small slopes: the first moment of the change lies along the light, and opposite flanks cancel."""
    along = np.array([-np.sin(np.deg2rad(light)), np.cos(np.deg2rad(light))])  # y points down, light 90 comes from the top
    moments = []
    for seed in range(8):
        forged = dented(seed, light=light)
        shade = change(forged)[..., 0].astype(float)
        y, x = np.mgrid[0:120, 0:120]
        centre = forged.drawn["centre"]
        moment = np.array([(shade * (y - centre[0])).sum(), (shade * (x - centre[1])).sum()])
        moments.append(float(moment @ along) / float(np.linalg.norm(moment)))
    assert np.mean(np.abs(moments)) > 0.85
    assert np.ptp(np.sign(moments)) == 0


def test_a_bump_is_a_dent_lit_from_the_other_side() -> None:
    for seed in range(5):
        hollow, bump = dented(seed), dented(seed, raised=1.0)
        both = hollow.mask & bump.mask
        strong = both & (np.abs(change(hollow)[..., 0]) > 8)
        assert (np.sign(change(hollow)[strong]) == -np.sign(change(bump)[strong])).all()


def test_the_mask_of_a_dent_has_no_hole_between_its_flanks() -> None:
    for seed in range(6):
        mask = dented(seed, sharpness=0.8).mask.astype(np.uint8)
        outside = cv2.floodFill(np.pad(mask, 1), np.zeros((124, 124), np.uint8), (0, 0), 2)[1] == 2
        holes = (~outside[1:-1, 1:-1]) & (mask == 0)
        assert holes.sum() <= 0.02 * mask.sum()


def test_a_sharp_dent_has_a_flat_floor() -> None:
    """Shading in the inner half of the dent: a soft hollow slopes there, a sharp one has its slope in the wall alone."""
    shading = {}
    for sharpness in (0.0, 0.8):
        floors = []
        for seed in range(8):
            forged = dented(seed, sharpness=sharpness)
            depth = cv2.distanceTransform(forged.mask.astype(np.uint8), cv2.DIST_L2, 5)
            floors.append(np.abs(change(forged))[depth > 0.55 * depth.max()].mean())
        shading[sharpness] = np.mean(floors)
    assert shading[0.8] < 0.6 * shading[0.0]


def test_light_from_anywhere_is_drawn_and_recorded() -> None:
    drawn = [dented(s, light=None).drawn["light"] for s in range(12)]
    assert all(0 <= each <= 360 for each in drawn)
    assert np.ptp(drawn) > 120
    assert dented(0, light=-30.0).drawn["light"] == pytest.approx(-30.0)


# ---- blob


def lying(seed: int, image: Any = None, **fields: Any) -> Forged:
    plain: dict[str, Any] = {"size": 16.0, "contrast": 0.3, "sharpness": 1.0, "count": 1, "shadow": 0.0}
    return Blob(**(plain | fields))(Sample(flat() if image is None else image), np.random.default_rng(seed))


def test_a_particle_hides_what_lies_beneath() -> None:
    """On grain, the middle of the particle has far less grain than the surface."""
    grain = np.random.default_rng(1).normal(128, 25, (120, 120, 1)).clip(0, 255).astype(np.uint8)
    for seed in range(5):
        forged = lying(seed, grain, size=24.0)
        inner = cv2.erode(forged.mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        assert inner.sum() > 50
        assert forged.image[inner].std() < 0.5 * grain[inner].std()


def test_more_particles_are_allowed_up_to_the_count() -> None:
    for most in (1, 4):
        counts = {lying(seed, count=most).drawn["count"] for seed in range(40)}
        assert counts == set(range(1, most + 1))


def test_a_shadow_is_a_darker_margin_to_one_side() -> None:
    bare, shaded = 0, 0
    for seed in range(8):
        one, two = (lying(seed, tone="lighter", shadow=s, size=20.0) for s in (0.0, 0.5))
        bare += int((one.image[..., 0] < 126).sum())
        shaded += int((two.image[..., 0] < 126).sum())
    assert bare == 0
    assert shaded > 100


@given(st.floats(0.5, 8.0), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_cast_shadow_is_the_shape_moved_by_its_height(far: float, seed: int) -> None:
    y, x = np.mgrid[0:61, 0:61].astype(np.float32)
    depth = (8.0 - np.hypot(y - 30, x - 30)).astype(np.float32)  # a disc of radius 8
    cover = spots._cast(depth, far, np.random.default_rng(seed))[..., 0]
    assert ((cover >= 0) & (cover <= 1)).all()
    weight = cover / cover.sum()
    away = np.hypot(float((weight * (y - 30)).sum()), float((weight * (x - 30)).sum()))
    assert away == pytest.approx(far, abs=0.25)


def test_an_unsharp_particle_has_a_soft_edge() -> None:
    """Share of pixels of middling strength: none of a hard disc but its rim, most of a soft one."""
    middling = {}
    for sharpness in (0.0, 1.0):
        shares = []
        for seed in range(6):
            forged = lying(seed, sharpness=sharpness, size=30.0)
            strength = np.abs(change(forged)[forged.mask]) / (0.3 * 255)
            shares.append(((strength > 0.15) & (strength < 0.7)).mean())
        middling[sharpness] = np.mean(shares)
    assert middling[0.0] > 2 * middling[1.0]


@pytest.mark.parametrize(
    ("forger", "fields", "words"),
    [
        (Stain, {"clouds": 2.0}, "clouds is 2.0"),
        (Stain, {"ring": -0.1}, "ring is -0.1"),
        (Stain, {"tint": (0.1, 0.2)}, "tint"),
        (Dent, {"light": 400.0}, "light is 400.0"),
        (Dent, {"raised": 1.1}, "raised is 1.1"),
        (Blob, {"count": 51}, "count is 51"),
        (Blob, {"shadow": "dark"}, "shadow is 'dark'"),
    ],
)
def test_a_setting_out_of_bounds_is_named(forger: type, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        forger(**fields)
    assert str(error.value).startswith(forger.name)  # type: ignore[attr-defined]
