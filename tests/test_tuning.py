"""Training a trunk further: who learns from which pictures, and the gate by its arithmetic."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from flawforge import fitting
from flawforge.config import settings_from_dict
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.methods import METHODS, cutpaste, cutswap
from flawforge.nn import tuning
from flawforge.nn.efficientnet_lite import PACKAGES, packaged
from flawforge.nn.gains import Proof
from flawforge.nn.layercam import layercam
from flawforge.nn.localise import Collected
from flawforge.nn.resnet import ResNet
from flawforge.types import Batch, Collect, ConfigError, ModelError, Prove, Sample, Stage, Train
from flawforge_runtime import bundle

EACH = pytest.mark.parametrize("method", ["cutpaste", "cutswap"])
TINY = {"hidden": (8,), "dims": 6, "batch": 4, "proofs": 2, "precision": "32-true", "tune_rate": 0.01}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A tiny ResNet's weights as torchvision writes them, with and without its classifier."""
    torch.manual_seed(3)
    trunk, fc = ResNet("resnet18-tiny").eval(), torch.nn.Linear(32, 7)
    folder = tmp_path_factory.mktemp("trunk")
    tensors = {key: value.clone() for key, value in trunk.state_dict().items()}
    save_file(tensors, folder / "plain.safetensors")
    classes = {"fc.weight": fc.weight.detach().clone(), "fc.bias": fc.bias.detach().clone()}
    save_file(tensors | classes, folder / "classes.safetensors")
    return {False: folder / "plain.safetensors", True: folder / "classes.safetensors"}


def request(washers: Path, out: Path, method: str, trunk: Path | str, steps: int = 6, **settings: Any) -> fitting.Request:
    told = {"method": method, "steps": steps, "size": 64, "trunk": str(trunk), "settings": {**TINY, **settings}}
    return fitting.Request(washers, out, **told)  # type: ignore[arg-type]


def planned(washers: Path, method: str, trunk: Path | str, **settings: Any) -> tuple[fitting.Plan, Any, Any, list[Stage]]:
    plan = fitting.plan(request(washers, Path("unused"), method, trunk, **settings))
    pictures = fitting.load_pictures(plan)
    net, _ = fitting.new_net(plan)
    return plan, pictures, net, fitting.stages_of(plan, net, pictures)


def run(plan: fitting.Plan, pictures: Any, net: Any, stages: list[Stage]) -> None:
    engine.fit(
        net,
        stages,
        fitting.batches(plan, pictures, net, stages),
        engine.Budget(steps=4),
        engine.Run(workers=0),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
    )


# ---- who learns from what


@given(st.integers(0, 200))
def test_what_the_gate_asks_is_never_trained_on(pictures: int) -> None:
    asked, taught = set(tuning.reserved(pictures)), set(tuning.taught(pictures))
    assert not asked & taught
    if pictures > 10:
        assert asked | taught == set(range(pictures))
        assert len(asked) == -(-pictures // 5)
    else:
        assert not asked | taught  # two reserved pictures prove nothing


def test_the_head_learns_first_then_all_layers(washers: Path, small: dict[bool, Path]) -> None:
    plan, pictures, net, stages = planned(washers, "cutpaste", small[False])
    assert [type(stage) for stage in stages] == [Train, Train, Collect, Prove, Collect]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run(plan, pictures, net, stages[:1])
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("picture.head.") for name in moved)  # batch norms of the trunk stood still, too
    run(plan, pictures, net, stages[1:2])
    learnt = [name for name, _ in net.picture.trunk.named_parameters()]
    assert all(not torch.equal(net.picture.trunk.get_parameter(name), net.given[name]) for name in learnt)


@EACH
def test_no_training_and_no_gate_where_they_are_not_wanted(small: dict[bool, Path], method: str) -> None:
    for how, kinds in (("never", [Collect]), ("always", [Train, Train, Collect])):
        silent = {"saliency": "none"} if method == "cutswap" else {}
        config: Any = settings_from_dict(
            type(METHODS[method].tiny), {**TINY, "backbone": "resnet18-tiny", "tuning": how, **silent}
        )
        net = METHODS[method].build(config)
        tuning.take_trunk(net, loading.read_init(small[False], "--trunk"))
        assert [type(stage) for stage in METHODS[method].stages(net, config)] == kinds


def test_stages_of_cutswap_by_where_its_saliency_comes_from(washers: Path, small: dict[bool, Path]) -> None:
    gate = ["before and after training", "gate", "densities"]
    told = {
        True: ["saliency", "tell swaps at salient places: the head", "tell swaps at salient places", *gate],
        False: ["tell swaps at random places: the head", "saliency", "tell swaps at salient places", *gate],
    }
    for classes, names in told.items():
        _, _, net, stages = planned(washers, "cutswap", small[classes])
        assert [stage.name for stage in stages] == names
        assert bool(net.guide) == classes


