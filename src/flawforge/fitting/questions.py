"""What is asked of the good pictures before anything is learnt from them: does any of them not belong to the others?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flawforge.fitting import planning
from flawforge.fitting.planning import Plan, same_part
from flawforge.pictures.listing import Entry, part_of
from flawforge.pictures.screening import LEAST, Screening, features_for, screen
from flawforge.types import DataError
from flawforge_runtime import images, maps


def questioned(plan: Plan, progress: Callable[[int, int], None] = lambda done, total: None) -> Plan:
    """The plan with what a comparison of the good pictures with each other found; with `clean`, without the suspects.

    Raises DataError with `strict` where a picture stands out from the others.
    """
    screening = screened(plan, progress)
    request, suspects = plan.request, screening.suspects
    if suspects and request.strict and not request.clean:
        named = ", ".join(f"{path} ({score:.3g})" for path, score in suspects[:3])
        raise DataError(
            f"{len(suspects)} of {len(screening.scores)} good pictures stand out from the others (limit "
            f"{screening.limit:.3g}; {named}); remove those that are not good, or use --clean, or leave out --strict."
        )
    if suspects and request.clean:
        plan = planning.plan(request, without=[path for path, _ in suspects])
        left_out = ", ".join(path.name for path, _ in suspects)
        note = f"--clean left out {len(suspects)} of {len(screening.scores)} good pictures that stand out: {left_out}"
        plan = replace(plan, notes=(*plan.notes, note))
    return replace(plan, screening=screening)


def screened(plan: Plan, progress: Callable[[int, int], None] = lambda done, total: None) -> Screening:
    """The plan's good pictures, for training and held back, each compared with the others."""
    entries = sorted((*plan.train, *plan.held), key=lambda entry: entry.path)
    if len(entries) < LEAST:
        return Screening(tuple((entry.path, 0.0) for entry in entries), None, "")
    groups = [*plan.report.duplicate_groups, *same_part(part_of(entries, plan.request.group_by))]
    features, name = features_for(plan.request.trunk != "none")
    return screen(_pictures(plan, entries, progress), groups, features, name, plan.request.seed)


def _pictures(
    plan: Plan, entries: Sequence[Entry], progress: Callable[[int, int], None]
) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """Each as it lies on the canvas, and where it is judged."""
    for done, entry in enumerate(entries, start=1):
        picture = images.read_picture(entry.path, max_pixels=plan.request.max_pixels, depth=plan.request.depth)
        laid = maps.lay(*images.letterbox(picture.pixels, plan.canvas), plan.roi, plan.template)
        yield entry.path, torch.from_numpy(maps.to_network(laid.pixels)), torch.from_numpy(laid.valid)[None, None].float()
        progress(done, len(entries))
