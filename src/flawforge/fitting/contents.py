"""What a model folder holds of its fit: weights, settings, what it was fitted to, and what the net found out."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes

from flawforge import __version__
from flawforge.fitting.planning import AUTO_ROI, Plan, Request
from flawforge.forge import names_in
from flawforge.forge.transplant import Transplant
from flawforge.pictures.copies import fingerprint, pack
from flawforge.types import Train
from flawforge_runtime import bundle

UNSHAPING = ("data", "out", "method", "seed", "workers", "device", "max_pixels", "checkpoint_every")


def content_of(
    plan: Plan, net: Any, history: Sequence[Mapping[str, Any]], seconds: float, notes: Sequence[str]
) -> bundle.Content:
    """The content of a model folder, but for thresholds, guard and card.

    history  as `engine.fit` returns it; seconds  that the fit took so far; notes  for people, before the net's own
    """
    request = plan.request
    init = None
    if plan.init is not None:
        known = {key: plan.init.about.get(key) for key in ("method", "profile", "seed", "canvas")} if plan.init.about else {}
        init = {"path": str(request.init), "sha256": plan.init.sha256} | known
    forgers = trained_on(plan, net)
    rule = dataclasses.asdict(plan.method.score(plan.settings))
    settings: dict[str, Any] = {
        "format": bundle.FORMAT,
        "method": request.method,
        "profile": request.profile or next(iter(plan.method.profiles)),
        "settings": dataclasses.asdict(plan.settings),
        "canvas": list(plan.canvas),
        "tile": request.tile,
        "align": plan.template and {"least": plan.template.least},
        "score_rule": {name: each for name, each in rule.items() if each is not None},
        "max_pixels": request.max_pixels,
        "depth": request.depth,
        "seed": request.seed,
        "tolerate": request.tolerate,
        "flawforge_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "training": {
            "pictures": len(plan.train),
            "held_back": len(plan.held),
            "seconds": round(seconds, 1),
            "steps": sum({row["stage"]: row["step"] for row in history}.values()),  # of all stages
            "minutes": request.minutes,
            "clock": request.clock,
            "threads": torch.get_num_threads(),
            "asked": asked_of(request),
            "forger": str(plan.method.forger(plan.settings)) if plan.method.forger and forgers else "",
            "forgers": list(forgers),
            "fingerprints": sorted(fingerprint(entry.path) for entry in plan.train),
            "likenesses": pack(plan.report.likenesses[entry.path] for entry in plan.train),
            "torch": torch.__version__,
            "cpus": os.cpu_count(),
        },
        "init": init,
        "trunk": _trunk(plan),
        "held_back": [str(entry.path.resolve()) for entry in plan.held],  # for `export` to compare on; it drops them
        "data_report": plan.report.as_dict(),
        "screening": plan.screening.as_dict() if plan.screening else None,
        # `facts`: what a method decided from the good pictures, in words
        "notes": [*notes, *getattr(net, "facts", list)()],
        "history": list(history),
    }
    if plan.defects is not None:
        settings["training"]["defects"] = plan.defects.as_dict()
        settings["defects"] = plan.defects.listed()  # for `evaluate` and `pod` to leave out; `export` drops it
    tensors = tensors_to_bytes({key: value.contiguous() for key, value in net.state_dict().items()})
    return bundle.Content(settings, tensors, None, "", plan.roi, template=plan.template)


def asked_of(request: Request) -> dict[str, Any]:
    """The options of `fit` that are not its defaults and shape the model, by their names; without paths."""
    asked: dict[str, Any] = {}
    for each in dataclasses.fields(request):
        value = getattr(request, each.name)
        if each.name in UNSHAPING or value == each.default or each.name == "settings":
            continue
        path = (isinstance(value, Path) and value != AUTO_ROI) or (each.name == "trunk" and Path(value).name != value)
        asked[each.name] = "PATH" if path else str(value) if isinstance(value, Path) else value
    return asked | ({"settings": dict(request.settings)} if request.settings else {})


def _trunk(plan: Plan) -> dict[str, Any] | None:
    """Whose features the model looks at; None where it learnt its own or has none."""
    if plan.trunk is None:
        return None
    known = {key: plan.trunk.about[key] for key in ("method", "profile") if key in plan.trunk.about}
    return {
        "backbone": plan.settings.backbone,
        "source": plan.trunk.source,
        "licence": plan.trunk.licence or None,
        "sha256": plan.trunk.sha256,
    } | known


def trained_on(plan: Plan, net: Any) -> tuple[str, ...]:
    """The forgers that the training stages use, so that a proof can hold their families out; none without training."""
    stages = [stage for stage in plan.method.stages(net, plan.settings) if isinstance(stage, Train)]
    own = plan.method.forger(plan.settings) if plan.method.forger else None
    names = [name for stage in stages for name in names_in(stage.forger or own)]
    real = [Transplant.name] if stages and plan.defects is not None else []
    return tuple(dict.fromkeys([*names, *real]))
