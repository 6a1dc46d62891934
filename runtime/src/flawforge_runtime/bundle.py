"""A trained model on disk: a folder of JSON and safetensors, hashed, no pickle anywhere.

    config.json  model.safetensors  calibration.json  manifest.json (sha256 of each file)  README.md (model card)
    roi.png      only where a region of interest was given
    template.png only where parts are laid alike before they are judged; config.json's `align` goes with it
An export holds the network as a graph instead: model.onnx, or model.xml and model.bin. That is format 2.
    evaluation/  written by `evaluate` for the report; not part of the model, not hashed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flawforge_runtime import images
from flawforge_runtime.calibrate import Calibration, calibration_from_dict
from flawforge_runtime.files import new_folder, write_atomically
from flawforge_runtime.poses import Template
from flawforge_runtime.types import FlawforgeError, Mask, ModelError

FORMAT, EXPORT_FORMAT = 1, 2
COMMON = ("config.json", "calibration.json", "README.md")
NETWORKS = {"torch": ("model.safetensors",), "onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
NOT_A_MODEL = "{folder} is not a flawforge model folder ({why}); give a folder made by `flawforge fit -o`."
DAMAGED = "The model folder {folder} is damaged ({why}); copy it again from where it was made, or fit again."


@dataclass(frozen=True)
class Content:
    """What a model folder holds; `config` is JSON-able.

    tensors   the bytes of model.safetensors; empty in an export
    exported  {file name: bytes} of an export's graph, as NETWORKS names them; empty otherwise
    template  what parts are laid like before they are judged; None = they are judged as they lie
    """

    config: Mapping[str, Any]
    tensors: bytes
    calibration: Calibration | None
    card: str
    roi: Mask | None = None
    exported: Mapping[str, bytes] = field(default_factory=dict)
    template: Template | None = None

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


def about(content: Content) -> dict[str, Any]:
    """Facts on the model for reports and result rows; not which pictures it was trained on."""
    keys = ("method", "profile", "seed", "canvas", "flawforge_version", "created")
    training = {key: value for key, value in (content.config.get("training") or {}).items() if key != "fingerprints"}
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
        raise ModelError(f"{folder} exists already; give another -o, or remove it first.") from error


def _write_files(folder: Path, content: Content) -> None:
    calibration = content.calibration.as_dict() if content.calibration else None
    files = {
        "config.json": _json(content.config),
        **content.network,
        "calibration.json": _json(calibration),
        "README.md": content.card.encode(errors="backslashreplace"),
    }
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


def rewrite(folder: Path, content: Content) -> None:
    """Replace the files of an existing model folder (recalibration); its evaluation no longer holds and is removed.

    The new folder is complete before the old one goes.
    """
    retired = folder.with_name(f".{folder.name}.old")
    with new_folder(folder.with_name(f".{folder.name}.new")) as draft:
        _write_files(draft, content)
    folder.rename(retired)
    folder.with_name(f".{folder.name}.new").rename(folder)
    for path in sorted(retired.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    retired.rmdir()


def _parse(folder: Path, name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ModelError(DAMAGED.format(folder=folder, why=f"{name} is not valid JSON")) from error


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise ModelError(NOT_A_MODEL.format(folder=folder, why="there is no such folder"))
    if not path.is_file():
        raise ModelError(NOT_A_MODEL.format(folder=folder, why="it has no manifest.json"))
    manifest = _parse(folder, "manifest.json", path.read_bytes())
    if not isinstance(manifest, dict) or manifest.get("made_by") != "flawforge":
        raise ModelError(NOT_A_MODEL.format(folder=folder, why="its manifest.json is another program's"))
    version = manifest.get("format")
    if not isinstance(version, int) or version > EXPORT_FORMAT:
        raise ModelError(
            f"The model folder {folder} has format {version} and this flawforge reads up to {EXPORT_FORMAT}; "
            "update flawforge."
        )
    return manifest


def read(folder: Path) -> Content:
    """Read a model folder and verify every hash. Raises ModelError: no folder, foreign, newer, damaged or truncated."""
    manifest = _manifest(folder)
    listed = manifest.get("files")
    allowed = [{*COMMON, *files} for files in NETWORKS.values()]
    if not isinstance(listed, dict) or set(listed) - {"roi.png", "template.png"} not in allowed:
        raise ModelError(DAMAGED.format(folder=folder, why="manifest.json does not list the model's files"))
    data: dict[str, bytes] = {}
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(DAMAGED.format(folder=folder, why=f"{name} is missing"))
        data[name] = path.read_bytes()
        if len(data[name]) != entry.get("bytes"):
            why = f"{name} has {len(data[name])} bytes instead of {entry.get('bytes')}"
            raise ModelError(DAMAGED.format(folder=folder, why=why))
        if hashlib.sha256(data[name]).hexdigest() != entry.get("sha256"):
            raise ModelError(DAMAGED.format(folder=folder, why=f"the sha256 of {name} is not the one in manifest.json"))
    return _content(folder, data)


def _content(folder: Path, data: Mapping[str, bytes]) -> Content:
    config = _parse(folder, "config.json", data["config.json"])
    stored = _parse(folder, "calibration.json", data["calibration.json"])
    try:
        calibration = calibration_from_dict(stored) if stored else None
        height, width = config["canvas"]
        roi = None
        if "roi.png" in data:
            roi = images.read_picture(folder / "roi.png").pixels[..., 0] > 127
        template = None
        if "template.png" in data:
            grey = images.read_picture(folder / "template.png").pixels[..., 0]
            template = Template(np.ascontiguousarray(grey), float(config["align"]["least"]))
        if not (config["method"] and height > 0 and width > 0):
            raise KeyError("method")
    except (FlawforgeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(DAMAGED.format(folder=folder, why=f"its settings do not fit together: {error}")) from error
    exported = {name: data[name] for name in (*NETWORKS["onnx"], *NETWORKS["openvino"]) if name in data}
    tensors, text = data.get("model.safetensors", b""), data["README.md"].decode()
    return Content(config, tensors, calibration, text, roi, exported, template)
