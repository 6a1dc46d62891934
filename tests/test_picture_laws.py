"""Laws of what is found in good pictures: the part's mask, tolerated variation, near-duplicates, the background."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flawforge.pictures import duplicates, region, saliency, tolerance
from flawforge.pictures.region import LARGEST, SMALLEST, part_mask, product_mask
from flawforge.types import ConfigError


def disc(y: float, x: float, radius: float, shape: tuple[int, int] = (64, 64)) -> Any:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    return np.hypot(rows - y, columns - x) < radius


def part(y: int = 32, x: int = 32, radius: float = 14, tone: int = 200, shape: tuple[int, int] = (64, 64)) -> Any:
    image = np.random.default_rng(y * 100 + x).normal(40, 2, (*shape, 3))
    image[disc(y, x, radius, shape)] += tone - 40
    return image.clip(0, 255).astype(np.uint8)


# ---- the part


@given(st.integers(10, 20), st.integers(22, 42), st.integers(22, 42))
@settings(max_examples=30, deadline=None)
def test_one_disc_is_its_own_part(radius: int, y: int, x: int) -> None:
    mask = disc(y, x, radius)
    found = part_mask(mask)
    assert found is not None
    np.testing.assert_array_equal(found, mask)
    again = part_mask(found)
    assert again is not None
    np.testing.assert_array_equal(again, found)  # idempotent


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_part_has_no_hole_and_holds_the_largest_piece(seed: int) -> None:
    rng = np.random.default_rng(seed)
    marked = ndimage.gaussian_filter(rng.normal(size=(48, 48)), 3) > 0.1
    found = part_mask(marked)
    if found is None:
        return
    assert SMALLEST <= found.mean() <= LARGEST
    labels, _ = ndimage.label(marked, np.ones((3, 3)))
    largest = labels == np.bincount(labels[marked]).argmax()
    assert found[largest].all()
    np.testing.assert_array_equal(ndimage.binary_fill_holes(found), found)


@pytest.mark.parametrize(
    "marked",
    [np.zeros((64, 64), bool), np.ones((64, 64), bool), disc(32, 32, 4), disc(0, 0, 50)],
    ids=["nothing", "everything", "a crumb", "a corner"],
)
def test_what_is_no_part_is_none(marked: Any) -> None:
    assert part_mask(marked) is None


def test_pieces_of_a_fifth_belong_to_the_part() -> None:
    both = disc(20, 20, 12) | disc(48, 48, 6)  # a quarter of its area
    crumb = disc(20, 20, 12) | disc(48, 48, 4)  # a ninth
    assert part_mask(both)[48, 48]  # type: ignore[index]
    assert not part_mask(crumb)[48, 48]  # type: ignore[index]


@pytest.mark.parametrize("scale", [1, 3])
def test_the_product_is_wherever_some_good_part_lies(scale: int) -> None:
    places = [(28, 30), (34, 36), (30, 34), (32, 28)]
    pictures = [np.repeat(np.repeat(part(y, x), scale, 0), scale, 1) for y, x in places]
    mask = product_mask(pictures)
    assert mask.shape == (64 * scale, 64 * scale)
    union = np.logical_or.reduce([disc(y, x, 13) for y, x in places])
    assert mask[scale // 2 :: scale, scale // 2 :: scale][union].mean() > 0.99
    assert not mask[: 4 * scale].any()
    assert mask.mean() < 0.6


def test_no_product_is_one_sentence_with_the_way_out() -> None:
    rng = np.random.default_rng(0)
    textures = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    with pytest.raises(ConfigError, match=r"--roi auto was given, and only .* of 4 good pictures show a part") as error:
        product_mask(textures)
    assert str(error.value).endswith(f"{region.ADVICE}.")


# ---- tolerated variation

ONE = np.array([1.0, 1.0])


@given(st.sampled_from(sorted(tolerance.KINDS)), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_no_amount_of_a_kind_changes_nothing_but_what_storing_costs(kind: str, seed: int) -> None:
    tones = np.random.default_rng(seed).random((24, 30, 3))
    image = np.rint(255 * ndimage.gaussian_filter(tones, (4, 4, 0))).astype(np.uint8)
    same = tolerance.varied(image, {kind: np.zeros(2)})
    if kind == "jpeg":
        assert np.abs(same.astype(int) - image).max() < 8
    else:
        np.testing.assert_array_equal(same, image)


@given(st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_brightness_is_a_factor(amount: float) -> None:
    image = np.full((8, 9, 3), 120, np.uint8)
    made = tolerance.varied(image, {"brightness": np.array([amount, 0.0])})
    assert made[0, 0, 0] == round(120 * (1 + tolerance.GAIN * amount)) or abs(amount) < 1e-6


def test_a_turn_back_and_forth_is_nearly_the_picture() -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).random((129, 129, 1)).astype(np.float32), (0, 0), 3)[..., None]
    there = tolerance.varied(image, {"turn": ONE})
    back = tolerance.varied(there, {"turn": -ONE})
    inside = np.s_[8:-8, 8:-8]
    assert np.abs(back - image)[inside].max() < 0.25 * np.abs(there - image)[inside].max()


def test_kinds_are_named_with_commas_and_all_is_all() -> None:
    assert tolerance.kinds_from("") == ()
    assert tolerance.kinds_from(" turn , blur ") == ("turn", "blur")
    assert tolerance.kinds_from("all") == tuple(tolerance.KINDS)
    with pytest.raises(ConfigError, match="'colour'; allowed are all, or any of brightness, turn"):
        tolerance.kinds_from("turn,colour")


def test_every_kind_is_explained_by_its_own_constant() -> None:
    words = {"brightness": "0.8 to 1.2", "turn": "2 degrees", "shift": "1/64", "jpeg": "quality 60", "blur": "1 px"}
    assert all(words[kind] in text for kind, text in tolerance.KINDS.items())


# ---- near-duplicates


@given(st.integers(0, 1000), st.floats(0.5, 1.5), st.floats(-0.1, 0.1))
@settings(max_examples=25, deadline=None)
def test_marks_do_not_know_the_light(seed: int, gain: float, offset: float) -> None:
    grey = ndimage.gaussian_filter(np.random.default_rng(seed).random((64, 64)), 1).astype(np.float32)
    one = duplicates._marks(grey)
    other = duplicates._marks((np.float32(gain) * grey + np.float32(offset)).astype(np.float32))
    np.testing.assert_allclose(other, one, atol=2e-2)
    assert np.isfinite(one).all()


def test_a_shifted_picture_is_as_like_as_itself() -> None:
    grey = ndimage.gaussian_filter(np.random.default_rng(1).random((72, 72)), 1.5).astype(np.float32)
    marks = [duplicates._marks(grey[4 + dy : 68 + dy, 4 + dx : 68 + dx]) for dy, dx in ((0, 0), (1, 2), (2, -2), (4, 4))]
    alike = duplicates._likeness(marks[0], np.stack(marks))
    assert alike[0] == pytest.approx(1, abs=1e-5)
    assert (alike[:3] > 0.95).all()
    assert alike[3] < 0.9  # beyond the shifts that are tried


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=10))
@settings(max_examples=50, deadline=None)
def test_groups_part_their_members(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % count, b % count) for a, b in pairs]
    groups = duplicates.join(count, pairs)
    members = [index for group in groups for index in group]
    assert len(members) == len(set(members))
    assert all(group == sorted(group) and len(group) > 1 for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    where = {index: i for i, group in enumerate(groups) for index in group}
    assert all(a == b or where[a] == where[b] for a, b in pairs)


# ---- background


def test_the_background_is_the_frames_colours() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    image[:, :25], image[:, 25:] = (200, 40, 40), (40, 40, 200)
    image[5:-5, 5:-5] = (0, 255, 0)  # the part is no background
    found = saliency.background_of([image])
    colours = {tuple(np.rint(255 * centre).astype(int).tolist()) for centre in found.centres}
    assert colours == {(200, 40, 40), (40, 40, 200)}
    assert (found.reach >= 0.02).all()


def test_a_rare_colour_of_the_frame_can_be_left_out() -> None:
    image = np.full((100, 100, 3), 60, np.uint8)
    image[:4, :10] = (255, 255, 255)  # a reflection at the edge
    every, most = (saliency.background_of([image], least=least) for least in (0.0, 0.2))
    assert len(every.centres) == 2
    assert len(most.centres) == 1
    np.testing.assert_allclose(most.centres, 60 / 255, atol=1e-3)


@given(st.integers(41, 255))
@settings(max_examples=20, deadline=None)
def test_foreground_is_what_differs_enough(tone: int) -> None:
    image = np.full((64, 64, 3), 40, np.uint8)
    image[20:44, 20:44] = tone
    marked = saliency.foreground(image, saliency.background_of([image]))
    assert marked.min() >= 0
    assert marked.max() <= 1
    if tone > 40 + 2 * 0.02 * 255 * 3:
        assert marked[32, 32] == pytest.approx(1, abs=1e-3)
    assert marked[4, 4] < 0.05


@pytest.mark.parametrize(("share", "is_object"), [(0.04, False), (0.06, True), (0.5, True), (0.85, False)])
def test_a_map_of_too_little_or_too_much_is_no_object(share: float, is_object: bool) -> None:
    values = np.zeros(10_000, np.float32)
    values[: round(share * 10_000)] = 1
    found = saliency.guarded(values.reshape(100, 100), "foreground")
    assert (found.note == "foreground") is is_object
    assert (found.map == 1).all() is np.bool_(not is_object)
