"""What several tests share: a tiny data set, a tiny trained model, and the way to real pictures."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path

import pytest

# The nets in tests are tiny: a second thread only waits for the first, and for the other test processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with Ctrl-C ignored, and their children inherit it: then no test could interrupt one.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

from flawforge.demo.washers import write_demo_parts


@pytest.fixture(scope="session")
def washers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in MVTec layout at 64 x 64: 24 train/good, 6 test/good, 2 of each kind of defect. Read only."""
    return write_demo_parts(tmp_path_factory.mktemp("washers") / "parts", good=24, test_good=6, per_kind=2, size=64)


@pytest.fixture(scope="session")
def tiny_model(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that four steps on `washers` made: every part is there, nothing is learnt. Copy it to change it."""
    from flawforge import fitting
    from flawforge.methods import METHODS

    out = tmp_path_factory.mktemp("models") / "tiny"
    settings = dataclasses.asdict(METHODS["draem"].tiny)
    fitting.run(fitting.Request(data=washers, out=out, method="draem", steps=4, size=64, settings=settings))
    return out


@pytest.fixture(scope="session")
def exports(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model for both backends. Read only."""
    from flawforge.judging.export import export

    folder = tmp_path_factory.mktemp("exports")
    for to in ("onnx", "openvino"):
        export(tiny_model, folder / to, to)
    return {to: folder / to for to in ("onnx", "openvino")}


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets, from FLAWFORGE_DATA; the test is skipped where there is none."""
    folder = os.environ.get("FLAWFORGE_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FLAWFORGE_DATA names no folder of real pictures")
    return Path(folder)
