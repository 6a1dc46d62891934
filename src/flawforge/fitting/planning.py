"""All that is decided before training, from the request and the good pictures alone; and what training is then given."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawforge import config
from flawforge.fitting import engine
from flawforge.fitting.devices import check_devices, lines
from flawforge.fitting.promises import promised_rates
from flawforge.fitting.real_defects import NO_DEFECTS, forgers_of, real_defects
from flawforge.judging import loading
from flawforge.methods import METHODS
from flawforge.nn.ranks import WHOLE, Part
from flawforge.pictures import dataset, tolerance
from flawforge.pictures.alignment import PICTURES as REGISTERED_FROM
from flawforge.pictures.alignment import Registration, register
from flawforge.pictures.batches import LEAST as LEAST_UNITS
from flawforge.pictures.batches import TOO_FEW, Batches, find_batches
from flawforge.pictures.defects import Defects
from flawforge.pictures.listing import check_for_fit, evenly, part_of, textures_in, thinned
from flawforge.pictures.region import product_mask
from flawforge.pictures.saliency import background_of, saliency
from flawforge.pictures.screening import Screening
from flawforge.types import (
    Batch,
    Collect,
    ConfigError,
    DataError,
    Forged,
    Image,
    ImageError,
    Init,
    Mask,
    Method,
    Prove,
    Sample,
    Stage,
    TrainingError,
    TrainingSettings,
)
from flawforge_runtime import images, maps, tiles
from flawforge_runtime.poses import Template
from flawforge_runtime.rates import ROUNDED, strictest_rate

DEFAULT_MINUTES = 10.0
METHOD = "auto"
LEAST_SIDE, MOST_SIDE = 32, 1 << 16  # of --size
BACKGROUND_FROM = 24
AUTO_ROI, ROI_FROM = Path("auto"), 48
LEAST_TILE, MOST_TILES = 32, 2000


@dataclass(frozen=True)
class Request:
    """What the user asked of `fit`; the names are the command line's. ConfigError for a seed, size or depth that is none."""

    data: Path
    out: Path
    method: str = METHOD
    profile: str = ""
    minutes: float | None = None
    clock: str = "wall"
    steps: int | None = None
    size: int = 256
    tile: int | None = None
    roi: Path | None = None
    ignore: Path | None = None
    align: str = "auto"
    textures: Path | None = None
    init: Path | None = None
    trunk: str = ""
    false_alarm: float | None = None
    review: float | None = None
    confidence: float | None = None
    holdout: float | str = 0.2
    group_by: str | None = None
    tolerate: str = ""
    strict: bool = False
    clean: bool = False
    other_day: Path | None = None
    both_days: bool = False
    defects: Path | None = None
    seed: int = 0
    workers: int = 1
    device: str = "auto"
    max_pixels: int = images.MAX_PIXELS
    depth: int | None = None
    checkpoint_every: float = 60.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        whole = {"seed": (0, config.MOST_SEED), "size": (LEAST_SIDE, MOST_SIDE), "depth": (8, 16)}
        for name, (least, most) in whole.items():
            value = getattr(self, name)
            if (name, value) != ("depth", None):
                object.__setattr__(self, name, config.whole_number(name, value, least, most))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `request_from` reads it."""
        told = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        paths = {name: {"path": str(value)} for name, value in told.items() if isinstance(value, Path)}
        return told | paths | {"settings": dict(self.settings)}


def request_from(told: Mapping[str, Any]) -> Request:
    """The request that `Request.as_dict` told."""
    paths = {name: Path(each["path"]) for name, each in told.items() if isinstance(each, dict) and name != "settings"}
    return Request(**{**told, **paths})


@dataclass(frozen=True)
class Plan:
    """All that is decided before training, from the request and the good pictures alone."""

    request: Request
    method: Method
    settings: Any
    report: dataset.DataReport
    train: tuple[dataset.Entry, ...]
    held: tuple[dataset.Entry, ...]
    canvas: tuple[int, int]
    budget: engine.Budget
    rates: tuple[float, float]
    roi: Mask | None
    template: Template | None
    notes: tuple[str, ...]
    init: Init | None = None
    trunk: Init | None = None
    parts: Mapping[Path, str] | None = None  # which part each held-back picture shows, where that is known
    batches: Batches | None = None  # blocks of neighbours that were held back or trained on as a whole
    screening: Screening | None = None  # see questions.py; None = not asked yet
    defects: Defects | None = None  # real ones, from --defects; None = there are none


def plan(request: Request, *, progress: Callable[[int, int], None] | None = None, without: Collection[Path] = ()) -> Plan:
    """Check the request and the data. Reads good training pictures only. Raises a FlawforgeError in one sentence.

    without  good pictures that are left out, as if they were not there
    """
    method = _method(request.method)
    profile = request.profile or next(iter(method.profiles))
    if profile not in method.profiles:
        raise ConfigError(f"Profile '{profile}' was given; method {method.name} has {', '.join(method.profiles)}.")
    # A method that trains on from --init starts from that alone, unless a trunk is asked for by name.
    asked = request.trunk or ("none" if request.init is not None and method.start and method.trunk else "")
    base, values, trunk = loading.choose_trunk(asked, method, method.profiles[profile], request.settings)
    settings = config.override(base, values)
    init = _init(request, method)
    able = [each.name for each in METHODS.values() if each.parts]
    check_devices((request.devices, request.nodes), request.device, settings.batch, method.name, able)
    check_for_fit(request.data)
    listing = dataset.read_listing(request.data)
    named = [entry for entry in dataset.good_entries(listing.entries) if entry.path not in without]
    refuse_early(request, named)
    report = dataset.check_data(
        dataset.good_entries(listing.entries),
        max_pixels=request.max_pixels,
        depth=request.depth,
        progress=progress,
        notes=listing.notes,
    )
    good = tuple(entry for entry in report.readable(dataset.good_entries(listing.entries)) if entry.path not in without)
    if request.data.is_dir() and not dataset.good_entries(listing.entries):
        raise TrainingError(
            f"{request.data} has no folder train/good with pictures to learn from; pictures in test are never learnt from."
        )
    if len(good) < 2:
        reasons = "; ".join(reason for _, reason in report.unreadable[:3])
        raise TrainingError(
            f"{request.data} holds {len(good)} readable good picture{'s' * (len(good) != 1)} and at least 2 are needed, one "
            f"to train on and one to hold back; add pictures of good parts{f' (skipped: {reasons})' if reasons else ''}."
        )
    defects = real_defects(request.defects, method, [entry.path for entry in good], request.max_pixels, request.depth)
    parts = part_of(good, request.group_by)
    groups = [*report.duplicate_groups, *same_part(parts)]
    batches, few = None, 0
    if parts is None and isinstance(request.holdout, float) and not any(entry.split == "calibration" for entry in good):
        units = dataset.units(good, groups)
        batches = find_batches(units, report.likenesses, request.seed)
        few = len(units) if len(units) < LEAST_UNITS else 0
    train, held = dataset.split_holdout(good, batches.blocks if batches else groups, request.holdout, request.seed)
    parts = parts and {entry.path: parts[entry.path] for entry in held}
    n = len(held) if parts is None else len(set(parts.values()))
    total = len(good) if parts is None else 0
    rates, notes = promised_rates(n, request.false_alarm, request.review, request.confidence, total, request.holdout)
    if batches is not None:
        notes = (*notes, *batches.lines())
    if few:
        notes = (*notes, TOO_FEW.format(n=few, least=LEAST_UNITS))
    if len(train) < len(held) and isinstance(request.holdout, float):
        notes = (*notes, f"{len(train)} of {len(good)} good pictures to learn from are few; a lower --holdout leaves more")
    if tolerance.kinds_from(request.tolerate):
        notes = (*notes, f"tolerated on good parts, and so learnt and promised for: {request.tolerate}")
    if request.roi == AUTO_ROI:
        notes = (*notes, "the region of interest was found in the good pictures")
    roi = read_roi(request.roi, report.all_sizes(), request.max_pixels, train, request.depth)
    roi = less_ignored(roi, request.ignore, report.all_sizes(), request.max_pixels)
    if request.tile is not None and request.tile < LEAST_TILE:
        raise ConfigError(f"--tile was given as {request.tile}; allowed are {LEAST_TILE} pixels or more.")
    sizes = report.all_sizes() if request.tile is None else [(request.tile, request.tile)]
    canvas = images.choose_canvas(sizes, request.size)
    budget = _budget(request, settings, len(train))
    laid = registered(request, train, canvas)
    notes = (*notes, laid.note) if laid.note else notes
    notes = (*notes, *lines(request.devices * request.nodes))
    if request.defects is not None:
        notes = (*notes, *(defects.lines() if defects else [NO_DEFECTS.format(data=request.defects)]))
    like = laid.template
    kept = (train, held, canvas, budget, rates, roi, like, notes, init, trunk, parts, batches, None, defects)
    return Plan(request, method, settings, report, *kept)


def refuse_early(request: Request, named: Sequence[dataset.Entry]) -> None:
    """Refuse rates that these good pictures cannot support, however they are held back, before any of them is read.

    Raises CalibrationError, or what else the hold-out comes to.
    """
    asked = [rate for rate in (request.false_alarm, request.review) if rate is not None]
    parts = part_of(named, request.group_by)
    count = len(named) if parts is None else len(set(parts.values()))
    if not asked or count < 2 or min(asked) >= strictest_rate(count - 1, request.confidence) * (1.0 - ROUNDED):
        return
    _, held = dataset.split_holdout(named, same_part(parts), request.holdout, request.seed)
    n = len(held) if parts is None else len({parts[entry.path] for entry in held})
    promised_rates(n, request.false_alarm, request.review, request.confidence, 0, request.holdout)


def registered(request: Request, train: Sequence[dataset.Entry], canvas: tuple[int, int]) -> Registration:
    """Whether, and like what, parts are laid before they are judged. Raises ConfigError."""
    if request.tile is not None:
        if request.align == "on":
            raise ConfigError("--align on was given with --tile, and tiles have no pose; leave out one of the two.")
        return Registration(None, "")
    some = []
    for entry in evenly(train, REGISTERED_FROM) if request.align != "off" else ():
        picture = images.read_picture(entry.path, max_pixels=request.max_pixels, depth=request.depth)
        pixels, placement = images.letterbox(picture.pixels, canvas)
        some.append((pixels, images.valid_mask(placement)))
    return register(some, request.align)


def _init(request: Request, method: Method) -> Init | None:
    if request.init is None:
        return None
    if method.start is None:
        if method.trunk is not None:
            raise ConfigError(
                f"--init was given, but method {method.name} trains no other weights further; give them as --trunk."
            )
        able = ", ".join(each.name for each in METHODS.values() if each.start) or "none so far"
        raise ConfigError(
            f"--init was given, but method {method.name} starts from nothing but its pictures (methods that can start from "
            f"other weights: {able}); leave out --init."
        )
    return loading.read_init(request.init)


def same_part(parts: Mapping[Path, str] | None) -> list[list[Path]]:
    """The pictures of each part, so that no part is on both sides of the hold-out."""
    together: dict[str, list[Path]] = {}
    for path, part in (parts or {}).items():
        together.setdefault(part, []).append(path)
    return [paths for paths in together.values() if len(paths) > 1]


def _method(name: str) -> Method:
    if name not in METHODS:
        raise ConfigError(f"Method '{name}' was given; allowed are {', '.join(METHODS)}.")
    return METHODS[name]


def _budget(request: Request, settings: TrainingSettings, pictures: int) -> engine.Budget:
    if request.steps is not None or request.minutes is not None:
        return engine.Budget(steps=request.steps, minutes=request.minutes, clock=request.clock)
    if settings.epochs:
        return engine.Budget(steps=max(1, round(settings.epochs * pictures / settings.batch)))
    return engine.Budget(minutes=DEFAULT_MINUTES, clock=request.clock)


def roi_of(train: Sequence[dataset.Entry], max_pixels: int, depth: int | None = None) -> Mask:
    """Where the product lies in the good training pictures (--roi auto). Raises ConfigError where they show none."""
    some = thinned(train, ROI_FROM)
    good = [images.read_picture(entry.path, max_pixels=max_pixels, depth=depth).pixels for entry in some]
    roi = product_mask(good)
    for picture in good:
        maps.fit_roi(roi, (picture.shape[0], picture.shape[1]))
    return roi


def read_roi(
    path: Path | None,
    sizes: Sequence[tuple[int, int]],
    max_pixels: int,
    train: Sequence[dataset.Entry] = (),
    depth: int | None = None,
) -> Mask | None:
    """A region of interest from a mask picture (white = judged) that must fit every good picture's proportions."""
    if path is None:
        return None
    if path == AUTO_ROI:
        return roi_of(train, max_pixels, depth)
    roi: Mask = images.read_picture(path, max_pixels=max_pixels).pixels.max(axis=2) > 127
    if not roi.any():
        raise ImageError(f"The region of interest {path} is all black; paint what is to be judged white.")
    for size in sorted(set(sizes)):
        maps.fit_roi(roi, size)
    return roi


