"""What real defects (`--defects`) change of a fit: they are drawn into good pictures beside the method's forgeries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flawforge.forge.mixtures import Mix
from flawforge.forge.transplant import Transplant
from flawforge.methods import METHODS
from flawforge.pictures.defects import Defects, read_defects
from flawforge.types import Collect, ConfigError, Forger, Method, Prove, Stage

REAL_TRAINING, REAL_PROOF = 0.25, 0.5  # share of the forgeries that are real defects where there are any; assumptions
NO_DEFECTS = "--defects {data} holds good pictures alone, so nothing changes"


def real_defects(
    data: Path | None, method: Method, good: Sequence[Path], max_pixels: int, depth: int | None
) -> Defects | None:
    """The real defects of --defects; None where there are none. good: the good pictures of the fit.

    Raises ConfigError for a method that trains on no defects, and as `read_defects`.
    """
    if data is None:
        return None
    if method.forger is None:
        able = ", ".join(known.name for known in METHODS.values() if known.forger)
        raise ConfigError(
            f"--defects was given, but method {method.name} learns from good pictures alone (methods that train on defects: "
            f"{able}); leave out --defects."
        )
    return read_defects(data, good, max_pixels=max_pixels, depth=depth)


def forgers_of(
    forger: Forger, stages: Sequence[Stage], defects: Defects | None, canvas: tuple[int, int], tile: int | None
) -> list[Forger]:
    """What each stage's defects are drawn by: its own forger or the method's, and the real defects beside it.

    A training stage sees the real defects for training. What proves after one sees those that training never saw, if there
    are any; what proves before any training sees all, for nothing has learnt them by heart. ConfigError where no stage draws
    defects, so that real ones would change nothing.
    """
    if defects is not None and all(isinstance(stage, Collect) for stage in stages):
        raise ConfigError(
            "--defects was given, but with these settings and good pictures no defects are trained on or judged by; leave "
            "out --defects."
        )
    chosen: list[Forger] = []
    trained = False
    for stage in stages:
        own = forger if isinstance(stage, Collect) else stage.forger or forger
        if defects is not None and not isinstance(stage, Collect):
            proves = isinstance(stage, Prove)
            some = defects.trained if not proves else defects.proving if trained else defects.pictures
            pieces = defects.pieces(some, canvas, tile)
            share = REAL_PROOF if proves else REAL_TRAINING
            own = Mix((own, Transplant(pieces)), (1.0 - share, share)) if pieces else own
            trained = trained or not proves
        chosen.append(own)
    return chosen
