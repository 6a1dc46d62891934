"""An export proves that it judges alike, or is not written; the runtime judges with it and loads no torch."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import onnx
import pytest
import torch

import flawforge_runtime
from flawforge.cli import main
from flawforge.judging import export as room
from flawforge.judging import loading
from flawforge.types import ConfigError, DataError, Evidence, ModelError, ScoreRule
from flawforge_runtime import backends, bundle
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import Picture
from flawforge_runtime.inspector import Inspector


@pytest.fixture(params=["onnx", "openvino"])
def exported(request: Any, exports: dict[str, Path]) -> Path:
    return exports[request.param]


def picture_in(washers: Path) -> Path:
    return min((washers / "test" / "scratch").iterdir())


def test_the_folder_is_a_model_that_says_what_was_proved(exported: Path, tiny_model: Path) -> None:
    network = {"onnx": {"model.onnx"}, "openvino": {"model.xml", "model.bin"}}[exported.name]
    common = {"config.json", "calibration.json", "guard.json", "manifest.json", "README.md"}
    assert {path.name for path in exported.iterdir()} == network | common
    assert json.loads((exported / "manifest.json").read_text())["format"] == 2
    config = json.loads((exported / "config.json").read_text())
    assert "held_back" not in config  # paths of the machine that fitted travel no further
    parity = config["export"]["parity"]
    assert parity["good"] + parity["forged"] >= 64
    assert parity["good"] >= 1
    assert parity["source"] == "good ones held back by fit"
    assert parity["flips"] == []
    rounding = max(room.ROUNDING * parity["score_spread"], room.LEAST_ROUNDING * parity["score_size"])
    assert 0.0 <= parity["score_difference"] <= rounding
    card = (exported / "README.md").read_text()
    assert config["export"]["from"] == bundle.read(tiny_model).model_id
    assert config["export"]["from"] in card
    assert "0 of 64 verdicts flipped" in card


def test_it_judges_as_the_model_through_every_door(exported: Path, tiny_model: Path, washers: Path) -> None:
    path = picture_in(washers)
    one = loading.load(tiny_model)(path)
    for other in (
        loading.load(exported)(path),
        loading.load(exported, backend=exported.name, threads=1)(path),
        flawforge_runtime.load(exported)(path),
    ):
        assert other.verdict == one.verdict
        assert other.p_value == one.p_value
        assert other.pred_score == pytest.approx(one.pred_score, rel=1e-4)
        np.testing.assert_allclose(other.anomaly_map, one.anomaly_map, atol=1e-5)


def test_the_runtime_judges_it_without_torch(exported: Path, washers: Path) -> None:
    program = (
        "import sys, flawforge_runtime\n"
        f"decision = flawforge_runtime.load({str(exported)!r})({str(picture_in(washers))!r})\n"
        "assert decision.verdict in ('OK', 'REVIEW', 'NG')\n"
        "assert not {'torch', 'flawforge', 'onnx', 'scipy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_batch_is_judged_as_its_pictures_are(exported: Path) -> None:
    network = flawforge_runtime.load(exported).network
    batch = np.random.default_rng(0).random((5, 3, 64, 64), dtype=np.float32)
    maps, scores = network(batch)
    again = [network(batch[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(maps, np.concatenate([each[0] for each in again]), atol=1e-6)
    np.testing.assert_allclose(scores, np.concatenate([each[1] for each in again]), atol=1e-6)


def test_thresholds_move_after_export(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports["onnx"], tmp_path / "model"))
    before = bundle.read(folder)
    run = click.testing.CliRunner().invoke(
        main, ["calibrate", str(folder), str(washers / "train" / "good"), "--false-alarm", "0.2", "--backend", "onnx"]
    )
    assert run.exit_code == 0, run.output
    after = bundle.read(folder)
    assert after.exported == before.exported
    assert after.model_id == before.model_id
    assert after.calibration is not None
    assert (after.calibration.n, after.calibration.false_alarm) == (5, 0.2)  # the others were trained on
    assert "## Export" in after.card


def test_the_command_reports_and_refuses_what_exists(exports: dict[str, Path], tiny_model: Path, washers: Path) -> None:
    runner = click.testing.CliRunner()
    run = runner.invoke(main, ["export", str(tiny_model), "-o", str(exports["onnx"]), "--to", "onnx"])
    assert run.exit_code == 1
    assert "exists already" in run.output
    run = runner.invoke(main, ["export", str(exports["onnx"]), "-o", str(washers / "x"), "--to", "onnx"])
    assert "is an export already" in run.output
    run = runner.invoke(main, ["inspect", str(exports["openvino"]), str(picture_in(washers)), "--backend", "openvino"])
    assert run.exit_code == 0, run.output
    assert "scratch" in run.output


@pytest.mark.slow
def test_what_is_no_parity_is_refused_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEAST_ROUNDING", -1.0)
    monkeypatch.setattr(room, "ROUNDING", -1.0)  # now even equal scores differ by more than is allowed
    with pytest.raises(ModelError, match=r"The export's score differs by up to .* nothing was written"):
        room.export(tiny_model, tmp_path / "out", "onnx", seed=3)
    assert list(tmp_path.iterdir()) == []


def judge(shift: float, slope: float = 1.0) -> Inspector:
    """Calls a picture strange by its brightness; the other network by a little more."""

    def network(batch: Any) -> tuple[Any, Any]:
        maps = (batch.mean(axis=1) * slope + shift).astype(np.float32)
        return maps, maps.max(axis=(1, 2))

    return Inspector(network, (8, 8), ScoreRule(), calibrate(list(np.linspace(0.1, 0.5, 19)), 0.05, review=0.1))


def grey(*levels: float) -> list[tuple[str, Picture]]:
    return [("good", Picture(np.full((8, 8, 3), level, np.float32), "grey")) for level in levels]


def test_rounding_flips_no_picture_that_lies_on_the_threshold() -> None:
    model, other = judge(0.0), judge(1e-4)
    threshold = model.calibration.threshold  # type: ignore[union-attr]
    compared = grey(0.2, threshold, 0.45, 0.9)
    raised, parity = room.compare(model, other, compared, "", raise_calibration=True)
    assert parity.flips == ()
    assert parity.score_difference == pytest.approx(1e-4, rel=0.01)
    assert raised is not None
    assert raised.threshold >= threshold + 0.99e-4
    room.prove(parity, False, 0.0)
    _, parity = room.compare(model, other, grey(0.2, threshold - 5e-5), "", raise_calibration=False)
    assert len(parity.flips) == 1
    assert "OK at" in parity.flips[0] or "REVIEW at" in parity.flips[0]


def test_a_verdict_that_the_last_digit_decides_is_a_close_call_and_no_flip() -> None:
    model, other = judge(0.0), judge(1e-6)
    threshold = model.calibration.threshold  # type: ignore[union-attr]
    compared = grey(0.2, threshold, 0.9)
    _, parity = room.compare(model, other, compared, "", raise_calibration=False)
    assert parity.flips == ()
    assert len(parity.close_calls) == 1
    assert "flipped verdicts: 0 of 3, and 1 that lie on a limit to the last digit" in parity.lines()
    room.prove(parity, False, 0.0)
    own = dataclasses.replace(model, calibration=dataclasses.replace(model.calibration, fixed=0.7))  # type: ignore[type-var]
    raised, parity = room.compare(own, other, grey(0.7, 0.7 - 5e-6, 0.8), "", raise_calibration=True)
    assert raised is not None
    assert raised.fixed == 0.7
    assert parity.flips == ()
    assert len(parity.close_calls) == 1
    _, parity = room.compare(own, judge(1e-4), grey(0.7 - 5e-5), "", raise_calibration=True)
    assert len(parity.flips) == 1


def test_flips_are_refused_in_float32_and_counted_in_int8() -> None:
    compared = grey(*np.linspace(0.3, 0.7, 20))
    _, parity = room.compare(judge(0.0), judge(0.05), compared, "", raise_calibration=False)
    assert 1 <= len(parity.flips) <= 6
    with pytest.raises(ModelError, match=r"another verdict and none may, so nothing was written"):
        room.prove(parity, False, 1.0)
    with pytest.raises(ModelError, match=r"at most 2.0% may"):
        room.prove(parity, True, 0.02)
    room.prove(parity, True, 0.5)
    assert f"flipped verdicts: {len(parity.flips)} of 20" in parity.lines()


def test_a_difference_above_rounding_is_refused_without_a_flip() -> None:
    _, parity = room.compare(judge(0.0), judge(0.0, 1.01), grey(0.0, 0.9), "", raise_calibration=True)
    assert parity.flips == ()
    with pytest.raises(ModelError, match="more than rounding explains"):
        room.prove(parity, False, 0.0)


@pytest.mark.parametrize("figure", ["score_difference", "map_difference"])
def test_a_difference_that_is_no_number_is_refused(figure: str) -> None:
    _, parity = room.compare(judge(0.0), judge(0.0), grey(0.0, 0.9), "", raise_calibration=True)
    room.prove(parity, False, 0.0)
    with pytest.raises(ModelError, match="more than rounding explains"):
        room.prove(dataclasses.replace(parity, **{figure: float("nan")}), False, 0.0)


def test_compared_are_at_least_as_many_forged_as_good_ones_and_always_the_same() -> None:
    goods = [Picture(np.random.default_rng(i).integers(0, 256, (90, 70, 3), dtype=np.uint8), "8-bit RGB") for i in range(5)]
    one, two = (list(room.to_compare(goods, (64, 64), 64, 7)) for _ in range(2))
    assert [kind for kind, _ in one].count("good") == 5
    assert len(one) == 64
    assert len({kind for kind, _ in one}) == 1 + len(room.FORGERS)
    for (_, first), (_, second) in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.pixels, second.pixels)


def test_where_the_good_pictures_come_from(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    content = bundle.read(tiny_model)
    assert room.good_pictures(content, washers / "test" / "good", 3)[1].endswith("good")
    assert len(room.good_pictures(content, washers / "train" / "good", 3)[0]) == 3
    gone = dataclasses.replace(content, config={**content.config, "held_back": [str(tmp_path / "gone.png")]})
    drawn, source = room.good_pictures(gone, None, 4)
    assert len(drawn) == 4
    assert "another product" in source
    for empty in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="holds no picture"):
            room.good_pictures(content, empty, 4)


def test_options_are_checked_before_any_work(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, words in (
        ({"to": "tflite"}, "allowed are onnx and openvino"),
        ({"to": "onnx", "pictures": 8}, "allowed are 64 or more"),
        ({"to": "onnx", "max_flips": 2.0}, "allowed is a share from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            room.export(tiny_model, tmp_path / "out", **options)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ConfigError, match=r"run `pip install nncf`"):
        room.export(tiny_model, tmp_path / "out", "onnx", int8=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"run `pip install onnxscript nncf`"):
        room.export(tiny_model, tmp_path / "out", "onnx", int8=True)


def test_a_missing_backend_names_the_command(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = backends.PACKAGES[exported.name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"Backend {exported.name} is not installed here; run `pip install {package}`"):
        flawforge_runtime.load(exported)


def test_backends_and_threads_that_do_not_fit(exports: dict[str, Path], tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"was exported to onnx; .*--to openvino"):
        loading.load(exports["onnx"], backend="openvino")
    with pytest.raises(ConfigError, match=r"holds torch weights; run `flawforge export .* --to onnx`"):
        loading.load(tiny_model, backend="onnx")
    with pytest.raises(ModelError, match=r"holds torch weights, .*flawforge export"):
        flawforge_runtime.load(tiny_model)
    with pytest.raises(ConfigError, match="an export for the CPU"):
        loading.load(exports["onnx"], device="cuda")
    for threads in (0, backends.cores() + 1):
        for folder in (exports["onnx"], tiny_model):
            with pytest.raises(ConfigError, match=rf"{threads} threads were asked for; allowed here .* {backends.cores()}"):
                loading.load(folder, threads=threads)
    with pytest.raises(ConfigError, match="Precision bfloat16 was asked for with onnx"):
        flawforge_runtime.load(exports["onnx"], precision="bfloat16")
    assert loading.load(tiny_model, backend="torch", threads=1).content is not None


def test_a_missing_or_altered_file_is_refused(exported: Path, tmp_path: Path) -> None:
    name = {"onnx": "model.onnx", "openvino": "model.bin"}[exported.name]
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"the sha256 of {name} is not the one in manifest.json"):
        flawforge_runtime.load(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        flawforge_runtime.load(folder)


class Half(torch.nn.Module):
    """A statistic, which int8 may not touch, and a trained layer, which it may."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.register_buffer("filters", torch.rand(4, 3, 3, 3))
        self.layer = torch.nn.Conv2d(4, 1, 3, padding=1) if trained else None

    def forward(self, images: torch.Tensor) -> Evidence:
        x = torch.nn.functional.conv2d(images, self.filters, padding=1)
        surface = (x.sum(dim=1, keepdim=True) if self.layer is None else self.layer(x))[:, 0]
        return Evidence(surface, surface.flatten(1).amax(dim=1))


