"""A simulation of `flawforge inspect --ray` on many nodes. It is no measurement: only its two costs are measured.

measured     processor seconds of a picture (`pictures` of scale_points.csv), seconds of writing a part down (`commit`)
as it is     parts are cut by `inspecting.part_size`; each worker judges one part at a time and takes the next one; one
             driver writes the parts down, one after another
assumed      CORES cores in a node; workers' speeds: lognormal about their mean, SPREAD
left out     Ray's own scheduling, the network, nodes that fail
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flawforge.scale.inspecting import part_size
from record import read

PICTURES, CORES, SPREAD = 10_000_000, 16, 0.1
ENCODED = 1 << 20  # bytes of a picture file (assumption)


def simulate(nodes: Sequence[int], results: Path, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each number of nodes. Raises SystemExit where the costs are not measured yet."""
    rows = read(results)[1]
    judged, commits = ([row for row in rows if row["what"] == what] for what in ("pictures", "commit"))
    if not judged or len(commits) < 2:
        raise SystemExit(f"{results} has no points of pictures and commit; run scale.py points first.")
    each, (fixed, per_row) = seconds_each(judged[-1]), commit_cost(commits)
    for count in nodes:
        size = part_size(PICTURES, count * CORES, ENCODED)
        seconds = makespan(PICTURES, size, count * CORES, each, fixed + per_row * size, SPREAD, seed)
        yield {
            "what": "simulation",
            "nodes": count,
            "workers": count * CORES,
            "pictures": PICTURES,
            "part": size,
            "seconds_each": each,
            "commit_seconds": fixed + per_row * size,
            "seconds": seconds,
            "efficiency": PICTURES * each / (count * CORES) / seconds,
            "driver_busy": -(-PICTURES // size) * (fixed + per_row * size) / seconds,
            "seed": seed,
        }


def seconds_each(row: Mapping[str, str]) -> float:
    """Of the processor for a picture, without the start."""
    return (float(row["cpu"]) - float(row["cpu_start"])) / (float(row["x"]) - 1)


def commit_cost(rows: Sequence[Mapping[str, str]]) -> tuple[float, float]:
    """Seconds of a commit, and more for each of its rows: the line of least squares of the relative error."""
    size = np.array([float(row["x"]) for row in rows])
    seconds = np.array([float(row["seconds"]) / float(row["n"]) for row in rows])
    (per_row, fixed) = np.polyfit(size, seconds, 1, w=1 / seconds)
    return max(float(fixed), 0.0), max(float(per_row), 0.0)


def makespan(pictures: int, size: int, workers: int, each: float, commit: float, spread: float, seed: int = 0) -> float:
    """Seconds until the last part is written down.

    pictures in parts of `size`; `each` seconds a picture, by workers whose speeds differ by a lognormal factor of `spread`;
    one driver that takes `commit` seconds a part.
    """
    rng = np.random.default_rng(seed)
    speed = np.exp(rng.normal(0, spread, workers) - spread**2 / 2)  # of mean 1
    free = [(0.0, worker) for worker in range(workers)]  # when each can take the next part
    ready = []
    for part in range(-(-pictures // size)):
        since, worker = heapq.heappop(free)
        end = since + min(size, pictures - part * size) * each / float(speed[worker])
        ready.append(end)
        heapq.heappush(free, (end, worker))
    written = 0.0
    for end in sorted(ready):
        written = max(written, end) + commit
    return written
