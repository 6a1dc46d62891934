"""Further laws of the good pictures: batches by name and likeness, copies known again, which values stand out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.pictures import batches, copies
from flawforge.pictures.batches import BLOCKS, LEAST, Batches, alike, find_batches, in_order
from flawforge.pictures.copies import MOST, NEAR, SIDE, Known, known, likeness, pack
from flawforge.pictures.screening import Screening, outlier_limit
from flawforge_runtime.images import write_image

# ---- batches


@given(st.lists(st.from_regex(r"[ab]{0,2}[0-9]{1,3}", fullmatch=True), unique=True, max_size=12), st.randoms())
@settings(deadline=None)
def test_the_order_of_names_does_not_depend_on_how_they_come(names: list[str], random: Random) -> None:
    paths = [Path("d") / name for name in names]
    shuffled = list(paths)
    random.shuffle(shuffled)
    first, second = in_order(paths), in_order(shuffled)
    if len({(name.rstrip("0123456789"), int(name.lstrip("ab"))) for name in names}) == len(names):
        assert first == second
    assert sorted(first) == sorted(paths)


def test_folders_come_before_names_and_numbers_by_value() -> None:
    paths = [Path(name) for name in ("b/1.png", "a10/2.png", "a9/11.png", "a9/2.png", "a/z.png")]
    assert [str(path) for path in in_order(paths)] == ["a/z.png", "a9/2.png", "a9/11.png", "a10/2.png", "b/1.png"]


def drifting(count: int, per_batch: int, seed: int) -> dict[Path, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal((-(-count // per_batch), 64)), per_batch, axis=0)[:count]
    x = 100 + 3 * shared + rng.standard_normal((count, 64))
    return {Path(f"{place}.png"): row.astype(np.float16) for place, row in enumerate(x)}


@pytest.mark.parametrize(("count", "per_batch"), [(40, 5), (100, 10), (200, 4)])
def test_blocks_part_all_pictures_and_there_are_enough_of_them(count: int, per_batch: int) -> None:
    likenesses = drifting(count, per_batch, seed=3)
    found = find_batches([[path] for path in likenesses], likenesses, seed=1)
    assert found is not None
    assert [path for block in found.blocks for path in block] == in_order(list(likenesses))
    assert len(found.blocks) >= min(BLOCKS, count // 2)
    assert {len(block) for block in found.blocks[:-1]} == {found.length}
    assert 0 < found.nearer < 1
    again = find_batches([[path] for path in reversed(likenesses)], likenesses, seed=1)
    assert again == found  # whatever order they come in


def test_light_on_all_pictures_is_no_batch_and_a_missing_likeness_tells_nothing() -> None:
    likenesses = drifting(60, 1, seed=5)
    assert find_batches([[path] for path in likenesses], likenesses) is None
    found = drifting(60, 6, seed=5)
    del found[Path("7.png")]
    assert find_batches([[Path(f"{n}.png")] for n in range(60)], found) is None
    assert len(found) > LEAST


def test_batches_in_words_and_by_picture() -> None:
    found = Batches(((Path("1"), Path("2")), (Path("3"),)), 2, 0.37)
    assert found.of() == {Path("1"): "block 0", Path("2"): "block 0", Path("3"): "block 1"}
    assert found.lines()[0].startswith("neighbours in name differ 37% less than other pictures do")
    assert "2 blocks of 2 neighbours" in found.lines()[0]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_squared_distances_by_a_plain_loop(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    found = batches._squared(x)
    for i in range(5):
        for j in range(5):
            assert found[i, j] == pytest.approx(np.mean((x[i] - x[j]) ** 2), abs=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=20, max_size=20, unique=True), st.floats(0.1, 10), st.floats(-10, 10))
@settings(deadline=None, max_examples=8)
def test_alike_is_a_matter_of_ranks(scores: list[float], scale: float, shift: float) -> None:
    blocks = [f"b{place // 4}" for place in range(20)]
    moved = [scale * score + shift for score in scores]
    if len(set(moved)) == 20 and np.array_equal(np.argsort(scores), np.argsort(moved)):
        assert alike(scores, blocks) == alike(moved, blocks)
    assert alike(sorted(scores), blocks)


# ---- copies


def distinct(count: int, seed: int = 0) -> np.ndarray:
    """Likenesses whose nearest neighbours are all about as far apart."""
    return (128 + 20 * np.random.default_rng(seed).standard_normal((count, SIDE * SIDE))).astype(np.float16)


def test_within_follows_the_usual_distance_and_has_a_ceiling() -> None:
    rows = distinct(12)
    assert Known(frozenset(), rows).within == MOST  # these are far apart
    near = (128 + 0.5 * np.random.default_rng(1).standard_normal((12, SIDE * SIDE))).astype(np.float16)
    apart = np.sqrt(((near[:, None].astype(float) - near) ** 2).mean(axis=2)) + np.diag([np.inf] * 12)
    assert Known(frozenset(), near).within == pytest.approx(NEAR * np.median(apart.min(axis=1)), rel=1e-3)
    for few in (rows[:0], rows[:1]):
        assert Known(frozenset(), few).within == 0.0
    assert Known(frozenset(), np.repeat(rows[:1], 5, axis=0)).within == 0.0  # alike to a grey level: by the file alone


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_a_likeness_does_not_depend_on_size_or_kind_of_number(seed: int, factor: int) -> None:
    cells = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    small = likeness(cells)
    large = np.kron(cells, np.ones((factor, factor, 1), np.uint8))
    np.testing.assert_allclose(likeness(large), small, atol=0.3)
    np.testing.assert_allclose(likeness(cells.astype(np.float32) / 255), small, atol=0.7)
    np.testing.assert_allclose(likeness(cells[::-1]).reshape(SIDE, SIDE), small.reshape(SIDE, SIDE)[::-1], atol=0.01)


def test_what_a_model_keeps_is_json_and_bounded() -> None:
    rows = distinct(5)
    config = json.loads(json.dumps({"training": {"fingerprints": ["a", "b"], "likenesses": pack(rows)}}))
    found = known(config)
    assert found.fingerprints == {"a", "b"}
    assert np.array_equal(found.likenesses, rows)
    assert pack([]) == ""
    assert known({"training": None}).likenesses.shape == (0, SIDE * SIDE)
    many = known({"training": {"likenesses": pack(np.repeat(rows[:1], copies.MODEL_LIMIT + 3, axis=0))}})
    assert len(many.likenesses) == copies.MODEL_LIMIT


def test_a_brighter_copy_is_another_picture_and_a_faint_change_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pictures = [np.kron(rng.integers(0, 200, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(4)]
    found = known({"training": {"likenesses": pack(likeness(each) for each in pictures)}})
    for name, picture in (("faint", pictures[1]), ("brighter", pictures[1] + 30)):
        picture = picture.copy()
        picture[0, 0] ^= 1  # another file
        write_image(tmp_path / f"{name}.png", picture)
    assert found.trained_on([tmp_path / "faint.png", tmp_path / "brighter.png"]) == [tmp_path / "faint.png"]


# ---- what stands out


@given(st.lists(st.floats(-100, 100), min_size=10, max_size=30), st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_limit_needs_no_order_and_rises_for_a_rarer_rate(values: list[float], random: Random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    limit = outlier_limit(values)
    assert limit is not None
    assert outlier_limit(shuffled) == limit
    rare = outlier_limit(values, 0.01)
    assert rare is not None
    assert rare >= limit > np.median(values)


@given(st.integers(10, 40), st.floats(-50, 50))
@settings(deadline=None, max_examples=15)
def test_equal_values_never_stand_out(count: int, value: float) -> None:
    limit = outlier_limit([value] * count)
    assert limit is not None
    assert limit >= value
    assert limit == pytest.approx(value, abs=1e-4)


def screening(limit: float | None) -> Screening:
    scores = ((Path("d/odd.png"), 9.0), (Path("d/b.png"), 3.0), (Path("d/c.png"), 2.0), (Path("d/e.png"), 1.0))
    return Screening(scores, limit, "pixels")


def test_a_screening_in_words() -> None:
    found = screening(5.0)
    assert found.suspects == ((Path("d/odd.png"), 9.0),)
    first, second = found.lines()
    assert first == (
        "1 of 4 good pictures stands out from all others (by chance, about 1 folder in 20 of good pictures alone gets this "
        "warning); look at it, and leave it out if it is not good:"
    )
    assert second == "  d/odd.png: 3.6 times a typical score"  # the median is 2.5
    (line,) = screening(9.0).lines()
    assert line.endswith("as multiples of a typical one's score: odd.png (3.6), b.png (1.2), c.png (0.8)")
    assert screening(None).lines() == ["4 good pictures are too few to tell which of them are unlike the others"]
    assert screening(None).suspects == ()


def test_a_screening_as_json() -> None:
    told = json.loads(json.dumps(screening(5.0).as_dict()))
    assert (told["count"], told["limit"], told["rate"], told["features"]) == (4, 5.0, 0.05, "pixels")
    assert told["suspects"] == [{"path": "d/odd.png", "score": 9.0}]
    assert [row["path"] for row in told["most_anomalous"]] == ["d/odd.png", "d/b.png", "d/c.png"]
