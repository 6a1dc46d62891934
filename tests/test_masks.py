"""Which file says where a defect lies, and that file as a mask."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flawforge.pictures import masks
from flawforge.pictures.listing import Listing, read_listing
from flawforge.types import ImageError
from flawforge_runtime.images import write_image

SHAPE = (24, 32)


def spot(top: int = 8, left: int = 8, side: int = 8) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def save(root: Path, name: str, mask: NDArray[Any] | None = None) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, spot() if mask is None else mask)
    return path


def data_set(root: Path, *defects: str) -> Path:
    for name in ("train/good/0", "test/good/0", *(f"test/{each}" for each in defects)):
        save(root, f"{name}.png", np.zeros((*SHAPE, 3), np.uint8))
    return root


def masks_of(listing: Listing) -> dict[str, str | None]:
    """{kind/name of a defective picture: its mask, from the data set's folder on}"""
    root = listing.entries[0].path.parents[2]
    return {
        masks.name(e.path): str(e.mask_path.relative_to(root)) if e.mask_path else None for e in listing.entries if e.label
    }


def mask_in(root: Path, shape: tuple[int, int] = SHAPE, *, shrunk: bool = False) -> NDArray[np.bool_] | None:
    """The mask of the one defective picture, as `evaluate` reads it."""
    [entry] = [entry for entry in read_listing(root).entries if entry.label]
    assert entry.mask_path is not None
    return masks.read(entry.mask_path, entry.path, shape, 10**6, shrunk=shrunk)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp", ".webp", ".jpg", ".JPEG"])
@pytest.mark.parametrize("ending", ["_mask", "", "_gt", "_label", "_seg"])
def test_every_usual_name_in_every_format(tmp_path: Path, ending: str, suffix: str) -> None:
    data_set(tmp_path, "dent/7")
    save(tmp_path, f"ground_truth/dent/7{ending}{suffix}")
    found = mask_in(tmp_path)
    assert found is not None
    assert (found == spot()).mean() > (0.99 if suffix in (".webp", ".jpg", ".JPEG") else 0.9999)
    assert read_listing(tmp_path).mask_notes == ()


def test_one_order_of_preference_and_more_than_one_is_named(tmp_path: Path) -> None:
    data_set(tmp_path, "dent/7", "dent/8")
    save(tmp_path, "ground_truth/dent/8_mask.png")
    names = ["7_mask.png", "7_mask.jpg", "7.png", "7.bmp", "7_gt.png", "7_label.tif", "7/000.png"]
    for name in reversed(names):
        save(tmp_path, f"ground_truth/dent/{name}")
        listing = read_listing(tmp_path)
        assert masks_of(listing)["dent/7.png"] == f"ground_truth/dent/{name.partition('/')[0]}"
        assert [note.startswith("1 pictures have more than one mask") for note in listing.mask_notes] == (
            [] if name == names[-1] else [True]
        )


def test_a_folder_of_masks_is_their_union(tmp_path: Path) -> None:
    data_set(tmp_path, "logical/7")
    save(tmp_path, "ground_truth/logical/7/000.png", spot())
    save(tmp_path, "ground_truth/logical/7/001.png", spot(12, 20, 4))
    np.testing.assert_array_equal(mask_in(tmp_path), spot() | spot(12, 20, 4))
    save(tmp_path, "ground_truth/logical/7/002.png", np.ones((5, 5), bool))
    with pytest.raises(ImageError, match=r"002\.png is 5 x 5 .* 24 x 32"):
        mask_in(tmp_path)


def test_a_folder_without_pictures_is_no_mask(tmp_path: Path) -> None:
    (data_set(tmp_path, "dent/7") / "ground_truth/dent/7").mkdir(parents=True)
    assert masks_of(read_listing(tmp_path)) == {"dent/7.png": None}


def test_what_rings_in_a_jpeg_is_not_marked(tmp_path: Path) -> None:
    """A PNG of 0 and 1 is a mask; a JPEG whose highest value is 90 is none."""
    data_set(tmp_path, "dent/7")
    dim = save(tmp_path, "ground_truth/dent/7.jpg", spot().astype(np.uint8) * np.uint8(90))
    assert not masks.read(dim, tmp_path, SHAPE, 10**6).any()  # type: ignore[union-attr]
    low = save(tmp_path, "ground_truth/dent/7.png", spot().astype(np.uint8))
    np.testing.assert_array_equal(masks.read(low, tmp_path, SHAPE, 10**6), spot())
    assert not masks.read(dim, tmp_path, SHAPE, 10**6, shrunk=True).any()  # type: ignore[union-attr]


def test_masks_beside_the_pictures_are_no_pictures(tmp_path: Path) -> None:
    data_set(tmp_path, "crack/7", "crack/8")
    for name in ("crack/7_label.bmp", "crack/8_mask.png", "good/0_mask.png"):
        save(tmp_path, f"test/{name}")
    listing = read_listing(tmp_path)
    assert masks_of(listing) == {"crack/7.png": "test/crack/7_label.bmp", "crack/8.png": "test/crack/8_mask.png"}
    assert [entry.path.name for entry in listing.entries if entry.label == 0] == ["0.png", "0.png"]
    assert len(listing.mask_notes) == 1
    assert listing.mask_notes[0].startswith("3 pictures in test are masks of others")


@pytest.mark.parametrize("folder", ["groundtruth", "Ground Truth", "masks", "labels", "GT", "annotations"])
def test_a_misnamed_ground_truth_is_named(tmp_path: Path, folder: str) -> None:
    data_set(tmp_path, "dent/7")
    save(tmp_path, f"{folder}/dent/7.png")
    [note] = read_listing(tmp_path).mask_notes
    assert note.endswith(f"ground_truth, which is not there; if {folder} holds them, rename it")


def test_what_is_not_found_is_named(tmp_path: Path) -> None:
    data_set(tmp_path, "dent/7", "Chip/8")
    assert read_listing(tmp_path).mask_notes == ("masks are looked for in the folder ground_truth, which is not there",)
    save(tmp_path, "ground_truth/dent/7-anno.png")
    save(tmp_path, "ground_truth/chip/8.png")
    (tmp_path / "test/dent/7.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    folder, fits, yolo = read_listing(tmp_path).mask_notes
    assert folder == "ground_truth has no folder Chip, as the kinds in test are named"
    assert fits.startswith("1 files in ground_truth fit no picture")
    assert "dent/7-anno.png" in fits
    assert "YOLO" in yolo
    assert "draw what each holds into a PNG" in yolo
    assert yolo.endswith("dent/7.txt")


def labelme(*shapes: tuple[str, list[list[float]]], size: tuple[int, int] = SHAPE) -> str:
    made = [{"label": "dent", "shape_type": kind, "points": points} for kind, points in shapes]
    return json.dumps({"version": "5", "shapes": made, "imageHeight": size[0], "imageWidth": size[1]})


def away(mask: NDArray[np.bool_], inside: NDArray[np.bool_], near: NDArray[np.bool_]) -> None:
    """`mask` is `inside` except within a pixel of the outline."""
    np.testing.assert_array_equal(mask[~near], inside[~near])
    assert mask.any()


ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]]


