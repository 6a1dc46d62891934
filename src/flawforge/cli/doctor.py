"""What this machine has, for a bug report and for a first run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from pathlib import Path

import psutil

from flawforge import __version__

PARTS = ("torch", "lightning-fabric", "numpy", "opencv-python-headless", "pillow", "safetensors", "scikit-learn", "scipy")
LEAST_MEMORY, LEAST_DISK = 2 << 30, 1 << 30


def examine() -> tuple[bool, list[str]]:
    """(healthy, lines for people). Unhealthy: a part is missing, or memory or disk is below what a fit needs."""
    healthy = True
    lines = [f"flawforge {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    for part in PARTS:
        try:
            lines.append(f"  {part:<24}{importlib.metadata.version(part)}")
        except importlib.metadata.PackageNotFoundError:
            healthy = False
            lines.append(f"  {part:<24}missing: pip install {part}")
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(Path.cwd()).free
    for name, have, least in (("memory free", memory, LEAST_MEMORY), ("disk free", disk, LEAST_DISK)):
        enough = have >= least
        healthy &= enough
        lines.append(f"  {name:<24}{have / 2**30:.1f} GiB{'' if enough else f', a fit needs {least / 2**30:.0f}'}")
    lines.append(f"  {'processor':<24}{os.cpu_count()} cores, {platform.processor() or platform.machine()}")
    lines.append(f"  {'training speed':<24}{_speed()}")
    lines.append("ready" if healthy else "not ready: see the lines above")
    return healthy, lines


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
