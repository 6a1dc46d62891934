"""Kept files: the pictures as they came and their overlays, in folders named by the first digits of their SHA-256.

    FILES/pictures/ab/abcdef....png     the bytes that were judged
    FILES/overlays/ab/abcdef...-MANIFEST.png  picture and heat map, as `overlay` draws them

A name comes from a hash and a known ending alone, never from what somebody sent. A file is on the disk before the row that
names it. A file that is there already is the same picture and is not written again.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from flawforge.types import ConfigError
from flawforge_runtime.files import write_atomically

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
_NAME = re.compile(r"(pictures|overlays)/[0-9a-f]{2}/[0-9a-f]{64}(-[0-9a-f]{12})?\.(png|jpg|bmp|tif|webp|bin)")


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
    if not path.exists():
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
