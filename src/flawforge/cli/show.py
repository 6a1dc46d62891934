"""Commands that show: forge, methods, forgers, doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flawforge.cli import known
from flawforge.cli.options import COUNT, DATA, ERROR, FILE, NEW, Command, Known, option, with_seed
from flawforge.cli.output import progress_bar, say, tell, write_json


@click.command(cls=Command)
@click.argument("data", type=DATA)
@option("-o", "--out", required=True, type=NEW, help="Folder to write; must not exist.")
@option(
    "--forger",
    "forgers",
    multiple=True,
    metavar="NAME",
    type=Known(known.FORGERS, "forger"),
    help="See `flawforge forgers`; can be given several times. [default: all]",
)
@option("--count", default=16, show_default=True, type=COUNT, help="Synthetic defects per forger.")
@option("--textures", type=FILE, help="Folder of pictures to take textures from.")
@with_seed
def forge(data: Path, out: Path, forgers: tuple[str, ...], count: int, textures: Path | None, seed: int) -> None:
    """Forge defects into the good pictures in DATA: pictures, masks and a contact sheet per forger."""
    from flawforge.reporting.contact_sheets import forge as write

    with progress_bar("forging", len(forgers) or len(known.FORGERS), "forgers") as bar:
        result = write(data, out, forgers or None, count=count, seed=seed, textures=textures, progress=bar.more)
    tell(result)


@click.command(cls=Command)
def methods() -> None:
    """List the methods and their profiles."""
    for name, method in known.METHODS.items():
        say(f"{name:<12}{method.title} [{', '.join(method.profiles.split())}]")
        say(f"{'':<12}{method.paper}")
    write_json({name: method._asdict() for name, method in known.METHODS.items()})


@click.command(cls=Command)
def forgers() -> None:
    """List the forgers and what each one does."""
    for name, title in known.FORGERS.items():
        say(f"{name:<18}{title}")
    write_json(known.FORGERS)


@click.command(cls=Command)
@option("--speed", is_flag=True, help="Also import torch, look for CUDA and time one layer; takes a few seconds.")
def doctor(speed: bool) -> None:
    """Report what this machine has, and whether it can run flawforge."""
    from flawforge.cli.doctor import examine

    result = examine(speed)
    tell(result)
    if not result.healthy:
        sys.exit(ERROR)
