"""TOML files and KEY=VALUE pairs -> validated settings. A flag wins over a file, a file over a profile."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from flawforge.types import ConfigError

Settings = TypeVar("Settings")

MOST_SEED = 10**18  # torch and databases hold 64 bits


def settings_from_dict(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """A settings dataclass from plain values, each converted and checked. Raises ConfigError naming the first bad key."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}."
            raise ConfigError(f"There is no setting '{key}'; {hint}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"Setting {key} was given as {first['input']!r}; {first['msg'].lower()}.") from error


def override(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """`settings` with some values replaced, checked like all others."""
    current = dataclasses.asdict(settings)  # type: ignore[call-overload]
    return settings_from_dict(type(settings), current | dict(values))


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """["batch=4", "schedule=steps"] -> {"batch": 4, ...}; values are read as TOML, and as text where they are no TOML."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set was given as '{pair}'; give KEY=VALUE, for example --set batch=4.")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """A flat TOML file of settings. Raises ConfigError with the line where it is not valid."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"There is no settings file {path}; give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {path} is not valid TOML ({error}); mend it or leave out --config.") from error


def whole_number(name: str, value: object, least: int, most: int) -> int:
    """What an option was given as, as an int; numpy's will do. ConfigError for all else than `least` to `most`."""
    if not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most:
        return int(value)
    raise ConfigError(f"{name} was given as {value!r}; give a whole number from {least:,} to {most:,}.")


def checked_seed(seed: object) -> int:
    """The seed as an int. Raises ConfigError where no generator can start from it."""
    return whole_number("seed", seed, 0, MOST_SEED)


def torch_device(name: str) -> str:
    """Resolve auto, cpu or cuda to cpu or cuda. Raises ConfigError for another name, or for a CUDA that is not there."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"Device '{name}' was given; give auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Device 'cuda' was given but torch finds no CUDA device; give --device cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
