"""Folders and CSV files become entries, or one sentence."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flawforge.pictures.listing import (
    Entry,
    check_for_fit,
    evenly,
    good_entries,
    labelled_listing,
    pictures_in,
    read_entries,
    read_listing,
    thinned,
)
from flawforge.types import DataError


def touch(root: Path, *names: str) -> Path:
    """Empty files: listing opens no picture."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write_csv(root: Path, text: str, name: str = "list.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def mvtec(root: Path) -> Path:
    touch(root, "train/good/b.png", "train/good/a.JPG", "train/good/.hidden.png", "train/good/notes.txt")
    touch(root, "test/good/1.png", "test/scratch/1.tif", "test/scratch/2.tif", "test/dent/1.webp", "test/.cache/1.png")
    return touch(root, "ground_truth/scratch/1_mask.png", "ground_truth/dent/1.png")


def test_mvtec_layout(tmp_path):
    root = mvtec(tmp_path)
    listing = read_listing(root)
    assert listing.entries == (
        Entry(root / "train/good/a.JPG"),
        Entry(root / "train/good/b.png"),
        Entry(root / "test/dent/1.webp", 1, "test", "dent", root / "ground_truth/dent/1.png"),
        Entry(root / "test/good/1.png", 0, "test", "good"),
        Entry(root / "test/scratch/1.tif", 1, "test", "scratch", root / "ground_truth/scratch/1_mask.png"),
        Entry(root / "test/scratch/2.tif", 1, "test", "scratch"),
    )
    assert len(listing.notes) == 2
    assert listing.notes[0].endswith("TIFF or WebP: 1 file")
    assert listing.notes[1] == "without a mask in ground_truth: 1 defective test picture"
    assert good_entries(listing.entries) == listing.entries[:2]
    assert read_entries(str(root)) == listing.entries


def test_mvtec_test_pictures_alone(tmp_path):
    touch(tmp_path, "test/ok/1.png", "test/ng/1.png")
    entries = read_entries(tmp_path)
    assert [(e.split, e.label, e.kind) for e in entries] == [("test", 1, "ng"), ("test", 0, "good")]
    assert good_entries(entries) == ()


@pytest.mark.parametrize("folder", ["good", "OK", "."])
def test_plain_folder(tmp_path, folder):
    touch(tmp_path, f"{folder}/2.bmp", f"{folder}/10.jpeg", f"{folder}/.DS_Store", "ng/1.png")
    listing = read_listing(tmp_path)
    assert [entry.path.name for entry in listing.entries] == ["10.jpeg", "2.bmp"]
    assert all((e.label, e.split, e.kind, e.mask_path) == (0, "train", "good", None) for e in listing.entries)
    said = "subfolders were not searched: ng" if folder == "." else f"only {folder} was read, not ng"
    assert listing.notes == (said,)


def test_csv_with_everything(tmp_path):
    touch(tmp_path, "a.png", "sub/b.png", "c.png", "d.png", "m.png")
    path = write_csv(
        tmp_path,
        "\ufeffLabel, Image_Path ,split,mask_path,kind,comment\n"
        f"0,{tmp_path / 'a.png'},,,,fine\n"
        '\nNG,"sub/b.png",,m.png,scratch,"two\nlines"\n'
        "Good,c.png,Calibration,,\n"
        "normal,d.png,test\n",
    )
    a, b, c, d = read_entries(path)
    assert a == Entry(tmp_path / "a.png", 0, "train", "good")
    assert b == Entry(tmp_path / "sub/b.png", 1, "test", "scratch", tmp_path / "m.png")
    assert c == Entry(tmp_path / "c.png", 0, "calibration", "good")
    assert d == Entry(tmp_path / "d.png", 0, "test", "good")
    assert good_entries((a, b, c, d)) == (a, c)
    assert read_listing(path).notes == ("columns of list.csv that mean nothing here: comment",)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_other_offices(tmp_path, delimiter):
    touch(tmp_path, "a.png", "b.png")
    path = write_csv(tmp_path, f"label{delimiter}image_path\r\n1{delimiter}a.png\r\n0{delimiter}b.png\r\n")
    assert [(entry.path.name, entry.label) for entry in read_entries(path)] == [("a.png", 1), ("b.png", 0)]


