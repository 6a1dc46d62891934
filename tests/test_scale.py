# ruff: noqa: E402
"""The scale room without a cluster: sources, tables, patience with stores, shipping a model by its hash, the ledger."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

fsspec = pytest.importorskip("fsspec", reason="the extra scale is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra scale is not installed")
pa = pytest.importorskip("pyarrow")

from flawforge.judging import rows as single
from flawforge.scale import fetching, ledger, shipping, sources
from flawforge.scale.cluster import Node, slots
from flawforge.scale.fetching import Patience, StoreError, fetched, is_url, patient
from flawforge.scale.inspecting import BYTES, MOST, part_size
from flawforge.scale.worker import COUNTS, Job, Worker, counts_of, parquet, schema
from flawforge.types import ConfigError, DataError, ModelError
from flawforge_runtime import backends, feed
from flawforge_runtime.files import locked

QUICK = Patience(tries=3, seconds=0.2, pause=0.0)


# --- which pictures


def test_a_table_of_paths_begins_at_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("\ufeffimage_path,label\na.png,0\n/d/b.png,1\ns3://k/c.png,0\n,0\n", encoding="utf-8")
    pq.write_table(pa.table({"image_path": ["x.png", None]}), tmp_path / "list.parquet")
    names = sources.listed([tmp_path / "list.csv", tmp_path / "list.parquet"]).names
    assert names == (f"{tmp_path}/a.png", "/d/b.png", "s3://k/c.png", f"{tmp_path}/x.png")


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_table_without_the_column_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.csv").write_text("path\na.png\n")
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"has no column image_path \(it has path\)"):
        sources.listed([tmp_path / name])


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no Parquet file"):
        sources.listed([tmp_path / "list.parquet"])


def test_a_folder_is_listed_as_inspect_lists_it(washers: Path) -> None:
    folder = washers / "test"
    assert sources.listed([folder]).names == tuple(map(str, feed.Source((folder,))))


def test_an_object_store_gives_its_pictures_by_name_without_hidden_ones() -> None:
    store = fsspec.filesystem("memory")
    for name in ("b.png", "a.JPG", "deep/c.bmp", ".hidden/d.png", "notes.txt"):
        store.pipe(f"/line1/{name}", b"x")
    assert sources.listed(["memory://line1"]).names == (
        "memory:///line1/a.JPG",
        "memory:///line1/b.png",
        "memory:///line1/deep/c.bmp",
    )
    store.pipe("/line1/list.csv", b"image_path\na.JPG\n")
    assert sources.listed(["memory://line1/list.csv"]).names == ("memory://line1/a.JPG",)
    with pytest.raises(DataError, match="No picture in memory://empty"):
        sources.listed(["memory://empty"])


@pytest.mark.parametrize(
    ("name", "is_one"), [("s3://b/x", True), ("/a/b", False), ("C:/x", False), ("a://", True), ("://x", False)]
)
def test_addresses_are_told_from_paths(name: str, is_one: bool) -> None:
    assert is_url(name) is is_one


def test_an_unknown_kind_of_address_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="nosuch://x cannot be opened"):
        fetching.store_of("nosuch://x")


# --- patience


def test_a_store_that_is_busy_is_asked_again() -> None:
    calls = []

    def busy() -> str:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise OSError("503 Slow Down")
        return "here"

    assert patient(busy, "x", QUICK) == "here"
    assert len(calls) == 3


def test_a_store_that_stays_busy_ends_in_a_sentence_and_one_that_says_no_is_believed() -> None:
    asked = []

    def never() -> None:
        asked.append(1)
        raise OSError("503 Slow Down")

    with pytest.raises(StoreError, match=r"s3://b/a.png could not be read in 3 tries \(OSError: 503 Slow Down\)"):
        patient(never, "s3://b/a.png", QUICK)
    assert len(asked) == 3

    def gone() -> None:
        asked.append(1)
        raise FileNotFoundError("a.png")

    with pytest.raises(FileNotFoundError):
        patient(gone, "s3://b/a.png", QUICK)
    assert len(asked) == 4


def test_pauses_double() -> None:
    times = []

    def never() -> None:
        times.append(time.monotonic())
        raise OSError("busy")

    with pytest.raises(StoreError):
        patient(never, "x", Patience(tries=3, seconds=1, pause=0.05))
    first, second = np.diff(times)
    assert 0.05 <= first < second
    assert second >= 0.1


def test_pictures_are_fetched_ahead_and_gone_afterwards(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for number in range(8):
        store.pipe(f"/ahead/{number}.png", bytes([number]))
    names = [f"memory://ahead/{number}.png" for number in range(8)]
    names.insert(3, "here.png")
    names.append("memory://ahead/none.png")
    came, folders = [], set()
    for name, place in fetched(names, tmp_path, QUICK, most=2):
        came.append(name)
        if name == "here.png":
            assert place == tmp_path / "here.png"
        elif name.endswith("none.png"):
            assert isinstance(place, FileNotFoundError)
        else:
            assert isinstance(place, Path)
            assert place.read_bytes() == bytes([int(Path(name).stem)])
            folders.add(place.parent)
            time.sleep(0.02)
            assert len(list(place.parent.iterdir())) <= 1 + 2 + 1, "no more than `most` lie ahead of the one that is judged"
    assert came == names
    assert len(folders) == 1
    assert not folders.pop().exists()


# --- the model on its way


def test_a_model_reaches_a_node_by_its_hash(exports: dict[str, Path], tmp_path: Path) -> None:
    packed = shipping.pack(exports["onnx"])
    folder = shipping.unpacked(packed, tmp_path)
    assert folder.name == packed.digest
    assert shipping.pack(folder).digest == packed.digest
    stamp = (folder / "model.onnx").stat().st_mtime_ns
    assert shipping.unpacked(packed, tmp_path) == folder
    assert (folder / "model.onnx").stat().st_mtime_ns == stamp, "a whole model in the cache is not written again"


@pytest.mark.parametrize("harm", ["altered", "missing"])
def test_an_altered_model_on_a_node_is_replaced(exports: dict[str, Path], tmp_path: Path, harm: str) -> None:
    packed = shipping.pack(exports["onnx"])
    graph = shipping.unpacked(packed, tmp_path) / "model.onnx"
    if harm == "missing":
        graph.unlink()
    else:
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
    assert shipping.pack(shipping.unpacked(packed, tmp_path)).digest == packed.digest


def test_a_model_that_was_altered_on_the_way_never_judges(exports: dict[str, Path], tmp_path: Path) -> None:
    packed = shipping.pack(exports["onnx"])
    other = dataclasses.replace(packed, files={**packed.files, "README.md": b"another"})
    with pytest.raises(ModelError, match="is not the one that was sent"):
        shipping.unpacked(other, tmp_path)
    answer = Worker(_job(exports, tmp_path, model=other))(_block([["a.png"]]))
    assert "is not the one that was sent" in answer["refused"][0]
    assert answer["rows"] == [b""]


def test_torch_weights_are_refused_with_the_command_that_helps(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"flawforge export .* --to onnx"):
        shipping.pack(tiny_model)


# --- a worker


def _job(exports: dict[str, Path], cache: Path, **changes: object) -> Job:
    inspector = backends.load(exports["onnx"], threads=1)
    assert inspector.calibration is not None
    job = Job(
        shipping.pack(exports["onnx"]), inspector.calibration.as_dict(), Path.cwd(), 1, inspector.max_pixels, QUICK, cache
    )
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type]


def _block(parts: Sequence[Sequence[str]]) -> object:
    return pa.table({"part": range(len(parts)), "names": [[os.fsencode(name) for name in names] for names in parts]})


def expected(model: Path, paths: Sequence[Path]) -> list[dict[str, object]]:
    """The rows of one process, as its Parquet file has them, without what differs from run to run."""
    inspector = backends.load(model, threads=1)
    rows = [feed.row_of(each, inspector.about["model_id"]) for each in feed.inspect_paths(inspector, paths)]
    return [plain(row) for row in pa.Table.from_pylist(rows, schema=schema()).to_pylist()]


def plain(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in ("seconds", "time", "overlay")}


def rows_in(data: bytes) -> list[dict[str, object]]:
    return [plain(row) for row in pq.read_table(pa.BufferReader(data)).to_pylist()]


def test_a_worker_gives_the_rows_of_one_process(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    paths = [*sorted((washers / "test").rglob("*.png"))[:4], broken, tmp_path / "none.png"]
    answer = Worker(_job(exports, tmp_path / "cache"))(
        _block([[str(path) for path in paths[:3]], [str(path) for path in paths[3:]]])
    )
    assert answer["part"] == [0, 1]
    assert [row for data in answer["rows"] for row in rows_in(data)] == expected(exports["onnx"], paths)
    assert answer["counts"][1][COUNTS.index("skipped")] == 2


def test_a_relative_path_begins_where_the_command_was_given(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(next((washers / "test").rglob("*.png")).read_bytes())
    rows = rows_in(Worker(_job(exports, tmp_path / "c", base=tmp_path))(_block([["a.png", "b.png"]]))["rows"][0])
    assert [row["image_path"] for row in rows] == ["a.png", "b.png"]
    assert rows[1]["error"] == "b.png is not a file; give the path of a PNG, JPEG, BMP, TIFF or WebP picture."


def test_a_picture_of_a_store_is_judged_as_its_file_is(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    store, path = fsspec.filesystem("memory"), next((washers / "test").rglob("*.png"))
    store.pipe("/judged/a.png", path.read_bytes())
    store.pipe("/judged/b.png", b"nothing")
    names = ["memory://judged/a.png", "memory://judged/b.png", "memory://judged/c.png"]
    rows = rows_in(Worker(_job(exports, tmp_path))(_block([names]))["rows"][0])
    (alone,) = expected(exports["onnx"], [path])
    assert rows[0] == {**alone, "image_path": names[0]}
    assert [str(row["error"]).split(" ")[0] for row in rows[1:]] == names[1:]
    assert "flawforge-fetched" not in str(rows)


def test_a_store_that_does_not_answer_costs_no_picture(exports: dict[str, Path], tmp_path: Path) -> None:
    answer = Worker(_job(exports, tmp_path))(_block([["http://127.0.0.1:9/a.png"]]))
    assert answer["rows"] == [b""]
    assert "could not be read in 3 tries" in answer["waiting"][0]


def test_names_that_are_no_text_are_found_and_escaped(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe4.png")
    (tmp_path / name).write_bytes(next((washers / "test").rglob("*.png")).read_bytes())
    (row,) = rows_in(Worker(_job(exports, tmp_path / "c", base=tmp_path))(_block([[name]]))["rows"][0])
    assert (row["image_path"], row["error"]) == ("\\udce4.png", None)


def test_the_columns_are_those_of_the_single_run() -> None:
    assert set(schema().names) == {*feed.FIELDS, "overlay", "error"}
    assert set(single.COLUMNS) - set(schema().names) == {"x", "y", "w", "h"}, "which a CSV has of the largest region"


# --- the ledger


def _open(folder: Path, names: Sequence[str] = ("a", "b", "c", "d", "e"), size: int = 2, **facts: str) -> ledger.Ledger:
    with ledger.opened(folder) as found:
        return ledger.begin(folder, facts, names, size) if found is None else ledger.resumed(folder, found, facts)


def _rows(names: Sequence[str]) -> bytes:
    return parquet([{"image_path": name, "error": "x"} for name in names])


def _commit(book: ledger.Ledger, part: int) -> bool:
    return book.commit(part, _rows(book.slice(part)), counts_of([{"error": "x"}] * len(book.slice(part))))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 3), st.integers(5, 12))
def test_each_part_counts_once_whatever_the_order_and_the_repeats(parts: list[int], size: int, count: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder, names = Path(place) / "out", [f"{number}.png" for number in range(count)]
        wanted = [part for part in parts if part < -(-count // size)]
        for part in wanted:  # each in a run of its own: the driver is started again after each
            book = _open(folder, names, size)
            assert _commit(book, part) is (part not in {*wanted[: wanted.index(part)]}) or part in book.done
        book = _open(folder, names, size)
        assert set(book.done) == set(wanted)
        for part in book.missing:
            assert _commit(book, part)
        book.finish()
        rows = [row for part in range(book.count) for row in rows_in(ledger.part_file(folder, part).read_bytes())]
        assert [row["image_path"] for row in rows] == names
        manifest = json.loads((folder / ledger.MANIFEST).read_text())
        assert sum(entry["rows"] for entry in manifest["parts"]) == manifest["pictures"] == count
        assert manifest["totals"]["skipped"] == count


def test_a_part_that_was_cut_short_or_altered_is_judged_again(tmp_path: Path) -> None:
    book = _open(tmp_path / "o")
    for part in range(3):
        _commit(book, part)
    ledger.part_file(tmp_path / "o", 0).write_bytes(b"half")
    ledger.part_file(tmp_path / "o", 1).unlink()
    with (tmp_path / "o" / ledger.LINES).open("a") as file:
        file.write('{"part": 0, "ro')  # the power went
    book = _open(tmp_path / "o")
    assert book.missing == [0, 1]
    assert _commit(book, 0)
    assert _open(tmp_path / "o").missing == [1]


def test_a_part_without_its_line_does_not_count(tmp_path: Path) -> None:
    """The kill came between the two writes."""
    book = _open(tmp_path / "o")
    _commit(book, 0)
    (tmp_path / "o" / ledger.LINES).unlink()
    book = _open(tmp_path / "o")
    assert book.missing == [0, 1, 2]
    assert _commit(book, 0)


def test_rows_of_other_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the rows of other pictures"):
        _open(tmp_path / "o").commit(0, _rows(["a", "x"]), [0, 0, 0, 0, 2])


@pytest.mark.parametrize("rows", [["a"], ["a", "b", "b"], ["b", "a"]])
def test_lost_doubled_and_swapped_rows_are_refused(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(DataError, match="the rows of other pictures"):
        _open(tmp_path / "o").commit(0, _rows(rows), [0, 0, 0, 0, 2])


def test_another_model_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    _open(tmp_path / "o", model="1", limits="2")
    with pytest.raises(ModelError, match="was begun with another model;"):
        _open(tmp_path / "o", model="other", limits="2")
    with pytest.raises(ModelError, match="was begun with another model and limits;"):
        _open(tmp_path / "o", model="other", limits="other")


def test_a_changed_list_is_refused(tmp_path: Path) -> None:
    _open(tmp_path / "o")
    pq.write_table(pa.table({"image_path": pa.array([b"a"], pa.binary())}), tmp_path / "o" / ledger.PICTURES)
    with pytest.raises(ModelError, match="was changed since the run began"):
        _open(tmp_path / "o")


def test_a_finished_run_and_a_strangers_folder_are_not_written_over(tmp_path: Path) -> None:
    book = _open(tmp_path / "o")
    for part in range(3):
        _commit(book, part)
    book.finish()
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "manifest.json",
        "parts",
        "pictures.parquet",
        "run.json",
    ]
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine.txt").touch()
    for folder in (tmp_path / "o", tmp_path / "p"):
        with pytest.raises(ModelError, match="exists already"):
            _open(folder)


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with ledger.opened(tmp_path / "o"), pytest.raises(ModelError, match="is being written by another run"):
        _open(tmp_path / "o")


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path) -> None:
    book = _open(tmp_path / "o")
    _commit(book, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # less than a part, as a disk that is full
    try:
        with pytest.raises(DataError, match=r"its 1 of 3 parts are whole: free some space and run the same command"):
            _commit(book, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _open(tmp_path / "o").missing == [1, 2]
    assert not list((tmp_path / "o" / ledger.PARTS).glob(".*"))


# --- how much at a time


@given(st.integers(1, 10**8), st.integers(1, 5000), st.floats(0, 1e9))
def test_parts_are_bounded_by_memory_and_give_every_worker_its_turns(count: int, workers: int, mean: float) -> None:
    size = part_size(count, workers, mean)
    assert 1 <= size <= MOST
    assert size == 1 or size * mean <= BYTES
    assert size == 1 or -(-count // size) >= min(count, 8 * workers) * 0.5


def test_workers_fit_the_nodes() -> None:
    nodes = [Node("a", "1", 4, 8e9), Node("b", "2", 2, 1e9), Node("head", "3", 0, 64e9)]
    assert slots(nodes, 1, 10**9) == 5
    assert slots(nodes, 2, 3 * 10**9) == 2
    with pytest.raises(ConfigError, match=r"needs 8 cores and 0\.\d GiB"):
        slots(nodes, 8, 10**9)


def test_two_workers_of_one_node_open_the_same_model(exports: dict[str, Path], tmp_path: Path) -> None:
    """The second one waits, and never removes what the first one opens."""
    packed = shipping.pack(exports["onnx"])
    folder, found = tmp_path / packed.digest, list[Path]()
    second = threading.Thread(target=lambda: found.append(shipping.unpacked(packed, tmp_path)))
    with locked(folder):
        second.start()
        second.join(0.2)
        assert second.is_alive()
        shipping._write(folder, packed.files)
        written = folder.stat().st_ino
    second.join()
    assert found == [folder]
    assert folder.stat().st_ino == written


@pytest.mark.parametrize("why", ["another writes for too long", "others may write to it"])
def test_a_cache_that_cannot_be_relied_on_is_not_used(
    why: str, exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = shipping.pack(exports["onnx"])
    monkeypatch.setattr(shipping, "WAIT", 0.1)
    cache = tmp_path / "cache"
    first = shipping.unpacked(packed, cache)
    assert cache.stat().st_mode & 0o077 == 0
    with locked(first):
        if why.startswith("others"):
            cache.chmod(0o777)
        else:
            (first / "model.onnx").unlink()
        folder = shipping.unpacked(packed, cache)
    try:
        assert folder.parent != cache
        assert shipping.pack(folder).digest == packed.digest
    finally:
        shutil.rmtree(folder)
