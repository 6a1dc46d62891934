"""What flawforge wrote itself is not judged as a part: overlays, thumbnails, copies of NG pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from flawforge.cli.app import main
from flawforge.judging.rows import DIALECTS, UNFINISHED, open_results, rows_file
from flawforge.types import ConfigError, DataError
from flawforge_runtime.feed import DRAWN, Source, check_watch


def gathered(*paths: Path) -> tuple[list[Path], list[str], int]:
    """The pictures, what was said, and how many folders were missed."""
    said: list[str] = []
    source = Source(paths, say=said.append)
    return list(source), said, source.missed


@pytest.fixture
def parts(tmp_path: Path, washers: Path) -> Path:
    shutil.copytree(washers / "test" / "good", tmp_path / "a")
    return tmp_path / "a"


def test_a_second_inspect_does_not_judge_what_the_first_drew(parts: Path, tiny_model: Path) -> None:
    pictures = sorted(parts.glob("*.png"))
    counts = []
    for out in ("judged", "judged2", "deep/judged3"):
        command = [
            "inspect",
            str(tiny_model),
            str(parts),
            "-o",
            str(parts / out),
            "--overlays",
            "--json",
            str(parts / "n.json"),
        ]
        done = CliRunner().invoke(main, command, catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        counts.append(json.loads((parts / "n.json").read_text())["count"])
        (note,) = [line for line in done.stderr.splitlines() if "drawn by an earlier" in line] or [""]
        assert bool(note) == (out != "judged")
    assert counts == [len(pictures)] * 3
    found, said, missed = gathered(parts)
    assert (found, missed) == (pictures, 0)
    assert f"Left out, as drawn by an earlier inspect: {parts}/deep/judged3/overlays, " in said[0]
    assert said[0].endswith(", ...; give its own path to judge it.")
    own = gathered(parts / "judged" / "overlays")[0]
    assert len(own) == len(pictures), "its own path still judges it"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("killed", [False, True])
def test_rows_of_every_form_tell_the_folder(form: str, dialect: str, killed: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_results(out, form, dialect) as (write, _):
        write({"image_path": "a.png", "error": "it could not be judged"})
    if killed:  # before the first row
        (out / rows_file(form)).write_bytes((out / rows_file(form)).read_bytes()[:70] if form == "csv" else b"")
        (out / UNFINISHED).touch()
    for name in DRAWN:
        (out / name).mkdir()
        (out / name / "1.jpg").touch()
    (out / "part.png").touch()  # that somebody put there: inspect never does
    assert gathered(tmp_path)[0] == [out / "part.png"]
    (out / "part.png").unlink()
    with pytest.raises(DataError, match=r"drawn by an earlier inspect: .* No picture in"):
        gathered(tmp_path)


@pytest.mark.parametrize("rows", [None, b"", b"image_path,label\n1.png,0\n", b'{"file": "1.png"}\n', b"time,image_path\n"])
def test_folders_of_these_names_without_its_rows_are_parts(rows: bytes | None, tmp_path: Path) -> None:
    for name in ("overlays/1.png", "thumbnails/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for name in ("results.csv", "results.jsonl"):
        if rows is not None:
            (tmp_path / name).write_bytes(rows)
    assert len(gathered(tmp_path)[0]) == 2


@pytest.mark.parametrize("place", ["parts", "parts/ng", "parts/../parts/a/b"])
def test_copies_among_the_pictures_are_refused(place: str, washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(washers / "test" / "good", tmp_path / "parts")
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(
        main, ["inspect", str(tiny_model), str(tmp_path / "parts"), "--copy-ng", str(tmp_path / place)]
    )
    assert done.exit_code == 2, done.output
    assert "whose pictures are all judged: the copies would count as other parts the next time" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--copy-ng", "--out"])
def test_no_output_goes_into_the_watched_folder(
    option: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera").mkdir()
    (tmp_path / "link").symlink_to("camera")
    for place in ("camera", "link", "link/../camera", str(tmp_path / "camera")):
        done = CliRunner().invoke(main, ["inspect", str(tiny_model), "--watch", "camera", option, place])
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        assert line == (
            f"flawforge: {option} {place} is the folder that --watch watches, where its pictures would be judged in turn; "
            "give another folder."
        )
    assert not list((tmp_path / "camera").iterdir())
    check_watch(Path("camera"), {option: Path("camera/ng"), "--copy-ng": None})  # the watch sees nothing below its folder
    with pytest.raises(ConfigError, match="judged in turn"):
        check_watch(Path("link"), {option: Path("camera")})
