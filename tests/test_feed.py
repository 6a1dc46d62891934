"""Pictures from pipes and folders: each once, whole, and a bad one stops nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flawforge.types import DataError
from flawforge_runtime.feed import FIELDS, Source, Tally, piped, row_of, search, watched
from flawforge_runtime.types import Decision, Region


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
    seen = watched(
        tmp_path,
        poll=0,
        go_on=looks(
            lambda: path.write_bytes(b"1"),
            lambda: path.write_bytes(b"12"),
            lambda: path.write_bytes(b"123"),
            nothing,
            nothing,
            nothing,
        ),
    )
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


@pytest.mark.parametrize("put", ["renamed over", "written in place"])
def test_the_next_part_under_a_name_comes_with_the_same_size_and_time(put: str, tmp_path: Path) -> None:
    """Uncompressed pictures all have one size, and FAT, copies and cameras write whole seconds."""
    path, draft = tmp_path / "cam.bmp", tmp_path / ".cam"
    path.write_bytes(b"AAAA")
    os.utime(path, (1_000_000, 1_000_000))

    def next_part() -> None:
        to = draft if put == "renamed over" else path
        to.write_bytes(b"BBBB")
        os.utime(to, (1_000_000, 1_000_000))
        to.replace(path)

    steps = [nothing, nothing, nothing, next_part, *[nothing] * 4]
    assert [(each, each.read_bytes()) for each in watched(tmp_path, poll=0, go_on=looks(*steps))] == [
        (path, b"AAAA"),
        (path, b"BBBB"),
    ]


def test_what_is_no_regular_file_is_given_once_and_stops_no_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").write_bytes(b"1")
    seen = watched(
        tmp_path, poll=0, go_on=looks(nothing, nothing, nothing, lambda: os.utime(tmp_path / "a.png"), *[nothing] * 3)
    )
    assert [path.name for path in seen] == ["a.png", "b.png", "d.png"]


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


def test_a_watched_folder_may_go_away_and_come_back(tmp_path: Path) -> None:
    """Removed and made anew, as an unmounted share is; emptied and filled again. Nothing is judged twice."""
    camera, away = tmp_path / "camera", tmp_path / "away"
    camera.mkdir()
    (camera / "a.png").write_bytes(b"1")
    (tmp_path / "b.png").write_bytes(b"2")
    said: list[str] = []
    steps = [
        nothing,
        nothing,
        nothing,
        lambda: camera.rename(away),
        nothing,
        nothing,
        lambda: away.rename(camera),
        nothing,
        lambda: (camera.rename(away), camera.mkdir()),
        nothing,
        lambda: (camera.rmdir(), away.rename(camera)),
        nothing,
        nothing,
        lambda: shutil.copy(tmp_path / "b.png", camera),
        nothing,
        nothing,
    ]
    seen = watched(camera, poll=0, say=said.append, go_on=looks(*steps))
    assert list(seen) == [camera / "a.png", camera / "b.png"]
    assert said == [f"{camera} is gone (No such file or directory); waiting for it.", f"{camera} is there again."]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_folder_that_goes_away_in_the_middle_of_a_look_is_not_judged_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The names were read, `after` files were reached, and then the share was unmounted."""
    camera, away = tmp_path / "camera", tmp_path / "away"
    camera.mkdir()
    for name in ("a.png", "b.png"):
        (camera / name).write_bytes(b"1")
    unmounts = [False]

    @contextmanager
    def scandir(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with os_scandir(folder) as entries:
            names = list(entries)

        def reached() -> Iterator[os.DirEntry[str]]:
            for number, entry in enumerate([*names, None]):
                if unmounts[0] and number == after:
                    unmounts[0] = False
                    camera.rename(away)
                if entry is not None:
                    yield entry

        yield reached()

    os_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)

    def unmount() -> None:
        unmounts[0] = True

    steps = [nothing, nothing, nothing, unmount, nothing, lambda: away.rename(camera), nothing, nothing, nothing]
    assert list(watched(camera, poll=0, go_on=looks(*steps))) == [camera / "a.png", camera / "b.png"]


