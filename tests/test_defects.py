"""Pictures of real defects: which ones are found, which are refused, and the pieces that are cut out of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawforge.forge.transplant import RING
from flawforge.pictures.copies import known
from flawforge.pictures.defects import EVERY, Defects, read_defects
from flawforge.pictures.listing import defect_listing
from flawforge.types import DataError, ImageError
from flawforge_runtime.images import write_image

SHAPE = (64, 80)


def mask_at(row: int, column: int, side: int = 8, shape: tuple[int, int] = SHAPE) -> Any:
    mask = np.zeros(shape, bool)
    mask[row : row + side, column : column + side] = True
    return mask


def write(path: Path, number: int, mask: Any, mask_path: Path) -> None:
    """A grey part whose defect is black; `number` makes its bytes its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask_path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*mask.shape, 3), 100 + number, np.uint8)
    picture[mask] = 0
    write_image(path, picture)
    write_image(mask_path, mask)


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """test/crack 000 to 003, test/dent 000 and 001, and a good one."""
    root, number = tmp_path / "parts", 0
    for kind, count in (("crack", 4), ("dent", 2)):
        for place in range(count):
            mask_path = root / "ground_truth" / kind / f"{place:03d}_mask.png"
            write(root / "test" / kind / f"{place:03d}.png", number, mask_at(10 + number, 20), mask_path)
            number += 1
    (root / "test" / "good").mkdir()
    write_image(root / "test" / "good" / "000.png", np.full((*SHAPE, 3), 90, np.uint8))
    return root


def read(data: Path, *good: Path, **how: Any) -> Defects:
    found = read_defects(data, good, **how)
    assert found is not None
    return found


def beside(root: Path) -> Path:
    """A plain folder: 7.png and 7_mask.png."""
    for number in range(2):
        write(root / f"{number}.png", number, mask_at(10, 20), root / f"{number}_mask.png")
    return root


def by_kind(root: Path) -> Path:
    """A folder with a subfolder for each kind, masks beside the pictures."""
    for number, kind in enumerate(("crack", "dent")):
        write(root / kind / "7.png", number, mask_at(10, 20), root / kind / "7_mask.png")
    return root


def as_csv(root: Path) -> Path:
    beside(root)
    (root / "list.csv").write_text(
        "image_path,label,split,kind,mask_path\n0.png,1,test,crack,0_mask.png\n1.png,1,test,dent,1_mask.png\n"
    )
    return root / "list.csv"


@pytest.mark.parametrize(
    ("make", "kinds"),
    [(beside, {"x": 2}), (by_kind, {"crack": 1, "dent": 1}), (as_csv, {"crack": 1, "dent": 1})],
)
def test_pictures_are_found_in_every_layout(make: Callable[[Path], Path], kinds: dict[str, int], tmp_path: Path) -> None:
    found = read(make(tmp_path / "x"))
    assert found.kinds == kinds
    assert all(each.mask_path.name.endswith("_mask.png") for each in found.pictures)


@pytest.mark.parametrize("part", ["", "test"])
def test_mvtec_layout_gives_its_defective_pictures(mvtec: Path, part: str) -> None:
    found = read(mvtec / part)
    assert found.kinds == {"crack": 4, "dent": 2}
    assert not any("good" in str(each.path) for each in found.pictures)


def test_one_kind_of_a_test_folder_finds_its_masks(mvtec: Path) -> None:
    found = read(mvtec / "test" / "dent")
    assert found.kinds == {"dent": 2}
    assert found.pictures[0].mask_path.parent == mvtec.absolute() / "ground_truth" / "dent"


def test_every_third_proves_whatever_the_files_are_called(mvtec: Path, tmp_path: Path) -> None:
    found = read(mvtec)
    assert [each.proves for each in found.pictures] == [False, False, True, False, False, True]
    assert EVERY == 3
    other = tmp_path / "renamed"
    shutil.copytree(mvtec, other)
    for kind in ("crack", "dent"):
        for place, path in enumerate(sorted((other / "test" / kind).iterdir())):
            mask = other / "ground_truth" / kind / f"{path.stem}_mask.png"
            path.rename(path.with_name(f"z{9 - place}.png"))
            mask.rename(mask.with_name(f"z{9 - place}_mask.png"))
    renamed = read(other)
    assert renamed.identity == found.identity
    assert [each.sha256 for each in renamed.proving] == [each.sha256 for each in found.proving]
    assert found.pictures[0].sha256 == hashlib.sha256(found.pictures[0].path.read_bytes()).hexdigest()


def test_fewer_than_three_are_all_trained_on(mvtec: Path) -> None:
    found = read(mvtec / "test" / "dent")
    assert (len(found.trained), len(found.proving)) == (2, 0)
    assert found.lines() == ["2 pictures with real defects (dent 2), all of them trained on"]
    assert read(mvtec).lines() == [
        "6 pictures with real defects (crack 4, dent 2), 2 of them kept from training to prove it"
    ]


def test_another_mask_or_picture_is_another_identity(mvtec: Path) -> None:
    before = read(mvtec).identity
    mask = mvtec / "ground_truth" / "dent" / "000_mask.png"
    write_image(mask, mask_at(30, 30))
    assert read(mvtec).identity != before
    shutil.rmtree(mvtec / "test" / "dent")
    assert read(mvtec).identity != before


