"""Append one measured row to a CSV, beside the command, commit, machine, date and versions that made it.

Every benchmark writes its numbers through `record`, so that a figure without its origin cannot get into
`benchmarks/results/`. A loss is recorded like a win.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ORIGIN = ("command", "commit", "dirty", "machine", "cores", "date", "versions")
PACKAGES = ("flawforge", "numpy", "opencv-python-headless", "scipy", "torch")


def record(csv_path: Path, row: Mapping[str, Any]) -> None:
    """Append `row` and its origin to `csv_path`; make the file and its folder where they are missing.

    row   column -> value; floats are written with 6 significant digits; None is an empty cell. A key of
          ORIGIN in `row` wins over the measured one (a benchmark that runs a command line of its own gives
          that as "command").

    Rows that are already there stay as they are. New keys become new columns, before the origin's; old rows
    have an empty cell there. The file is replaced in one step, under a lock, so a reader never sees half of
    it and two benchmarks that finish together both keep their row.
    """
    csv_path = Path(csv_path)
    csv_path.parent.mkdir(parents=True, exist_ok=True)
    full = {key: _cell(value) for key, value in {**origin(), **row}.items()}
    full["command"] = _portable(full["command"])
    with _locked(csv_path.parent):
        columns, rows = read(csv_path)
        measured = [name for name in [*columns, *(k for k in full if k not in columns)] if name not in ORIGIN]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*measured, *ORIGIN], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, full])
        temporary = csv_path.with_name(f".{csv_path.name}.{os.getpid()}.part")
        try:
            temporary.write_text(text.getvalue(), encoding="utf-8")
            temporary.replace(csv_path)
        finally:
            temporary.unlink(missing_ok=True)


def read(csv_path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a results file; both empty where there is none yet."""
    if not csv_path.exists():
        return [], []
    with csv_path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or []), rows


def between(text: str, start: str, end: str, body: str) -> str:
    """A page whose text between two marker lines is `body`. Raises ValueError where a marker is missing."""
    before, first, rest = text.partition(start)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"the page needs the lines {start.strip()} and {end.strip()}")
    return f"{before}{start}{body}{end}{after}"


def method_of(row: Mapping[str, str]) -> str:
    """A row's method as tables name it: with its trunk, where its features came from outside."""
    return row["method"] + (f", {row['trunk']}" if row.get("trunk") else "")


def origin() -> dict[str, str]:
    """Where a number comes from: command, commit, changes not committed, machine, cores, date, versions."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": "yes" if _git("status", "--porcelain", "--", ":!benchmarks/results") else "no",
        "machine": machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": versions(PACKAGES),
    }


def versions(packages: tuple[str, ...]) -> str:
    """ "python 3.11.7; numpy 2.1.0; ..." for those of `packages` that are installed."""
    found = [f"python {platform.python_version()}"]
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return "; ".join(found)


def machine() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _portable(command: str) -> str:
    """The command with the data's folder, which differs between machines, by its variable's name."""
    data = os.environ.get("FLAWFORGE_DATA", "").rstrip("/")
    return command.replace(data, "$FLAWFORGE_DATA") if data else command


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent.parent
    done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer per folder at a time, by a lock that the system releases even when the writer is killed."""
    if sys.platform == "win32":  # no fcntl there; one writer at a time is then the caller's business
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
