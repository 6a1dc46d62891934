"""Pictures that a model was trained on are known again: as files, and as copies that were saved anew."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from flawforge.demo.washers import render_good
from flawforge.pictures.copies import SIDE, Known, fingerprint, known, likeness, pack
from flawforge.proving import leakage
from flawforge.types import DataError
from flawforge_runtime.images import write_image


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve washers of which a model was trained on the first eight."""
    folder = tmp_path_factory.mktemp("washers")
    paths = [folder / f"{index:02d}.png" for index in range(12)]
    for index, path in enumerate(paths):
        write_image(path, render_good(index, size=128))
    return paths


@pytest.fixture(scope="module")
def trained(parts: list[Path]) -> Known:
    config = {
        "training": {
            "fingerprints": [fingerprint(path) for path in parts[:8]],
            "likenesses": pack(likeness(cv2.imread(str(path))[..., ::-1].copy()) for path in parts[:8]),
        }
    }
    return known(config)


def test_files_are_known_and_others_are_not(parts: list[Path], trained: Known) -> None:
    assert trained.trained_on(parts) == parts[:8]


@pytest.mark.parametrize("how", ["jpeg", "bmp", "smaller"])
def test_a_copy_saved_anew_is_known(parts: list[Path], trained: Known, tmp_path: Path, how: str) -> None:
    copies = []
    for index in (2, 10):
        image = cv2.imread(str(parts[index]))
        path = tmp_path / f"{index}.{'jpg' if how == 'jpeg' else 'bmp'}"
        if how == "smaller":
            image = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 85] if how == "jpeg" else [])
        copies.append(path)
    assert trained.trained_on(copies) == copies[:1]


def test_what_cannot_be_read_is_not_known(trained: Known, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert trained.trained_on([tmp_path / "broken.png", tmp_path / "missing.png"]) == []


def test_a_model_that_tells_nothing_has_seen_nothing(parts: list[Path]) -> None:
    assert known({}).trained_on(parts) == []
    assert known({"training": {"fingerprints": [fingerprint(parts[0])]}}).trained_on(parts) == parts[:1]


def test_a_likeness_is_means_in_grey_levels() -> None:
    grey = np.kron(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) // 2, np.ones((4, 4), np.uint8))
    pixels = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_allclose(likeness(pixels), np.arange(SIDE * SIDE) // 2, atol=0.01)
    np.testing.assert_allclose(likeness((pixels / 255).astype(np.float32)), likeness(pixels), atol=0.1)


def test_packing_keeps_every_bit() -> None:
    rows = np.random.default_rng(0).random((3, SIDE * SIDE)).astype(np.float16)
    assert np.array_equal(known({"training": {"likenesses": pack(rows)}}).likenesses, rows)


class Model:
    """What `leakage` asks of an inspector."""

    def __init__(self, parts: list[Path]) -> None:
        self.content = type("Content", (), {"config": {"training": {"fingerprints": [fingerprint(p) for p in parts]}}})


def test_trained_pictures_are_left_out_and_counted(parts: list[Path]) -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    left, count = leakage.unseen([*parts[6:10], array], Model(parts[:8]))
    assert left[:2] == parts[8:10]
    assert left[2] is array
    assert count == 2
    assert "2 of 5 pictures were left out" in leakage.left_out(2, 5)[0]
    assert leakage.left_out(0, 5) == []
    with pytest.raises(DataError, match="All 2 pictures were trained on"):
        leakage.unseen(parts[:2], Model(parts[:8]))


def test_what_is_no_regular_file_has_no_fingerprint_and_is_waited_for_by_nobody(trained: Known, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(OSError, match="no regular file"):
            fingerprint(path)
    assert trained.trained_on(sorted(tmp_path.iterdir())) == []
