"""Missing, misplaced, blurred and noisy pieces: what each does to the surface that it is cut from."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flawforge.forge import blend, pieces
from flawforge.forge.pieces import Blur, Misplaced, Missing, Noise
from flawforge.types import ConfigError, Forged, Sample


def grain(deviation: float = 12.0, side: int = 120, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(128, deviation, (side, side, 1)).clip(0, 255).astype(np.uint8)


def part(ground: int = 20, tone: int = 200) -> Any:
    """A bright square on a dark ground."""
    image = np.full((120, 120, 1), ground, np.uint8)
    image[30:90, 30:90] = tone
    return image


def inner(forged: Forged, side: int = 7) -> Any:
    return cv2.erode(forged.mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


# ---- where


def test_detail_is_where_the_edges_are() -> None:
    weights = pieces.detail(part(), None)
    assert weights.shape == (96, 96)
    assert weights.min() > 0
    row, column = np.unravel_index(int(weights.argmax()), weights.shape)
    edges = np.array([30, 90]) * 96 / 120
    assert min(np.abs(edges - row).min(), np.abs(edges - column).min()) <= 1.5
    assert weights[48, 48] < 1e-2 * weights.max()
    assert weights[5, 5] < 1e-2 * weights.max()


def test_detail_of_a_flat_picture_is_even_and_a_prior_weighs_it() -> None:
    even = pieces.detail(np.full((64, 128, 3), 90, np.uint8), None)
    assert even.shape == (48, 96)
    np.testing.assert_allclose(even, even[0, 0])
    prior = np.zeros((64, 128), np.float32)
    prior[:, :64] = 1.0
    weighed = pieces.detail(np.full((64, 128, 3), 90, np.uint8), prior)
    np.testing.assert_allclose(weighed[:, :48], even[:, :48], rtol=1e-6)
    assert not weighed[:, 49:].any()


@given(st.integers(0, 255), st.integers(0, 255))
def test_the_frame_tone_is_that_of_the_border_whatever_lies_inside(border: int, inside: int) -> None:
    image = np.full((40, 50, 3), border, np.uint8)
    image[2:-2, 2:-2] = inside
    assert pieces.frame_tone(image) == pytest.approx(border / 255)
    assert pieces.frame_tone((image / 255).astype(np.float32)) == pytest.approx(border / 255, abs=1e-6)


def hole_at(y: int, x: int, radius: int) -> Any:
    rows, columns = np.mgrid[0:120, 0:120]
    return np.hypot(rows - y, columns - x) < radius


def test_a_chip_at_the_parts_edge_is_filled_from_the_ground() -> None:
    image = part()
    known, side = pieces._background(image, hole_at(60, 30, 10), True, pieces.frame_tone(image))
    assert side == "darker"
    assert not known[30:90, 30:90].any()
    bright = part(ground=220, tone=60)
    known, side = pieces._background(bright, hole_at(60, 30, 10), True, pieces.frame_tone(bright))
    assert side == "lighter"
    assert (bright[known] == 220).all()


@pytest.mark.parametrize(
    ("image", "hole", "chip", "frame"),
    [
        (part(), hole_at(60, 60, 10), True, 20 / 255),  # in the middle: a window would open
        (part(), hole_at(60, 30, 10), False, 20 / 255),  # no chip
        (part(ground=180, tone=200), hole_at(60, 30, 10), True, 180 / 255),  # two tones, hardly apart
        (part(), hole_at(60, 30, 10), True, 0.45),  # the frame is like neither
        (np.full((120, 120, 1), 90, np.uint8), hole_at(60, 60, 10), True, 90 / 255),  # one tone
    ],
    ids=["middle", "no chip", "near tones", "other frame", "flat"],
)
def test_else_a_hole_is_filled_from_all_around(image: Any, hole: Any, chip: bool, frame: float) -> None:
    known, side = pieces._background(image, hole, chip, frame)
    assert side == "around"
    np.testing.assert_array_equal(known, ~hole)


def test_a_hole_over_the_whole_window_may_be_filled_from_itself() -> None:
    whole = np.ones((40, 40), bool)
    known, side = pieces._background(np.full((40, 40, 1), 7, np.uint8), whole, True, 0.0)
    assert known.all()
    assert side == "around"


# ---- missing


def test_where_nothing_is_at_an_edge_the_hole_is_dark_inside() -> None:
    for seed in range(6):
        forged = Missing(at_edges=0.0, size=30.0, contrast=0.2, sharpness=1.0)(Sample(grain(4)), np.random.default_rng(seed))
        assert forged.drawn["chip"] is False
        assert forged.drawn["fill"] == "around"
        middle = inner(forged, 11)
        if middle.any():
            assert forged.image[middle].mean() < 128 - 0.5 * 0.2 * 255


def test_a_share_of_the_pieces_is_chipped_off_edges() -> None:
    chips = [Missing(at_edges=0.7)(Sample(part()), np.random.default_rng(s)).drawn.get("chip") for s in range(60)]
    assert np.mean([bool(each) for each in chips]) == pytest.approx(0.7, abs=0.15)


# ---- misplaced


def test_a_shift_is_as_long_as_its_share_of_the_size() -> None:
    for seed in range(12):
        forged = Misplaced(size=30.0, shift=0.4)(Sample(grain()), np.random.default_rng(seed))
        assert np.hypot(*forged.drawn["shift"]) == pytest.approx(12.0)
        assert abs(forged.drawn["turn"]) <= 15.0


def test_a_misplaced_piece_is_the_parts_own_pixels_from_where_it_says() -> None:
    """Not turned, moved by whole pixels: the piece's middle holds what lay there before the move."""
    image = np.random.default_rng(5).integers(0, 255, (120, 120, 1), dtype=np.uint8)
    found = 0
    for seed in range(20):
        forged = Misplaced(size=30.0, sharpness=1.0, shift=1.0, turn=0.0)(Sample(image), np.random.default_rng(seed))
        y, x = forged.drawn["centre"]
        dy, dx = forged.drawn["shift"]
        ty, tx = round(y + dy), round(x + dx)
        if not (8 <= ty < 112 and 8 <= tx < 112 and 8 <= y < 112 and 8 <= x < 112):
            continue
        moved = ndimage.shift(image[..., 0].astype(float), (dy, dx), order=1, mode="nearest")
        here = np.s_[ty - 3 : ty + 4, tx - 3 : tx + 4]
        if forged.mask[here].mean() > 0.9:
            found += 1
            apart = np.abs(forged.image[here][..., 0].astype(float) - moved[here])[forged.mask[here]]
            assert np.median(apart) <= 5
    assert found >= 8


