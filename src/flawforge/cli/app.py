"""The group of commands. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from flawforge import __version__
from flawforge.cli import fit, judge, learn, line, prove, show
from flawforge.cli.options import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="flawforge")
def main() -> None:
    """Train on good parts. Forge the flaws. Find the real ones.

    A higher score is more anomalous. No command needs a network.
    """


for command in (
    learn.demo,
    fit.fit,
    learn.calibrate,
    learn.recalibrate,
    judge.inspect,
    judge.export,
    judge.bench,
    line.serve,
    line.results,
    line.reviews,
    prove.evaluate,
    prove.pod,
    prove.drift,
    prove.report,
    show.forge,
    show.methods,
    show.forgers,
    show.doctor,
):
    main.add_command(command)


def leaves(group: click.Group = main, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """(name as it is typed after flawforge, command) of every command that does something, those of groups too."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command
