"""LeViT's parts, each beside the one that can replace it. Replacements share a signature.

Shapes: B images, N tokens, C channels, H x W the grid of patches, N = H*W (+ 1 class token, first).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from levit_ablate.models.norms import NormKit

Grid = tuple[int, int]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "none": nn.Identity,
}


# Stems: image (B, channels, height, width) → features (B, C, H, W), H = ceil(height / 2**depth).


def convolution_stem(
    channels: int,
    widths: tuple[int, int],
    depth: int,
    size: Grid,
    norms: NormKit,
    activation: type[nn.Module],
) -> nn.Module:
    """3x3 convolutions of stride 2, widths S/8, S/4, S/2, C; no activation after the last.

    `widths` are S, which is C in the paper, and C.
    """
    inner = [max(1, widths[0] // 2**step) for step in reversed(range(1, depth))]
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *inner, widths[1]]):
        layers += [norms.convolution(before, after, kernel=3, stride=2, padding=1), activation()]
    return nn.Sequential(*layers[:-1])


def patch_stem(
    channels: int,
    widths: tuple[int, int],
    depth: int,
    size: Grid,
    norms: NormKit,
    activation: type[nn.Module],
) -> nn.Module:
    """One convolution whose kernel and stride are the patch (row A2).

    A side that the patch does not divide is padded with zeros at its end, so that the grid is that
    of the convolutions.
    """
    patch = 2**depth
    bottom, right = (-side % patch for side in size)
    convolution = norms.convolution(channels, widths[1], kernel=patch, stride=patch, padding=0)
    return nn.Sequential(nn.ZeroPad2d((0, right, 0, bottom)), convolution)


Stem = Callable[[int, tuple[int, int], int, Grid, NormKit, type[nn.Module]], nn.Module]
STEMS: dict[str, Stem] = {"convolution": convolution_stem, "patch": patch_stem}


class ToTokens(nn.Module):
    """(B, C, H, W) → (B, H*W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).transpose(1, 2)


# Pooling, and the class token that one of them needs.


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


class AveragePooling(nn.Module):
    """The mean of the tokens. (B, N, C) → (B, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class ClassTokenPooling(nn.Module):
    """The class token. (B, N, C) → (B, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


# Positions that are added to the tokens; those that are added to the scores are in attention.py.


class AbsolutePosition(nn.Module):
    """A learned embedding added to the tokens that enter the transformer (row A5, as DeiT)."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(1, num_tokens, width))

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.embedding


# Blocks.


class DropPath(nn.Module):
    """Leave a branch out of training for some images, and make up for it (Huang et al. 2016).

    timm's, but that what is drawn can be given: `draws`, (B,) uniform in [0, 1). Without them they
    are drawn here.
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


def mlp(
    width: int, hidden: int, norms: NormKit, activation: type[nn.Module], *, zero: bool
) -> nn.Sequential:
    """Linear to `hidden`, activation, linear back, with the kit's norms. (B, N, C) → (B, N, C)."""
    return nn.Sequential(
        norms.before_block(width),
        norms.linear(width, hidden),
        activation(),
        norms.linear(hidden, width, zero=zero),
    )


# Between stages.


class PatchConvolution(nn.Module):
    """A 3x3 convolution of stride 2 on the grid. (B, H*W, C) → (B, ceil(H/2)*ceil(W/2), C')."""

    def __init__(self, grid: Grid, in_width: int, out_width: int, norms: NormKit) -> None:
        super().__init__()
        self.grid = grid
        self.convolution = norms.convolution(in_width, out_width, kernel=3, stride=2, padding=1)

    def forward(self, patches: Tensor) -> Tensor:
        features = patches.transpose(1, 2).unflatten(2, self.grid)
        return self.convolution(features).flatten(2).transpose(1, 2)


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
