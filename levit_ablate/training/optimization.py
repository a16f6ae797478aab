"""The moving average of a network's weights, which is evaluated beside the network or in its place.

torch's `AveragedModel`, except that only floating-point state is averaged: BatchNorm's counter and
the attention's indices are copied, where torch's own averaging would truncate them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from levit_ablate.config import Recipe

LONGEST = {"network": 1 / 3, "average": 1 / 5}
"""What is evaluated → the share of the training from which on an average's horizon is reported.
Measured in docs/recipes.md: at a fifth an average has lost up to four points."""


def averaged(network: nn.Module) -> AveragedModel:
    """A copy of `network` whose `update_parameters` averages parameters and buffers.

    The first update copies the network. The decay is set before it, by `follow`.
    """
    return AveragedModel(network, use_buffers=True).requires_grad_(False)


def follow(average: AveragedModel, decay: float) -> None:
    """Let the updates of `average` keep `decay` of itself in every step."""
    average.multi_avg_fn = _update(decay)


def _update(decay: float) -> Callable[..., None]:
    ema = get_ema_multi_avg_fn(decay)

    def update(averages: Any, current: Any, num_averaged: Any) -> None:
        """One kind of tensors at a time, as `AveragedModel` groups them."""
        if averages[0].is_floating_point():
            ema(averages, current, num_averaged)
        else:
            torch._foreach_copy_(averages, current)

    return update


def decay_of(recipe: Recipe, num_steps: int) -> float:
    """The average's decay in a step of a training of `num_steps`; 0 without an average."""
    if recipe.ema_decay or not recipe.ema_horizon:
        return recipe.ema_decay
    return max(0.0, 1 - 1 / (recipe.ema_horizon * num_steps))


def horizon_warning(recipe: Recipe, num_steps: int) -> str | None:
    """One line on an average whose horizon is too long for the training; None if it is not.

    The horizon, 1 / (1 - decay) steps, is the average's time constant: after a training of k
    horizons exp(-k) of the average is still the weights of the first step.
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
