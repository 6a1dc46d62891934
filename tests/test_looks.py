"""The plain statistics of a picture that a drift check and older models hold good pictures by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge_runtime.looks import HELD, LOOKS, looks_of, outside


def part(y: int = 96, x: int = 128, tone: int = 200, ground: int = 40, size: tuple[int, int] = (192, 256)) -> Any:
    """A bright square of 32 px about (y, x) on an even ground."""
    image = np.full((*size, 3), ground, np.uint8)
    image[y - 16 : y + 16, x - 16 : x + 16] = tone
    return image


def test_every_statistic_has_its_explanation() -> None:
    assert set(looks_of(part())) == set(LOOKS)
    assert set(HELD) <= set(LOOKS)


@given(st.integers(0, 255), st.integers(32, 400), st.integers(32, 400))
@settings(max_examples=30, deadline=None)
def test_a_flat_picture_has_its_tone_no_sharpness_and_its_own_centre(tone: int, h: int, w: int) -> None:
    looks = looks_of(np.full((h, w, 3), tone, np.uint8))
    assert looks["brightness"] == pytest.approx(tone, abs=1e-3)
    assert looks["sharpness"] == pytest.approx(0, abs=1e-3)
    assert looks["horizontal position"] == pytest.approx(50, abs=0.1)
    assert looks["vertical position"] == pytest.approx(50, abs=0.1)


def test_brightness_is_the_mean_of_all_channels() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 30, 60, 90
    assert looks_of(image)["brightness"] == pytest.approx(60)
    assert looks_of(part())["brightness"] == pytest.approx(part().mean(), abs=0.05)


@given(st.integers(20, 170), st.integers(20, 230))
@settings(max_examples=30, deadline=None)
def test_the_position_is_the_centre_of_what_differs_from_the_frame(y: int, x: int) -> None:
    looks = looks_of(part(y, x))
    assert looks["horizontal position"] == pytest.approx(100 * x / 256, abs=0.5)
    assert looks["vertical position"] == pytest.approx(100 * y / 192, abs=0.5)


@given(st.integers(41, 255))
@settings(max_examples=20, deadline=None)
def test_the_position_does_not_depend_on_the_parts_tone(tone: int) -> None:
    looks, plain = looks_of(part(60, 180, tone)), looks_of(part(60, 180, 255))
    if tone > 50:
        assert looks["horizontal position"] == pytest.approx(plain["horizontal position"], abs=0.7)
        assert looks["vertical position"] == pytest.approx(plain["vertical position"], abs=0.7)


def test_sharpness_falls_with_blur_and_rises_with_contrast() -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    soft = [looks_of(cv2.GaussianBlur(image, (0, 0), sigma))["sharpness"] for sigma in (0.5, 1.0, 2.0, 4.0)]
    assert soft == sorted(soft, reverse=True)
    faint = (image // 2).astype(np.uint8)
    assert looks_of(faint)["sharpness"] == pytest.approx(looks_of(image)["sharpness"] / 2, rel=0.02)


@pytest.mark.parametrize("factor", [2, 3])
def test_statistics_hardly_depend_on_the_resolution(factor: int) -> None:
    one = looks_of(part())
    large = np.repeat(np.repeat(part(), factor, axis=0), factor, axis=1)
    assert looks_of(large) == pytest.approx(one, rel=0.02)


def test_one_channel_float_and_eight_bits_agree() -> None:
    image = part()
    unit = looks_of((image / 255).astype(np.float32))
    assert unit == pytest.approx(looks_of(image), rel=1e-3, abs=1e-3)
    assert looks_of(image[..., :1]) == pytest.approx(looks_of(image), rel=1e-4)


GOOD = {"brightness": [100.0, 120.0], "sharpness": [5.0, 6.0]}


@pytest.mark.parametrize(
    ("brightness", "sharpness", "words"),
    [
        (110.0, 5.5, ""),
        (80.0, 4.0, ""),  # as far out as the good ones are wide
        (79.0, 5.5, "brightness 79, good pictures 100 to 120"),
        (140.1, 5.5, "brightness 140"),
        (110.0, 3.9, "sharpness 3.9, good pictures 5 to 6"),
        (10.0, 1.0, "brightness 10"),  # the first is named
    ],
)
def test_what_lies_outside_is_named_with_the_good_range(brightness: float, sharpness: float, words: str) -> None:
    looks = {"brightness": brightness, "sharpness": sharpness}
    found = outside(looks, GOOD)
    assert found == "" if not words else found.startswith(words)


def test_equal_good_pictures_leave_a_tenth_of_slack() -> None:
    good = {"brightness": [100.0] * 5, "sharpness": [5.0] * 5}
    assert outside({"brightness": 109.9, "sharpness": 5.0}, good) == ""
    assert outside({"brightness": 110.1, "sharpness": 5.0}, good).startswith("brightness")


def test_models_without_statistics_judge_nothing_by_them() -> None:
    assert outside({"brightness": 0.0, "sharpness": 0.0}, {}) == ""
    assert outside({"brightness": 0.0, "sharpness": 5.5}, {"sharpness": [5.0, 6.0], "brightness": []}) == ""


def test_every_good_picture_lies_inside_its_own_range() -> None:
    pictures = [part(tone=tone) for tone in (150, 180, 220)]
    looks = [looks_of(each) for each in pictures]
    good = {name: [each[name] for each in looks] for name in HELD}
    assert all(outside(each, good) == "" for each in looks)
    assert outside(looks_of(np.zeros((192, 256, 3), np.uint8)), good) != ""
