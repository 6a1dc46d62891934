"""PatchCore: features by hand, what the memory holds, what --trunk gives, and the forecast."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.methods import METHODS, patchcore
from flawforge.nn.coreset import Stream
from flawforge.nn.patches import PatchFeatures, blurred, learning, reach, start_from
from flawforge.nn.resnet import ResNet
from flawforge.nn.trunks import backbone_of, trunk_of
from flawforge.types import Batch, Collect, ConfigError, Init, ModelError

TINY = patchcore.TINY
WHOLE = dataclasses.replace(TINY, share=1.0, most=4000, sigma=0.0)


def batch_of(images: Tensor, valid: Tensor | None = None) -> Batch:
    n, _, h, w = images.shape
    ones = torch.ones(n, 1, h, w)
    return Batch(images, images, 0 * ones, ones if valid is None else valid)


def filled(config: patchcore.Config, images: Tensor, valid: Tensor | None = None) -> patchcore.PatchCore:
    """A net with random features whose memory has seen `images`."""
    net = fitting.seeded(patchcore.PatchCore, config, 0).eval()
    passing = patchcore.begin(net)
    with torch.no_grad():
        for start in range(0, len(images), 3):
            part = slice(start, start + 3)
            patchcore.remember(net, passing, batch_of(images[part], None if valid is None else valid[part]))
        patchcore.settle(net, passing)
    return net


def pictures(n: int, size: int = 64, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 3, size, size), dtype=np.float32))


def test_features_are_the_stages_means_on_one_grid() -> None:
    features = fitting.seeded(lambda local: PatchFeatures("resnet18-tiny", (3, 2), local), True, 0).eval()
    images = pictures(2, 80)
    assert (features.width, features.stride, features.stages) == (8 + 16, 8, (2, 3))
    with torch.no_grad():
        found = features(images)
        _, second, third = features.trunk(images)
    assert found.shape == (2, 24, 10, 10)
    middle = second[:, :, 3:6, 4:7].mean(dim=(2, 3))
    torch.testing.assert_close(found[:, :8, 4, 5], middle)
    wide = F.interpolate(F.avg_pool2d(third, 3, 1, 1), (10, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[:, 8:], wide)
    assert torch.equal(
        fitting.seeded(lambda local: PatchFeatures("resnet18-tiny", (3, 2), local), False, 0).eval()(images)[:, :8], second
    )


def test_a_good_picture_is_no_distance_away_and_a_changed_place_is() -> None:
    images = pictures(3)
    net = filled(WHOLE, images)
    with torch.no_grad():
        assert float(net(images).map.max()) < 1e-5
        spoilt = images.clone()
        spoilt[:, :, 20:30, 40:52] = 1.0
        evidence = net(spoilt)
    row, column = divmod(int(evidence.map[0].argmax()), 64)
    assert 12 <= row <= 38
    assert 32 <= column <= 60
    assert float(evidence.map[0, 50:, :16].max()) < 0.2 * float(evidence.map[0].max())
    torch.testing.assert_close(evidence.score, evidence.map.flatten(1).amax(dim=1))


def test_the_memory_has_its_size_and_says_what_it_holds() -> None:
    images = pictures(5)
    patches = 5 * 16 * 16
    assert filled(dataclasses.replace(WHOLE, share=0.1), images).bank.shape == (patches // 10, 12)
    assert len(filled(dataclasses.replace(WHOLE, share=0.01, least=50), images).bank) == 50
    net = filled(dataclasses.replace(WHOLE, most=30), images)
    assert len(net.bank) == 30
    assert net.facts()[0].startswith(f"the memory holds 30 of {patches} good patches")
    assert len(filled(WHOLE, torch.full((2, 3, 64, 64), 0.5)).bank) <= 16 * 16  # equal patches are kept once


def test_patches_that_no_judged_pixel_sees_are_not_kept() -> None:
    images, valid = pictures(2), torch.zeros(2, 1, 64, 64)
    valid[:, :, :, :32] = 1
    assert len(filled(WHOLE, images, valid).bank) == 2 * 16 * 8
    assert int(reach(valid, (16, 16), 3.2).sum()) == 2 * 16 * 9  # the blur carries what lies 3.2 pixels beyond
    assert int(reach(valid, (16, 16), 4.2).sum()) == 2 * 16 * 10


def test_the_score_of_equation_7_is_the_pictures_score_where_it_is_asked_for() -> None:
    images = pictures(3)
    net = filled(dataclasses.replace(WHOLE, most=40, reweight=5), images)
    plain = filled(dataclasses.replace(WHOLE, most=40), images)
    with torch.no_grad():
        found, without = net(images + 0.2), plain(images + 0.2)
    torch.testing.assert_close(found.map, without.map, rtol=1e-5, atol=1e-5)
    assert (found.score < without.score).all()
    assert patchcore.score_rule(net.config).reduce == "network"
    assert patchcore.score_rule(plain.config).reduce == "max"


def test_the_blur_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter

    surface = np.random.default_rng(1).random((2, 40, 50)).astype(np.float32)
    expected = np.stack([gaussian_filter(each, 2.0, mode="nearest", truncate=4.0) for each in surface])
    np.testing.assert_allclose(blurred(torch.from_numpy(surface), 2.0), expected, atol=1e-5)
    assert torch.equal(blurred(torch.from_numpy(surface), 0.0), torch.from_numpy(surface))


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_with_a_file_of_weights_nothing_is_trained(name: str, washers: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    trunk = ResNet("resnet18-tiny")
    save_file({f"model.{k}": v.contiguous() for k, v in trunk.state_dict().items()}, tmp_path / "w.safetensors")
    settings = dataclasses.asdict(METHODS[name].tiny)
    weights = tmp_path / "w.safetensors"
    request = fitting.Request(washers, tmp_path / "m", method=name, size=64, settings=settings, trunk=str(weights))
    plan = fitting.plan(request)
    net, notes = fitting.new_net(plan)
    assert plan.trunk is not None
    assert torch.equal(net.features.trunk.net.conv1.weight, trunk.conv1.weight)
    assert f"the features are those of {weights}" in notes[0]
    assert [type(stage) for stage in plan.method.stages(net, plan.settings)] == [Collect]
    assert "no training steps" in fitting.forecast(plan, fitting.load_pictures(plan)).lines()[0]
    model = fitting.run(request, made=plan)
    assert model.content is not None
    assert model.content.config["history"] == []
    assert any("nothing was trained" in note for note in model.content.config["notes"])
    assert model.content.config["trunk"] == {
        "backbone": "resnet18-tiny",
        "source": str(weights),
        "licence": None,
        "sha256": plan.trunk.sha256,
    }
    assert "licence not known" in model.content.card
    # A model of ours gives its trunk as well, and the form of either is found in it.
    del settings["backbone"]
    for source in (weights, tmp_path / "m"):
        again = fitting.plan(dataclasses.replace(request, out=tmp_path / "n", trunk=str(source), settings=settings))
        assert again.settings.backbone == "resnet18-tiny"
        assert torch.equal(fitting.new_net(again)[0].features.trunk.net.conv1.weight, trunk.conv1.weight)


def test_weights_of_another_network_are_refused() -> None:
    features = PatchFeatures("resnet18-tiny", (1, 2), local=True)
    with pytest.raises(ModelError, match="give the weights of the same variant"):
        start_from(features, Init(ResNet("resnet18-quarter").state_dict(), {"method": "cutpaste"}, "0" * 64))
    with pytest.raises(ConfigError, match="backbone 'vgg' was given; allowed are lite0, lite1, lite2, resnet18"):
        trunk_of("vgg", 3)
    with pytest.raises(ConfigError, match="give its weights with --trunk"):
        learning(PatchFeatures("vit/8/16/4/2", (2,), local=True), 0.1, 0.0, 0.0)


def test_a_backbone_of_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    features = fitting.seeded(lambda name: PatchFeatures(name, (2, 3), True), "timm/resnet18", 0).eval()
    ours = PatchFeatures("resnet18", (2, 3), True).eval()
    whole = timm.create_model("resnet18", pretrained=False)
    init = Init(whole.state_dict(), {}, "0" * 64)
    assert (features.width, features.stride) == (ours.width, ours.stride) == (384, 8)
    start_from(features, init)
    start_from(ours, init)
    with torch.no_grad():
        torch.testing.assert_close(features(pictures(1)), ours(pictures(1)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="it lacks"):
        start_from(features, Init({}, {}, ""))
    with pytest.raises(ConfigError, match="timm gives no features of that name"):
        trunk_of("timm/no_such_net", 2)


def test_without_timm_its_backbones_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"needs the package timm; install it with: pip install 'flawforge\[timm\]'"):
        trunk_of("timm/resnet18", 2)


def test_the_forecast_counts_the_memory_that_the_coreset_will_hold(washers: Path, tmp_path: Path) -> None:
    settings = dataclasses.asdict(TINY)
    forecasts = []
    for most in (64, 4096):
        plan = fitting.plan(
            fitting.Request(
                washers, tmp_path / "m", method="patchcore", steps=5, size=64, settings=settings | {"most": most, "store": 4}
            )
        )
        forecasts.append(fitting.forecast(plan, fitting.load_pictures(plan)))
        net = fitting.new_net(plan)[0]
        need = patchcore.demand(net, plan.canvas, len(plan.train))
        patches = 16 * 16 * len(plan.train)
        assert need.memory_bytes == Stream.memory(most, min(4 * most, patches), 12, 12)
        assert forecasts[-1].memory_bytes > need.memory_bytes
        assert need.operations > 2 * 12 * patches
    line = forecasts[1].lines()[0]
    assert line.startswith("forecast: 5 steps of ")
    assert "a whole fit takes about " in forecasts[1].lines()[1]
    assert any(name == "memory" and seconds > 0 for name, _, seconds in forecasts[1].stages)
    assert set(forecasts[0].collect) == {"memory"}
    assert forecasts[0].collect["memory"] > 0


def test_the_memory_is_the_same_bits_however_often_it_is_made() -> None:
    images = pictures(6)
    config = dataclasses.replace(TINY, most=50, store=2)
    assert torch.equal(filled(config, images).bank, filled(config, images).bank)


def test_the_engine_runs_both_stages(washers: Path, tmp_path: Path) -> None:
    plan = fitting.plan(
        fitting.Request(washers, tmp_path / "m", method="patchcore", steps=3, size=64, settings=dataclasses.asdict(TINY))
    )
    data, (net, _) = fitting.load_pictures(plan), fitting.new_net(plan)
    before = net.features.trunk.net.conv1.weight.clone()
    seen: list[str] = []
    engine.fit(
        net,
        plan.method.stages(net, plan.settings),
        fitting.batches(plan, data),
        plan.budget,
        engine.Run(workers=0),
        clean=lambda: data.clean_batches(4),
        on_tick=lambda tick: seen.append(tick.stage),
    )
    assert seen == ["features"] * 3 + ["memory"] * -(-len(data) // 4)
    assert not torch.equal(net.features.trunk.net.conv1.weight, before)
    assert len(net.bank) == 64


@pytest.mark.parametrize(("stem", "own"), [("linear", "vit/8/16/4/2/3"), ("convolutional", "vit/8/16/4/2/3/convolutional")])
def test_the_encoder_of_a_masked_autoencoder_gives_features(stem: str, own: str) -> None:
    isstad = METHODS["isstad"]
    sizes = dataclasses.replace(isstad.tiny, depth=4, grid=3, stem=stem)
    net = fitting.seeded(isstad.build, sizes, 3).eval()
    init = Init(net.state_dict(), {"method": "isstad", "settings": dataclasses.asdict(sizes)}, "0" * 64)
    features = PatchFeatures(own, (2, 4), local=False).eval()
    assert start_from(features, init)[0].startswith("the features are those of a isstad model")
    assert (features.width, features.stride) == (32, 8)
    images = pictures(2, 44)
    padded = F.pad(images, (0, 4, 0, 4), mode="replicate")
    with torch.no_grad():
        found = features(images)
        known = net.encoder((padded - net.mean) / net.deviation)[:, 1:]
    assert found.shape == (2, 32, 6, 6)
    torch.testing.assert_close(found[:, 16:].flatten(2).transpose(1, 2), known, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[:, :16], found[:, 16:])
    with pytest.raises(ModelError, match=rf"give the encoder's own sizes in backbone \(its own is {own}\)"):
        start_from(PatchFeatures("vit/8/16/5/2", (2,), local=True), init)
    for name in ("vit/8/16/3/2", "vit/8/15/4/3", "vit/8", "vit/8/16/4/3", "vit/12/16/4/2/convolutional"):
        with pytest.raises(ConfigError, match="at least 4 blocks deep"):
            trunk_of(name, 2)


@pytest.mark.parametrize("method", ["patchcore", "padim"])
def test_the_name_on_the_page_is_that_of_isstads_default(method: str) -> None:
    isstad = METHODS["isstad"]
    over = isstad.profiles["cpu"]  # has a trunk of its own to give
    init = Init(isstad.build(over).state_dict(), {"method": "isstad", "settings": dataclasses.asdict(over)}, "0" * 64)
    assert backbone_of(init) == "lite0"
    net = METHODS[method].build(dataclasses.replace(METHODS[method].profiles["cpu"], stages=(1, 2, 3)))
    assert start_from(net.features, init)[0].startswith("the features are those of a isstad model")
    settings = isstad.scratch
    about = {"method": "isstad", "settings": dataclasses.asdict(settings)}
    init = Init(isstad.build(settings).state_dict(), about, "0" * 64)
    page = (Path(__file__).resolve().parent.parent / "docs" / "methods" / "patchcore.md").read_text()
    name = re.search(r"--trunk ISSTAD_MODEL.*?(vit/[\w/]+)", page, re.DOTALL)
    assert name
    assert backbone_of(init) == name[1]
    net = METHODS[method].build(dataclasses.replace(METHODS[method].profiles["cpu"], backbone=name[1], stages=(2, 4)))
    assert start_from(net.features, init)[0].startswith("the features are those of a isstad model")


def test_a_cutpaste_model_gives_its_pictures_trunk(washers: Path, tmp_path: Path) -> None:
    """It may hold two residual networks; the one that saw whole pictures is meant."""
    cutpaste = METHODS["cutpaste"]
    fitting.run(
        fitting.Request(
            washers, tmp_path / "c", method="cutpaste", steps=2, size=64, settings=dataclasses.asdict(cutpaste.tiny)
        )
    )
    request = fitting.Request(
        washers, tmp_path / "m", method="patchcore", size=64, settings=dataclasses.asdict(TINY), trunk=str(tmp_path / "c")
    )
    plan = fitting.plan(request)
    net, notes = fitting.new_net(plan)
    assert plan.trunk is not None
    assert torch.equal(net.features.trunk.net.conv1.weight, plan.trunk.tensors["picture.trunk.conv1.weight"])
    assert notes[0].startswith("the features are those of a cutpaste model")
