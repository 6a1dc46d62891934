"""An Inspector in the world: shown, copied, sent to another process, forked."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawforge as ff
import flawforge_runtime
from flawforge.methods import METHODS
from flawforge.types import ModelError, ScoreRule
from flawforge_runtime.backends import cores
from flawforge_runtime.inspector import Inspector

BACKENDS = ("torch", "onnx", "openvino")


@pytest.fixture
def folders(tiny_model: Path, exports: dict[str, Path]) -> dict[str, Path]:
    return {"torch": tiny_model, **exports}


@pytest.fixture
def picture(washers: Path) -> str:
    return str(min((washers / "test" / "scratch").iterdir()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_shown_in_one_line(folders: dict[str, Path], picture: str, backend: str) -> None:
    inspector = ff.load(folders[backend])
    limit = inspector.calibration
    assert limit is not None
    shown = repr(inspector)
    assert len(shown) < 200
    assert "\n" not in shown
    for word in ("draem", repr(folders[backend].name), "64 x 64", f"NG above {limit.threshold:.6g}"):
        assert word in shown
    assert "no thresholds" in repr(replace(inspector, calibration=None))
    decision = inspector(picture)
    assert decision.image_path in repr(decision)
    assert decision.verdict in repr(decision)
    assert f"{decision.pred_score:.6g}" in repr(decision)
    assert "not like any" in repr(replace(decision, valid=False))
    assert max(len(repr(decision)), len(repr(inspector.content))) < 200 + len(picture)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pickled_as_its_folder(folders: dict[str, Path], picture: str, backend: str) -> None:
    inspector = ff.load(folders[backend], backend=backend)
    sent = pickle.dumps(inspector)
    assert len(sent) < 40_000
    arrived = pickle.loads(sent)
    own, other = inspector(picture), arrived(picture)
    assert (own.pred_score, own.verdict, own.p_value) == (other.pred_score, other.verdict, other.p_value)
    np.testing.assert_array_equal(own.anomaly_map, other.anomaly_map)
    assert pickle.loads(pickle.dumps(arrived)).calibration == inspector.calibration


def test_what_was_replaced_is_sent_too(tiny_model: Path, tmp_path: Path, picture: str) -> None:
    inspector = ff.load(tiny_model)
    assert inspector.calibration is not None
    limit = inspector(picture).pred_score
    moved = inspector.with_calibration(inspector.calibration.moved(threshold=limit - 1e-6))
    moved = replace(moved, max_pixels=12345, roi=np.ones((64, 64), bool), progress=lambda done, rows: None)
    arrived = pickle.loads(pickle.dumps(moved))
    assert arrived.calibration == moved.calibration
    assert arrived(picture).verdict == "NG"
    assert (arrived.max_pixels, arrived.progress) == (12345, None)
    np.testing.assert_array_equal(arrived.roi, moved.roi)
    assert ff.load(arrived.save(tmp_path / "saved")).calibration == moved.calibration
    assert pickle.loads(pickle.dumps(inspector)).calibration == inspector.calibration
    other = inspector.with_calibration(inspector.calibration.moved(threshold=limit + 1))
    assert pickle.loads(pickle.dumps(other)).calibration == other.calibration


def test_verified_on_arrival(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    sent = pickle.dumps(ff.load(folder))
    pickle.loads(sent)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="there is no such folder"):
        pickle.loads(sent)
    inspector = ff.load(tiny_model)
    assert inspector.content is not None
    config = {**inspector.content.config, "seed": 77}
    replace(inspector, content=replace(inspector.content, config=config)).save(folder)
    with pytest.raises(ModelError, match=r"holds another model .* than the inspector that was sent") as caught:
        pickle.loads(sent)
    assert "\n" not in str(caught.value)
    shutil.rmtree(folder)
    content = replace(inspector.content, roi=np.eye(64, dtype=bool))
    replace(inspector, content=content).save(folder)
    with pytest.raises(ModelError, match="holds another model"):
        pickle.loads(sent)


def test_thresholds_that_were_calibrated_anew_do_not_reach_an_inspector_on_its_way(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    inspector = ff.load(folder)
    assert inspector.calibration is not None
    sent = pickle.dumps(inspector)
    shutil.rmtree(folder)
    inspector.with_calibration(inspector.calibration.moved(threshold=0.25)).save(folder)
    assert pickle.loads(sent).calibration == inspector.calibration != ff.load(folder).calibration


def test_what_no_folder_holds_says_how_to_load(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"method": "draem", "steps": 1, "size": 64, "settings": vars(METHODS["draem"].tiny)}
    loaded = ff.load(tiny_model)
    for unsaved in (
        ff.fit(washers, **tiny),
        replace(loaded, network=lambda batch: loaded.network(batch)),
        Inspector(loaded.network, (64, 64), ScoreRule()),
    ):
        with pytest.raises(ModelError, match=r"call load\(FOLDER\) in the worker") as caught:
            pickle.dumps(unsaved)
        assert "\n" not in str(caught.value)
        assert copy.deepcopy(unsaved).network is copy.copy(unsaved).network is unsaved.network
    fitted = ff.fit(washers, out=tmp_path / "m", **tiny)
    assert pickle.loads(pickle.dumps(fitted)).calibration == fitted.calibration


def run(code: str, *arguments: object) -> str:
    """What a program prints. Two threads, since one alone never waits for another."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": str(min(2, cores()))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


