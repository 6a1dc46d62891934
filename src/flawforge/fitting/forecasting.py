"""Time and memory of a fit, measured on the real net and data before it starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import psutil
import torch

from flawforge import config
from flawforge.fitting import engine
from flawforge.fitting.planning import Plan, batches, new_net, stages_of
from flawforge.pictures import dataset
from flawforge.types import (
    Collect,
    Train,
)


@dataclass(frozen=True)
class Forecast:
    """Measured on the real net and data before training: seconds per step, bytes of memory at the peak, parameters.

    collect  {stage: minutes} of the stages that look at every good picture and say what they need; beside `minutes`
    """

    seconds_per_step: float
    steps: int
    minutes: float
    memory_bytes: int
    parameters: int
    collect: Mapping[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        looks = [f"{minutes:.1f} minutes for the {name}" for name, minutes in self.collect.items()]
        if not self.steps:
            how_long = "; about " + " and ".join(looks) if looks else ""
            return [
                f"forecast: no training steps, so neither --minutes nor --steps bounds it{how_long}; "
                f"{self.memory_bytes / 2**30:.1f} GiB of memory or a little more"
            ]
        return [
            f"forecast: {self.steps} steps of {self.seconds_per_step:.2f} s, {self.minutes:.1f} minutes, "
            + "".join(f"then about {look}, " for look in looks)
            + f"{self.memory_bytes / 2**30:.1f} GiB of memory, {self.parameters / 1e6:.1f} M parameters"
        ]


def forecast(plan: Plan, pictures: dataset.GoodPictures, *, trial_steps: int = 2) -> Forecast:
    """Train a throw-away copy for a few steps and measure. Memory is the process's size after them plus a tenth, plus what
    the stages that look at every good picture say they will hold.

    A method without training steps has nothing to time: zero steps, and the memory of the pictures alone.
    """
    net, _ = new_net(plan)
    stages = stages_of(plan, net, pictures)
    train = [stage for stage in stages if isinstance(stage, Train)]
    seconds: dict[str, list[float]] = {stage.name: [] for stage in train}
    if train:
        # As many trial steps for each stage, whatever its part of the budget: one may cost many times another's.
        alike = [dataclasses.replace(each, share=1.0) if isinstance(each, Train) else each for each in stages]
        engine.fit(
            net,
            alike[: stages.index(train[-1]) + 1],
            batches(plan, pictures, net, stages),
            engine.Budget(steps=(trial_steps + 1) * len(train)),
            engine.Run(seed=plan.request.seed, workers=0, precision=plan.settings.precision, device=plan.request.device),
            clean=lambda: islice(pictures.clean_batches(plan.settings.batch), 1),
            on_tick=lambda tick: seconds[tick.stage].append(tick.seconds) if tick.stage in seconds else None,
        )
    memory = int(1.1 * psutil.Process().memory_info().rss)
    parameters = sum(p.numel() for p in net.parameters())
    collect, held = _looks(plan, pictures, net, [stage for stage in stages if isinstance(stage, Collect)])
    memory += held
    if not train:
        return Forecast(0.0, 0, 0.0, memory, parameters, collect)
    steps, spent = 0, 0.0
    for stage in train:
        at = seconds[stage.name]
        per_step = max((at[-1] - at[0]) / max(len(at) - 1, 1), 1e-4)
        share = stage.share / sum(each.share for each in train)
        count = plan.budget.steps * share if plan.budget.steps else 60 * (plan.budget.minutes or 0) * share / per_step
        steps, spent = steps + max(1, round(count)), spent + max(1, round(count)) * per_step
    return Forecast(spent / steps, steps, spent / 60, memory, parameters, collect)


def _looks(plan: Plan, pictures: dataset.GoodPictures, net: Any, stages: Sequence[Collect]) -> tuple[dict[str, float], int]:
    """{stage: minutes} and the most bytes of the stages that state a demand: one batch is shown to each and timed, and the
    arithmetic they state is set against a matrix product that is timed here."""
    minutes, most = {}, 0
    for stage in stages:
        if stage.demand is None:
            continue
        need = stage.demand(net, plan.canvas, len(pictures))
        if need.operations is None:
            most = max(most, need.memory_bytes)
            continue
        looks = -(-len(pictures) // plan.settings.batch)
        start = time.monotonic()
        engine.fit(
            net,
            [dataclasses.replace(stage, finish=lambda module, state: None)],
            batches(plan, pictures),
            engine.Budget(steps=1),
            engine.Run(device=plan.request.device),
            clean=lambda: islice(pictures.clean_batches(plan.settings.batch), 1),
        )
        seconds = (time.monotonic() - start) * looks + need.operations * _seconds_per_operation(plan.request.device)
        minutes[stage.name], most = seconds / 60, max(most, need.memory_bytes)
    return minutes, most


def _seconds_per_operation(device: str) -> float:
    """Of a matrix product of the shape that the coreset has, on this machine as it is now."""
    a, b = (torch.rand(shape, device=config.torch_device(device)) for shape in ((4096, 128), (128, 1024)))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        float((a @ b)[0, 0])
        seconds.append(time.perf_counter() - start)
    return min(seconds) / (2 * 4096 * 128 * 1024)
