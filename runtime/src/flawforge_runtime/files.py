"""Writing files so that a reader sees the old content or the new one, never half of it; and one writer at a time.

Whatever a killed process leaves behind has a name of its own kind (`.NAME.XXXXXXXX.tmp`) and is cleared by the next writer
of NAME, under NAME's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

TOKEN = 8  # hexadecimal digits that tell drafts of one name apart
LONGEST = 120  # bytes of a name that its draft repeats, so that a long name has a draft too


def draft_of(path: Path) -> Path:
    """A new hidden name beside `path`."""
    name = os.fsencode(path.name)[:LONGEST].decode(errors="ignore")
    return path.with_name(f".{name}.{secrets.token_hex(TOKEN // 2)}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, flush it to the disk, rename. Raises OSError; nothing half-written stays."""
    with new_file(path, over=True) as draft, draft.open("xb") as file:
        file.write(content)


@contextmanager
def new_file(path: Path, *, over: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path` for a file that takes its place, flushed to the disk, when the block ends.

    over  replace what has the name then; False: raise FileExistsError
    Nothing half-written stays where anything fails. Raises OSError.
    """
    draft = draft_of(path)
    try:
        yield draft
        handle = os.open(draft, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)  # it may be read-only
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if over:
            draft.replace(path)
        else:
            _rename_to_free(draft, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def _rename_to_free(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)  # which never replaces
    except FileExistsError:
        raise
    except OSError:  # a disk without second names: the best there is
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        draft.replace(path)
    else:
        draft.unlink()


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises OSError for what is none: a pipe or a device may never come to its end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def free(folder: Path) -> bool:
    """Whether a new folder can take this name: there is nothing, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its name at the end, or vanishes if anything fails.

    Raises FileExistsError where `path` exists and is not an empty folder.
    """
    if not free(path):
        raise FileExistsError(f"{path} exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    draft.mkdir()
    try:
        yield draft
        if path.exists():
            path.rmdir()
        draft.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, a name that need not exist; clear what a killed one left.

    The lock is a hidden file beside it, which the system releases when its holder dies. Raises BlockingIOError at once
    where another process, or another part of this one, holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # no fcntl there; one writer at a time is then the user's business
        yield
        return
    lock = path.with_name(f".{os.fsencode(path.name)[:LONGEST].decode(errors='ignore')}.lock")
    handle = _held(lock)
    try:
        clear_drafts(path)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def _held(lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removes the file as it goes: what we hold must be the file of that name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), lock.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def clear_drafts(path: Path) -> None:
    """Remove the drafts of `path` that killed processes left beside it."""
    name = os.fsencode(path.name)[:LONGEST].decode(errors="ignore")
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-z_]{{{TOKEN}}}\.tmp")
    for entry in path.parent.iterdir():
        if pattern.fullmatch(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
