"""A model folder: whole or refused, in one sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flawforge.judging import loading
from flawforge.reporting import good_sheet
from flawforge.types import ModelError
from flawforge_runtime import bundle


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_the_files_are_the_promised_ones_and_none_is_a_pickle(model: Path) -> None:
    names = {path.name for path in model.iterdir()}
    hashed = {"config.json", "model.safetensors", "calibration.json", "guard.json", "README.md"}
    assert names == hashed | {"manifest.json", good_sheet.FILE}
    assert set(json.loads((model / "manifest.json").read_text())["files"]) == hashed
    assert b"pickle" not in b"".join(path.read_bytes() for path in model.iterdir())


def test_load_save_load_judges_to_the_bit(model: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first = loading.load(model)
    first.save(tmp_path / "again")
    again = loading.load(tmp_path / "again")
    assert again(picture).pred_score == first(picture).pred_score
    np.testing.assert_array_equal(again(picture).anomaly_map, first(picture).anomaly_map)
    assert again.about == first.about
    with pytest.raises(ModelError, match="exists already"):
        first.save(tmp_path / "again")


def edit_json(folder: Path, name: str, **changes: object) -> None:
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(data | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of a weight": (lambda m: _flip(m / "model.safetensors", -1), "sha256 of model.safetensors"),
    "truncated weights": (lambda m: os.truncate(m / "model.safetensors", 1000), "1000 bytes instead of"),
    "missing calibration": (lambda m: (m / "calibration.json").unlink(), "calibration.json is missing"),
    "edited threshold": (lambda m: edit_json(m, "calibration.json", threshold=9.0), "calibration.json has"),
    "no manifest": (lambda m: (m / "manifest.json").unlink(), "not a flawforge model folder .it has no manifest"),
    "half a manifest": (lambda m: os.truncate(m / "manifest.json", 50), "manifest.json is not valid JSON"),
    "another program's": (lambda m: edit_json(m, "manifest.json", made_by="x"), "another program's"),
    "newer": (lambda m: edit_json(m, "manifest.json", format=99), "format 99 .* reads up to 2; update flawforge"),
    "manifest of nothing": (lambda m: edit_json(m, "manifest.json", files={}), "does not list"),
    "a path outside": (lambda m: _list(m, "../secret"), "secret.sha256"),
}


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _list(folder: Path, name: str) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_json(folder, "manifest.json", files=files | {name: {"sha256": "", "bytes": 0}})


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_gets_one_sentence(model: Path, name: str) -> None:
    damage, words = DAMAGES[name]
    damage(model)
    with pytest.raises(ModelError, match=words) as caught:
        loading.load(model)
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        loading.load(tmp_path / "none")


def test_settings_and_weights_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    content = bundle.read(model)
    settings = dict(content.config["settings"], segment_width=8)
    odd = dataclasses.replace(content, config={**content.config, "settings": settings})
    bundle.write(tmp_path / "odd", odd)
    with pytest.raises(ModelError, match="weights do not fit"):
        loading.load(tmp_path / "odd")
    unknown = dataclasses.replace(content, config={**content.config, "method": "magic"})
    bundle.write(tmp_path / "unknown", unknown)
    with pytest.raises(ModelError, match="'magic' is unknown"):
        loading.load(tmp_path / "unknown")


def test_a_region_of_interest_comes_back(model: Path, tmp_path: Path) -> None:
    roi = np.zeros((20, 30), bool)
    roi[3:9, 4:20] = True
    bundle.write(tmp_path / "roi", dataclasses.replace(bundle.read(model), roi=roi))
    np.testing.assert_array_equal(bundle.read(tmp_path / "roi").roi, roi)


def test_writing_that_fails_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bundle.read(model)
    target = tmp_path / "place" / "model"
    calls = []

    def full(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(bundle, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.write(target, content)
    assert list(target.parent.iterdir()) == []


def test_rewriting_keeps_results_of_the_same_network_and_removes_others(model: Path) -> None:
    content = bundle.read(model)
    (model / "evaluation").mkdir()
    (model / "evaluation" / "evaluation.json").write_text("{}")
    bundle.rewrite(model, dataclasses.replace(content, card="new"))
    assert (model / "README.md").read_text() == "new"
    assert (model / "evaluation" / "evaluation.json").exists()
    bundle.rewrite(model, dataclasses.replace(content, config={**content.config, "seed": 7}))
    assert not (model / "evaluation").exists()
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_swapped_arguments_are_guessed(tmp_path: Path) -> None:
    (tmp_path / "part.png").write_bytes(b"")
    with pytest.raises(ModelError, match=r"part.png is not a flawforge model folder \(it is a file; MODEL comes first"):
        bundle.read(tmp_path / "part.png")
    with pytest.raises(ModelError, match="MODEL comes before what it judges"):
        bundle.read(tmp_path)
