"""The Ray cluster that a command works on: start one on this machine, or join one; what its nodes have and can do."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from flawforge.types import ConfigError
from flawforge_runtime.backends import cores

LOCAL = "local"
WAIT = 60.0  # seconds for a node to answer


def need(package: str = "ray") -> Any:
    """A package of the extra `scale`. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"--ray needs the package {package.split('.')[0]}, which is not installed ({error}); pip install "
            "'flawforge[scale]', or leave out --ray."
        ) from None


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """The module ray, connected to a cluster; a connection that this process has already is used and left as it is.

    address  "local": a cluster on this machine alone, which ends with the block; else the address of one that runs, such as
             "auto" or "10.0.0.1:6379"
    Raises ConfigError where no cluster answers, or Ray is not installed.
    """
    # Ray would report its use to its makers: no command of ours needs a network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Older Ray hides GPUs from tasks that ask for none, and says on every start that it will not do so any more.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = need()
    if ray.is_initialized():
        yield ray
        return
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, num_cpus=cores(), include_dashboard=False, **how)
        else:
            ray.init(address=address, **how)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise ConfigError(
            f"No Ray cluster answers at {address} ({reason}); give --ray local, or the address that `ray start --head` gave."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. cpus: cores that Ray may use; memory: bytes that Ray may use."""

    name: str
    number: str
    cpus: float
    memory: float

    def slots(self, cpus: int, memory: int) -> int:
        """How many processes of so many cores and bytes fit."""
        return int(min(self.cpus // cpus, self.memory // max(memory, 1)))


def nodes(ray: Any) -> list[Node]:
    """The machines that are alive."""
    found = []
    for each in ray.nodes():
        if each["Alive"]:
            has = each["Resources"]
            found.append(Node(each["NodeManagerHostname"], each["NodeID"], has.get("CPU", 0.0), has.get("memory", 0.0)))
    return found


def slots(all_nodes: Sequence[Node], cpus: int, memory: int) -> int:
    """How many processes of so many cores and bytes the cluster runs at a time. Raises ConfigError where none fits."""
    count = sum(node.slots(cpus, memory) for node in all_nodes)
    if not count:
        largest = max(all_nodes, key=lambda node: (node.memory, node.cpus))
        raise ConfigError(
            f"A worker needs {cpus} core{'s' * (cpus > 1)} and {memory / 2**30:.1f} GiB, and the largest node has "
            f"{largest.cpus:g} and {largest.memory / 2**30:.1f} GiB; add a node, or give fewer --threads."
        )
    return count


def check_nodes(
    ray: Any, all_nodes: Sequence[Node], modules: Sequence[str], packages: Sequence[str], shared: str = ""
) -> None:
    """Refuse, before anything is judged, a cluster whose nodes would not judge as this machine does.

    modules   that every node must import; packages: whose versions must be those of this machine
    shared    a file that every node must see; "" = none
    Raises ConfigError, naming the node.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = ray.remote(_look)
    answers = [
        asked.options(
            num_cpus=0, max_retries=1, scheduling_strategy=NodeAffinitySchedulingStrategy(node.number, soft=False)
        ).remote(modules, packages, shared)
        for node in all_nodes
    ]
    own = _versions(packages)
    for node, answer in zip(all_nodes, answers, strict=True):
        try:
            theirs, sees = ray.get(answer, timeout=WAIT)
        except Exception as error:  # the node is gone, or has no flawforge: Ray has a class for each
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
            raise ConfigError(
                f"Node {node.name} cannot work for flawforge ({reason}); install flawforge[scale] there, or remove the node."
            ) from None
        if theirs != own:
            differ = ", ".join(
                f"{name} {theirs[name] or 'missing'} instead of {own[name]}" for name in own if theirs[name] != own[name]
            )
            raise ConfigError(f"Node {node.name} has other packages than this machine ({differ}); install the same there.")
        if not sees:
            raise ConfigError(
                f"Node {node.name} does not see {shared}; put the pictures on a disk that all nodes share, or in an object "
                "store, and give its address, such as s3://BUCKET/FOLDER."
            )


def _look(modules: Sequence[str], packages: Sequence[str], shared: str) -> tuple[dict[str, str], bool]:
    """On a node: the versions that are installed there, and whether a file can be seen."""
    for name in modules:
        importlib.import_module(name)
    return _versions(packages), not shared or os.path.lexists(Path(shared))


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found
