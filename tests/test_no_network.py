"""A plant has no internet: a fit works in a network namespace that holds nothing; test_docs.py runs the quick start so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ["unshare", "--map-root-user", "--net"]


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not may_unshare(), reason="unshare is missing, or may not make a network namespace here")


def alone(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ALONE, sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_namespace_is_cut_off(tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    done = alone("-c", "import socket; socket.create_connection(('127.0.0.1', 9), timeout=5)", cwd=tmp_path)
    assert "Network is unreachable" in done.stderr


def test_fit_without_network(tmp_path: Path, washers: Path) -> None:
    done = alone(
        "-m",
        "flawforge",
        "fit",
        str(washers),
        "-o",
        "model",
        "--method",
        "draem",
        "--steps",
        "2",
        "--size",
        "64",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "manifest.json").is_file()
