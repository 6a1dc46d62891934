"""Results that survive a stop half way."""

from __future__ import annotations

from pathlib import Path

import pytest

from flawforge.rows import open_results, pictures_of
from flawforge.types import ModelError

ROW = {"image_path": "a.png", "pred_score": 1.0, "regions": [{"x": 1}]}


def _stopped_by(error: BaseException, out: Path) -> None:
    with open_results(out, "csv") as (write, _):
        write(ROW)
        raise error


def test_ctrl_c_keeps_the_finished_rows(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _stopped_by(KeyboardInterrupt(), tmp_path / "out")
    assert (tmp_path / "out" / "results.csv").read_text().splitlines()[1].startswith("a.png,1.0")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        _stopped_by(OSError(28, "No space left on device"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists already"), open_results(tmp_path, "csv"):
        pass
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_folders_are_searched_and_files_taken_as_given(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.jpg", "note.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    found = pictures_of([tmp_path / "note.txt", tmp_path])
    assert [path.name for path in found] == ["note.txt", "b.png", "a.jpg"]
