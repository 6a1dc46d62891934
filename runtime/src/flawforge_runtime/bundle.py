"""A trained model on disk: a folder of JSON and safetensors, hashed, no pickle anywhere.

    config.json  model.safetensors  calibration.json  manifest.json (sha256 of each file)  README.md (model card)
    guard.json   what good pictures are like (guard.py); models of before version 0.2 have none
    roi.png      only where a region of interest was given
    template.png only where parts are laid alike before they are judged; config.json's `align` goes with it
An export holds the network as a graph instead: model.onnx, or model.xml and model.bin. That is format 2.
    evaluation/  proof/  drift/  results that `evaluate`, `pod` and `drift` keep; not part of the model, not hashed
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawforge_runtime import images
from flawforge_runtime.calibrate import Calibration, calibration_from_dict
from flawforge_runtime.files import locked, new_folder, sync, write_atomically
from flawforge_runtime.guard import Guard, guard_from_dict
from flawforge_runtime.poses import Template
from flawforge_runtime.types import FlawforgeError, Mask, ModelError

FORMAT, EXPORT_FORMAT = 1, 2
MANIFEST = "manifest.json"
COMMON = ("config.json", "calibration.json", "README.md")
OPTIONAL = ("guard.json", "roi.png", "template.png")
RESULTS = ("evaluation", "proof", "drift")  # kept by `evaluate`, `pod` and `drift`; not part of the model
PRIVATE = ("fingerprints", "likenesses")  # of config's training: what tells its pictures again; not for handing on
NEXT, COMMIT = ".next", ".commit"  # see `rewrite`
NETWORKS = {"torch": ("model.safetensors",), "onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
NOT_A_MODEL = "{folder} is not a flawforge model folder ({why}); give a folder made by `flawforge fit -o`."
LARGEST = {MANIFEST: 1 << 20, "README.md": 16 << 20}  # bytes
LARGEST_JSON, LARGEST_OTHER = 64 << 20, 8 << 30
TRIES = 20  # at reading a folder that another process rewrites meanwhile
TAKEN = "{folder} exists already; give another -o, or remove it first."
DAMAGED = "The model folder {folder} is damaged ({why}); copy it again from where it was made, or fit again."


@dataclass(frozen=True)
class Content:
    """What a model folder holds; `config` is JSON-able.

    tensors   the bytes of model.safetensors; empty in an export
    exported  {file name: bytes} of an export's graph, as NETWORKS names them; empty otherwise
    template  what parts are laid like before they are judged; None = they are judged as they lie
    guard     what good pictures are like; None = not known
    """

    config: Mapping[str, Any]
    tensors: bytes
    calibration: Calibration | None
    card: str
    roi: Mask | None = None
    exported: Mapping[str, bytes] = field(default_factory=dict)
    template: Template | None = None
    guard: Guard | None = None

    @property
    def network(self) -> Mapping[str, bytes]:
        """{file name: bytes} of the network, whatever its backend."""
        return self.exported or {"model.safetensors": self.tensors}

    @property
    def backend(self) -> str:
        """What runs the network: a key of NETWORKS."""
        return next(name for name, files in NETWORKS.items() if set(files) == set(self.network))

    @property
    def model_id(self) -> str:
        """First 12 hex digits of the sha256 over settings and weights; recalibrating does not change it."""
        network = b"".join(data for _, data in sorted(self.network.items()))
        return hashlib.sha256(_json(self.config) + network).hexdigest()[:12]

    def __repr__(self) -> str:
        size = sum(map(len, self.network.values()))
        return f"<Content of a model of {self.config.get('method')}, {size / 1e6:.1f} MB of {', '.join(self.network)}>"


def about(content: Content) -> dict[str, Any]:
    """Facts on the model for reports and result rows; not which pictures it was trained on."""
    keys = ("method", "profile", "seed", "canvas", "flawforge_version", "created")
    training = {key: value for key, value in (content.config.get("training") or {}).items() if key not in PRIVATE}
    facts = {"model_id": content.model_id} | {key: content.config.get(key) for key in keys}
    return facts | {"training": training}


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def write(folder: Path, content: Content) -> None:
    """Write a new model folder, all of it or nothing. Raises ModelError where `folder` exists; OSError passes through."""
    try:
        with new_folder(folder) as draft:
            _write_files(draft, content)
    except FileExistsError as error:
        raise ModelError(TAKEN.format(folder=folder)) from error


def _write_files(folder: Path, content: Content) -> None:
    calibration = content.calibration.as_dict() if content.calibration else None
    files = {
        "config.json": _json(content.config),
        **content.network,
        "calibration.json": _json(calibration),
        "README.md": content.card.encode(errors="backslashreplace"),
    }
    if content.guard is not None:
        files["guard.json"] = _json(content.guard.as_dict())
    for name, data in files.items():
        write_atomically(folder / name, data)
    if content.roi is not None:
        images.write_image(folder / "roi.png", content.roi)
        files["roi.png"] = (folder / "roi.png").read_bytes()
    if content.template is not None:
        images.write_image(folder / "template.png", content.template.grey)
        files["template.png"] = (folder / "template.png").read_bytes()
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    form = EXPORT_FORMAT if content.exported else FORMAT
    manifest = {"format": form, "made_by": "flawforge", "model_id": content.model_id, "files": entries}
    write_atomically(folder / "manifest.json", _json(manifest))


def hold(folder: Path) -> AbstractContextManager[None]:
    """Be the only process that writes this model folder, which need not exist yet; the model behind a link is meant.

    Raises ModelError at once where another process is writing it.
    """
    return _hold(Path(folder).resolve())


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError:
            raise ModelError(
                f"{folder} is being written by another process; wait until it ends, or give another -o."
            ) from None
        yield


def rewrite(folder: Path, content: Content) -> None:
    """Replace the model in an existing folder (recalibration, the end of a fit).

    Results that were measured with another network are removed; those of this one stay, whatever its thresholds are now.
    Files of the user's own stay. At every moment a reader finds the old model or the new one, also after a crash:

        1  all new files are written into .next                    a reader sees the old model
        2  .next is renamed to .commit, which is one operation      from here on a reader sees the new one:
        3  its files are moved over the old ones, manifest last     what is in .commit wins
        4  files that the new model lacks are removed

    A crash in 1 leaves .next, which the next `rewrite` removes; one after 2 leaves .commit, which it finishes.
    To be called under `hold`.
    """
    folder = Path(folder).resolve()
    finish(folder)
    following = folder / NEXT
    if following.exists():
        shutil.rmtree(following)
    following.mkdir()
    try:
        _write_files(following, content)
        sync(following)
    except BaseException:
        shutil.rmtree(following, ignore_errors=True)
        raise
    following.rename(folder / COMMIT)
    sync(folder)
    finish(folder)


def finish(folder: Path) -> None:
    """Complete a rewrite that was committed and interrupted; nothing where there is none."""
    commit = folder / COMMIT
    if not commit.is_dir():
        return
    if (commit / MANIFEST).is_file():
        if _network_of(commit) != _network_of(folder):
            for name in RESULTS:
                shutil.rmtree(folder / name, ignore_errors=True)
        committed = set(read_manifest(commit).get("files", ()))
        for name in sorted(committed):
            if (commit / name).is_file():
                (commit / name).replace(folder / name)
        for name in {*COMMON, *OPTIONAL, *(file for files in NETWORKS.values() for file in files)} - committed:
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        (commit / MANIFEST).replace(folder / MANIFEST)
        sync(folder)
    shutil.rmtree(commit)


def _parse(folder: Path, name: str, data: bytes) -> Any:
    from flawforge_runtime import schema  # pydantic is imported by those who read a folder alone

    try:
        return schema.parse(data)
    except RecursionError:
        raise ModelError(DAMAGED.format(folder=folder, why=f"{name} is nested too deep")) from None
    except ValueError as error:
        why = f"{name}: {error}" if str(error).startswith("it ") else f"{name} is not valid JSON"
        raise ModelError(DAMAGED.format(folder=folder, why=why)) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json holds. Raises ModelError where the folder is none of ours, or of a newer format."""
    if folder.is_file():
        raise ModelError(NOT_A_MODEL.format(folder=folder, why="it is a file; MODEL comes first, then what it judges"))
    if not folder.is_dir():
        raise ModelError(NOT_A_MODEL.format(folder=folder, why="there is no such folder"))
    if not (folder / MANIFEST).is_file():
        raise ModelError(NOT_A_MODEL.format(folder=folder, why=f"it has no {MANIFEST}; MODEL comes before what it judges"))
    manifest = _parse(folder, MANIFEST, _bytes(folder, MANIFEST, folder / MANIFEST, None))
    if not isinstance(manifest, dict) or manifest.get("made_by") != "flawforge":
        raise ModelError(NOT_A_MODEL.format(folder=folder, why=f"its {MANIFEST} is another program's"))
    version = manifest.get("format")
    if not isinstance(version, int) or version > EXPORT_FORMAT:
        raise ModelError(
            f"The model folder {folder} has format {str(version)[:40]} and this flawforge reads up to {EXPORT_FORMAT}; "
            "update flawforge."
        )
    return manifest


