"""The encoder-decoders: what reaches their output, at which resolution, and from which first weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flawforge.nn import unet
from flawforge.nn.unet import Autoencoder, UNet, conv_bn_relu, initialise, upsample


def seeded(net: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.rand_like(parameter) + 0.01)  # above zero, so that no ReLU is dead
    return net.eval()


def reach(net: nn.Module, size: int = 64) -> torch.Tensor:
    """h w: where the middle pixel of the output looks, by its gradient to the input."""
    x = torch.rand(1, 3, size, size, requires_grad=True)
    net(x)[0, 0, size // 2, size // 2].backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(dim=0) > 0


def test_doubling_keeps_the_corners_and_a_flat_map_flat() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    large = upsample(x)
    assert large.shape == (1, 1, 4, 6)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert float(large[0, 0, row, column]) == float(x[0, 0, row, column])
    torch.testing.assert_close(large[0, 0, 0], torch.linspace(0, 2, 6))  # aligned corners: evenly from end to end
    assert (upsample(torch.full((1, 2, 3, 3), 5.0)) == 5).all()


def test_a_convolution_block_by_hand() -> None:
    block = conv_bn_relu(1, 1).eval()
    with torch.no_grad():
        block[0].weight.fill_(1.0)
        block[0].bias.fill_(-4.0)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 5.0
    expected = torch.full((3, 3), 1.0) / (1 + 1e-5) ** 0.5  # 5 - 4, the batch norm at its start
    torch.testing.assert_close(block(x)[0, 0], expected)
    assert (block(0 * x) == 0).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("make", [lambda s: Autoencoder(3, 2, s), lambda s: UNet(3, 1, 2, s)], ids=["auto", "unet"])
def test_a_picture_is_handled_alone(make: object, stride: int) -> None:
    net = seeded(make(stride))  # type: ignore[operator]
    x = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-4)


def test_a_unet_answers_pixel_by_pixel_through_its_skips() -> None:
    """With the bottleneck silenced, the finest skip still brings the input's detail to the output."""
    net = UNet(3, 1, 2)
    seeded(net)
    with torch.no_grad():
        for block in net.down[1:]:
            for parameter in block.parameters():
                parameter.zero_()
    one = torch.rand(1, 3, 64, 64)
    other = one.clone()
    other[:, :, 30, 30] += 5.0
    changed = (net(one) - net(other)).abs()[0, 0] > 1e-6
    rows, columns = changed.nonzero().T
    assert changed.any()
    assert int(rows.min()) >= 30 - 5
    assert int(rows.max()) <= 30 + 5  # two 3 x 3 down, two 3 x 3 up, one 3 x 3 out
    assert int(columns.min()) >= 30 - 5
    assert int(columns.max()) <= 30 + 5


def test_the_autoencoder_looks_far() -> None:
    seen = reach(seeded(Autoencoder(3, 2)))
    assert int(seen.any(dim=1).sum()) == 64
    assert int(seen.any(dim=0).sum()) == 64


def test_levels_halve_and_the_finest_comes_first() -> None:
    net = seeded(UNet(3, 1, 2))
    x = torch.rand(1, 3, 64, 96)
    seen = net.descend(x, {})
    assert [tuple(each.shape[2:]) for each in seen] == [(64 >> i, 96 >> i) for i in range(6)]
    torch.testing.assert_close(net.climb(seen), net(x))


def test_what_stands_beside_is_added_at_its_level() -> None:
    net = seeded(UNet(3, 1, 2))
    x = torch.rand(1, 3, 64, 64)
    plain = net.descend(x, {})
    extra = torch.rand_like(plain[2])
    with_extra = net.descend(x, {2: extra})
    for level in (0, 1):
        torch.testing.assert_close(with_extra[level], plain[level])
    torch.testing.assert_close(with_extra[2], plain[2] + extra)
    assert not torch.allclose(with_extra[3], plain[3])
    torch.testing.assert_close(net.descend(x, {2: 0 * extra})[5], plain[5])


@pytest.mark.parametrize("stride", [1, 2])
def test_folding_and_unfolding_are_inverse(stride: int) -> None:
    net = Autoencoder(3, 2, stride)
    x = torch.rand(2, 3, 32, 64)
    assert net.fold(x).shape == (2, 3 * stride**2, 32 // stride, 64 // stride)
    assert torch.equal(net.unfold(net.fold(x)), x)


def test_first_weights_are_draems() -> None:
    torch.manual_seed(0)
    net = UNet(3, 2, 16)
    initialise(net)
    weights = torch.cat([each.weight.detach().flatten() for each in net.modules() if isinstance(each, nn.Conv2d)])
    gains = torch.cat([each.weight.detach() for each in net.modules() if isinstance(each, nn.BatchNorm2d)])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(weights.mean())) < 1e-4
    assert float(gains.mean()) == pytest.approx(1, abs=0.005)
    assert float(gains.std()) == pytest.approx(0.02, rel=0.2)
    assert all(not layer.bias.any() for layer in net.modules() if isinstance(layer, nn.BatchNorm2d))


def test_every_layer_learns() -> None:
    torch.manual_seed(0)
    for net in (Autoencoder(3, 2), UNet(3, 2, 2)):
        net(torch.rand(2, 3, 32, 32)).square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_double_conv_has_its_middle_width() -> None:
    block = unet.double_conv(3, 5, 7)
    assert block(torch.rand(2, 3, 8, 8)).shape == (2, 7, 8, 8)
    assert [layer.out_channels for layer in block.modules() if isinstance(layer, nn.Conv2d)] == [5, 7]
