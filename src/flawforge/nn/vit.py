"""Vision transformer for pictures of any size: fixed position embeddings, pre-norm blocks, and masking of patches.

Dosovitskiy et al. (arXiv 2010.11929) for the blocks; He et al., "Masked autoencoders are scalable vision learners" (arXiv
2111.06377) for the fixed positions, the random masking and the light decoder. Where they exist in MAE's released code, names
and shapes of the weights are the same, so that its checkpoints fit after their prefixes are renamed.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawforge.nn.ranks import rand

EPSILON = 1e-6  # of every LayerNorm, as in MAE's released code


def positions(rows: int, columns: int, width: int, grid: int = 0, device: torch.device | None = None) -> Tensor:
    """Fixed 2-D sine-cosine position embeddings of a grid of patches: rows * columns x width, float32, row-major.

    The first half of the channels encodes x, the second y; each is sin(p f_k) for every k, then cos(p f_k), with
    f_k = 10000 ** (-k / (width / 4)), as in MAE's released code. `width` must be a multiple of 4.
    grid  side of the square grid that the weights were trained on; patches of another grid are mapped onto it, pixel areas
          aligned (the formula is evaluated between its patches, nothing is interpolated); 0 = use y and x as they are
    """
    if width % 4:
        raise ValueError(f"width is {width} and must be a multiple of 4")

    def along(count: int) -> Tensor:
        places = torch.arange(count, dtype=torch.float32, device=device)
        return (places + 0.5) * (grid / count) - 0.5 if grid else places

    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float32, device=device) / (width // 4))
    y, x = (along(count)[:, None] * frequencies for count in (rows, columns))
    y, x = y[:, None].expand(rows, columns, -1), x[None].expand(rows, columns, -1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=2).reshape(rows * columns, width)


def patchify(pictures: Tensor, patch: int) -> Tensor:
    """n c h w -> n L (patch * patch * c), row-major; within a patch: y, x, channel. h and w are multiples of patch."""
    n, c, h, w = pictures.shape
    cut = pictures.reshape(n, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """The inverse of `patchify`: n L (patch * patch * c) -> n c h w."""
    n, _, values = tokens.shape
    cut = tokens.reshape(n, rows, columns, patch, patch, values // patch**2)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(n, values // patch**2, rows * patch, columns * patch)


def draw_hidden(pictures: int, patches: int, share: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Random masking: indices of the visible patches (n k), and the mask (n L, 1.0 = hidden); at least one of each.

    Drawn separately for every picture from torch's CPU generator: a seed hides the same patches on any device.
    """
    kept = min(max(int(patches * (1 - share)), 1), patches - 1)
    order = rand(pictures, patches).argsort(dim=1)[:, :kept].to(device)
    hidden = torch.ones(pictures, patches, device=device).scatter_(1, order, 0.0)
    return order, hidden


def _pick(tokens: Tensor, order: Tensor) -> Tensor:
    return tokens.gather(1, order[:, :, None].expand(-1, -1, tokens.shape[2]))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, n L d -> n L d."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between; the hidden width is four times the outer one. n L d -> n L d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)); n L d -> n L d."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=EPSILON), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=EPSILON), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Stem(nn.Sequential):
    """Strided 3 x 3 convolutions that halve the picture until a patch is one place, then a 1 x 1 convolution.

    Xiao et al., "Early convolutions help transformers see better" (arXiv 2106.14881), with GroupNorm instead of batch norm,
    so that the result does not depend on the batch. n 3 h w -> n width h/patch w/patch.
    Raises ValueError where `patch` is not a power of 2.
    """

    def __init__(self, patch: int, width: int) -> None:
        halvings = patch.bit_length() - 1
        if 2**halvings != patch:
            raise ValueError(f"patch is {patch} and must be a power of 2")
        widths = [3, *(max(8, width >> (halvings - step)) for step in range(1, halvings + 1))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], width, 1))


class Encoder(nn.Module):
    """Patches of a picture -> tokens, the class token first.

    stem      "linear" or "convolutional": the patch embedding
    channels  of the input; with a linear stem it may be a feature map, and a patch one of its places
    """

    def __init__(
        self, patch: int, width: int, depth: int, heads: int, grid: int = 0, stem: str = "linear", channels: int = 3
    ) -> None:
        super().__init__()
        self.side, self.width, self.grid, self.overlapping = patch, width, grid, stem == "convolutional"
        self.patch = Stem(patch, width) if self.overlapping else nn.Conv2d(channels, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, pictures: Tensor, order: Tensor | None = None) -> Tensor:
        """n c h w, normalised, h and w multiples of the patch -> n (1 + L) d; with `order` (n k) only those patches."""
        if order is not None and self.overlapping:  # else a shown patch would tell of its hidden neighbours
            shown = pictures.new_zeros(len(pictures), pictures[0, 0].numel() // self.side**2).scatter_(1, order, 1.0)
            rows, columns = (side // self.side for side in pictures.shape[-2:])
            shown = shown.reshape(-1, 1, rows, columns)
            pictures = pictures * F.interpolate(shown, scale_factor=float(self.side), mode="nearest")
        grid = self.patch(pictures)
        rows, columns = grid.shape[-2:]
        x = grid.flatten(2).transpose(1, 2) + positions(rows, columns, self.width, self.grid, pictures.device)
        if order is not None:
            x = _pick(x, order)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """Tokens of the encoder -> tokens of every patch after each block, before the final `norm`."""

    def __init__(self, encoder_width: int, width: int, depth: int, heads: int, grid: int = 0) -> None:
        super().__init__()
        self.width, self.grid = width, grid
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(
        self, tokens: Tensor, rows: int, columns: int, order: Tensor | None = None, depth: int | None = None
    ) -> list[Tensor]:
        """n (1 + k) d -> one n (rows * columns) width per block, class token dropped.

        order  n k, the patches that were visible; the others start as the mask token. None = all were, in order
        depth  how many blocks to run; None = all
        """
        x = self.embed(tokens)
        first, seen = x[:, :1], x[:, 1:]
        if order is not None:
            blank = self.mask_token.to(seen.dtype).expand(x.shape[0], rows * columns, -1)
            seen = blank.scatter(1, order[:, :, None].expand(-1, -1, self.width), seen)
        seen = seen + positions(rows, columns, self.width, self.grid, x.device)
        x = torch.cat([first.to(seen.dtype), seen], dim=1)
        after = []
        for block in self.blocks[:depth]:
            x = block(x)
            after.append(x[:, 1:])
        return after


def initialise(net: nn.Module) -> None:
    """MAE's initial weights: Xavier-uniform for linear layers and patches, N(0, 0.02) for the class and mask tokens."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d) and name.endswith("patch"):
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))  # a linear layer of a patch
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for token in ("cls_token", "mask_token"):
            if isinstance(getattr(layer, token, None), nn.Parameter):
                nn.init.normal_(getattr(layer, token), std=0.02)
