"""The commands that make a model and its report again, for the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from flawforge_runtime.names import shown

CRITERIA = {"false alarms": "accept-false-alarms", "escapes": "accept-escapes"}


def options(given: Mapping[str, Any]) -> list[str]:
    """Options as a shell takes them; numbers to their last digit, flags without a value, None left out."""
    return [
        f"--{name}" if value is True else f"--{name} {shlex.quote(value) if isinstance(value, str) else repr(value)}"
        for name, value in given.items()
        if value is not None
    ]


def commands(facts: Mapping[str, Any]) -> list[str]:
    """How to make this model and this page again, as far as the folder knows what was given."""
    config, name = facts["config"], shlex.quote(facts["name"])
    training, calibration, proof = config.get("training") or {}, facts["calibration"] or {}, facts["proof"] or {}
    # Models of before do not hold what was asked for, but how long they learnt.
    asked = training.get("asked")
    asked = dict(asked) if isinstance(asked, Mapping) else _budget(training)
    settings = asked.pop("settings", {})
    fit = {"method": config.get("method"), **{key.replace("_", "-"): value for key, value in asked.items()}}
    fit |= {"folds": calibration.get("folds") or None, "seed": config.get("seed", 0)}
    changed = [f"--set {shlex.quote(f'{key}={value}')}" for key, value in settings.items()]
    lines = [" ".join(["flawforge fit DATA -o", name, *options(fit), *changed])]
    if calibration.get("again") is not None:
        lines.append(f"flawforge calibrate {name} {calibration['again']}")
    recipe = proof.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    counted = options({"count": recipe.get("count"), "seed": recipe.get("seed") or None})
    criteria = (facts["acceptance"] or {}).get("criteria", [])
    accepted = options({CRITERIA[each["name"]]: each["accepted"] for each in criteria})
    lines.append(f"flawforge evaluate {name} DATA --json evaluation.json")
    lines.append(" ".join(["flawforge pod", name, "DATA", *counted, "--json pod.json"]))
    lines.append(" ".join(["flawforge report", name, "-o report.html", *accepted]))
    return [shown(line) for line in lines]


def _budget(training: Mapping[str, Any]) -> dict[str, Any]:
    return next(({key: training[key]} for key in ("minutes", "steps") if training.get(key)), {})
