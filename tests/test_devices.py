"""Several processes that learn together: what they draw and learn is what one process would, and none is left behind."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from flawforge import fitting
from flawforge.fitting import devices, engine
from flawforge.fitting.planning import Request, request_from
from flawforge.methods import METHODS
from flawforge.nn import ranks
from flawforge.nn.losses import dice_loss, focal_map, masked_mean, summed
from flawforge.types import Batch, ConfigError, Train, TrainingError

OURS = [sys.executable, "-c", "from flawforge.cli import main; main()"]
STEPS = 6
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # of losses in single precision
SHARED = sorted(name for name, method in METHODS.items() if method.parts)


# --- one batch in parts


class Small(nn.Module):
    """Convolutions and batch norms, of pictures and of numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.flat = nn.Conv2d(4, 1, 1), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.first(x)).relu()
        logit: Tensor = self.second(x)
        return logit, self.flat(x.mean(dim=(2, 3)))


def learnt(rank: int, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Losses, gradients and running moments of a step on part `rank` of `count` of a batch of 8."""
    rng = np.random.default_rng(0)
    some = slice(rank * 8 // count, (rank + 1) * 8 // count)
    x, mask, valid = (torch.from_numpy(rng.random((8, c, 6, 6), dtype=np.float32))[some] for c in (3, 1, 1))
    mask, valid = (mask > 0.8).float(), (valid > torch.linspace(0, 0.9, 8)[some, None, None, None]).float()
    net = Small().train()
    torch.manual_seed(2)
    with ranks.cut_into(net, ranks.Part(rank, count)):
        drawn = ranks.rand(len(x), 1, 6, 6)
        logit, numbers = net(x + drawn)
        loss = masked_mean(focal_map(logit, mask), valid) + dice_loss(logit.sigmoid(), mask, valid)
        loss = loss + F.mse_loss(numbers, x.mean(dim=(2, 3)).repeat(1, 2)[:, :4])
        loss.backward()
        if count > 1:
            ranks.average(list(net.parameters()))
            loss = ranks.add(loss.detach().clone()) / count
    assert "forward" not in vars(net.norm)
    told = {f"gradient.{name}": parameter.grad for name, parameter in net.named_parameters()}
    told |= dict(net.named_buffers()) | {"loss": loss.detach()}
    return {name: value.numpy().copy() for name, value in told.items() if value is not None} | {"drawn": drawn.numpy()}


def in_a_process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    np.savez(f"{folder}/{rank}.npz", **learnt(rank, 2))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_parts_of_a_batch_teach_what_the_batch_teaches(tmp_path: Path) -> None:
    """Unequal masks, so that means of parts are not the mean; both batch norms; draws."""
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=in_a_process, args=(rank, str(tmp_path))) for rank in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    whole, parts = learnt(0, 1), [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate([part.pop("drawn") for part in parts]), whole.pop("drawn"))
    for name, value in whole.items():
        np.testing.assert_allclose(parts[0][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(parts[0][name], parts[1][name], err_msg=name)


def test_alone_a_batch_is_whole_and_batch_norm_is_torchs() -> None:
    net, x = Small(), torch.rand(4, 3, 6, 6)
    expected = net(x)[0]
    with ranks.cut_into(net, ranks.WHOLE):
        assert torch.equal(net(x)[0], expected)
        assert summed(x, x) == (x, x)


@pytest.fixture
def good(washers: Path) -> Any:
    request = Request(washers, Path("unused"), method="draem", size=64, settings=dataclasses.asdict(METHODS["draem"].tiny))
    plan = fitting.plan(request)
    return plan, fitting.load_pictures(plan)


@pytest.mark.parametrize("count", [2, 4])
def test_the_parts_of_a_batch_are_the_batch(good: Any, count: int) -> None:
    plan, pictures = good
    whole = fitting.batches(plan, pictures)(0, 3)
    parts = [fitting.batches(plan, pictures, part=ranks.Part(rank, count))(0, 3) for rank in range(count)]
    for name in whole._fields:
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_a_request_travels_as_json(washers: Path) -> None:
    request = Request(washers, Path("a/b"), roi=Path("auto"), holdout="x*", settings={"batch": 4, "use": "sum"}, devices=2)
    assert request_from(json.loads(json.dumps(request.as_dict()))) == request


# --- refusals


@pytest.mark.parametrize(
    ("asked", "batch", "method", "words"),
    [
        ((3, 1), 8, "draem", "--set batch=9, or a number of devices that divides 8"),
        ((0, 1), 8, "draem", "give 1 or more of both"),
        ((2, 1), 8, "padim", "method padim learns on one"),
    ],
)
def test_what_cannot_be_shared_is_refused(asked: tuple[int, int], batch: int, method: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        devices.check_devices(asked, "cpu", batch, method, SHARED)


def test_another_machine_must_know_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in devices.NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="set them on each machine: its number from 0 to 1"):
        devices.place_of(1, 2)
    for name, value in zip(devices.NAMES, ("2", "here", "1234"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="NODE_RANK, MASTER_ADDR, MASTER_PORT are 2, here, 1234"):
        devices.place_of(1, 2)
    monkeypatch.setenv("NODE_RANK", "1")
    place = devices.place_of(2, 2)
    assert place is not None
    assert dataclasses.replace(place, local=1).part == ranks.Part(3, 4)
    assert devices.place_of(1, 1) is None


def test_the_machines_roles_are_not_mixed_up(washers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(devices.NAMES, ("1", "here", "1234"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="machine 1 of the fit, and machine 0 writes"):
        fitting.run(Request(washers, tmp_path / "m", method="draem", nodes=2))
    with pytest.raises(ConfigError, match="first machine of the fit"):
        fitting.follow(Request(washers, tmp_path / "m", method="draem"))


# --- whole fits


def fitted(washers: Path, out: Path, method: str, **options: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """The losses of each step, and the model's tensors."""
    settings = dataclasses.asdict(METHODS[method].tiny) | {"precision": "32-true"}
    fitting.run(Request(washers, out, method=method, size=64, steps=STEPS, settings=settings, **options))
    history = json.loads((out / "config.json").read_text())["history"]
    return [row["losses"] for row in history], load_file(out / "model.safetensors")


def steps_alike(one: list[dict[str, float]], two: list[dict[str, float]], steps: int) -> None:
    """So many first steps of each stage have the same losses, to CLOSE."""
    assert len(one) == len(two) >= STEPS
    seen: dict[tuple[str, ...], int] = {}
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        seen[tuple(left)] = seen.get(tuple(left), 0) + 1
        if seen[tuple(left)] <= steps:
            np.testing.assert_allclose(list(right.values()), list(left.values()), **CLOSE)


class Keep(torch.optim.SGD):
    """Keeps each step's gradient of all parameters, and moves none of them."""

    def __init__(self, parameters: Any, kept: list[Tensor]) -> None:
        super().__init__(parameters, lr=0.0)
        self.kept = kept

    def step(self, closure: Any = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.kept.append(torch.cat([gradient.flatten() for gradient in gradients]))


# Of gradients. At the kinks of ReLUs and poolings and in batch norms of few values a change of the weights by 1e-7 moves the
# gradient of a tiny net by a hundredth, so DRAEM is compared in double precision; statistics have single precision alone.
ALIKE = {"isstad": (torch.float32, 1e-6), "draem": (torch.float64, 1e-5)}
KINKED = (torch.float32, 0.1)


def exact_loss(loss: Any, kind: torch.dtype, net: Any, batch: Batch) -> Any:
    """The loss of a batch in this precision."""
    return loss(net, Batch(*(x.to(kind) if x is not None and x.is_floating_point() else x for x in batch)))


def gradients(rank: int, count: int, method: str, washers: str, folder: str, port: int) -> None:
    """The losses and gradients of some batches for the net as it is after its looks at the good pictures, as files."""
    torch.set_num_threads(1)
    settings = dataclasses.asdict(METHODS[method].tiny) | {"precision": "32-true"}
    plan = fitting.plan(Request(Path(washers), Path("unused"), method=method, size=64, settings=settings))
    pictures, (net, _) = fitting.load_pictures(plan), fitting.new_net(plan)
    place = devices.Place(rank, count, 0, 1, "127.0.0.1", port) if count > 1 else None
    stages, kept, kind = list[Any](), list[Tensor](), ALIKE.get(method, KINKED)[0]
    net.to(kind)
    for stage in fitting.stages_of(plan, net, pictures):
        if isinstance(stage, Train):
            turns = [
                dataclasses.replace(turn, optimiser=partial(Keep, kept=kept), loss=partial(exact_loss, turn.loss, kind))
                for turn in stage.turns
            ]
            stages.append(dataclasses.replace(stage, turns=turns))
        else:
            stages.append(stage)
    history = engine.fit(
        net,
        stages,
        fitting.batches(plan, pictures, net, stages, place.part if place else ranks.WHOLE),
        engine.Budget(steps=2 * STEPS),
        engine.Run(device="cpu", precision="32-true", place=place),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
    )
    Path(f"{folder}/{count}-{rank}.json").write_text(json.dumps([row["losses"] for row in history]))
    save_file({str(step): gradient for step, gradient in enumerate(kept)}, f"{folder}/{count}-{rank}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", SHARED)
def test_two_processes_have_the_losses_and_gradients_of_one(method: str, washers: Path, tmp_path: Path) -> None:
    port, spawn = devices.find_free_network_port(), multiprocessing.get_context("spawn")
    both = [spawn.Process(target=gradients, args=(r, 2, method, str(washers), str(tmp_path), port)) for r in range(2)]
    for each in both:
        each.start()
    gradients(0, 1, method, str(washers), str(tmp_path), 0)
    for each in both:
        each.join()
    (one, two, other) = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert two == other
    steps_alike(one, two, 2 * STEPS)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    assert len(alone) == 2 * STEPS
    for step, gradient in alone.items():
        assert torch.equal(first[step], second[step])
        assert (first[step] - gradient).norm() < ALIKE.get(method, KINKED)[1] * gradient.norm(), step


@pytest.mark.slow
@pytest.mark.parametrize("method", SHARED)
def test_two_devices_learn_what_one_learns(method: str, washers: Path, tmp_path: Path) -> None:
    """The first losses of each stage are the same, and what was learnt by looking is the same to the bit.

    Adam takes steps of one size whatever the gradient's, so it makes rounding larger with every step.
    """
    one, alone = fitted(washers, tmp_path / "one", method)
    two, both = fitted(washers, tmp_path / "two", method, devices=2)
    steps_alike(one, two, 2)
    looked = [name for name in alone if name.startswith(("stats.", "mean", "deviation"))]
    assert bool(looked) == (method in ("auto", "guided"))
    for name in looked:
        assert torch.equal(alone[name], both[name]), name
    assert not (tmp_path / "two.fitting").exists()


@pytest.mark.slow
def test_two_machines_learn_what_one_learns(washers: Path, tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in dataclasses.asdict(METHODS["draem"].tiny).items()]
    command = [*OURS, "fit", str(washers), "-o", str(tmp_path / "two"), "--method", "draem", "--size", "64", "--nodes", "2"]
    command += ["--steps", str(STEPS), *(word for pair in settings for word in ("--set", pair))]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(devices.find_free_network_port())}
    machines = [
        subprocess.Popen(command, env=os.environ | told | {"NODE_RANK": str(node)}, stderr=subprocess.PIPE, text=True)
        for node in range(2)
    ]
    said = [machine.communicate()[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    one, _ = fitted(washers, tmp_path / "one", "draem")
    history = json.loads((tmp_path / "two" / "config.json").read_text())["history"]
    steps_alike(one, [row["losses"] for row in history], 2)


# --- faults


def helpers_of(process: int) -> list[psutil.Process]:
    return [
        each
        for each in psutil.Process(process).children(recursive=True)
        if "flawforge.fitting.helping" in " ".join(each.cmdline())
    ]


@pytest.mark.slow
def test_a_fit_that_lost_a_device_resumes_to_the_bits_of_one_that_did_not(washers: Path, tmp_path: Path) -> None:
    settings = dataclasses.asdict(METHODS["draem"].tiny)
    request = Request(washers, tmp_path / "m", method="draem", size=64, steps=12, settings=settings, devices=2)

    def lose(tick: Any) -> None:
        if tick.step == 5:
            (helper,) = helpers_of(os.getpid())
            helper.kill()

    often = dataclasses.replace(request, checkpoint_every=1e-9)
    with pytest.raises(TrainingError, match=r"Device 2 of 2 stopped, killed by SIGKILL; .* with --resume"):
        fitting.run(often, on_tick=lose)
    assert not request.out.exists()
    seen: list[int] = []
    fitting.run(request, resume=True, on_tick=lambda tick: seen.append(tick.step))
    assert seen[0] > 4
    whole = tmp_path / "whole"
    fitting.run(dataclasses.replace(request, out=whole))
    weights = [load_file(folder / "model.safetensors") for folder in (request.out, whole)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.fixture
def long_fit(washers: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The command on two devices, which has written a checkpoint and would go on for long."""
    out = tmp_path / "m"
    settings = [f"{key}={value}" for key, value in dataclasses.asdict(METHODS["draem"].tiny).items()]
    command = [*OURS, "fit", str(washers), "-o", str(out), "--method", "draem", "--size", "64", "--devices", "2"]
    command += ["--steps", "100000", "--checkpoint-every", "0.5", *(word for pair in settings for word in ("--set", pair))]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 240
    while not fitting.checkpoint_file(out).exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    yield running, out
    running.kill()
    running.communicate()


@pytest.mark.slow
def test_a_device_that_dies_ends_the_command_in_one_sentence(long_fit: tuple[subprocess.Popen[str], Path]) -> None:
    running, out = long_fit
    (helper,) = helpers_of(running.pid)
    helper.kill()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Device 2 of 2 stopped, killed by SIGKILL; nothing but the checkpoint is left" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not out.exists()
    assert [path.name for path in fitting.work_folder(out).iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.slow
def test_ctrl_c_stops_all_devices_and_leaves_a_checkpoint(long_fit: tuple[subprocess.Popen[str], Path]) -> None:
    running, out = long_fit
    (helper,) = helpers_of(running.pid)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert said.splitlines()[-1].endswith("run the same command with --resume.")
    assert fitting.checkpoint_file(out).is_file()
    helper.wait(timeout=30)  # raises where it still runs


@pytest.mark.slow
def test_the_other_devices_end_with_the_first(long_fit: tuple[subprocess.Popen[str], Path]) -> None:
    running, _ = long_fit
    (helper,) = helpers_of(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    helper.wait(timeout=30)  # raises where it still runs


def test_a_device_that_cannot_plan_says_why(tmp_path: Path) -> None:
    place = devices.place_of(2, 1)
    task = {"request": Request(tmp_path / "none", tmp_path / "m", devices=2).as_dict(), "resume": False}
    with (
        pytest.raises(TrainingError, match=r"Device 2 of 2 stopped: .*none.*; do this\."),
        devices.helped(place, task, lambda: "do this"),
    ):
        raise AssertionError("it says that it is ready")
