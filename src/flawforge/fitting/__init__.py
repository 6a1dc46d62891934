"""From good pictures to a calibrated model: plan, train, calibrate, save."""

from flawforge.fitting.forecasting import Forecast, forecast
from flawforge.fitting.pipeline import Show, check_output, checkpoint_file, fit, identity, run, work_folder
from flawforge.fitting.planning import (
    METHOD,
    Plan,
    Request,
    batches,
    load_pictures,
    new_net,
    plan,
    promised_rates,
    same_part,
    seeded,
    stages_of,
)
from flawforge.fitting.questions import questioned
from flawforge.fitting.thresholds import calibrate_on, recalibrate

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
