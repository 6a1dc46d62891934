"""The training loop: budgets, same bits, resume, honest stops. A two-weight net is enough to see all of it."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flawforge.config import torch_device
from flawforge.fitting.engine import Budget, Run, Tick, fit, prefetch
from flawforge.types import Batch, Collect, ConfigError, Train, TrainingError, Turn


class Line(nn.Module):
    """y = conv(x), with dropout so that torch's own generator matters, and batch norm so that buffers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.drop(self.conv(self.frozen(x))))
        return out


def batch(stage: int, step: int) -> Batch:
    rng = np.random.default_rng([stage, step])
    image = rng.random((2, 3, 4, 4), dtype=np.float32)
    ones = np.ones((2, 1, 4, 4), np.float32)
    return Batch(image, image, ones, ones)


def stage(loss: Any = None, name: str = "learn", **options: Any) -> Train:
    def square(net: Any, one: Batch) -> dict[str, torch.Tensor]:
        return {"square": ((net(one.forged) - 1) ** 2).mean(), "size": 0.01 * net.conv.weight.square().sum()}

    turn = Turn(
        "all",
        lambda net: list(net.conv.parameters()) + list(net.norm.parameters()),
        lambda p: torch.optim.Adam(p, 0.05),
        loss or square,
        lambda progress: 1.0 - 0.5 * progress,
    )
    return Train(name, [turn], **options)


def weights(net: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in net.state_dict().items()}


def trained(workers: int = 0, steps: int = 12, **options: Any) -> dict[str, bytes]:
    net = Line()
    fit(net, [stage()], batch, Budget(steps=steps), Run(workers=workers), **options)
    return weights(net)


def test_same_bits_for_any_number_of_workers() -> None:
    assert trained(0) == trained(1) == trained(5)


def test_training_moves_the_weights_and_lowers_the_loss() -> None:
    net, before = Line(), weights(Line())
    history = fit(net, [stage()], batch, Budget(steps=60), Run())
    assert weights(net) != before
    assert history[-1]["losses"]["square"] < history[0]["losses"]["square"]
    assert history[-1]["step"] == 60
    assert set(history[0]["losses"]) == {"square", "size"}
    assert not net.training


class Killed(BaseException):
    """Stands for the end of the process at any step."""


@pytest.mark.parametrize("kill_at", [1, 5, 11])
def test_resume_gives_the_bits_of_an_uninterrupted_run(tmp_path: Path, kill_at: int) -> None:
    run = Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=0.0, workers=2)

    def kill(tick: Tick) -> None:
        if tick.step == kill_at + 1:
            raise Killed

    with pytest.raises(Killed):
        fit(Line(), [stage()], batch, Budget(steps=12), run, on_tick=kill)
    resumed = Line()
    seen: list[int] = []
    run = dataclasses.replace(run, resume=True)
    fit(resumed, [stage()], batch, Budget(steps=12), run, on_tick=lambda tick: seen.append(tick.step))
    assert weights(resumed) == trained()
    assert seen[0] == kill_at + 1


def test_resume_in_the_second_stage(tmp_path: Path) -> None:
    stages = [stage(name="first", share=1.0), stage(name="second", share=2.0)]
    whole = Line()
    fit(whole, stages, batch, Budget(steps=12), Run())
    run = Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=0.0)

    def kill(tick: Tick) -> None:
        if tick.stage == "second" and tick.step == 3:
            raise Killed

    with pytest.raises(Killed):
        fit(Line(), stages, batch, Budget(steps=12), run, on_tick=kill)
    resumed = Line()
    history = fit(resumed, stages, batch, Budget(steps=12), dataclasses.replace(run, resume=True))
    assert weights(resumed) == weights(whole)
    assert [row["stage"] for row in history if row["step"] == 1] == ["first", "second"]


def test_minutes_go_on_with_the_time_that_was_left(tmp_path: Path) -> None:
    run = Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=0.0)
    before: list[Tick] = []
    after: list[Tick] = []

    def kill(tick: Tick) -> None:
        before.append(tick)
        if tick.progress > 0.5 and len(before) > 1:
            raise Killed

    with pytest.raises(Killed):
        fit(Line(), [stage()], batch, Budget(minutes=0.02), run, on_tick=kill)
    fit(Line(), [stage()], batch, Budget(minutes=0.02), dataclasses.replace(run, resume=True), on_tick=after.append)
    assert after[0].step == before[-1].step
    assert after[0].seconds > before[-2].seconds
    assert after[-1].progress == 1.0
    assert after[-1].seconds >= 1.2
    assert len(after) < 2 or after[-2].seconds < 1.2


def test_minutes_of_processor_time_do_not_count_waiting() -> None:
    ticks: list[Tick] = []

    def wait(tick: Tick) -> None:
        ticks.append(tick)
        time.sleep(0.02)

    start = time.monotonic()
    fit(Line(), [stage()], batch, Budget(minutes=0.3 / 60, clock="cpu"), Run(workers=0), on_tick=wait)
    assert len(ticks) >= 3
    assert ticks[-1].seconds >= 0.3
    assert time.monotonic() - start >= 0.3 + 0.02 * (len(ticks) - 1)
    with pytest.raises(ConfigError, match=r"--clock was given as sun; allowed are wall and cpu\."):
        Budget(minutes=1, clock="sun")