def test_the_packages_classifier_says_where_a_picture_is_salient(washers: Path) -> None:
    """Against LayerCAM of the likeliest of ImageNet's classes, by a classifier that is put together here."""
    plan, pictures, net, stages = planned(washers, "cutswap", "lite0", levels=(1, 3))
    run(plan, pictures, net, stages[:1])
    t = packaged("lite0").tensors
    clean = torch.from_numpy(next(pictures.clean_batches(3)).clean)
    levels = net.picture.trunk(clean)[1:]
    last = torch.nn.functional.conv2d(levels[-1], t["classifier.conv.weight"], t["classifier.conv.bias"])
    logits = last.clamp(0, 6).mean(dim=(2, 3)) @ t["classifier.fc.weight"].T + t["classifier.fc.bias"]
    assert logits.shape == (3, 1000)
    maps = layercam(levels, logits.amax(dim=1))
    assert [each.shape for each in net.priors(1)] == [(16, 16), (4, 4)]
    for found, level in zip(net.priors(1), (0, 2), strict=True):
        np.testing.assert_allclose(found, maps[level][1].detach().numpy(), atol=3e-3)


def test_the_gates_forgeries_do_not_look_at_the_saliency() -> None:
    seen = []

    def forger(sample: Sample, rng: np.random.Generator) -> Any:
        seen.append(sample.prior)

    prior = np.zeros((8, 8, 4), np.float32)
    for level, shape in ((None, None), (2, (8, 8))):
        cutswap.AtLevel(forger, level)(Sample(np.zeros((8, 8, 3), np.uint8), prior), np.random.default_rng(0))
        assert (None if seen[-1] is None else seen[-1].shape) == shape


# ---- the gate


def test_reserved_pictures_are_kept_evenly_and_never_too_many() -> None:
    rivals = tuning.Rivals((None, None), (None, None))  # type: ignore[arg-type]
    for place in range(1000):
        rivals.keep(torch.tensor(float(place)), torch.ones(1))
    kept = [int(image) for image, _ in rivals.good]
    assert tuning.JUDGES / 2 <= len(kept) <= tuning.JUDGES
    assert len(set(np.diff(kept))) == 1
    assert kept[-1] > 900


def detector(trunk: Path) -> tuple[Any, torch.Tensor]:
    """A detector whose trunk has moved away from what was given, and its first weight as given."""
    net = cutpaste.build(settings_from_dict(cutpaste.Config, {**TINY, "backbone": "resnet18-tiny"}))
    tuning.take_trunk(net, loading.read_init(trunk, "--trunk"))
    name, weight = next(iter(net.picture.trunk.named_parameters()))
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    assert torch.equal(net.given[name], before)
    return net, before


@pytest.mark.parametrize(
    ("gains", "stands"),
    [((0.1, 0.12, 0.11), True), ((0.2, 0.0, -0.15), False), ((-0.1, -0.1, -0.1), False), ((0.1, 0.1), False)],
)
def test_trained_features_stand_only_where_they_surely_gain(
    small: dict[bool, Path], gains: tuple[float, ...], stands: bool
) -> None:
    net, before = detector(small[False])
    rows = [(5 * place, torch.tensor([0.5, 0.5 + gain])) for place, gain in enumerate(gains) for _ in range(2)]
    tuning.decide(net, (None, Proof(torch.zeros(0), torch.zeros(0), rows)))  # type: ignore[arg-type]
    weight = next(net.picture.trunk.parameters())
    assert torch.equal(weight, before + 1.0 if stands else before)
    assert ("those that training made" in net.said[0]) == stands
    config = dataclasses.replace(cutpaste.CPU, backbone="resnet18-tiny")
    assert tuning.decided(net, config).tuning == ("always" if stands else "never")
    for settled in (cutpaste.Config(), dataclasses.replace(config, tuning="always")):
        assert tuning.decided(net, settled) == settled
    assert f"on {len(gains)} reserved good pictures" in net.said[0]


