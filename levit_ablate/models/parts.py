"""The parts that a design chooses from, each beside those that can replace it.

Replacements share a signature. Shapes: B images, N tokens (Nq queries, Nk keys), h heads,
C channels, H x W the grid of patches, N = H*W (+ 1 class token, first).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from levit_ablate.config import Images
from levit_ablate.models.geometry import Grid
from levit_ablate.models.norms import NormKit

Activation = type[nn.Module]
ACTIVATIONS: dict[str, Activation] = {
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}

HEADS: dict[str, tuple[str, ...]] = {
    "hard": ("supervised", "distilled"),
    "soft": ("supervised", "distilled"),
    "none": ("supervised",),
}
"""The classification heads for each kind of distillation; evaluation averages them (paper 4.4)."""


# Stems.


Stem = Callable[..., nn.Module]
"""(*, images, widths, norms, activation): images (B, channels, height, width) → features
(B, C, H, W) with H = ceil(height / 2**depth), where `widths` are `geometry.stem_widths`: `depth`
numbers, the last is C."""


def convolution_stem(
    *, images: Images, widths: Sequence[int], norms: NormKit, activation: Activation
) -> nn.Module:
    """3x3 convolutions of stride 2, with an activation between every two."""
    layers: list[nn.Module] = []
    for before, after in pairwise([images.channels, *widths]):
        layers += [norms.convolution(before, after, kernel=3, stride=2, padding=1), activation()]
    return nn.Sequential(*layers[:-1])


def patch_stem(
    *, images: Images, widths: Sequence[int], norms: NormKit, activation: Activation
) -> nn.Module:
    """One convolution whose kernel and stride are the patch (row A2).

    A side that the patch does not divide is padded with zeros at its end, so that the grid is that
    of the convolutions.
    """
    patch, channels = 2 ** len(widths), images.channels
    padding = nn.ZeroPad2d((0, -images.width % patch, 0, -images.height % patch))
    convolution = norms.convolution(channels, widths[-1], kernel=patch, stride=patch, padding=0)
    return nn.Sequential(padding, convolution)


STEMS: dict[str, Stem] = {"convolution": convolution_stem, "patch": patch_stem}


# Positions: a part added to the scores of every block, and one added once to the tokens.


def patch_positions(grid: Grid, stride: int = 1) -> Tensor:
    """Row and column of every `stride`-th patch of a grid, row by row. (number of patches, 2)."""
    rows, columns = (torch.arange(0, side, stride) for side in grid)
    return torch.cartesian_prod(rows, columns)


class AttentionBias(nn.Module):
    """Adds B[h, |row offset|, |column offset|] to the scores, learned and zero at the start.

    One scalar a head and pair of absolute offsets (paper 4.2). A class token has no place on the
    grid, so it has two more: one as a query towards every patch, one as a key from every patch;
    towards itself its bias is zero, which loses nothing, as a softmax sees differences only.
    (B, h, Nq, Nk) → the same shape.
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


class AbsolutePosition(nn.Module):
    """A learned embedding added to the tokens that enter the transformer (row A5, as DeiT)."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(1, num_tokens, width))

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.embedding


class Position(NamedTuple):
    """Where a network is told the place of a patch."""

    scores: type[nn.Module]
    tokens: type[nn.Module]


POSITIONS = {
    "attention_bias": Position(scores=AttentionBias, tokens=nn.Identity),
    "absolute": Position(scores=nn.Identity, tokens=AbsolutePosition),
    "none": Position(scores=nn.Identity, tokens=nn.Identity),
}


# Poolings, and the class token that one of them needs.


class ClassToken(nn.Module):
    """Puts a learned token before the patches. (B, N, C) → (B, N + 1, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, width))

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        # shape[0] and not len(), which torch.export would take for a constant
        return torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


class BesideClassToken(nn.Module):
    """Takes the patches one way and the class token, which has no place on the grid, another."""

    def __init__(self, class_token: nn.Module, patches: nn.Module) -> None:
        super().__init__()
        self.class_token = class_token
        self.patches = patches

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.class_token(tokens[:, :1]), self.patches(tokens[:, 1:])], dim=1)


def patches_alone(class_token: nn.Module, patches: nn.Module) -> nn.Module:
    """The counterpart of `BesideClassToken` where there is no class token."""
    return patches


class AveragePooling(nn.Module):
    """The mean of the tokens. (B, N, C) → (B, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class ClassTokenPooling(nn.Module):
    """The class token. (B, N, C) → (B, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class Pooling(NamedTuple):
    """A way to pool, and what it needs in the rest of the network."""

    num_class_tokens: int
    class_token: type[nn.Module]
    beside: Callable[[nn.Module, nn.Module], nn.Module]
    pool: type[nn.Module]


POOLINGS = {
    "average": Pooling(0, nn.Identity, patches_alone, AveragePooling),
    "class_token": Pooling(1, ClassToken, BesideClassToken, ClassTokenPooling),
}


# Downsampling: the part that each of the two ways between stages has for itself.


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


class PatchConvolution(nn.Module):
    """A 3x3 convolution of stride 2 on the grid. (B, H*W, C) → (B, ceil(H/2)*ceil(W/2), C')."""

    def __init__(self, grid: Grid, in_width: int, out_width: int, norms: NormKit) -> None:
        super().__init__()
        self.grid = grid
        self.convolution = norms.convolution(in_width, out_width, kernel=3, stride=2, padding=1)

    def forward(self, patches: Tensor) -> Tensor:
        features = patches.transpose(1, 2).unflatten(2, self.grid)
        return self.convolution(features).flatten(2).transpose(1, 2)


# Residual branches, which every design has.


class DropPath(nn.Module):
    """Leaves a branch out of training for some images, and makes up for it (Huang et al. 2016).

    As timm's, except that the draws can be given: `draws`, (B,) uniform in [0, 1). Without them
    they are drawn here.
    """

    draws: Tensor | None = None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return branch
        count = branch.shape[0]
        draws = torch.rand(count, device=branch.device) if self.draws is None else self.draws
        kept = (draws >= self.probability).to(branch.dtype) / (1 - self.probability)
        return branch * kept.view(count, *[1] * (branch.ndim - 1))


class Residual(nn.Module):
    """x + branch(x); drop_path is the probability that an image trains without the branch."""

    def __init__(self, branch: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.branch = branch
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.drop_path(self.branch(tokens))