def test_a_loss_that_is_not_finite_stops_with_every_loss_named() -> None:
    def bad(net: Any, one: Batch) -> dict[str, torch.Tensor]:
        value = (net(one.forged) ** 2).mean()
        return {"fine": value, "broken": value * float("nan")}

    with pytest.raises(TrainingError, match=r"stage 'learn' at step 0 .*fine .*broken nan.*learning_rate"):
        fit(Line(), [stage(bad)], batch, Budget(steps=3), Run())


def test_a_detached_value_is_shown_and_not_learnt_from() -> None:
    def square(net: Any, one: Batch) -> torch.Tensor:
        loss: torch.Tensor = ((net(one.forged) - 1) ** 2).mean()
        return loss

    def told(net: Any, one: Batch) -> dict[str, torch.Tensor]:
        loss = square(net, one)
        return {"square": loss, "accuracy": 1e6 * (loss.detach() < 0.5).float()}

    plain, shown = Line(), Line()
    fit(plain, [stage(lambda net, one: {"square": square(net, one)})], batch, Budget(steps=5), Run())
    history = fit(shown, [stage(told)], batch, Budget(steps=5), Run())
    assert weights(shown) == weights(plain)
    assert {row["losses"]["accuracy"] for row in history} <= {0.0, 1e6}
    with pytest.raises(TrainingError, match=r"Turn 'all' returned no loss with a gradient \(size\)"):
        fit(Line(), [stage(lambda net, one: {"size": square(net, one).detach()})], batch, Budget(steps=1), Run())


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run = Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=0.0, identity="a")
    fit(Line(), [stage()], batch, Budget(steps=2), run)
    with pytest.raises(TrainingError, match="other data or settings"):
        fit(Line(), [stage()], batch, Budget(steps=2), dataclasses.replace(run, identity="b", resume=True))


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    run = Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=0.0)
    fit(Line(), [stage()], batch, Budget(steps=2), run)
    assert run.checkpoint is not None
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"cannot be read .*without --resume"):
        fit(Line(), [stage()], batch, Budget(steps=2), dataclasses.replace(run, resume=True))


def test_ctrl_c_finishes_the_step_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    run = Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=1e9)

    steps = []

    def press(tick: Tick) -> None:
        steps.append(tick.step)
        if tick.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), [stage()], batch, Budget(steps=12), run, on_tick=press)
    assert signal.getsignal(signal.SIGINT) is before
    assert steps == [1, 2, 3, 4]
    resumed = Line()
    fit(resumed, [stage()], batch, Budget(steps=12), dataclasses.replace(run, resume=True))
    assert weights(resumed) == trained()


def test_a_frozen_module_does_not_move() -> None:
    def with_frozen(net: Any, one: Batch) -> dict[str, torch.Tensor]:
        return {"square": ((net(one.forged) - 1) ** 2).mean()}

    moved, still = Line(), Line()
    fit(moved, [stage(with_frozen)], batch, Budget(steps=3), Run())
    fit(still, [stage(with_frozen, frozen=("frozen",))], batch, Budget(steps=3), Run())
    start = Line().frozen.running_mean
    assert start is not None
    assert not torch.equal(moved.frozen.running_mean, start)  # type: ignore[arg-type]
    assert torch.equal(still.frozen.running_mean, start)  # type: ignore[arg-type]
    assert all(p.requires_grad for p in still.parameters())


def test_collect_sees_every_picture_once_without_gradients() -> None:
    """What `begin` gave goes to every `visit` and to `finish`; two looks do not share it."""
    done: list[tuple[bool, list[float]]] = []

    def visit(net: Any, seen: list[float], one: Batch) -> None:
        assert not torch.is_grad_enabled()
        seen.append(float(one.clean.sum()))

    def finish(net: Any, seen: list[float]) -> None:
        done.append((net.training, seen))

    def clean() -> Iterator[Batch]:
        return (batch(9, step) for step in range(3))

    look = Collect("look", lambda net: [], visit, finish)
    fit(Line(), [look, look], batch, Budget(steps=1), Run(), clean=clean)
    expected = [pytest.approx(float(one.clean.sum()), rel=1e-6) for one in clean()]
    assert done == [(False, expected), (False, expected)]


def test_prefetch_keeps_the_order_and_passes_errors_on() -> None:
    def make(step: int) -> int:
        if step == 7:
            raise ValueError("seven")
        return step

    source = prefetch(make, 3, 3)
    assert [next(source) for _ in range(4)] == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="seven"):
        next(source)
    assert not [t for t in threading.enumerate() if t.name.startswith("forge")]


@pytest.mark.parametrize(
    "amounts", [{}, {"steps": 1, "minutes": 1}, {"steps": 0}, {"minutes": -1}, {"minutes": float("inf")}]
)
def test_a_budget_is_one_positive_number(amounts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give"):
        Budget(**amounts)


def test_an_unknown_or_missing_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="give auto, cpu or cuda"):
        torch_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="give --device cpu"):
            torch_device("cuda")