POOL = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import flawforge_runtime
if __name__ == "__main__":
    inspector = flawforge_runtime.load(sys.argv[1], threads=1)
    own = inspector(sys.argv[2])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for there in pool.map(inspector, [sys.argv[2]] * 2):
            assert (there.pred_score, there.verdict) == (own.pred_score, own.verdict)
    print("same")
"""


def test_a_process_pool_judges_alike(exports: dict[str, Path], picture: str, tmp_path: Path) -> None:
    program = tmp_path / "pool.py"
    program.write_text(POOL)
    code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    assert run(code, program, exports["onnx"], picture) == "same\n"


FORK = """
import os, sys, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
import flawforge as ff
from flawforge_runtime.backends import cores
folder, picture, threads = sys.argv[1], sys.argv[2], min(2, cores())
inspector = ff.load(folder, threads=threads)
own = inspector(picture)

def use():
    assert inspector(picture).pred_score == own.pred_score or abs(inspector(picture).pred_score - own.pred_score) < 1e-5

def use_another():
    global inspector
    inspector = ff.load(folder, threads=threads)
    use()

def leave():
    pass

def in_grandchild():
    use()
    wait(os.fork(), use)

def wait(child, work):
    if child == 0:
        work()
        sys.exit(0)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, (work, status)
            return
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise SystemExit(f"{work.__name__}: the child hangs")

for work in (use, use_another, leave, in_grandchild):
    wait(os.fork(), work)
assert inspector(picture).pred_score == own.pred_score
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), *BACKENDS[1:]])
def test_a_forked_child_judges_and_ends(folders: dict[str, Path], picture: str, backend: str) -> None:
    """With the parent's inspector, with one of its own, with none; and at its end no thread is waited for."""
    assert run(FORK, folders[backend], picture) == "done\n"


SIGNAL = """
import os, signal, sys, threading
import flawforge_runtime
open_models = [flawforge_runtime.load(sys.argv[1], threads=1)]

def again():
    open_models.append(flawforge_runtime.load(sys.argv[1], threads=1))
    open_models.pop(0)

again()  # as a service that opens its models anew
thread = threading.Thread(target=again)
thread.start()
thread.join()
open_models.clear()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_signals_arrive_after_models_were_closed(folders: dict[str, Path], backend: str) -> None:
    """OpenVINO gave the main thread a stack for signals and freed it with the model: the next Ctrl-C ended the process."""
    assert run(SIGNAL, folders[backend]) == "interrupted\n"


def test_onnx_runtime_reports_to_nobody(exports: dict[str, Path]) -> None:
    code = """
import os, sys, flawforge_runtime
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
flawforge_runtime.load(sys.argv[1])
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    assert run(code, exports["onnx"]) == "1\n"


def test_the_runtimes_own_inspector_is_sent_to_where_there_is_no_torch(exports: dict[str, Path], picture: str) -> None:
    sent = pickle.dumps(flawforge_runtime.load(exports["onnx"], threads=1))
    code = f"import pickle, sys; print(pickle.loads({sent!r})(sys.argv[1]).verdict, 'torch' in sys.modules)"
    assert run(code, picture).endswith(" False\n")
