"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch with its own mirror image."""

from __future__ import annotations

import torch
from torch import Tensor

from levit_ablate.data.stream import Mixing


def mixed(images: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mix every image with its partner, the image as far from the other end of the batch.

    (B, C, H, W) → the mixed images, and the share (B,) that each keeps of itself, and so of its
    label. Cutmix's rectangle is timm's: its centre uniform, its sides √(1 − share) of the image's,
    clipped to the image; the share is then the part of the image that it leaves.
    """
    height, width = images.shape[-2:]
    cut = _root(1 - mixing.share)
    rows = _inside(mixing.center[:, 0], cut, height)
    columns = _inside(mixing.center[:, 1], cut, width)
    outside = ~(rows[:, None, :, None] & columns[:, None, None, :])  # (B, 1, H, W)
    is_cutmix = mixing.is_cutmix[:, None, None, None]
    weight = torch.where(is_cutmix, outside.float(), mixing.share[:, None, None, None])
    share = torch.where(mixing.is_cutmix, outside.float().mean(dim=(1, 2, 3)), mixing.share)
    # lerp is exact where the weight is 0 or 1
    return torch.lerp(images.flip(0), images, weight), share


def _root(value: Tensor) -> Tensor:
    """The float32 next to the square root: torch's own is one beside it for a fifth of them."""
    exact = torch.float32 if value.device.type == "mps" else torch.float64  # MPS has no other
    return value.to(exact).sqrt().float()


def _inside(center: Tensor, cut: Tensor, side: int) -> Tensor:
    """Which of `side` pixels the rectangles cover: (B,), (B,) → (B, side) bool."""
    middle, length = (center * side).int()[:, None], (cut * side).int()[:, None]
    pixels = torch.arange(side, device=center.device)
    return (pixels >= middle - length // 2) & (pixels < middle + (length + 1) // 2)
