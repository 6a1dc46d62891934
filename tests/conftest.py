"""What several tests share: a tiny data set, a tiny trained model, and the way to real pictures."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The nets in tests are tiny: a second thread only waits for the first, and for the other test processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with Ctrl-C ignored, and their children inherit it: then no test could interrupt one.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

import databases
from flawforge.demo.washers import write_demo_parts


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once for all test processes of a run; those that come meanwhile wait."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def washers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in MVTec layout at 64 x 64: 24 train/good, 6 test/good, 2 of each kind of defect. Read only."""
    return made_once(tmp_path_factory, "parts", lambda out: write_demo_parts(out, good=24, test_good=6, per_kind=2, size=64))


@pytest.fixture(scope="session")
def tiny_model(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that twenty steps on `washers` made: every part is there, its scores differ. Copy it to change it."""
    from flawforge import fitting
    from flawforge.methods import METHODS

    told = {"method": "draem", "steps": 20, "size": 64, "settings": dataclasses.asdict(METHODS["draem"].tiny)}
    return made_once(tmp_path_factory, "tiny", lambda out: fitting.run(fitting.Request(data=washers, out=out, **told)))


@pytest.fixture(scope="session")
def exports(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model for both backends. Read only."""
    from flawforge.judging.export import export

    backends = ("onnx", "openvino")
    folder = made_once(tmp_path_factory, "exports", lambda out: [export(tiny_model, out / to, to) for to in backends])
    return {to: folder / to for to in backends}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[databases.Server]:
    """A real PostgreSQL; the test is skipped where there can be none."""
    if why := databases.why_not():
        pytest.skip(why)
    with databases.postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.line)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new result store can be made: a file, and a database of PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "results.db")
    server: databases.Server = request.getfixturevalue("postgresql")
    return server.url()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets, from FLAWFORGE_DATA; the test is skipped where there is none."""
    folder = os.environ.get("FLAWFORGE_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FLAWFORGE_DATA names no folder of real pictures")
    return Path(folder)


EXPORTING = ("test_its_exports_judge_as_it_does[", "test_a_model_holds_its_trunk_and_judges_alike_everywhere[")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An export takes ten seconds, so those of the methods are slow tests; tests/test_export.py has one in every run."""
    for item in items:
        if item.name.startswith(EXPORTING):
            item.add_marker(pytest.mark.slow)
