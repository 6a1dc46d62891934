"""The checkpoint of a fit: net, optimisers and where it stands, as one safetensors file without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from flawforge.types import TrainingError

CHECKPOINT_FORMAT = 1


@dataclass
class State:
    """Where a run stands; all of it is in the checkpoint."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    looked: float = 0.0  # seconds that Collect stages took: they count against a budget in minutes


def weights(net: nn.Module) -> bytes:
    """The net's tensors in safetensors form."""
    return tensors_to_bytes({key: _plain(value) for key, value in net.state_dict().items()})


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def pack(net: nn.Module, optimisers: Sequence[torch.optim.Optimizer], state: State, identity: str) -> bytes:
    """Net, optimisers and state as one safetensors file; no pickle, so a checkpoint from elsewhere cannot run code."""
    tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
    groups = []
    for number, optimiser in enumerate(optimisers):
        saved = optimiser.state_dict()
        groups.append(saved["param_groups"])
        for parameter, slots in saved["state"].items():
            tensors |= {f"optimiser.{number}.{parameter}.{slot}": torch.as_tensor(v) for slot, v in slots.items()}
    about = {
        "format": CHECKPOINT_FORMAT,
        "identity": identity,
        "threads": torch.get_num_threads(),
        "stage": state.stage,
        "step": state.step,
        "seconds": state.seconds,
        "history": state.history,
        "looked": state.looked,
        "groups": groups,
    }
    plain = {key: _plain(value) for key, value in tensors.items()}
    return tensors_to_bytes(plain, metadata={"flawforge": json.dumps(about)})


def _unpack(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["flawforge"])
            return about, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be read ({error}); delete its folder and fit again without --resume."
        ) from error


def history_of(checkpoint: Path) -> list[dict[str, Any]]:
    """The history that a checkpoint holds, as `fit` returns it. Raises TrainingError where it cannot be read."""
    history: list[dict[str, Any]] = _unpack(checkpoint)[0]["history"]
    return history


def restore(path: Path, identity: str) -> tuple[State, dict[str, Tensor], list[Any]]:
    about, tensors = _unpack(path)
    if about["format"] != CHECKPOINT_FORMAT or about["identity"] != identity:
        raise TrainingError(
            f"The checkpoint {path} belongs to a run with other data or settings; give the settings it was started with, "
            "or delete its folder and fit again without --resume."
        )
    state = State(about["stage"], about["step"], about["seconds"], about["history"], about["looked"])
    return state, tensors, about["groups"]


def restore_optimisers(optimisers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor], groups: list[Any]) -> None:
    for number, optimiser in enumerate(optimisers):
        slots: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimiser.{number}."
        for key, value in tensors.items():
            if key.startswith(prefix):
                parameter, slot = key[len(prefix) :].split(".")
                slots.setdefault(int(parameter), {})[slot] = value
        optimiser.load_state_dict({"state": slots, "param_groups": groups[number]})
