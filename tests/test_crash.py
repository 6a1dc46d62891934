"""A process that dies at any operation leaves the old or the new, never half of it, and the next one works."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flawforge import fitting
from flawforge.judging import loading
from flawforge.reporting.kept import album, keep, kept
from flawforge.types import ModelError
from flawforge_runtime import bundle, files


def fork_and_die(operation: int, work: Callable[[], None]) -> bool:
    """Whether a forked child was still at work at its n-th operation on the disk, right before which it dies."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 9
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        flags = arguments[2] if event == "open" else 0
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}:
            count += 1
            if count == operation:
                os._exit(9)

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_rewrite_that_dies_anywhere_leaves_the_old_or_the_new_model(tiny_model: Path, tmp_path: Path) -> None:
    content = bundle.read(tiny_model)
    new = dataclasses.replace(content, card="new", guard=None)
    seen = set()
    for operation in range(1, 200):
        folder = tmp_path / str(operation) / "model"
        shutil.copytree(tiny_model, folder)
        (folder / "notes.txt").write_text("mine")
        (folder / "evaluation").mkdir()

        def work(folder: Path = folder) -> None:
            with bundle.hold(folder):
                bundle.rewrite(folder, new)

        died = fork_and_die(operation, work)
        found = bundle.read(folder)
        assert found.card in (content.card, "new")
        assert (found.guard is None) == (found.card == "new")
        assert found.tensors == content.tensors
        assert (folder / "notes.txt").read_text() == "mine"
        seen.add(found.card)
        # The next one works, whatever was left, and leaves nothing of it.
        with bundle.hold(folder):
            bundle.rewrite(folder, dataclasses.replace(content, card="third"))
        assert bundle.read(folder).card == "third"
        assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in tiny_model.iterdir()} | {"notes.txt", "evaluation"}
        if not died:
            break
    assert not died
    assert operation > 20
    assert seen == {content.card, "new"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_result_that_dies_anywhere_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    for operation in range(1, 100):
        folder = tmp_path / str(operation)
        folder.mkdir()
        keep(folder, "evaluation", {"run": "old"}, [("best", {}, picture)])

        def work(folder: Path = folder) -> None:
            keep(folder, "evaluation", {"run": "new"}, [("best", {}, picture)])

        died = fork_and_die(operation, work)
        runs = [one.read() for one in kept(folder, "evaluation")]
        assert [run["run"] for run in runs] in (["old"], ["new", "old"])
        assert json.loads((album(folder, "evaluation") / "evaluation.json").read_text()) == runs[0]
        for one, run in zip(kept(folder, "evaluation"), runs, strict=True):
            assert (one.folder / run["overlays"][0]["file"]).is_file()
        third = keep(folder, "evaluation", {"run": "third"}, [("best", {}, picture)])
        assert album(folder, "evaluation") == third.folder
        assert len(list((folder / "evaluation").iterdir())) == len(runs) + 1
        assert sorted(path.name for path in folder.iterdir()) == ["evaluation"]
        if not died:
            break
    assert not died
    assert operation > 8


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_file_that_dies_anywhere_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    for operation in range(1, 20):
        path = tmp_path / str(operation) / "file"
        path.parent.mkdir()
        path.write_bytes(b"old")
        died = fork_and_die(operation, lambda path=path: files.write_atomically(path, b"new"))  # type: ignore[misc]
        assert path.read_bytes() in (b"old", b"new")
        with files.locked(path):
            assert [each.name for each in path.parent.iterdir() if each.name.endswith(".tmp")] == []
        assert [each.name for each in path.parent.iterdir()] == ["file"]
        if not died:
            break
    assert not died


def test_a_reader_beside_a_rewriter_sees_whole_models_alone(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    content = bundle.read(folder)
    stop, cards, errors = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                cards.add(bundle.read(folder).card)
            except ModelError as error:
                errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        bundle.rewrite(folder, dataclasses.replace(content, card=str(number), guard=content.guard if number % 2 else None))
    stop.set()
    reader.join()
    assert errors == []
    assert len(cards) > 1


def test_a_file_moved_between_two_looks_is_read_at_its_new_place(tiny_model: Path, tmp_path: Path) -> None:
    """A rewrite moves a file out of .commit after the reader has seen it there: the manifests are the same all the while."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    commit = folder / bundle.COMMIT
    shutil.copytree(tiny_model, commit)
    (folder / "README.md").write_text("an older card")
    (commit / "README.md").replace(folder / "README.md")
    read, moved = bundle._bytes, []

    def move_first(folder_: Path, name: str, path: Path, expected: int | None) -> bytes:
        if path.parent == commit and name == "calibration.json" and not moved:
            path.replace(folder / name)
            moved.append(name)
        return read(folder_, name, path, expected)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "_bytes", move_first)
        assert bundle.read(folder).card == bundle.read(tiny_model).card
    assert moved == ["calibration.json"]


def test_a_link_is_followed_and_its_model_kept(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model-2024"
    shutil.copytree(tiny_model, folder)
    (tmp_path / "current").symlink_to("model-2024")
    fitting.recalibrate(tmp_path / "current", washers / "test" / "good", None, None)
    assert (tmp_path / "current").is_symlink()
    calibration = loading.load(folder).calibration
    assert calibration is not None
    assert calibration.n == 6
    assert bundle.read(tmp_path / "current").model_id == bundle.read(tiny_model).model_id


def test_the_second_writer_is_refused_at_once(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    with bundle.hold(folder), pytest.raises(ModelError, match="being written by another process"):
        fitting.recalibrate(folder, washers / "test" / "good", None, None)
    new = fitting.Request(washers, tmp_path / "new", method="patchstats", size=64)
    with bundle.hold(tmp_path / "new"), pytest.raises(ModelError, match="being written by another process"):
        fitting.run(new)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_lock_of_a_dead_process_is_no_lock(tmp_path: Path) -> None:
    program = "import os, sys\nfrom pathlib import Path\nfrom flawforge_runtime.files import locked\n"
    program += "with locked(Path(sys.argv[1])):\n    os._exit(9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert (tmp_path / ".out.lock").exists()
    with files.locked(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_other_names_are_left_alone(tmp_path: Path) -> None:
    mine, other, own = ".a.12345678.tmp", ".a.b.12345678.tmp", ".a.12345678.txt"
    for name in (mine, other, own):
        (tmp_path / name).touch()
    with files.locked(tmp_path / "a"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other, own])


def test_new_files_follow_the_umask_and_leave_it_alone(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "file", b"")
        with files.new_folder(tmp_path / "folder"):
            pass
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_long_names_have_drafts(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / ("x" * 250), b"here")
    assert (tmp_path / ("x" * 250)).read_bytes() == b"here"


# ---- reading what is too large, or no file


def test_sizes_are_compared_before_anything_is_read(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "manifest.json", "config.json", "README.md"):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        os.truncate(folder / name, 200 << 30)  # sparse: it takes no room
        with pytest.raises(ModelError, match=rf"{name} has [\d,]+ bytes"):
            bundle.read(folder)


def test_what_is_no_regular_file_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for number, put in enumerate((os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"))):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_model, folder)
        (folder / "config.json").unlink()
        put(folder / "config.json")  # type: ignore[operator]
        with pytest.raises(ModelError, match=r"config\.json is no regular file"):
            bundle.read(folder)
