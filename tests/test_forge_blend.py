"""The law's own machinery, on arrays small enough to see."""

from __future__ import annotations

import numpy as np
import pytest

from flawforge.forge import blend
from flawforge.types import ConfigError, Sample


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
