"""The vision transformer: positions and patches by hand, attention against the textbook, hiding that really hides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flawforge.nn.vit import Attention, Block, Decoder, Encoder, draw_hidden, initialise, patchify, positions, unpatchify


def filled(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight drawn anew, so that no term is zero by its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net.eval()


def test_positions_by_hand() -> None:
    """Width 4 has one frequency, 1: sin x, cos x, sin y, cos y, row after row."""
    found = positions(2, 3, 4)
    expected = [[math.sin(x), math.cos(x), math.sin(y), math.cos(y)] for y in range(2) for x in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_positions_have_several_frequencies() -> None:
    """Width 8 has the frequencies 1 and 1/100, the sines of both before the cosines."""
    x = 3.0
    found = positions(1, 4, 8)[3]
    expected = [math.sin(x), math.sin(x / 100), math.cos(x), math.cos(x / 100), 0, 0, 1, 1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        positions(2, 2, 6)


def test_positions_spread_over_the_grid_that_the_weights_know() -> None:
    torch.testing.assert_close(positions(5, 5, 8, grid=5), positions(5, 5, 8))
    places = torch.atan2(positions(1, 4, 4, grid=2)[:, 0], positions(1, 4, 4, grid=2)[:, 1])
    np.testing.assert_allclose(places, [-0.25, 0.25, 0.75, 1.25], atol=1e-6)


def test_patches_by_hand_and_back() -> None:
    picture = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    tokens = patchify(picture, 2)
    assert tokens.shape == (1, 6, 8)
    assert tokens[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]
    torch.testing.assert_close(unpatchify(tokens, 2, 2, 3), picture)


def test_hidden_patches_are_drawn_by_the_seed_alone() -> None:
    torch.manual_seed(3)
    order, hidden = draw_hidden(4, 16, 0.75)
    assert order.shape == (4, 4)
    assert hidden.sum(dim=1).tolist() == [12.0] * 4
    for seen, flags in zip(order, hidden, strict=True):
        assert sorted(seen.tolist()) == [place for place in range(16) if flags[place] == 0]
    assert len({tuple(sorted(seen.tolist())) for seen in order}) > 1
    torch.manual_seed(3)
    assert torch.equal(draw_hidden(4, 16, 0.75)[0], order)
    assert draw_hidden(1, 2, 0.99)[1].sum() == 1
    assert draw_hidden(1, 8, 0.01)[1].sum() == 1


def test_each_patch_is_hidden_as_often_as_asked() -> None:
    torch.manual_seed(0)
    often = draw_hidden(4000, 16, 0.75)[1].mean(dim=0)
    assert (often - 0.75).abs().max() < 0.035  # five standard errors


def test_attention_against_the_textbook() -> None:
    layer = filled(Attention(8, 2))
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    q, k, v = (x[0] @ layer.qkv.weight.T + layer.qkv.bias).split(8, dim=1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weight = torch.softmax(q[:, head] @ k[:, head].T / math.sqrt(4), dim=1)
        heads.append(weight @ v[:, head])
    expected = torch.cat(heads, dim=1) @ layer.proj.weight.T + layer.proj.bias
    torch.testing.assert_close(layer(x)[0], expected)


def test_a_block_normalises_before_and_adds_after() -> None:
    block = filled(Block(4, 2))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    middle = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))
    with torch.no_grad():
        for part in (block.attn.proj, block.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    torch.testing.assert_close(block(x), x)


def test_the_encoder_sees_only_what_it_is_shown() -> None:
    net = filled(Encoder(2, 8, 2, 2))
    picture = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([[4, 1]])
    seen = net(picture, order)
    assert seen.shape == (1, 3, 8)
    changed = picture.clone()
    changed[:, :, :2, :2] = 9.0  # patch 0, hidden
    torch.testing.assert_close(net(changed, order), seen)
    changed[:, :, :2, 2:4] = 9.0  # patch 1, shown
    assert not torch.allclose(net(changed, order), seen)
    torch.testing.assert_close(net(picture, torch.arange(6)[None]), net(picture))


@pytest.mark.parametrize("patch", [2, 4])
def test_a_convolutional_stem_sees_no_hidden_patch_either(patch: int) -> None:
    net = filled(Encoder(patch, 8, 1, 2, stem="convolutional"))
    picture = torch.rand(2, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([[4, 1], [0, 5]])
    seen = net(picture, order)
    assert seen.shape == (2, 3, 8)
    changed = picture.clone()
    changed[0, :, :patch, :patch] = 9.0  # patch 0, hidden in the first picture, beside one that is shown
    torch.testing.assert_close(net(changed, order), seen)
    changed[1, :, :patch, :patch] = 9.0  # shown in the second
    assert not torch.allclose(net(changed, order)[1], seen[1])
    torch.testing.assert_close(net(picture, torch.arange(6).expand(2, -1)), net(picture))
    torch.testing.assert_close(net(picture)[:1], net(picture[:1]))
    assert net.patch(picture).shape == (2, 8, 2, 3)
    with pytest.raises(ValueError, match="power of 2"):
        Encoder(6, 8, 1, 2, stem="convolutional")


def test_the_decoder_puts_every_token_in_its_place() -> None:
    """With blocks that add nothing, what comes out is what was put in: embedding or mask token, and the position."""
    net = filled(Decoder(4, 8, 1, 2))
    with torch.no_grad():
        for part in (net.blocks[0].attn.proj, net.blocks[0].mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    tokens = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    (after,) = net(tokens, 2, 3, torch.tensor([[4, 1]]))
    where = positions(2, 3, 8)
    torch.testing.assert_close(after[0, 4], net.embed(tokens[0, 1]) + where[4])
    torch.testing.assert_close(after[0, 1], net.embed(tokens[0, 2]) + where[1])
    torch.testing.assert_close(after[0, 5], net.mask_token[0, 0] + where[5])


def test_the_decoder_shows_the_tokens_after_each_block() -> None:
    net = filled(Decoder(4, 8, 3, 2))
    tokens = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    after = net(tokens, 2, 3)
    assert [each.shape for each in after] == [(2, 6, 8)] * 3
    torch.testing.assert_close(net(tokens, 2, 3, depth=2)[-1], after[1])
    assert not torch.allclose(after[1], after[2])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = torch.nn.ModuleList([Encoder(4, 64, 1, 2), Decoder(64, 32, 1, 2)])
    initialise(net)
    limit = math.sqrt(6 / (3 * 4 * 4 + 64))
    assert 0.9 * limit < net[0].patch.weight.abs().max() <= limit
    assert net[0].blocks[0].mlp.fc1.bias.abs().max() == 0
    assert 0.01 < net[0].cls_token.std() < 0.03
    assert 0.01 < net[1].mask_token.std() < 0.03
