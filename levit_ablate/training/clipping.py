"""Adaptive gradient clipping (Brock et al. 2021), in the units of the official code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from timm.utils.agc import adaptive_clip_grad
from torch import nn


def clip_adaptively(
    parameters: Iterable[nn.Parameter],
    joint: Sequence[tuple[nn.Parameter, ...]],
    clip: float,
) -> None:
    """Clip every unit's gradient to `clip` times the norm of the unit's weights, by timm.

    A unit is an output of a layer, or a whole vector (biases, a norm's weights).

    Args:
        parameters: all that are clipped, those of `joint` among them.
        joint: groups of vectors that are clipped as one unit, because the official code keeps each
            group in one tensor.
        clip: the share of the weights' norm.
    """
    apart = {id(parameter) for vectors in joint for parameter in vectors}
    adaptive_clip_grad([p for p in parameters if id(p) not in apart], clip)
    for vectors in joint:
        gradients = [vector.grad for vector in vectors]
        if any(gradient is None for gradient in gradients):
            adaptive_clip_grad(list(vectors), clip)
            continue
        whole = torch.cat([vector.detach() for vector in vectors]).requires_grad_()
        whole.grad = torch.cat(gradients)  # type: ignore[arg-type]
        adaptive_clip_grad(whole, clip)
        sizes = [len(vector) for vector in vectors]
        torch._foreach_copy_(gradients, whole.grad.split(sizes))  # type: ignore[arg-type]
