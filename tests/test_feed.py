"""Pictures from pipes and folders: each once, whole, and a bad one stops nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flawforge.types import DataError
from flawforge_runtime.feed import piped, spread_out, watched


def looks(*steps: Callable[[], object]) -> Callable[[], bool]:
    """go_on for `watched`: before each look one step is done; after the last the watch ends."""
    left: Iterator[Callable[[], object]] = iter(steps)

    def go_on() -> bool:
        step = next(left, None)
        if step is None:
            return False
        step()
        return True

    return go_on


def nothing() -> None:
    pass


def test_lines_become_paths_as_they_come() -> None:
    stream = io.StringIO("a.png\n\nwith space.png\r\nlast.png")
    feed = piped(stream)
    assert next(feed) == Path("a.png")
    assert stream.tell() == len("a.png\n")  # no line is read ahead: a camera waits for its verdict
    assert list(feed) == [Path("with space.png"), Path("last.png")]


def test_a_file_is_given_once_when_it_no_longer_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    seen = watched(tmp_path, poll=0, go_on=looks(
        lambda: path.write_bytes(b"1"), lambda: path.write_bytes(b"12"), lambda: path.write_bytes(b"123"), nothing, nothing,
        nothing,
    ))  # fmt: skip
    assert list(seen) == [path]


def test_a_file_that_still_grows_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    steps = [lambda n=n: path.write_bytes(b"1" * n) for n in range(1, 6)]  # type: ignore[misc]
    assert list(watched(tmp_path, poll=0, go_on=looks(*steps))) == []


def test_a_file_written_anew_counts_again_and_one_that_vanishes_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    steps = [nothing, nothing, lambda: path.write_bytes(b"22"), nothing, nothing, path.unlink, nothing]
    assert list(watched(tmp_path, poll=0, go_on=looks(*steps))) == [path, path]


def test_what_lies_there_comes_first_in_the_order_of_time(tmp_path: Path) -> None:
    for when, name in ((30, "a.png"), (10, "b.PNG"), (20, "c.jpg"), (5, ".hidden.png"), (6, "notes.txt")):
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (when, when))
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in watched(tmp_path, poll=0, go_on=looks(nothing, nothing))] == ["b.PNG", "c.jpg", "a.png"]
    assert list(watched(tmp_path, poll=0, go_on=looks(nothing, nothing), old=False)) == []


def test_a_watched_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder; make it first"):
        next(watched(tmp_path / "none"))


def test_folders_are_spread_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "x.txt"):
        (tmp_path / name).write_bytes(b"1")
    assert list(spread_out([tmp_path, Path("z.png")])) == [tmp_path / "a.png", tmp_path / "b.png", Path("z.png")]


def test_a_pipe_gives_a_line_for_each_path_as_it_comes(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    """Truly as they come: the second path is written only after the first answer was read."""
    good = min((washers / "test" / "good").iterdir())
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with subprocess.Popen(
        [sys.executable, "-m", "flawforge", "inspect", str(tiny_model), "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for path in (good, bad, good):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            answers.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.wait() == 1
    assert answers[0]["verdict"] in ("OK", "REVIEW", "NG")
    assert answers[1] == {"image_path": str(bad), "error": answers[1]["error"]}
    assert "is no PNG" in answers[1]["error"]
    assert answers[2]["pred_score"] == answers[0]["pred_score"]


def test_a_watched_folder_is_judged_until_interrupted(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    camera = tmp_path / "camera"
    camera.mkdir()
    good = min((washers / "test" / "good").iterdir())
    shutil.copy(good, camera / "1.png")
    with subprocess.Popen(
        [sys.executable, "-m", "flawforge", "inspect", str(tiny_model), "--watch", str(camera)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        (camera / "2.png").write_bytes(b"half")
        second = json.loads(process.stdout.readline())
        process.send_signal(2)
        process.wait(timeout=60)
    assert Path(first["image_path"]).name == "1.png"
    assert Path(second["image_path"]).name == "2.png"
    assert "error" in second
