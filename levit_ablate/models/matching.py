"""Rescale an architecture until its cost is that of the baseline again (paper 5.5, A.2).

Three families of geometry, chosen by the design, with the paper's own solutions in them:

- keys as large as the values: a head has one size, so C = N * value_dim as in DeiT; the number of
  heads stays, the size of a head is free (row A6: 30).
- no pyramid: C = N * value_dim too; the number of heads is free as well, and the most heads are
  taken whose keys are not smaller than the base model's (row A1: N 3, D 19; N 4 would need D 14).
- otherwise all widths and the size of a head are scaled by one factor; the heads stay.

Where whole numbers leave a gap (of over 3 % in the first two, of over 1 % in the last), the widths
alone are scaled a little as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from levit_ablate.config import Architecture, Design, Images
from levit_ablate.errors import UserError
from levit_ablate.models import geometry
from levit_ablate.models.cost import costs

TOLERANCE = 0.03
"""A solution's cost is within this share of the target."""
LEFT_ALONE = 0.01
"""A geometry whose cost is within this share of the target is not rescaled."""
STEPS = 128
"""Factors are whole multiples of 1 / STEPS."""


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Which cost of which network is to meet which target."""

    design: Design
    images: Images
    cost: Literal["flops", "params"]
    target: int

    def error(self, architecture: Architecture) -> float:
        """Cost over target, less one."""
        return float(
            getattr(costs(architecture, self.design, self.images).total, self.cost) / self.target
            - 1
        )

    def best(self, family: Callable[[int], Architecture], start: int) -> Architecture:
        """The member of `family` nearest the target; cost grows with its number, nearly."""
        low, high = 0, start
        while self.error(family(high)) < 0:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.error(family(middle)) < 0 else (low, middle)
        near = range(max(1, low - 2), high + 3)
        return min((family(number) for number in near), key=lambda member: abs(self.error(member)))


def match(
    architecture: Architecture,
    design: Design,
    images: Images,
    cost: Literal["flops", "params"],
    target: int,
) -> Architecture:
    """The architecture, rescaled so that under `design` its cost is within 3 % of `target`.

    Args:
        architecture: the baseline's geometry.
        design: the variant's choices, which change its cost.
        images: what the network is built for: FLOPs depend on the image's size.
        cost: which cost is to be met: multiply-adds or parameters, by the paper's convention.
        target: the cost of the baseline.

    Raises UserError, with the nearest cost, where no member of the family comes that near.
    """
    problem = _Problem(design=design, images=images, cost=cost, target=target)
    architecture = replace(architecture, stages=geometry.stages_of(architecture, design))
    if abs(problem.error(architecture)) <= LEFT_ALONE:
        return architecture
    if not design.pyramid:
        matched = _one_stage(problem, architecture)
    elif design.keys == "as_values":
        matched = problem.best(lambda size: _heads_of(architecture, design, size), start=8)
    else:
        matched = problem.best(lambda factor: _scaled(architecture, design, factor), start=STEPS)
    whole = not design.pyramid or design.keys == "as_values"  # C = N * value_dim, as in the paper
    if abs(problem.error(matched)) > (TOLERANCE if whole else LEFT_ALONE):
        coarse = matched
        finer = problem.best(lambda factor: _widths_scaled(coarse, factor), start=STEPS)
        matched = min(coarse, finer, key=lambda solution: abs(problem.error(solution)))
    if abs(error := problem.error(matched)) > TOLERANCE:
        raise UserError(
            f"match: {cost}: the nearest geometry is {error:.1%} off the baseline's {target:,}, "
            f"because widths and heads are whole numbers and the network is small; use match: none"
        )
    return matched


def _one_stage(problem: _Problem, architecture: Architecture) -> Architecture:
    """C = N * value_dim, with the most heads whose keys are no smaller than the base model's."""
    (stage,) = architecture.stages
    smallest = geometry.value_dim_of(architecture, stage) / geometry.VALUES_PER_KEY["small"]
    solutions = []
    for num_heads in range(stage.num_heads, 0, -1):
        fewer = replace(architecture, stages=(replace(stage, num_heads=num_heads),))
        solutions.append(problem.best(lambda size: _heads_of(fewer, problem.design, size), start=8))  # noqa: B023
        (found,) = solutions[-1].stages
        if geometry.key_dim_of(solutions[-1], problem.design, found) >= smallest:
            break
    return solutions[-1]


def _heads_of(architecture: Architecture, design: Design, key_dim: int) -> Architecture:
    """Heads with keys of this size, and widths that are all heads' values: C = N * value_dim."""
    value_dim = key_dim * geometry.VALUES_PER_KEY[design.keys]
    stages = tuple(
        replace(stage, width=stage.num_heads * value_dim, value_dim=None)
        for stage in architecture.stages
    )
    return replace(architecture, value_dim=value_dim, stages=stages)


def _widths_scaled(architecture: Architecture, factor: int) -> Architecture:
    stages = tuple(
        replace(s, width=max(1, round(s.width * factor / STEPS))) for s in architecture.stages
    )
    return replace(architecture, stages=stages)


def _scaled(architecture: Architecture, design: Design, factor: int) -> Architecture:
    """Widths and the size of a head times factor / STEPS."""
    step = geometry.VALUES_PER_KEY[design.keys]

    def scaled(value_dim: int) -> int:
        return step * max(1, round(value_dim * factor / STEPS / step))

    wider = _widths_scaled(architecture, factor)
    stages = tuple(
        stage if stage.value_dim is None else replace(stage, value_dim=scaled(stage.value_dim))
        for stage in wider.stages
    )
    return replace(wider, value_dim=scaled(architecture.value_dim), stages=stages)