def test_an_empty_folder_on_another_disk_is_an_unmounted_one(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk here")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "a.png").write_bytes(b"1")
    point = tmp_path / "point"
    point.symlink_to(tmp_path / "share")
    with tempfile.TemporaryDirectory(dir=memory) as other:

        def turn(to: Path) -> None:
            point.unlink()
            point.symlink_to(to)

        said: list[str] = []
        steps = [nothing, nothing, lambda: turn(Path(other)), nothing, lambda: turn(tmp_path / "share"), nothing, nothing]
        assert list(watched(point, poll=0, say=said.append, go_on=looks(*steps))) == [point / "a.png"]
    assert said == [f"{point} is gone (its disk is not mounted); waiting for it.", f"{point} is there again."]


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")
    return root


def gathered(*paths: Path) -> tuple[list[Path], list[str], int]:
    """The pictures, what was said, and how many folders were missed."""
    said: list[str] = []
    source = Source(paths, say=said.append)
    return list(source), said, source.missed


def test_folders_are_searched_and_files_taken_as_given(tmp_path: Path) -> None:
    made(tmp_path, "b.png", "sub/a.jpg", "note.txt", "sub/list.csv", ".hidden.png", ".cache/c.png")
    pictures, said, missed = gathered(tmp_path / "note.txt", tmp_path)
    assert pictures == [tmp_path / "note.txt", tmp_path / "b.png", tmp_path / "sub/a.jpg"]
    assert said == [f"Left aside in {tmp_path}, as by name no PNG, JPEG, BMP, TIFF or WebP: 2 files (1 .csv, 1 .txt)."]
    assert missed == 0


def test_masks_of_a_data_set_are_no_parts(tmp_path: Path) -> None:
    made(tmp_path, "test/dent/a.png", "ground_truth/dent/a_mask.png", "train/good/b.png", "other/ground_truth/c.png")
    pictures, said, missed = gathered(tmp_path)
    assert pictures == [tmp_path / "other/ground_truth/c.png", tmp_path / "test/dent/a.png", tmp_path / "train/good/b.png"]
    place = tmp_path / "ground_truth"
    assert said == [f"Left out, as masks of the pictures in test beside it: {place}; give its own path to judge it."]
    assert missed == 0
    assert gathered(place)[0] == [place / "dent/a_mask.png"]


def test_linked_folders_are_named_and_not_followed(tmp_path: Path) -> None:
    made(tmp_path, "real/a.png", "day/b.png")
    (tmp_path / "day" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "day" / "back").symlink_to(tmp_path / "day")
    pictures, said, missed = gathered(tmp_path / "day")
    assert pictures == [tmp_path / "day/b.png"]
    names = f"{tmp_path / 'day/back'}, {tmp_path / 'day/link'}"
    assert said == [f"Linked folders are not followed, 2 in {tmp_path / 'day'}: {names}; give their own paths."]
    assert missed == 0
    assert gathered(tmp_path / "day" / "link")[0] == [tmp_path / "day/link/a.png"]  # its own path


def too_deep(folder: Path) -> None:
    """Folders in folders until the system no longer takes the path: they cannot be read, not even by the superuser."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 240, dir_fd=here)
        inner = os.open("d" * 240, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_a_folder_that_cannot_be_read_is_named_and_counted(tmp_path: Path) -> None:
    made(tmp_path, "a.png")
    too_deep(tmp_path)
    try:
        pictures, said, missed = gathered(tmp_path)
    finally:
        shutil.rmtree(tmp_path / ("d" * 240))
    assert pictures == [tmp_path / "a.png"]
    assert (len(said), missed) == (1, 1)
    assert "cannot be read (File name too long); pictures in it are left out" in said[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_closed_folder_is_named_and_counted(tmp_path: Path) -> None:
    made(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        assert gathered(tmp_path)[1:] == (
            [f"{tmp_path / 'closed'} cannot be read (Permission denied); pictures in it are left out."],
            1,
        )
    finally:
        (tmp_path / "closed").chmod(0o755)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "No picture in {}: it is empty; where a disk or share belongs there, check that it is mounted."),
        (["a.pdf", "b.PDF", "c/d.pdf"], "No picture in {}: 3 files, all .pdf; give PNG, JPEG, BMP, TIFF or WebP."),
        (["a.heic"], "No picture in {}: 1 file (.heic); give PNG, JPEG, BMP, TIFF or WebP."),
        (
            ["a.txt", "b.txt", "c"],
            "No picture in {}: 3 files (2 .txt, 1 without an ending); give PNG, JPEG, BMP, TIFF or WebP.",
        ),
        ([".a.png"], "No picture in {}: only hidden files or linked folders; give the paths of what is meant."),
    ],
)
def test_no_picture_at_all_is_an_error_and_beside_others_a_word(names: list[str], words: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    made(empty, *names)
    with pytest.raises(DataError) as caught:
        gathered(empty)
    assert str(caught.value) == words.format(empty)
    assert gathered(empty, tmp_path / "x.png") == ([tmp_path / "x.png"], [words.format(empty)], 1)


def test_what_the_system_will_not_look_at_is_left_to_its_own_row(tmp_path: Path) -> None:
    odd = [tmp_path / ("a" * 300 + ".png"), Path("a\0b.png"), Path("/" + "x" * 5000)]
    assert gathered(*odd) == (odd, [], 0)


def test_a_live_source_says_what_is_left_out_and_ends_with_an_error_where_nothing_came(tmp_path: Path) -> None:
    made(tmp_path, "day/a.png", "docs/b.pdf")
    said: list[str] = []
    source = Source([tmp_path / "docs", Path("-"), tmp_path / "day"], stdin=io.StringIO("z.png\n"), say=said.append)
    assert source.live
    assert list(source) == [Path("z.png"), tmp_path / "day/a.png"]
    assert (said[0][:10], len(said), source.missed) == ("No picture", 1, 1)
    with pytest.raises(DataError, match="No picture came on standard input"):
        list(Source([Path("-")], stdin=io.StringIO("\n\n")))
    assert not Source([Path("-")]).live  # without a standard input it is a file's name


def test_bytes_that_are_not_utf8_come_through_a_pipe_and_find_their_file(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/x\xe4.png"
    Path(os.fsdecode(raw)).write_bytes(b"1")
    stream = io.TextIOWrapper(io.BytesIO(raw + b"\nb.png\n"), encoding="utf-8")
    first, second = piped(stream)
    assert first.read_bytes() == b"1"
    assert second == Path("b.png")
    assert search(tmp_path).pictures == (first,)


def decision(score: float, peak: float = 1.0) -> Decision:
    surface = np.zeros((2, 2), np.float32)
    region = Region(0, 0, 1, 1, 1, peak)
    return Decision("a.png", score, 1.0, "OK", False, 2.0, surface, surface > 0, (region,), 0.0, ("a note",), False)


def test_a_row_has_its_fields_in_their_order_and_no_number_that_json_has_no_word_for() -> None:
    row = row_of(decision(1.0), "id")
    assert tuple(row) == FIELDS
    assert (row["valid"], row["notes"]) == (False, ["a note"])
    json.dumps(row, allow_nan=False)
    for bad in (decision(float("nan")), decision(float("-inf")), decision(1.0, peak=float("inf"))):
        assert row_of(bad, "id").keys() == {"image_path", "error"}
    assert row_of((Path("b.png"), "why"), "id") == {"image_path": "b.png", "error": "why"}


def test_a_tally_counts_every_row() -> None:
    tally = Tally()
    for result in (decision(1.0), decision(2.0), (Path("b.png"), "why")):
        tally.add(row_of(result, "id"))
    assert tally.count == 3
    assert str(tally) == "2 judged: 2 OK, 0 REVIEW, 0 NG (2 not like any good picture), 1 could not be judged"


def test_a_pipe_gives_a_line_for_each_path_as_it_comes(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    """Truly as they come: the second path is written only after the first answer was read."""
    good = min((washers / "test" / "good").iterdir())
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with subprocess.Popen(
        [sys.executable, "-m", "flawforge", "inspect", str(tiny_model), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
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
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        (camera / "2.png").write_bytes(b"half")
        second = json.loads(process.stdout.readline())
        camera.rename(tmp_path / "away")  # unmounted
        time.sleep(0.5)
        (tmp_path / "away").rename(camera)
        shutil.copy(good, camera / "3.png")
        third = json.loads(process.stdout.readline())
        time.sleep(0.5)  # the next look: nothing is being judged
        process.send_signal(2)
        _, errors = process.communicate(timeout=60)
    assert Path(first["image_path"]).name == "1.png"
    assert Path(second["image_path"]).name == "2.png"
    assert "error" in second
    assert Path(third["image_path"]).name == "3.png"
    assert process.returncode == 1  # for the half picture
    assert errors.count(f"{camera} is gone") == errors.count(f"{camera} is there again") == 1
    assert "1 could not be judged; rows are printed" in errors
    assert "1 of 3 files could not be judged" in errors
    assert "Traceback" not in errors
