"""The data check reports what is there, and names what cannot be read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from flawforge.pictures.check import check_data, in_threads
from flawforge.pictures.listing import Entry, good_entries, read_listing
from flawforge_runtime.images import write_image

RNG = np.random.default_rng(3)


def folder(root: Path) -> tuple[Entry, ...]:
    """Twelve good files of three sizes and several kinds, two of them unreadable, two the same to the byte."""
    root.mkdir(exist_ok=True)
    for index in range(6):
        write_image(root / f"a{index}.png", RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    write_image(root / "b_grey.bmp", RNG.integers(0, 256, (20, 30), dtype=np.uint8))
    alpha = RNG.integers(0, 256, (80, 60, 4), dtype=np.uint8)
    Pillow.fromarray(alpha).save(root / "c_alpha.png")
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(alpha[..., :3].copy()).save(root / "d_turned.png", exif=exif)
    (root / "e_copy.png").write_bytes((root / "a0.png").read_bytes())
    (root / "f_cut.png").write_bytes((root / "a1.png").read_bytes()[:900])
    (root / "g_empty.png").touch()
    return read_listing(root).entries


def test_report(tmp_path):
    entries = folder(tmp_path)
    seen: list[tuple[int, int]] = []
    report = check_data(entries, progress=lambda done, total: seen.append((done, total)), notes=["kept"])
    assert seen == [(done, 12) for done in range(1, 13)]
    assert report.count == 10
    assert dict(report.sizes) == {(20, 30): 1, (40, 60): 7, (60, 80): 1, (80, 60): 1}
    assert dict(report.modes) == {"8-bit RGB": 8, "8-bit RGBA": 1, "8-bit grey": 1}
    assert [path.name for path, _ in report.unreadable] == ["f_cut.png", "g_empty.png"]
    assert "cut short" in report.unreadable[0][1]
    assert report.duplicate_groups == ((tmp_path / "a0.png", tmp_path / "e_copy.png"),)
    assert report.notes == (
        "kept",
        "1 of 10 pictures: alpha channel dropped",
        "1 of 10 pictures: turned upright (EXIF orientation 6)",
    )
    assert len(report.readable(entries)) == 10
    assert sorted(report.all_sizes())[0] == (20, 30)
    assert len(report.all_sizes()) == 10
    assert report.cache_bytes((64, 96)) == 10 * 64 * 96 * 3


def test_report_for_machines_and_people(tmp_path):
    report = check_data(folder(tmp_path))
    as_dict = json.loads(json.dumps(report.as_dict()))
    assert as_dict["sizes"] == {"min": [20, 30], "median": [40, 60], "max": [80, 80], "mixed": True}
    assert as_dict["unreadable"][1]["path"].endswith("g_empty.png")
    assert as_dict["duplicate_groups"] == [[str(tmp_path / "a0.png"), str(tmp_path / "e_copy.png")]]
    lines = report.lines()
    assert lines[0] == "10 good pictures (8 8-bit RGB, 1 8-bit RGBA, 1 8-bit grey)"
    assert lines[1] == "mixed sizes (h x w): smallest 20 x 30, median 40 x 60, largest 80 x 80"
    assert sum(line.startswith("skipped: ") for line in lines) == 2
    assert any("2 pictures in 1 group;" in line for line in lines)


def test_any_number_of_threads_reports_the_same(tmp_path):
    entries = folder(tmp_path)
    assert check_data(entries, threads=1) == check_data(entries, threads=4)


def test_nothing_readable(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    report = check_data(read_listing(tmp_path).entries)
    assert (report.count, report.sizes, report.as_dict()["sizes"]) == (0, (), None)
    assert report.lines()[0] == "0 good pictures"
    assert check_data(()).count == 0


def test_the_limit_reaches_the_decoder(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((10, 10), np.uint8))
    report = check_data(read_listing(tmp_path).entries, max_pixels=99)
    assert "allowed are 99" in report.unreadable[0][1]


def test_16_bit_pictures(tmp_path):
    for index in range(3):
        dark = RNG.integers(0, 4096, (16, 16), dtype=np.uint16)
        dark[0, 0] = 4095
        write_image(tmp_path / f"{index}.png", dark)
    report = check_data(read_listing(tmp_path).entries)
    assert report.deep
    assert report.cache_bytes((32, 32)) == 3 * 32 * 32 * 3 * 4
    assert len(report.notes) == 1
    assert "lowest 6.2% of their range: 12-bit values in a 16-bit picture? fit with --depth 12" in report.notes[0]
    assert report.lines()[:2] == ["3 good pictures (3 16-bit grey)", "all 16 x 16 (h x w)"]
    write_image(tmp_path / "full.png", np.full((16, 16), 60_000, np.uint16))
    write_image(tmp_path / "grey.png", np.zeros((16, 16), np.uint8))
    notes = check_data(read_listing(tmp_path).entries).notes
    assert len(notes) == 1
    assert "mixed" in notes[0]


def test_only_good_training_pictures_are_opened(tmp_path):
    for name in ("train/good/a.png", "test/good/b.png", "test/dent/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        write_image(tmp_path / name, np.zeros((8, 8), np.uint8))
    report = check_data(good_entries(read_listing(tmp_path).entries))
    assert report.count == 1


def test_threads_stop_when_the_caller_stops():
    started: list[int] = []

    def work(index: int) -> int:
        started.append(index)
        time.sleep(0.1 if index else 0.0)
        return index

    def stop_after_the_first() -> None:
        for _ in in_threads(work, range(1000), threads=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_after_the_first()
    assert len(started) < 10
    assert list(in_threads(str, range(5), threads=3)) == ["0", "1", "2", "3", "4"]
