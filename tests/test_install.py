"""README's install commands, in an environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def commands() -> list[str]:
    """The indented lines of README's section on installing."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Install\n")[1].split("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith("    ")]


def checkout(folder: Path) -> Path:
    """The files that git tracks, as a checkout has them."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_readme_prints_one_way_to_install() -> None:
    assert commands() == ["pip install ./runtime ."]


@pytest.mark.timeout(1800)  # it downloads torch
def test_the_install_commands_in_a_clean_environment(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    """Asked for by FLAWFORGE_CLEAN_VENV=1, for it needs pip's index. torch comes first, as README advises without a GPU."""
    if not os.environ.get("FLAWFORGE_CLEAN_VENV"):
        pytest.skip("FLAWFORGE_CLEAN_VENV is not set: the test installs from pip's index")
    source = checkout(tmp_path / "checkout")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, capture_output=True)
    programs = tmp_path / "venv" / "bin"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"

    def run(command: str, where: Path) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=where, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(f"pip install --quiet torch=={torch.__version__.partition('+')[0]}", source)
    for command in commands():
        run(command, source)
    shutil.rmtree(source)  # what is installed must not need the checkout
    where = run("python -c 'import flawforge, flawforge_runtime as f; print(flawforge.__file__, f.__file__)'", tmp_path)
    assert all(path.startswith(str(tmp_path / "venv")) for path in where.split())
    picture = min((washers / "test" / "scratch").iterdir())
    assert "scratch" in run(f"flawforge inspect '{tiny_model}' '{picture}'", tmp_path)
    assert run("flawforge --version", tmp_path).strip()
