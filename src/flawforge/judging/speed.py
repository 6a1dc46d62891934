"""From a file to a verdict: how long, where the time goes, how much memory, on which machine.

Times are wall time of this process on files that the system has read before, one picture at a time. The cold start is a new
process, from its start to its first verdict, imports and loading included.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from flawforge.judging import loading
from flawforge.types import ConfigError
from flawforge_runtime import bundle
from flawforge_runtime.backends import cores
from flawforge_runtime.calibrate import calibrated
from flawforge_runtime.images import letterbox, read_picture
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.maps import lay, to_network

WARM = 5  # pictures judged before the clock starts
BATCH = 8
STARTS = 3  # cold starts, of which the median counts
COLD = {
    True: "import sys, flawforge_runtime as f; f.load(sys.argv[1], threads=int(sys.argv[2]))(sys.argv[3]); print(1)",
    False: "import sys, flawforge as f; f.load(sys.argv[1], threads=int(sys.argv[2]))(sys.argv[3]); print(1)",
}


@dataclass(frozen=True)
class Speed:
    """From a file to a verdict, in milliseconds per picture, over `repeats` judgements of `pictures` pictures.

    p50, p95, p99, mean  of one picture at a time
    batch                with the network in batches of BATCH; of a model with tiles, which judges in batches anyway, p50
    stages               the median of each step
    cold_start_seconds   from the start of a process to its first verdict; None = not measured
    resident_mb          memory of this process, imports and model included
    """

    backend: str
    threads: int
    processor: str
    cores: int
    pictures: int
    repeats: int
    p50: float
    p95: float
    p99: float
    mean: float
    batch: float
    stages: Mapping[str, float]
    cold_start_seconds: float | None
    resident_mb: float

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            f"{self.backend}, {self.threads} threads of {self.cores} cores, {self.processor}",
            f"file to verdict: p50 {self.p50:.1f} ms, p95 {self.p95:.1f} ms, p99 {self.p99:.1f} ms "
            f"({self.repeats} judgements of {self.pictures} pictures)",
            f"network in batches of {BATCH}: {self.batch:.1f} ms a picture",
            "where: " + ", ".join(f"{name} {value:.1f}" for name, value in self.stages.items()) + " ms",
            f"memory: {self.resident_mb:.0f} MB resident",
        ]
        if self.cold_start_seconds is not None:
            rows.append(f"first verdict {self.cold_start_seconds:.2f} s after the start of a process")
        return rows

    def as_dict(self) -> dict[str, Any]:
        """What `flawforge bench speed --json` writes."""
        return asdict(self)


def measure(
    model: Path,
    paths: Sequence[Path],
    *,
    repeats: int = 200,
    threads: int | None = None,
    cold: bool = True,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Speed:
    """Time a model folder or an export.

    paths    pictures, judged in turn
    repeats  judgements, at least 20: fewer have no 95th percentile
    cold     also start STARTS new processes
    Raises ConfigError, CalibrationError for a model without thresholds, ModelError, ImageError.
    """
    if repeats < 20 or not paths:
        raise ConfigError(f"{repeats} repeats on {len(paths)} pictures were given; give 20 or more on at least one picture.")
    threads = cores() if threads is None else threads
    inspector = loading.load(model, device="cpu", threads=threads)
    calibrated(inspector.calibration)
    for index in range(WARM):
        inspector(paths[index % len(paths)])
    seconds = []
    for index in range(repeats):
        start = time.perf_counter()
        inspector(paths[index % len(paths)])
        seconds.append(time.perf_counter() - start)
        progress(index + 1, repeats)
    stages = where(inspector, paths, min(repeats, 50))
    p50, p95, p99 = (float(value) for value in np.percentile(seconds, (50, 95, 99)) * 1000)
    backend = bundle.read(model).backend
    return Speed(
        backend=backend,
        threads=threads,
        processor=processor(),
        cores=cores(),
        pictures=len(paths),
        repeats=repeats,
        p50=p50,
        p95=p95,
        p99=p99,
        mean=float(np.mean(seconds)) * 1000,
        batch=p50 if inspector.tile is not None else p50 - stages["network"] + batched(inspector, paths[0]),
        stages=stages,
        cold_start_seconds=first_verdict(model, paths[0], threads, backend != "torch") if cold else None,
        resident_mb=psutil.Process().memory_info().rss / 2**20,
    )


def where(inspector: Inspector, paths: Sequence[Path], repeats: int) -> dict[str, float]:
    """Median milliseconds of each step of a judgement; of a picture in tiles, of all its tiles together."""
    taken: dict[str, list[float]] = {}
    for index in range(repeats):
        this: dict[str, float] = {}

        @contextmanager
        def step(name: str, this: dict[str, float] = this) -> Iterator[None]:
            start = time.perf_counter()
            yield
            this[name] = this.get(name, 0.0) + time.perf_counter() - start

        with step("decode"):
            picture = read_picture(paths[index % len(paths)], max_pixels=inspector.max_pixels, depth=inspector.depth)
        judged = inspector.judge(picture, step)
        with step("regions"):
            inspector.decide(judged)
        for name, seconds in this.items():
            taken.setdefault(name, []).append(seconds)
    return {name: float(np.median(seconds)) * 1000 for name, seconds in taken.items()}


def batched(inspector: Inspector, path: Path, repeats: int = 10) -> float:
    """Milliseconds per picture of the network in batches of BATCH, of pictures that are looked at whole."""
    picture = read_picture(path, max_pixels=inspector.max_pixels, depth=inspector.depth)
    laid = lay(*letterbox(picture.pixels, inspector.canvas), None, inspector.template)
    batch = np.repeat(to_network(laid.pixels), BATCH, axis=0)
    inner = np.repeat(laid.inner[None], BATCH, axis=0)
    inspector.look(batch, inner)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        inspector.look(batch, inner)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) / BATCH * 1000


def first_verdict(model: Path, picture: Path, threads: int, exported: bool) -> float:
    """Seconds from the start of a new process to its first verdict; the median of STARTS."""
    command = [sys.executable, "-c", COLD[exported], str(model), str(threads), str(picture)]
    taken = []
    for _ in range(STARTS):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            answered = process.stdout.readline()
            taken.append(time.perf_counter() - start)
        if not answered:
            raise ConfigError(f"A new process could not judge {picture}; `flawforge inspect {model} {picture}` says why.")
    return float(np.median(taken))


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
