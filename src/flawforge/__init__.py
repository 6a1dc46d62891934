"""flawforge: train on good parts, forge the flaws, find the real ones.

    import flawforge as ff
    inspector = ff.fit("parts/good")
    decision = inspector("part.png")
    inspector.save("models/part");  inspector = ff.load("models/part")
    for line in ff.evaluate("models/part", "parts").lines():
        print(line)

Importing flawforge loads no torch; the names below are fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` fetches them
    from flawforge.api import drift, evaluate, pod
    from flawforge.fitting import fit
    from flawforge.forge import FORGERS
    from flawforge.judging.export import export
    from flawforge.judging.loading import load
    from flawforge.methods import METHODS
    from flawforge.pictures.dataset import read_entries
    from flawforge.reporting.report import report
    from flawforge.types import Decision, FlawforgeError, Region
    from flawforge_runtime.decode import from_bgr
    from flawforge_runtime.inspector import Inspector

    forge: Forge

__version__ = "0.1.0"

_HOME = {
    "fit": "flawforge.fitting",
    "load": "flawforge.judging.loading",
    "evaluate": "flawforge.api",
    "pod": "flawforge.api",
    "drift": "flawforge.api",
    "export": "flawforge.judging.export",
    "report": "flawforge.reporting.report",
    "forge": "flawforge.forge",
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
    "drift",
    "evaluate",
    "export",
    "fit",
    "forge",
    "from_bgr",
    "load",
    "pod",
    "read_entries",
    "report",
]


class Forge(ModuleType):
    """The package flawforge.forge, which can be called: `ff.forge` is the forgers' package and the function of that name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See `flawforge.reporting.contact_sheets.forge`."""
        return import_module("flawforge.reporting.contact_sheets").forge(*arguments, **options)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flawforge' has no attribute '{name}'")
    home = import_module(_HOME[name])
    return home if isinstance(home, Forge) and name == "forge" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