def test_what_a_model_keeps_of_them_tells_them_again(mvtec: Path) -> None:
    found = read(mvtec)
    assert found.as_dict() == {"pictures": 6, "trained_on": 4, "kinds": {"crack": 4, "dent": 2}}
    listed = found.listed()
    assert {each["name"] for each in listed} >= {"crack/000.png", "dent/001.png"}
    assert [each["use"] for each in listed].count("proof") == 2
    config = {"defects": listed}
    seen = known(config).trained_on([each.path for each in found.pictures])
    assert len(seen) == 6
    left = read(mvtec, known=config)
    assert [each.sha256 for each in left.pictures] == [each.sha256 for each in found.proving]
    assert left.notes == ("4 of 6 pictures with real defects were left out, as the model was trained on them",)
    few = read(mvtec / "test" / "dent")
    with pytest.raises(DataError, match="was trained on all 2 pictures"):
        read(mvtec / "test" / "dent", known={"defects": few.listed()})


def test_the_same_picture_twice_counts_once(mvtec: Path) -> None:
    shutil.copy(mvtec / "test" / "dent" / "000.png", mvtec / "test" / "dent" / "009.png")
    shutil.copy(mvtec / "ground_truth" / "dent" / "000_mask.png", mvtec / "ground_truth" / "dent" / "009_mask.png")
    found = read(mvtec)
    assert len(found.pictures) == 6
    assert found.notes == ("copies of pictures with real defects that were left out: 1",)


def test_good_pictures_alone_are_no_defects(mvtec: Path) -> None:
    for kind in ("crack", "dent"):
        shutil.rmtree(mvtec / "test" / kind)
    assert read_defects(mvtec) is None


@pytest.mark.parametrize("name", ["", "good", "ok"])
def test_a_folder_without_defects_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "some" / name
    folder.mkdir(parents=True)
    if name:
        write_image(folder / "0.png", np.full((*SHAPE, 3), 90, np.uint8))
    with pytest.raises(DataError, match="holds no pictures of defective parts; give a folder in MVTec layout"):
        read_defects(folder)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_defects(tmp_path / "nothing")


def test_a_picture_without_a_mask_is_refused(mvtec: Path) -> None:
    (mvtec / "ground_truth" / "crack" / "002_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 pictures of --defects .* have no mask, the first is .*002\.png"):
        read_defects(mvtec)


def test_a_folder_without_any_mask_says_where_they_are_looked_for(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "ground_truth")
    with pytest.raises(DataError, match=r"6 of 6 .*masks are looked for in the folder ground_truth"):
        read_defects(mvtec)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.zeros(SHAPE, bool), "marks nothing; paint the defect white"),
        (~mask_at(10, 10), "marks 99% of .* at most 50% can be a defect"),
    ],
)
def test_a_mask_that_marks_nothing_or_nearly_all_is_refused(mvtec: Path, mask: Any, told: str) -> None:
    write_image(mvtec / "ground_truth" / "crack" / "001_mask.png", mask)
    with pytest.raises(DataError, match=told):
        read_defects(mvtec)


def test_a_mask_of_another_size_is_refused(mvtec: Path) -> None:
    write_image(mvtec / "ground_truth" / "crack" / "001_mask.png", mask_at(3, 3, shape=(32, 40)))
    with pytest.raises(ImageError, match=r"32 x 40 \(h x w\) but its picture is 64 x 80"):
        read_defects(mvtec)


def test_a_picture_that_cannot_be_read_is_refused(mvtec: Path) -> None:
    (mvtec / "test" / "crack" / "001.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"001\.png"):
        read_defects(mvtec)


def test_a_good_training_picture_is_refused(mvtec: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    shutil.copy(mvtec / "test" / "crack" / "001.png", good)
    with pytest.raises(DataError, match=r"001\.png of --defects is the good picture .*good\.png"):
        read_defects(mvtec, [good])
    assert read_defects(mvtec, [mvtec / "test" / "good" / "000.png"]) is not None


def test_pieces_lie_at_the_size_of_the_canvas(mvtec: Path) -> None:
    found = read(mvtec)
    own = found.pieces(found.pictures)
    half = found.pieces(found.pictures, (32, 40))
    double = found.pieces(found.pictures, (64, 64), tile=32)
    assert len(own) == len(half) == len(double) == 6
    assert [piece.extent for piece in own] == [(8, 8)] * 6
    assert all(abs(side - 4) <= 1 for piece in half for side in piece.extent)
    assert all(abs(side - 16) <= 2 for piece in double for side in piece.extent)
    assert [piece.place for piece in half] == [piece.place for piece in own]
    for piece in half:
        rows, columns = np.nonzero(piece.mask)
        assert min(rows.min(), columns.min()) >= RING
    assert {piece.source for piece in own} == {each.sha256[:12] for each in found.pictures}
    assert all((piece.pixels[piece.mask] == 0).all() for piece in own)


def test_defects_too_small_for_the_canvas_are_left_out_or_refused(mvtec: Path) -> None:
    mask = mvtec / "ground_truth" / "dent" / "000_mask.png"
    write_image(mask, mask_at(30, 30, 20))
    found = read(mvtec)
    assert len(found.pieces(found.pictures, (8, 10))) == 1
    some = [each for each in found.pictures if each.kind == "crack"]
    with pytest.raises(DataError, match=r"None of the 4 defects .* covers 9 pixels on the canvas of 8 x 10 .* --tile"):
        found.pieces(some, (8, 10))


def test_a_hairline_survives_being_shrunk(tmp_path: Path) -> None:
    line = np.zeros((256, 256), bool)
    line[100:102, 20:200] = True
    write(tmp_path / "x" / "0.png", 0, line, tmp_path / "x" / "0_mask.png")
    found = read(tmp_path / "x")
    (piece,) = found.pieces(found.pictures, (64, 64))
    assert piece.extent[1] == pytest.approx(45, abs=2)


def test_the_listing_opens_no_picture(mvtec: Path) -> None:
    (mvtec / "test" / "crack" / "001.png").write_bytes(b"")
    assert len(defect_listing(mvtec).entries) == 6