def test_a_weaker_misplacement_changes_less() -> None:
    change = {
        contrast: np.mean(
            [
                np.abs(
                    Misplaced(size=40.0, contrast=contrast)(Sample(part()), np.random.default_rng(s)).image.astype(int)
                    - part()
                ).sum()
                for s in range(8)
            ]
        )
        for contrast in (0.3, 1.0)
    }
    assert change[0.3] == pytest.approx(0.3 * change[1.0], rel=0.2)


# ---- blur


def test_blur_takes_grain_away_and_keeps_the_tone() -> None:
    image = grain(25)
    for seed in range(6):
        forged = Blur(size=50.0, sharpness=1.0, strength=4.0)(Sample(image), np.random.default_rng(seed))
        here = inner(forged)
        assert forged.image[here].std() < 0.4 * image[here].std()
        assert forged.image[here].mean() == pytest.approx(image[here].mean(), abs=4)


@pytest.mark.parametrize("degrees", [0.0, 90.0])
def test_a_smear_blurs_along_its_line_alone(degrees: float) -> None:
    stripes = np.broadcast_to((np.indices((48, 48))[1] % 8 < 4) * 200, (48, 48)).astype(np.uint8)[..., None]
    smeared = pieces._smeared(np.ascontiguousarray(stripes), 4.0, degrees)
    if degrees == 90.0:  # along the stripes: nothing to see
        np.testing.assert_array_equal(smeared, stripes)
    else:
        assert smeared[8:-8, 8:-8].std() < 0.35 * stripes.std()


@given(st.floats(0.5, 8.0), st.floats(0, 180))
@settings(max_examples=40, deadline=None)
def test_a_smear_keeps_a_flat_patch_flat(sigma: float, degrees: float) -> None:
    flat = np.full((24, 24, 3), 77, np.uint8)
    np.testing.assert_array_equal(pieces._smeared(flat, sigma, degrees), flat)


def test_a_smear_spreads_a_point_over_four_sigma() -> None:
    point = np.zeros((41, 41, 1), np.float32)
    point[20, 20] = 1.0
    smeared = pieces._smeared(point, 3.0, 0.0)[..., 0]
    columns = np.nonzero(smeared[20] > 1e-6)[0]
    assert (columns[0], columns[-1]) == (14, 26)
    assert smeared.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(smeared[:20]).max() < 1e-6


def test_smears_are_drawn_by_their_share() -> None:
    angles = [
        Blur(smear=share)(Sample(grain(25)), np.random.default_rng(s)).drawn["smear"]
        for share in (0.0, 1.0)
        for s in range(8)
    ]
    assert angles[:8] == [None] * 8
    assert all(angle is not None and 0 <= angle <= 180 for angle in angles[8:])