def less_ignored(roi: Mask | None, path: Path | None, sizes: Sequence[tuple[int, int]], max_pixels: int) -> Mask | None:
    """The region of interest (None = all) without what a mask picture shows white, which must fit every good picture's
    proportions. Raises ImageError where nothing is left to judge."""
    if path is None:
        return roi
    ignored: Mask = images.read_picture(path, max_pixels=max_pixels).pixels.max(axis=2) > 127
    for size in sorted(set(sizes)):
        maps.same_proportions(ignored, size, f"The ignore mask {path}")
    roi = np.ones_like(ignored) if roi is None else roi
    left: Mask = roi & ~maps.fit_roi(ignored, roi.shape)
    if not left.any():
        raise ImageError(f"The ignore mask {path} leaves nothing to judge; paint white only what is not to be judged.")
    return left


def seeded(build: Callable[[Any], Any], settings: Any, seed: int) -> Any:
    """Build a net whose first weights follow from `seed`, leaving torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(settings)


def new_net(plan: Plan) -> tuple[Any, tuple[str, ...]]:
    """The net before training, with the weights of --trunk and --init in it, and what the method says of those.

    Raises ModelError where the weights do not fit the method's settings.
    """
    net = seeded(plan.method.build, plan.settings, plan.request.seed)
    said: list[str] = []
    for weights, put in ((plan.trunk, plan.method.trunk), (plan.init, plan.method.start)):
        if weights is not None and put is not None:
            said += put(net, plan.settings, weights)
    return net, tuple(said)


def load_pictures(plan: Plan) -> dataset.GoodPictures:
    """The training pictures on the canvas, with textures, the region of interest and the saliency that the forger wants."""
    request = plan.request
    entries, roi, folder = plan.train, plan.roi, None
    if request.tile is not None:
        folder = Path(tempfile.mkdtemp(prefix="flawforge-tiles-"))
        entries, roi = cut_tiles(plan, request.tile, folder), None
    pictures = dataset.GoodPictures(
        entries,
        plan.canvas,
        roi=roi,
        template=plan.template,
        textures=textures_in(request.textures),
        prior=_prior(plan),
        max_pixels=request.max_pixels,
        depth=request.depth,
        tolerate=tolerance.kinds_from(request.tolerate),
        seed=request.seed,
    )
    if folder is not None:
        weakref.finalize(pictures, shutil.rmtree, folder, ignore_errors=True)  # pictures beyond the cache are read again
    return pictures


def cut_tiles(plan: Plan, side: int, folder: Path) -> tuple[dataset.Entry, ...]:
    """The training pictures cut into tiles of `side` pixels, as PNG files in `folder`; those wholly in the roi.

    At most MOST_TILES, as many from each picture, evenly spread. Raises DataError where not one lies in the region.
    """
    each = max(1, MOST_TILES // len(plan.train))
    entries = []
    for number, entry in enumerate(plan.train):
        pixels = images.read_picture(entry.path, max_pixels=plan.request.max_pixels, depth=plan.request.depth).pixels
        inside = None if plan.roi is None else maps.fit_roi(plan.roi, pixels.shape[:2])
        windows = [
            np.s_[top : top + side, left : left + side]
            for top in tiles.starts(pixels.shape[0], side)
            for left in tiles.starts(pixels.shape[1], side)
        ]
        windows = [window for window in windows if inside is None or inside[window].all()]
        for place, window in enumerate(windows[:: -(-len(windows) // each)] if windows else ()):
            tile = pixels[window]
            if tile.dtype != np.uint8:
                tile = np.rint(tile * 65535).astype(np.uint16)
            path = folder / f"{number:05d}-{place:05d}.png"
            images.write_image(path, tile)
            entries.append(dataclasses.replace(entry, path=path))
    if not entries:
        raise DataError(f"No tile of {side} pixels lies wholly in the region of interest; give a smaller --tile.")
    return tuple(entries)


def _prior(plan: Plan) -> Callable[[Image], Any] | None:
    """Picture -> saliency of the kind that the method's forger wants, its background learnt from good pictures."""
    kind = plan.method.prior
    if kind in ("", "network"):
        return None
    entries, request = thinned(plan.train, BACKGROUND_FROM), plan.request
    some = (images.read_picture(each.path, max_pixels=request.max_pixels, depth=request.depth).pixels for each in entries)
    background = background_of(some) if kind == "foreground" else None
    return lambda picture: saliency(picture, kind, background=background).map


