"""BatchNorm synchronized over all processes, on any device and in any network.

torch's SyncBatchNorm needs a GPU, and replaces timm's BatchNormAct2d without its activation.
"""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch.plugins import LayerSync
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronizeAnywhere(LayerSync):
    """Lightning plugin that makes `synchronized` the forward of every BatchNorm of a model."""

    def apply(self, model: nn.Module) -> nn.Module:
        for norm in batch_norms(model):
            norm.forward = partial(synchronized, norm)  # type: ignore[method-assign]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for norm in batch_norms(model):
            norm.__dict__.pop("forward", None)
        return model


def synchronized(norm: _BatchNorm, values: Tensor) -> Tensor:
    """Apply BatchNorm with the statistics of all processes: (B, C, …) → the same shape.

    Every process must have as many inputs. Means and variances are exchanged in one differentiable
    step. In evaluation it is the BatchNorm itself; timm's BatchNormAct2d keeps its activation.
    """
    if not norm.training:
        return type(norm).forward(norm, values)
    others = [dim for dim in range(values.ndim) if dim != 1]
    exact = values.float()
    own = torch.stack([exact.mean(dim=others), exact.var(dim=others, unbiased=False)])  # (2, C)
    means, variances = torch.stack(all_gather(own)).unbind(1)  # (processes, C) each
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + means.var(dim=0, unbiased=False)
    count = len(means) * values.numel() // values.shape[1]
    if norm.track_running_stats:
        _track(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    shape = [1, -1] + [1] * (values.ndim - 2)
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    normal = (exact * scale.view(shape) + shift.view(shape)).to(values.dtype)
    return norm.act(norm.drop(normal)) if isinstance(norm, BatchNormAct2d) else normal


def _track(norm: _BatchNorm, mean: Tensor, unbiased_variance: Tensor) -> None:
    """Update the running statistics as BatchNorm does."""
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None
    assert running_var is not None
    running_mean.lerp_(mean, norm.momentum or 0.0)
    running_var.lerp_(unbiased_variance, norm.momentum or 0.0)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return all BatchNorm layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
