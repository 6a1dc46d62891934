"""What this machine has, for a bug report and for a first run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from flawforge import __version__

PARTS = ("torch", "lightning-fabric", "numpy", "opencv-python-headless", "pillow", "safetensors", "scikit-learn", "scipy")
LEAST_MEMORY, LEAST_DISK = 2 << 30, 1 << 30


@dataclass(frozen=True)
class Health:
    """What a machine has.

    parts    version by package; "" = missing
    memory, disk  free, in bytes
    speed    of training, in words; "" = not measured
    """

    system: str
    parts: Mapping[str, str]
    memory: int
    disk: int
    processor: str
    speed: str = ""

    @property
    def healthy(self) -> bool:
        """Nothing is missing, and memory and disk are enough for a fit."""
        return all(self.parts.values()) and self.memory >= LEAST_MEMORY and self.disk >= LEAST_DISK

    def lines(self) -> list[str]:
        """For people."""
        lines = [self.system]
        lines += [f"  {part:<24}{version or f'missing: pip install {part}'}" for part, version in self.parts.items()]
        for name, have, least in (("memory free", self.memory, LEAST_MEMORY), ("disk free", self.disk, LEAST_DISK)):
            few = "" if have >= least else f", a fit needs {least / 2**30:.0f}"
            lines.append(f"  {name:<24}{have / 2**30:.1f} GiB{few}")
        lines.append(f"  {'processor':<24}{self.processor}")
        if self.speed:
            lines.append(f"  {'training speed':<24}{self.speed}")
        return [*lines, "ready" if self.healthy else "not ready: see the lines above"]

    def as_dict(self) -> dict[str, Any]:
        """What `flawforge doctor --json` writes."""
        return asdict(self) | {"healthy": self.healthy}


def examine(speed: bool = False) -> Health:
    """Look at this machine. speed: import torch and time it too."""
    return Health(
        system=f"flawforge {__version__}, Python {platform.python_version()}, {platform.platform()}",
        parts={part: _version(part) for part in PARTS},
        memory=int(psutil.virtual_memory().available),
        disk=shutil.disk_usage(Path.cwd()).free,
        processor=f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        speed=_speed() if speed else "",
    )


def _version(part: str) -> str:
    try:
        return importlib.metadata.version(part)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _speed() -> str:
    """Time one 3 x 3 convolution, forward and back, in float32 and bfloat16: the latter should win where it is native."""
    import torch

    seconds = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(kind)
        picture = torch.zeros(8, 32, 128, 128, dtype=kind).contiguous(memory_format=torch.channels_last)
        layer(picture).sum().backward()
        start = time.perf_counter()
        for _ in range(3):
            layer(picture).sum().backward()
        seconds[name] = (time.perf_counter() - start) / 3
    device = "CUDA found" if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"{device}; bfloat16 is {seconds['float32'] / seconds['bfloat16']:.1f} times as fast as float32 on one layer"
