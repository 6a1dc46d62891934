"""What is written whole or not at all is on the disk before it has its name, and never takes the name of something else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flawforge.judging import rows
from flawforge.scale import ledger
from flawforge.store import exports
from flawforge.store.opening import open_store
from flawforge.types import ConfigError, DataError, ModelError
from flawforge_runtime.files import new_file, write_atomically
from test_scale import _commit, _open


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was flushed, and what was given its name, in order: ("flushed" | "named", name)."""
    seen: list[tuple[str, str]] = []
    flush, link, replace = os.fsync, os.link, Path.replace

    def fsync(handle: int) -> None:
        seen.append(("flushed", Path(f"/proc/self/fd/{handle}").readlink().name))
        flush(handle)

    def linked(source: Path, target: Path) -> None:
        seen.append(("named", Path(target).name))
        link(source, target)

    def replaced(source: Path, target: Path) -> Path:
        seen.append(("named", Path(target).name))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(Path, "replace", replaced)
    return seen


def write_list(folder: Path) -> None:
    _open(folder / "run")


def write_rows(folder: Path) -> None:
    with rows.open_results(folder / "rows", "parquet") as (write, _):
        write({"image_path": "a.png", "error": "x"})


def write_copy(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"a")
    (folder / "a.png").chmod(0o444)
    rows._copy(folder / "a.png", folder / "ng", rows.Tally(), print)


def write_export(folder: Path, ending: str = "csv") -> None:
    with open_store(folder / "r.db") as store:
        exports.export(store, folder / f"out.{ending}")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_list, "pictures.parquet"),
        (write_rows, "results.parquet"),
        (write_copy, "a.png"),
        (write_export, "out.csv"),
        (lambda folder: write_export(folder, "parquet"), "out.parquet"),
        (lambda folder: write_atomically(folder / "plain", b"a"), "plain"),
    ],
)
def test_a_file_is_flushed_before_it_has_its_name(
    write: Callable[[Path], None], name: str, tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    write(tmp_path)
    place = events.index(("named", name))
    assert any(what == "flushed" and each.startswith(f".{name}.") for what, each in events[:place])
    assert events[place + 1][0] == "flushed"  # its folder
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_rows_are_flushed_before_a_run_is_called_finished(
    form: str, tmp_path: Path, events: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (events.append(("removed", path.name)), unlink(path, **how))[1])
    with rows.open_results(tmp_path / "out", form) as (write, _):
        write({"image_path": "a.png", "error": "x"})
    assert events.index(("flushed", rows.rows_file(form))) < events.index(("removed", rows.UNFINISHED))


def test_rows_that_cannot_be_flushed_leave_an_unfinished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(DataError, match=r"could not be written \(Input/output error\)"),
        rows.open_results(tmp_path / "out", "csv") as (write, _),
    ):
        write({"image_path": "a.png", "error": "x"})
    assert (tmp_path / "out" / rows.UNFINISHED).is_file()


@pytest.mark.parametrize("second_names", [True, False])
def test_what_came_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second_names: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not second_names:
        monkeypatch.setattr(os, "link", refuse)
    with new_file(tmp_path / "free") as draft:
        draft.write_bytes(b"mine")
    assert (tmp_path / "free").read_bytes() == b"mine"

    def overtaken() -> None:
        with new_file(tmp_path / "taken") as draft:
            draft.write_bytes(b"mine")
            (tmp_path / "taken").write_bytes(b"another's")

    with pytest.raises(FileExistsError):
        overtaken()
    assert (tmp_path / "taken").read_bytes() == b"another's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "taken"]


def test_an_export_does_not_replace_a_file_that_came_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, flush = tmp_path / "out.csv", os.fsync

    def late(handle: int) -> None:
        if "out.csv" in Path(f"/proc/self/fd/{handle}").readlink().name:
            out.write_bytes(b"another's")
        flush(handle)

    with open_store(tmp_path / "r.db") as store:
        monkeypatch.setattr(os, "fsync", late)
        with pytest.raises(ConfigError, match="exists already"):
            exports.export(store, out)
    assert out.read_bytes() == b"another's"


def test_a_picture_is_copied_beside_one_that_came_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    other, flush = tmp_path / "ng" / "a.png", os.fsync

    def late(handle: int) -> None:
        if not other.exists():
            other.write_bytes(b"another's")
        flush(handle)

    monkeypatch.setattr(os, "fsync", late)
    tally = rows.Tally()
    rows._copy(tmp_path / "a.png", tmp_path / "ng", tally, print)
    assert tally.uncopied == 0
    assert {path.name: path.read_bytes() for path in other.parent.iterdir()} == {"a.png": b"another's", "a-2.png": b"mine"}


# ---- the ledger of a run on Ray


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_run_that_is_stopped_while_it_finishes_is_finished_or_whole(
    removed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, unlink, left = tmp_path / "o", Path.unlink, [removed]
    book = _open(folder)
    for part in range(book.count):
        _commit(book, part)

    def stopped(path: Path, missing_ok: bool = False) -> None:
        if path.parent == folder:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopped)
        if removed < 2:
            with pytest.raises(KeyboardInterrupt):
                book.finish()
        else:
            book.finish()
    assert (folder / ledger.MANIFEST).is_file()
    if removed:
        with pytest.raises(ModelError, match="exists already"):
            _open(folder)
    else:
        assert _open(folder).missing == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (ledger.PICTURES, b""),
        (ledger.PICTURES, b"PAR1"),
        (ledger.PICTURES, b"PAR1 no parquet PAR1"),
        (ledger.RUN, b""),
        (ledger.RUN, b"[]"),
        (ledger.RUN, b"[" * 100_000),
    ],
)
def test_a_damaged_list_or_description_is_a_sentence(name: str, data: bytes, tmp_path: Path) -> None:
    _open(tmp_path / "o")
    (tmp_path / "o" / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name} was changed since the run began; remove \S+ and run again\.$"):
        _open(tmp_path / "o")


def test_another_table_is_a_sentence(tmp_path: Path) -> None:
    _open(tmp_path / "o")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "o" / ledger.PICTURES)
    with pytest.raises(ModelError, match="was changed since the run began"):
        _open(tmp_path / "o")
    pq.write_table(pa.table({"image_path": [1]}), tmp_path / "o" / ledger.PICTURES)
    with pytest.raises(ModelError, match="was changed since the run began"):
        _open(tmp_path / "o")


@pytest.mark.parametrize("data", [b"", b"PAR1 no parquet PAR1"])
def test_a_part_that_is_no_table_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the rows of other pictures"):
        _open(tmp_path / "o").commit(0, data, [0, 0, 0, 0, 2])
