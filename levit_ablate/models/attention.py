"""LeViT's attention block (paper 4.3). The shrinking block is the same with subsampled queries.

Shapes: B images, N tokens (Nq queries, Nk keys), h heads, C channels, D = key_dim, V = value_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from levit_ablate.models.parts import Grid
from levit_ablate.models.norms import NormKit


def subsampled(grid: Grid, stride: int) -> Grid:
    """The grid of every `stride`-th patch in each direction: sides (r - 1) // stride + 1."""
    height, width = grid
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def patch_positions(grid: Grid, stride: int = 1) -> Tensor:
    """Row and column of every `stride`-th patch of a grid, row by row. (number of patches, 2)."""
    rows, columns = (torch.arange(0, side, stride) for side in grid)
    return torch.cartesian_prod(rows, columns)


class Subsample(nn.Module):
    """Keeps the class tokens and every second patch in each direction. (B, Nk, C) → (B, Nq, C)."""

    kept: Tensor

    def __init__(self, grid: Grid, stride: int, num_class_tokens: int) -> None:
        super().__init__()
        rows, columns = patch_positions(grid, stride).unbind(1)
        patches = rows * grid[1] + columns + num_class_tokens
        kept = torch.cat([torch.arange(num_class_tokens), patches])
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.kept]


class AttentionBias(nn.Module):
    """Adds B[h, |row offset|, |column offset|] to the scores, learned and zero at the start.

    One scalar a head and pair of absolute offsets (paper 4.2). A class token has no place on the
    grid, so it has two more: one as a query towards every patch, one as a key from every patch;
    towards itself its bias is zero, which loses nothing, as a softmax sees differences only.
    """

    index: Tensor

    def __init__(self, num_heads: int, grid: Grid, stride: int, num_class_tokens: int) -> None:
        super().__init__()
        num_offsets = grid[0] * grid[1]
        offsets = (patch_positions(grid, stride)[:, None] - patch_positions(grid)[None]).abs()
        index = offsets[..., 0] * grid[1] + offsets[..., 1]  # (queries, keys), patches alone
        index = nn.functional.pad(index, (1, 0, 1, 0))  # a class token first, as query and as key
        index[0, 1:], index[1:, 0], index[0, 0] = num_offsets, num_offsets + 1, num_offsets + 2
        index = index[1 - num_class_tokens :, 1 - num_class_tokens :]
        self.biases = nn.Parameter(torch.empty(num_heads, num_offsets + 2 * num_class_tokens))
        self.itself = nn.ZeroPad1d((0, num_class_tokens))
        self.register_buffer("index", index, persistent=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.biases)

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.itself(self.biases)[:, self.index]


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D) + B) V, an activation, a projection. (B, Nk, C) → (B, Nq, C').

    Queries have a linear layer of their own, keys and values one together, laid out head by head.
    timm and the official code use one layer for all three where queries are not subsampled; as
    BatchNorm works channel by channel, that is the same network (`weights.py` converts).
    """

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        before: nn.Module,
        subsample: nn.Module,
        position: nn.Module,
        activation: nn.Module,
        norms: NormKit,
        zero: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.before = before
        self.subsample = subsample
        self.queries = norms.linear(in_width, num_heads * key_dim)
        self.keys_values = norms.linear(in_width, num_heads * (key_dim + value_dim))
        self.position = position
        self.activation = activation
        self.projection = norms.linear(num_heads * value_dim, out_width, zero=zero)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.before(tokens)
        queries = self.split_heads(self.queries(self.subsample(tokens)))  # (B, h, Nq, D)
        keys, values = self.split_heads(self.keys_values(tokens)).split(
            [self.key_dim, self.value_dim], dim=-1
        )
        scores = queries @ keys.transpose(-2, -1) * self.key_dim**-0.5  # (B, h, Nq, Nk)
        attention = self.position(scores).softmax(dim=-1)
        attended = (attention @ values).transpose(1, 2).flatten(2)  # (B, Nq, h*V)
        return self.projection(self.activation(attended))

    def extra_repr(self) -> str:
        return f"{self.num_heads} heads, keys of {self.key_dim}, values of {self.value_dim}"

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, h * channels) → (B, h, N, channels)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
