"""The proof pictures: exact masks, the size that was asked for, no family of the training, no dependence on order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.demo.washers import render_good
from flawforge.forge import family
from flawforge.proving.specimens import KINDS, Forgery, Recipe, defect_size, held_out_kinds, measured_forgers, proof_pictures
from flawforge.types import ConfigError, DataError, Image
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
