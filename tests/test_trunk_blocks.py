"""Blocks of the trunks and the transformer: padding, residual ways round, folded norms, and laws of attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn import efficientnet_lite, vit
from flawforge.nn.efficientnet_lite import Inverted, Lite, Same, lite_of, normalised, renamed
from flawforge.nn.layercam import layercam
from flawforge.nn.resnet import Basic, Bottleneck, Thinned
from flawforge.types import ConfigError, Init, ModelError


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(net: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


# ---- EfficientNet-Lite


@given(st.integers(3, 20), st.integers(3, 20), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_same_padding_gives_as_many_rows_as_tensorflow(h: int, w: int, side: int, stride: int) -> None:
    layer = drawn(Same(2, 3, side, stride))
    x = rand(1, 2, h, w)
    out = layer(x)
    assert out.shape == (1, 3, -(-h // stride), -(-w // stride))
    row, column = out.shape[2] // 2, out.shape[3] // 2
    top = max((out.shape[2] - 1) * stride + side - h, 0) // 2
    left = max((out.shape[3] - 1) * stride + side - w, 0) // 2
    padded = F.pad(x, (side, side, side, side))
    y0, x0 = row * stride - top + side, column * stride - left + side
    window = padded[0, :, y0 : y0 + side, x0 : x0 + side]
    expected = (layer.weight * window).sum(dim=(1, 2, 3)) + layer.bias
    torch.testing.assert_close(out[0, :, row, column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs", "stride", "skips"), [(4, 4, 1, True), (4, 6, 1, False), (4, 4, 2, False)])
def test_a_way_round_where_the_shape_stays(inputs: int, outputs: int, stride: int, skips: bool) -> None:
    block = drawn(Inverted(inputs, outputs, 3, stride, 2))
    assert block.skips is skips
    with torch.no_grad():
        block.project.weight.zero_()
        block.project.bias.zero_()
    x = rand(2, inputs, 8, 8)
    out = block(x)
    assert out.shape == (2, outputs, 8 // stride, 8 // stride)
    torch.testing.assert_close(out, x if skips else torch.zeros_like(out))


def test_without_expansion_there_is_no_first_convolution() -> None:
    assert Inverted(4, 4, 3, 1, 1).expand is None
    assert Inverted(4, 4, 3, 1, 6).expand.out_channels == 24  # type: ignore[union-attr]


def test_pictures_are_scaled_as_the_weights_were_learnt() -> None:
    torch.testing.assert_close(normalised(torch.tensor([0.0, 127 / 255, 1.0])), torch.tensor([-127 / 128, 0.0, 1.0]))


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_fewer_stages_are_the_first_of_all(stages: int) -> None:
    torch.manual_seed(0)
    whole, part = Lite("lite0").eval(), Lite("lite0", stages).eval()
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    x = torch.rand(1, 3, 37, 50)
    seen = part(x)
    assert len(seen) == stages
    for ours, theirs, stride, width in zip(seen, whole(x), part.strides, part.widths, strict=False):
        torch.testing.assert_close(ours, theirs)
        assert ours.shape == (1, width, -(-37 // stride), -(-50 // stride))


def test_a_trunk_is_filled_under_any_prefix_and_told_from_its_tensors() -> None:
    torch.manual_seed(1)
    source, net = Lite("lite0", 2), Lite("lite0", 2)
    tensors = {f"features.trunk.{k}": v for k, v in source.state_dict().items()}
    net.fill(Init(tensors, {}, "0" * 64), "--trunk x")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in net.state_dict().items())
    assert lite_of(tensors) == "lite0"
    assert lite_of({"groups.0.0.x": torch.zeros(1)}) is None
    assert lite_of({}) is None


@pytest.mark.parametrize("harm", ["lacks", "size", "finite"])
def test_weights_that_do_not_fit_are_one_sentence_and_change_nothing(harm: str) -> None:
    torch.manual_seed(1)
    net = Lite("lite0", 1)
    tensors = {k: v.clone() for k, v in Lite("lite0", 1).state_dict().items()}
    key = "groups.0.0.project.weight"
    if harm == "lacks":
        del tensors[key]
    elif harm == "size":
        tensors[key] = tensors[key][:1]
    else:
        tensors[key][0] = torch.nan
    before = {k: v.clone() for k, v in net.state_dict().items()}
    words = {"lacks": f"it lacks {key}", "size": f"another size of {key}", "finite": f"not finite in {key}"}
    with pytest.raises(ModelError, match=words[harm]) as error:
        net.fill(Init(tensors, {}, ""), "--trunk file")
    assert str(error.value).startswith("--trunk file")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@given(st.integers(0, 200))
@settings(max_examples=15, deadline=None)
def test_a_folded_norm_is_the_convolution_and_its_norm(seed: int) -> None:
    conv, norm = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, eps=efficientnet_lite.EPSILON)
    drawn(conv, seed)
    with torch.no_grad():
        for i, tensor in enumerate((norm.weight, norm.bias, norm.running_mean)):
            tensor.copy_(rand(3, seed=seed + i))
        norm.running_var.copy_(rand(3, seed=seed + 9).abs() + 0.1)
    norm.eval()
    tensors = {"c.weight": conv.weight} | {f"n.{k}": v for k, v in norm.state_dict().items()}
    folded = efficientnet_lite._folded(tensors, "c", "n", "out")
    x = rand(1, 2, 6, 6, seed=seed)
    torch.testing.assert_close(F.conv2d(x, folded["out.weight"], folded["out.bias"]), norm(conv(x)), rtol=1e-3, atol=1e-4)
    del tensors["n.bias"]
    assert efficientnet_lite._folded(tensors, "c", "n", "out") == {}


def test_other_tensors_are_left_as_they_are() -> None:
    other = {"layer1.weight": torch.ones(2)}
    assert renamed(other) == other


# ---- residual blocks


@pytest.mark.parametrize("make", [lambda s: Basic(4, 6, s), lambda s: Bottleneck(4, 2, s, 2)], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_is_rectified_and_halves_by_its_stride(make: Any, stride: int) -> None:
    block = drawn(make(stride))
    x = rand(2, 4, 9, 10)
    out = block(x)
    assert out.shape[2:] == (-(-9 // stride), -(-10 // stride))
    assert float(out.detach().min()) >= 0
    torch.testing.assert_close(block(x[:1]), out[:1], rtol=1e-4, atol=1e-5)


@given(st.integers(1, 4), st.integers(2, 12), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_a_thinned_convolution_is_a_strided_one(stride: int, h: int, w: int) -> None:
    layer, x = drawn(Thinned(3, 5, stride)), rand(1, 3, h, w)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, stride=stride), rtol=1e-4, atol=1e-5)


# ---- transformer


@given(st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_attention_does_not_know_the_order_of_its_tokens(seed: int) -> None:
    layer, x = drawn(vit.Attention(8, 2)), rand(2, 6, 8, seed=seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-4, atol=1e-5)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([4, 8, 16]), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_positions_are_distinct_and_of_one_length(rows: int, columns: int, width: int, grid: int) -> None:
    where = vit.positions(rows, columns, width, grid)
    assert where.shape == (rows * columns, width)
    torch.testing.assert_close(where.square().sum(dim=1), torch.full((rows * columns,), width / 2))
    if grid == 0:
        apart = torch.cdist(where, where) + torch.eye(rows * columns) * 9
        assert float(apart.min()) > 1e-3


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_patches_come_back_as_the_picture(n: int, rows: int, columns: int, patch: int, channels: int) -> None:
    picture = rand(n, channels, rows * patch, columns * patch)
    tokens = vit.patchify(picture, patch)
    assert tokens.shape == (n, rows * columns, patch * patch * channels)
    torch.testing.assert_close(vit.unpatchify(tokens, patch, rows, columns), picture)
    torch.testing.assert_close(tokens.sum(), picture.sum(), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 4), st.integers(2, 30), st.floats(0, 0.999))
@settings(max_examples=40, deadline=None)
def test_hidden_and_shown_patches_are_all_patches(pictures: int, patches: int, share: float) -> None:
    order, hidden = vit.draw_hidden(pictures, patches, share)
    assert 1 <= order.shape[1] <= patches - 1
    assert (hidden.sum(dim=1) == patches - order.shape[1]).all()
    assert not hidden.gather(1, order).any()
    assert order.shape[1] == min(max(int(patches * (1 - share)), 1), patches - 1)


@given(st.integers(1, 32))
def test_a_stem_takes_powers_of_two(patch: int) -> None:
    if patch & (patch - 1):
        with pytest.raises(ValueError, match="power of 2"):
            vit.Stem(patch, 16)
    else:
        assert vit.Stem(patch, 16)(torch.rand(1, 3, 2 * patch, patch)).shape == (1, 16, 2, 1)


# ---- LayerCAM


@given(st.integers(0, 100), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_a_cam_does_not_depend_on_the_scores_scale(seed: int, scale: float) -> None:
    def maps(factor: float) -> list[Tensor]:
        activation = rand(2, 3, 4, 4, seed=seed).abs().requires_grad_()
        coarse = F.avg_pool2d(activation, 2)
        weight = rand(3, 2, 2, seed=seed + 1)
        return layercam([activation, coarse], factor * (coarse * weight).sum(dim=(1, 2, 3)))

    for one, two in zip(maps(1.0), maps(scale), strict=True):
        assert one.min() >= 0
        assert one.max() <= 1
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_picture_is_mapped_alone() -> None:
    weight = rand(3, 4, 4, seed=5)

    def maps(pictures: Tensor) -> Tensor:
        activation = pictures.clone().requires_grad_()
        return layercam([activation], (activation * weight).sum(dim=(1, 2, 3)))[0]

    batch = rand(4, 3, 4, 4, seed=2).abs()
    torch.testing.assert_close(maps(batch)[2:3], maps(batch[2:3]))


def test_a_backbone_with_another_first_stage_is_refused() -> None:
    from flawforge.nn.patches import PatchFeatures

    with pytest.raises(ConfigError, match="Stage 0 was given; backbone resnet18-tiny has stages from 1 on"):
        PatchFeatures("resnet18-tiny", (0, 1), local=True)
