"""The law's own machinery, on arrays small enough to see."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flawforge.forge import blend
from flawforge.types import ConfigError, ImageError, Sample


def test_changed_counts_the_strongest_channel_in_shares_of_the_range() -> None:
    before = np.full((1, 4, 3), 100, np.uint8)
    after = before.copy()
    after[0, 1, 2], after[0, 2, 0], after[0, 3, 1] = 101, 98, 110
    np.testing.assert_array_equal(blend.changed(before, after, 2 / 255), [[False, False, True, True]])
    np.testing.assert_array_equal(blend.changed(before, after, 1 / 255), [[False, True, True, True]])


def test_changed_in_float_includes_the_bound_itself() -> None:
    before = np.zeros((1, 3, 1), np.float32)
    after = np.array([[[0.1], [0.0999], [0.2]]], np.float32)
    np.testing.assert_array_equal(blend.changed(before, after, 0.1), [[True, False, True]])


def block(size: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = np.full((40, 40, 3), 60, np.uint8)
    candidate, allowed = image.copy(), np.zeros((40, 40), bool)
    candidate[10 : 10 + size, 20 : 20 + size] = 90
    allowed[10 : 10 + size, 20 : 20 + size] = True
    return image, candidate, allowed


def test_compose_takes_only_what_is_allowed_and_changed() -> None:
    image, candidate, allowed = block()
    candidate[0, 0] = 255  # changed, not allowed
    made = blend.compose(image, candidate, allowed, 2 / 255)
    assert made is not None
    np.testing.assert_array_equal(made[1], allowed)
    assert (made[0][allowed] == 90).all()
    assert (made[0][~allowed] == 60).all()
    assert (image == 60).all()


def test_compose_fills_pinholes_and_drops_specks() -> None:
    image, candidate, allowed = block()
    allowed[30, 5] = True
    candidate[30, 5] = 200  # a speck
    candidate[13, 24] = 61  # a pinhole: below the least change
    made = blend.compose(image, candidate, allowed, 2 / 255)
    assert made is not None
    out, mask = made
    assert not mask[30, 5]
    assert (out[30, 5] == 60).all()
    assert mask[13, 24]
    assert (out[13, 24] == 62).all()


def test_compose_keeps_corners() -> None:
    image, candidate, allowed = block()
    made = blend.compose(image, candidate, allowed, 2 / 255)
    assert made is not None
    assert made[1][10, 20]


def test_compose_refuses_too_little() -> None:
    image, candidate, allowed = block(2)
    assert blend.compose(image, candidate, allowed, 2 / 255) is None
    image, candidate, allowed = block(8)
    allowed[:] = True
    assert blend.compose(image, candidate, allowed, 2 / 255, share=0.5) is None
    assert blend.compose(image, candidate, np.zeros_like(allowed), 2 / 255) is None


@pytest.mark.parametrize("tone", [0, 127, 128, 255])
def test_settle_falls_back_to_a_tone_patch_when_nothing_changes(tone: int) -> None:
    image = np.full((64, 48, 1), tone, np.uint8)
    calls = []

    def attempt() -> blend.Attempt:
        calls.append(1)
        return image, np.ones((64, 48), bool), {"tried": True}

    forged = blend.settle(Sample(image), np.random.default_rng(0), "cutpaste", 2 / 255, attempt)
    assert len(calls) == blend.DRAWS
    assert forged.drawn["fallback"] == "tone_patch"
    assert forged.mask.sum() == 16  # a box of at least 4 x 4
    assert np.abs(forged.image[forged.mask].astype(int) - tone).min() >= 60


def test_settle_stops_at_the_first_that_changes() -> None:
    image, candidate, allowed = block()
    tries = iter([image, image, candidate])
    forged = blend.settle(
        Sample(image), np.random.default_rng(0), "cutpaste", 2 / 255, lambda: (next(tries), allowed, {"a": 1})
    )
    assert forged.drawn == {"a": 1, "redraws": 2}


def test_soften_keeps_the_mean_and_flattens_either_way() -> None:
    picture = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    for sigma in (2.0, 9.0):
        soft = blend.soften(picture, sigma)
        assert soft.shape == picture.shape
        assert soft.std() < 5
        assert soft.mean() == pytest.approx(127.5, abs=2)


def test_as_dtype_converts_range_and_channels() -> None:
    grey = np.array([[[0], [255]]], np.uint8)
    np.testing.assert_array_equal(
        blend.as_dtype(grey, np.zeros((1, 1, 3), np.float32)), [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    )
    colour = np.array([[[1.0, 1.0, 1.0]]], np.float32)
    np.testing.assert_array_equal(blend.as_dtype(colour, np.zeros((1, 1, 1), np.uint8)), [[[255]]])


@pytest.mark.parametrize("value", [5, (1, 2, 3), (2, 1), "x", None, float("nan"), True])
def test_check_range_refuses(value: object) -> None:
    with pytest.raises(ConfigError, match=r"f: g is .* between 0 and 4 px"):
        blend.check_range("f", "g", value, 0.0, 4.0, "px")


def test_check_range_takes_the_form_it_is_told() -> None:
    blend.check_range("f", "g", (1, 2), 0.0, 4.0)
    with pytest.raises(ConfigError, match="must be a number between"):
        blend.check_range("f", "g", (1, 2), 0.0, 4.0, form="number")
    with pytest.raises(ConfigError, match="must be an ascending"):
        blend.check_range("f", "g", 1, 0.0, 4.0, form="pair")


# ---- laws

PICTURES = st.tuples(st.integers(0, 10_000), st.sampled_from([1, 3]), st.sampled_from([np.uint8, np.float32]))


def drawn(seed: int, channels: int, dtype: Any, side: int = 40) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, channels), dtype=np.uint8)
    return pixels if dtype == np.uint8 else (pixels / 255).astype(np.float32)


@given(PICTURES, st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_changed_is_a_comparison_of_every_channel(picture: tuple[int, int, Any], other: int, level: int) -> None:
    before, after = drawn(*picture), drawn(other, *picture[1:])
    least = level / 255
    apart = np.abs(before.astype(np.float64) - after.astype(np.float64))
    bound = level if picture[2] == np.uint8 else np.float32(least)
    np.testing.assert_array_equal(blend.changed(before, after, least), (apart.astype(before.dtype) >= bound).any(axis=2))


@given(PICTURES, st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_what_compose_gives_keeps_the_law(picture: tuple[int, int, Any], other: int) -> None:
    """Outside its mask the good picture to the bit, inside every pixel changed; the mask never leaves what is allowed."""
    image, candidate = drawn(*picture), drawn(other, *picture[1:])
    allowed = ndimage.binary_opening(np.random.default_rng(other).random(image.shape[:2]) > 0.3, np.ones((2, 2)))
    before = image.copy()
    made = blend.compose(image, candidate, allowed, 2 / 255)
    np.testing.assert_array_equal(image, before)
    if made is None:
        return
    out, mask = made
    assert mask.sum() >= blend.LEAST_PIXELS
    assert not (mask & ~allowed).any()
    np.testing.assert_array_equal(out[~mask], image[~mask])
    assert blend.changed(image, out, 2 / 255)[mask].all()


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_mixing_is_linear_in_the_opacity(seed: int, opacity: float) -> None:
    under, over = drawn(seed, 3, np.float32), drawn(seed + 1, 3, np.float32)
    mixed = blend.mix_over(under, over, opacity)
    np.testing.assert_allclose(mixed, (1 - opacity) * under + opacity * over, atol=1e-5)
    np.testing.assert_array_equal(blend.mix_over(under, over, 0.0), under)
    np.testing.assert_allclose(blend.mix_over(under, under, opacity), under, atol=1e-5)


@given(PICTURES)
@settings(max_examples=30, deadline=None)
def test_there_and_back_between_eight_bits_and_float(picture: tuple[int, int, Any]) -> None:
    image = drawn(*picture)
    unit = blend.to_unit(image)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(blend.from_unit(unit, image), image, atol=1e-6)
    np.testing.assert_array_equal(blend.as_uint8(unit), blend.as_uint8(image))
    assert blend.full_range(image) == (255.0 if image.dtype == np.uint8 else 1.0)


def test_values_beyond_the_range_are_clipped_on_the_way_back() -> None:
    like = np.zeros((1, 3, 1), np.uint8)
    np.testing.assert_array_equal(blend.from_unit(np.array([[-0.5, 0.5, 1.5]], np.float32), like)[0, :, 0], [0, 128, 255])
    over = blend.from_unit(np.array([[-0.5, 0.5, 1.5]], np.float32), like.astype(np.float32))
    np.testing.assert_array_equal(over[0, :, 0], [0, 0.5, 1])


@given(st.integers(0, 10_000), st.floats(0.5, 6))
@settings(max_examples=25, deadline=None)
def test_softening_never_leaves_the_range_of_the_picture(seed: int, sigma: float) -> None:
    image = drawn(seed, 3, np.uint8, 48)
    soft = blend.soften(image, sigma)
    assert image.min() <= soft.min() <= soft.max() <= image.max()
    flat = np.full_like(image, 93)
    np.testing.assert_array_equal(blend.soften(flat, sigma), flat)


def test_softening_is_scipys_gaussian_where_it_is_not_done_on_a_smaller_picture() -> None:
    image = drawn(3, 1, np.float32, 64)
    expected = ndimage.gaussian_filter(image[..., 0].astype(np.float64), 2.0, mode="mirror", truncate=6.0)
    np.testing.assert_allclose(blend.soften(image, 2.0)[..., 0], expected, atol=2e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_bounding_box_holds_all_and_no_smaller_box_does(seed: int) -> None:
    mask = np.random.default_rng(seed).random((20, 30)) > 0.98
    rows, columns = blend.bounding_box(mask)
    if not mask.any():
        assert mask[rows, columns].size == 0
        return
    assert mask[rows, columns].sum() == mask.sum()
    inside = mask[rows, columns]
    assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


@given(PICTURES)
@settings(max_examples=30, deadline=None)
def test_the_fallback_moves_every_pixel_of_its_box_a_quarter_of_the_range(picture: tuple[int, int, Any]) -> None:
    image = drawn(*picture)
    candidate, mask, where = blend.tone_patch(image, np.random.default_rng(picture[0]))
    y, x, h, w = where["box"]
    assert mask.sum() == h * w
    assert mask[y : y + h, x : x + w].all()
    apart = np.abs(candidate.astype(np.float64) - image) / blend.full_range(image)
    np.testing.assert_allclose(apart[mask], 0.25, atol=0.004)
    assert not apart[~mask].any()
    assert 0 <= candidate.min() <= candidate.max() <= blend.full_range(image)


def test_grey_is_told_from_colour() -> None:
    grey = drawn(1, 1, np.uint8)
    assert blend.is_grey(grey)
    assert blend.is_grey(np.repeat(grey, 3, axis=2))
    assert not blend.is_grey(drawn(1, 3, np.uint8))
    tinted = np.repeat(grey, 3, axis=2)
    tinted[4, 8, 1] ^= 1
    assert not blend.is_grey(tinted)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (Sample(np.zeros((40, 40, 2), np.uint8)), r"shape \(40, 40, 2\) .*convert"),
        (Sample(np.zeros((40, 20, 3), np.uint8)), "at least 32 x 32"),
        (Sample(np.zeros((40, 40, 3), np.int32)), "int32"),
        (Sample(np.zeros((40, 40, 3), np.uint8), prior=np.zeros((40, 41), np.float32)), "prior .* resize it first"),
        (Sample(np.zeros((40, 40, 3), np.uint8), other=np.zeros((39, 40, 3), np.uint8)), "other .* resize it first"),
    ],
)
def test_a_sample_that_no_forger_takes_is_refused(sample: Sample, words: str) -> None:
    with pytest.raises(ImageError, match=words) as error:
        blend.check_sample(sample)
    assert "\n" not in str(error.value)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_a_number_is_drawn_as_itself_and_a_pair_within_itself(a: float, b: float, seed: int) -> None:
    low, high = sorted((a, b))
    assert blend.draw(np.random.default_rng(seed), a) == a
    assert low <= blend.draw(np.random.default_rng(seed), (low, high)) <= high


def test_a_choice_is_of_its_own_type() -> None:
    blend.check_choice("f", "g", 2, (1, 2))
    blend.check_choice("f", "g", None, (None, "a"))
    for value in (True, 2.0, "2", 3):
        with pytest.raises(ConfigError, match="must be one of 1, 2"):
            blend.check_choice("f", "g", value, (1, 2))


def test_colour_to_grey_is_opencvs() -> None:
    colour = drawn(2, 3, np.uint8)
    like = np.zeros((1, 1, 1), np.uint8)
    np.testing.assert_array_equal(blend.as_dtype(colour, like)[..., 0], cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    flat = blend.as_dtype(colour[..., 0], np.zeros((1, 1, 3), np.uint8))
    np.testing.assert_array_equal(flat, np.repeat(colour[..., :1], 3, axis=2))
