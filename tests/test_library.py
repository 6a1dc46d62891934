"""The library from Python: each public function says what its command says, of paths and of arrays."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import flawforge as ff
from flawforge.cli import main
from flawforge.pictures.copies import fingerprint
from flawforge.reporting.kept import album
from flawforge.types import ConfigError, DataError, ImageError, ModelError
from flawforge_runtime.images import read_mask, read_picture

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
FEW = {"kinds": ["stain"], "contrasts": [0.4], "count": 4}
FEW_OPTIONS = ("--kind", "stain", "--contrast", "0.4", "--count", "4")


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("library") / "model"))


def command(*arguments: object) -> tuple[str, dict[str, Any]]:
    """What a command prints on standard output, and the JSON that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        done = CliRunner().invoke(main, [*map(str, arguments), "--json", str(file)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout, json.loads(file.read_text())


def timeless(result: Any) -> Any:
    """The result as JSON, without what differs between two runs or between a path and an array."""
    told = json.loads(json.dumps(result, allow_nan=False))

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items() if key not in ("seconds", "path", "part", "good")}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(told)


def arrays_of(paths: list[Path]) -> list[np.ndarray]:
    return [read_picture(path).pixels for path in paths]


def test_evaluate_is_the_command_for_paths_and_arrays(model: Path, washers: Path) -> None:
    text, wanted = command("evaluate", model, washers)
    by_path = ff.evaluate(model, washers)
    assert timeless(by_path.as_dict()) == timeless(wanted)
    assert by_path.as_dict()["pictures"][0]["path"] == wanted["pictures"][0]["path"]
    assert text.splitlines() == by_path.lines()
    assert by_path.image["auroc"].value == wanted["image"]["auroc"]["value"]
    assert by_path.rates["escape_rate"]._asdict() == wanted["operating_point"]["escape_rate"]
    assert by_path.kinds["chip"].count == wanted["kinds"]["chip"]["count"] == 2
    entries = [entry for entry in ff.read_entries(washers) if entry.split == "test"]
    assert timeless(ff.evaluate(ff.load(model), entries).as_dict()) == timeless(wanted)
    pictures = arrays_of([entry.path for entry in entries])
    masks = [
        read_mask(entry.mask_path, picture.shape[:2]) if entry.mask_path else None
        for entry, picture in zip(entries, pictures, strict=True)
    ]
    by_array = ff.evaluate(ff.load(model), pictures, [entry.kind for entry in entries], masks)
    assert timeless(by_array.as_dict()) == timeless(wanted)
    assert [row["path"] for row in by_array.pictures[:2]] == ["picture 0", "picture 1"]
    inverted = [None if mask is None else np.uint8(255) * mask for mask in masks]
    assert ff.evaluate(model, pictures, [entry.label for entry in entries], inverted, save=False).pixel == by_array.pixel


def test_labels_and_masks_that_do_not_fit_are_refused(model: Path) -> None:
    inspector, picture = ff.load(model), np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(DataError, match="give labels="):
        ff.evaluate(inspector, [picture])
    with pytest.raises(DataError, match="2 pictures, 1 labels and 2 masks"):
        ff.evaluate(inspector, [picture] * 2, [0])
    with pytest.raises(DataError, match="The label 7 was given"):
        ff.evaluate(inspector, [picture], [7])
    with pytest.raises(DataError, match="give the pictures themselves"):
        ff.evaluate(inspector, "parts", [0])
    with pytest.raises(ImageError, match=r"mask of picture 0 is 8 x 9 .* 64 x 64"):
        ff.evaluate(inspector, [picture], ["dent"], [np.ones((8, 9), bool)])


def test_words_are_labels(model: Path) -> None:
    pictures = [np.full((64, 64, 3), level, np.uint8) for level in (90, 100, 110, 120)]
    result = ff.evaluate(ff.load(model), pictures, ["OK", "scratch", "ng", True], bootstrap=0)
    assert (result.counts["good"], result.counts["defective"]) == (1, 3)
    assert {name: kind.count for name, kind in result.kinds.items()} == {"scratch": 1, "defect": 2}
    assert result.pixel is None


def test_pod_is_the_command_and_leaves_training_pictures_out(model: Path, washers: Path) -> None:
    text, wanted = command("pod", model, washers, *FEW_OPTIONS)
    assert wanted["trained_pictures_left_out"] > 0
    by_folder = ff.pod(model, washers, **FEW)
    assert timeless(by_folder.as_dict()) == timeless(wanted)
    assert by_folder.lines() == text.splitlines()
    assert "pictures were left out, as the model was trained on them" in by_folder.lines()[0]
    paths = sorted((washers / "train" / "good").iterdir())
    assert timeless(ff.pod(ff.load(model), paths, **FEW).as_dict()) == timeless(wanted)
    seen = set(json.loads((model / "config.json").read_text())["training"]["fingerprints"])
    trained = [path for path in paths if fingerprint(path) in seen]
    with pytest.raises(DataError, match="were trained on"):
        ff.pod(model, trained, **FEW)


def test_pictures_that_are_gone_are_named_and_the_rest_goes_on(model: Path, washers: Path, tmp_path: Path) -> None:
    good, gone = washers / "test" / "good" / "000.png", str(tmp_path / "gone.png")
    inspector = ff.load(model)
    for skipped in (
        ff.pod(inspector, [good, gone], **FEW).skipped,
        ff.drift(inspector, [good, gone]).skipped,
        ff.evaluate(inspector, [good, gone], [0, 1]).skipped,
    ):
        assert [each["path"] for each in skipped] == [gone]
        assert "gone.png" in skipped[0]["reason"]
    for ask in (ff.pod, ff.drift):
        with pytest.raises(DataError):
            ask(inspector, [gone])


def test_pod_of_arrays_is_the_command_of_their_files(model: Path, washers: Path, tmp_path: Path) -> None:
    """One picture: several are taken in the order of their bytes, which an array does not share with its file."""
    (tmp_path / "good").mkdir()
    path = Path(shutil.copy(washers / "test" / "good" / "000.png", tmp_path / "good"))
    _, wanted = command("pod", model, tmp_path / "good", *FEW_OPTIONS)
    result = ff.pod(ff.load(model), arrays_of([path]), **FEW)
    assert timeless(result.as_dict()) == timeless(wanted)
    assert "1 pictures were given as arrays" in result.lines()[0]
    grey = ff.pod(ff.load(model), [array[..., 0] for array in arrays_of([path])], **FEW)
    assert grey.goods == 1
    with pytest.raises(ConfigError, match="arrays, which have no name"):
        ff.pod(model, arrays_of([path]), group_by=r"\d")


def test_drift_is_the_command_for_paths_and_arrays(model: Path, washers: Path) -> None:
    folder = washers / "test" / "good"
    text, wanted = command("drift", model, folder)
    assert timeless(ff.drift(model, folder).as_dict()) == timeless(wanted)
    paths = sorted(folder.iterdir())
    by_path = ff.drift(model, paths)
    assert timeless(by_path.as_dict()) == timeless(wanted)
    assert by_path.lines() == text.splitlines()
    by_array = ff.drift(ff.load(model), arrays_of(paths))
    assert timeless(by_array.as_dict()) == timeless(wanted)
    assert by_array.parts[0]["part"] == "picture 0"
    _, grouped = command("drift", model, folder, "--group-by", r"(\d)\.")
    assert timeless(ff.drift(model, folder, group_by=r"(\d)\.").as_dict()) == timeless(grouped)


def test_what_is_kept_in_the_model_folder_is_what_the_report_shows(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    before = sorted(path.name for path in model.iterdir())
    inspector = ff.load(model)
    ff.evaluate(inspector, washers, bootstrap=0)
    ff.evaluate(model, washers, bootstrap=0, save=False)
    assert sorted(path.name for path in model.iterdir()) == before
    evaluation, proof, check = (
        ff.evaluate(model, washers, bootstrap=9),
        ff.pod(model, washers, **FEW),
        ff.drift(model, washers),
    )
    for name, result in (("evaluation", evaluation), ("proof", proof), ("drift", check)):
        kept = json.loads((album(model, name) / f"{name}.json").read_text())
        assert not result.unsaved
        assert {key: kept[key] for key in result.as_dict()} == json.loads(json.dumps(result.as_dict()))
    report = ff.report(model, tmp_path / "report.json")
    assert report.as_dict() == json.loads((tmp_path / "report.json").read_text())
    assert report.lines() == [f"report: {tmp_path / 'report.json'}"]
    assert ff.report(model).facts["evaluation"]["counts"] == evaluation.counts
    assert ff.report(ff.load(model)).as_dict() == report.as_dict()
    with pytest.raises(ModelError, match=r"inspector\.save"):
        ff.report(dataclasses.replace(ff.load(model), origin=None))
    assert ff.report(model).lines()[0] == report.facts["answer"][0]["text"]


def test_a_folder_that_another_process_writes_costs_the_copy_and_not_the_result(
    tiny_model: Path, washers: Path, tmp_path: Path
) -> None:
    from flawforge_runtime.files import locked

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    with locked(model / "drift"):
        result = ff.drift(model, washers / "test" / "good")
        done = CliRunner().invoke(main, ["drift", str(model), str(washers / "test" / "good")])
    assert result.n == 6
    assert result.unsaved == f"{model} cannot be written to, so the report will not show this drift check"
    assert result.unsaved in done.stderr
    assert done.exit_code == 0


def test_forge_is_the_command(washers: Path, tmp_path: Path) -> None:
    options = {"count": 2, "seed": 3}
    done = CliRunner().invoke(
        main, ["forge", str(washers), "-o", str(tmp_path / "a"), "--forger", "perlin", "--count", "2", "--seed", "3"]
    )
    assert done.exit_code == 0, done.output
    wanted = json.loads((tmp_path / "a" / "forgeries.json").read_text())
    paths = sorted((washers / "train" / "good").iterdir())
    for number, data in enumerate((washers, paths, map(str, paths))):
        result = ff.forge(data, tmp_path / str(number), ["perlin"], **options)
        assert json.loads(json.dumps(result.as_dict())) == wanted
        page = tmp_path / str(number) / "index.html"
        assert result.lines() == [f"contact sheets of the synthetic defects: {page}"]
        assert (tmp_path / str(number) / "perlin.jpg").read_bytes() == (tmp_path / "a" / "perlin.jpg").read_bytes()


def test_the_package_of_forgers_and_the_function_share_a_name() -> None:
    from flawforge.forge import FORGERS, forger_from

    assert callable(ff.forge)
    assert ff.forge.FORGERS is FORGERS is ff.FORGERS
    assert ff.forge.forger_from is forger_from


@pytest.mark.slow
def test_export_says_what_its_command_prints(tiny_model: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(tiny_model), "-o", str(tmp_path / "a"), "--to", "onnx"])
    assert done.exit_code == 0, done.output
    result = ff.export(ff.load(tiny_model), str(tmp_path / "b"), "onnx")  # the command gives it the folder
    assert result.folder == tmp_path / "b"
    assert [line.replace(str(result.folder), "HERE") for line in result.lines()] == [
        line.replace(str(tmp_path / "a"), "HERE") for line in done.stdout.splitlines()
    ]
    with pytest.raises(ModelError, match="no model to export"):
        ff.export(dataclasses.replace(ff.load(tiny_model), content=None), tmp_path / "d", "onnx")
    told = json.loads(json.dumps(result.as_dict()))
    assert told["parity"] == json.loads((tmp_path / "b" / "config.json").read_text())["export"]["parity"]


def test_results_cannot_be_changed(model: Path, washers: Path) -> None:
    result = ff.drift(model, washers / "test" / "good", save=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.alarm = True


@pytest.mark.slow
def test_the_page_on_python_as_printed(tmp_path: Path) -> None:
    """Every block of docs/python.md, in order, in an empty folder."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    program = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^(OK|REVIEW|NG) ", done.stdout)
    assert "10 good and 8 defective pictures" in done.stdout
    assert "'good': 1, 'defective': 2" in done.stdout
    assert "production parts" in done.stdout
    assert {"model", "box", "forgeries", "report.html"} <= {path.name for path in tmp_path.iterdir()}


def test_the_page_on_python_names_every_function() -> None:
    text = PAGE.read_text()
    for name in ("fit", "load", "evaluate", "pod", "drift", "report", "export", "forge", "from_bgr"):
        assert f"ff.{name}(" in text
    for name in set(re.findall(r"\bff\.(\w+)", text)):
        assert hasattr(ff, name), name
