"""What is odd about masks: which are left out, which are questioned, and what people are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flawforge.proving.doubts import Doubts


def box(share: float, edge: bool = False) -> NDArray[np.bool_]:
    """A mask 20 x 20 that marks about this share: rows from the top of the inside, or from the edge on."""
    mask = np.zeros((20, 20), bool)
    rows = round(share * 20)
    if edge:
        mask[:rows] = True
    else:
        mask[1 : 1 + rows, 1:19] = True
    return mask


def frame() -> NDArray[np.bool_]:
    """An inverted mask: everything but a small defect."""
    mask = np.ones((20, 20), bool)
    mask[8:12, 8:12] = False
    return mask


SMALL, EMPTY, LARGE, WHOLE = box(0.1), box(0.0), box(0.8), frame()


@pytest.mark.parametrize(
    ("mask", "counts", "where"),
    [(SMALL, True, ""), (EMPTY, False, "empty"), (LARGE, True, "large"), (WHOLE, False, "whole"), (~EMPTY, False, "whole")],
)
def test_a_mask_counts_or_is_put_aside_and_noted(mask: NDArray[np.bool_], counts: bool, where: str) -> None:
    doubts = Doubts()
    kept = doubts.sift(Path("a.png"), mask)
    assert (kept is mask) is counts
    assert doubts.trusted == counts
    for name in ("empty", "large", "whole"):
        assert getattr(doubts, name) == ([Path("a.png")] if name == where else [])


def test_who_knows_better_keeps_every_mask_that_marks_something() -> None:
    doubts = Doubts(large_masks=True)
    assert doubts.sift(Path("w.png"), WHOLE) is WHOLE
    assert doubts.sift(Path("e.png"), EMPTY) is None
    assert doubts.trusted == 1
    assert not doubts.inverted
    assert any("taken as they are: 1 (w.png)" in note for note in doubts.notes(2))


@given(st.lists(st.sampled_from(["small", "empty", "large", "whole"]), max_size=12))
@settings(max_examples=80, deadline=None)
def test_every_mask_is_counted_once_and_a_set_is_inverted_by_its_majority(kinds: list[str]) -> None:
    masks = {"small": SMALL, "empty": EMPTY, "large": LARGE, "whole": WHOLE}
    doubts = Doubts()
    for i, kind in enumerate(kinds):
        doubts.sift(Path(f"{i}.png"), masks[kind])
    number = {kind: kinds.count(kind) for kind in masks}
    assert doubts.trusted == number["small"] + number["large"]
    assert len(doubts.empty) == number["empty"]
    marking = number["small"] + number["large"] + number["whole"]
    assert doubts.inverted is (2 * (number["large"] + number["whole"]) > marking)
    notes = doubts.notes(len(kinds))
    assert all("\n" not in note for note in notes)
    assert any("mark nothing" in note for note in notes) is (number["empty"] > 0)
    assert any("No pixel figures are given" in note for note in notes) is doubts.inverted
    missing = len(kinds) - marking
    assert any("have no mask" in note for note in notes) is (missing > 0)


def test_the_half_is_not_more_than_half() -> None:
    doubts = Doubts()
    half = np.zeros((20, 20), bool)
    half[:10] = True
    assert doubts.sift(Path("h.png"), half) is half
    assert doubts.large == doubts.whole == []
    more = half.copy()
    more[10, 0] = True
    doubts.sift(Path("m.png"), more)
    assert doubts.large == [Path("m.png")]


def test_an_edge_is_taken_for_inverted_from_nine_tenths_on() -> None:
    doubts = Doubts()
    nearly = np.ones((20, 20), bool)
    nearly[0, :8] = False  # 8 of 80 edge pixels, and a corner that counts twice
    doubts.sift(Path("n.png"), nearly)
    assert doubts.large == [Path("n.png")]
    full = np.ones((20, 20), bool)
    full[0, :4] = False
    doubts.sift(Path("f.png"), full)
    assert doubts.whole == [Path("f.png")]


def test_notes_say_what_is_left_for_pixel_figures() -> None:
    doubts = Doubts()
    doubts.sift(Path("a.png"), SMALL)
    assert doubts.notes(1) == []
    assert doubts.notes(3) == ["2 of 3 defective pictures have no mask, so the pixel figures are of the others"]
    assert Doubts().notes(2) == ["2 of 2 defective pictures have no mask, so there are no pixel figures"]
    assert Doubts().notes(0) == []


def test_a_whole_mask_among_good_ones_is_left_out_with_the_remedy() -> None:
    doubts = Doubts()
    for i in range(3):
        doubts.sift(Path(f"{i}.png"), SMALL)
    doubts.sift(Path("white.png"), ~EMPTY)
    (note,) = doubts.notes(4)
    assert "are left out of the pixel figures: 1 (white.png)" in note
    assert note.endswith("invert them, or say --large-masks where they are right")


def test_large_masks_among_good_ones_are_taken_and_questioned() -> None:
    doubts = Doubts()
    for i in range(3):
        doubts.sift(Path(f"{i}.png"), SMALL)
    doubts.sift(Path("big.png"), LARGE)
    (note,) = doubts.notes(4)
    assert "taken as they are, so look whether they are inverted: 1 (big.png)" in note


def test_label_files_that_cannot_be_read_are_counted_and_the_first_is_named() -> None:
    doubts = Doubts(unread=["a.json is no JSON.", "b.json is no JSON."])
    assert "Label files that cannot be read count as none: 2; the first: a.json is no JSON." in doubts.notes(0)
