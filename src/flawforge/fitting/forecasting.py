"""Time and memory of a fit, measured on the real net and data before it starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import psutil
import torch

from flawforge import config
from flawforge.fitting import engine
from flawforge.fitting.devices import fair_threads
from flawforge.fitting.planning import Plan, batches, new_net, stages_of
from flawforge.nn.ranks import Part
from flawforge.pictures import dataset
from flawforge.types import Collect, Prove, Stage, Train, TrainingError

PARTS = ("statistics", "training", "check")
EARLY, CALIBRATION = "first calibration", "calibration"
READING = 0.03  # seconds to read a picture and hold it against the good ones, about
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "array is too big", "allowed dimension exceeded")
LOOK = 0.05  # seconds of a network for a picture, where nothing could be timed


@dataclass(frozen=True)
class Forecast:
    """Measured on the real net and data before training: seconds per step, bytes of memory at the peak, of all processes
    of this machine, parameters.

    collect  {stage: minutes} of the stages that look at every good picture and say what they need; beside `minutes`
    stages   (name, part of the work, seconds) of each stage and of the calibration; the parts are PARTS
    """

    seconds_per_step: float
    steps: int
    minutes: float
    memory_bytes: int
    parameters: int
    collect: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[tuple[str, str, float], ...] = ()

    @property
    def seconds(self) -> float:
        """Of the whole fit, calibration included."""
        return sum(seconds for _, _, seconds in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values = dataclasses.asdict(self)
        stages = [{"stage": name, "part": part, "seconds": seconds} for name, part, seconds in self.stages]
        return values | {"collect": dict(self.collect), "stages": stages, "seconds": self.seconds}

    def _whole(self) -> str:
        """The whole fit in words: about 40 s: statistics 15 s, training 12 s, check 13 s."""
        parts = {part: sum(seconds for _, own, seconds in self.stages if own == part) for part in PARTS}
        named = ", ".join(f"{part} {in_words(seconds)}" for part, seconds in parts.items() if seconds >= 0.5)
        return f"a whole fit takes about {in_words(self.seconds)}" + (f": {named}" if named else "")

    def lines(self) -> list[str]:
        """For people."""
        memory = f"about {self.memory_bytes / 2**30:.1f} GiB of memory"
        if not self.steps:
            return [f"forecast: no training steps, so --minutes and --steps have no effect; {memory}", self._whole()]
        steps = f"{self.steps} steps of {self.seconds_per_step:.2f} s, {self.minutes:.1f} minutes of training"
        return [f"forecast: {steps}, {memory}, {self.parameters / 1e6:.1f} M parameters", self._whole()]


def in_words(seconds: float) -> str:
    """For people: 40 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def enough_memory(plan: Plan) -> Iterator[None]:
    """What numpy and torch raise for want of memory becomes a TrainingError of one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        raise TrainingError(
            f"The fit takes more memory than there is, with batches of {plan.settings.batch} pictures of {plan.canvas[0]} x "
            f"{plan.canvas[1]} (h x w); lower it with --set batch=N, or --size."
        ) from error


def forecast(plan: Plan, pictures: dataset.GoodPictures, *, trial_steps: int = 2) -> Forecast:
    """Train a throw-away copy for a few steps and measure. Memory is the process's size after them plus a tenth, plus what
    the stages that look at every good picture say they will hold.

    A method without training steps has nothing to time: zero steps, and the memory of the pictures alone. Of several devices
    one is timed, with its part of a batch and its share of the threads.
    """
    with fair_threads(plan.request.devices), enough_memory(plan):
        return _forecast(plan, pictures, trial_steps)


def _forecast(plan: Plan, pictures: dataset.GoodPictures, trial_steps: int) -> Forecast:
    net, _ = new_net(plan)
    stages = stages_of(plan, net, pictures)
    train = [stage for stage in stages if isinstance(stage, Train)]
    seconds: dict[str, list[float]] = {stage.name: [] for stage in train}
    ticks: list[tuple[engine.Tick, float]] = []

    def on_tick(tick: engine.Tick) -> None:
        ticks.append((tick, time.monotonic()))
        if tick.stage in seconds:
            seconds[tick.stage].append(tick.seconds)

    if train:
        # As many trial steps for each stage, whatever its part of the budget: one may cost many times another's.
        alike = [dataclasses.replace(stage, share=1.0) if isinstance(stage, Train) else stage for stage in stages]
        engine.fit(
            net,
            alike[: stages.index(train[-1]) + 1],
            batches(plan, pictures, net, stages, Part(0, plan.request.devices * plan.request.nodes)),
            engine.Budget(steps=(trial_steps + 1) * len(train)),
            engine.Run(seed=plan.request.seed, workers=0, precision=plan.settings.precision, device=plan.request.device),
            clean=lambda: islice(pictures.clean_batches(plan.settings.batch), 1),
            on_tick=on_tick,
        )
    memory = int(1.1 * psutil.Process().memory_info().rss)
    parameters = sum(p.numel() for p in net.parameters())
    collect, held = _looks(plan, pictures, net, [stage for stage in stages if isinstance(stage, Collect)])
    memory = plan.request.devices * (memory + held)
    if not train:
        return Forecast(0.0, 0, 0.0, memory, parameters, collect, _stages(plan, len(pictures), stages, ticks, collect, {}))
    steps, spent, each_step = 0, 0.0, dict[str, float]()
    for stage in train:
        at = seconds[stage.name]
        per_step = each_step[stage.name] = max((at[-1] - at[0]) / max(len(at) - 1, 1), 1e-4)
        share = stage.share / sum(other.share for other in train)
        count = plan.budget.steps * share if plan.budget.steps else 60 * (plan.budget.minutes or 0) * share / per_step
        steps, spent = steps + max(1, round(count)), spent + max(1, round(count)) * per_step
    whole = _stages(plan, len(pictures), stages, ticks, collect, each_step)
    return Forecast(spent / steps, steps, spent / 60, memory, parameters, collect, whole)


def _stages(
    plan: Plan,
    pictures: int,
    stages: Sequence[Stage],
    ticks: Sequence[tuple[engine.Tick, float]],
    collect: Mapping[str, float],
    each_step: Mapping[str, float],
) -> tuple[tuple[str, str, float], ...]:
    """`Forecast.stages`: looks by the one batch that was shown to each, training by its budget, the rest by their like.

    collect    minutes of looks that state what they need; each_step: seconds of a step of each training stage
    """
    batch, budget = plan.settings.batch, plan.budget
    first: dict[str, float] = {}
    for tick, _ in ticks:
        first.setdefault(tick.stage, tick.seconds / tick.step)
    looks = [first[stage.name] for stage in stages if isinstance(stage, Collect) and stage.name in first]
    glance = max(looks, default=min(each_step.values(), default=LOOK * batch) / 3)  # seconds of a batch without gradients
    judging = len(plan.held) * (glance / batch + READING)
    trains = [stage for stage in stages if isinstance(stage, Train)]
    rows, looked, trained = [], 0.0, False
    for stage in stages:
        if isinstance(stage, Train):
            trained, share = True, stage.share / sum(other.share for other in trains)
            if budget.steps:
                seconds = each_step[stage.name] * max(1, round(budget.steps * share))
            else:
                proofs = sum(other.share for other in stages if isinstance(other, Prove))
                minutes = budget.minutes or 0.0
                seconds = 60 * share * max(minutes * (1 - proofs) - looked / 60, minutes / 10)
            rows.append((stage.name, "training", seconds))
            continue
        count = stage.batches if isinstance(stage, Prove) else -(-pictures // batch)
        seconds = first.get(stage.name, glance) * count
        if stage.name in collect:
            seconds = 60 * collect[stage.name]
        looked += seconds if isinstance(stage, Collect) else 0.0
        rows.append((stage.name, "check" if trained else "statistics", seconds))
        if isinstance(stage, Collect) and stage.usable and stage is not stages[-1]:
            rows.append((EARLY, "check", judging))
    return (*rows, (CALIBRATION, "check", judging))


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
