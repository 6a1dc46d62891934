"""The scene behind the demo's washers: its geometry, its lamps and its camera, against formulas and laws of light."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flawforge.demo import scene as scenes
from flawforge.demo import washers
from flawforge.demo.scene import INNER, OUTER, SOUND, Damage, Scene, develop, distances, make_scene, shade, step, tone
from flawforge.types import ConfigError

SIZE = 96


@pytest.fixture(scope="module")
def part() -> Scene:
    return make_scene(3, 1, SIZE)


@pytest.fixture(scope="module")
def sound(part: Scene) -> NDArray[np.float32]:
    return shade(part, SOUND)


def face(scene: Scene, margin: float = 0.03) -> NDArray[np.bool_]:
    """Pixels well inside both edges."""
    to_rim, to_bore = distances(scene)
    return np.asarray((to_rim > margin) & (to_bore > margin))


# ---- geometry


@pytest.mark.parametrize("size", [32, 33, 64])
def test_the_grid_is_centred_even_and_cannot_be_written(size: int) -> None:
    x, y = scenes._grid(size)
    assert x.shape == y.shape == (size, size)
    np.testing.assert_allclose(x, -x[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(np.diff(x, axis=1), 1 / size, atol=1e-6)
    np.testing.assert_array_equal(y, x.T)
    with pytest.raises(ValueError, match="read-only"):
        x[0, 0] = 1.0


@given(st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=10, deadline=None)
def test_polar_coordinates_are_those_of_a_part_near_the_middle(index: int, seed: int) -> None:
    part = make_scene(index, seed, 32)
    x, y = scenes._grid(32)
    np.testing.assert_allclose(part.cos**2 + part.sin**2, 1, atol=1e-4)
    dx, dy = x - part.radius * part.cos, y - part.radius * part.sin  # where the axis stands, the same for every pixel
    assert np.ptp(dx) < 1e-5
    assert np.ptp(dy) < 1e-5
    assert abs(float(dx.mean())) <= 0.007 + 1e-6
    assert abs(float(dy.mean())) <= 0.007 + 1e-6
    assert 0.99 <= part.scale <= 1.01
    assert part.angle.min() >= 0
    assert part.angle.max() <= 2 * np.pi + 1e-6


def test_the_angle_is_the_direction_turned_by_one_amount(part: Scene) -> None:
    direction = np.arctan2(part.sin, part.cos)
    turn = np.exp(1j * (part.angle - direction))
    np.testing.assert_allclose(turn, turn[0, 0], atol=1e-2)  # OpenCV's angles are right to a hundredth of a degree or so


def test_the_two_distances_add_up_to_the_width_of_the_face(part: Scene) -> None:
    to_rim, to_bore = distances(part)
    np.testing.assert_allclose(to_rim + to_bore, (OUTER - INNER) * part.scale, atol=1e-6)
    share = ((to_rim > 0) & (to_bore > 0)).mean()
    assert share == pytest.approx(np.pi * (OUTER**2 - INNER**2) * part.scale**2, rel=0.03)


@given(st.floats(-2, 2), st.floats(0.01, 1.0))
def test_a_step_is_smooth_symmetric_and_settled_at_its_ends(value: float, soft: float) -> None:
    here, there = (float(step(np.float32(sign * value), soft)) for sign in (1, -1))
    assert 0 <= here <= 1
    assert here + there == pytest.approx(1, abs=1e-5)
    if abs(value) >= soft * 1.001:
        assert here == float(value > 0)
    assert float(step(np.float32(value + 0.01), soft)) >= here - 1e-6


def test_a_step_by_its_polynomial() -> None:
    values = np.array([-1, -0.5, 0, 0.25, 0.5, 1], np.float32)
    t = (values + 1) / 2
    np.testing.assert_allclose(step(values, 1.0), 3 * t**2 - 2 * t**3, atol=1e-6)


@pytest.mark.parametrize(
    ("index", "seed", "size", "words"),
    [(0, 0, 31, "size between 32 and 4096"), (0, 0, 4097, "size between"), (-1, 0, 64, "0 or more"), (0, -2, 64, "seed -2")],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(index: int, seed: int, size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        make_scene(index, seed, size)
    assert str(error.value).endswith(".")


# ---- surface and light


def test_marks_and_grain_are_standardised_noise(part: Scene) -> None:
    assert abs(float(part.grain.mean())) < 0.03
    assert float(part.grain.std()) == pytest.approx(1, abs=0.03)
    spread = []
    for size in (64, 192):
        marks = np.concatenate([one.marks[face(one)] for one in (make_scene(i, 0, size) for i in range(5))])
        assert abs(float(marks.mean())) < 0.35
        spread.append(float(marks.std()))
    assert 0.7 < spread[1] < 1.5
    assert spread[0] < spread[1]  # marks finer than a pixel are averaged away


def test_the_mat_is_dark_everywhere_and_never_black() -> None:
    for seed in range(4):
        mat = scenes._mat(64, np.random.default_rng(seed))
        assert mat.shape == (64, 64)
        assert mat.min() >= 0.004
        assert 0.02 < mat.mean() < 0.04


def test_lathe_marks_run_round_the_axis() -> None:
    """Along a ring the marks change little, across the rings much: that is what makes turned metal look turned."""
    across, along = [], []
    for index in range(4):
        part = make_scene(index, 5, 128)
        gy, gx = np.gradient(part.marks)
        inside = face(part)
        across.append(np.abs(gx * part.cos + gy * part.sin)[inside].mean())
        along.append(np.abs(gy * part.cos - gx * part.sin)[inside].mean())
    assert np.mean(along) < 0.75 * np.mean(across)


def test_there_are_three_lamps_of_falling_power_that_never_wander_far() -> None:
    lamps = np.array([make_scene(i, 0, 32).lamps for i in range(12)])
    assert lamps.shape == (12, 3, 4)
    power = lamps[..., 2]
    assert (power[:, 0] > power[:, 1]).all()
    assert (power[:, 1] > power[:, 2]).all()
    assert (np.abs(power / power.mean(axis=0) - 1) < 0.2).all()
    np.testing.assert_allclose(np.hypot(lamps[..., 0], lamps[..., 1]), np.broadcast_to([0.5, 0.42, 0.7], (12, 3)), atol=1e-9)


def test_light_and_power_scale_the_picture(part: Scene, sound: NDArray[np.float32]) -> None:
    """Light is linear up to the lens: half the lamps' light is half the picture."""
    dim = shade(replace(part, light=part.light / 2), SOUND)
    np.testing.assert_allclose(dim, sound / 2, rtol=1e-4, atol=1e-6)


