"""Commands of the line: serve, and what the result store holds: results and reviews."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import click

from flawforge.cli.options import (
    COUNT,
    FILE,
    PATH,
    Command,
    Group,
    Number,
    need_serve,
    option,
    with_backend,
    with_device,
    with_max_pixels,
    with_results,
    with_seed,
)
from flawforge.cli.output import next_steps, note_version, quoted, say, tell, write_json
from flawforge.types import ConfigError

GIGABYTE = 1e9
DAYS = Number(above=0, most=36525)  # a century: the calendar has a first year


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True)
@option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; one that other machines can reach needs tokens.",
)
@option(
    "--port",
    default=8000,
    show_default=True,
    type=Number(whole=True, least=0, most=65535),
    help="Port to listen on; 0 = any free port.",
)
@option(
    "--db", default="results.db", show_default=True, metavar="URL", help="Result store: a SQLite file, or postgresql://..."
)
@option(
    "--files",
    type=PATH,
    metavar="FOLDER",
    help="Folder of kept pictures. [default: beside a SQLite file, else none]",
)
@option(
    "--token-file",
    type=FILE,
    metavar="FILE",
    help="Lines of ROLE NAME TOKEN, role operator or admin. [default: the lines in FLAWFORGE_TOKENS]",
)
@option("--watch", type=PATH, metavar="FOLDER", help="Also judge new pictures in this folder, with the first model.")
@option("--station", default="", metavar="NAME", help="Station recorded for pictures that are sent without one.")
@option(
    "--keep",
    type=click.Choice(["all", "rejects", "none"]),
    default="all",
    show_default=True,
    help="Which pictures to keep for the page and for reviews.",
)
@option(
    "--retain-days",
    type=DAYS,
    section="Limits",
    help="Delete unreviewed results, and records of pictures not judged, older than this.",
)
@option("--retain-gb", type=Number(above=0), section="Limits", help="Delete the oldest unreviewed results above this size.")
@option(
    "--queue",
    "places",
    default=32,
    show_default=True,
    type=COUNT,
    section="Limits",
    help="Maximum number of waiting pictures per model.",
)
@option("--max-mb", default=64, show_default=True, type=COUNT, section="Limits", help="Largest request in megabytes.")
@option(
    "--max-files",
    default=16,
    show_default=True,
    type=COUNT,
    section="Limits",
    help="Maximum number of pictures in one request.",
)
@option(
    "--sample-every",
    default=50,
    show_default=True,
    type=Number(whole=True, least=0),
    section="Advanced",
    help="Put about one part in this many into the review queue at random; 0 = none.",
)
@with_seed
@with_device
@with_backend
@with_max_pixels
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    db: str,
    files: Path | None,
    token_file: Path | None,
    watch: Path | None,
    device: str,
    backend: str | None,
    threads: int | None,
    max_pixels: int,
    max_mb: int,
    retain_gb: float | None,
    **settings: Any,
) -> None:
    """Judge pictures over HTTP with each of MODELS, a folder or NAME=FOLDER, and record every verdict.

    POST /v1/inspect judges, GET /v1/results lists; /openapi.json describes the rest. SIGTERM and Ctrl-C finish what was
    accepted; SIGHUP opens the models again. Logs are JSON lines on standard error.
    """
    need_serve()
    import dataclasses

    from flawforge.judging.loading import load
    from flawforge.serve import access, running, shelf
    from flawforge.serve.app import create_app
    from flawforge.serve.logs import to_standard_error
    from flawforge.serve.service import Settings
    from flawforge.store.opening import open_store
    from flawforge.store.verdicts import check_text
    from flawforge_runtime.feed import check_watch

    tokens = access.read_tokens(token_file, os.environ)
    access.check_host(host, tokens)
    check_text("station", settings["station"])
    if watch is not None:
        check_watch(watch)
    if settings["max_files"] > settings["places"]:
        raise ConfigError(f"--max-files {settings['max_files']} is above --queue {settings['places']}; raise --queue.")

    def opener(folder: Path) -> Any:
        return dataclasses.replace(load(folder, device=device, backend=backend, threads=threads), max_pixels=max_pixels)

    folders = shelf.named(models)
    kept = shelf.open_shelf(folders, opener)
    for folder in folders.values():
        note_version(folder)
    settings["most_files"], settings["most_bytes"] = settings.pop("max_files"), max_mb << 20
    settings["retain_bytes"] = None if retain_gb is None else int(retain_gb * GIGABYTE)
    hosts = () if tokens.known else ("localhost", "127.0.0.1", "::1", host)
    with open_store(db, files) as store:
        app = create_app(kept, store, tokens, Settings(watch=watch, hosts=hosts, **settings))
        to_standard_error()
        asked = "" if tokens.known else "; no token is asked for, on this machine alone"
        running.run(app, host, port, lambda address: say(f"serving {', '.join(kept.names)} at {address}{asked}"))
    say("stopped; what was accepted is recorded")


@click.group(cls=Group)
def results() -> None:
    """Export, prune and upgrade a result store."""


with_store = click.argument("db", metavar="DB")


@results.command()
@with_store
@option("-o", "--out", required=True, type=click.Path(path_type=Path), help="New file: .csv or .parquet.")
@option("--since", metavar="DATE", help="From this day or time on, such as 2026-11-26; local time.")
@option("--until", metavar="DATE", help="Before this day or time.")
@option("--station", default="", metavar="NAME", help="Of this station only.")
@option("--model", default="", metavar="NAME", help="Of this model only.")
@option("--not-judged", is_flag=True, help="Instead of results, the pictures that could not be judged, with the reason.")
def export(db: str, out: Path, since: str | None, until: str | None, station: str, model: str, not_judged: bool) -> None:
    """Write the results in DB, with their newest reviews, to a table."""
    need_serve()
    from flawforge.store import exports
    from flawforge.store.opening import open_store
    from flawforge.store.verdicts import Filter

    which = Filter(since=_moment("--since", since), until=_moment("--until", until), station=station, model=model)
    with open_store(db, create=False) as store:
        count = (exports.export_not_judged if not_judged else exports.export)(store, out, which)
    say(f"{count} {'pictures that were not judged' if not_judged else 'results'} in {out}")
    write_json({"count": count, "file": str(out)})


@results.command()
@with_store
@option(
    "--older-than", type=DAYS, metavar="DAYS", help="Delete results, and records of pictures not judged, older than this."
)
@option("--max-gb", type=Number(least=0), help="Delete the oldest until the kept files have at most this size.")
@option("--files", type=PATH, metavar="FOLDER", help="Folder of kept pictures, as for `serve`.")
@option("--reviewed", is_flag=True, help="Delete reviewed results, and their reviews, too.")
def prune(db: str, older_than: float | None, max_gb: float | None, files: Path | None, reviewed: bool) -> None:
    """Delete old results in DB and their pictures; reviewed ones stay. DB notes what was deleted."""
    need_serve()
    import getpass

    from flawforge.store.opening import open_store
    from flawforge.store.retention import prune as delete

    before = None
    if older_than is not None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than)
    size = None if max_gb is None else int(max_gb * GIGABYTE)
    with open_store(db, files, create=False) as store:
        tell(delete(store, before=before, most_bytes=size, reviewed=reviewed, who=getpass.getuser()))


@results.command()
@with_store
def upgrade(db: str) -> None:
    """Bring the tables in DB to what this flawforge needs. Back it up first; stop what writes to it."""
    need_serve()
    from flawforge.store.opening import open_to_upgrade
    from flawforge.store.opening import upgrade as migrate

    with open_to_upgrade(db) as store:
        before, after = migrate(store)
    say(f"{db}: schema {before or 'none'} is now {after}" if before != after else f"{db}: schema {after} is the newest")
    write_json({"before": before, "after": after})
    if before != after:
        next_steps(f"flawforge results export {db} -o results.csv")


@click.group(cls=Group)
def reviews() -> None:
    """Export what people said of results."""


@reviews.command("export")
@with_store
@option("-o", "--out", required=True, type=PATH, help="Folder to write; must not exist.")
@option("--marked", is_flag=True, help="Leave out defective parts of which nobody said where the defect is.")
@with_results
def export_reviews(db: str, out: Path, marked: bool, files: Path | None, served: str, station: str) -> None:
    """Write the reviewed parts in DB as a labelled folder with masks, in MVTec layout.

    `flawforge evaluate` takes the folder, and with --marked `flawforge fit --defects`. Of several reviews of a picture the
    newest counts.
    """
    need_serve()
    from flawforge.store.labelled import export_labelled
    from flawforge.store.opening import open_store
    from flawforge.store.verdicts import Filter

    with open_store(db, files, create=False) as store:
        tell(export_labelled(store, out, Filter(model=served, station=station), marked_only=marked))
    next_steps(f"flawforge evaluate MODEL {quoted(out)}", f"flawforge fit GOOD -o MODEL --defects {quoted(out)}")


def _moment(name: str, text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name} was given as {text}; give a time such as 2026-11-26 or 2026-11-26T14:30.") from None
    return moment.astimezone(datetime.UTC)
