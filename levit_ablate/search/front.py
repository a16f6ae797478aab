"""Which trials no other beats in both accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.search.found import Found

COLUMNS = {"flops": "flops", "params": "num_params", "latency": "latency"}
"""A cost's name → the field of a trial that has it."""


def cost_of(found: Found, cost: str) -> float | None:
    """Multiply-adds, parameters, or seconds for an image."""
    value: float | None = getattr(found, COLUMNS[cost])
    return value


def front_of(found: Sequence[Found], cost: str) -> list[Found]:
    """The trials with an accuracy and a cost that no other beats in both, the cheapest first."""
    there = [f for f in found if f.accuracy is not None and cost_of(f, cost) is not None]
    there.sort(key=lambda each: (cost_of(each, cost), -(each.accuracy or 0)))
    front: list[Found] = []
    for each in there:
        if not front or (each.accuracy or 0) > (front[-1].accuracy or 0):
            front.append(each)
    return front