def test_the_part_is_brighter_than_the_mat_and_its_shadow_darkens_the_mat(part: Scene, sound: NDArray[np.float32]) -> None:
    mat = part.radius > OUTER * part.scale + 0.05
    assert sound[face(part)].mean() > 4 * sound[mat].mean()
    without = scenes.shade(replace(part, radius=part.radius + np.float32(9.0)), SOUND)  # the part is moved away
    assert sound[mat].mean() < without[mat].mean()


@pytest.mark.parametrize(
    "damage",
    [
        lambda one: Damage(),
        lambda one: Damage(slope=(0 * one, 0 * one)),
        lambda one: Damage(worn=0 * one),
        lambda one: Damage(gloss=one),
        lambda one: Damage(tint=np.repeat(one[..., None], 3, axis=2)),
        lambda one: Damage(bite=0 * one, rough=one),
        lambda one: Damage(bite=0 * one, rough=one, inside=True),
    ],
    ids=["none", "slope", "worn", "gloss", "tint", "rim", "bore"],
)
def test_damage_of_no_amount_is_no_damage(damage: object, part: Scene, sound: NDArray[np.float32]) -> None:
    made = damage(np.ones((SIZE, SIZE), np.float32))  # type: ignore[operator]
    np.testing.assert_allclose(shade(part, made), sound, atol=1e-6)