def test_csv_without_labels_is_good_for_training(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    entries = read_entries(write_csv(tmp_path, "image_path\nb.png\na.png\n"))
    assert entries == (
        Entry(tmp_path / "b.png", None, "train", "unlabelled"),
        Entry(tmp_path / "a.png", None, "train", "unlabelled"),
    )
    assert good_entries(entries) == entries


def test_defective_training_rows_are_named_and_never_learnt(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    listing = read_listing(write_csv(tmp_path, "image_path,label,split\na.png,1,train\nb.png,0,train\n"))
    assert [entry.path.name for entry in good_entries(listing.entries)] == ["b.png"]
    assert listing.notes == ("labelled defective but not in split test, so never learnt from: 1 row",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has no column image_path \(its columns: none\)"),
        ("part,label\na.png,0\n", r"has no column image_path \(its columns: part, label\)"),
        ("image_path\n", "has no rows"),
        ("image_path,label\na.png,good\na.png,maybe\n", "line 3 has label 'maybe', allowed are 0, good, "),
        ("image_path,label\na.png\n", "line 2 has label '', allowed"),
        ("image_path,split\na.png,val\n", "line 2 has split 'val', allowed are train, calibration, test"),
        ("label,image_path\n0\n", "line 2 has no image_path"),
        ("image_path\na.png\nx.png\ny.png\n", r"names 2 of 3 files that do not exist, the first is .*x\.png"),
        ("image_path,mask_path\na.png,m.png\n", r"names 1 of 2 files that do not exist, the first is .*m\.png"),
        ("image_path,defective\na.png,1\n", r"no column label, .* mean nothing here \(defective\); name the one that says"),
        ("image_path,label,Label\na.png,1,0\n", r"has 2 columns label; keep one of them"),
        ("path,file\na.png,b.png\n", r"has 2 columns image_path; keep one of them"),
        ("image_path,label\na.png,0,1\n", r"line 2 has 3 cells under 2 columns; put quotes"),
        ("image_path,kind\na.png,dent\n", r"line 2 has kind 'dent' and no label, which do not agree"),
        ("image_path,label,kind\na.png,0,dent\n", r"line 2 has kind 'dent' and label '0', which do not agree"),
        ("image_path,label,kind\na.png,ng,good\n", r"line 2 has kind 'good' and label 'ng', which do not agree"),
        ("image_path\na.png\n./a.png\n", r"lists .*a\.png twice \(lines 2 and 3\)"),
    ],
)
def test_csv_sentences(tmp_path, text, sentence):
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match=sentence) as caught:
        read_listing(write_csv(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_csv_that_is_no_text(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"image_path\n\xff\xfe\x00.png\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_listing(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "is empty; put PNG"),
        (["a.txt", "b.md"], "holds 2 files but no picture"),
        (["good/a.txt"], "good holds 1 file but no picture"),
        (["train/good/a.txt", "test/good/1.png"], "good holds 1 file but no picture"),
        (["monday/a.png", "tuesday/b.png"], r"only subfolders \(monday, tuesday\); name one of them good"),
        (["test/a/1.txt"], r"test holds no pictures itself, only subfolders \(a\)"),
    ],
)
def test_folder_sentences(tmp_path, names, sentence):
    with pytest.raises(DataError, match=sentence):
        read_listing(touch(tmp_path, *names))


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_listing(tmp_path / "nowhere")
    with pytest.raises(DataError, match="does not exist"):
        read_listing(tmp_path / "nowhere.csv")
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match="neither a folder nor a"):
        read_listing(tmp_path / "a.png")


def test_links_that_lead_back_do_not_hang(tmp_path):
    touch(tmp_path, "good/a.png")
    (tmp_path / "good" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "good" / "loop.png").symlink_to(tmp_path / "good" / "loop.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert [entry.path.name for entry in read_entries(tmp_path)] == ["a.png", "loop.png"]
    with pytest.raises(DataError, match="does not exist"):
        read_listing(tmp_path / "loop")
    assert [path.name for path in pictures_in(tmp_path / "good")] == ["a.png", "loop.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_closed_folder_is_one_sentence(tmp_path):
    touch(tmp_path, "good/a.png")
    (tmp_path / "good").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be read"):
            read_listing(tmp_path)
    finally:
        (tmp_path / "good").chmod(0o755)


@given(st.integers(0, 200), st.integers(1, 40))
def test_an_even_sample_is_never_more_and_starts_at_the_first(count: int, most: int) -> None:
    items = list(range(count))
    some = list(evenly(items, most))
    assert len(some) == min(count, most)
    assert some[:1] == items[:1]
    assert len({second - first for first, second in pairwise(some)}) <= 1


@pytest.mark.parametrize("column", ["path", "Filename", "image"])
def test_a_column_that_can_only_be_the_path_is_taken_for_it(tmp_path: Path, column: str) -> None:
    touch(tmp_path, "a.png")
    assert [entry.path.name for entry in read_entries(write_csv(tmp_path, f"{column},label\na.png,good\n"))] == ["a.png"]


def test_a_csv_in_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("image_path\na.png\n".encode("utf-16"))
    with pytest.raises(DataError, match="is not UTF-8 text; save it as CSV in UTF-8"):
        read_entries(tmp_path / "list.csv")


def test_fit_refuses_a_folder_of_test_pictures(tmp_path: Path) -> None:
    data = touch(tmp_path / "bottle", "train/good/0.png", "test/good/0.png", "test/broken/0.png")
    check_for_fit(data)
    check_for_fit(data / "train" / "good")
    with pytest.raises(DataError, match=r"taken for defective ones \(broken\)"):
        check_for_fit(data / "test" / "broken")
    with pytest.raises(DataError, match=r"holds test pictures; give .*bottle, whose train/good is learnt from"):
        check_for_fit(data / "test")
    check_for_fit(data / "missing.csv")


def test_figures_need_labels(tmp_path: Path) -> None:
    data = touch(tmp_path / "bottle", "train/good/0.png", "test/good/0.png", "test/broken/0.png")
    assert len(labelled_listing(data).entries) == 3
    assert len(labelled_listing(data / "test" / "good").entries) == 1
    with pytest.raises(DataError, match=r"its other folders \(broken\) would not; give .*bottle if"):
        labelled_listing(data / "test")
    with pytest.raises(DataError, match="holds 1 picture without labels"):
        labelled_listing(touch(tmp_path / "mixed", "0.png"))


@given(st.integers(0, 200), st.integers(1, 40))
def test_a_thinned_list_keeps_at_least_so_many_and_fewer_than_twice_as_many(count: int, least: int) -> None:
    items = list(range(count))
    some = list(thinned(items, least))
    assert min(count, least) <= len(some) < 2 * least or count == 0
    assert some[:1] == items[:1]
    assert list(evenly(items, least)) == some[:least]