@pytest.mark.parametrize("place", ["test/dent/7.json", "ground_truth/dent/7.json"])
def test_labelme(tmp_path: Path, place: str) -> None:
    """A triangle, a rectangle and a circle, against their inequalities."""
    path = data_set(tmp_path, "dent/7") / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(labelme(("polygon", [[2, 2], [14, 2], [2, 14]])))
    found, side = mask_in(tmp_path), (COLUMNS + ROWS - 16) / np.sqrt(2)
    assert found is not None
    border = np.minimum(np.minimum(abs(COLUMNS - 2), abs(ROWS - 2)), abs(side)) <= 1
    away(found, (COLUMNS > 2) & (ROWS > 2) & (side < 0), border)
    path.write_text(labelme(("rectangle", [[20, 18], [5, 4]]), ("circle", [[26, 12], [26, 16]])))
    found, reach = mask_in(tmp_path), np.hypot(COLUMNS - 26, ROWS - 12)
    assert found is not None
    box = (COLUMNS >= 5) & (COLUMNS <= 20) & (ROWS >= 4) & (ROWS <= 18)
    away(found, box | (reach <= 4), abs(reach - 4) <= 1)
    assert read_listing(tmp_path).mask_notes == ()
    assert not any("left aside" in note for note in read_listing(tmp_path).notes)


def test_labelme_at_the_size_of_a_shrunk_map(tmp_path: Path) -> None:
    path = data_set(tmp_path, "dent/7") / "test/dent/7.json"
    path.write_text(labelme(("rectangle", [[8, 8], [15, 15]])))
    half = mask_in(tmp_path, (12, 16), shrunk=True)
    assert half is not None
    assert half[4:8, 4:8].all()
    assert half.sum() <= 25


