"""What no command and no function can use is one sentence, said before the work."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import flawforge as ff
from flawforge import fitting
from flawforge.cli.app import main
from flawforge.fitting.forecasting import NO_MEMORY, enough_memory
from flawforge.fitting.planning import Request, request_from
from flawforge.methods import METHODS
from flawforge.proving.labelled import labelled
from flawforge.proving.pod import recipe_for
from flawforge.types import ConfigError, DataError, ImageError, TrainingError

GREY = np.zeros((8, 8), np.uint8)


def sentence(*arguments: str, code: int) -> str:
    done = CliRunner().invoke(main, arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("seed", [-1, 10**23, 1.0, "3", None, True, math.nan])
def test_a_seed_that_is_none_is_refused_everywhere(seed: Any, washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calls = (
        lambda: ff.fit(washers, out=out, seed=seed),
        lambda: ff.evaluate(tiny_model, washers, seed=seed, save=False),
        lambda: ff.drift(tiny_model, washers / "test" / "good", seed=seed, save=False),
        lambda: ff.export(tiny_model, out, "onnx", seed=seed),
        lambda: ff.forge(washers, out, seed=seed),
        lambda: recipe_for((), seed=seed),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=rf"^seed was given as {seed!r}; give a whole number from 0 to 1,000,000,"):
            call()
    assert not out.exists()


@pytest.mark.parametrize("command", ["fit", "forge"])
def test_a_seed_beyond_64_bits_is_refused_at_the_command_line(command: str, washers: Path, tmp_path: Path) -> None:
    said = sentence(command, str(washers), "-o", str(tmp_path / "out"), "--seed", "99999999999999999999999", code=2)
    assert "give a whole number from 0 to 1e+18" in said


@pytest.mark.parametrize(
    "option", [{"size": math.nan}, {"size": "96"}, {"size": 96.0}, {"depth": 99}, {"depth": 8.5}, {"depth": 7}]
)
def test_sizes_and_depths_are_refused_before_training(option: dict[str, Any], washers: Path, tmp_path: Path) -> None:
    ((name, value),) = option.items()
    least, most = ("32", "65,536") if name == "size" else ("8", "16")
    with pytest.raises(ConfigError, match=rf"^{name} was given as {value!r}; give a whole number from {least} to {most}\.$"):
        ff.fit(washers, out=tmp_path / "out", method="patchstats", **option)
    assert not (tmp_path / "out").exists()


def test_whole_numbers_of_numpy_are_plain_ones_from_the_start(washers: Path, tmp_path: Path) -> None:
    """As `for seed in np.arange(3)` gives them; a bool stands for nothing, numpy's neither."""
    sheets = [tmp_path / "numpy", tmp_path / "plain"]
    for out, seed in zip(sheets, (np.arange(4)[3], 3), strict=True):
        ff.forge(washers, out, count=2, seed=seed)
    assert (sheets[0] / "forgeries.json").read_text() == (sheets[1] / "forgeries.json").read_text()
    request = Request(washers, tmp_path / "m", seed=np.uint8(3), size=np.int64(64), depth=np.int32(12))
    assert request_from(json.loads(json.dumps(request.as_dict()))) == request
    assert {type(each) for each in (request.seed, request.size, request.depth)} == {int}
    with pytest.raises(ConfigError, match=r"seed was given as .*True"):
        Request(washers, tmp_path / "m", seed=np.True_)


@pytest.mark.parametrize("model", [5, None, b"m", ["m"]])
def test_a_model_is_a_path(model: Any) -> None:
    with pytest.raises(ConfigError, match="was given as a model; give the path of a folder"):
        ff.load(model)


@pytest.mark.parametrize("array", [[[1]], None, "a.png", [[[1, 2, 3]], [[1, 2]]]])
def test_bgr_is_an_array(array: Any) -> None:
    with pytest.raises(ImageError, match=r"^a \w+ was given; give an array h w 3 \(BGR\) or h w 4 \(BGRA\)\.$"):
        ff.from_bgr(array)


@pytest.mark.parametrize("mask", [np.zeros(8), np.zeros((1, 2, 2, 2)), np.zeros((0, 8)), [[1], [1, 2]], 3, [["a"]], {}])
def test_masks_have_two_or_three_dimensions(mask: Any) -> None:
    with pytest.raises(DataError, match=r"^A mask .* was given; give h w or h w c of numbers, at the picture's own size\.$"):
        labelled([GREY], [1], [mask])
    assert labelled([GREY], [1], [[[0, 1], [0, 0]]])[0].mask is not None


