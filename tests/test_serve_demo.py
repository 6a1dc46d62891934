"""`make serve-demo`: it serves the demo's model, brings parts, and ends with its service."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flawforge.store import verdicts
from flawforge.store.opening import open_store

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "serve_demo.py"


@pytest.mark.line
def test_parts_are_brought_judged_and_recorded(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    shutil.copytree(exports["onnx"], tmp_path / "model")
    (tmp_path / "parts").symlink_to(washers)
    command = [sys.executable, str(SCRIPT), "--demo", str(tmp_path), "--port", "0", "--every", "1", "--parts", "8"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert "http://127.0.0.1:" in ended.stdout + ended.stderr
    with open_store(tmp_path / "line" / "results.db") as store:
        found = verdicts.listed(store).verdicts
    assert found
    assert {(each.source, each.station, each.model) for each in found} == {("watch", "washer line", "washer")}
    assert found[-1].picture == "part-0001.png"


def test_a_line_whose_service_has_ended_brings_no_more(washers: Path, tmp_path: Path) -> None:
    bring = runpy.run_path(str(SCRIPT))["bring"]
    with subprocess.Popen([sys.executable, "-c", ""]) as service:
        service.wait()
        bring(washers / "test", tmp_path, 0.01, 5, service)
    assert [path.name for path in tmp_path.iterdir()] == ["part-0001.png"]
