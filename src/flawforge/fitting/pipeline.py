"""The main job: from a folder of good pictures to a calibrated inspector and its model folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from flawforge.fitting import engine
from flawforge.fitting.contents import content_of
from flawforge.fitting.devices import Place, helped, place_of
from flawforge.fitting.forecasting import enough_memory
from flawforge.fitting.options import Options
from flawforge.fitting.places import check_output, checkpoint_file, work_folder
from flawforge.fitting.planning import Plan, Request, batches, load_pictures, new_net, plan, stages_of
from flawforge.fitting.questions import questioned
from flawforge.fitting.thresholds import LOOK, calibrate_on, guard_of, on_another_day, write_sheet
from flawforge.judging import loading
from flawforge.nn.ranks import WHOLE
from flawforge.pictures import dataset
from flawforge.pictures.copies import fingerprint
from flawforge.pictures.listing import textures_in
from flawforge.reporting import card
from flawforge.types import ConfigError, Mask, Stage
from flawforge_runtime import bundle, calibrate, inspector
from flawforge_runtime.guard import Guard

Show = Callable[[str], None]


def identity(plan: Plan) -> str:
    """What a checkpoint belongs to: settings, seed, budget, canvas, mask, weights, real defects, and what all files hold."""
    request = plan.request
    pictures = [(entry.path.name, fingerprint(entry.path)) for entry in (*plan.train, *plan.held)]
    facts = [
        request.method,
        dataclasses.asdict(plan.settings),
        request.seed,
        request.steps,
        request.minutes,
        request.clock,
        plan.canvas,
        request.tile,
        request.align,
        request.depth,
        str(request.holdout),
        _mask_hash(plan.roi),
        bool(request.ignore),
        [fingerprint(path) for path in textures_in(request.textures)],
        request.tolerate,
        pictures,
        *(each and [each.sha256, each.about] for each in (plan.init, plan.trunk)),
    ]
    if plan.defects is not None:  # else as checkpoints have always had it
        facts.append(plan.defects.identity)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _mask_hash(mask: Mask | None) -> str | bool:
    """What is judged, as one mask, by its size and pixels; False = everything, as checkpoints have always had it."""
    if mask is None:
        return False
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()


@dataclass
class Job:
    """A fit under way.

    plan, pictures  what was decided, and what is learnt from
    net, stages     what learns, and how
    start_notes     what the method says of the weights that the net starts from
    given           thresholds that were found otherwise (folds.py); None = from the pictures that are held back
    show            takes a line for people
    on_calibrate    called with (done, all) held-back pictures
    begun           when it was opened, on time.monotonic's clock
    guard           of the good pictures; it does not depend on the net, so it is fitted once; None = not yet
    ranked          calibration pictures by score, most anomalous first, once they are judged
    """

    plan: Plan
    pictures: dataset.GoodPictures
    net: Any
    stages: Sequence[Stage]
    start_notes: Sequence[str]
    given: calibrate.Calibration | None
    show: Show
    begun: float
    on_calibrate: Callable[[int, int], None]
    guard: Guard | None = None
    ranked: tuple[tuple[Path, float], ...] = ()


def run(
    request: Request,
    *,
    resume: bool = False,
    made: Plan | None = None,
    pictures: dataset.GoodPictures | None = None,
    given: calibrate.Calibration | None = None,
    show: Show = lambda line: None,
    on_tick: Callable[[engine.Tick], None] | None = None,
    on_calibrate: Callable[[int, int], None] = lambda done, of: None,
) -> inspector.Inspector:
    """Open, train, calibrate, save. Returns the inspector that `loading.load(out)` would give.

    made, pictures: what `plan` and `load_pictures` gave, where they were called before.
    given: thresholds that were found otherwise (folds.py); then nothing is held back.
    Interrupted, it leaves `<out>.fitting/checkpoint.safetensors` for `resume`; on success only the model folder stays.
    On several devices this process starts the others of its machine, which must be machine 0: `follow` is for the others.
    """
    place = place_of(request.devices, request.nodes)
    if place is not None and place.node:
        raise ConfigError(f"This is machine {place.node} of the fit, and machine 0 writes the model; use follow here.")
    with bundle.hold(request.out):
        check_output(request.out, resume)
        if made is None:
            made = questioned(plan(request))
            for line in made.screening.lines() if made.screening else ():
                show(line)
        job = dataclasses.replace(opened(made, pictures, given, show), on_calibrate=on_calibrate)
        work = work_folder(request.out)
        work.mkdir(parents=True, exist_ok=True)
        try:
            with enough_memory(made), helped(place, _task(request, resume), lambda: _advice(request.out)):
                history = train(job, resume, on_tick, place)
            fitted = calibrated(job, history)
            save(fitted, request.out)
            if job.ranked:
                suspects = [path for path, _ in made.screening.suspects] if made.screening else []
                show(LOOK.format(file=write_sheet(request.out, fitted, job.ranked, suspects)))
        except BaseException:
            if not checkpoint_file(request.out).exists():
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
        return fitted


def _task(request: Request, resume: bool) -> dict[str, Any]:
    """What the other processes of the machine are told."""
    return {"request": request.as_dict(), "resume": resume}


def _advice(out: Path) -> str:
    if checkpoint_file(out).exists():
        return "nothing but the checkpoint is left, so give the same command with --resume"
    return "nothing is left, so give the same command again"


def follow(request: Request, *, resume: bool = False) -> None:
    """`run` on every machine of a fit but machine 0, which writes the model: learn along.

    Raises TrainingError where a device stopped; ConfigError for a fit on one machine.
    """
    place = place_of(request.devices, request.nodes)
    if place is None or not place.node:
        raise ConfigError("This is the first machine of the fit, which writes the model; use run here.")
    with helped(place, _task(request, resume), lambda: "give the same command on every machine again"):
        take_part(request, place, resume)


def take_part(request: Request, place: Place, resume: bool, ready: Callable[[], None] = lambda: None) -> None:
    """Learn as one of the other processes: the same plan, the same net, a part of each batch; nothing is written.

    ready  called when the pictures are read
    """
    job = opened(questioned(plan(request)), None, None)
    ready()
    train(job, resume, None, place)


def opened(
    plan: Plan, pictures: dataset.GoodPictures | None, given: calibrate.Calibration | None, show: Show = lambda line: None
) -> Job:
    """A fit that has not begun to learn: the pictures are read (None), the net has its first weights."""
    pictures = pictures or load_pictures(plan)
    net, notes = new_net(plan)
    return Job(
        plan, pictures, net, stages_of(plan, net, pictures), notes, given, show, time.monotonic(), lambda done, of: None
    )


def train(
    job: Job, resume: bool, on_tick: Callable[[engine.Tick], None] | None, place: Place | None = None
) -> list[dict[str, Any]]:
    """Train the net through its stages; returns the history. A net that is usable before that is calibrated and saved.

    place  where this process stands among several; None = it is alone
    """
    plan, request, pictures = job.plan, job.plan.request, job.pictures

    def save_early(stage: Stage) -> None:
        note = f"saved after stage '{stage.name}', before training; training replaces it"
        save(calibrated(job, [], [note]), request.out)
        job.show(f"{request.out} can be used already; the finished model replaces it")

    return engine.fit(
        job.net,
        job.stages,
        batches(plan, pictures, job.net, job.stages, place.part if place else WHOLE),
        plan.budget,
        engine.Run(
            seed=request.seed,
            workers=request.workers,
            precision=plan.settings.precision,
            device=request.device,
            checkpoint=checkpoint_file(request.out),
            checkpoint_every=request.checkpoint_every,
            identity=identity(plan),
            resume=resume,
            clean_batches=-(-pictures.copies * len(pictures) // plan.settings.batch),
            place=place,
        ),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
        on_tick=on_tick,
        after=save_early,
    )


def calibrated(job: Job, history: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> inspector.Inspector:
    """The net as it stands, with thresholds, guard and all that its model folder will say. notes: more of these."""
    if job.given is None:
        job.show(f"calibrating on {len(job.plan.held)} held-back good picture{'s' * (len(job.plan.held) != 1)}")
    said = [*job.plan.notes, *job.start_notes, *notes]
    content = content_of(job.plan, job.net, history, time.monotonic() - job.begun, said)
    bare = inspector.from_content(content, loading.numpy_network(job.net, torch.device("cpu")))
    calibration = thresholds(job, bare) if job.given is None else job.given
    if job.guard is None:
        job.guard = guard_of(bare, job.plan, job.show)
    content = dataclasses.replace(content, calibration=calibration, guard=job.guard)
    content = dataclasses.replace(content, card=card.model_card(content))
    return inspector.from_content(content, bare.network)


def thresholds(job: Job, bare: inspector.Inspector) -> calibrate.Calibration:
    """From the pictures that are held back."""
    request = job.plan.request
    scored = calibrate_on(
        bare,
        [entry.path for entry in job.plan.held],
        *job.plan.rates,
        confidence=request.confidence,
        parts=job.plan.parts,
        batches=job.plan.batches.of() if job.plan.batches else {},
        tolerate=request.tolerate,
        seed=request.seed,
        progress=job.on_calibrate,
    )
    for line in (*(f"skipped: {reason}" for _, reason in scored.skipped), *scored.lines()):
        job.show(line)
    job.ranked = scored.ranked
    if request.other_day is None:
        return scored.calibration
    how = {"confidence": request.confidence, "tolerate": request.tolerate, "seed": request.seed}
    calibration, notes = on_another_day(bare, scored, request.other_day, request.both_days, **how)
    for line in notes:
        job.show(line)
    return dataclasses.replace(calibration, doubts=(*calibration.doubts, *notes))


def save(fitted: inspector.Inspector, out: Path) -> None:
    """Write the model folder, over an earlier one of this fit."""
    assert fitted.content is not None, "a fit has its content"
    if out.exists() and any(out.iterdir()):
        bundle.rewrite(out, fitted.content)
        return
    if out.exists():
        out.rmdir()
    bundle.write(out, fitted.content)


def fit(source: str | Path, *, out: str | Path | None = None, **options: Unpack[Options]) -> inspector.Inspector:
    """Good pictures in, calibrated inspector out: `ff.fit("parts/good", method="draem", minutes=10)`.

    source   a folder in MVTec layout (only train/good is read), a plain folder of good pictures, or a CSV
    out      model folder to write; None = keep it in memory, and save it later with `inspector.save(folder)`
    options  as the command's, see `Options`: method, profile, minutes, steps, size, false_alarm, review, holdout, seed, ...
    Raises a FlawforgeError in one sentence.
    """
    for key in options:
        if key not in Options.__annotations__:
            raise ConfigError(f"fit was given '{key}'; allowed are out, {', '.join(Options.__annotations__)}.")
    told: dict[str, Any] = {**options}
    for each in dataclasses.fields(Request):
        if told.get(each.name) is not None and "Path" in str(each.type):
            told[each.name] = Path(told[each.name])
    if "trunk" in told:
        told["trunk"] = str(told["trunk"] or "")
    if out is not None:
        return loading.from_folder(run(Request(Path(source), Path(out), **told)), out, device="cpu")
    with tempfile.TemporaryDirectory(prefix="flawforge-") as folder:
        return run(Request(Path(source), Path(folder) / "model", **told))