def _network_of(folder: Path) -> str:
    """The model_id in the manifest, which recalibrating does not change; "" where there is none."""
    try:
        return str(read_manifest(folder).get("model_id") or "")
    except ModelError:
        return ""


def _bytes(folder: Path, name: str, path: Path, expected: int | None) -> bytes:
    """One file of a model, its size compared with the manifest's and with what such a file may have before it is read."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ModelError(DAMAGED.format(folder=folder, why=f"{name} is no regular file"))
        if expected is not None and facts.st_size != expected:
            why = f"{name} has {facts.st_size} bytes instead of {expected}"
            raise ModelError(DAMAGED.format(folder=folder, why=why))
        most = LARGEST.get(name, LARGEST_JSON if name.endswith(".json") else LARGEST_OTHER)
        if facts.st_size > most:
            why = f"{name} has {facts.st_size:,} bytes, at most {most:,} are read"
            raise ModelError(DAMAGED.format(folder=folder, why=why))
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(DAMAGED.format(folder=folder, why=f"{name} is missing")) from None
    except MemoryError:
        raise ModelError(DAMAGED.format(folder=folder, why=f"{name} does not fit into memory")) from None


def read(folder: Path) -> Content:
    """Read a model folder and verify every hash. Raises ModelError: no folder, foreign, newer, damaged or truncated.

    A folder that is rewritten meanwhile is read again; one whose rewrite was interrupted is read as what was committed.
    """
    for left in reversed(range(TRIES)):
        before = _state(folder)
        try:
            return _read(folder)
        except ModelError:
            if not left or _state(folder) == before:
                raise
    raise AssertionError("the last try returns or raises")


def _state(folder: Path) -> tuple[Any, ...]:
    """What a rewrite changes: which manifest there is, and whether one is being committed."""
    states: list[Any] = []
    for path in (folder / MANIFEST, folder / COMMIT / MANIFEST):
        try:
            facts = path.stat()
            states.append((facts.st_ino, facts.st_mtime_ns, facts.st_size))
        except OSError:
            states.append(None)
    return tuple(states)


def _read(folder: Path) -> Content:
    committed = (folder / COMMIT / MANIFEST).is_file()
    manifest = read_manifest(folder / COMMIT if committed else folder)
    listed = _listed(folder, manifest)
    allowed = [{*COMMON, *files} for files in NETWORKS.values()]
    if set(listed) - set(OPTIONAL) not in allowed:
        raise ModelError(DAMAGED.format(folder=folder, why="manifest.json does not list the model's files"))
    data: dict[str, bytes] = {}
    for name, entry in listed.items():
        data[name] = (
            _newest(folder, name, entry["bytes"]) if committed else _bytes(folder, name, folder / name, entry["bytes"])
        )
        if hashlib.sha256(data[name]).hexdigest() != entry["sha256"]:
            raise ModelError(DAMAGED.format(folder=folder, why=f"the sha256 of {name} is not the one in manifest.json"))
    return _content(folder, data)


def _newest(folder: Path, name: str, expected: int) -> bytes:
    """One file of a rewrite that was committed; it may be moved to its place at any moment, also between two looks."""
    try:
        return _bytes(folder, name, folder / COMMIT / name, expected)
    except ModelError:
        if (folder / COMMIT / name).is_file():
            raise
        return _bytes(folder, name, folder / name, expected)


def _listed(folder: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    from flawforge_runtime import schema

    try:
        files = schema.checked(schema.Manifest, manifest).files
    except ValueError as error:
        raise ModelError(DAMAGED.format(folder=folder, why=f"manifest.json: {error}")) from None
    return {name: entry.model_dump() for name, entry in files.items()}


def _grey(encoded: bytes) -> NDArray[Any]:
    """h w of an encoded grey picture. Raises ValueError, OSError or an ImageError where it is none."""
    with Image.open(BytesIO(encoded), formats=["PNG"]) as picture:
        return np.asarray(images.as_picture(picture).pixels[..., 0])


def _content(folder: Path, data: Mapping[str, bytes]) -> Content:
    from flawforge_runtime import schema

    config = _parse(folder, "config.json", data["config.json"])
    stored = _parse(folder, "calibration.json", data["calibration.json"])
    try:
        schema.check_config(config)
        if stored is not None:
            schema.check_calibration(stored)
        calibration = calibration_from_dict(stored) if stored is not None else None
        roi = None
        if "roi.png" in data:
            roi = _grey(data["roi.png"]) > 127
        template = None
        if "template.png" in data:
            grey = _grey(data["template.png"])
            template = Template(np.ascontiguousarray(grey), float(config["align"]["least"]))
        guard = guard_from_dict(_parse(folder, "guard.json", data["guard.json"])) if "guard.json" in data else None
        text = data["README.md"].decode()
    except UnicodeDecodeError:
        raise ModelError(DAMAGED.format(folder=folder, why="README.md is not UTF-8 text")) from None
    except (FlawforgeError, KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError) as error:
        raise ModelError(DAMAGED.format(folder=folder, why=f"its settings do not fit together: {error}")) from error
    exported = {name: data[name] for name in (*NETWORKS["onnx"], *NETWORKS["openvino"]) if name in data}
    tensors = data.get("model.safetensors", b"")
    return Content(config, tensors, calibration, text, roi, exported, template, guard)
