"""A model on its way to a node: its files with a hash over all of them, and a cache on the node that is always checked."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flawforge.types import ModelError
from flawforge_runtime import bundle
from flawforge_runtime.files import locked, new_folder

USER = os.getuid() if hasattr(os, "getuid") else 0
CACHE = Path(tempfile.gettempdir()) / f"flawforge-models-{USER}"
WAIT = 30.0  # seconds for another worker of the node that writes the same model


@dataclass(frozen=True)
class Packed:
    """A model's files. digest: sha256 over their names and bytes, which is what a node is told to judge with."""

    digest: str
    files: Mapping[str, bytes] = field(repr=False)


def pack(folder: Path) -> Packed:
    """Read a model folder. Raises ModelError for one that is no whole model, or of torch weights, which no worker reads."""
    content = bundle.read(folder)
    if content.backend == "torch":
        raise ModelError(
            f"The model folder {folder} holds torch weights, and workers on Ray judge without torch; run "
            f"`flawforge export {folder} -o OUT --to onnx` and give OUT."
        )
    files = _files(folder)
    return Packed(digest(files), files)


def digest(files: Mapping[str, bytes]) -> str:
    """sha256 over names and bytes, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name} {len(files[name])} ".encode() + files[name])
    return total.hexdigest()


def _files(folder: Path) -> dict[str, bytes]:
    names = [bundle.MANIFEST, *bundle.read_manifest(folder)["files"]]
    return {name: (folder / name).read_bytes() for name in names}


def unpacked(packed: Packed, cache: Path = CACHE) -> Path:
    """The model's folder on this node: from the cache where it is whole there, else written anew from what was sent.

    Raises ModelError where what was sent is not what its digest says; such a model never judges.
    """
    folder = cache / packed.digest
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    safe = _ours(cache)
    if safe and _whole(folder, packed.digest):
        return folder
    if digest(packed.files) != packed.digest:
        raise ModelError(
            f"The model that reached this node is not the one that was sent (sha256 {packed.digest[:12]}); run the "
            "command again."
        )
    end = time.monotonic() + WAIT
    while safe and time.monotonic() < end:
        with suppress(BlockingIOError), locked(folder):
            if not _whole(folder, packed.digest):  # whoever had the lock before may have written it
                _write(folder, packed.files)
            return folder
        time.sleep(0.05)
    own = Path(tempfile.mkdtemp(prefix="flawforge-model-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    for name, data in packed.files.items():
        (own / name).write_bytes(data)
    return own


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    with new_folder(folder) as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)


def _ours(cache: Path) -> bool:
    """Whether nobody else can change what lies in the cache between the look at its hash and the opening."""
    facts = cache.stat()
    return not hasattr(os, "getuid") or (facts.st_uid == USER and not facts.st_mode & 0o022)


def _whole(folder: Path, expected: str) -> bool:
    try:
        return digest(_files(folder)) == expected
    except (OSError, ModelError):
        return False