def test_worn_metal_has_lost_its_marks(part: Scene, sound: NDArray[np.float32]) -> None:
    polished = shade(part, Damage(worn=np.ones((SIZE, SIZE), np.float32)))
    inside = face(part)
    rough, smooth = (np.abs(cv2.Laplacian(each[..., 1], cv2.CV_32F))[inside].mean() for each in (sound, polished))
    assert smooth < 0.5 * rough


def test_dull_metal_shows_no_highlight(part: Scene, sound: NDArray[np.float32]) -> None:
    dull = shade(part, Damage(gloss=np.zeros((SIZE, SIZE), np.float32)))
    inside = face(part)
    assert dull[inside].max() < 0.5 * sound[inside].max()
    assert (dull[inside] <= sound[inside] + 1e-5).all()


def test_a_tint_colours_the_metal_and_leaves_the_mat(part: Scene, sound: NDArray[np.float32]) -> None:
    tint = np.ones((SIZE, SIZE, 3), np.float32)
    tint[..., 2] = 0.5
    red = shade(part, Damage(tint=tint))
    inside, outside = face(part, 0.04), part.radius > OUTER * part.scale + 0.06
    np.testing.assert_allclose(red[inside][:, 2], 0.5 * sound[inside][:, 2], rtol=1e-3)
    np.testing.assert_allclose(red[inside][:, :2], sound[inside][:, :2], rtol=1e-4)
    np.testing.assert_allclose(red[outside], sound[outside], atol=1e-4)


@pytest.mark.parametrize("inside", [False, True])
def test_a_bite_takes_a_ring_of_metal_away(inside: bool, part: Scene, sound: NDArray[np.float32]) -> None:
    wide = np.float32(0.03)
    bitten = shade(part, Damage(bite=np.full((SIZE, SIZE), wide), inside=inside, rough=np.zeros((SIZE, SIZE), np.float32)))
    to_rim, to_bore = distances(part)
    gap = (to_bore if inside else to_rim) - wide / 2
    gone, kept = np.abs(gap) < 0.004, face(part, 0.08)
    assert bitten[gone].mean() < 0.5 * sound[gone].mean()
    np.testing.assert_allclose(bitten[kept], sound[kept], rtol=0.02, atol=2e-3)


# ---- camera


def test_the_cameras_response_rises_and_stays_in_range() -> None:
    light = np.linspace(0, 3, 200, dtype=np.float32)
    value = tone(light)
    assert value[0] == 0
    assert (np.diff(value) >= 0).all()
    assert (np.diff(value)[value[1:] < 1] > 0).all()
    assert value.max() == 1
    assert float(tone(np.float32(1.0))) == pytest.approx(np.sqrt(1.16 / 1.75), rel=1e-6)
    assert float(tone(np.float32(-1.0))) == 0


def test_noise_grows_with_the_light() -> None:
    part = make_scene(0, 0, 64)
    spread = []
    for level in (0.02, 0.2, 1.0):
        light = np.full((64, 64, 3), level, np.float32)
        picture = develop(light, part)
        assert picture.dtype == np.uint8
        noise = light + part.grain * np.sqrt(2e-6 + 1.1e-4 * light) - light
        spread.append(float(noise.std()))
        assert abs(float(picture.mean()) - 255 * float(tone(np.float32(level)))) < 1.0
    assert spread == sorted(spread)


def test_a_part_looks_the_same_at_twice_the_resolution() -> None:
    """Lengths are shares of the picture: only noise, and what is finer than a pixel, may differ."""
    for index in range(3):
        small, large = (shade(make_scene(index, 2, size), SOUND) for size in (64, 128))
        shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
        soft = [cv2.GaussianBlur(each, (0, 0), 2.0) for each in (small, shrunk)]
        assert np.abs(soft[0] - soft[1]).mean() < 0.12 * soft[0].mean()


# ---- the damage that is drawn


def test_the_slope_of_a_plane_is_its_two_coefficients() -> None:
    x, y = scenes._grid(40)
    gx, gy = washers._slope((0.3 * x - 0.7 * y).astype(np.float32))
    np.testing.assert_allclose(gx, 0.3, atol=1e-4)
    np.testing.assert_allclose(gy, -0.7, atol=1e-4)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.03, 0.08]))
