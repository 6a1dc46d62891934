"""The demo's renderer: same arguments, same bits; outside its mask a defect changes nothing."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from flawforge.demo import scene, washers
from flawforge.types import ConfigError, DataError

SIZES = (64, 100, 256, 512)


@pytest.mark.parametrize("size", SIZES)
def test_good_has_the_size_asked_for(size: int) -> None:
    picture = washers.render_good(3, seed=1, size=size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_same_arguments_same_bits() -> None:
    np.testing.assert_array_equal(washers.render_good(5, seed=2, size=128), washers.render_good(5, seed=2, size=128))
    for kind in washers.KINDS:
        one, two = (washers.render_defect(kind, 5, seed=2, size=128) for _ in range(2))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def test_index_and_seed_each_change_the_part() -> None:
    base = washers.render_good(0, seed=0, size=128)
    assert (base != washers.render_good(1, seed=0, size=128)).mean() > 0.5
    assert (base != washers.render_good(0, seed=1, size=128)).mean() > 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", washers.KINDS)
def test_outside_the_mask_a_defect_equals_the_good_part_to_the_bit(kind: str, size: int) -> None:
    for index in range(3):
        good = washers.render_good(index, seed=7, size=size)
        bad, mask = washers.render_defect(kind, index, seed=7, size=size)
        assert mask.shape == (size, size)
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(bad[~mask], good[~mask])


@pytest.mark.parametrize("kind", washers.KINDS)
def test_the_mask_is_the_visible_change(kind: str) -> None:
    """No mask is empty or huge, and the mean change inside is well above the noise of one grey level."""
    for index in range(16):
        good = washers.render_good(index, seed=3)
        bad, mask = washers.render_defect(kind, index, seed=3)
        assert 60 <= mask.sum() <= 0.06 * mask.size, (kind, index, mask.sum())
        change = np.abs(bad.astype(int) - good.astype(int)).max(axis=2)[mask]
        assert change.mean() > 4, (kind, index, change.mean())
        assert (change > 0).mean() > 0.75, (kind, index)


def test_defects_differ_between_parts() -> None:
    for kind in washers.KINDS:
        first, second = washers.render_defect(kind, 0)[1], washers.render_defect(kind, 1)[1]
        assert (first & second).sum() < 0.9 * min(first.sum(), second.sum())


def test_a_chip_shows_the_mat() -> None:
    bad, mask = washers.render_defect("chip", 0, seed=0)
    good = washers.render_good(0, seed=0)
    assert bad[mask].mean() < 0.75 * good[mask].mean()


@pytest.mark.parametrize(
    ("kind", "index", "size"), [("crack", 0, 256), ("dent", -1, 256), ("dent", 0, 8), ("dent", 0, 9999)]
)
def test_bad_arguments_are_named_in_one_sentence(kind: str, index: int, size: int) -> None:
    with pytest.raises(ConfigError) as error:
        washers.render_defect(kind, index, size=size)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_write_demo_parts_makes_the_mvtec_layout(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = washers.write_demo_parts(
        tmp_path / "parts", good=3, test_good=2, per_kind=1, size=64, progress=lambda *at: seen.append(at)
    )
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    defects = [
        f"{top}/{kind}/000{end}.png" for kind in washers.KINDS for top, end in (("test", ""), ("ground_truth", "_mask"))
    ]
    assert files == sorted(
        [*(f"train/good/00{i}.png" for i in range(3)), *(f"test/good/00{i}.png" for i in range(2)), *defects]
    )
    assert seen == [(i + 1, 9) for i in range(9)]
    first = cv2.imread(str(folder / "train/good/000.png"))[..., ::-1]
    np.testing.assert_array_equal(first, washers.render_good(0, seed=0, size=64))
    bad, mask = washers.render_defect("scratch", 5, seed=0, size=64)
    np.testing.assert_array_equal(cv2.imread(str(folder / "test/scratch/000.png"))[..., ::-1], bad)
    truth = cv2.imread(str(folder / "ground_truth/scratch/000_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(truth, mask.astype(np.uint8) * 255)


def test_write_demo_parts_keeps_a_folder_that_has_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="not an empty folder"):
        washers.write_demo_parts(tmp_path, good=1, test_good=1, per_kind=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_stop_half_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        washers.write_demo_parts(tmp_path / "parts", good=3, test_good=1, per_kind=1, size=64, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "of_ours"),
    [
        (washers, {"flawforge.types", "flawforge_runtime.files", "flawforge.demo.scene"}),
        (scene, {"flawforge.types"}),
    ],
)
def test_the_renderer_knows_nothing_of_the_forge(module: ModuleType, of_ours: set[str]) -> None:
    """What proves the demo is not made of what trains it."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {n for n in names if n.startswith((".", "flawforge"))} == of_ours