# ---- noise


def noisy(seed: int, image: Any = None, **fields: Any) -> Forged:
    plain: dict[str, Any] = {"size": 50.0, "contrast": 0.2, "sharpness": 1.0}
    image = np.full((120, 120, 1), 128, np.uint8) if image is None else image
    return Noise(**(plain | fields))(Sample(image), np.random.default_rng(seed))


@pytest.mark.parametrize("contrast", [0.05, 0.1, 0.2])
def test_noise_has_the_deviation_asked_for(contrast: float) -> None:
    values = np.concatenate([noisy(s, contrast=contrast).image[inner(noisy(s, contrast=contrast))] for s in range(4)])
    assert values.astype(float).std() / 255 == pytest.approx(contrast, rel=0.12)
    assert values.mean() == pytest.approx(128, abs=2.5)


def test_noise_leaves_no_pinhole() -> None:
    for seed in range(4):
        forged = noisy(seed)
        middle = ndimage.binary_fill_holes(forged.mask)
        assert middle.sum() == forged.mask.sum()


def test_noise_at_the_end_of_the_range_stays_in_it_and_is_not_lost() -> None:
    """At black, half of normal noise would be cut off; it is turned back instead."""
    forged = noisy(1, np.zeros((120, 120, 1), np.uint8))
    values = forged.image[inner(forged)].astype(float)
    assert (values >= 3).all()
    assert values.mean() / 255 == pytest.approx(0.2 * np.sqrt(2 / np.pi), rel=0.1)


def test_less_sharpness_is_coarser_grain() -> None:
    def neighbours_alike(sharpness: float) -> float:
        found = []
        for seed in range(4):
            forged = noisy(seed, sharpness=sharpness, size=70.0)
            y, x = (int(v) for v in forged.drawn["centre"])
            here = forged.image[max(y - 8, 0) : y + 8, max(x - 8, 0) : x + 8, 0].astype(float)
            if min(here.shape) >= 8:
                found.append(np.corrcoef(here[:, 1:].ravel(), here[:, :-1].ravel())[0, 1])
        return float(np.mean(found))

    assert neighbours_alike(1.0) < 0.3 < neighbours_alike(0.2)


def test_coloured_noise_is_for_colour_pictures() -> None:
    image = np.full((120, 120, 3), 128, np.uint8)
    assert noisy(0, image, colour=1.0).drawn["channels"] == 1  # three equal channels are grey
    image[::4, ::4] = 130, 128, 126
    forged = noisy(0, image, colour=1.0)
    assert forged.drawn["channels"] == 3
    assert forged.image[inner(forged)].std(axis=1).mean() > 10
    assert noisy(0, image, colour=0.0).drawn["channels"] == 1


def test_a_patch_has_the_area_of_its_size() -> None:
    measured = []
    for seed in range(12):
        m = pieces.measure.Measure(60.0, 0.2, 1.0, {})
        cover = pieces._patch((slice(0, 160), slice(0, 160)), (80.0, 80.0), m, np.random.default_rng(seed))
        assert cover.shape == (160, 160, 1)
        measured.append(float(cover.sum()))
    assert np.mean(measured) == pytest.approx(np.pi * 30**2, rel=0.12)


@pytest.mark.parametrize(
    ("forger", "fields", "words"),
    [
        (Missing, {"at_edges": 1.5}, "at_edges is 1.5"),
        (Missing, {"tone": "blue"}, "tone is 'blue'"),
        (Misplaced, {"shift": 0.0}, "shift is 0.0"),
        (Misplaced, {"turn": 200.0}, "turn is 200.0"),
        (Blur, {"strength": 0.1}, "strength is 0.1"),
        (Blur, {"smear": (0, 1)}, "smear"),
        (Noise, {"colour": -1.0}, "colour is -1.0"),
        (Noise, {"contrast": 0.0}, "contrast is 0.0"),
        (Noise, {"size": 1.0}, "size is 1.0"),
    ],
)
def test_a_setting_out_of_bounds_is_named(forger: type, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        forger(**fields)
    assert str(error.value).startswith(forger.name)  # type: ignore[attr-defined]


def test_float_pictures_are_spoilt_like_their_eight_bit_twins() -> None:
    eight = grain(20)
    for forger in (Missing(), Misplaced(), Blur(), Noise()):
        one = forger(Sample(eight), np.random.default_rng(4))
        two = forger(Sample(blend.to_unit(eight)), np.random.default_rng(4))
        assert two.image.dtype == np.float32
        assert np.mean(one.mask != two.mask) < 0.02
        assert np.abs(one.image / 255.0 - two.image)[one.mask & two.mask].mean() < 0.01