def test_both_networks_see_the_same_good_pictures_and_none_that_is_reserved(small: dict[bool, Path]) -> None:
    net, before = detector(small[False])
    net.eval()
    rivals = tuning.begin_rivals(net)
    good = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(12, 1, 64, 64)
    with torch.no_grad():
        for part in (slice(0, 1), slice(1, 12)):
            indices = torch.arange(12)[part]
            tuning.compare(net, rivals, Batch(good[part], good[part], 0 * ones[part], ones[part], indices))
        assert torch.equal(next(rivals.nets[0].picture.trunk.parameters()), before)
        assert rivals.nets[1] is net
        assert [int((image - good).abs().flatten(1).amax(dim=1).argmin()) for image, _ in rivals.good] == [0, 5, 10]
        assert all(isinstance(each, Collected) and sum(map(len, each.pictures)) == 9 for each in rivals.looked)
        tuning.judge_good(net, rivals)
        state = tuning.begin_proof(net, by_map=True)
        assert state[1].scores.shape == (3, 2)
        assert state[1].quiet.shape == (2, 3 * 32 * 32)
        # A forgery equal to a good picture gains nothing: its pixels are as many places of it as good pictures have.
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., 16:48, 16:48] = 1
        black = torch.where(mask > 0, 0.0, good[:1])
        tuning.prove(net, state, Batch(black, good[:1], mask, ones[:1], torch.tensor([0])), by_map=True)
        tuning.prove(net, state, Batch(good[:1], good[:1], 0 * mask, ones[:1], torch.tensor([5])), by_map=True)
    ((index, row),) = state[1].rows  # what is not forged is not asked
    assert index == 0
    assert row.shape == (2,)
    assert (row >= 0).all()
    assert (row <= 1).all()


def test_too_few_good_pictures_leave_the_features_alone(small: dict[bool, Path]) -> None:
    net, before = detector(small[False])
    rivals = tuning.begin_rivals(net)
    rivals.keep(torch.zeros(1), torch.zeros(1))
    tuning.judge_good(net, rivals)
    assert torch.equal(next(net.picture.trunk.parameters()), before)
    assert "too few" in net.said[0]


# ---- whole fits


@pytest.mark.slow
@EACH
def test_a_fit_from_the_trunk_says_what_was_decided_and_resumes_to_the_bit(
    washers: Path, tmp_path: Path, small: dict[bool, Path], method: str
) -> None:
    trunk = small[True]
    fitting.run(request(washers, tmp_path / "whole", method, trunk, steps=8))
    notes = " ".join(bundle.read(tmp_path / "whole").config["notes"])
    assert re.search(r"forged defects on [34] reserved good pictures are found at 0\.\d+ before and 0\.\d+ after", notes)
    assert bundle.read(tmp_path / "whole").config["trunk"]["backbone"] == "resnet18-tiny"

    def stop(tick: engine.Tick) -> None:
        if tick.losses and not tick.stage.endswith("the head") and tick.step == 3:
            raise KeyboardInterrupt

    broken = request(washers, tmp_path / "broken", method, trunk, steps=8)
    broken = dataclasses.replace(broken, checkpoint_every=0.0)
    with pytest.raises(KeyboardInterrupt):
        fitting.run(broken, on_tick=stop)
    fitting.run(broken, resume=True)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == two
    state = loading.torch_net(bundle.read(tmp_path / "whole")).state_dict()
    assert not any("salient" in name and value.numel() for name, value in state.items())


@EACH
def test_init_and_trunk_are_one_or_the_other(washers: Path, small: dict[bool, Path], method: str) -> None:
    file = small[False]
    plain = fitting.plan(fitting.Request(washers, Path("unused"), method=method, init=file))
    assert plain.settings == METHODS[method].scratch  # --init alone means what it meant before there were trunks
    assert plain.trunk is None
    both = fitting.plan(fitting.Request(washers, Path("unused"), method=method, init=file, trunk="lite0"))
    with pytest.raises(ConfigError, match=r"--init was given, but the network starts from --trunk lite0; leave out"):
        fitting.new_net(both)
    with pytest.raises(ConfigError, match=f"method {method} takes no trunk without weights; give lite0"):
        fitting.plan(fitting.Request(washers, Path("unused"), method=method, trunk="resnet18"))
    module: Any = {"cutpaste": cutpaste, "cutswap": cutswap}[method]
    net, empty = module.METHOD.build(module.CPU), dataclasses.replace(packaged("lite0"), tensors={})
    with pytest.raises(ModelError, match=r"--trunk .* does not fit"):
        module.trunk(net, module.CPU, empty)


@EACH
def test_the_default_starts_from_the_installed_trunk(washers: Path, method: str) -> None:
    plan = fitting.plan(fitting.Request(washers, Path("unused"), method=method))
    assert plan.settings == METHODS[method].profiles["cpu"]
    assert plan.trunk is not None
    assert plan.trunk.sha256 == PACKAGES["lite0"].sha256
    assert METHODS[method].scratch == type(METHODS[method].tiny)()  # what older model folders mean
    none = fitting.plan(fitting.Request(washers, Path("unused"), method=method, trunk="none"))
    assert (none.settings, none.trunk) == (METHODS[method].scratch, None)
