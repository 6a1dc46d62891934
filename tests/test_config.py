"""Settings from files and flags: what is converted, what is refused, and what wins."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.config import override, parse_pairs, read_toml, settings_from_dict, torch_device
from flawforge.methods import METHODS
from flawforge.types import ConfigError


@dataclass(frozen=True)
class Settings:
    """One setting of each sort that methods have."""

    batch: Annotated[int, Ge(1)] = 8
    rate: Annotated[float, Interval(gt=0, le=1)] = 0.5
    kind: Literal["even", "odd"] = "even"
    stages: tuple[int, ...] = (1, 2)
    detach: bool = False
    backbone: str = "small"


@given(
    st.integers(1, 10**6),
    st.floats(0.001, 1),
    st.sampled_from(["even", "odd"]),
    st.lists(st.integers(0, 9), max_size=4),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_plain_values_become_settings_and_back(batch: int, rate: float, kind: str, stages: list[int], detach: bool) -> None:
    values = {"batch": batch, "rate": rate, "kind": kind, "stages": stages, "detach": detach}
    made = settings_from_dict(Settings, values)
    assert dataclasses.asdict(made) == values | {"stages": tuple(stages), "backbone": "small"}
    assert settings_from_dict(Settings, dataclasses.asdict(made)) == made


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch": 0}, "Setting batch was given as 0; .*greater than or equal to 1"),
        ({"batch": "many"}, "Setting batch was given as 'many'"),
        ({"batch": 2.5}, "Setting batch was given as 2.5"),
        ({"rate": 0.0}, "Setting rate was given as 0.0; .*greater than 0"),
        ({"rate": 1.5}, "Setting rate was given as 1.5; .*less than or equal to 1"),
        ({"kind": "prime"}, "Setting kind was given as 'prime'; .*'even' or 'odd'"),
        ({"stages": [1, "two"]}, r"Setting stages\.1 was given as 'two'"),
        ({"detach": "perhaps"}, "Setting detach was given as 'perhaps'"),
        ({"bacth": 4}, r"There is no setting 'bacth'; did you mean batch\?"),
        ({"colour": 1}, "There is no setting 'colour'; allowed are batch, rate, kind, stages, detach, backbone"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        settings_from_dict(Settings, values)
    assert "\n" not in str(error.value)


def test_overriding_changes_what_is_named_alone() -> None:
    base = Settings(batch=4, kind="odd")
    changed = override(base, {"rate": 1})
    assert changed == dataclasses.replace(base, rate=1.0)
    assert override(base, {}) == base
    with pytest.raises(ConfigError, match="batch"):
        override(base, {"batch": -1})
    assert base == Settings(batch=4, kind="odd")


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        ("batch=4", "batch", 4),
        (" batch = 4", "batch", 4),
        ("rate=0.5", "rate", 0.5),
        ("rate=1e-3", "rate", 1e-3),
        ("detach=true", "detach", True),
        ("kind=odd", "kind", "odd"),
        ('kind="odd"', "kind", "odd"),
        ("stages=[1, 2]", "stages", [1, 2]),
        ("backbone=vit/8/16", "backbone", "vit/8/16"),
        ("backbone=a=b", "backbone", "a=b"),
        ("backbone=", "backbone", ""),
    ],
)
def test_a_pair_is_read_as_toml_and_as_text_where_it_is_none(pair: str, key: str, value: Any) -> None:
    assert parse_pairs([pair]) == {key: value}


def test_the_last_of_equal_pairs_wins() -> None:
    assert parse_pairs(["batch=4", "kind=odd", "batch=6"]) == {"batch": 6, "kind": "odd"}
    assert parse_pairs([]) == {}


@pytest.mark.parametrize("pair", ["batch", "=4", "  = 4", ""])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="give KEY=VALUE"):
        parse_pairs([pair])


@given(st.text(alphabet="ab1.=[]{}'\"#, +-ü€/\\", max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_value(text: str) -> None:
    values = parse_pairs([f"key={text}"])
    assert list(values) == ["key"]


def test_a_file_of_settings_is_read(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('batch = 4\nstages = [2, 3]\nkind = "odd"\n')
    assert read_toml(file) == {"batch": 4, "stages": [2, 3], "kind": "odd"}
    assert settings_from_dict(Settings, read_toml(file)) == Settings(batch=4, stages=(2, 3), kind="odd")


@pytest.mark.parametrize("content", [b"batch = \n", b"batch 4", b"\xff\xfe", b"[a\n"])
def test_a_file_that_is_no_toml_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="is not valid TOML") as error:
        read_toml(tmp_path / "s.toml")
    assert str(tmp_path / "s.toml") in str(error.value)
    with pytest.raises(ConfigError, match="There is no settings file"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_every_profile_can_be_given_as_a_pair(name: str) -> None:
    """What `--set` would write for the values in force gives the same settings."""
    for profile in METHODS[name].profiles.values():
        pairs = []
        for field in dataclasses.fields(profile):
            value = getattr(profile, field.name)
            text = (
                str(value).lower()
                if isinstance(value, bool)
                else str(list(value))
                if isinstance(value, tuple)
                else str(value)
            )
            if value is not None:
                pairs.append(f"{field.name}={text}")
        assert override(profile, parse_pairs(pairs)) == profile


def test_a_device_that_is_not_there_is_refused() -> None:
    import torch

    assert torch_device("cpu") == "cpu"
    assert torch_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="'tpu' was given; give auto, cpu or cuda"):
        torch_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no CUDA device; give --device cpu"):
            torch_device("cuda")
