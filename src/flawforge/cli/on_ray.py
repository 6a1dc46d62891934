"""The commands that work on a Ray cluster, where --ray is given: checks, progress, what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flawforge.cli.output import fail, progress_bar, say_aside, tell
from flawforge.types import ConfigError


def check_inspect(
    paths: Sequence[Path | str], out: Path | None, workers: int | None, form: str | None, **others: Any
) -> None:
    """Refuse what a run on a cluster does not do. Raises ConfigError."""
    if out is None:
        raise ConfigError("--ray was given without a folder for the rows; add -o FOLDER.")
    if not paths:
        raise ConfigError("--ray was given without pictures; give folders, tables of paths or addresses.")
    if form not in (None, "parquet"):
        raise ConfigError(f"--format {form} was given with --ray, which writes Parquet parts; leave --format out.")
    names = [name for name, value in others.items() if value]
    names += [str(path) for path in paths if str(path) == "-"]
    if names:
        option = names[0] if names[0] == "-" else f"--{names[0].replace('_', '-')}"
        raise ConfigError(f"{option} was given with --ray, which writes rows alone; leave it out, or judge without --ray.")


def fit_products(products: Path | None, data: Path | None, out: Path, address: str | None) -> None:
    """Fit and prove every product of a file; exit code 1 where one has no model."""
    if products is None:
        what = "--ray was given without --products" if address else "No pictures were given"
        raise ConfigError(f"{what}; give DATA, a folder of good pictures, or --products FILE.toml.")
    if data is not None:
        raise ConfigError(f"{data} was given with --products, whose file names the data of each product; leave out one.")
    from flawforge.scale import products as scale

    found = scale.read_products(products, scale.options())
    try:
        with progress_bar("products", len(found), "products") as bar:
            result = scale.fit_all(found, out, address=address or "local", say=say_aside, progress=bar.at)
    except KeyboardInterrupt:
        fail(f"Interrupted; the same command goes on with what is in {out}.")
    tell(result)
    if result.failed:
        fail(f"{result.failed} of {len(result.rows)} products have no model; their rows in {out / 'products.csv'} say why.")


def inspect(
    model: Path, inspector: Any, paths: Sequence[Path | str], out: Path, address: str, workers: int | None, threads: int
) -> Any:
    """Judge on the cluster and print what came out; exit code 1 where pictures could not be judged."""
    from flawforge.scale import inspecting

    try:
        with progress_bar("inspecting", None, "pictures") as bar:
            result = inspecting.inspect(
                model,
                inspector,
                paths,
                out,
                address=address,
                workers=workers,
                threads=threads,
                say=say_aside,
                progress=bar.at,
            )
    except KeyboardInterrupt:
        fail(f"Interrupted; the finished parts are in {out}: the same command goes on with the rest.")
    tell(result)
    if result.totals["skipped"] or result.missed:
        faults = [f"{result.totals['skipped']} of {result.count} files could not be judged"] * bool(result.totals["skipped"])
        faults += [f"{result.missed} folders could not be read or held no picture"] * bool(result.missed)
        fail(f"{', '.join(faults)}; their rows say why, the rest is done.")
    return result
