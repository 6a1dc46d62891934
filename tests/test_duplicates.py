"""Burst shots are found; parts that only look alike are not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flawforge.pictures.check import check_data
from flawforge.pictures.dataset import split_holdout
from flawforge.pictures.duplicates import SIDE, THRESHOLD, join, near_duplicates, thumbnail
from flawforge.pictures.listing import good_entries, read_entries
from flawforge_runtime.decode import read_picture

SHARED = cv2.GaussianBlur(np.random.default_rng(99).random((200, 200)), (0, 0), 5)


def part(seed: int, individual: float = 0.15) -> np.ndarray:
    """200 x 200 x 3 uint8: what all parts share (a ring, a blotchy ground) and a grain of its own."""
    grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(200, 200)), (0, 0), 3)
    light = 0.5 + 2.0 * (SHARED - SHARED.mean()) + individual * grain / grain.std()
    rows, columns = np.mgrid[-1:1:200j, -1:1:200j]
    light[np.abs(np.hypot(rows, columns) - 0.7) < 0.08] += 0.3
    return np.rint(255 * np.clip(light, 0, 1)[..., None].repeat(3, axis=2)).astype(np.uint8)


def shot(picture: np.ndarray, seed: int, move: int = 1) -> np.ndarray:
    """The same part again: other exposure, contrast and noise, moved by up to `move` pixels of 200, as a JPEG."""
    rng = np.random.default_rng(seed)
    light = picture.astype(np.float64) / 255
    light = (light ** rng.uniform(0.8, 1.3)) * rng.uniform(0.6, 1.0) + rng.uniform(0, 0.1)
    light += rng.normal(0, 0.01, light.shape)
    moved = np.roll(light, rng.integers(-move, move + 1, 2), axis=(0, 1))
    pixels = np.rint(255 * np.clip(moved, 0, 1)).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)


def groups_of(pictures: list[np.ndarray]) -> list[list[int]]:
    return near_duplicates([thumbnail(picture) for picture in pictures])[0]


@pytest.mark.parametrize("count", [3, 8, 60])
@pytest.mark.parametrize("individual", [0.01, 0.02, 0.05])
def test_aligned_parts_that_look_alike_are_not_grouped(count, individual):
    pictures = [part(seed, individual) for seed in range(count)]
    first, second = (picture[..., 0].ravel() for picture in pictures[:2])
    assert np.corrcoef(first, second)[0, 1] > 0.5  # plain likeness would have grouped them
    assert groups_of(pictures) == []


@pytest.mark.parametrize(("individual", "move"), [(0.02, 0), (0.05, 1), (0.15, 3)])
def test_bursts_and_exposures_are_grouped_whole(individual, move):
    """Fixed parts with faint marks, and well-marked parts that are laid down again 1.5 % off."""
    pictures = []
    for seed in range(20):
        pictures.append(part(seed, individual))
        pictures += [shot(part(seed, individual), 100 * seed + again, move) for again in range(seed % 4)]
    expected, start = [], 0
    for seed in range(20):
        size = 1 + seed % 4
        expected += [list(range(start, start + size))] if size > 1 else []
        start += size
    assert groups_of(pictures) == expected


def test_two_parts_shot_again_and_again():
    pictures = [shot(part(seed % 2), seed) for seed in range(10)]
    assert groups_of(pictures) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def grid(seed: int, period: float, turn: float) -> np.ndarray:
    """256 x 256 x 3 uint8: a grid of wires, anyhow placed, turned by up to `turn` degrees, with grain."""
    rng = np.random.default_rng(seed)
    angle, (right, down) = np.deg2rad(rng.uniform(-turn, turn)), rng.uniform(0, period, 2)
    rows, columns = np.mgrid[:256.0, :256.0]
    across = (columns * np.cos(angle) + rows * np.sin(angle) + right) % period
    along = (rows * np.cos(angle) - columns * np.sin(angle) + down) % period
    light = 140 + 40 * ((across < period / 4) | (along < period / 4)) + rng.normal(0, 8, rows.shape)
    return np.clip(light, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize("period", [6, 10, 16, 24, 32, 45])
@pytest.mark.parametrize("turn", [0, 2])
def test_a_product_that_repeats_itself_is_not_one_part(period, turn):
    groups, least = near_duplicates([thumbnail(grid(seed, period, turn)) for seed in range(40)])
    assert max(map(len, groups), default=0) <= 20
    if period == 32:
        assert least != THRESHOLD  # plain likeness would have made them one part


def test_a_shot_is_told_from_another_place_of_a_grid():
    """More likeness is asked for, and two shots of one place have it."""
    pictures = [grid(seed, 24, 2) for seed in range(40)]
    groups, least = near_duplicates([thumbnail(each) for each in [*pictures, pictures[3], pictures[7]]])
    assert least is not None
    assert least > THRESHOLD
    assert any({3, 40} <= set(group) for group in groups)
    assert any({7, 41} <= set(group) for group in groups)


def test_where_no_likeness_tells_parts_apart_none_are_grouped(tmp_path):
    """Stripes, anyhow placed: the strictest likeness would still join most of them."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        across = np.mgrid[:256.0, :256.0][1] + rng.uniform(0, 24)
        light = 128 + 60 * np.sin(2 * np.pi * across / 24) + rng.normal(0, 2, across.shape)
        cv2.imwrite(str(tmp_path / f"{seed:02}.png"), np.clip(light, 0, 255).astype(np.uint8))
    report = check_data(read_entries(tmp_path))
    assert report.duplicate_groups == ()
    assert "shots of one part are not looked for; if there are some, say which with --group-by" in report.lines()[-1]


