"""BatchNorm at inference is a scaling and a shift: folded into a neighbour, it costs nothing.

A convolution or linear layer takes the norm after it (paper 4.2), a head's linear layer the norm
before it. This is how the paper measures speed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from levit_ablate.models.norms import ConvolutionBatchNorm, Head, LinearBatchNorm


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of `network` for inference, with the same outputs and without BatchNorm.

    The copy is in eval mode and takes no gradients; `network` stays as it is. Where there is no
    BatchNorm (`norm: layer`) the copy has the same layers.

    Raises TypeError for a BatchNorm outside the layers of `norms.py`, which has no known neighbour.
    """
    folded = _folded(copy.deepcopy(network).eval()).requires_grad_(False)
    for name, module in folded.named_modules():
        if isinstance(module, _BatchNorm):
            raise TypeError(f"no layer is known to fold the batch norm {name} into")
    return folded


def _folded(module: nn.Module) -> nn.Module:
    """The module, folded if it can be, and else with every child folded in its place."""
    if type(module) in FOLDS:
        return FOLDS[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, _folded(child))
    return module


def _folded_head(head: Head) -> nn.Module:
    """W (s x + t) + b = (W s) x + (W t + b): the norm goes into the linear layer after it."""
    if not isinstance(head.norm, _BatchNorm):
        return head
    norm: Any = head.norm
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    head.layer.bias.add_(head.layer.weight @ shift)
    head.layer.weight.mul_(scale)
    return head.layer


FOLDS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    ConvolutionBatchNorm: lambda module: fuse_conv_bn_eval(module.layer, module.norm),
    LinearBatchNorm: lambda module: fuse_linear_bn_eval(module.layer, module.norm),
    Head: _folded_head,
}
