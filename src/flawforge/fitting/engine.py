"""The only training loop, on Lightning Fabric. Knows nothing of folders or people: batches in, weights and ticks out.

A batch is a pure function of (seed, step), so any number of prefetching workers gives the same bits, and a run that was
killed goes on from its checkpoint exactly where an uninterrupted run would be.

On several devices (`Run.place`) each process draws its part of the same batch, and all take the same step. Looks at the good
pictures are taken by every process in full, so they are what one process would see; what the first has learnt from them
is then everyone's.
"""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor, nn

from flawforge.fitting.checkpoints import State, pack, restore, restore_optimisers, weights
from flawforge.fitting.devices import Place, joined
from flawforge.nn.ranks import WHOLE, Part, add, average, cut_into, first_says
from flawforge.types import Batch, Collect, ConfigError, Prove, Stage, Train, TrainingError, Turn
from flawforge_runtime.files import write_atomically

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets every run with the precision it was given


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps (repeatable to the bit) or of minutes (whatever the machine does in them).

    clock   what minutes are counted by: "wall", or "cpu", the processor time of this process, all its threads together
    """

    steps: int | None = None
    minutes: float | None = None
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise ConfigError(f"--clock was given as {self.clock}; allowed are {' and '.join(CLOCKS)}.")
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError(f"A budget of steps={self.steps} and minutes={self.minutes} was given; give one of the two.")
        amount = self.steps if self.steps is not None else self.minutes
        if amount is None or not amount > 0 or not math.isfinite(amount):
            raise ConfigError(f"A budget of {amount} was given; give a number above 0.")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        spent = step / self.steps if self.steps else seconds / (60.0 * (self.minutes or 1.0))
        return min(spent, 1.0)

    def now(self) -> float:
        """Seconds of the clock, from an arbitrary zero."""
        return CLOCKS[self.clock]()


@dataclass(frozen=True)
class Tick:
    """One training step as people may want to see it: `progress` in [0, 1], `seconds` so far, each loss by its name.

    A turn may return values beside its losses, detached (a critic's accuracy); they stand here too.
    """

    stage: str
    step: int
    progress: float
    seconds: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Run:
    """How to run, as opposed to what to learn.

    seed              every draw follows from it
    workers           threads that forge ahead; changes speed, never bits
    precision         a Fabric precision, "32-true" or "bf16-mixed"
    device            "auto", "cpu" or "cuda"
    checkpoint        file to write and to resume from; None = no checkpoints
    checkpoint_every  seconds between checkpoints
    identity          what the run is (settings, data): a checkpoint of another identity is refused
    resume            go on from the checkpoint, where there is one
    clean_batches     how many batches a pass over the good pictures has, for the progress that is shown; 0 = unknown
    place             where this process stands among those of the fit; None = it is alone
    """

    seed: int = 0
    workers: int = 1
    precision: str = "32-true"
    device: str = "auto"
    checkpoint: Path | None = None
    checkpoint_every: float = 60.0
    identity: str = ""
    resume: bool = False
    clean_batches: int = 0
    place: Place | None = None


def step_seed(seed: int, stage: int, step: int) -> int:
    """Torch's seed of one step: layers that draw (dropout, random masks) resume to the bit without saved generators."""
    return int(np.random.SeedSequence([seed, stage, step]).generate_state(1, np.uint64)[0] >> 1)


def prefetch(make: Callable[[int], Any], first: int, workers: int) -> Generator[Any, None, None]:
    """make(first), make(first + 1), ... for ever and in order, with up to `workers` being made ahead in threads."""
    if workers <= 0:
        step = first
        while True:
            yield make(step)
            step += 1
    with ThreadPoolExecutor(workers, thread_name_prefix="forge") as pool:
        ahead: deque[Future[Any]] = deque(pool.submit(make, first + i) for i in range(workers + 1))
        step = first + workers + 1
        try:
            while True:
                yield ahead.popleft().result()
                ahead.append(pool.submit(make, step))
                step += 1
        finally:
            for future in ahead:
                future.cancel()


def _to_tensors(batch: Batch, device: torch.device) -> Batch:
    def move(array: Any) -> Tensor | None:
        if array is None:
            return None
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    return Batch(*map(move, batch))


def _check_finite(losses: dict[str, float], stage: str, step: int) -> None:
    if all(math.isfinite(value) for value in losses.values()):
        return
    shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    raise TrainingError(
        f"Training stopped in stage '{stage}' at step {step} because a loss is not finite ({shown}); lower learning_rate "
        "or set precision to 32-true with --set, and fit again."
    )


def fit(
    net: nn.Module,
    stages: Sequence[Stage],
    batch: Callable[[int, int], Batch],
    budget: Budget,
    run: Run,
    *,
    clean: Callable[[], Iterator[Batch]] | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    after: Callable[[Stage], None] | None = None,
) -> list[dict[str, Any]]:
    """Train `net` in place through its stages; returns the history (step, seconds, losses; about 200 rows a stage).

    batch(stage, step)  a numpy Batch, a pure function of its arguments and safe to call from several threads; of a Train
                        stage on several devices this process's part of it
    clean()             goes once over all good pictures, for Collect stages
    after(stage)        called in the first process when a stage that leaves the net usable is done
    There is no argument through which test pictures could enter.
    Raises TrainingError: a loss that is not finite, a checkpoint of another run; Parted: another process of the fit is gone.
    KeyboardInterrupt saves a checkpoint first.
    """
    with joined(run.place, run.device, run.precision) as fabric:
        loop = _Loop(fabric, net, run, on_tick or (lambda tick: None))
        if run.checkpoint and loop.agreed(float(run.resume and run.checkpoint.exists())):
            loop.restore(run.checkpoint)
        loop.to_device()
        loop.agree()
        _through(loop, stages, batch, budget, clean, after)
    net.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.eval()
    return loop.state.history


def _through(
    loop: _Loop,
    stages: Sequence[Stage],
    batch: Callable[[int, int], Batch],
    budget: Budget,
    clean: Callable[[], Iterator[Batch]] | None,
    after: Callable[[Stage], None] | None,
) -> None:
    """Every stage that is not done yet, one after another."""
    state = loop.state
    for number, stage in enumerate(stages):
        if number < state.stage:
            continue
        if isinstance(stage, Collect):
            start = budget.now()
            loop.collect(stage, clean)
            state.looked += loop.agreed(budget.now() - start)
        elif isinstance(stage, Prove):
            loop.prove(stage, partial(batch, number))
        else:
            loop.train(stage, partial(batch, number), _part(stage, stages, budget, state.looked))
        loop.agree()
        loop.next_stage(number + 1)
        if isinstance(stage, Collect) and stage.usable:
            loop.save()
            if after and loop.first:
                after(stage)  # which may judge with the net, and moves it to where it judges
                loop.to_device()


def _part(stage: Train, stages: Sequence[Stage], budget: Budget, seconds_looking: float) -> Budget:
    """A Train stage's part of the budget. Steps are shared among Train stages; minutes leave room for the others as well."""
    trains = sum(each.share for each in stages if isinstance(each, Train))
    if budget.steps:
        return Budget(steps=max(1, round(budget.steps * stage.share / trains)))
    minutes = budget.minutes or 0.0
    proofs = sum(each.share for each in stages if isinstance(each, Prove))
    left = max(minutes * (1 - proofs) - seconds_looking / 60, minutes / 10)
    return Budget(minutes=left * stage.share / trains, clock=budget.clock)


@contextmanager
def _interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the end of the step, so the checkpoint never holds half an update; a second one does not wait."""
    pressed = False

    def remember(signum: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, previous)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)


@dataclass
class _Loop:
    """What every stage of one fit needs, and where it stands.

    saved   tensors of the checkpoint that is resumed from, for the optimisers of the stage it was made in
    groups  the parameter groups of these optimisers
    """

    fabric: Fabric
    net: nn.Module
    run: Run
    on_tick: Callable[[Tick], None]
    state: State = field(default_factory=State)
    saved: dict[str, Tensor] = field(default_factory=dict)
    groups: list[Any] = field(default_factory=list)

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        self.state, self.saved, self.groups = restore(checkpoint, self.run.identity)
        self.net.load_state_dict({key[4:]: value for key, value in self.saved.items() if key.startswith("net.")})

    def to_device(self) -> None:
        """Move the net to where it learns."""
        self.net.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def part(self) -> Part:
        """The part of each batch that this process holds."""
        return self.run.place.part if self.run.place else WHOLE

    @property
    def first(self) -> bool:
        """Whether this process writes and calibrates."""
        return self.part.rank == 0

    def agreed(self, value: float) -> float:
        """The first process's value."""
        if self.part.count == 1:
            return value
        return float(first_says(torch.tensor([value], dtype=torch.float64, device=self.fabric.device))[0])

    def agree(self) -> None:
        """Give every process the first one's net. Raises TrainingError where this one is on another run."""
        if self.part.count == 1:
            return
        own, run = weights(self.net), hashlib.sha256(self.run.identity.encode()).digest()
        data = bytearray(self.agreed_bytes(run + own))
        if data[: len(run)] != run:
            raise TrainingError("This process found other pictures or settings than the first; all need the same data.")
        if data[len(run) :] != own:
            self.net.load_state_dict(tensors_from_bytes(bytes(data[len(run) :])))

    def agreed_bytes(self, data: bytes) -> bytes:
        """The first process's bytes."""
        size, device = int(self.agreed(len(data))), self.fabric.device
        buffer = torch.frombuffer(bytearray(data if self.first else size), dtype=torch.uint8).to(device)
        return first_says(buffer).cpu().numpy().tobytes()

    def together(self, losses: dict[str, float], seconds: float, pressed: bool) -> tuple[dict[str, float], float, bool]:
        """The mean of all processes' losses, the first one's seconds, and whether anyone wants to stop."""
        if self.part.count == 1:
            return losses, seconds, pressed
        told = [*losses.values(), seconds * self.first, float(pressed)]
        *sums, seconds, wish = add(torch.tensor(told, dtype=torch.float64, device=self.fabric.device)).tolist()
        return {name: value / self.part.count for name, value in zip(losses, sums, strict=True)}, seconds, wish > 0

    def next_stage(self, number: int) -> None:
        """Nothing of the stage that is done is left but the history."""
        self.state.stage, self.state.step, self.state.seconds = number, 0, 0.0
        self.saved, self.groups = {}, []

    def save(self, optimisers: Sequence[torch.optim.Optimizer] = ()) -> None:
        """Write the checkpoint, where there is to be one."""
        if self.run.checkpoint and self.first:
            write_atomically(self.run.checkpoint, pack(self.net, optimisers, self.state, self.run.identity))

    def collect(self, stage: Collect, clean: Callable[[], Iterator[Batch]] | None) -> None:
        """Show every good picture to the net once."""
        if clean is None:
            raise TrainingError(f"Stage '{stage.name}' looks at every good picture, but no pass over them was given.")
        self.visit_all(stage, clean(), self.run.clean_batches)

    def prove(self, stage: Prove, batch: Callable[[int], Batch]) -> None:
        """Show forged pictures to the net."""
        with closing(prefetch(batch, 0, self.run.workers)) as source:
            self.visit_all(stage, islice(source, stage.batches), stage.batches)

    def visit_all(self, stage: Collect | Prove, batches: Iterable[Batch], count: int) -> None:
        """Visit each batch, then finish, without gradients. count: how many there will be; 0 = unknown."""
        self.net.eval()
        start = time.monotonic()
        with torch.no_grad():
            state = stage.begin(self.net)
            for done, batch in enumerate(batches, start=1):
                stage.visit(self.net, state, _to_tensors(batch, self.fabric.device))
                self.on_tick(Tick(stage.name, done, done / count if count else 0.0, time.monotonic() - start, {}))
            stage.finish(self.net, state)

    def train(self, stage: Train, batch: Callable[[int], Batch], budget: Budget) -> None:
        """Set up optimisers, learn until the budget is spent, and leave the frozen parts as they were."""
        optimisers = [turn.optimiser(turn.parameters(self.net)) for turn in stage.turns]
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group.setdefault("initial_lr", group["lr"])  # the schedule multiplies this one, also after a resume
        if self.groups:
            restore_optimisers(optimisers, self.saved, self.groups)
        wrapped, *ready = self.fabric.setup(self.net, *optimisers)
        for name in getattr(self.net, "forward_methods", ()):
            wrapped.mark_forward_method(name)
        self.net.train()
        for name in stage.frozen:
            # Batch norm would still move inside a frozen module, so it must be in eval mode as well as without gradient.
            self.net.get_submodule(name).eval().requires_grad_(False)
        learners = [_Learner(turn, *pair) for turn, *pair in zip(stage.turns, optimisers, ready, strict=True)]
        try:
            with (
                cut_into(self.net, self.part),
                _interrupt_between_steps() as interrupted,
                closing(prefetch(batch, self.state.step, self.run.workers)) as source,
            ):
                self.steps(stage.name, wrapped, learners, source, budget, interrupted)
        finally:
            for name in stage.frozen:
                self.net.get_submodule(name).requires_grad_(True)

    def steps(
        self,
        stage: str,
        wrapped: Any,
        learners: Sequence[_Learner],
        source: Iterator[Batch],
        budget: Budget,
        interrupted: Callable[[], bool],
    ) -> None:
        """Step by step until the budget is spent, with a checkpoint now and then, and on Ctrl-C."""
        state, plain = self.state, [learner.plain for learner in learners]
        start, saved = budget.now() - state.seconds, time.monotonic()
        while budget.progress(state.step, state.seconds) < 1.0:
            progress = budget.progress(state.step, state.seconds)
            torch.manual_seed(step_seed(self.run.seed, state.stage, state.step))
            batch = _to_tensors(next(source), self.fabric.device)
            losses: dict[str, float] = {}
            for learner in learners:
                losses |= learner.step(self.fabric, wrapped, batch, progress, self.part.count)
            losses, state.seconds, stop = self.together(losses, budget.now() - start, interrupted())
            _check_finite(losses, stage, state.step)
            state.step += 1
            tick = Tick(stage, state.step, budget.progress(state.step, state.seconds), state.seconds, losses)
            _remember(state, tick)
            self.on_tick(tick)
            if stop or (self.part.count == 1 and interrupted()):  # several processes agree once a step, above
                self.save(plain)
                raise KeyboardInterrupt
            if time.monotonic() - saved > self.run.checkpoint_every:
                self.save(plain)
                saved = time.monotonic()


@dataclass
class _Learner:
    """One turn of a stage with its optimiser. plain: as torch made it, for the checkpoint; ready: as Fabric wrapped it."""

    turn: Turn
    plain: torch.optim.Optimizer
    ready: Any

    def step(self, fabric: Fabric, net: Any, batch: Batch, progress: float, parts: int) -> dict[str, float]:
        """One step of this turn on a batch that is cut into so many parts; the losses of this one."""
        for group in self.ready.param_groups:
            group["lr"] = group["initial_lr"] * self.turn.schedule(progress)
        return _turn(fabric, net, self.turn, self.ready, batch, parts)


def _turn(fabric: Fabric, net: Any, turn: Turn, optimiser: Any, batch: Batch, parts: int) -> dict[str, float]:
    losses = turn.loss(net, batch)
    learnt = [value for value in losses.values() if value.requires_grad]  # the others are only shown
    if not learnt:
        names = ", ".join(losses)
        raise TrainingError(f"Turn '{turn.name}' returned no loss with a gradient ({names}); return at least one.")
    optimiser.zero_grad()
    fabric.backward(sum(learnt))
    if parts > 1:
        average([parameter for group in optimiser.param_groups for parameter in group["params"]])
    optimiser.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def _remember(state: State, tick: Tick) -> None:
    """Keep about 200 rows a stage, evenly over the budget, whatever its length."""
    rows = [row for row in state.history if row["stage"] == tick.stage]
    if not rows or tick.progress >= 1.0 or tick.progress - rows[-1]["progress"] >= 1 / 200:
        state.history.append(
            {
                "stage": tick.stage,
                "step": tick.step,
                "progress": tick.progress,
                "seconds": round(tick.seconds, 3),
                "losses": tick.losses,
            }
        )