@pytest.mark.parametrize("count", [4, 40])
def test_a_grid_can_be_trained_on(count, tmp_path):
    """It was refused as so many shots of one part; now it is said that they cannot be told."""
    for seed in range(count):
        cv2.imwrite(str(tmp_path / f"{seed:02}.png"), grid(seed, 32, 2))
    entries = read_entries(tmp_path)
    report = check_data(entries)
    assert count == 4 or "as on a grid or a weave" in " ".join(report.lines())
    train, held = split_holdout(entries, report.duplicate_groups, 0.2, 0)
    assert len(train) + len(held) == count
    assert len(held) <= max(1, count // 2)


def test_order_does_not_matter():
    pictures = [shot(part(seed // 3), seed) for seed in range(24)]
    order = np.random.default_rng(0).permutation(24)
    found = {frozenset(int(order[i]) for i in group) for group in groups_of([pictures[i] for i in order])}
    assert found == {frozenset(group) for group in groups_of(pictures)}


def test_flat_pictures_and_few_pictures():
    flat = [np.full((50, 50, 3), level, np.uint8) for level in range(0, 250, 25)]
    assert groups_of(flat) == []
    assert groups_of([]) == groups_of([part(0)]) == groups_of([part(0), part(0)]) == []


def test_thumbnail_of_either_depth():
    picture = part(3)
    small = thumbnail(picture)
    assert (small.shape, small.dtype) == ((SIDE, SIDE), np.float32)
    np.testing.assert_allclose(thumbnail(picture.astype(np.float32) / 255), small, atol=1 / 255)
    assert thumbnail(np.zeros((1, 700, 3), np.uint8)).shape == (SIDE, SIDE)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_join_against_scipy(case):
    count, pairs = case
    links = np.array(pairs, int).reshape(-1, 2)
    _, labels = connected_components(coo_array((np.ones(len(links)), links.T), shape=(count, count)), directed=False)
    expected = [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels)]
    assert join(count, pairs) == [group for group in expected if len(group) > 1]


def real(name: str) -> list[Path]:
    root = os.environ.get("FLAWFORGE_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"FLAWFORGE_DATA does not hold {name}")
    return [entry.path for entry in good_entries(read_entries(Path(root) / name))]


def test_real_bottles_are_not_one_group():
    paths = real("mvtec_bottle")
    groups = groups_of([read_picture(path).pixels for path in paths])
    assert [[paths[index].name for index in group] for group in groups] == [["069.jpg", "070.jpg"], ["156.jpg", "158.jpg"]]


def test_real_exposures_of_a_tile_are_grouped():
    """File names are exp<exposure>_num_<frame>; six frames in a row, exposures 1 to 6, are one tile."""
    paths = real("magnetic_tile")
    names = [re.match(r"exp(\d)_num_(\d+)", path.name) for path in paths]
    frames = sorted((int(name[2]), int(name[1]), index) for index, name in enumerate(names) if name)
    tiles = [frames[at : at + 6] for at in range(len(frames) - 5)]
    whole_runs = [tile for tile in tiles if [exposure for _, exposure, _ in tile] == [1, 2, 3, 4, 5, 6]]
    tiles = [[index for _, _, index in tile] for tile in whole_runs]
    groups = [set(group) for group in groups_of([read_picture(path).pixels for path in paths])]
    whole = sum(any(set(tile) <= group for group in groups) for tile in tiles)
    assert len(tiles) > 100
    assert whole >= 0.9 * len(tiles)
    assert max(len(group) for group in groups) <= 12
