"""Batches are found where they are, seldom where they are not, and count as what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge import fitting
from flawforge.fitting.thresholds import rates_of_batches
from flawforge.pictures.batches import BLOCKS, LEAST, alike, find_batches, in_order


def pictures(batch: int, count: int, seed: int, strength: float = 2.0) -> dict[Path, np.ndarray]:
    """Likenesses of pictures whose batches of `batch` neighbours share something; 1 = no batches."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((count, 256))
    shared = np.repeat(rng.standard_normal((-(-count // batch), 256)), batch, axis=0)[:count]
    x = 100 + own + (strength * shared if batch > 1 else 0)
    return {Path(f"part{place}.png"): row.astype(np.float16) for place, row in enumerate(x)}


@pytest.mark.parametrize("batch", [4, 8])
def test_batches_are_found_and_every_picture_is_in_one_block(batch: int) -> None:
    likenesses = pictures(batch, 160, seed=0)
    found = find_batches([[path] for path in likenesses], likenesses)
    assert found is not None
    assert batch / 2 <= found.length <= 160 // BLOCKS
    assert [path for block in found.blocks for path in block] == in_order(list(likenesses))
    assert set(found.of()) == set(likenesses)
    assert f"{len(found.blocks)} blocks" in found.lines()[0]


def test_pictures_in_no_order_have_batches_as_seldom_as_stated() -> None:
    found = [find_batches([[p] for p in x], x, seed) for seed in range(60) for x in [pictures(1, 40, seed)]]
    assert sum(each is not None for each in found) <= 4  # 1 % of 60; 5 or more happen once in 2,000 cases


def test_too_few_pictures_are_not_cut() -> None:
    likenesses = pictures(4, LEAST - 1, seed=0)
    assert find_batches([[path] for path in likenesses], likenesses) is None


def test_near_duplicates_stay_in_one_block() -> None:
    likenesses = pictures(4, 80, seed=1)
    paths = list(likenesses)
    units = [[paths[0], paths[79]], *([path] for path in paths[1:79])]
    found = find_batches(units, likenesses)
    assert found is not None
    block = found.of()
    assert block[paths[0]] == block[paths[79]]


@given(st.permutations([f"{n}.png" for n in (1, 2, 9, 10, 11, 100)]))
@settings(max_examples=20, deadline=None)
def test_numbers_are_sorted_by_value(names: list[str]) -> None:
    assert [path.name for path in in_order([Path(name) for name in names])] == [f"{n}.png" for n in (1, 2, 9, 10, 11, 100)]


def test_scores_of_one_batch_are_alike_or_not() -> None:
    rng = np.random.default_rng(0)
    blocks = [f"block {place // 5}" for place in range(50)]
    assert alike(list(np.repeat(rng.standard_normal(10), 5) + 0.3 * rng.standard_normal(50)), blocks)
    chance = [alike(list(rng.standard_normal(50)), blocks, seed) for seed in range(60)]
    assert sum(chance) <= 9  # 5 % of 60; 10 or more happen once in 2,000 cases
    assert not alike([1.0, 2.0, 3.0], ["a", "b", "c"])
    assert not alike([1.0, 2.0, 3.0], ["a", "a", "a"])


def test_rates_are_what_so_many_batches_support() -> None:
    rates, told = rates_of_batches(50, 10, (0.02, 0.05), None)
    assert rates == pytest.approx((1 / 11, 1 / 11))
    assert "50 calibration pictures count as 10 batches, which support 9.1 %; 2 % needs 49 batches" in told
    rates, told = rates_of_batches(500, 100, (0.02, 0.05), None)
    assert rates == (0.02, 0.05)
    assert told.endswith("count as 100 batches")


@pytest.mark.parametrize(("how", "told"), [({}, True), ({"group_by": r"(\d+)"}, False), ({"holdout": "00*.png"}, False)])
def test_too_few_pictures_to_find_batches_are_told(washers: Path, tmp_path: Path, how: dict[str, Any], told: bool) -> None:
    """24 of the 30 that it takes; where the user says what belongs together, or what is held back, nothing is looked for."""
    plan = fitting.plan(fitting.Request(washers, tmp_path / "m", method="draem", size=64, steps=1, **how))
    assert (
        any(note.startswith("24 good pictures are too few to tell whether they come in batches") for note in plan.notes)
        == told
    )
