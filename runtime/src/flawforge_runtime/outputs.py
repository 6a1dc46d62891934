"""Where a person may have a file written: over an ordinary file, into a pipe or a device, never over a part of a model."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

from flawforge_runtime.files import write_atomically
from flawforge_runtime.types import ConfigError, DataError

MANIFEST = "manifest.json"  # of a model folder, as `bundle` writes it
LARGEST = 1 << 20  # bytes of a manifest


def check_output(path: Path, what: str) -> None:
    """Refuse a file that a model consists of. what: the option or the argument, for the sentence. Raises ConfigError."""
    if path.resolve().name in _parts(path.resolve().parent):
        raise ConfigError(f"{what} {path} would overwrite a part of the model in {path.parent}; give another file.")


def write_output(path: Path, content: bytes, what: str = "The file") -> None:
    """Write a file that a person named.

    A regular file, and what a link leads to, is replaced as a whole (`write_atomically`). Standard output and error are
    written to where they stand. A pipe, a device or a socket is opened and written to, and stays what it is.
    Raises ConfigError as `check_output`, DataError where nobody reads a pipe to its end, OSError.
    """
    check_output(path, what)
    try:
        there: os.stat_result | None = path.stat()
    except FileNotFoundError:
        there = None
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if there is not None and _is_open_as(there, number):
            stream.flush()
            _write_all(number, content, path)
            return
    if there is None or stat.S_ISREG(there.st_mode):
        write_atomically(path.resolve() if path.is_symlink() else path, content)
        return
    handle = os.open(path, os.O_WRONLY)
    try:
        _write_all(handle, content, path)
    except BrokenPipeError:
        raise DataError(f"{path} was closed by its reader before all was written; let it read to the end.") from None
    finally:
        os.close(handle)


def _write_all(handle: int, content: bytes, path: Path) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(handle, left) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _is_open_as(there: os.stat_result, handle: int) -> bool:
    try:
        return os.path.samestat(there, os.fstat(handle))
    except OSError:  # a process may have none
        return False


def _parts(folder: Path) -> set[str]:
    """The names of the files that a model in this folder consists of; none where there is no model."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = json.loads(file.read(LARGEST + 1))
        parts = {str(name) for name in manifest["files"]} if manifest["made_by"] == "flawforge" else set()
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return set()
    return {*parts, MANIFEST} if parts else set()
