"""The proof pictures: exact masks, the size that was asked for, no family of the training, no dependence on order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flawforge.demo.washers import render_good
from flawforge.forge import family
from flawforge.forge.transplant import cut_out
from flawforge.proving.specimens import KINDS, Forgery, Recipe, defect_size, held_out_kinds, measured_forgers, proof_pictures
from flawforge.types import ConfigError, DataError, Image, Mask
from flawforge_runtime.images import write_image

GOODS = [render_good(index, size=96) for index in range(5)]
QUICK = Recipe(kinds=("scratch", "stain"), contrasts=(0.3,), count=7)


def facts(forgery: Forgery, goods: list[Image]) -> tuple[object, ...]:
    return forgery.kind, forgery.contrast, forgery.size, forgery.image.tobytes(), goods[forgery.good].tobytes()


def test_a_forgery_is_the_good_picture_outside_its_mask_and_differs_inside() -> None:
    for forgery in proof_pictures(GOODS, QUICK):
        changed = (forgery.image != GOODS[forgery.good]).any(axis=2)
        assert np.array_equal(changed, forgery.mask)
        assert forgery.size == defect_size(forgery.mask) > 2


def test_the_order_of_the_pictures_changes_nothing(tmp_path: Path) -> None:
    """To the bit, and the same from files as from arrays."""
    turned = GOODS[::-1]
    expected = [facts(each, GOODS) for each in proof_pictures(GOODS, QUICK)]
    assert [facts(each, turned) for each in proof_pictures(turned, QUICK)] == expected
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path, good in zip(paths, GOODS, strict=True):
        write_image(path, good)
    assert len(list(proof_pictures(paths, QUICK))) == len(expected)
    assert [each.image.tobytes() for each in proof_pictures(paths, QUICK)] == [
        each.image.tobytes() for each in proof_pictures(paths[::-1], QUICK)
    ]


def test_a_curve_does_not_depend_on_the_other_kinds_and_changes_with_the_seed() -> None:
    alone = [each.image.tobytes() for each in proof_pictures(GOODS, Recipe(("stain",), (0.3,), count=3))]
    beside = [each.image.tobytes() for each in proof_pictures(GOODS, Recipe(("dent", "stain"), (0.1, 0.3), count=3))]
    other = [each.image.tobytes() for each in proof_pictures(GOODS, Recipe(("stain",), (0.3,), count=3, seed=1))]
    assert alone == beside[-3:]
    assert not set(alone) & set(other)


def test_every_good_picture_is_used_before_any_is_used_again() -> None:
    used = [each.good for each in proof_pictures(GOODS, Recipe(("stain",), (0.3,), (10, 30), count=12))]
    assert sorted(used[:5]) == sorted(used[5:10]) == list(range(5))


def test_sizes_cover_the_range_and_follow_what_was_wanted() -> None:
    made = list(proof_pictures(GOODS, Recipe(("stain", "scratch"), (0.3,), sizes=(4, 40), count=30)))
    for kind in ("stain", "scratch"):
        sizes = [each.size for each in made if each.kind == kind]
        wanted = [each.drawn["wanted"] for each in made if each.kind == kind]
        assert np.corrcoef(np.log(sizes), np.log(wanted))[0, 1] > 0.9
        assert min(wanted) < 5
        assert max(wanted) > 34


def test_defects_lie_in_the_region_of_interest() -> None:
    roi = np.zeros((96, 96), bool)
    roi[:, :48] = True
    made = list(proof_pictures(GOODS, QUICK, roi=roi))
    assert len(made) > 10
    for each in made:
        assert not (each.mask & ~roi).any()
        assert np.array_equal((each.image != GOODS[each.good]).any(axis=2), each.mask)


GREY = np.full((96, 96, 3), 128, np.uint8)


def grafted(level: int, side: int, roi: Mask | None = None) -> list[Forgery]:
    """Graftings onto plain grey of a square of this grey level."""
    mask = np.zeros((96, 96), bool)
    mask[40 : 40 + side, 30 : 30 + side] = True
    pieces = cut_out(np.where(mask[..., None], np.uint8(level), GREY), mask)
    made = proof_pictures([GREY], Recipe(("stain",), (0.3,), count=16), pieces=pieces, roi=roi)
    return [each for each in made if each.kind == "transplant"]


def test_a_patch_in_place_of_a_defect_that_cannot_be_drawn_is_no_defect() -> None:
    """A piece of the very grey that it is grafted onto changes no pixel."""
    assert len(grafted(20, 20)) == 16
    assert grafted(128, 20) == []


def test_what_a_region_of_interest_leaves_of_a_defect_is_nine_pixels_or_more() -> None:
    roi = np.zeros((96, 96), bool)
    roi[::2, ::2] = True
    made = grafted(20, 4, roi)
    assert 0 < len(made) < 16
    assert min(np.count_nonzero(each.mask) for each in made) >= 9


def test_a_defect_whose_middle_cannot_lie_in_the_region_of_interest_is_left_out() -> None:
    """Its side comes within eight pixels of the edge, its middle does not."""
    roi = np.zeros((96, 96), bool)
    roi[:, :8] = True
    assert grafted(20, 20, roi) == []
    roi[:, :30] = True
    assert len(grafted(20, 20, roi)) > 8


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_the_size_of_a_box_is_its_diagonal_wherever_it_lies(h: int, w: int, y: int, x: int) -> None:
    mask = np.zeros((100, 100), bool)
    mask[y : y + h, x : x + w] = True
    assert defect_size(mask) == pytest.approx(np.hypot(h, w))
    assert defect_size(mask.T) == pytest.approx(np.hypot(h, w))


def test_the_size_is_of_the_longest_defect_and_near_parts_are_one() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10, 10:20] = mask[80, 10:15] = True
    assert defect_size(mask) == pytest.approx(np.hypot(10, 1))
    mask[10, 22:30] = True  # a gap of two pixels: the scratch lifts
    assert defect_size(mask) == pytest.approx(np.hypot(20, 1))
    assert defect_size(np.zeros((9, 9), bool)) == 0.0


def test_the_family_of_the_training_is_held_out() -> None:
    assert held_out_kinds(()) == KINDS
    assert held_out_kinds(("perlin",)) == KINDS
    for trained in (("scratch",), ("perlin", "cutpaste", "stain")):
        kept = held_out_kinds(trained)
        assert kept
        assert not {family(kind) for kind in kept} & {family(name) for name in trained}
    with pytest.raises(ConfigError, match="name the kinds to prove with"):
        held_out_kinds(("scratch", "blur"))
    assert set(KINDS) <= set(measured_forgers())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ("perlin",)}, "controlled size"),
        ({"kinds": ()}, "at least one of each"),
        ({"contrasts": (1.5,)}, "from 0.01 to 1"),
        ({"sizes": (9.0, 3.0)}, "give two from 2 to 4096"),
        ({"count": 0}, "at least one of each"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Recipe(**options)  # type: ignore[arg-type]


def test_no_pictures_is_refused() -> None:
    with pytest.raises(DataError, match="give at least one"):
        list(proof_pictures([], QUICK))


# ---- laws of sizes and recipes


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_size_is_that_of_brute_force_over_all_pixels(seed: int) -> None:
    """The greatest distance between the outer corners of two pixels of one connected defect."""
    rng = np.random.default_rng(seed)
    mask = ndimage.binary_dilation(rng.random((40, 48)) > 0.995, np.ones((3, 3)), iterations=int(rng.integers(1, 4)))
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    longest = 0.0
    for name in range(1, count + 1):
        pixels = np.argwhere(parts == name)
        corners = np.concatenate([pixels + np.array(step) for step in ((0, 0), (0, 1), (1, 0), (1, 1))])
        longest = max(longest, float(np.sqrt(((corners[:, None] - corners[None]) ** 2).sum(axis=2)).max()))
    # Parts near each other count as one, so the measured size may be longer than that of the longest part.
    assert defect_size(mask) >= longest - 1e-6
    if count <= 1:
        assert defect_size(mask) == pytest.approx(longest)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_a_size_does_not_depend_on_place_or_quarter_turns(h: int, w: int, y: int, x: int) -> None:
    mask = np.zeros((64, 64), bool)
    mask[y : y + h, x : x + w] = True
    size = defect_size(mask)
    assert size == pytest.approx(np.hypot(h, w))
    for other in (mask.T, mask[::-1], np.rot90(mask), np.roll(mask, (5, 7), axis=(0, 1))):
        assert defect_size(other) == pytest.approx(size)
    assert defect_size(np.zeros((8, 8), bool)) == 0


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_cases_take_every_picture_in_turn_and_spread_their_sizes(goods: int, count: int, seed: int) -> None:
    from flawforge.proving.specimens import _cases

    cases = list(_cases(Recipe(kinds=("stain", "dent"), contrasts=(0.1, 0.3), count=count, seed=seed), goods))
    assert len(cases) == 4 * count
    assert len({case.seed for case in cases}) == len(cases)
    for start in range(0, len(cases), count):
        part = cases[start : start + count]
        assert len({(case.kind, case.contrast) for case in part}) == 1
        used = np.bincount([case.place for case in part], minlength=goods)
        assert used.max() - used.min() <= 1
        levels = np.array([case.level for case in part])
        np.testing.assert_array_equal(np.floor(levels * count), np.arange(count))


@pytest.mark.parametrize("kind", measured_forgers())
def test_every_measured_forger_can_prove(kind: str) -> None:
    made = list(proof_pictures(GOODS[:2], Recipe(kinds=(kind,), contrasts=(0.3,), count=2, seed=4)))
    assert {forgery.kind for forgery in made} <= {kind}
    for forgery in made:
        assert forgery.size == defect_size(forgery.mask)
        assert forgery.contrast == 0.3
        good = GOODS[forgery.good]
        np.testing.assert_array_equal(forgery.image[~forgery.mask], good[~forgery.mask])
