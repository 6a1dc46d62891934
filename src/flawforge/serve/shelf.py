"""The models that are served, each under a name; a reload swaps one while others judge with the old one."""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flawforge.types import ConfigError, ModelError
from flawforge_runtime import bundle
from flawforge_runtime.calibrate import calibrated
from flawforge_runtime.inspector import Inspector

Load = Callable[[Path], Inspector]


@dataclass(frozen=True)
class Served:
    """One model as it was opened.

    name      what requests call it
    manifest  SHA-256 of its manifest.json, which covers every file of the model
    since     when it was opened
    """

    name: str
    folder: Path
    inspector: Inspector
    manifest: str
    since: datetime.datetime

    @property
    def model_id(self) -> str:
        """Of settings and weights; recalibrating does not change it."""
        return str(self.inspector.about["model_id"])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; no path."""
        return {
            "name": self.name,
            "manifest": self.manifest,
            "since": self.since.isoformat(),
            **self.inspector.as_dict(),
        }


@dataclass(frozen=True)
class Shelf:
    """The served models by name, the default first.

    load  opens a folder: `flawforge_runtime.load`, or flawforge's own, which opens torch weights too
    """

    load: Load
    _models: dict[str, Served]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order that they were given in."""
        return tuple(self._models)

    def get(self, name: str = "") -> Served:
        """The model as it is now; "" = the first one. Raises ModelError for an unknown name."""
        try:
            return self._models[name or next(iter(self._models))]
        except KeyError:
            raise ModelError(f"There is no model {name[:80]!r} here; known are {', '.join(self._models)}.") from None

    def with_manifest(self, manifest: str) -> Served | None:
        """The model with this very manifest, if it is served now."""
        return next((each for each in self._models.values() if each.manifest == manifest), None)

    def reload(self, name: str) -> tuple[Served, bool]:
        """Open the model's folder again and serve that: (the model, whether it changed).

        Pictures that are being judged end with the old one. Raises ModelError for an unknown name or a folder that holds no
        whole, calibrated model; the old one then stays.
        """
        before = self.get(name)
        with self._lock:
            after = open_model(before.folder, before.name, self.load)
            changed = after.manifest != before.manifest
            if changed:
                self._models[before.name] = after
        return self.get(before.name), changed


def open_shelf(folders: Mapping[str, Path], load: Load) -> Shelf:
    """Open every model. Raises ModelError for a folder that holds none, CalibrationError for one without thresholds."""
    if not folders:
        raise ConfigError("No model was given to serve; give one or more model folders.")
    return Shelf(load, {name: open_model(folder, name, load) for name, folder in folders.items()})


def named(models: tuple[str, ...]) -> dict[str, Path]:
    """{name: folder} of arguments FOLDER or NAME=FOLDER; a folder's own name is the name.

    Raises ConfigError for a name that is there twice, or that an address cannot hold.
    """
    found: dict[str, Path] = {}
    for text in models:
        name, sign, folder = text.partition("=")
        path = Path(folder if sign and not Path(text).exists() else text)
        name = name if path != Path(text) else path.resolve().name
        if not name or not all(char.isalnum() or char in "-_." for char in name) or not name.isascii():
            raise ConfigError(f"The model name {name!r} was given; give NAME=FOLDER with letters, digits, - _ and . alone.")
        if name in found:
            raise ConfigError(f"Two models are called {name}; give NAME=FOLDER for one of them.")
        found[name] = path
    return found


def open_model(folder: Path, name: str, load: Load) -> Served:
    """Open one model, with the hash of the manifest that it was read by. Raises as `open_shelf`."""
    for _ in range(bundle.TRIES):
        before = manifest_hash(folder)
        inspector = load(folder)
        if manifest_hash(folder) == before:
            calibrated(inspector.calibration)
            now = datetime.datetime.now(datetime.UTC)
            return Served(name, folder, replace(inspector, progress=None), before, now)
    raise ModelError(f"The model folder {folder} is rewritten all the time; wait until that ends.")


def opened(folder: Path, name: str, inspector: Inspector) -> Served:
    """An Inspector that was loaded from this folder just now, as a served model. Raises ModelError."""
    return Served(name, folder, inspector, manifest_hash(folder), datetime.datetime.now(datetime.UTC))


def manifest_hash(folder: Path) -> str:
    """SHA-256 of a model's manifest.json as 64 hex digits. Raises ModelError where there is none."""
    committed = folder / bundle.COMMIT / bundle.MANIFEST
    for path in (committed, folder / bundle.MANIFEST):
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            continue
    bundle.read_manifest(folder)  # says what is wrong
    raise ModelError(bundle.NOT_A_MODEL.format(folder=folder, why=f"its {bundle.MANIFEST} cannot be read"))
