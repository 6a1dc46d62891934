"""Commands that show: forge, methods, forgers, doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flawforge.cli.options import progress_bar, say, tell, with_seed


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
@click.option("--forger", "forgers", multiple=True, metavar="NAME", help="See `flawforge forgers`. [default: all]")
@click.option("--count", default=16, show_default=True, help="Forgeries per forger.")
@click.option("--textures", type=click.Path(path_type=Path), help="Folder of pictures to take textures for forgeries from.")
@with_seed
def forge(data: Path, out: Path, forgers: tuple[str, ...], count: int, textures: Path | None, seed: int) -> None:
    """Forge defects into the good pictures in DATA: pictures, masks and a contact sheet per forger."""
    from flawforge.forge import FORGERS
    from flawforge.reporting.contact_sheets import forge as write

    with progress_bar("forging", len(forgers) or len(FORGERS), "forger") as bar:

        def turn(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        result = write(data, out, forgers or None, count=count, seed=seed, textures=textures, progress=turn)
    tell(result)


@click.command()
def methods() -> None:
    """List the methods and their profiles."""
    from flawforge.methods import METHODS

    for method in METHODS.values():
        say(f"{method.name:<12}{method.title} [{', '.join(method.profiles)}]")
        say(f"{'':<12}{method.paper}")


@click.command()
def forgers() -> None:
    """List the forgers and what each one does."""
    from flawforge.forge import FORGERS

    for name, kind in FORGERS.items():
        say(f"{name:<18}{(kind.__doc__ or '').strip().splitlines()[0]}")


@click.command()
def doctor() -> None:
    """Report what this machine has, and whether it can run flawforge."""
    from flawforge.cli.doctor import examine

    healthy, lines = examine()
    for line in lines:
        say(line)
    if not healthy:
        sys.exit(1)