def test_int8_is_for_what_training_moved() -> None:
    graph = room.to_onnx(Half(True), (16, 16))
    layers = room.trained_layers(graph, Half(True))
    nodes = {node.name: node for node in onnx.load_from_string(graph).graph.node if node.op_type == "Conv"}
    assert len(nodes) == 2
    assert [name for name in nodes if name in layers] == [name for name, node in nodes.items() if "layer" in node.input[1]]
    with pytest.raises(ConfigError, match="No layer of this model was trained"):
        room.trained_layers(room.to_onnx(Half(False), (16, 16)), Half(False))


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_states_its_flips(tiny_model: Path, washers: Path, tmp_path: Path, to: str) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed; pip install nncf")
    parity = room.export(tiny_model, tmp_path / "out", to, int8=True, good=washers / "train" / "good", max_flips=1.0).parity
    assert json.loads((tmp_path / "out" / "config.json").read_text())["export"]["precision"] == "int8"
    assert len(parity.flips) <= 64
    before, after = bundle.read(tiny_model), bundle.read(tmp_path / "out")
    assert after.calibration == before.calibration
    assert flawforge_runtime.load(tmp_path / "out")(picture_in(washers)).verdict in ("OK", "REVIEW", "NG")


def test_first_verdict_in_a_clean_environment(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    """Installs the runtime and ONNX Runtime alone; asked for by FLAWFORGE_CLEAN_VENV=1, for it needs pip's index."""
    if not os.environ.get("FLAWFORGE_CLEAN_VENV"):
        pytest.skip("FLAWFORGE_CLEAN_VENV is not set: the test installs from pip's index")
    root = Path(__file__).resolve().parent.parent
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = str(tmp_path / "venv" / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
        [python, "-m", "pip", "install", "--quiet", f"{root / 'runtime'}[onnx]"],
    ):
        subprocess.run(command, check=True, env=environment, capture_output=True)
    program = (
        "import importlib.util as u, sys\n"
        "assert not u.find_spec('torch') and not u.find_spec('flawforge')\n"
        "import flawforge_runtime\n"
        "print(flawforge_runtime.load(sys.argv[1])(sys.argv[2]).verdict)\n"
    )
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [python, "-c", program, str(exports["onnx"]), str(picture_in(washers))],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        taken.append(time.perf_counter() - start)
        assert done.stdout.strip() in ("OK", "REVIEW", "NG"), done.stderr
    print(f"first verdict {min(taken):.2f} s")
    assert min(taken) < 1.5
