"""Albums of overlays in a model folder: whole or not there, whatever stops the writer."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawforge.reporting import overlays
from flawforge.reporting.overlays import album, retired, save_album, write_json
from flawforge_runtime.files import locked
from flawforge_runtime.images import read_picture

RED = np.full((8, 12, 3), (200, 30, 40), np.uint8)
PICTURES = [("worst", {"path": "a.png", "score": 2.5}, RED), ("missed", {"path": "b.png", "score": None}, RED // 2)]


def test_an_album_holds_its_result_and_its_pictures(tmp_path: Path) -> None:
    folder = save_album(tmp_path, "proof", {"n": 3, "unit": "px"}, PICTURES)
    assert folder == tmp_path / "proof" == album(tmp_path, "proof")
    assert sorted(path.name for path in folder.iterdir()) == ["00_worst.webp", "01_missed.webp", "proof.json"]
    stored = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    assert (stored["n"], stored["unit"]) == (3, "px")
    assert stored["overlays"] == [
        {"file": "00_worst.webp", "group": "worst", "path": "a.png", "score": 2.5},
        {"file": "01_missed.webp", "group": "missed", "path": "b.png", "score": None},
    ]
    pixels = read_picture(folder / "00_worst.webp").pixels
    assert np.abs(pixels.astype(int) - RED).max() < 40  # WebP loses a little
    assert [path.name for path in tmp_path.iterdir()] == ["proof"]


def test_a_new_album_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    save_album(tmp_path, "proof", {"n": 1}, PICTURES)
    save_album(tmp_path, "proof", {"n": 2})
    assert sorted(path.name for path in (tmp_path / "proof").iterdir()) == ["proof.json"]
    assert json.loads((tmp_path / "proof" / "proof.json").read_text())["n"] == 2
    assert not retired(tmp_path, "proof").exists()


def test_albums_of_other_names_are_left_alone(tmp_path: Path) -> None:
    save_album(tmp_path, "drift", {"n": 1})
    save_album(tmp_path, "proof", {"n": 2})
    assert json.loads((tmp_path / "drift" / "drift.json").read_text())["n"] == 1


@pytest.mark.parametrize("result", [{"n": float("nan")}, {"n": float("inf")}, {"n": object()}])
def test_what_json_has_no_word_for_leaves_the_old_album(result: dict[str, Any], tmp_path: Path) -> None:
    save_album(tmp_path, "proof", {"n": 1})
    with pytest.raises((ValueError, TypeError)):
        save_album(tmp_path, "proof", result)
    assert json.loads((tmp_path / "proof" / "proof.json").read_text())["n"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["proof"]


def test_a_picture_that_cannot_be_written_leaves_the_old_album(tmp_path: Path) -> None:
    save_album(tmp_path, "proof", {"n": 1})
    with pytest.raises(Exception, match=r".+"):
        save_album(tmp_path, "proof", {"n": 2}, [("worst", {}, np.zeros((2, 2, 7), np.uint8))])
    assert json.loads((tmp_path / "proof" / "proof.json").read_text())["n"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["proof"]


def test_between_the_two_renames_a_reader_finds_the_old_album(tmp_path: Path) -> None:
    """As a kill between them leaves it: the new one not yet in place, the old one under its other name."""
    save_album(tmp_path, "proof", {"n": 1})
    (tmp_path / "proof").rename(retired(tmp_path, "proof"))
    assert album(tmp_path, "proof") == retired(tmp_path, "proof")
    assert json.loads((album(tmp_path, "proof") / "proof.json").read_text())["n"] == 1
    save_album(tmp_path, "proof", {"n": 2})
    assert album(tmp_path, "proof") == tmp_path / "proof"
    assert [path.name for path in tmp_path.iterdir()] == ["proof"]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".proof.new").mkdir()
    (tmp_path / ".proof.new" / "half.webp").write_bytes(b"RIFF")
    save_album(tmp_path, "proof", {"n": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["proof"]


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "proof"), pytest.raises(BlockingIOError):
        save_album(tmp_path, "proof", {"n": 1})
    save_album(tmp_path, "proof", {"n": 1})


def test_readers_beside_a_writer_always_find_a_whole_album(tmp_path: Path) -> None:
    save_album(tmp_path, "proof", {"n": 0})
    stop, seen, faults = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add(json.loads((album(tmp_path, "proof") / "proof.json").read_text())["n"])
            except FileNotFoundError:
                continue  # between the question where it lies and the reading, it moved
            except ValueError as error:
                faults.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(1, 20):
        save_album(tmp_path, "proof", {"n": n})
    stop.set()
    thread.join()
    assert faults == []
    assert seen <= set(range(20))


def test_json_is_indented_utf8_and_bytes_that_are_not_are_escaped(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"path": "Prüfstück.png", "odd": "a\udce4.png"})
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert '\n "path": "Prüfstück.png"' in text
    assert text.endswith("}\n")
    assert json.loads(text)["odd"] == "a\udce4.png"


def test_a_missing_album_is_looked_for_under_its_own_name(tmp_path: Path) -> None:
    assert album(tmp_path, "proof") == tmp_path / "proof"
    assert overlays.retired(tmp_path, "proof").name == ".proof.old"