def coco(names: list[str], annotations: list[tuple[int, Any]]) -> str:
    pictures = [{"id": i, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]} for i, name in enumerate(names)]
    made = [{"image_id": i, "segmentation": segmentation, "bbox": [1, 1, 2, 2]} for i, segmentation in annotations]
    return json.dumps({"images": pictures, "annotations": made, "categories": []})


SQUARE = [8, 8, 15, 8, 15, 15, 8, 15]


@pytest.mark.parametrize("place", ["test/dent/_annotations.coco.json", "ground_truth/dent/a.json", "ground_truth/all.json"])
@pytest.mark.parametrize("name", ["7.png", "dent/7.png", "C:\\set\\dent\\7.png"])
def test_coco(tmp_path: Path, place: str, name: str) -> None:
    path = data_set(tmp_path, "dent/7", "dent/9") / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(coco(["0.png", name], [(1, [SQUARE]), (0, [[0, 0, 9, 0, 9, 9]])]))
    listing = read_listing(tmp_path)
    assert masks_of(listing) == {"dent/7.png": place, "dent/9.png": None}
    found = masks.read(path, tmp_path / "test/dent/7.png", SHAPE, 10**6)
    np.testing.assert_array_equal(found, spot())
    assert masks.read(path, tmp_path / "test/dent/9.png", SHAPE, 10**6) is None


def test_a_name_that_two_kinds_share_needs_its_folder(tmp_path: Path) -> None:
    path = data_set(tmp_path, "dent/7", "scratch/7") / "ground_truth/all.json"
    path.parent.mkdir()
    path.write_text(coco(["7.png"], [(0, [SQUARE])]))
    assert set(masks_of(read_listing(tmp_path)).values()) == {None}
    path.write_text(coco(["scratch/7.png"], [(0, [SQUARE])]))
    assert masks_of(read_listing(tmp_path)) == {"dent/7.png": None, "scratch/7.png": "ground_truth/all.json"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "no JSON that can be read"),
        ("[]", "cannot be read as LabelMe's or COCO's"),
        ('{"exposure": 3}', "cannot be read as LabelMe's or COCO's"),
        (labelme(("line", [[1, 1], [2, 2]])), "it holds line, and only polygons, rectangles and circles"),
        (labelme(("polygon", [[1, 1], [2, 2]])), "a polygon of 2 points"),
        (labelme(("polygon", [[1, 1], [2, 2], [float("nan"), 3]])), "far outside every picture"),
        (labelme(("polygon", [[1, 1], [2, 2], [1e300, 3]])), "far outside every picture"),
        (labelme(size=(10, 10)), r"10 x 10 \(h x w\) and .* has 24 x 32"),
        (labelme(size=(0, 0)), "0 x 0"),
        (coco(["7.png"], [(0, [])]), "a box or a run length instead of a polygon"),
        (coco(["7.png"], [(0, {"counts": [1, 2], "size": [3, 4]})]), "a box or a run length"),
        (coco(["7.png", "7.png"], [(0, [SQUARE])]), "lists 7.png 2 times"),
        (coco(["7.png"], [(0, [[1, 2, 3]])]), "cannot be read as LabelMe's or COCO's"),
    ],
)
def test_labels_that_cannot_be_read_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "7.json"
    path.write_text(text)
    with pytest.raises(ImageError, match=sentence) as caught:
        masks.read(path, tmp_path / "7.png", SHAPE, 10**6)
    assert "\n" not in str(caught.value)


def test_a_pipe_in_place_of_labels_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "7.json")
    with pytest.raises(ImageError, match="no regular file"):
        masks.read(tmp_path / "7.json", tmp_path / "7.png", SHAPE, 10**6)


def test_a_csv_may_name_any_of_these(tmp_path: Path) -> None:
    data_set(tmp_path, "dent/7")
    save(tmp_path, "parts/a.png")
    (tmp_path / "list.csv").write_text("image_path,label,mask_path\ntest/dent/7.png,ng,parts\n")
    [entry] = read_listing(tmp_path / "list.csv").entries
    assert entry.mask_path is not None
    np.testing.assert_array_equal(masks.read(entry.mask_path, entry.path, SHAPE, 10**6), spot())
