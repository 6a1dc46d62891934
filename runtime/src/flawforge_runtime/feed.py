"""Pictures as they come: from a pipe, from a folder that a camera drops files into. And a Decision as a row.

One bad file never stops a feed: it comes out as its path and one sentence.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from flawforge_runtime.decode import SUFFIXES
from flawforge_runtime.types import DataError, Decision

POLL = 0.2  # seconds between two looks at a watched folder
SETTLED = 2  # looks in a row at which a file must have the same size and time, so that half a file is not judged


def row(decision: Decision, model_id: str) -> dict[str, Any]:
    """The result fields that other people's scripts rely on, JSON-able. A higher score is stranger."""
    return {
        "image_path": decision.image_path, "pred_score": decision.pred_score, "p_value": decision.p_value,
        "verdict": decision.verdict, "pred_label": decision.pred_label, "threshold": decision.threshold,
        "regions": [dataclasses.asdict(region) for region in decision.regions], "model_id": model_id,
        "seconds": round(decision.seconds, 4),
    }  # fmt: skip


def piped(stream: TextIO) -> Iterator[Path]:
    """One path a line, as soon as the line is there; empty lines are left out."""
    for line in iter(stream.readline, ""):
        name = line.rstrip("\r\n")
        if name:
            yield Path(name)


def watched(
    folder: Path, *, poll: float = POLL, go_on: Callable[[], bool] = lambda: True, old: bool = True
) -> Iterator[Path]:
    """Every picture that comes to lie in `folder` (not below it), once, in the order of time, when it no longer grows.

    A file that is written anew under the same name counts again. Hidden files are left aside: cameras write under
    one and rename.

    poll   seconds between two looks
    go_on  asked before each look; False ends the watch
    old    pictures that lie there already come first
    Raises DataError where there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"--watch was given as {folder}, which is no folder; make it first, or give another.")
    seen: dict[Path, tuple[int, int]] = {} if old else _lying(folder)
    waiting: dict[Path, tuple[tuple[int, int], int]] = {}
    while go_on():
        lying = _lying(folder)
        seen = {path: state for path, state in seen.items() if path in lying}
        ready = []
        for path, state in lying.items():
            if seen.get(path) == state:
                continue
            before, looks = waiting.get(path, (state, 0))
            waiting[path] = (state, looks + 1 if state == before else 1)
            if waiting[path][1] >= SETTLED:
                ready.append(path)
        waiting = {path: each for path, each in waiting.items() if path in lying and path not in ready}
        for path in sorted(ready, key=lambda path: (lying[path][1], path.name)):
            seen[path] = lying[path]
            yield path
        if not ready:
            time.sleep(poll)


def _lying(folder: Path) -> dict[Path, tuple[int, int]]:
    """{picture: (bytes, time of change)} of the files in `folder`; a file that goes away meanwhile is left out."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
                continue
            try:
                stat = entry.stat()
                if entry.is_file():
                    found[Path(entry.path)] = (stat.st_size, stat.st_mtime_ns)
            except OSError:
                continue
    return found


def spread_out(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given, folders as the pictures in them, in order of name."""
    for path in paths:
        if path.is_dir():
            yield from sorted(_lying(path))
        else:
            yield path
