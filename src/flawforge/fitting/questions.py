"""What is asked of the good pictures before anything is learnt from them: does any of them not belong to the others?

    score    how far the most anomalous patch of a picture lies from the nearest patch of other pictures, by the features of
             a network trained on natural images, or by plain pixels where outside weights are forbidden
    limit    above it a picture stands out; see `pictures.screening.outlier_limit`

A picture is never compared with others of its own part or of its own fold, so a defect that is photographed twice does not
vouch for itself. Nothing is removed unasked; `--clean` leaves out what stands out, and names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flawforge.fitting import planning
from flawforge.fitting.planning import Plan, same_part
from flawforge.nn.efficientnet_lite import packaged
from flawforge.nn.nearest import distances
from flawforge.nn.patches import PatchFeatures
from flawforge.pictures.listing import Entry, part_of
from flawforge.pictures.screening import LEAST, TINY, Screening, outlier_limit
from flawforge.types import ConfigError, DataError
from flawforge_runtime import images, maps

TRUNK, STAGES, GRID = "lite0", (1, 2, 3), 16
FOLDS = 5
PATCHES = 8000  # of the other folds' that a picture is compared with, drawn at random


def questioned(plan: Plan, progress: Callable[[int, int], None] = lambda done, total: None) -> Plan:
    """The plan with what a comparison of the good pictures with each other found; with `clean`, without the suspects.

    Raises DataError with `strict` where a picture stands out from the others.
    """
    screening = screened(plan, progress)
    request, suspects = plan.request, screening.suspects
    if suspects and request.strict and not request.clean:
        named = ", ".join(f"{path} ({score:.3g})" for path, score in suspects[:3])
        raise DataError(
            f"{len(suspects)} of {len(screening.scores)} good pictures stand{'s' * (len(suspects) == 1)} out from the "
            f"others (limit {screening.limit:.3g}; {named}); remove those that are not good, or use --clean, or leave out "
            "--strict."
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


def screen(
    pictures: Iterable[tuple[Path, Tensor, Tensor]],
    groups: Sequence[Sequence[Path]],
    features: Callable[[Tensor], Tensor],
    name: str,
    seed: int = 0,
) -> Screening:
    """Compare each picture with the others.

    pictures  (path, 1 3 h w in [0, 1], where it is judged 1 1 h w), read once and in order
    groups    paths of pictures of one part: they stay in one fold
    features  1 3 h w -> 1 d gh gw; name: what they are, for people
    """
    paths: list[Path] = []
    patches: list[Tensor] = []
    for path, image, valid in pictures:
        with torch.inference_mode():
            description = features(image).float()
        judged = F.adaptive_max_pool2d(valid, description.shape[-2:])[0, 0] > 0
        paths.append(path)
        patches.append(description[0][:, judged].T.half())
    dealt = _folds(paths, groups, seed)
    rng = np.random.default_rng(seed)
    scale = _scale(patches)
    scores = torch.zeros(len(paths))
    for fold in range(FOLDS):
        own = [place for place, fold_of_picture in enumerate(dealt) if fold_of_picture == fold and len(patches[place])]
        others = [patches[place] for place, fold_of_picture in enumerate(dealt) if fold_of_picture != fold]
        if not own or not sum(map(len, others)):
            continue
        bank = _some(torch.cat(others), rng) * scale
        for place in own:
            scores[place] = distances(patches[place].float()[None] * scale, bank).max()
    order = sorted(range(len(paths)), key=lambda place: (-float(scores[place]), str(paths[place])))
    ranked = tuple((paths[place], float(scores[place])) for place in order)
    limit = outlier_limit(np.log(np.maximum([score for _, score in ranked], TINY)).tolist())
    return Screening(ranked, None if limit is None else float(np.exp(limit)), name)


def _folds(paths: Sequence[Path], groups: Sequence[Sequence[Path]], seed: int) -> list[int]:
    """The fold of each picture; a group stays together, folds are dealt at random."""
    first = {path: number for number, path in enumerate(paths)}
    unit = list(range(len(paths)))
    for group in groups:
        known = [first[path] for path in group if path in first]
        for place in known:
            unit[place] = min(unit[picture] for picture in known)
    own = sorted(set(unit))
    dealt = np.random.default_rng(seed).permutation(len(own)) % FOLDS
    of_unit = {number: int(fold) for number, fold in zip(own, dealt, strict=True)}
    return [of_unit[number] for number in unit]


def _scale(patches: Sequence[Tensor]) -> Tensor:
    """What makes each feature's deviation 1, over all patches; d."""
    count = sum(len(features) for features in patches)
    total = sum(
        (features.double().sum(dim=0) for features in patches), torch.zeros(patches[0].shape[1], dtype=torch.float64)
    )
    mean = total / max(count, 1)
    square = sum(((features.double() - mean).square().sum(dim=0) for features in patches), torch.zeros_like(mean))
    deviation = (square / max(count, 1)).sqrt()
    return (1 / deviation.clamp_min(max(1e-3 * float(deviation.max()), 1e-12))).float()


def _some(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """PATCHES of them at random, float32."""
    if len(patches) > PATCHES:
        patches = patches[torch.from_numpy(rng.choice(len(patches), PATCHES, replace=False))]
    return patches.float()


def features_for(outside_weights: bool) -> tuple[Callable[[Tensor], Tensor], str]:
    """What pictures are compared by, 1 3 h w -> 1 d gh gw, and its name: TRUNK's features, or plain pixels.

    Pixels where outside weights are forbidden, or the package that holds them is missing.
    """
    if outside_weights:
        try:
            weights = packaged(TRUNK)
        except ConfigError:
            return pixel_features, f"pixels, as the weights of {TRUNK} are not installed"
        net = PatchFeatures(TRUNK, STAGES, local=True, grid=GRID).eval().requires_grad_(False)
        net.trunk.fill(weights, TRUNK)
        return lambda image: net(image), f"features of {TRUNK}"
    return pixel_features, "pixels"


def pixel_features(image: Tensor) -> Tensor:
    """1 3 h w -> 1 48 gh gw: of each 16 x 16 pixels the 4 x 4 means, less their common mean, and that mean itself."""
    cells = F.pixel_unshuffle(F.avg_pool2d(image, 4), 4)
    colour = cells.unflatten(1, (3, 16)).mean(dim=2, keepdim=True)
    apart = (cells.unflatten(1, (3, 16)) - colour).flatten(1, 2)
    return torch.cat([apart, colour.flatten(1, 2)], dim=1)
