"""What a model folder's JSON may say: every bound from both sides, and a phrase that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge_runtime import schema
from flawforge_runtime.schema import CalibrationOf, Config, Manifest, check_calibration, check_config, checked, parse

CONFIG: dict[str, Any] = {"method": "auto", "canvas": [64, 96], "score_rule": {"reduce": "max"}}
CALIBRATION: dict[str, Any] = {"scores": [0.1, 0.2], "peaks": [0.1, 0.2], "false_alarm": 0.05, "review": 0.1}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.text('ab{["\\ü', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


# ---- JSON


@given(JSON)
@settings(max_examples=80, deadline=None)
def test_what_python_writes_is_read_again(value: Any) -> None:
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "it holds NaN"),
        ("[-Infinity]", "it holds -Infinity"),
        ('{"a": 1, "b": 2, "a": 3}', "a key twice"),
        ('{"a": {"b": 1, "b": 1}}', "a key twice"),
        ("[" * 65 + "]" * 65, "nested more than 64 levels deep"),
    ],
)
def test_what_json_does_not_have_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text.encode())


def test_sixty_four_levels_are_read() -> None:
    assert parse(("[" * 64 + "]" * 64).encode()) is not None


@pytest.mark.parametrize("data", [b"\xff", b"{", b"", b"[1,]"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(data)


@given(JSON)
@settings(max_examples=60, deadline=None)
def test_the_depth_is_never_less_than_the_nesting(value: Any) -> None:
    def nesting(part: Any) -> int:
        if isinstance(part, list):
            return 1 + max(map(nesting, part), default=0)
        return 1 + max(map(nesting, part.values()), default=0) if isinstance(part, dict) else 0

    assert schema._depth(json.dumps(value)) >= nesting(value)


# ---- config.json


def test_the_least_config_has_its_defaults() -> None:
    config = check_config(CONFIG)
    assert (config.tile, config.depth, config.seed, config.max_pixels) == (None, None, 0, 100_000_000)
    assert (config.score_rule.smooth, config.score_rule.top) == (1, 0.001)
    assert check_config({**CONFIG, "a newer key": [1, 2]}) == config


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("method", ["a", "x" * 200], ["", "x" * 201, 3, None]),
        ("canvas", [[1, 1], [65_536, 8]], [[0, 64], [64], [64, 64, 64], [64.0, 64], [65_537, 1], "64 x 64"]),
        ("tile", [16, 65_536, None], [15, 65_537, 64.0, True]),
        ("align", [{"least": -1.0}, {"least": 1.0}, None], [{"least": 1.1}, {}, 0.5]),
        ("max_pixels", [1, 10**12], [0, 10**12 + 1]),
        ("depth", [8, 16, None], [7, 17, "12"]),
        ("seed", [0, 10**9], [-1, 0.5]),
        ("held_back", [[], ["a.png"], None], ["a.png", [1]]),
        ("export", [{"to": "onnx", "precision": "int8"}, None], [{"to": "tflite", "precision": "int8"}, {"to": "onnx"}]),
        ("score_rule", [{"reduce": "top", "top": 1.0}], [{"reduce": "mean"}, {"reduce": "top", "top": 0.0}, {}]),
    ],
)
def test_bounds_of_a_config(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_config({**CONFIG, key: value})
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{key}"):
            check_config({**CONFIG, key: value})


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_what_judging_cannot_do_without_must_be_there(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: field required"):
        check_config({name: value for name, value in CONFIG.items() if name != key})


def test_bounds_between_fields() -> None:
    with pytest.raises(ValueError, match="canvas: 10000 x 10000 pixels, at most 64,000,000"):
        check_config({**CONFIG, "canvas": [10_000, 10_000]})
    check_config({**CONFIG, "score_rule": {"reduce": "max", "smooth": 192}})
    with pytest.raises(ValueError, match=r"score_rule\.smooth: 193 on a canvas of 64 x 96"):
        check_config({**CONFIG, "score_rule": {"reduce": "max", "smooth": 193}})


@given(JSON)
@settings(max_examples=60, deadline=None)
def test_anything_else_is_a_phrase_and_never_another_error(value: Any) -> None:
    for check in (check_config, check_calibration, lambda data: checked(Manifest, data)):
        with pytest.raises(ValueError, match=r".") as error:
            check(value)
        assert "\n" not in str(error.value)


# ---- calibration.json and manifest.json


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("false_alarm", [1e-6, 0.999], [0.0, 1.0, -0.1, "0.05"]),
        ("review", [0.5], [0, 1]),
        ("confidence", [0.5, 0.999, None], [0.49, 1.0]),
        ("fixed", [-1e9, 0.0, None], [float("nan"), "1"]),
        ("folds", [0, 10], [-1, 2.0]),
        (
            "rules",
            [{"min_area": 0.0}, {"mm_per_pixel": 0.1}],
            [{"min_area": -1.0}, {"mm_per_pixel": 0.0}, {"max_count": -1}],
        ),
        ("looks", [{"brightness": [1.0]}], [{"brightness": [float("inf")]}, [1.0]]),
        ("pictures", [["ab12"]], [[1], "ab12"]),
    ],
)
def test_bounds_of_a_calibration(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert isinstance(check_calibration({**CALIBRATION, key: value}), CalibrationOf)
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{key}"):
            check_calibration({**CALIBRATION, key: value})


def test_scores_and_peaks_go_together() -> None:
    with pytest.raises(ValueError, match="peaks: 3 for 2 scores"):
        check_calibration({**CALIBRATION, "peaks": [0.1, 0.2, 0.3]})
    for values in ([], [float("nan")], ["0.1"], None):
        with pytest.raises(ValueError, match=r"^scores"):
            check_calibration({**CALIBRATION, "scores": values})


@pytest.mark.parametrize(
    "listed",
    [{"sha256": "0" * 64, "bytes": -1}, {"sha256": "0" * 63, "bytes": 1}, {"sha256": "G" * 64, "bytes": 1}, {"bytes": 1}],
)
def test_a_manifest_lists_hashes_and_sizes(listed: dict[str, Any]) -> None:
    good = {"format": 1, "made_by": "flawforge", "files": {"a": {"sha256": "0" * 64, "bytes": 0}}}
    assert checked(Manifest, good).files["a"].bytes == 0
    with pytest.raises(ValueError, match=r"^files\.a"):
        checked(Manifest, {**good, "files": {"a": listed}})
    with pytest.raises(ValueError, match="made_by"):
        checked(Manifest, {**good, "made_by": "another"})
    assert Config.model_fields.keys() >= CONFIG.keys()
