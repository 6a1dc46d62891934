"""`flawforge inspect --ray`: the same judging on every core of a cluster, into a folder of Parquet parts."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flawforge.scale import cluster, ledger
from flawforge.scale.fetching import PATIENCE, Patience, is_url, store_of
from flawforge.scale.shipping import CACHE, Packed, pack
from flawforge.scale.sources import listed
from flawforge.scale.worker import COUNTS, Job, Worker, judge, parquet, schema
from flawforge.types import DataError, ModelError
from flawforge_runtime.feed import Say
from flawforge_runtime.inspector import Inspector

MOST = 4096  # pictures in a part
BYTES = 256 << 20  # of encoded pictures in a part, about
TURNS = 8  # parts for each worker, at least, so that all of them end at about the same time
SAMPLED = 64  # pictures whose size is asked for
TRIED = 3  # pictures that are judged here first, to see what a worker needs
SPARE = 1.3  # memory of a worker, in multiples of what these took (assumption)
RETRIES = 1  # that a part has when its worker dies, before its pictures are judged one by one
PACKAGES = ("flawforge-runtime", "numpy", "opencv-python-headless")
BACKENDS = {"model.onnx": "onnxruntime", "model.xml": "openvino"}
SILENT = 2  # parts for each worker that may wait for a store before the run ends
DIED = (
    "{name} could not be judged: the worker that judged it alone died, perhaps out of memory; judge it alone on a "
    "machine with more memory, or take it out."
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Inspected:
    """What a run on Ray gave.

    folder       with run.json, parts and manifest.json
    totals       rows of each of `worker.COUNTS`
    parts, before  parts in all, and those that earlier runs had finished
    workers      judging processes at most; memory: bytes that each asked for
    missed       folders that gave no picture
    """

    folder: Path
    totals: dict[str, int]
    parts: int
    before: int
    workers: int
    memory: int
    missed: int = 0

    @property
    def count(self) -> int:
        """Rows; each picture has one."""
        return sum(number for name, number in self.totals.items() if name != "strange")

    def lines(self) -> list[str]:
        """For people."""
        verdicts = ", ".join(f"{self.totals[verdict]} {verdict}" for verdict in ("OK", "REVIEW", "NG"))
        skipped = self.totals["skipped"]
        before = f"; {self.before} of them from an earlier run" if self.before else ""
        return [
            f"{self.count - skipped} judged: {verdicts} ({self.totals['strange']} not like any good picture), {skipped} "
            f"could not be judged; rows are in {self.folder / ledger.PARTS}, {self.parts} part"
            f"{'s' * (self.parts != 1)}{before}"
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**dataclasses.asdict(self), "folder": str(self.folder), "count": self.count}


def inspect(
    model: Path,
    inspector: Inspector,
    sources: Sequence[Path | str],
    out: Path,
    *,
    address: str = cluster.LOCAL,
    workers: int | None = None,
    threads: int = 1,
    part: int | None = None,
    patience: Patience = PATIENCE,
    cache: Path = CACHE,
    say: Say = lambda sentence: None,
    progress: Progress = lambda done, of: None,
) -> Inspected:
    """Judge every picture of `sources` on a Ray cluster; each has exactly one row in `out`, also after kills and restarts.

    model      an export; its files are sent to the nodes, which verify them
    inspector  as it was opened here, with the thresholds to judge with
    sources    as `sources.listed` takes them
    out        a new folder, or that of the same command, which then goes on where it was stopped
    address    as `cluster.joined`
    workers    judging processes at most; None = as many as the cluster has room for
    threads    cores of each
    part       pictures in a part; None = by their size and number
    Rows are those of one process (`feed.row`) but for `seconds` and `time`.
    Raises ModelError, ConfigError; DataError where a store or the disk fails: what is finished stays, and the same command
    goes on from there.
    """
    packed = pack(model)
    assert inspector.calibration is not None
    calibration = inspector.calibration.as_dict()
    limits = hashlib.sha256(json.dumps([calibration, inspector.max_pixels], sort_keys=True).encode()).hexdigest()
    facts = {"model": packed.digest, "limits": limits, "sources": [str(source) for source in sources]}
    job = Job(packed, calibration, Path.cwd(), threads, inspector.max_pixels, patience, cache)
    with ledger.opened(out) as found, cluster.joined(address) as ray:
        missed = 0
        if found is None:
            listing = listed(sources, say, patience)
            names, missed = listing.names, listing.missed
        else:
            book = ledger.resumed(out, found, facts)
            names = tuple(book.names)
            say(f"{out} is gone on with: {len(book.done)} of {book.count} parts are finished")
        memory = _memory(inspector, names, job)
        nodes = cluster.nodes(ray)
        room = cluster.slots(nodes, threads, memory)
        workers = min(room, workers or room)
        _check(ray, nodes, packed, names)
        if found is None:
            size = part or part_size(len(names), workers, mean_bytes(names, job.base))
            book = ledger.begin(out, facts, names, size)
        before = len(book.done)
        progress(sum(book.totals()[name] for name in COUNTS if name != "strange"), len(names))
        _Run(ray, book, job, workers, memory, nodes, say, progress).all()
        book.finish()
        return Inspected(out, book.totals(), book.count, before, workers, memory, missed)


def part_size(count: int, workers: int, mean: float) -> int:
    """Pictures in a part: at most MOST, at most BYTES of encoded pictures, and at least TURNS parts for each worker."""
    return max(1, min(MOST, int(BYTES // max(mean, 1)), math.ceil(count / (TURNS * workers))))


def mean_bytes(names: Sequence[str], base: Path) -> float:
    """Of an encoded picture, from a sample that is spread evenly over all; 0 where none could be asked."""
    sizes = []
    for place in range(0, len(names), max(1, len(names) // SAMPLED)):
        name = names[place]
        try:
            if is_url(name):
                store, path = store_of(name)
                sizes.append(float(store.size(path) or 0))
            else:
                sizes.append(float((base / name).stat().st_size))
        except Exception:  # whatever it is: the worker meets it again and says so in the picture's row
            continue
    return sum(sizes) / len(sizes) if sizes else 0.0


def _memory(inspector: Inspector, names: Sequence[str], job: Job) -> int:
    """Bytes that a worker will need: those of this process once it has judged a few of the pictures, and some to spare."""
    near = [names[place] for place in range(0, len(names), -(-len(names) // TRIED)) if not is_url(names[place])]
    list(judge(inspector, near, job))
    return int(SPARE * psutil.Process().memory_info().rss)


def _check(ray: Any, nodes: Sequence[cluster.Node], packed: Packed, names: Sequence[str]) -> None:
    network = next(package for name, package in BACKENDS.items() if name in packed.files)
    shared = next((str(Path(name).absolute()) for name in names if not is_url(name) and os.path.lexists(name)), "")
    cluster.check_nodes(ray, nodes, ["flawforge.scale.worker", network], (*PACKAGES, network), shared)


@dataclass
class _Run:
    """A run under way.

    judged   whether any worker of this run has given rows
    waiting  why parts were left for the next run: the sentence of a store that did not answer
    silent   parts in a row that a store did not answer for
    """

    ray: Any
    book: ledger.Ledger
    job: Job
    workers: int
    memory: int
    nodes: Sequence[cluster.Node]
    say: Say
    progress: Progress
    judged: bool = False
    waiting: str = ""
    silent: int = 0

    def all(self) -> None:
        """Judge what is missing; then, one by one, the pictures of parts whose workers died. Raises as `inspect`."""
        _quiet(self.ray)
        job = self.ray.put(self.job)
        waited = set()
        parts = self.book.missing
        for answer in self._answers(job, {part: self.book.slice(part) for part in parts}, self.workers, self.memory):
            part = answer["part"]
            if not self._told(answer):
                waited.add(part)
                continue
            self.book.commit(part, answer["rows"], answer["counts"])
            self.progress(sum(entry["rows"] for entry in self.book.done.values()), len(self.book.names))
        died = [part for part in self.book.missing if part not in waited]
        for part in died:
            self._one_by_one(job, part)
        if self.waiting:
            left = sum(len(self.book.slice(part)) for part in self.book.missing)
            raise DataError(f"{left} pictures are left for the next run: {self.waiting}")

    def _told(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer holds rows. Raises ModelError, DataError where going on is of no use."""
        if answer["refused"]:
            raise ModelError(answer["refused"])
        if answer["waiting"]:
            self.waiting, self.silent = answer["waiting"], self.silent + 1
            if self.silent > SILENT * self.workers:
                raise DataError(f"{len(self.book.missing)} parts are left for the next run: {self.waiting}")
            return False
        self.judged, self.silent = True, 0
        return True

    def _one_by_one(self, job: Any, part: int) -> None:
        """A part whose worker died again and again: its pictures alone, in one worker that has a node's whole memory."""
        import pyarrow as pa
        import pyarrow.parquet

        names = self.book.slice(part)
        self.say(f"the worker of part {part} died {RETRIES + 1} times; its {len(names)} pictures are judged one by one")
        roomy = max(self.memory, int(max(node.memory for node in self.nodes) * 0.9))
        tables, counts, waits = {}, [0] * len(COUNTS), False
        every = {place: [name] for place, name in enumerate(names)}

        def keep(some: Mapping[int, Sequence[str]]) -> None:
            nonlocal counts, waits
            for answer in self._answers(job, some, 1, roomy):
                if self._told(answer):
                    tables[answer["part"]] = pyarrow.parquet.read_table(io.BytesIO(answer["rows"]))
                    counts = [sum(pair) for pair in zip(counts, answer["counts"], strict=True)]
                else:
                    waits = True

        keep(every)
        if waits:
            return
        # A worker that dies takes pictures with it that only waited for it: each of these has a worker of its own once more.
        for place in [place for place in every if place not in tables]:
            keep({place: every[place]})
        if not self.judged:
            raise DataError(
                "Every worker died and none judged a picture; look into Ray's logs (/tmp/ray/session_latest/logs), and "
                "give the workers more memory."
            )
        for place, name in enumerate(names):
            if place not in tables:
                sentence = DIED.format(name=name)
                self.say(f"skipped: {sentence}")
                row = parquet([{"image_path": name, "error": sentence}])
                tables[place] = pyarrow.parquet.read_table(io.BytesIO(row))
                counts[COUNTS.index("skipped")] += 1
        file = io.BytesIO()
        whole = pa.concat_tables([tables[place].cast(schema()) for place in range(len(names))])
        pyarrow.parquet.write_table(whole, file)
        self.book.commit(part, file.getvalue(), counts)
        self.progress(sum(entry["rows"] for entry in self.book.done.values()), len(self.book.names))

    def _answers(self, job: Any, parts: Mapping[int, Sequence[str]], workers: int, memory: int) -> Iterator[dict[str, Any]]:
        """What the workers say of each part, as it comes; nothing of a part whose worker died RETRIES + 1 times.

        Ray Data holds back what comes too fast: names go out and rows come in by parts, and pictures never pass through
        this process or Ray's store.
        """
        data = cluster.need("ray.data")
        if not parts:
            return
        items = [{"part": part, "names": [os.fsencode(name) for name in names]} for part, names in parts.items()]
        workers = min(workers, len(items))
        with warnings.catch_warnings():  # retries have no parameter of their own yet; from 2.64 on they must
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            judged = data.from_items(items, override_num_blocks=len(items)).map_batches(
                Worker,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                num_cpus=self.job.threads,
                memory=memory,
                max_restarts=-1,
                max_task_retries=RETRIES,
            )
        for batch in judged.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


def _quiet(ray: Any) -> None:
    """No bars and no log lines of Ray's own: the command shows its progress, and a dead worker is told in a sentence."""
    data = cluster.need("ray.data")
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a part whose worker died is judged once more, picture by picture
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
