# ruff: noqa: E402
"""Lists of pictures and the ledger of a run on Ray, for random names and for a manifest that is cut anywhere."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("fsspec", reason="the extra scale is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra scale is not installed")
pa = pytest.importorskip("pyarrow")

from flawforge.scale import ledger
from flawforge.scale.fetching import is_url
from flawforge.scale.sources import COLUMN, listed
from flawforge.scale.worker import COUNTS, escaped
from flawforge.types import DataError

# Everything that a table can hold but what no path can: NUL, and halves of surrogate pairs.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAMES = st.lists(TEXT | TEXT.map("/data/{}".format) | TEXT.map("s3://bucket/{}".format), max_size=8)


@settings(max_examples=60, deadline=None)
@given(names=NAMES, delimited=st.booleans())
def test_a_table_gives_its_paths_in_order_whatever_they_hold(names: list[str], delimited: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [{"number": str(number), COLUMN: name, "more": 'a, "b"\nc'} for number, name in enumerate(names)]
        with (folder / "list.csv").open("w", encoding="utf-8-sig" if delimited else "utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["number", COLUMN, "more"])
            writer.writeheader()
            writer.writerows(rows)
        pq.write_table(pa.table({COLUMN: pa.array([name or None for name in names], pa.string())}), folder / "list.parquet")
        expected = [name if is_url(name) or name.startswith("/") else str(folder / name) for name in names if name]
        for table in ("list.csv", "list.parquet"):
            if expected:
                assert list(listed([folder / table]).names) == expected
            else:
                with pytest.raises(DataError, match=r"^No picture in "):
                    listed([folder / table])


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: b"\0" not in name), min_size=1, max_size=6))
def test_names_that_are_no_text_come_through_a_run_that_stops(names: list[bytes]) -> None:
    """As the system gives them to Python, and back to the same bytes."""
    paths = [os.fsdecode(name) for name in names]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with ledger.opened(folder) as found:
            assert found is None
            begun = ledger.begin(folder, {"model": "a"}, paths, 4)
        with ledger.opened(folder) as found:
            assert found is not None
            again = ledger.resumed(folder, found, {"model": "a"})
        assert list(again.names) == list(begun.names) == paths
        assert [name for part in range(again.count) for name in again.slice(part)] == paths


def rows_of(names: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image_path": [escaped(name) for name in names]}), sink)
    return bytes(sink.getvalue())


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(4)),
    line=st.integers(0, 3),
    back=st.sampled_from([0, 1, 2, 50]),
    tail=st.sampled_from([b"", b"{", b'{"part": 9}', b"\xff\n"]),
)
@example(order=[0, 1, 2, 3], line=2, back=1, tail=b"")  # the last entry is whole but for the end of its line
def test_a_manifest_that_is_cut_anywhere_counts_its_whole_lines(order: list[int], line: int, back: int, tail: bytes) -> None:
    names = [f"{number}.png" for number in range(7)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with ledger.opened(folder):
            book = ledger.begin(folder, {}, names, 2)
        ends, lines = [], folder / ledger.LINES
        for part in order:
            mine = list(book.slice(part))
            assert book.commit(part, rows_of(mine), [len(mine), *[0] * (len(COUNTS) - 1)])
            ends.append(lines.stat().st_size)
        whole = lines.read_bytes()
        cut = ends[line] - back
        lines.write_bytes(whole[:cut] + tail)
        with ledger.opened(folder) as found:
            assert found is not None
            again = ledger.resumed(folder, found, {})
        kept = [part for part, end in zip(order, ends, strict=True) if end <= cut]
        assert list(again.done) == kept
        assert again.missing == sorted(set(range(4)) - set(kept))
        assert lines.read_bytes() == whole[: max([0, *(end for end in ends if end <= cut)])]  # the rest is cut off
        for part in again.missing:
            mine = list(again.slice(part))
            assert again.commit(part, rows_of(mine), [len(mine), *[0] * (len(COUNTS) - 1)])
        again.finish()
        manifest = json.loads((folder / ledger.MANIFEST).read_text())
        assert [entry["part"] for entry in manifest["parts"]] == [0, 1, 2, 3]
        assert manifest["totals"][COUNTS[0]] == len(names)
        assert not (folder / ledger.UNFINISHED).exists()
