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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as tensors_to_bytes

from flawforge import __version__
from flawforge.fitting import engine
from flawforge.fitting.planning import Plan, Request, batches, load_pictures, new_net, plan, stages_of
from flawforge.fitting.thresholds import calibrate_on, guard_of
from flawforge.forge import names_in
from flawforge.judging import loading
from flawforge.pictures import dataset
from flawforge.proving.pod import fingerprint
from flawforge.reporting import card
from flawforge.types import ConfigError, Mask, ModelError, Stage, Train
from flawforge_runtime import bundle, calibrate, inspector
from flawforge_runtime.guard import Guard

Show = Callable[[str], None]


def identity(plan: Plan) -> str:
    """What a checkpoint belongs to: settings, seed, budget, canvas, mask, outside weights, files by size and name."""
    request = plan.request
    files = [(str(entry.path.name), entry.path.stat().st_size) for entry in (*plan.train, *plan.held)]
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
        str(request.textures),
        request.tolerate,
        files,
        *(each and [each.sha256, each.about] for each in (plan.init, plan.trunk)),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _mask_hash(mask: Mask | None) -> str | bool:
    """What is judged, as one mask, by its size and pixels; False = everything, as checkpoints have always had it."""
    if mask is None:
        return False
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()


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
        raise ModelError(f"{work} holds a fit that was not finished; add --resume to go on, or remove it to start anew.")
    early = resume and (out / "manifest.json").is_file()  # what a method saves before it trains
    if out.exists() and not early and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out} exists already; give another -o, or remove it first.")
    if resume and not checkpoint_file(out).is_file():
        raise ModelError(f"There is no checkpoint in {work} to resume from; leave out --resume to start the fit.")


def run(
    request: Request,
    *,
    resume: bool = False,
    made: Plan | None = None,
    pictures: dataset.GoodPictures | None = None,
    given: calibrate.Calibration | None = None,
    show: Show = lambda line: None,
    on_tick: Callable[[engine.Tick], None] | None = None,
) -> inspector.Inspector:
    """Fit, calibrate, save. Returns the inspector that `loading.load(out)` would give.

    made, pictures: what `plan` and `load_pictures` gave, where they were called before.
    given: thresholds that were found otherwise (folds.py); then nothing is held back.
    Interrupted, it leaves `<out>.fitting/checkpoint.safetensors` for `resume`; on success only the model folder stays.
    """
    with bundle.hold(request.out):
        return _run(request, resume, made, pictures, given, show, on_tick)


def _run(
    request: Request,
    resume: bool,
    made: Plan | None,
    pictures: dataset.GoodPictures | None,
    given: calibrate.Calibration | None,
    show: Show,
    on_tick: Callable[[engine.Tick], None] | None,
) -> inspector.Inspector:
    check_output(request.out, resume)
    made = made or plan(request)
    pictures = pictures or load_pictures(made)
    net, started_from = new_net(made)
    work = work_folder(request.out)
    work.mkdir(parents=True, exist_ok=True)
    how = engine.Run(
        seed=request.seed,
        workers=request.workers,
        precision=made.settings.precision,
        device=request.device,
        checkpoint=checkpoint_file(request.out),
        checkpoint_every=request.checkpoint_every,
        identity=identity(made),
    )
    started = time.monotonic()
    stages = stages_of(made, net, pictures)
    guards: list[Guard] = []  # fitted once: it does not depend on the network

    def save(history: list[dict[str, Any]], notes: Sequence[str] = ()) -> inspector.Inspector:
        """Calibrate the net as it stands and write the model folder, over an earlier one of this fit."""
        if given is None:
            show(f"calibrating on {len(made.held)} held-back good pictures")
        content = _content(made, net, history, time.monotonic() - started, started_from, notes)
        uncalibrated = inspector.from_content(content, loading.numpy_network(net, torch.device("cpu")))
        calibration, skipped = (
            (given, [])
            if given is not None
            else calibrate_on(
                uncalibrated,
                [entry.path for entry in made.held],
                *made.rates,
                confidence=request.confidence,
                parts=made.parts,
                tolerate=request.tolerate,
                seed=request.seed,
            )
        )
        for _, reason in skipped:
            show(f"skipped: {reason}")
        if not guards:
            guards.append(guard_of(uncalibrated, made, show))
        content = dataclasses.replace(content, calibration=calibration, guard=guards[0])
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
            net,
            stages,
            batches(made, pictures, net, stages),
            made.budget,
            how,
            clean=lambda: pictures.clean_batches(made.settings.batch),
            clean_count=-(-pictures.copies * len(pictures) // made.settings.batch),
            on_tick=on_tick,
            after=save_early,
            resume=resume,
        )
        fitted = save(history)
    except BaseException:
        if not how.checkpoint or not how.checkpoint.exists():
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return fitted


