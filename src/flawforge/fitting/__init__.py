"""From good pictures to a calibrated model: plan, train, calibrate, save.

The names below are fetched when first used, so that the command line can look at a folder before it imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` fetches them
    from flawforge.fitting.forecasting import Forecast, forecast
    from flawforge.fitting.pipeline import Show, fit, follow, identity, run
    from flawforge.fitting.places import check_output, checkpoint_file, work_folder
    from flawforge.fitting.planning import (
        METHOD,
        Plan,
        Request,
        batches,
        load_pictures,
        new_net,
        plan,
        same_part,
        seeded,
        stages_of,
    )
    from flawforge.fitting.promises import promised_rates
    from flawforge.fitting.questions import questioned
    from flawforge.fitting.thresholds import calibrate_on, recalibrate

_HOME = {
    "forecasting": ("Forecast", "forecast"),
    "pipeline": ("Show", "fit", "follow", "identity", "run"),
    "places": ("check_output", "checkpoint_file", "work_folder"),
    "planning": (
        "METHOD",
        "Plan",
        "Request",
        "batches",
        "load_pictures",
        "new_net",
        "plan",
        "same_part",
        "seeded",
        "stages_of",
    ),
    "promises": ("promised_rates",),
    "questions": ("questioned",),
    "thresholds": ("calibrate_on", "recalibrate"),
}

__all__ = [
    "METHOD",
    "Forecast",
    "Plan",
    "Request",
    "Show",
    "batches",
    "calibrate_on",
    "check_output",
    "checkpoint_file",
    "fit",
    "follow",
    "forecast",
    "identity",
    "load_pictures",
    "new_net",
    "plan",
    "promised_rates",
    "questioned",
    "recalibrate",
    "run",
    "same_part",
    "seeded",
    "stages_of",
    "work_folder",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
