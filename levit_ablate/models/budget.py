"""The widest network within a budget: widths are chosen from lists until a cost limit is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from levit_ablate.config import Architecture, Design, Images
from levit_ablate.models.cost import costs

STEPS = 64
"""Factors of the widths are whole multiples of 1 / STEPS."""
NEAR = 0.97
"""A network that costs this share of the budget is not made wider."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a network may cost, for one image and with one head; None: any cost."""

    flops: int | None = None
    """Multiply-adds."""
    params: int | None = None
    """Parameters."""

    def share(self, architecture: Architecture, design: Design, images: Images) -> float:
        """Cost over budget, of whichever is nearer to it or further beyond; 0 without a budget."""
        cost = costs(architecture, design, images).total
        limits = {"flops": self.flops, "params": self.params}
        return max((getattr(cost, k) / most for k, most in limits.items() if most), default=0.0)


def within(
    architecture: Architecture,
    design: Design,
    images: Images,
    budget: Budget,
    widths: Sequence[Sequence[int]],
    *,
    widen: bool,
) -> Architecture | None:
    """The architecture with other widths, of which no cost is beyond the budget.

    All widths are scaled by one factor, each to the nearest of its list that is not above; then
    single stages are widened by a step while the budget holds.

    Args:
        architecture: where it starts; depths, heads and keys stay.
        design: the design choices, which change the cost.
        images: what the network is built for.
        budget: the limits.
        widths: of every stage those that it may have, ascending.
        widen: bring a network that is cheaper than the budget near to it as well.

    Returns None where the narrowest is beyond the budget.
    """

    @cache
    def share(member: Architecture) -> float:
        return budget.share(member, design, images)

    own = share(architecture)
    if own <= 1 and (not widen or own >= NEAR or own == 0):
        return architecture

    def scaled(factor: int) -> Architecture:
        chosen = [
            max((w for w in allowed if w <= stage.width * factor / STEPS), default=allowed[0])
            for stage, allowed in zip(architecture.stages, widths, strict=True)
        ]
        return _of_widths(architecture, chosen)

    low, high = 0, STEPS
    if share(scaled(low)) > 1:
        return None
    top = _of_widths(architecture, [allowed[-1] for allowed in widths])
    while scaled(high) != top and share(scaled(high)) <= 1:
        low, high = high, 2 * high
    if share(scaled(high)) <= 1:
        return top
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(scaled(middle)) <= 1 else (low, middle)
    return _filled(scaled(low), share, widths)


def _filled(
    architecture: Architecture,
    share: Callable[[Architecture], float],
    widths: Sequence[Sequence[int]],
) -> Architecture:
    """Of every stage in turn the next width of its list, as long as one fits."""
    while True:
        wider = []
        for index, allowed in enumerate(widths):
            own = [stage.width for stage in architecture.stages]
            if larger := [width for width in allowed if width > own[index]]:
                own[index] = larger[0]
                wider.append(_of_widths(architecture, own))
        fitting = [member for member in wider if share(member) <= 1]
        if not fitting:
            return architecture
        nearest = max(fitting, key=share)
        if share(nearest) <= share(architecture):
            return architecture  # a stage that the design leaves out
        architecture = nearest


def _of_widths(architecture: Architecture, widths: Sequence[int]) -> Architecture:
    stages = tuple(
        replace(stage, width=width)
        for stage, width in zip(architecture.stages, widths, strict=True)
    )
    return replace(architecture, stages=stages)
