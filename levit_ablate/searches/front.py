"""Which trials no other beats in both accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence

from levit_ablate.searches.found import Found

FIELDS = {"flops": "flops", "params": "num_params", "latency": "latency"}
"""A cost by its name in a search → the field of a trial that has it."""


def complete_of(found: Sequence[Found]) -> list[Found]:
    """The trials that were trained to their end."""
    return [each for each in found if each.state == "complete" and each.accuracy is not None]


def front_of(found: Sequence[Found], field: str) -> list[Found]:
    """The complete trials of which none is as accurate for less, the cheapest first.

    Args:
        found: trials, however they ended.
        field: the cost, one of the values of `FIELDS`.
    """
    known = [each for each in complete_of(found) if getattr(each, field) is not None]
    known.sort(key=lambda each: (getattr(each, field), -(each.accuracy or 0), each.number))
    front: list[Found] = []
    for each in known:
        if not front or (each.accuracy or 0) > (front[-1].accuracy or 0):
            front.append(each)
    return front
