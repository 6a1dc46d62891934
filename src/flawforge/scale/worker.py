"""What runs on a node: an actor that holds the runtime's inspector and judges pictures one by one, without torch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flawforge.scale.fetching import PATIENCE, Patience, StoreError, fetched
from flawforge.scale.shipping import CACHE, Packed, unpacked
from flawforge_runtime import backends, feed
from flawforge_runtime.calibrate import calibration_from_dict
from flawforge_runtime.types import Decision, FlawforgeError, ImageError

COUNTS = ("OK", "REVIEW", "NG", "strange", "skipped")


@dataclass(frozen=True)
class Job:
    """All that a worker needs beside the pictures' names.

    model        the model's files
    calibration  the thresholds to judge with, as Calibration.as_dict gives them
    base         folder that relative paths begin at
    threads      of the network
    """

    model: Packed = field(repr=False)
    calibration: Mapping[str, Any] = field(repr=False)
    base: Path = Path()
    threads: int = 1
    max_pixels: int = 0
    patience: Patience = PATIENCE
    cache: Path = CACHE


class Worker:
    """An actor of Ray Data: a block with one part's number and names in, its rows as a Parquet file out.

    What keeps it from judging is told as `refused` with each part, since Ray would only say that an actor failed; a store
    that does not answer as `waiting`.
    """

    def __init__(self, job: Any) -> None:
        self.job: Job = job if isinstance(job, Job) else _got(job)
        self.refused = ""
        try:
            folder = unpacked(self.job.model, self.job.cache)
            loaded = backends.load(folder, threads=self.job.threads)
            assert loaded.calibration is not None
            calibration = calibration_from_dict(self.job.calibration)
            self.inspector = replace(loaded.with_calibration(calibration), max_pixels=self.job.max_pixels)
        except (FlawforgeError, OSError) as error:
            self.refused = str(error)

    def __call__(self, block: Any) -> dict[str, list[Any]]:
        answer: dict[str, list[Any]] = {name: [] for name in ("part", "rows", "counts", "waiting", "refused")}
        for part, names in zip(block["part"].to_pylist(), block["names"].to_pylist(), strict=True):
            data, counts, waiting = b"", [0] * len(COUNTS), ""
            if not self.refused:
                try:
                    data, counts = self.judged([os.fsdecode(name) for name in names])
                except StoreError as error:
                    waiting = str(error)
            for key, value in zip(answer, (part, data, counts, waiting, self.refused), strict=True):
                answer[key].append(value)
        return answer

    def judged(self, names: Sequence[str]) -> tuple[bytes, list[int]]:
        """The rows of these pictures, as a Parquet file, and how many there are of each of COUNTS."""
        rows = list(judge(self.inspector, names, self.job))
        return parquet(rows), counts_of(rows)


def _got(reference: Any) -> Job:
    import ray

    job: Job = ray.get(reference)
    return job


def judge(inspector: Any, names: Iterable[str], job: Job) -> Iterable[dict[str, Any]]:
    """The row of each picture, as `flawforge inspect` gives it on one machine: the same code, one picture at a time."""

    def look(found: Any) -> Decision:
        name, place = found
        if isinstance(place, OSError):
            raise ImageError(f"{name} cannot be read ({place.strerror or type(place).__name__}); check the address.")
        try:
            decision: Decision = inspector(place, name)
        except FlawforgeError as error:  # it names the file where it lay, which is not what was given
            raise type(error)(str(error).replace(str(place), name)) from None
        return decision

    pictures: Any = fetched(names, job.base, job.patience)
    for result in feed.inspect_paths(look, pictures):
        if not isinstance(result, Decision):
            found: Any = result[0]
            result = found[0], result[1].replace(str(found), found[0])
        yield feed.row_of(result, inspector.about["model_id"])


def counts_of(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """How many rows there are of each of COUNTS."""
    tally = feed.Tally()
    for row in rows:
        tally.add(row)
    return [*(tally.verdicts[verdict] for verdict in COUNTS[:3]), tally.strange, tally.skipped]


def schema() -> Any:
    """Of the rows, whatever a part holds."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    region = pa.struct([(name, pa.int64()) for name in ("x", "y", "w", "h", "area")] + [("peak", number)])
    kinds = {
        **dict.fromkeys(feed.FIELDS, text),
        **dict.fromkeys(
            ("pred_score", "score_normalised", "p_value", "threshold", "review_threshold", "largest_area", "seconds"), number
        ),
        **dict.fromkeys(("pred_label", "valid"), pa.bool_()),
        "regions": pa.list_(region),
        "region_count": pa.int64(),
        "notes": pa.list_(text),
        "overlay": text,
        "error": text,
    }
    return pa.schema(list(kinds.items()))


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a Parquet file; names that are not UTF-8 are escaped."""
    import pyarrow as pa
    import pyarrow.parquet

    kinds, file = schema(), io.BytesIO()
    plain = [{name: escaped(row.get(name)) for name in kinds.names} for row in rows]
    pyarrow.parquet.write_table(pa.Table.from_pylist(plain, schema=kinds), file)
    return file.getvalue()


def escaped(value: Any) -> Any:
    r"""Bytes of a name that are not UTF-8 as \udce4."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return [escaped(each) for each in value] if isinstance(value, list) else value
