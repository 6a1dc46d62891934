"""The main job: from a folder of good pictures to a calibrated inspector and its model folder."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.torch import save as tensors_to_bytes

from flawforge import __version__, card, config, data, drift, engine, loading, tolerance
from flawforge.forge import names_in
from flawforge.listing import part_of, textures_in
from flawforge.methods import METHODS
from flawforge.pod import fingerprint
from flawforge.saliency import background_of, saliency
from flawforge.types import (
    Batch,
    CalibrationError,
    Collect,
    ConfigError,
    DataError,
    Image,
    ImageError,
    Init,
    Mask,
    Method,
    ModelError,
    Prove,
    Stage,
    Train,
    TrainingError,
)
from flawforge_runtime import bundle, calibrate, images, inspector, tiles

FALSE_ALARM, REVIEW = 0.01, 0.05
DEFAULT_MINUTES = 10.0
METHOD = "auto"
BACKGROUND_FROM = 24
LEAST_TILE, MOST_TILES = 32, 2000


@dataclass(frozen=True)
class Request:
    """What the user asked of `fit`; the names are the command line's."""

    data: Path
    out: Path
    method: str = METHOD
    profile: str = ""
    minutes: float | None = None
    steps: int | None = None
    size: int = 256
    tile: int | None = None
    roi: Path | None = None
    textures: Path | None = None
    init: Path | None = None
    false_alarm: float | None = None
    review: float | None = None
    confidence: float | None = None
    holdout: float | str = 0.2
    group_by: str | None = None
    tolerate: str = ""
    seed: int = 0
    workers: int = 1
    device: str = "auto"
    max_pixels: int = images.MAX_PIXELS
    checkpoint_every: float = 60.0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All that is decided before training, from the request and the good pictures alone."""

    request: Request
    method: Method
    settings: Any
    report: data.DataReport
    train: tuple[data.Entry, ...]
    held: tuple[data.Entry, ...]
    canvas: tuple[int, int]
    budget: engine.Budget
    rates: tuple[float, float]
    roi: Mask | None
    notes: tuple[str, ...]
    init: Init | None = None
    parts: Mapping[Path, str] | None = None  # which part each held-back picture shows, where that is known


@dataclass(frozen=True)
class Forecast:
    """Measured on the real net and data before training: seconds per step, bytes of memory at the peak, parameters.

    collect  {stage: minutes} of the stages that look at every good picture and say what they need; beside `minutes`
    """

    seconds_per_step: float
    steps: int
    minutes: float
    memory_bytes: int
    parameters: int
    collect: Mapping[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        looks = [f"{minutes:.1f} minutes for the {name}" for name, minutes in self.collect.items()]
        if not self.steps:
            how_long = "; about " + " and ".join(looks) if looks else ""
            return [
                f"forecast: no training steps, so neither --minutes nor --steps bounds it{how_long}; "
                f"{self.memory_bytes / 2**30:.1f} GiB of memory or a little more"
            ]
        return [
            f"forecast: {self.steps} steps of {self.seconds_per_step:.2f} s, {self.minutes:.1f} minutes, "
            + "".join(f"then about {look}, " for look in looks)
            + f"{self.memory_bytes / 2**30:.1f} GiB of memory, {self.parameters / 1e6:.1f} M parameters"
        ]


Show = Callable[[str], None]


def plan(request: Request, *, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Check the request and the data. Reads good training pictures only. Raises a FlawforgeError in one sentence."""
    method = _method(request.method)
    profile = request.profile or next(iter(method.profiles))
    if profile not in method.profiles:
        raise ConfigError(f"Profile '{profile}' was given; method {method.name} has {', '.join(method.profiles)}.")
    settings = config.override(method.profiles[profile], request.settings)
    init = _init(request, method)
    listing = data.read_listing(request.data)
    report = data.check_data(data.good_entries(listing.entries), max_pixels=request.max_pixels, progress=progress,
                             notes=listing.notes)  # fmt: skip
    good = report.readable(data.good_entries(listing.entries))
    if len(good) < 2:
        reasons = "; ".join(reason for _, reason in report.unreadable[:3])
        raise TrainingError(
            f"{request.data} holds {len(good)} readable good pictures and at least 2 are needed, one to train on and one "
            f"to hold back; add pictures of good parts{f' (skipped: {reasons})' if reasons else ''}."
        )
    parts = part_of(good, request.group_by)
    groups = [*report.duplicate_groups, *same_part(parts)]
    train, held = data.split_holdout(good, groups, request.holdout, request.seed)
    parts = parts and {entry.path: parts[entry.path] for entry in held}
    n = len(held) if parts is None else len(set(parts.values()))
    rates, notes = promised_rates(n, request.false_alarm, request.review, request.confidence)
    if tolerance.kinds_from(request.tolerate):
        notes = (*notes, f"tolerated on good parts, and so learnt and promised for: {request.tolerate}")
    roi = read_roi(request.roi, report.all_sizes(), request.max_pixels)
    if request.tile is not None and request.tile < LEAST_TILE:
        raise ConfigError(f"--tile was given as {request.tile}; allowed are {LEAST_TILE} pixels or more.")
    sizes = report.all_sizes() if request.tile is None else [(request.tile, request.tile)]
    canvas = images.choose_canvas(sizes, request.size)
    budget = _budget(request, settings, len(train))
    return Plan(request, method, settings, report, train, held, canvas, budget, rates, roi, notes, init, parts)


