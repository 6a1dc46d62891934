"""Where a fit keeps its checkpoint, and whether its model folder can be written. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from flawforge.types import ModelError
from flawforge_runtime import bundle, files


def work_folder(out: Path) -> Path:
    """Where a fit keeps its checkpoint until the model folder is complete."""
    return out.with_name(f"{out.name}.fitting")


def checkpoint_file(out: Path) -> Path:
    """What `--resume` goes on from."""
    return work_folder(out) / "checkpoint.safetensors"


def check_output(out: Path, resume: bool) -> None:
    """Refuse, before any work, a model folder that exists, and a started fit unless it is to be resumed."""
    work = work_folder(out)
    if checkpoint_file(out).exists() and not resume:
        raise ModelError(
            f"{work} holds an unfinished fit; add --resume to continue it, or remove the folder to start again."
        )
    early = resume and (out / "manifest.json").is_file()  # what a method saves before it trains
    if not early and not files.free(out):
        raise ModelError(bundle.TAKEN.format(folder=out))
    if resume and not checkpoint_file(out).is_file():
        raise ModelError(f"There is no checkpoint in {work} to resume from; leave out --resume to start the fit.")
