"""A line's recipe: one TOML file with the options of each command, so that a product is always treated alike.

    [fit]
    data = "good"
    out = "bracket"
    minutes = 5
    false-alarm = "1%"
    roi = "roi.png"

    [inspect]
    model = "bracket"

Keys are the long options without their dashes, and the arguments as --help names them. Paths are relative to the recipe's
folder. What stands on the command line wins.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import click

from flawforge.types import ConfigError

HELP = "TOML file with the options of this command in a table of its name; the command line wins over it."


def read(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    """Take the defaults of the command from its table in `file`. Raises ConfigError for a file or a key that is wrong."""
    if file is None:
        return
    try:
        recipe = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--recipe was given as {file}, which cannot be read ({error.strerror}); check the path."
        ) from None
    except ValueError as error:
        raise ConfigError(f"--recipe was given as {file}, which is no TOML file: {error}.") from None
    name = ctx.command.name or ""
    table = recipe.get(name)
    if not isinstance(table, dict):
        has = ", ".join(f"[{key}]" for key in recipe) or "nothing"
        raise ConfigError(
            f"{file} has no table [{name}], it has {has}; add the options of `flawforge {name}` to such a table."
        )
    ordered = sorted(ctx.command.params, key=lambda other: isinstance(other, click.Argument))  # an argument takes its name
    names = {key: other for other in ordered for key in keys_of(other) if other is not param}
    given: dict[str, Any] = {}
    for written, value in table.items():
        key = str(written).replace("_", "-")
        if key in given:
            raise ConfigError(f"[{name}] of {file} has both {key} and {key.replace('-', '_')}; keep one of them.")
        given[key] = value
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(sorted(names))}."
            raise ConfigError(f"[{name}] of {file} has the key {key}, which `flawforge {name}` does not know; {hint}")
    values = {names[key].name or "": value_of(names[key], value, file.parent) for key, value in given.items()}
    ctx.default_map = {**(ctx.default_map or {}), **values}


def keys_of(param: click.Parameter) -> list[str]:
    """The keys by which a recipe names an option or an argument."""
    if isinstance(param, click.Argument):
        return [(param.name or "").replace("_", "-")]
    return [name.removeprefix("--") for name in param.opts if name.startswith("--")]


def value_of(param: click.Parameter, value: Any, folder: Path) -> Any:
    """What click takes for it: settings may be a table, and where a list is allowed one value stands for a list of one."""
    if isinstance(value, dict):
        value = [f"{key}={setting}" for key, setting in value.items()]
    many = param.multiple or param.nargs != 1
    if many:
        return [value_of_one(param, one, folder) for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise ConfigError(f"{keys_of(param)[0]} was given as a list in the recipe; give one value.")
    return value_of_one(param, value, folder)


def value_of_one(param: click.Parameter, value: Any, folder: Path) -> Any:
    """A path beside the recipe; anything else as it is. "auto" and timm:NAME are no paths, where they are allowed."""
    words = isinstance(value, str) and (value in ("auto", "-") or value.startswith("timm:"))
    if isinstance(param.type, click.Path) and isinstance(value, str) and not words:
        return str(folder / value)
    if isinstance(value, bool) and not getattr(param, "is_flag", False):
        given = f"{keys_of(param)[0]} was given as {str(value).lower()} in the recipe"
        raise ConfigError(f"{given}, and takes a value; give one, or leave the key out.")
    return value if isinstance(value, bool) else str(value)
