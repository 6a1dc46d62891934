"""The options of `ff.fit`, by name and type, so that an editor can offer them. What each means stands in docs/cli.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict


class Options(TypedDict, total=False):
    """The fields of `fitting.planning.Request` but for `data` and `out`; a path may be text. A test compares the two."""

    method: str
    profile: str
    minutes: float | None
    clock: str
    steps: int | None
    size: int
    tile: int | None
    roi: str | Path | None
    ignore: str | Path | None
    align: str
    textures: str | Path | None
    init: str | Path | None
    trunk: str | Path | None
    false_alarm: float | None
    review: float | None
    confidence: float | None
    holdout: float | str
    group_by: str | None
    tolerate: str
    strict: bool
    clean: bool
    other_day: str | Path | None
    both_days: bool
    defects: str | Path | None
    seed: int
    workers: int
    device: str
    max_pixels: int
    depth: int | None
    checkpoint_every: float
    settings: Mapping[str, Any]
    devices: int
    nodes: int
