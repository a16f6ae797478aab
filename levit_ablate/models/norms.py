"""Norms as kits: a kit makes every layer that a norm belongs to, so one swap reaches everywhere.

Shapes: B images, N tokens, C channels, H x W the grid of patches, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

# How the weights of a linear layer start, before its norm or a zero start has its say.


def torch_default(weight: Tensor) -> None:
    """As `nn.Linear` has drawn it: uniform, within 1 / sqrt(inputs); as in the official code."""


def truncated_normal(weight: Tensor) -> None:
    """With a deviation of 0.02, as in ViT and DeiT."""
    nn.init.trunc_normal_(weight, std=0.02)


LinearInit = Callable[[Tensor], None]
LINEAR_INITS: dict[str, LinearInit] = {
    "torch": torch_default,
    "truncated_normal": truncated_normal,
}


class NormKit(NamedTuple):
    """Makers of the layers that carry a network's norm."""

    convolution: Callable[..., nn.Module]
    """(in_channels, out_channels, kernel, stride, padding)"""
    linear: Callable[..., nn.Module]
    """(in_features, out_features, *, zero=False); with `zero` it starts by giving zero."""
    before_block: Callable[[int], nn.Module]
    """(width)"""
    head: Callable[[int, int], nn.Module]
    """(width, num_classes)"""


class Head(nn.Module):
    """A norm, then a linear classifier (weights truncated normal, std 0.02). (B, C) → (B, K)."""

    def __init__(self, norm: type[nn.Module], width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.layer = nn.Linear(width, num_classes)

    def reset_parameters(self) -> None:
        truncated_normal(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(self.norm(features))


# LeViT's norm: BatchNorm after every convolution and linear layer (paper 4.2).


class ConvolutionBatchNorm(nn.Module):
    """Convolution without bias, BatchNorm. (B, C, H, W) → (B, C', H', W')."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.layer(images))


class LinearBatchNorm(nn.Module):
    """Linear without bias, BatchNorm over all tokens of all images. (B, N, C) → (B, N, C').

    With `zero` the norm's weight starts at zero, as at the end of LeViT's residual branches.
    """

    def __init__(
        self, init: LinearInit, in_features: int, out_features: int, *, zero: bool = False
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features, bias=False)
        self.norm = nn.BatchNorm1d(out_features)
        self.init = init
        self.norm_start = 0.0 if zero else 1.0

    def reset_parameters(self) -> None:
        self.init(self.layer.weight)
        nn.init.constant_(self.norm.weight, self.norm_start)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.layer(tokens)
        return self.norm(tokens.flatten(0, 1)).view_as(tokens)


def batch_norm_kit(init: LinearInit) -> NormKit:
    """BatchNorm in every layer, and none before a block."""
    return NormKit(
        convolution=ConvolutionBatchNorm,
        linear=partial(LinearBatchNorm, init),
        before_block=nn.Identity,
        head=partial(Head, nn.BatchNorm1d),
    )


# The transformer's norm (row A3): LayerNorm before every block, in the stem and in the head.


class ConvolutionLayerNorm(nn.Module):
    """Convolution with bias, LayerNorm over the channels. (B, C, H, W) → (B, C', H', W')."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.layer(images).movedim(1, -1)).movedim(-1, 1)


class BiasedLinear(nn.Module):
    """Linear with bias, and no norm of its own; the bias starts at zero (as in ViT and DeiT).

    With `zero` the weights start at zero too, as at the end of LeViT's residual branches.
    (B, N, C) → (B, N, C').
    """

    def __init__(
        self, init: LinearInit, in_features: int, out_features: int, *, zero: bool = False
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)
        self.init = init
        self.weight_start = 0.0 if zero else 1.0

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.init(self.layer.weight)
        self.layer.weight.mul_(self.weight_start)
        self.layer.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


def layer_norm_kit(init: LinearInit) -> NormKit:
    """LayerNorm before every block, and biases in the linear layers.

    The paper says "LayerNorm before each block, as ViT" and nothing of stem and head. Here no
    BatchNorm is left anywhere: the stem's convolutions get a bias and a LayerNorm over channels,
    the heads a LayerNorm in the BatchNorm's place. In the other reading the stem, which is no
    block, keeps its BatchNorm: `stem_norm: batch`. How linear layers start the paper does not say
    either, and without a BatchNorm behind them it matters more: as in the official code, or as in
    ViT (`linear_init: truncated_normal`). Biases start at zero in both.
    """
    return NormKit(
        convolution=ConvolutionLayerNorm,
        linear=partial(BiasedLinear, init),
        before_block=nn.LayerNorm,
        head=partial(Head, nn.LayerNorm),
    )


NORM_KITS: dict[str, Callable[[LinearInit], NormKit]] = {
    "batch": batch_norm_kit,
    "layer": layer_norm_kit,
}
