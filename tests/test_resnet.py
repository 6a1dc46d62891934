"""Residual networks: published sizes, shapes of every stage, and files of weights that fit or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from flawforge.nn.resnet import VARIANTS, ResNet, Thinned, imagenet, load_weights, pooled
from flawforge.types import ModelError


def filled(net: ResNet, seed: int = 1) -> ResNet:
    """The same net with batch-norm statistics unlike the initial ones, so that a statistic not loaded would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(torch.rand(value.shape, generator=generator) * 0.2 + 0.1)
    return net.eval()


def small(**options: Any) -> ResNet:
    return ResNet(**{"variant": "resnet18-tiny", **options})


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032), ("wide_resnet50_2", 66_834_240)],
)
def test_published_sizes_without_the_classifier(variant: str, parameters: int) -> None:
    """torchvision's published totals less 512 or 2048 x 1000 + 1000 of the classifier."""
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet(variant).parameters()) == parameters


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stem", ["full", "small"])
@pytest.mark.parametrize("size", [(64, 96), (57, 33)])
def test_every_stage_has_its_width_and_stride(variant: str, stem: Any, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        net = ResNet(variant, channels=5, width=4, stem=stem)
        found = net(torch.zeros(2, 5, *size))
    assert len(found) == 4
    for each, width, stride in zip(found, net.widths, net.strides, strict=True):
        assert each.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
    assert net.strides[0] == (4 if stem == "full" else 1)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_the_way_round_is_a_strided_convolution(size: tuple[int, int]) -> None:
    layer, x = Thinned(4, 8, 2), torch.rand(2, 4, *size)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, stride=2))


def test_no_narrow_convolution_is_one_whose_gradient_breaks_memory() -> None:
    """oneDNN issue 6035: 1 x 1, strided, channels last, fewer than 16 channels. It shows now and then, so by its shape."""
    for layer in small(width=4).modules():
        assert not (isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1))
    net = small(width=8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(2, 3, 224, 288).contiguous(memory_format=torch.channels_last)
    net(x)[-1].mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_fewer_stages_are_the_first_of_all_four() -> None:
    net, x = filled(small()), torch.rand(1, 3, 40, 40)
    whole = net(x)
    torch.testing.assert_close(net(x, stages=2), whole[:2])
    short = small(stages=2)
    short.load_state_dict({k: v for k, v in net.state_dict().items() if k in short.state_dict()})
    torch.testing.assert_close(short.eval()(x), whole[:2])
    torch.testing.assert_close(pooled(whole), whole[-1].mean(dim=3).mean(dim=2))


def test_a_block_by_hand() -> None:
    """ReLU(conv2(ReLU(conv1 x)) + x) with the batch norms as they stand at the start: the identity but for epsilon."""
    net, x = small().eval(), torch.rand(1, 4, 9, 9)
    block: Any = net.layers[0][0]
    inside = F.conv2d(F.conv2d(x, block.conv1.weight, padding=1).relu(), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), (inside + x).relu(), rtol=1e-3, atol=1e-4)


def test_imagenet_takes_out_the_published_mean_and_deviation() -> None:
    found = imagenet(torch.tensor([0.485 + 0.229, 0.456, 0.406 - 0.225]).view(1, 3, 1, 1))
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 0.0, -1.0]), atol=1e-6, rtol=0)


# ---- weights from a file


def written(path: Path, net: ResNet, prefix: str = "", **more: torch.Tensor) -> Path:
    save_file({f"{prefix}{k}": v.clone() for k, v in net.state_dict().items()} | more, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.body."])
def test_a_file_of_torchvision_or_timm_fits(tmp_path: Path, prefix: str) -> None:
    """Keys as both libraries write them: a classifier beside the trunk, any prefix; half precision is widened."""
    source, x = filled(small()), torch.rand(1, 3, 64, 64)
    keys = {f"{prefix}{k}": v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    keys |= {f"{prefix}fc.weight": torch.zeros(1000, 32), f"{prefix}fc.bias": torch.zeros(1000), "other.key": torch.ones(1)}
    assert f"{prefix}layer2.0.downsample.1.running_var" in keys
    keys = keys if prefix else {k: v for k, v in keys.items() if k != "other.key"}
    save_file(keys, tmp_path / "w.safetensors")
    net = small().eval()
    load_weights(net, tmp_path / "w.safetensors")
    assert all(v.dtype == torch.float32 for k, v in net.state_dict().items() if not k.endswith("tracked"))
    torch.testing.assert_close(net(x), source(x), rtol=2e-2, atol=1e-2)


def test_a_file_without_counters_of_batches_fits(tmp_path: Path) -> None:
    source = filled(small())
    save_file({k: v for k, v in source.state_dict().items() if not k.endswith("tracked")}, tmp_path / "w.safetensors")
    net = small().eval()
    load_weights(net, tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(net(x)[-1], source(x)[-1])


def test_extra_input_channels_start_at_zero(tmp_path: Path) -> None:
    source = filled(small())
    net = small(channels=5).eval()
    load_weights(net, written(tmp_path / "w.safetensors", source))
    x = torch.rand(1, 5, 64, 64)
    torch.testing.assert_close(net(x)[-1], source(x[:, :3])[-1])
    assert not net.conv1.weight[:, 3:].any()


def test_the_first_stages_of_a_larger_file(tmp_path: Path) -> None:
    source = filled(small())
    net = small(stages=2).eval()
    load_weights(net, written(tmp_path / "w.safetensors", source))
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(net(x), source(x, stages=2))


def refused(path: Path, net: ResNet, match: str) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ModelError, match=match) as error:
        load_weights(net, path)
    sentence = str(error.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", small(), "no such file")
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 a pickle in a zip")
    refused(tmp_path / "w.pth", small(), "no safetensors file")
    whole = written(tmp_path / "whole.safetensors", small()).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.safetensors", small(), "no safetensors file")


def test_foreign_networks_are_refused_and_the_net_is_untouched(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"patch_embed.proj.weight": torch.ones(2)}, file)
    refused(file, small(), "no residual network")
    one, two = small().state_dict(), small().state_dict()
    save_file({f"q.{k}": v.clone() for k, v in one.items()} | {f"k.{k}": v.clone() for k, v in two.items()}, file)
    refused(file, small(), "2 residual networks")
    refused(written(file, ResNet("resnet18", width=4)), small(), r"has layer1\.1\..* no part of it")
    refused(written(file, small()), ResNet("resnet18", width=4), r"lacks layer1\.1\.")
    refused(written(file, small(width=8)), small(), r"conv1\.weight is 8 x 3 x 7 x 7 and 4 x 3 x 7 x 7 is needed")
    refused(written(file, small(channels=5)), small(), r"4 x 5 x 7 x 7 and 4 x 3 x 7 x 7")
    attention = {"layer1.0.se.fc1.weight": torch.ones(1)}
    refused(written(file, small(), **attention), small(), r"has layer1\.0\.se\.fc1")
    broken = filled(small())
    broken.layers[0][0].conv1.weight.data[0, 0, 0, 0] = torch.nan  # type: ignore[union-attr, operator]
    refused(written(file, broken), small(), "not finite")
