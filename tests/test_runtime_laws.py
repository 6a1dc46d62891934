"""Laws of the runtime's geometry and files: poses and their way back, tiles and their weights, names that are free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flawforge_runtime import files, poses, tiles
from flawforge_runtime.poses import Pose
from flawforge_runtime.tiles import Whole

POSES = st.builds(
    Pose,
    st.integers(-400, 400).map(lambda n: n / 20),
    st.integers(-64, 64).map(lambda n: n / 8),
    st.integers(-64, 64).map(lambda n: n / 8),
    st.just(0.9),
)


def smooth(seed: int = 0, side: int = 64) -> Any:
    tones = ndimage.gaussian_filter(np.random.default_rng(seed).random((side, side)), 4)
    return ((tones - tones.min()) / np.ptp(tones)).astype(np.float32)


# ---- poses


@given(POSES, st.integers(8, 99), st.integers(8, 99))
@settings(max_examples=60, deadline=None)
def test_a_pose_turns_about_the_centre_and_then_shifts(pose: Pose, h: int, w: int) -> None:
    matrix = pose.matrix((h, w))
    centre = np.array([(w - 1) / 2, (h - 1) / 2])
    np.testing.assert_allclose(matrix @ [*centre, 1], np.add(centre, (pose.right, pose.down)), atol=1e-9)
    turn = matrix[:, :2]
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-9)
    assert np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])) == pytest.approx(pose.turn, abs=1e-9)


@given(POSES)
@settings(max_examples=40, deadline=None)
def test_a_pose_is_read_off_its_own_matrix(pose: Pose) -> None:
    found = poses._pose(pose.matrix((64, 80)).astype(np.float32), (64, 80), 0.9)
    assert (found.turn, found.right, found.down) == pytest.approx((pose.turn, pose.right, pose.down), abs=0.06)


@given(POSES)
@settings(max_examples=30, deadline=None)
def test_a_map_goes_back_to_where_the_part_lies(pose: Pose) -> None:
    """Laid and brought back, the middle of a smooth map is what it was."""
    surface = smooth()
    laid = np.asarray(poses.lay(surface[..., None], pose)).reshape(64, 64)
    again = poses.back(laid, pose)
    middle = np.s_[28:36, 28:36]
    np.testing.assert_allclose(again[middle], surface[middle], atol=0.03)
    assert again.min() >= laid.min() - 1e-6


@given(POSES, st.integers(8, 55), st.integers(8, 55))
@settings(max_examples=40, deadline=None)
def test_a_place_goes_back_as_its_map_does(pose: Pose, row: int, column: int) -> None:
    surface = np.zeros((64, 64), np.float32)
    surface[row, column] = 1
    back = poses.back(ndimage.gaussian_filter(surface, 1.0), pose)
    y, x = poses.back_at(row, column, pose, (64, 64))
    assert 0 <= y < 64
    assert 0 <= x < 64
    if back.max() > 0.1 and 3 < y < 60 and 3 < x < 60:
        peak = np.unravel_index(int(back.argmax()), (64, 64))
        assert abs(int(peak[0]) - y) <= 1
        assert abs(int(peak[1]) - x) <= 1


@given(POSES)
@settings(max_examples=30, deadline=None)
def test_a_laid_mask_marks_what_the_laid_picture_shows(pose: Pose) -> None:
    known = poses.lay_mask(np.ones((64, 64), bool), pose)
    ramp = np.full((64, 64, 1), 1.0, np.float32)
    inside = cv2.warpAffine(ramp, pose.matrix((64, 64)), (64, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    agree = (inside > 0.5) == known
    assert agree.mean() > 0.97  # the border itself is a matter of rounding
    none = Pose(0.0, 0.0, 0.0, 1.0)
    assert poses.lay_mask(np.ones((64, 64), bool), none).all()


def test_eight_bits_and_floats_have_the_same_grey() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    grey = poses.grey_of(colour)
    np.testing.assert_array_equal(grey, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    np.testing.assert_array_equal(poses.grey_of((colour / 255).astype(np.float32)), grey)


@pytest.mark.parametrize(("right", "down"), [(8, 0), (0, -8), (12, 4), (-4, -12)])
def test_phase_correlation_sees_a_whole_shift(right: int, down: int) -> None:
    still = smooth(3, 128) * 255
    moved = np.roll(still, (down, right), axis=(0, 1))
    x, y = poses._shift(still.astype(np.float32), moved.astype(np.float32))
    assert (x, y) == pytest.approx((right, down), abs=1.5)


# ---- tiles


@given(st.integers(1, 2000), st.integers(16, 600))
@settings(max_examples=80, deadline=None)
def test_tiles_start_at_both_ends_and_in_order(length: int, side: int) -> None:
    starts = list(tiles.starts(length, side))
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    if length > side:
        assert starts[-1] == length - side
        steps = np.diff(starts)
        assert steps.max() <= side * (1 - tiles.OVERLAP) + 1
        assert steps.max() - steps.min() <= 1
    else:
        assert starts == [0]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_shrinking_by_a_plain_loop(h: int, w: int, factor: int, highest: bool, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    small = tiles.shrunk(Whole(pixels), factor, highest=highest)
    assert small.shape == (-(-h // factor), -(-w // factor), 3)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            window = pixels[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].reshape(-1, 3)
            expected = window.max(axis=0) if highest else window.mean(axis=0)
            np.testing.assert_allclose(small[y, x], expected, atol=0 if highest else 0.51)


def test_a_picture_in_memory_is_one_band() -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    rows = Whole(pixels)
    assert (rows.height, rows.width) == (5, 7)
    (band,) = rows.bands()
    assert band is pixels


@given(st.integers(32, 1024), st.integers(32, 4096), st.integers(1 << 20, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_a_batch_of_tiles_fits_the_memory_and_is_never_empty(canvas: int, side: int, memory: int) -> None:
    count = tiles.batch_size((canvas, canvas), side, memory)
    assert 1 <= count <= tiles.MOST
    assert tiles.batch_size((canvas, canvas), side, 2 * memory) >= count
    if count > 1:
        assert count * (canvas * canvas * 4 * tiles.FLOATS + side * side * 16) <= memory


# ---- files


def test_a_name_is_free_where_nothing_is_or_an_empty_folder(tmp_path: Path) -> None:
    assert files.free(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    assert files.free(tmp_path / "empty")
    (tmp_path / "file").touch()
    assert not files.free(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").touch()
    assert not files.free(tmp_path / "full")


@given(st.text(alphabet="abcäß漢 .", min_size=1, max_size=200).filter(lambda name: name.strip(" .")))
@settings(max_examples=40, deadline=None)
def test_a_draft_is_hidden_beside_its_name_and_never_too_long(name: str) -> None:
    draft = files.draft_of(Path("folder") / name)
    assert draft.parent == Path("folder")
    assert draft.name.startswith(".")
    assert draft.name.endswith(".tmp")
    assert len(draft.name.encode()) <= 255
    assert files.draft_of(Path("folder") / name) != draft


def test_drafts_are_cleared_for_their_own_name_alone(tmp_path: Path) -> None:
    for name in ("model", "model2"):
        files.draft_of(tmp_path / name).mkdir()
        files.draft_of(tmp_path / name).write_bytes(b"half")
    files.clear_drafts(tmp_path / "model")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert all(name.startswith(".model2.") for name in left)


@pytest.mark.parametrize("fails", [False, True])
def test_a_new_folder_is_whole_or_not_there(fails: bool, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    try:
        with files.new_folder(target) as draft:
            (draft / "a").write_text("1")
            assert not target.exists()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert target.exists() is not fails
    assert [path.name for path in target.parent.iterdir()] == ([] if fails else ["out"])
    if not fails:
        with pytest.raises(FileExistsError), files.new_folder(target):
            raise AssertionError("not reached")
        assert (target / "a").read_text() == "1"
