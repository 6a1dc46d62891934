"""The devices that a fit learns on: where this process stands among them, and the other processes of its machine.

The process that is asked to fit is the first of its machine. It starts one more for each further device, which reads the
same pictures (`fitting.helping`), says "ready" and then learns along: Fabric joins all of them, `nn.ranks` cuts each batch
into their parts. Only the first process of all writes. One that stops ends the fit: the others notice at their next sum.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

from flawforge.config import torch_device
from flawforge.nn.ranks import GONE, Part, Parted
from flawforge.types import ConfigError, TrainingError

READY = "ready"
NAMES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # as torchrun and Fabric name them
WAIT = timedelta(days=1)  # for a node that starts late, and while the first process calibrates
GRACE = 10.0  # seconds in which a process that ended the fit is found


@dataclass(frozen=True)
class Place:
    """Where a process stands: device `local` of `devices` on machine `node` of `nodes`, all counted from 0.

    address, port  where the first process of all listens
    """

    local: int
    devices: int
    node: int
    nodes: int
    address: str
    port: int

    @property
    def part(self) -> Part:
        """Which part of each batch it holds."""
        return Part(self.node * self.devices + self.local, self.nodes * self.devices)


def place_of(devices: int, nodes: int) -> Place | None:
    """The place of the process that was asked to fit on this number of devices and machines; None = it is alone.

    Raises ConfigError where the environment does not say which of several machines this is.
    """
    if devices * nodes == 1:
        return None
    if nodes == 1:
        return Place(0, devices, 0, 1, "127.0.0.1", find_free_network_port())
    node, address, port = (os.environ.get(name, "") for name in NAMES)
    if not (node.isdigit() and int(node) < nodes and address and port.isdigit()):
        raise ConfigError(
            f"--nodes {nodes} was given, and {', '.join(NAMES)} are {node or 'unset'}, {address or 'unset'}, "
            f"{port or 'unset'}; set them on each machine: its number from 0 to {nodes - 1}, and address and free port of "
            "machine 0."
        )
    return Place(0, devices, int(node), nodes, address, int(port))


def check_devices(asked: tuple[int, int], device: str, batch: int, method: str, able: Sequence[str]) -> None:
    """ConfigError where a fit cannot be shared by this number of devices and machines.

    batch  pictures of a step; able: the methods that learn on several devices
    """
    devices, nodes = asked
    count = devices * nodes
    if devices < 1 or nodes < 1:
        raise ConfigError(f"{devices} devices of {nodes} machines were given; give 1 or more of both.")
    if count > 1 and method not in able:
        raise ConfigError(
            f"{count} devices were given, and method {method} learns on one; leave out --devices and --nodes, or use a "
            f"method that learns on several ({', '.join(able)})."
        )
    if batch % count:
        raise ConfigError(
            f"{count} devices were given, and a batch of {batch} pictures cannot be cut into as many equal parts; give "
            f"--set batch={batch + -batch % count}, or a number of devices that divides {batch}."
        )
    if devices > 1 and torch_device(device) == "cuda" and torch.cuda.device_count() < devices:
        raise ConfigError(
            f"--devices {devices} was given, and this machine has {torch.cuda.device_count()} GPUs; give as many at most, "
            "or --device cpu."
        )


def lines(count: int) -> list[str]:
    """Notes for people about a fit on several devices; none for one."""
    if count == 1:
        return []
    return [f"learnt on {count} devices, each with all good pictures in memory; on another number the last digits differ"]


@contextmanager
def fair_threads(devices: int) -> Iterator[None]:
    """Inside, this process computes with its share of the threads, where so many processes compute on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // devices))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Environment(ClusterEnvironment):
    """A `Place`, as Fabric asks for it."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    creates_processes_externally = property(lambda self: True)
    main_address = property(lambda self: self.place.address)
    main_port = property(lambda self: self.place.port)

    @staticmethod
    def detect() -> bool:
        """Never by itself."""
        return False

    def world_size(self) -> int:
        """All processes."""
        return int(self.place.part.count)

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Among all processes."""
        return int(self.place.part.rank)

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Among those of this machine."""
        return int(self.place.local)

    def node_rank(self) -> int:
        """Of this machine."""
        return int(self.place.node)


class _Together(DDPStrategy):
    """Fabric's process group without DDP's wrapper: `nn.ranks` averages the gradients of each turn, which may be those of a
    part of the net alone, and sums what batch norm and losses need."""

    def setup_module(self, module: Any) -> Any:
        """As it is."""
        return module

    def _configure_launcher(self) -> None:
        """Nothing: the processes run already."""


@contextmanager
def joined(place: Place | None, device: str, precision: str) -> Iterator[Fabric]:
    """Fabric over all processes, which join each other here and part at the end; of one device where place is None."""
    accelerator = torch_device(device)
    if place is None:
        yield Fabric(accelerator=accelerator, devices=1, precision=precision)
        return
    before = {name: os.environ.get(name) for name in (*NAMES, "GLOO_SOCKET_IFNAME")}
    if place.nodes == 1 and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever address this machine's name stands for
    together = _Together(cluster_environment=_Environment(place), timeout=WAIT)
    fabric = Fabric(
        accelerator=accelerator, devices=place.devices, num_nodes=place.nodes, strategy=together, precision=precision
    )
    try:
        try:
            fabric.launch()
        except RuntimeError as error:
            raise Parted(f"{GONE} or cannot be reached ({' '.join(str(error).split())[:200]}).") from error
        yield fabric
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@dataclass(frozen=True)
class _Helper:
    place: Place
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # what it wrote to standard error

    def why(self) -> str:
        """Why it stopped, in words; "" where it runs, has done its work, or stopped because of another."""
        code = self.process.poll()
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        if not code or (lines and lines[-1].startswith(GONE)):
            return ""
        part = self.place.part
        name = f"Device {part.rank + 1} of {part.count} stopped"
        if code < 0:
            return f"{name}, killed by {signal.Signals(-code).name}"
        return f"{name}: {lines[-1] if lines else f'exit code {code}'}".rstrip(".")


@contextmanager
def helped(place: Place | None, task: Mapping[str, Any], advice: Callable[[], str]) -> Iterator[None]:
    """The other processes of this machine, each with the task (JSON-able) and its place; they are gone afterwards.

    advice  what to do where one stopped, without the last full stop
    Raises TrainingError where one of them, or one on another machine, stopped.
    """
    if place is None:
        yield
        return
    helpers: list[_Helper] = []
    with fair_threads(place.devices), _ended(helpers, advice):
        for local in range(1, place.devices):
            helpers.append(_start(dataclasses.replace(place, local=local), task))
        for each in helpers:
            assert each.process.stdout is not None, "it is a pipe"
            if each.process.stdout.readline().decode().strip() != READY:
                each.process.wait()
                raise Parted(f"{GONE}.")
        yield


@contextmanager
def _ended(helpers: Sequence[_Helper], advice: Callable[[], str]) -> Iterator[None]:
    """Ends the helpers, and says which of them ended the fit."""
    try:
        yield
    except Parted as error:
        raise TrainingError(f"{_why(helpers) or str(error).rstrip('.')}; {advice()}.") from error
    finally:
        for each in helpers:
            _stop(each)


def _start(place: Place, task: Mapping[str, Any]) -> _Helper:
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "flawforge.fitting.helping"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        start_new_session=True,  # Ctrl-C is for the first process, which tells the others
    )
    assert process.stdin is not None, "it is a pipe"
    with suppress(BrokenPipeError):  # it is dead already, which is seen when it does not say that it is ready
        process.stdin.write(json.dumps({"place": dataclasses.asdict(place), **task}).encode() + b"\n")
        process.stdin.flush()
    return _Helper(place, process, said)


def _stop(helper: _Helper) -> None:
    process = helper.process
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, helper.said):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _why(helpers: Sequence[_Helper]) -> str:
    """Which of them ended the fit, and why, in words; "" where it was none of them."""
    end = time.monotonic() + GRACE
    while helpers and time.monotonic() < end:
        for each in helpers:
            if reason := each.why():
                return reason
        if all(each.process.poll() is not None for each in helpers):
            break
        time.sleep(0.1)
    return ""
