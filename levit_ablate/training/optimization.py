"""Optimizer, schedule, adaptive clipping and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from levit_ablate.config import Recipe

LONGEST = {"network": 1 / 3, "average": 1 / 5}
"""Longest horizon of an average that is not warned of, as a share of the training, by what is
evaluated. Measured in docs/recipes.md: at a fifth an average has lost up to four points."""


def highest_learning_rate(recipe: Recipe) -> float:
    """Learning rate at the end of the warm-up: the recipe's, scaled to its batch size."""
    reference = recipe.reference_batch_size
    return recipe.learning_rate * (recipe.batch_size / reference if reference else 1)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: the weights of linear layers and convolutions are decayed, no others."""
    layers = (m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    decayed = {id(layer.weight) for layer in layers}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        groups[id(parameter) in decayed].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def cosine(optimizer: Optimizer, recipe: Recipe, num_steps: int) -> CosineLRScheduler:
    """A linear warm-up, then a cosine, by timm; by the step or by the epoch."""
    unit = num_steps / recipe.epochs if recipe.schedule == "step" else 1
    return CosineLRScheduler(
        optimizer,
        t_initial=round(recipe.epochs * unit),
        lr_min=recipe.final_learning_rate,
        warmup_t=round(recipe.warmup_epochs * unit),
        warmup_lr_init=recipe.warmup_learning_rate,
        t_in_epochs=recipe.schedule == "epoch",
    )


def clip_adaptively(
    parameters: Iterable[nn.Parameter],
    joint: Sequence[tuple[nn.Parameter, ...]],
    clip: float,
) -> None:
    """Clip the gradient of every unit to `clip` times the norm of its weights (Brock et al. 2021).

    By timm. A unit is an output of a layer, or a whole vector (biases, the weights of a norm). Each
    group of vectors in `joint` is one unit, because the official code keeps it in one tensor.
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


def averaging(decay: float) -> Callable[..., None]:
    """Return an `AveragedModel.multi_avg_fn` that keeps the share `decay` of the average.

    It averages floating-point state only: torch would truncate BatchNorm's counter and indices.
    """
    ema = get_ema_multi_avg_fn(decay)

    def update(averages: Any, current: Any, num_averaged: Any) -> None:
        if averages[0].is_floating_point():  # `AveragedModel` groups tensors by type
            ema(averages, current, num_averaged)
        else:
            torch._foreach_copy_(averages, current)

    return update


def decay_of(recipe: Recipe, num_steps: int) -> float:
    """Decay of the average in one step of a training of `num_steps`; 0 without an average."""
    if recipe.ema_decay or not recipe.ema_horizon:
        return recipe.ema_decay
    return max(0.0, 1 - 1 / (recipe.ema_horizon * num_steps))


def horizon_warning(recipe: Recipe, num_steps: int) -> str | None:
    """Return a line about an average whose horizon is too long for the training, or None.

    The horizon, 1 / (1 - decay) steps, is the time constant of the average: after a training of k
    horizons a share of exp(-k) of the average is still the weights of the first step.
    """
    decay = decay_of(recipe, num_steps)
    horizon = 1 / (1 - decay)
    if not decay or horizon < LONGEST[recipe.evaluate] * num_steps:
        return None
    instead = {
        "network": "the network itself is evaluated",
        "average": "evaluate the network (recipe.evaluate), train longer, or lower it",
    }[recipe.evaluate]
    name = "ema_decay" if recipe.ema_decay else "ema_horizon"
    return (
        f"recipe.{name}: {getattr(recipe, name):g} averages over {horizon:,.0f} steps, and the "
        f"training has {num_steps:,}: {math.exp(-num_steps / horizon):.0%} of the average will "
        f"still be the weights of the first step; {instead}"
    )