@settings(max_examples=40, deadline=None)
def test_a_spot_lies_on_the_face(seed: int, margin: float) -> None:
    part = make_scene(0, 0, 32)
    x, y, angle = washers._spot(part, np.random.default_rng(seed), margin)
    radius = np.hypot(x, y) / part.scale
    assert INNER + margin - 1e-9 <= radius <= OUTER - margin + 1e-9
    assert np.arctan2(y, x) % (2 * np.pi) == pytest.approx(angle, abs=1e-9)


def test_on_is_one_on_the_face_and_nothing_on_the_mat(part: Scene) -> None:
    on = washers._on(part)
    to_rim, to_bore = distances(part)
    edge = np.minimum(to_rim, to_bore)
    assert (on[edge > 1 / SIZE] == 1).all()
    assert (on[edge < -1 / SIZE] == 0).all()
    assert ((on >= 0) & (on <= 1)).all()


@pytest.mark.parametrize("kind", washers.KINDS)
def test_damage_is_in_range_and_on_the_part(kind: str, part: Scene) -> None:
    for seed in range(8):
        damage, amount = washers._DAMAGES[kind](part, np.random.default_rng(seed))
        assert amount.shape == (SIZE, SIZE)
        assert ((amount >= 0) & (amount <= 1)).all()
        assert amount.max() > 0.3
        assert (amount[np.minimum(*distances(part)) < -1 / SIZE] == 0).all()
        for values, low, high in ((damage.worn, 0, 1), (damage.gloss, 0.2, 1), (damage.tint, 0.1, 1)):
            if values is not None:
                assert low <= values.min() <= values.max() <= high
        if damage.slope is not None:
            far = amount == 0
            assert all(np.abs(each[far]).max() < np.abs(each).max() for each in damage.slope)


def test_a_chip_is_one_bite_of_the_edge_no_deeper_than_it_may_be(part: Scene) -> None:
    sides = set()
    for seed in range(12):
        damage, _ = washers._DAMAGES["chip"](part, np.random.default_rng(seed))
        assert damage.bite is not None
        assert damage.rough is not None
        assert damage.bite.min() >= 0
        assert damage.bite.max() < 0.09
        angles = np.sort(part.angle[damage.bite > 0])
        gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
        assert gaps.max() > np.pi  # all of it within half a turn
        sides.add(damage.inside)
    assert sides == {False, True}


@pytest.mark.parametrize("kind", ["scratch", "dent", "stain"])
def test_a_mark_on_the_face_stays_on_it(kind: str) -> None:
    for index in range(6):
        part = make_scene(index, 0, SIZE)
        _, mask = washers.render_defect(kind, index, 0, SIZE)
        radius = part.radius[mask] / part.scale
        assert radius.min() > INNER - 0.04
        assert radius.max() < OUTER + 0.04


@pytest.mark.parametrize("kind", washers.KINDS)
def test_a_mask_covers_the_same_share_at_another_size(kind: str) -> None:
    shares = [[washers.render_defect(kind, i, 4, size)[1].mean() for i in range(5)] for size in (128, 192)]
    assert np.mean(shares[0]) == pytest.approx(np.mean(shares[1]), rel=0.35)


@pytest.mark.parametrize("kind", washers.KINDS)
def test_a_mask_is_closed(kind: str) -> None:
    """Closing is idempotent: a closed mask closed again is itself, away from the picture's border."""
    mask = washers.render_defect(kind, 2, 9, SIZE)[1]
    again = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
    np.testing.assert_array_equal(again, mask)


def test_another_kind_of_defect_is_on_the_same_part() -> None:
    """All kinds of one index share the good part to the bit wherever none of their masks lies."""
    made = [washers.render_defect(kind, 7, 3, SIZE) for kind in washers.KINDS]
    untouched = ~np.logical_or.reduce([mask for _, mask in made])
    assert untouched.mean() > 0.8
    for picture, _ in made[1:]:
        np.testing.assert_array_equal(picture[untouched], made[0][0][untouched])
