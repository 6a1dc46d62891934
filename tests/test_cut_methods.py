"""CutPaste and CutSwap: their tasks and readings, where the saliency comes from, and resuming across it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.forge import FORGERS, names_in
from flawforge.methods import cutpaste, cutswap
from flawforge.nn.layercam import layercam
from flawforge.nn.localise import StageMap, WindowMap
from flawforge.nn.resnet import ResNet, imagenet
from flawforge.pictures import dataset
from flawforge.types import Batch, Collect, Init, ModelError, Sample, ScoreRule, Train


def request(washers: Path, out: Path, method: str, **options: Any) -> fitting.Request:
    tiny = dataclasses.asdict({"cutpaste": cutpaste.TINY, "cutswap": cutswap.TINY}[method])
    settings = tiny | options.pop("settings", {})
    return fitting.Request(washers, out, **{"method": method, "steps": 6, "size": 64, "settings": settings} | options)


def plan_of(washers: Path, tmp_path: Path, method: str, **options: Any) -> tuple[fitting.Plan, dataset.GoodPictures]:
    plan = fitting.plan(request(washers, tmp_path / "m", method, **options))
    return plan, fitting.load_pictures(plan)


def run_stages(plan: fitting.Plan, pictures: dataset.GoodPictures, net: Any, stages: Any) -> list[dict[str, Any]]:
    batches = fitting.batches(plan, pictures, net, plan.method.stages(net, plan.settings))
    return engine.fit(
        net,
        stages,
        batches,
        engine.Budget(steps=4),
        engine.Run(workers=0),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
    )


# ---- CutPaste


@pytest.mark.parametrize(
    ("task", "classes", "kinds"), [("patch", 2, {1}), ("scar", 2, {2}), ("union", 2, {1, 2}), ("3-way", 3, {1, 2})]
)
def test_every_task_has_its_forgeries_and_its_classes(
    washers: Path, tmp_path: Path, task: str, classes: int, kinds: set[int]
) -> None:
    plan, pictures = plan_of(washers, tmp_path, "cutpaste", settings={"task": task, "batch": 16})
    net, _ = fitting.new_net(plan)
    made = fitting.batches(plan, pictures, net, plan.method.stages(net, plan.settings))(0, 0)
    assert set(made.kind) == kinds
    tensors = Batch(*map(torch.from_numpy, made))
    assert net.classify(tensors.forged).shape == (16, classes)
    losses = cutpaste.picture_loss(net, tensors, plan.settings)
    assert losses["classes"].requires_grad
    assert not losses["accuracy"].requires_grad


def test_the_map_is_of_windows_with_a_network_of_their_own_or_of_the_pictures_stages(washers: Path, tmp_path: Path) -> None:
    for localise, kind, trains in (("windows", WindowMap, 2), ("stages", StageMap, 1)):
        plan, _ = plan_of(washers, tmp_path, "cutpaste", settings={"localise": localise})
        net, _ = fitting.new_net(plan)
        assert isinstance(net.surface, kind)
        assert sum(isinstance(stage, Train) for stage in plan.method.stages(net, plan.settings)) == trains


def test_each_stage_moves_its_own_network_alone(washers: Path, tmp_path: Path) -> None:
    plan, pictures = plan_of(washers, tmp_path, "cutpaste")
    net, _ = fitting.new_net(plan)
    stages = plan.method.stages(net, plan.settings)
    for first, moves in ((stages[:1], "picture."), (stages[1:2], "surface.crop.")):
        before = {name: value.clone() for name, value in net.named_parameters()}
        run_stages(plan, pictures, net, first)
        moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
        assert moved == {name for name in before if name.startswith(moves)}


def test_a_crowd_is_as_small_as_its_crops(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    forged = cutpaste.Crowd(64, 5)(Sample(image), np.random.default_rng(0))
    assert len(forged.drawn["steps"]) == 5
    patches = [step for step in forged.drawn["steps"] if step["shape"] == "patch"]
    assert patches
    for step in patches:
        assert 0.015 * 64**2 <= step["size"][0] * step["size"][1] <= 0.17 * 64**2


def test_a_picture_without_any_crop_to_learn_from_moves_nothing() -> None:
    net = cutpaste.build(cutpaste.TINY)
    empty = torch.zeros(2, 1, 64, 64)
    batch = Batch(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), empty, empty, torch.arange(2), torch.zeros(2).long())
    losses = cutpaste.crop_loss(net, batch, cutpaste.TINY)
    losses["crops"].backward()
    assert float(losses["crops"].detach()) == 0
    assert not any(p.grad.any() for p in net.surface.crop.parameters() if p.grad is not None)


@pytest.mark.parametrize("method", ["cutpaste", "cutswap"])
def test_the_model_says_what_the_good_pictures_decided(washers: Path, tmp_path: Path, method: str) -> None:
    fitting.run(request(washers, tmp_path / "m", method))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    notes = " ".join(config["notes"])
    assert config["training"]["forgers"] == [method]  # a proof must hold its family out
    assert "Ledoit-Wolf" in notes
    assert "left-out good pictures are likeliest" in notes
    assert config["score_rule"]["reduce"] == "network"
    assert {row["stage"] for row in config["history"]} >= {
        f"tell {'swaps' if method == 'cutswap' else 'pasted'} "
        + {"cutswap": "at random places", "cutpaste": "pictures from good ones"}[method]
    }
    rule = (cutpaste if method == "cutpaste" else cutswap).score_rule
    tiny = (cutpaste if method == "cutpaste" else cutswap).TINY
    assert rule(dataclasses.replace(tiny, score="map")) == ScoreRule(reduce="top")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["cutpaste", "cutswap"])
def test_a_forecast_tries_every_stage(washers: Path, tmp_path: Path, method: str) -> None:
    """It shows one batch to the stages that look, so most pictures have no saliency yet."""
    plan, pictures = plan_of(washers, tmp_path, method)
    found = fitting.forecast(plan, pictures)
    assert found.steps == 6
    assert found.seconds_per_step > 0
    fitting.run(plan.request, made=plan, pictures=pictures)


# ---- CutSwap: where the saliency comes from


def test_maps_are_made_once_after_the_warm_up_guide_the_forger_and_are_forgotten(washers: Path, tmp_path: Path) -> None:
    plan, pictures = plan_of(washers, tmp_path, "cutswap")
    net, _ = fitting.new_net(plan)
    stages = list(plan.method.stages(net, plan.settings))
    assert [type(stage) for stage in stages] == [Train, Collect, Train, Collect]
    assert stages[0].share == pytest.approx(0.3)
    batches = fitting.batches(plan, pictures, net, stages)
    before = batches(2, 7)
    assert net.priors(0) is None
    run_stages(plan, pictures, net, stages[:2])
    assert [each.shape for each in net.priors(0)] == [(16, 16), (8, 8)]
    clean = next(pictures.clean_batches(len(pictures))).clean
    levels, score = net.named_class(torch.from_numpy(clean))
    torch.testing.assert_close(score, net.picture.logits(torch.from_numpy(clean)).amax(dim=1))
    for level, cam in enumerate(layercam(levels, score)[:2]):
        for index in (0, len(pictures) - 1):
            np.testing.assert_allclose(net.priors(index)[level], cam[index].numpy(), atol=3e-3)
    salient = batches(2, 7)
    assert not np.array_equal(salient.forged, before.forged)
    np.testing.assert_array_equal(salient.forged, batches(2, 7).forged)
    run_stages(plan, pictures, net, stages[3:])
    assert net.priors(0) is None
    assert all(len(net.state_dict()[name]) == 0 for name in cutswap.SALIENT)


def test_a_varied_copy_is_forged_by_its_own_maps(washers: Path, tmp_path: Path) -> None:
    plan = fitting.plan(dataclasses.replace(request(washers, tmp_path, "cutswap"), tolerate="turn"))
    pictures = fitting.load_pictures(plan)
    asked: set[int] = set()
    net, _ = fitting.new_net(plan)
    stages = list(plan.method.stages(net, plan.settings))
    batches = fitting.batches(plan, pictures, net, stages)
    pictures.follow(lambda number: asked.add(number))  # instead of the net
    for step in range(40):
        batches(2, step)
    every = pictures.copies * len(pictures)
    assert pictures.copies > 1
    assert max(asked) >= len(pictures)
    assert asked <= set(range(every))
    assert every == sum(len(batch.clean) for batch in pictures.clean_batches(8))


def test_a_fit_that_stopped_after_the_saliency_resumes_to_the_bit(washers: Path, tmp_path: Path) -> None:
    fitting.run(request(washers, tmp_path / "whole", "cutswap", steps=10))
    seen = []

    def stop(tick: engine.Tick) -> None:
        seen.append(tick.stage)
        if tick.stage == "tell swaps at salient places" and tick.step == 4:
            raise KeyboardInterrupt

    broken = request(washers, tmp_path / "broken", "cutswap", steps=10, checkpoint_every=0.0)
    with pytest.raises(KeyboardInterrupt):
        fitting.run(broken, on_tick=stop)
    assert "saliency" in seen
    again: list[str] = []
    fitting.run(broken, resume=True, on_tick=lambda tick: again.append(tick.stage))
    assert "saliency" not in again
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == two


@pytest.mark.parametrize(("reading", "classes"), [("binary", 2), ("levels", 3), ("all", 2)])
def test_every_reading_has_its_classes(washers: Path, tmp_path: Path, reading: str, classes: int) -> None:
    plan, pictures = plan_of(washers, tmp_path, "cutswap", settings={"reading": reading, "batch": 16})
    net, _ = fitting.new_net(plan)
    stages = list(plan.method.stages(net, plan.settings))
    run_stages(plan, pictures, net, stages[1:2])
    made = fitting.batches(plan, pictures, net, stages)(2, 0)
    assert net.classify(torch.from_numpy(made.clean)).shape[1] == classes
    drawn = plan.method.forger(plan.settings)(Sample(pictures.picture(0)), np.random.default_rng(0)).drawn
    assert ("steps" in drawn) == (reading == "all")
    assert set(made.kind) == ({1, 2} if reading != "all" else {1})
    assert names_in(plan.method.forger(plan.settings)) == ("cutswap",)
    run_stages(plan, pictures, net, stages[2:])


def test_all_levels_in_one_picture_each_at_its_own_maps_places() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    prior = np.zeros((64, 64, 2), np.float32)
    prior[:20, :, 0], prior[44:, :, 1] = 1, 1
    config = dataclasses.replace(cutswap.TINY, reading="all", area=(0.004, 0.005))
    steps = cutswap.forger(config)(Sample(image, prior), np.random.default_rng(0)).drawn["steps"]
    assert [step["level"] for step in steps] == [64, 32]
    assert steps[0]["one"][0] < 24
    assert steps[1]["one"][0] > 36


def test_without_saliency_every_swap_is_at_random(washers: Path, tmp_path: Path) -> None:
    plan, pictures = plan_of(washers, tmp_path, "cutswap", settings={"saliency": "none"})
    net, _ = fitting.new_net(plan)
    stages = plan.method.stages(net, plan.settings)
    assert [type(stage) for stage in stages] == [Train, Collect]
    run_stages(plan, pictures, net, stages)
    assert net.priors(0) is None
    drawn = plan.method.forger(plan.settings)(Sample(pictures.picture(0)), np.random.default_rng(0)).drawn
    assert drawn["prior"] == "none"


def outside(path: Path, classes: int | None, seed: int = 3) -> tuple[Path, ResNet, Any]:
    """A file as torchvision would write it, the network in it, and its classifier."""
    torch.manual_seed(seed)
    trunk, fc = ResNet("resnet18-tiny").eval(), torch.nn.Linear(32, classes or 1)
    tensors = {k: v.clone() for k, v in trunk.state_dict().items()}
    if classes:
        tensors |= {"fc.weight": fc.weight.detach().clone(), "fc.bias": fc.bias.detach().clone()}
    save_file(tensors, path)
    return path, trunk, fc


def test_a_classifier_from_outside_guides_the_swaps_from_the_first_step(washers: Path, tmp_path: Path) -> None:
    file, trunk, fc = outside(tmp_path / "w.safetensors", classes=7)
    plan, pictures = plan_of(washers, tmp_path, "cutswap", init=file)
    net, notes = fitting.new_net(plan)
    assert "7 classes" in notes[0]
    torch.testing.assert_close(net.picture.trunk.state_dict(), trunk.state_dict())
    stages = list(plan.method.stages(net, plan.settings))
    assert [type(stage) for stage in stages] == [Collect, Train, Collect]
    run_stages(plan, pictures, net, stages[:1])
    clean = torch.from_numpy(next(pictures.clean_batches(len(pictures))).clean)
    levels = trunk(imagenet(clean))
    score = fc(levels[-1].mean(dim=(2, 3))).amax(dim=1)
    np.testing.assert_allclose(net.priors(2)[0], layercam(levels, score)[0][2].numpy(), atol=3e-3)
    assert not any("guide" in name for name in net.state_dict())
    run_stages(plan, pictures, net, stages[1:])
    assert net.guide == ()
    fitting.run(request(washers, tmp_path / "m", "cutswap", init=file))
    assert "7 classes" in (tmp_path / "m" / "config.json").read_text()


@pytest.mark.parametrize("module", [cutpaste, cutswap])
def test_a_trunk_from_outside_is_a_start_and_a_foreign_file_is_refused(module: Any, washers: Path, tmp_path: Path) -> None:
    file, trunk, _ = outside(tmp_path / "w.safetensors", classes=None)
    plan, _ = plan_of(washers, tmp_path, module.METHOD.name, init=file)
    net, notes = fitting.new_net(plan)
    assert "starts from --init" in notes[0]
    torch.testing.assert_close(net.picture.trunk.state_dict(), trunk.state_dict())
    if module is cutswap:
        assert net.guide == ()
    with pytest.raises(ModelError, match=r"--init .*give .*"):
        module.start(net, module.TINY, Init({"patch_embed.weight": torch.ones(1)}))


def test_one_of_our_models_is_a_start_even_with_two_networks_in_it(washers: Path, tmp_path: Path) -> None:
    fitting.run(request(washers, tmp_path / "first", "cutpaste"))
    plan, _ = plan_of(washers, tmp_path, "cutswap", init=tmp_path / "first")
    net, _ = fitting.new_net(plan)
    source, _ = fitting.new_net(fitting.plan(request(washers, tmp_path / "x", "cutpaste", init=tmp_path / "first")))
    torch.testing.assert_close(net.picture.trunk.state_dict(), source.picture.trunk.state_dict())


def test_every_swap_setting_reaches_the_forger() -> None:
    changed: dict[str, Any] = {"clusters": 4, "clustering": "fuzzy", "pick": "lowest", "exchange": False}
    made = cutswap.forger(dataclasses.replace(cutswap.TINY, **changed)).forger  # type: ignore[attr-defined]
    assert made == FORGERS["cutswap"](levels=(64, 32), **changed)