def stages_of(plan: Plan, net: Any, pictures: dataset.GoodPictures) -> list[Stage]:
    """The method's stages, less those for which these good pictures are too few."""
    stages = plan.method.stages(net, plan.settings)
    return [each for each in stages if isinstance(each, Collect) or each.draw is None or each.draw(len(pictures))]


def left_good(sample: Sample, rng: np.random.Generator) -> Forged:
    """The forger of a method that trains on no forgeries: the picture as it is."""
    return Forged(sample.image, np.zeros(sample.image.shape[:2], bool), "")


def batches(
    plan: Plan,
    pictures: dataset.GoodPictures,
    net: Any = None,
    stages: Sequence[Stage] = (),
    part: Part = WHOLE,
) -> Callable[[int, int], Batch]:
    """(stage, step) -> batch, a pure function.

    net     where the method's forger looks at maps that the network has made
    stages  where some have a forger of their own, or may see some pictures only; a Prove stage's pictures are all forged
    part    which part of each training batch is made; a Prove stage's batches are made whole
    """
    settings = plan.settings
    some = settings.batch // part.count
    forger = plan.method.forger(settings) if plan.method.forger else left_good
    among = [each.draw(len(pictures)) if not isinstance(each, Collect) and each.draw else None for each in stages]
    forgers = forgers_of(forger, stages, plan.defects, plan.canvas, plan.request.tile)
    if plan.method.prior == "network":
        pictures.follow(net.priors)

    def batch(stage: int, step: int) -> Batch:
        # Stages draw from streams far apart, so a second stage does not see the first one's forgeries again.
        proof = bool(stages) and isinstance(stages[stage], Prove)
        return pictures.batch(
            forgers[stage] if stages else forger,
            plan.request.seed,
            stage * 2**32 + step,
            settings.batch if proof else some,
            1.0 if proof else settings.forge_share,
            among=among[stage] if stages else None,
            first=0 if proof else part.rank * some,
        )

    return batch
