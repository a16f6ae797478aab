"""Rescale an architecture until its cost is that of the baseline again, or within a budget.

`match` is for ablations (paper 5.5, A.2), `within` for searches. `match` knows three families of
geometry, chosen by the design, with the paper's own solutions in them:

- keys as large as the values: a head has one size, so C = N * value_dim as in DeiT; the number of
  heads stays, the size of a head is free (row A6: 30).
- no pyramid: C = N * value_dim too; the number of heads is free as well, and the most heads are
  taken whose keys are not smaller than the base model's (row A1: N 3, D 19; N 4 would need D 14).
- otherwise all widths and the size of a head are scaled by one factor; the heads stay.

Where whole numbers leave a gap (of over 3 % in the first two, of over 1 % in the last), the widths
alone are scaled a little as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from levit_ablate.config import Architecture, Design, Images
from levit_ablate.errors import UserError
from levit_ablate.models import geometry
from levit_ablate.models.cost import costs

TOLERANCE = 0.03
"""A matched geometry's cost is within this share of the target."""
LEFT_ALONE = 0.01
"""A geometry whose cost is within this share of the target is not rescaled."""
STEPS = 128
"""`match` scales by whole multiples of 1 / STEPS."""
BUDGET_STEPS = 64
"""`within` scales by whole multiples of 1 / BUDGET_STEPS."""
NEAR = 0.97
"""A network that costs this share of a budget is not made wider."""


# To the cost of the baseline.


def match(
    architecture: Architecture,
    design: Design,
    images: Images,
    cost: Literal["flops", "params"],
    target: int,
) -> Architecture:
    """The baseline's architecture, rescaled until under `design` it costs what the baseline costs.

    The cost is multiply-adds or parameters, by the paper's convention, and `target` the baseline's.
    Raises UserError, with the nearest cost, where none comes within 3 %.
    """
    problem = _Problem(design=design, images=images, cost=cost, target=target)
    architecture = replace(architecture, stages=geometry.stages_of(architecture, design))
    if abs(problem.error(architecture)) <= LEFT_ALONE:
        return architecture
    one_stage, ratio = not design.pyramid, geometry.values_per_key(design).block
    tied = one_stage or ratio == 1  # C = N * value_dim, as in the paper
    if one_stage:
        matched = _one_stage(problem, architecture, ratio)
    elif tied:
        matched = problem.best(lambda size: _heads_of(architecture, ratio * size), start=8)
    else:
        matched = problem.best(lambda factor: _scaled(architecture, ratio, factor), start=STEPS)
    if abs(problem.error(matched)) > (TOLERANCE if tied else LEFT_ALONE):
        coarse = matched
        finer = problem.best(lambda factor: _widths_scaled(coarse, factor), start=STEPS)
        matched = min(coarse, finer, key=lambda solution: abs(problem.error(solution)))
    if abs(error := problem.error(matched)) > TOLERANCE:
        raise UserError(
            f"match: {cost}: the nearest geometry is {error:.1%} off the baseline's {target:,}, "
            f"because widths and heads are whole numbers and the network is small; use match: none"
        )
    return matched


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Which cost of which network is to meet which target."""

    design: Design
    images: Images
    cost: Literal["flops", "params"]
    target: int

    def error(self, architecture: Architecture) -> float:
        """Cost over target, less one."""
        total = costs(architecture, self.design, self.images).total
        return float(getattr(total, self.cost) / self.target - 1)

    def best(self, family: Callable[[int], Architecture], start: int) -> Architecture:
        """The member of `family` nearest the target; cost grows with its number, nearly."""
        first = _first_beyond(lambda number: self.error(family(number)) < 0, start)
        near = range(max(1, first - 3), first + 3)
        return min((family(number) for number in near), key=lambda member: abs(self.error(member)))


def _first_beyond(is_below: Callable[[int], bool], start: int) -> int:
    """The first whole number that is no longer below; doubles from `start`, then halves."""
    low, high = 0, start
    while is_below(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high


def _one_stage(problem: _Problem, architecture: Architecture, ratio: int) -> Architecture:
    """C = N * value_dim, with the most heads whose keys are no smaller than the base model's."""
    (stage,) = architecture.stages
    smallest = geometry.value_dim_of(architecture, stage) / geometry.VALUES_PER_KEY["small"].block
    solution = architecture
    for num_heads in range(stage.num_heads, 0, -1):
        fewer = replace(architecture, stages=(replace(stage, num_heads=num_heads),))
        solution = problem.best(lambda size: _heads_of(fewer, ratio * size), start=8)  # noqa: B023
        if solution.value_dim // ratio >= smallest:
            break
    return solution


