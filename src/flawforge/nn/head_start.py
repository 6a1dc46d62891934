"""Pretrained weights that ship with flawforge: trained on procedurally drawn products, without any photograph.

The recipe is stored beside the weights (`weights/guided.json`: seeds, steps, sha256); tools/head_start.py made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from safetensors.torch import load
from torch import nn

from flawforge_runtime.types import ModelError


def recipe() -> dict[str, Any]:
    """How the shipped weights were made."""
    return dict(json.loads(resources.files("flawforge").joinpath("weights/guided.json").read_text()))


def head_start(net: nn.Module, form: Mapping[str, Any]) -> None:
    """Load the shipped weights into `net` where they were trained with the settings `form`, by name; else do nothing."""
    settings = recipe()
    if settings["form"] != json.loads(json.dumps(dict(form))):
        return
    data = resources.files("flawforge").joinpath("weights/guided.safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != settings["sha256"]:
        raise ModelError("The weights that ship with flawforge are damaged; install flawforge again.")
    net.load_state_dict({name: tensor.float() for name, tensor in load(data).items()}, strict=False)