def test_labels_are_stripped_as_a_csv_is(washers: Path) -> None:
    found = labelled([GREY] * 4, ["good ", " OK", " scratch ", "1 "])
    assert [(each.label, each.kind) for each in found] == [(0, "good"), (0, "good"), (1, "scratch"), (1, "defect")]
    for empty in ("", "  "):
        with pytest.raises(DataError, match=r"^An empty label was given; give 0, 1, good, or the name"):
            labelled([GREY], [empty])


def test_a_fit_beyond_the_memory_says_what_to_lower(washers: Path, tmp_path: Path) -> None:
    """So many pictures that no machine can even ask for their memory."""
    out = tmp_path / "out"
    tiny = dataclasses.asdict(METHODS["draem"].tiny) | {"batch": 10**15}
    pairs = [part for key, value in tiny.items() for part in ("--set", f"{key}={value!r}".replace("'", '"'))]
    command = ["fit", str(washers), "-o", str(out), "--method", "draem", "--size", "64", "--steps", "2"]
    for more in ([], ["--dry-run"]):
        said = sentence(*command, *pairs, *more, code=1)
        assert said.startswith(
            "flawforge: The fit takes more memory than there is, with batches of 1000000000000000 pictures"
        )
        assert said.endswith("lower it with --set batch=N, or --size.")
    with pytest.raises(TrainingError, match="more memory than there is"):
        ff.fit(washers, out=out, method="draem", size=64, steps=2, settings=tiny)
    assert not out.exists()


def test_only_want_of_memory_is_told_as_such(washers: Path, tmp_path: Path) -> None:
    made = fitting.plan(fitting.Request(washers, tmp_path / "out", method="draem"))
    for error in (MemoryError(), *(RuntimeError(f"CUDA {words} of 4 GiB") for words in NO_MEMORY)):
        with pytest.raises(TrainingError, match="more memory than there is"), enough_memory(made):
            raise error
    for other in (RuntimeError("shapes do not fit"), ValueError("no")):
        with pytest.raises(type(other), match=str(other)), enough_memory(made):
            raise other


def test_a_recipe_gives_values_and_gives_them_once(tiny_model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "line.toml"
    twice = f"[inspect] of {recipe} has both false-alarm and false_alarm; keep one of them."
    cases = {
        "watch = false": "watch was given as false in the recipe, and takes a value; give one, or leave the key out.",
        "copy-ng = true": "copy-ng was given as true in the recipe, and takes a value; give one, or leave the key out.",
        "threads = true": "threads was given as true in the recipe, and takes a value; give one, or leave the key out.",
        "paths = [true]": "paths was given as true in the recipe, and takes a value; give one, or leave the key out.",
        "false-alarm = 0.1\nfalse_alarm = 0.2": twice,
        "false_alarm = 0.1\nfalse-alarm = 0.1": twice,
    }
    for text, said in cases.items():
        recipe.write_text(f"[inspect]\n{text}\n")
        assert sentence("inspect", str(tiny_model), "--recipe", str(recipe), code=2) == f"flawforge: {said}"


def test_a_holdout_that_leaves_few_to_learn_from_is_said(washers: Path, tmp_path: Path) -> None:
    def notes(share: float) -> str:
        return " ".join(fitting.plan(fitting.Request(washers, tmp_path / "out", method="patchstats", holdout=share)).notes)

    assert "1 of 24 good pictures to learn from are few; a lower --holdout leaves more" in notes(0.999)
    assert "to learn from are few" not in notes(0.5)


def test_a_backend_that_is_not_there_is_told_what_is_allowed(exports: dict[str, Path], tiny_model: Path) -> None:
    onnx = exports["onnx"]
    cases = (
        (onnx, "torch", "leave the option out, or give the model folder that was exported."),
        (onnx, "openvino", "leave the option out, or run `flawforge export MODEL -o OUT --to openvino` and give OUT."),
        (onnx, "cuda", "leave the option out, or give one of torch, onnx, openvino."),
        (tiny_model, "onnx", f"holds torch weights; run `flawforge export {tiny_model} -o OUT --to onnx` and give OUT."),
        (tiny_model, "cuda", "holds torch weights; give one of torch, onnx, openvino."),
    )
    for folder, backend, end in cases:
        with pytest.raises(ConfigError) as refused:
            ff.load(folder, backend=backend)
        assert str(refused.value).endswith(end)