def _content(
    plan: Plan,
    net: Any,
    history: list[dict[str, Any]],
    seconds: float,
    started_from: tuple[str, ...],
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
        "align": plan.template and {"least": plan.template.least},
        "score_rule": dataclasses.asdict(plan.method.score(plan.settings)),
        "max_pixels": request.max_pixels,
        "depth": request.depth,
        "seed": request.seed,
        "tolerate": request.tolerate,
        "flawforge_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "training": {
            "pictures": len(plan.train),
            "held_back": len(plan.held),
            "seconds": round(seconds, 1),
            "steps": sum({row["stage"]: row["step"] for row in history}.values()),  # of all stages
            "minutes": request.minutes,
            "clock": request.clock,
            "threads": torch.get_num_threads(),
            "forger": str(plan.method.forger(plan.settings)),
            "forgers": list(trained_on(plan, net)),
            "fingerprints": sorted(fingerprint(entry.path) for entry in plan.train),
            "torch": torch.__version__,
            "cpus": os.cpu_count(),
        },
        "init": init,
        "trunk": _trunk(plan),
        "held_back": [str(entry.path.resolve()) for entry in plan.held],  # for `export` to compare on; it drops them
        "data_report": plan.report.as_dict(),
        # `facts`: what a method decided from the good pictures, in words
        "notes": [*plan.notes, *started_from, *notes, *getattr(net, "facts", list)()],
        "history": history,
    }
    tensors = tensors_to_bytes({key: value.contiguous() for key, value in net.state_dict().items()})
    return bundle.Content(settings, tensors, None, "", plan.roi, template=plan.template)


def _trunk(plan: Plan) -> dict[str, Any] | None:
    """Whose features the model looks at; None where it learnt its own or has none."""
    if plan.trunk is None:
        return None
    known = {key: plan.trunk.about[key] for key in ("method", "profile") if key in plan.trunk.about}
    return {
        "backbone": plan.settings.backbone,
        "source": plan.trunk.source,
        "licence": plan.trunk.licence or None,
        "sha256": plan.trunk.sha256,
    } | known


def trained_on(plan: Plan, net: Any) -> tuple[str, ...]:
    """The forgers that the training stages use, so that a proof can hold their families out; none without training."""
    stages = [each for each in plan.method.stages(net, plan.settings) if isinstance(each, Train)]
    used = [each.forger or plan.method.forger(plan.settings) for each in stages]
    return tuple(dict.fromkeys(name for forger in used for name in names_in(forger)))


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
    for key in ("roi", "ignore", "textures", "init"):
        if options.get(key) is not None:
            options[key] = Path(options[key])
    if "trunk" in options:
        options["trunk"] = str(options["trunk"] or "")
    if out is not None:
        return loading.from_folder(run(Request(Path(source), Path(out), **options)), out, device="cpu")
    with tempfile.TemporaryDirectory(prefix="flawforge-") as folder:
        return run(Request(Path(source), Path(folder) / "model", **options))
