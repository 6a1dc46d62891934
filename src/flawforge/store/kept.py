"""Kept files: the pictures as they came and their overlays, in folders named by the first digits of their SHA-256.

    FILES/pictures/ab/abcdef....png     the bytes that were judged
    FILES/overlays/ab/abcdef...-MANIFEST.png  picture and heat map, as `overlay` draws them

A name comes from a hash and a known ending alone, never from what somebody sent. A file is on the disk before the row that
names it. A file that is there already is the same picture and is not written again, but touched: a file that was kept or
touched in the last FRESH seconds is never deleted, since the row that will name it may be on its way.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from flawforge.types import ConfigError
from flawforge_runtime.files import draft_of, write_atomically

FRESH = 600.0  # seconds that a row may take after its file
ENDINGS = {  # by what a file starts with
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"BM": ".bmp",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
    b"II+\x00": ".tif",
    b"MM\x00+": ".tif",
    b"RIFF": ".webp",
}
_FILE = r"[0-9a-f]{64}(-[0-9a-f]{12})?\.(png|jpg|bmp|tif|webp|bin)"
_NAME = re.compile(rf"(pictures|overlays)/[0-9a-f]{{2}}/{_FILE}")
_DRAFT = re.compile(rf"\.{_FILE}\.[0-9a-f]{{8}}\.tmp")


def sha256_of(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def keep_picture(files: Path, data: bytes, sha256: str) -> str:
    """Write the bytes of a picture's file; returns its name below `files`. OSError passes through."""
    ending = next((end for start, end in ENDINGS.items() if data.startswith(start)), ".bin")
    return _write(files, f"pictures/{sha256[:2]}/{sha256}{ending}", data)


def keep_overlay(files: Path, data: bytes, sha256: str, manifest: str) -> str:
    """Write an overlay's PNG, of this picture by this model; returns its name below `files`. OSError passes through."""
    return _write(files, f"overlays/{sha256[:2]}/{sha256}-{manifest[:12]}.png", data)


def _write(files: Path, name: str, data: bytes) -> str:
    path = files / name
    try:
        os.utime(path)  # who deletes renames first (`_discard`): this touches the file in time, or finds none
    except OSError:  # not there, or another user's
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return name


def kept_path(files: Path | None, name: str) -> Path | None:
    """The file of a name that a row holds, where it still is. Raises ConfigError for a name that is none of ours."""
    if files is None or not name:
        return None
    if not _NAME.fullmatch(name):
        raise ConfigError(f"The store names the file {name[:80]!r}, which flawforge never writes; check who wrote to it.")
    path = files / name
    return path if path.is_file() else None


def disk_time(files: Path) -> float:
    """Now, in seconds, by the clock that dates the files, which may be another machine's. Raises OSError."""
    with tempfile.TemporaryFile(dir=files) as file:
        return os.fstat(file.fileno()).st_mtime


def fresh(files: Path, name: str, now: float, seconds: float = FRESH) -> bool:
    """Whether a file was kept in so many seconds before `now`, of `disk_time`; False where it is gone."""
    try:
        return _fresh(files / name, now, seconds)
    except OSError:
        return False


def _fresh(path: Path, now: float, seconds: float = FRESH) -> bool:
    return abs(now - path.stat().st_mtime) < seconds  # a time that lies ahead is a clock's that was wrong


def discard(files: Path, names: Iterable[str], now: float) -> tuple[int, int]:
    """Delete files that no row names: (files, bytes). Fresh ones stay, and what the disk or the name's form refuses.

    now  of `disk_time`, taken before it was asked whether a row names them
    """
    count = size = 0
    for name in names:
        with suppress(OSError, ConfigError):
            path = kept_path(files, name)
            freed = None if path is None else _discard(path, now)
            if freed is not None:
                count, size = count + 1, size + freed
    return count, size


def _discard(path: Path, now: float) -> int | None:
    """The bytes of a file that was deleted; None for a fresh one, which stays."""
    if _fresh(path, now):
        return None
    away = draft_of(path)
    path.rename(away)
    if _fresh(away, now):  # touched between the two lines; had it come later, `_write` would have found no file
        away.replace(path)
        return None
    size = away.stat().st_size
    away.unlink()
    return size


def clear_drafts(files: Path, before: float) -> None:
    """Delete what killed processes left half written or half deleted before this time."""
    for _, entry in _entries(files):
        if _DRAFT.fullmatch(entry.name):
            with suppress(OSError):
                if entry.stat().st_mtime < before:
                    Path(entry.path).unlink()


def listed(files: Path) -> Iterator[str]:
    """The name of every kept file that is there, below `files`."""
    for folder, entry in _entries(files):
        name = f"{folder}/{entry.name}"
        if _NAME.fullmatch(name):
            yield name


def _entries(files: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(Folder below `files`, what lies there), of all folders of kept files; one that cannot be read counts as empty."""
    for folder in (f"{kind}/{number:02x}" for kind in ("pictures", "overlays") for number in range(256)):
        with suppress(OSError), os.scandir(files / folder) as entries:
            for entry in entries:
                yield folder, entry
