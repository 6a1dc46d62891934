"""Where an Inspector came from: two processes that open one folder have one model, and another model is refused."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawforge_runtime import bundle, origin
from flawforge_runtime.origin import Origin, opened, origin_of
from flawforge_runtime.poses import Template
from flawforge_runtime.types import ModelError

CALLS: list[tuple[str, dict[str, Any]]] = []


@dataclass(frozen=True)
class Opened:
    """What a loader gives, as far as `opened` looks."""

    origin: Origin


def load(folder: str, **how: Any) -> Opened:
    """A loader that counts; the model's name is what the folder's manifest holds."""
    CALLS.append((folder, how))
    name = (Path(folder) / "manifest.json").read_text()
    return Opened(Origin(load, folder, how, name, None, None))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def forget() -> None:
    CALLS.clear()
    origin._opened.cache_clear()


def folder_with(path: Path, name: str) -> str:
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_text(name)
    return str(path)


def test_a_folder_is_opened_once_for_all_that_ask(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", "one")
    first = opened(load, folder, {"device": "cpu", "threads": 2}, "one")
    assert opened(load, folder, {"threads": 2, "device": "cpu"}, "one") is first  # the order of settings says nothing
    assert len(CALLS) == 1
    assert opened(load, folder, {"device": "cpu"}, "one") is not first
    assert [how for _, how in CALLS] == [{"device": "cpu", "threads": 2}, {"device": "cpu"}]


def test_a_folder_that_was_written_anew_is_opened_anew(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", "one")
    opened(load, folder, {}, "one")
    folder_with(tmp_path / "m", "another")
    assert opened(load, folder, {}, "another").origin.model == "another"
    assert len(CALLS) == 2


def test_another_model_in_the_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", "other")
    with pytest.raises(
        ModelError, match=r"holds another model \(other\) than the inspector that was sent \(mine\)"
    ) as error:
        opened(load, folder, {}, "mine")
    assert folder in str(error.value)
    assert "\n" not in str(error.value)


def test_the_stamp_of_a_missing_folder_is_none_and_the_loader_speaks(tmp_path: Path) -> None:
    assert origin._stamp(str(tmp_path / "gone")) == (0, 0)
    with pytest.raises(FileNotFoundError):
        opened(load, str(tmp_path / "gone"), {}, "x")


def test_a_stamp_changes_with_the_manifest_alone(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", "one")
    before = origin._stamp(folder)
    (tmp_path / "m" / "README.md").write_text("more")
    assert origin._stamp(folder) == before
    (tmp_path / "m" / "manifest.json").write_text("longer name")
    assert origin._stamp(folder) != before


def test_the_model_is_named_by_weights_region_and_template(tiny_model: Path) -> None:
    content = bundle.read(tiny_model)
    plain = origin_of(load, tiny_model, content, None, "id")
    assert plain.folder == str(tiny_model.absolute())
    assert plain.model.startswith("id-")
    roi = np.ones((4, 4), bool)
    other = roi.copy()
    other[0, 0] = False
    grey = np.zeros((4, 4), np.uint8)
    changed = [
        replace(content, roi=roi),
        replace(content, roi=other),
        replace(content, roi=roi.reshape(2, 8)),
        replace(content, template=Template(grey, 0.5)),
        replace(content, template=Template(grey + 1, 0.5)),
    ]
    names = [origin_of(load, tiny_model, each, None, "id").model for each in (content, *changed)]
    assert len(set(names)) == len(names)
    assert origin_of(load, tiny_model, replace(content, template=Template(grey, 0.9)), None, "id").model == names[4]
    assert origin_of(load, tiny_model, content, None, "id2").model != plain.model


def test_how_it_was_opened_does_not_change_the_model(tiny_model: Path) -> None:
    content = bundle.read(tiny_model)
    one, two = (origin_of(load, tiny_model, content, None, "id", **how) for how in ({}, {"device": "cpu"}))
    assert one.model == two.model
    assert one != two
    assert one == origin_of(load, tiny_model, content, object(), "id")  # the network does not tell two origins apart


def test_a_relative_folder_is_kept_absolute(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    made = origin_of(load, tiny_model.name, bundle.read(tiny_model), None, "id")
    assert made.folder == str(Path.cwd() / tiny_model.name)


def test_an_inspector_travels_as_its_folder(tiny_model: Path) -> None:
    """The public way to all this: a pickle is small, and what comes out judges alike."""
    import flawforge as ff

    inspector = ff.load(tiny_model)
    data = pickle.dumps(inspector)
    assert len(data) < 10_000
    again = pickle.loads(data)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert again(picture).pred_score == inspector(picture).pred_score
