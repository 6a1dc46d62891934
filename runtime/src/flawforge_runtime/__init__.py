"""flawforge_runtime: judge pictures with a flawforge model, without torch. flawforge itself judges with this code.

import flawforge_runtime
inspector = flawforge_runtime.load("exported/part")
decision = inspector("part.png")    # .verdict, .pred_score, .p_value, .regions, .anomaly_map
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load": "flawforge_runtime.backends",
    "from_bgr": "flawforge_runtime.decode",
    "Inspector": "flawforge_runtime.inspector",
    "Decision": "flawforge_runtime.types",
    "Region": "flawforge_runtime.types",
    "FlawforgeError": "flawforge_runtime.types",
}

__all__ = ["Decision", "FlawforgeError", "Inspector", "Region", "__version__", "from_bgr", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flawforge_runtime' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
