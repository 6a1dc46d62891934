"""flawforge: train on good parts, forge the flaws, find the real ones.

    import flawforge as ff
    inspector = ff.fit("parts/good")
    decision = inspector("part.png")
    inspector.save("models/part");  inspector = ff.load("models/part")

Importing flawforge loads no torch; the names below are fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "fit": "flawforge.fitting",
    "load": "flawforge.judging.loading",
    "Inspector": "flawforge_runtime.inspector",
    "Decision": "flawforge.types",
    "Region": "flawforge.types",
    "FlawforgeError": "flawforge.types",
    "read_entries": "flawforge.pictures.dataset",
    "from_bgr": "flawforge_runtime.decode",
    "FORGERS": "flawforge.forge",
    "METHODS": "flawforge.methods",
}

__all__ = [
    "FORGERS",
    "METHODS",
    "Decision",
    "FlawforgeError",
    "Inspector",
    "Region",
    "__version__",
    "fit",
    "from_bgr",
    "load",
    "read_entries",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flawforge' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
