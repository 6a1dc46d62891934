"""Splits that respect groups, and batches that are a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import multiprocessing
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.pictures.dataset import GoodPictures, split_holdout
from flawforge.pictures.listing import Entry
from flawforge.types import Batch, ConfigError, DataError, Forged, ImageError, Sample
from flawforge_runtime.images import inner_of, letterbox, write_image


def entries_named(*names: str, split: str = "train") -> tuple[Entry, ...]:
    return tuple(Entry(Path(name), split=split) for name in names)


MANY = entries_named(*(f"{index:03}.png" for index in range(100)))


def invert_square(sample: Sample, rng: np.random.Generator) -> Forged:
    """A forger of a few lines: inverts a square of 6 pixels anywhere, and remembers what it was given."""
    height, width = sample.image.shape[:2]
    side = min(6, height, width)
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    full = 255 if sample.image.dtype == np.uint8 else 1.0
    image = sample.image.copy()
    image[mask] = np.where(image[mask] * 2 > full, 0, full)
    return Forged(image, mask, "square")


def top_row(sample: Sample, rng: np.random.Generator) -> Forged:
    """Always forges the uppermost row of the picture to 1/5 of full light."""
    mask = np.zeros(sample.image.shape[:2], bool)
    mask[0] = True
    image = sample.image.copy()
    image[0] = 51 if image.dtype == np.uint8 else 0.2
    return Forged(image, mask, "top")


def leave_good(sample: Sample, rng: np.random.Generator) -> Forged:
    return Forged(sample.image, np.zeros(sample.image.shape[:2], bool), "nothing")


@functools.cache
def noise(index: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_disk(root: Path, count: int = 6, suffix: str = ".png") -> tuple[Entry, ...]:
    for index in range(count):
        write_image(root / f"{index}{suffix}", noise(index))
    return tuple(Entry(root / f"{index}{suffix}") for index in range(count))


def digest(batch: Batch) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in batch)).hexdigest()


def digests_in_a_fresh_process(root: str, steps: list[int]) -> dict[int, str]:
    pictures = GoodPictures([Entry(path) for path in sorted(Path(root).glob("*.png"))], (32, 64), threads=1)
    return {step: digest(pictures.batch(invert_square, 5, step, 4)) for step in steps}


# ---- split_holdout


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=12),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_groups_never_cross_and_the_size_is_the_nearest_possible(group_sizes, share, seed):
    numbers = np.random.default_rng(0).permutation(sum(group_sizes))
    entries = entries_named(*(f"{number}.png" for number in range(len(numbers))))
    cuts = np.cumsum(group_sizes)[:-1]
    groups = [[entries[index].path for index in group] for group in np.split(numbers, cuts)]
    train, held = split_holdout(entries, groups, share, seed)
    assert sorted(train + held, key=str) == sorted(entries, key=str)
    assert train
    assert held
    held_paths = {entry.path for entry in held}
    assert all(len(held_paths & set(group)) in (0, len(group)) for group in groups)
    sums = {sum(chosen) for size in range(len(groups) + 1) for chosen in itertools.combinations(group_sizes, size)}
    possible = [abs(total - share * len(entries)) for total in sums if 0 < total < len(entries)]
    assert abs(len(held) - share * len(entries)) == pytest.approx(min(possible))
    assert list(train) == [entry for entry in entries if entry.path not in held_paths]


def test_same_seed_same_split():
    groups = [[MANY[1].path, MANY[50].path, MANY[99].path]]
    first = split_holdout(MANY, groups, 0.2, 0)
    assert first == split_holdout(MANY, groups, 0.2, 0)
    assert first != split_holdout(MANY, groups, 0.2, 1)
    assert len(first[1]) == 20


def test_every_picture_is_equally_likely_to_be_held():
    counts = dict.fromkeys(MANY[:20], 0)
    for seed in range(2000):
        for entry in split_holdout(MANY[:20], [], 0.25, seed)[1]:
            counts[entry] += 1
    assert sum(counts.values()) == 2000 * 5
    assert max(abs(count - 500) for count in counts.values()) < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_small_shares_hold_at_least_one():
    train, held = split_holdout(MANY[:3], [], 0.01, 0)
    assert (len(train), len(held)) == (2, 1)


def test_by_name_pulls_near_duplicates_along():
    entries = entries_named("good/a_1.png", "good/a_2.png", "good/b_1.png", "good/b_2.png")
    train, held = split_holdout(entries, [], "a_*", 0)
    assert [entry.path.name for entry in held] == ["a_1.png", "a_2.png"]
    train, held = split_holdout(entries, [[entries[1].path, entries[2].path]], "a_*", 0)
    assert [entry.path.name for entry in train] == ["b_2.png"]


def test_a_csv_that_says_what_to_hold_wins():
    entries = MANY[:4] + entries_named("x.png", split="calibration")
    train, held = split_holdout(entries, [], 0.5, 0)
    assert train == MANY[:4]
    assert held == entries[4:]


@pytest.mark.parametrize(
    ("entries", "groups", "holdout", "error", "sentence"),
    [
        (MANY[:1], [], 0.2, DataError, "1 good pictures were given, at least 2"),
        ((), [], 0.2, DataError, "0 good pictures were given"),
        (MANY, [], "x*", DataError, r"no file name among 100 good pictures matches the hold-out pattern 'x\*'"),
        (MANY, [], "*.png", DataError, "all 100 good pictures are held back"),
        (MANY[:3], [[e.path for e in MANY[:3]]], 0.2, DataError, "look like shots of one part"),
        (MANY, [], 0.0, ConfigError, "allowed is above 0 and below 1"),
        (MANY, [], 1.0, ConfigError, "allowed is above 0 and below 1"),
        (MANY, [], float("nan"), ConfigError, "allowed is above 0 and below 1"),
        (entries_named("a", "b", split="calibration"), [], 0.2, DataError, "leave some to train on"),
    ],
)
def test_holdout_sentences(entries, groups, holdout, error, sentence):
    with pytest.raises(error, match=sentence):
        split_holdout(entries, groups, holdout, 0)


# ---- GoodPictures


def test_batch_shapes_ranges_and_meaning(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (64, 64))
    batch = pictures.batch(invert_square, seed=0, step=0, size=24, forge_share=0.5)
    assert [part.shape for part in batch] == [(24, 3, 64, 64)] * 2 + [(24, 1, 64, 64)] * 2 + [(24,)] * 2 + [(24, 4)]
    assert all(part.dtype == np.float32 for part in batch[:4])
    assert batch.clean.min() >= 0
    assert batch.clean.max() <= 1
    forged_ones = batch.mask.any(axis=(1, 2, 3))
    assert 4 <= forged_ones.sum() <= 20
    for index in range(24):
        levels = np.rint(batch.clean[index] * 255).transpose(1, 2, 0)
        drawn = [i for i in range(6) if np.array_equal(levels, pictures.picture(i))]
        assert drawn == [batch.index[index]]
        np.testing.assert_array_equal(batch.valid[index, 0], pictures.valid(drawn[0]))
        np.testing.assert_array_equal(batch.inner[index], inner_of(pictures.valid(drawn[0])))
        changed = (batch.forged[index] != batch.clean[index]).any(axis=0) & pictures.valid(drawn[0])
        np.testing.assert_array_equal(changed, batch.mask[index, 0] == 1)
    assert not (batch.mask * (1 - batch.valid)).any()


def test_one_picture_alone_is_the_same_as_in_a_large_batch(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (32, 64))
    small, large = (pictures.batch(invert_square, 3, 9, size) for size in (2, 7))
    for one, other in zip(small, large, strict=True):
        np.testing.assert_array_equal(one, other[:2])


def test_seed_and_step_matter(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (32, 64))
    found = {digest(pictures.batch(invert_square, seed, step, 4)) for seed in range(3) for step in range(3)}
    assert len(found) == 9


def test_same_bits_for_threads_processes_order_and_cache(tmp_path):
    entries = on_disk(tmp_path)
    pictures = GoodPictures(entries, (32, 64))
    steps = list(range(6))
    expected = {step: digest(pictures.batch(invert_square, 5, step, 4)) for step in steps}
    assert {step: digest(pictures.batch(invert_square, 5, step, 4)) for step in steps[::-1]} == expected
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda step: digest(pictures.batch(invert_square, 5, step, 4)), steps)
        assert dict(zip(steps, found, strict=True)) == expected
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert processes.submit(digests_in_a_fresh_process, str(tmp_path), steps[::-1]).result() == expected
    for room in (0, 3 * 32 * 64 * 3):
        again = GoodPictures(entries, (32, 64), cache_bytes=room, threads=1)
        assert {step: digest(again.batch(invert_square, 5, step, 4)) for step in steps} == expected


def test_a_used_batch_can_be_written_over(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (32, 64))
    used = pictures.batch(invert_square, 0, 0, 5)
    expected = digest(pictures.batch(invert_square, 0, 1, 5))
    assert pictures.batch(invert_square, 0, 1, 5, out=used) is used
    assert digest(used) == expected


def test_clean_batches_show_every_picture_once(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path, 5), (32, 64))
    batches = list(pictures.clean_batches(2))
    assert [len(batch.clean) for batch in batches] == [2, 2, 1]
    clean = np.concatenate([batch.clean for batch in batches])
    for index in range(5):
        expected = pictures.picture(index).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(clean[index], expected, rtol=1e-6)
    for batch in batches:
        np.testing.assert_array_equal(batch.forged, batch.clean)
        assert not batch.mask.any()


def test_share_of_forged_pictures(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (32, 64))
    for share in (0.0, 0.3, 1.0):
        batch = pictures.batch(invert_square, 0, 0, 200, forge_share=share)
        forged = batch.mask.any(axis=(1, 2, 3)).mean()
        assert abs(forged - share) <= 5 * np.sqrt(share * (1 - share) / 200)


def test_a_forger_may_leave_a_picture_good(tmp_path):
    batch = GoodPictures(on_disk(tmp_path), (32, 64)).batch(leave_good, 0, 0, 8, forge_share=1.0)
    np.testing.assert_array_equal(batch.forged, batch.clean)
    assert not batch.mask.any()


def test_a_forged_edge_is_repeated_into_the_border(tmp_path):
    write_image(tmp_path / "wide.png", noise(0, 40, 60))
    pictures = GoodPictures([Entry(tmp_path / "wide.png")], (64, 64))
    batch = pictures.batch(top_row, 0, 0, 1, forge_share=1.0)
    top = int(np.flatnonzero(pictures.valid(0)[:, 0])[0])
    assert top > 0
    np.testing.assert_allclose(batch.forged[0, :, : top + 1], 0.2, rtol=1e-6)
    assert not np.allclose(batch.clean[0, :, :top], 0.2)
    np.testing.assert_array_equal(np.flatnonzero(batch.mask[0, 0].any(axis=1)), [top])


def test_region_of_interest(tmp_path):
    roi = np.zeros((40, 60), bool)
    roi[:, 30:] = True
    pictures = GoodPictures(on_disk(tmp_path), (64, 96), roi=roi)
    batch = pictures.batch(invert_square, 0, 0, 40, forge_share=1.0)
    np.testing.assert_array_equal(batch.valid[0, 0], np.arange(96)[None].repeat(64, 0) >= 48)
    assert not batch.mask[..., :48].any()
    np.testing.assert_array_equal(batch.forged[..., :48], batch.clean[..., :48])
    assert batch.mask.any(axis=(1, 2, 3)).mean() > 0.9  # drawn again where the square fell outside
    np.testing.assert_array_equal((batch.forged != batch.clean).any(axis=1, keepdims=True), batch.mask == 1)
    never = GoodPictures(on_disk(tmp_path), (64, 96), roi=roi & (np.arange(40)[:, None] > 9))
    batch = never.batch(top_row, 0, 0, 3, forge_share=1.0)
    np.testing.assert_array_equal(batch.forged, batch.clean)


def test_region_of_interest_sentences(tmp_path):
    entries = on_disk(tmp_path)
    with pytest.raises(ImageError, match="region of interest is 40 x 40"):
        GoodPictures(entries, (64, 96), roi=np.ones((40, 40), bool))
    with pytest.raises(DataError, match="region of interest is empty"):
        GoodPictures(entries, (64, 96), roi=np.zeros((40, 60), bool))


def test_unreadable_pictures_are_skipped_and_named(tmp_path):
    entries = on_disk(tmp_path)
    entries[2].path.write_bytes(entries[2].path.read_bytes()[:500])
    entries[4].path.unlink()
    pictures = GoodPictures(entries, (32, 64))
    assert len(pictures) == 4
    assert [entry.path.name for entry in pictures.entries] == ["0.png", "1.png", "3.png", "5.png"]
    assert [path.name for path, _ in pictures.skipped] == ["2.png", "4.png"]
    with pytest.raises(DataError, match=r"none of the 1 good pictures can be read, the first because .*2\.png is"):
        GoodPictures(entries[2:3], (32, 64))
    with pytest.raises(DataError, match="give at least one"):
        GoodPictures((), (32, 64))


def test_forgers_see_another_picture_and_a_texture(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (32, 64), textures=[noise(50, 9, 7), noise(51, 300, 100)])
    seen: list[tuple[bytes, bytes, tuple[int, ...]]] = []

    def spy(sample: Sample, rng: np.random.Generator) -> Forged:
        assert sample.other is not None
        assert sample.texture is not None
        assert sample.image.shape == sample.other.shape
        assert sample.image.dtype == sample.other.dtype == sample.texture.dtype == np.uint8
        seen.append((sample.image.tobytes(), sample.other.tobytes(), sample.texture.shape))
        return leave_good(sample, rng)

    pictures.batch(spy, 0, 0, 60, forge_share=1.0)
    assert len({image for image, _, _ in seen}) == len({other for _, other, _ in seen}) == 6
    assert all(image != other for image, other, _ in seen)
    assert {shape for _, _, shape in seen} == {(9, 7, 3), (192, 64, 3)}  # short side at most the canvas's long side
    alone = GoodPictures(on_disk(tmp_path, 1), (32, 64))

    def lonely(sample: Sample, rng: np.random.Generator) -> Forged:
        assert sample.other is None
        assert sample.texture is None
        return leave_good(sample, rng)

    alone.batch(lonely, 0, 0, 3, forge_share=1.0)


def test_textures_that_cannot_be_read(tmp_path):
    entries = on_disk(tmp_path)
    (tmp_path / "text.jpg").write_text("no texture")
    seen: list[int] = []

    def spy(sample: Sample, rng: np.random.Generator) -> Forged:
        assert sample.texture is not None
        seen.append(int(sample.texture[0, 0, 0]))
        return leave_good(sample, rng)

    flat = np.full((8, 8, 3), 77, np.uint8)
    GoodPictures(entries, (32, 64), textures=[tmp_path / "text.jpg", flat]).batch(spy, 0, 0, 20, forge_share=1.0)
    assert seen == [77] * 20
    broken = GoodPictures(entries, (32, 64), textures=[tmp_path / "text.jpg"])
    with pytest.raises(DataError, match="none of the 1 textures can be read"):
        broken.batch(spy, 0, 0, 20)


def test_deep_pictures_make_all_float(tmp_path):
    entries = on_disk(tmp_path, 2)
    deep = np.random.default_rng(0).integers(0, 65536, (40, 60, 3), dtype=np.uint16)
    write_image(tmp_path / "deep.png", deep)
    pictures = GoodPictures((*entries, Entry(tmp_path / "deep.png")), (64, 96), textures=[noise(9)])
    assert pictures.deep
    assert all(pictures.picture(index).dtype == np.float32 for index in range(3))
    expected, _ = letterbox((deep / 65535).astype(np.float32), (64, 96))
    np.testing.assert_allclose(pictures.picture(2), expected, rtol=1e-5)
    np.testing.assert_allclose(pictures.picture(0) * 255, letterbox(noise(0), (64, 96))[0], rtol=1e-5)

    def spy(sample: Sample, rng: np.random.Generator) -> Forged:
        assert sample.texture is not None
        assert sample.image.dtype == sample.texture.dtype == np.float32
        assert sample.texture.max() <= 1.0
        return invert_square(sample, rng)

    batch = pictures.batch(spy, 0, 0, 12, forge_share=1.0)
    assert 0 <= batch.forged.min() < batch.forged.max() <= 1


def test_a_forger_cannot_spoil_the_pictures_that_are_kept(tmp_path):
    pictures = GoodPictures(on_disk(tmp_path), (64, 96))

    def vandal(sample: Sample, rng: np.random.Generator) -> Forged:
        sample.image[:] = 0
        return leave_good(sample, rng)

    with pytest.raises(ValueError, match="read-only"):
        pictures.batch(vandal, 0, 0, 1, forge_share=1.0)


def test_the_cache_limit_holds(tmp_path):
    entries = on_disk(tmp_path, 30)
    each = 256 * 384 * 3

    def held(cache_bytes: int) -> int:
        tracemalloc.start()
        pictures = GoodPictures(entries, (256, 384), cache_bytes=cache_bytes, threads=1)
        current, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(pictures) == 30
        return current

    assert held(30 * each) > 29 * each
    assert held(4 * each) < 6 * each


def test_the_prior_is_asked_once_per_picture_and_reaches_the_forger(tmp_path):
    asked, seen = [], []
    for index in range(2):
        write_image(tmp_path / f"{index}.png", noise(index, 40, 60))

    def prior(picture):
        asked.append(picture.shape)
        return picture[..., 0].astype(np.float32) / 255

    def forger(sample, rng):
        seen.append(np.array_equal(sample.prior, sample.image[..., 0].astype(np.float32) / 255))
        return top_row(sample, rng)

    pictures = GoodPictures([Entry(tmp_path / "0.png"), Entry(tmp_path / "1.png")], (64, 64), prior=prior)
    pictures.batch(forger, 0, 0, 12, forge_share=1.0)
    assert seen == [True] * 12
    assert asked == [(43, 64, 3)] * 2


def test_a_varied_copy_has_a_prior_of_its_own_whatever_was_drawn_before(tmp_path):
    """A batch is a function of seed and step alone: what another batch drew first must not leave its saliency behind."""
    for index in range(2):
        write_image(tmp_path / f"{index}.png", noise(index, 40, 60))
    entries = [Entry(tmp_path / "0.png"), Entry(tmp_path / "1.png")]

    def bright(picture):
        return picture[..., 0].astype(np.float32) / 255

    def where_bright(sample, rng):
        mask = sample.prior > 0.6
        image = np.where(mask[..., None], 255 - sample.image, sample.image)
        return dataclasses.replace(top_row(sample, rng), image=image, mask=mask)

    def made(*steps):
        pictures = GoodPictures(entries, (64, 64), prior=bright, tolerate=("brightness", "shift"))
        return [pictures.batch(where_bright, 0, step, 6, forge_share=1.0) for step in steps][-1]

    for mine, other in zip(made(5), made(0, 1, 2, 3, 4, 5), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_what_may_not_be_drawn_is_not_pasted_from_either(tmp_path):
    """The pictures that a gate or a test keeps apart must not reach training as another picture's material."""
    for index in range(6):
        write_image(tmp_path / f"{index}.png", np.full((40, 60, 3), 40 * index, np.uint8))
    pictures = GoodPictures([Entry(tmp_path / f"{i}.png") for i in range(6)], (64, 64))
    seen = set()

    def forger(sample, rng):
        seen.add((int(sample.image[0, 0, 0]) // 40, int(sample.other[0, 0, 0]) // 40))
        return top_row(sample, rng)

    pictures.batch(forger, 0, 0, 60, forge_share=1.0, among=[1, 2, 4])
    assert seen == {(a, b) for a in (1, 2, 4) for b in (1, 2, 4) if a != b}


def test_a_batch_names_each_pictures_class(tmp_path):
    """0 = left good; a forger that says nothing makes class 1, one that says "class" makes that."""
    pictures = GoodPictures(on_disk(tmp_path), (32, 64))

    def classes(sample, rng):
        forged = invert_square(sample, rng)
        kind = 2 + int(forged.mask[:, : forged.mask.shape[1] // 2].any())
        return dataclasses.replace(forged, drawn={"class": kind})

    batch = pictures.batch(classes, 0, 0, 40, forge_share=0.5)
    forged = batch.mask.any(axis=(1, 2, 3))
    assert batch.kind.dtype == np.int64
    assert set(batch.kind) == {0, 2, 3}
    np.testing.assert_array_equal(batch.kind > 0, forged)
    np.testing.assert_array_equal(batch.kind[forged] - 2, batch.mask[forged][..., :32].any(axis=(1, 2, 3)))
    assert set(pictures.batch(invert_square, 0, 0, 40).kind) == {0, 1}
    assert set(next(pictures.clean_batches(3)).kind) == {0}


def test_maps_by_index_reach_the_forger_without_the_border(tmp_path):
    """A picture of 64 x 32 stands in the middle of a canvas of 64 x 64; the maps are the canvas's, of any size."""
    for index in range(2):
        write_image(tmp_path / f"{index}.png", noise(index, 64, 32))
    pictures = GoodPictures([Entry(tmp_path / "0.png"), Entry(tmp_path / "1.png")], (64, 64))
    seen = []

    def forger(sample, rng):
        seen.append(sample)
        return invert_square(sample, rng)

    across = np.linspace(0, 1, 64, dtype=np.float32) * np.ones((64, 1), np.float32)
    pictures.follow(lambda index: None if index else (across, np.full((4, 4), 0.25, np.float32)))
    batch = pictures.batch(forger, 0, 0, 12, forge_share=1.0)
    assert {sample.prior is None for sample in seen} == {False, True}
    for sample, index in zip(seen, batch.index, strict=True):
        assert (sample.prior is None) == bool(index)
        if sample.prior is not None:
            assert sample.prior.shape == (*sample.image.shape[:2], 2) == (64, 32, 2)
            np.testing.assert_allclose(sample.prior[..., 0], across[:, 16:48], atol=1e-6)
            assert (sample.prior[..., 1] == 0.25).all()