def _heads_of(architecture: Architecture, value_dim: int) -> Architecture:
    """Heads with values of this size, and widths that are all heads' values: C = N * value_dim."""
    stages = tuple(
        replace(stage, width=stage.num_heads * value_dim, value_dim=None)
        for stage in architecture.stages
    )
    return replace(architecture, value_dim=value_dim, stages=stages)


def _scaled(architecture: Architecture, ratio: int, factor: int) -> Architecture:
    """Widths and the size of a head times factor / STEPS, with keys of whole size."""

    def scaled(value_dim: int) -> int:
        return ratio * max(1, round(value_dim * factor / STEPS / ratio))

    wider = _widths_scaled(architecture, factor)
    stages = tuple(
        stage if stage.value_dim is None else replace(stage, value_dim=scaled(stage.value_dim))
        for stage in wider.stages
    )
    return replace(wider, value_dim=scaled(architecture.value_dim), stages=stages)


def _widths_scaled(architecture: Architecture, factor: int) -> Architecture:
    widths = (max(1, round(stage.width * factor / STEPS)) for stage in architecture.stages)
    return _of_widths(architecture, widths)


def _of_widths(architecture: Architecture, widths: Iterable[int]) -> Architecture:
    stages = tuple(
        replace(stage, width=width)
        for stage, width in zip(architecture.stages, widths, strict=True)
    )
    return replace(architecture, stages=stages)


# Within a budget.


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
        limits = ((cost.flops, self.flops), (cost.params, self.params))
        return max((own / most for own, most in limits if most), default=0.0)


def within(
    architecture: Architecture,
    design: Design,
    images: Images,
    budget: Budget,
    widths: Sequence[Sequence[int]],
    *,
    widen: bool,
) -> Architecture | None:
    """The architecture with other widths, none of whose costs is beyond the budget.

    All widths are scaled by one factor, each to the nearest of its stage's list (ascending) that is
    not above; then single stages are widened by a step while the budget holds. With `widen` a
    network that is cheaper than the budget is brought near to it as well. None where the narrowest
    is beyond the budget.
    """

    @cache
    def share(member: Architecture) -> float:
        return budget.share(member, design, images)

    own = share(architecture)
    if own <= 1 and (not widen or own >= NEAR or own == 0):
        return architecture

    def scaled(factor: int) -> Architecture:
        chosen = []
        for stage, allowed in zip(architecture.stages, widths, strict=True):
            most = stage.width * factor / BUDGET_STEPS
            chosen.append(max((width for width in allowed if width <= most), default=allowed[0]))
        return _of_widths(architecture, chosen)

    widest = _of_widths(architecture, (allowed[-1] for allowed in widths))
    if share(scaled(0)) > 1:
        return None
    if share(widest) <= 1:
        return widest
    factor = _first_beyond(lambda factor: share(scaled(factor)) <= 1, BUDGET_STEPS) - 1
    return _filled(scaled(factor), share, widths)


def _filled(
    architecture: Architecture,
    share: Callable[[Architecture], float],
    widths: Sequence[Sequence[int]],
) -> Architecture:
    """Widen one stage at a time to the next width of its list, as long as that fits."""
    while True:
        own = [stage.width for stage in architecture.stages]
        wider = []
        for index, allowed in enumerate(widths):
            if larger := [width for width in allowed if width > own[index]]:
                wider.append(_of_widths(architecture, [*own[:index], larger[0], *own[index + 1 :]]))
        fitting = [member for member in wider if share(member) <= 1]
        if not fitting:
            return architecture
        nearest = max(fitting, key=share)
        if share(nearest) <= share(architecture):
            return architecture  # a stage that the design leaves out
        architecture = nearest