def _init(request: Request, method: Method) -> Init | None:
    if request.init is None:
        return None
    if method.start is None:
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


def _budget(request: Request, settings: Any, pictures: int) -> engine.Budget:
    if request.steps is not None or request.minutes is not None:
        return engine.Budget(steps=request.steps, minutes=request.minutes)
    epochs = getattr(settings, "epochs", 0)
    if epochs:
        return engine.Budget(steps=max(1, round(epochs * pictures / settings.batch)))
    return engine.Budget(minutes=DEFAULT_MINUTES)


def promised_rates(
    n: int, false_alarm: float | None, review: float | None, confidence: float | None = None
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """The two rates to promise from n held-back pictures (or parts), and what to tell the user.

    A rate that was asked for is kept or refused (CalibrationError, before any training). A default that n pictures
    cannot carry is raised to the strictest that they can, and said.
    """
    if n < 1:
        raise CalibrationError("No picture is held back, so no rate can be promised; raise --holdout.")
    strictest = calibrate.strictest_rate(n, confidence)
    notes = []
    for asked in (false_alarm, review):
        calibrate.rank(n, strictest if asked is None else asked, confidence)
    if false_alarm is None:
        false_alarm = max(FALSE_ALARM, strictest)
        if false_alarm > FALSE_ALARM:
            sure = "" if confidence is None else f" with {confidence:.4g} confidence"
            notes.append(
                f"{n} held-back pictures promise a false-alarm rate of {false_alarm:.1%}{sure} at best; "
                f"{FALSE_ALARM:.0%} needs {calibrate.pictures_needed(FALSE_ALARM, confidence)} held back"
            )
    if review is None:
        review = max(REVIEW, strictest, false_alarm)
    if review < false_alarm:
        raise ConfigError(f"--review {review:g} is below --false-alarm {false_alarm:g}; give one at least as high.")
    return (false_alarm, review), tuple(notes)


def read_roi(path: Path | None, sizes: Sequence[tuple[int, int]], max_pixels: int) -> Mask | None:
    """A region of interest from a mask picture (white = judged) that must fit every good picture's proportions."""
    if path is None:
        return None
    roi: Mask = images.read_picture(path, max_pixels=max_pixels).pixels.max(axis=2) > 127
    if not roi.any():
        raise ImageError(f"The region of interest {path} is all black; paint what is to be judged white.")
    for size in sorted(set(sizes)):
        inspector.fit_roi(roi, size)
    return roi


def seeded(build: Callable[[Any], Any], settings: Any, seed: int) -> Any:
    """Build a net whose first weights follow from `seed`, leaving torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(settings)


def new_net(plan: Plan) -> tuple[Any, tuple[str, ...]]:
    """The net before training, with the weights of --init in it, and what the method says of those.

    Raises ModelError where the weights do not fit the method's settings.
    """
    net = seeded(plan.method.build, plan.settings, plan.request.seed)
    if plan.init is None or plan.method.start is None:
        return net, ()
    return net, tuple(plan.method.start(net, plan.settings, plan.init))


def load_pictures(plan: Plan) -> data.GoodPictures:
    """The training pictures on the canvas, with textures, the region of interest and the saliency that the forger wants."""
    request = plan.request
    entries, roi, folder = plan.train, plan.roi, None
    if request.tile is not None:
        folder = Path(tempfile.mkdtemp(prefix="flawforge-tiles-"))
        entries, roi = cut_tiles(plan, request.tile, folder), None
    pictures = data.GoodPictures(
        entries, plan.canvas, roi=roi, textures=textures_in(request.textures), prior=_prior(plan),
        max_pixels=request.max_pixels, tolerate=tolerance.kinds_from(request.tolerate), seed=request.seed,
    )  # fmt: skip
    if folder is not None:
        weakref.finalize(pictures, shutil.rmtree, folder, ignore_errors=True)  # pictures beyond the cache are read again
    return pictures


def cut_tiles(plan: Plan, side: int, folder: Path) -> tuple[data.Entry, ...]:
    """The training pictures cut into tiles of `side` pixels, as PNG files in `folder`; those wholly in the roi.

    At most MOST_TILES, as many from each picture, evenly spread. Raises DataError where not one lies in the region.
    """
    each = max(1, MOST_TILES // len(plan.train))
    entries = []
    for number, entry in enumerate(plan.train):
        pixels = images.read_picture(entry.path, max_pixels=plan.request.max_pixels).pixels
        inside = None if plan.roi is None else inspector.fit_roi(plan.roi, pixels.shape[:2])
        windows = [
            np.s_[top : top + side, left : left + side]
            for top in tiles.starts(pixels.shape[0], side) for left in tiles.starts(pixels.shape[1], side)
        ]  # fmt: skip
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
    step = max(1, len(plan.train) // BACKGROUND_FROM)
    some = (images.read_picture(entry.path, max_pixels=plan.request.max_pixels).pixels for entry in plan.train[::step])
    background = background_of(some) if kind == "foreground" else None
    return lambda picture: saliency(picture, kind, background=background).map


def stages_of(plan: Plan, net: Any, pictures: data.GoodPictures) -> list[Stage]:
    """The method's stages, less those for which these good pictures are too few."""
    stages = plan.method.stages(net, plan.settings)
    return [each for each in stages if isinstance(each, Collect) or each.draw is None or each.draw(len(pictures))]


def batches(
    plan: Plan, pictures: data.GoodPictures, net: Any = None, stages: Sequence[Stage] = ()
) -> Callable[[int, int], Batch]:
    """(stage, step) -> batch, a pure function.

    net     where the method's forger looks at maps that the network has made
    stages  where some have a forger of their own, or may see some pictures only; a Prove stage's pictures are all forged
    """
    forger, settings = plan.method.forger(plan.settings), plan.settings
    among = [each.draw(len(pictures)) if not isinstance(each, Collect) and each.draw else None for each in stages]
    if plan.method.prior == "network":
        pictures.follow(net.priors)

    def batch(stage: int, step: int) -> Batch:
        # Stages draw from streams far apart, so a second stage does not see the first one's forgeries again.
        each = stages[stage] if stages else None
        own = forger if each is None or isinstance(each, Collect) else each.forger or forger
        return pictures.batch(
            own, plan.request.seed, stage * 2**32 + step, settings.batch,
            1.0 if isinstance(each, Prove) else settings.forge_share, among=among[stage] if stages else None,
        )  # fmt: skip

    return batch


def forecast(plan: Plan, pictures: data.GoodPictures, *, trial_steps: int = 2) -> Forecast:
    """Train a throw-away copy for a few steps and measure. Memory is the process's size after them plus a tenth, plus what
    the stages that look at every good picture say they will hold.

    A method without training steps has nothing to time: zero steps, and the memory of the pictures alone.
    """
    net, _ = new_net(plan)
    stages = stages_of(plan, net, pictures)
    train = [stage for stage in stages if isinstance(stage, Train)]
    seconds: dict[str, list[float]] = {stage.name: [] for stage in train}
    if train:
        # As many trial steps for each stage, whatever its part of the budget: one may cost many times another's.
        alike = [dataclasses.replace(each, share=1.0) if isinstance(each, Train) else each for each in stages]
        engine.fit(
            net, alike[: stages.index(train[-1]) + 1], batches(plan, pictures, net, stages),
            engine.Budget(steps=(trial_steps + 1) * len(train)),
            engine.Run(seed=plan.request.seed, workers=0, precision=plan.settings.precision, device=plan.request.device),
            clean=lambda: islice(pictures.clean_batches(plan.settings.batch), 1),
            on_tick=lambda tick: seconds[tick.stage].append(tick.seconds) if tick.stage in seconds else None,
        )  # fmt: skip
    memory = int(1.1 * psutil.Process().memory_info().rss)
    parameters = sum(p.numel() for p in net.parameters())
    collect, held = _looks(plan, pictures, net, [stage for stage in stages if isinstance(stage, Collect)])
    memory += held
    if not train:
        return Forecast(0.0, 0, 0.0, memory, parameters, collect)
    steps, spent = 0, 0.0
    for stage in train:
        at = seconds[stage.name]
        per_step = max((at[-1] - at[0]) / max(len(at) - 1, 1), 1e-4)
        share = stage.share / sum(each.share for each in train)
        count = plan.budget.steps * share if plan.budget.steps else 60 * (plan.budget.minutes or 0) * share / per_step
        steps, spent = steps + max(1, round(count)), spent + max(1, round(count)) * per_step
    return Forecast(spent / steps, steps, spent / 60, memory, parameters, collect)


def _looks(
    plan: Plan, pictures: data.GoodPictures, net: Any, stages: Sequence[Collect]
) -> tuple[dict[str, float], int]:
    """{stage: minutes} and the most bytes of the stages that state a demand: one batch is shown to each and timed, and the
    arithmetic they state is set against a matrix product that is timed here."""
    minutes, most = {}, 0
    for stage in stages:
        if stage.demand is None:
            continue
        need = stage.demand(net, plan.canvas, len(pictures))
        looks = -(-len(pictures) // plan.settings.batch)
        start = time.monotonic()
        engine.fit(
            net, [dataclasses.replace(stage, finish=lambda module: None)], batches(plan, pictures),
            engine.Budget(steps=1), engine.Run(device=plan.request.device),
            clean=lambda: islice(pictures.clean_batches(plan.settings.batch), 1),
        )  # fmt: skip
        seconds = (time.monotonic() - start) * looks + need.operations * _seconds_per_operation(plan.request.device)
        minutes[stage.name], most = seconds / 60, max(most, need.memory_bytes)
    return minutes, most


def _seconds_per_operation(device: str) -> float:
    """Of a matrix product of the shape that the coreset has, on this machine as it is now."""
    a, b = (torch.rand(shape, device=config.torch_device(device)) for shape in ((4096, 128), (128, 1024)))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        float((a @ b)[0, 0])
        seconds.append(time.perf_counter() - start)
    return min(seconds) / (2 * 4096 * 128 * 1024)


def identity(plan: Plan) -> str:
    """What makes a checkpoint belong to a run: settings, seed, budget, canvas, --init, training files by size and name."""
    request = plan.request
    files = [(str(entry.path.name), entry.path.stat().st_size) for entry in (*plan.train, *plan.held)]
    facts = [request.method, dataclasses.asdict(plan.settings), request.seed, request.steps, request.minutes, plan.canvas,
             request.tile,
             str(request.holdout), bool(request.roi), str(request.textures), request.tolerate, files,
             plan.init and [plan.init.sha256, plan.init.about]]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def work_folder(out: Path) -> Path:
    """Where a fit keeps its checkpoint until the model folder is complete."""
    return out.with_name(f"{out.name}.fitting")


def check_output(out: Path, resume: bool) -> None:
    """Refuse, before any work, a model folder that exists, and a started fit unless it is to be resumed."""
    work = work_folder(out)
    if (work / "checkpoint.safetensors").exists() and not resume:
        raise ModelError(f"{work} holds a fit that was not finished; add --resume to go on, or remove it to start anew.")
    early = resume and (out / "manifest.json").is_file()  # what a method saves before it trains
    if out.exists() and not early and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out} exists already; give another -o, or remove it first.")
    if resume and not (work / "checkpoint.safetensors").is_file():
        raise ModelError(f"There is no checkpoint in {work} to resume from; leave out --resume to start the fit.")


def run(
    request: Request,
    *,
    resume: bool = False,
    made: Plan | None = None,
    pictures: data.GoodPictures | None = None,
    given: calibrate.Calibration | None = None,
    show: Show = lambda line: None,
    on_tick: Callable[[engine.Tick], None] | None = None,
) -> inspector.Inspector:
    """Fit, calibrate, save. Returns the inspector that `loading.load(out)` would give.

    made, pictures: what `plan` and `load_pictures` gave, where they were called before.
    given: thresholds that were found otherwise (folds.py); then nothing is held back.
    Interrupted, it leaves `<out>.fitting/checkpoint.safetensors` for `resume`; on success only the model folder stays.
    """
    check_output(request.out, resume)
    made = made or plan(request)
    pictures = pictures or load_pictures(made)
    net, started_from = new_net(made)
    work = work_folder(request.out)
    work.mkdir(parents=True, exist_ok=True)
    how = engine.Run(
        seed=request.seed, workers=request.workers, precision=made.settings.precision, device=request.device,
        checkpoint=work / "checkpoint.safetensors", checkpoint_every=request.checkpoint_every, identity=identity(made),
    )  # fmt: skip
    started = time.monotonic()
    stages = stages_of(made, net, pictures)

    def save(history: list[dict[str, Any]], notes: Sequence[str] = ()) -> inspector.Inspector:
        """Calibrate the net as it stands and write the model folder, over an earlier one of this fit."""
        if given is None:
            show(f"calibrating on {len(made.held)} held-back good pictures")
        content = _content(made, net, history, time.monotonic() - started, started_from, notes)
        uncalibrated = inspector.from_content(content, loading.numpy_network(net, torch.device("cpu")))
        calibration, skipped = (given, []) if given is not None else calibrate_on(
            uncalibrated, [entry.path for entry in made.held], *made.rates, confidence=request.confidence, parts=made.parts,
            tolerate=request.tolerate, seed=request.seed,
        )  # fmt: skip
        for _, reason in skipped:
            show(f"skipped: {reason}")
        content = dataclasses.replace(content, calibration=calibration)
        content = dataclasses.replace(content, card=card.model_card(content))
        if request.out.exists() and any(request.out.iterdir()):
            bundle.rewrite(request.out, content)
        else:
            if request.out.exists():
                request.out.rmdir()
            bundle.write(request.out, content)
        return inspector.from_content(content, uncalibrated.network)

    def save_early(stage: Stage) -> None:
        save([], [f"saved after stage '{stage.name}', before training; training replaces it"])
        show(f"{request.out} can be used already; training goes on and replaces it when it is done")

    try:
        history = engine.fit(
            net, stages, batches(made, pictures, net, stages), made.budget, how,
            clean=lambda: pictures.clean_batches(made.settings.batch),
            clean_count=-(-pictures.copies * len(pictures) // made.settings.batch),
            on_tick=on_tick, after=save_early, resume=resume,
        )  # fmt: skip
        fitted = save(history)
    except BaseException:
        if not how.checkpoint or not how.checkpoint.exists():
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return fitted


def calibrate_on(
    model: inspector.Inspector,
    paths: Sequence[Path],
    false_alarm: float,
    review: float,
    *,
    confidence: float | None = None,
    parts: Mapping[Path, str] | None = None,
    rules: calibrate.Rules | None = None,
    tolerate: str = "",
    seed: int = 0,
) -> tuple[calibrate.Calibration, list[tuple[Path, str]]]:
    """Judge good pictures that training never saw, and set the thresholds. Unreadable ones are skipped and named.

    parts     which part each picture shows: then a part counts once, by the highest of its pictures
    tolerate  kinds of variation that good parts may show: each picture is judged once, varied at random by seed and place
    Raises CalibrationError where the readable ones cannot carry the rates.
    """
    highest: dict[Any, tuple[float, float]] = {}
    looks: list[dict[str, float]] = []
    skipped = []
    kinds = tolerance.kinds_from(tolerate)
    for place, path in enumerate(paths):
        try:
            picture = images.read_picture(path, max_pixels=model.max_pixels)
            if kinds:
                pixels = tolerance.vary(picture.pixels, kinds, np.random.default_rng([seed, place]))
                picture = dataclasses.replace(picture, pixels=pixels)
            judged = model.judge(picture)
        except ImageError as error:
            skipped.append((path, str(error)))
            continue
        key = path if parts is None else parts[path]
        score, peak = highest.get(key, (judged.score, judged.peak))
        highest[key] = max(score, judged.score), max(peak, judged.peak)
        looks.append(drift.looks_of(picture.pixels))
    scores, peaks = ([each[i] for each in highest.values()] for i in (0, 1))
    made = calibrate.calibrate(scores, false_alarm, review=review, peaks=peaks, confidence=confidence,
                               per_part=parts is not None, rules=rules)  # fmt: skip
    table = {name: tuple(each[name] for each in looks) for name in drift.LOOKS}
    return dataclasses.replace(made, looks=table), skipped


def _content(
    plan: Plan, net: Any, history: list[dict[str, Any]], seconds: float, started_from: tuple[str, ...],
    notes: Sequence[str] = (),
) -> bundle.Content:
    request = plan.request
    init = None
    if plan.init is not None:
        known = {key: plan.init.about.get(key) for key in ("method", "profile", "seed", "canvas")} if plan.init.about else {}
        init = {"path": str(request.init), "sha256": plan.init.sha256} | known
    settings = {
        "format": bundle.FORMAT,
        "method": request.method,
        "profile": request.profile or next(iter(plan.method.profiles)),
        "settings": dataclasses.asdict(plan.settings),
        "canvas": list(plan.canvas),
        "tile": request.tile,
        "score_rule": dataclasses.asdict(plan.method.score(plan.settings)),
        "max_pixels": request.max_pixels,
        "seed": request.seed,
        "tolerate": request.tolerate,
        "flawforge_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "training": {
            "pictures": len(plan.train), "held_back": len(plan.held), "seconds": round(seconds, 1),
            "steps": sum({row["stage"]: row["step"] for row in history}.values()),  # of all stages
            "minutes": request.minutes, "threads": torch.get_num_threads(),
            "forger": str(plan.method.forger(plan.settings)), "forgers": list(trained_on(plan, net)),
            "fingerprints": sorted(fingerprint(entry.path) for entry in plan.train),
            "torch": torch.__version__, "cpus": os.cpu_count(),
        },
        "init": init,
        "held_back": [str(entry.path.resolve()) for entry in plan.held],  # for `export` to compare on; it drops them
        "data_report": plan.report.as_dict(),
        # `facts`: what a method decided from the good pictures, in words
        "notes": [*plan.notes, *started_from, *notes, *getattr(net, "facts", list)()],
        "history": history,
    }  # fmt: skip
    tensors = tensors_to_bytes({key: value.contiguous() for key, value in net.state_dict().items()})
    return bundle.Content(settings, tensors, None, "", plan.roi)


def trained_on(plan: Plan, net: Any) -> tuple[str, ...]:
    """The forgers that the training stages use, so that a proof can hold their families out; none without training."""
    stages = [each for each in plan.method.stages(net, plan.settings) if isinstance(each, Train)]
    used = [each.forger or plan.method.forger(plan.settings) for each in stages]
    return tuple(dict.fromkeys(name for forger in used for name in names_in(forger)))


def recalibrate(
    folder: Path,
    good: Path,
    false_alarm: float | None,
    review: float | None,
    *,
    confidence: float | None = None,
    group_by: str | None = None,
    rules: calibrate.Rules | None = None,
    **how: Any,
) -> tuple[calibrate.Calibration, list[str]]:
    """New thresholds for an existing model from new good pictures; the folder is replaced as a whole.

    confidence, group_by  as `fit` takes them; rules  None = as the model has them; how  as `loading.load` takes it
    Returns the calibration and notes for people. Raises DataError, CalibrationError, ModelError, ConfigError.
    """
    model = loading.load(folder, **how)
    if model.content is None:
        raise ModelError(f"{folder} was opened without its content; open it with flawforge.load.")
    entries = [entry for entry in data.read_listing(good).entries if entry.label == 0]
    parts = part_of(entries, group_by)
    n = len(entries) if parts is None else len(set(parts.values()))
    rates, notes = promised_rates(n, false_alarm, review, confidence)
    if rules is None and model.calibration is not None:
        rules = model.calibration.rules
    paths = [entry.path for entry in entries]
    calibration, skipped = calibrate_on(
        model, paths, *rates, confidence=confidence, parts=parts, rules=rules,
        tolerate=model.content.config.get("tolerate", ""), seed=model.content.config["seed"],
    )  # fmt: skip
    content = dataclasses.replace(model.content, calibration=calibration)
    bundle.rewrite(folder, dataclasses.replace(content, card=card.model_card(content)))
    return calibration, [*notes, *(f"skipped: {reason}" for _, reason in skipped)]


def fit(source: str | Path, *, out: str | Path | None = None, **options: Any) -> inspector.Inspector:
    """Good pictures in, calibrated inspector out: `ff.fit("parts/good", method="draem", minutes=10)`.

    source   a folder in MVTec layout (only train/good is read), a plain folder of good pictures, or a CSV
    out      model folder to write; None = keep it in memory, and save it later with `inspector.save(folder)`
    options  the fields of `Request`: method, profile, minutes, steps, size, false_alarm, review, holdout, seed, ...
    Raises a FlawforgeError in one sentence.
    """
    known = [each.name for each in dataclasses.fields(Request) if each.name not in ("data", "out")]
    for key in options:
        if key not in known:
            raise ConfigError(f"fit was given '{key}'; allowed are out, {', '.join(known)}.")
    for key in ("roi", "textures", "init"):
        if options.get(key) is not None:
            options[key] = Path(options[key])
    if out is not None:
        return run(Request(Path(source), Path(out), **options))
    with tempfile.TemporaryDirectory(prefix="flawforge-") as folder:
        return run(Request(Path(source), Path(folder) / "model", **options))
