"""Results of a search's trials, and which of them are the best in accuracy and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

FIELDS = {"flops": "flops", "params": "num_params", "latency": "latency"}
"""Name of a cost in a search's file → field of a trial."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Result of a trial."""

    number: int
    state: Literal["complete", "pruned", "invalid", "failed", "running", "waiting"]
    params: Mapping[str, Any]
    """Settings by name; widths as they were fitted to the budget."""
    accuracy: float | None
    """Accuracy on the validation images, 0 to 1; of a pruned trial the last that was reported."""
    flops: int | None
    num_params: int | None
    latency: float | None
    """Seconds for one image."""
    ablation: str
    """Name of the ablation that was enqueued; empty for others."""
    seconds: float
    """Time of its training."""
    error: str
    """Why it failed or was invalid; empty otherwise."""
    key: str
    """Key of its experiment; empty before its network is known."""

    @property
    def has_ended(self) -> bool:
        """Whether it counts as one of the trials asked for, and is not retried."""
        return self.state in ("complete", "pruned") or (self.state == "failed" and self.error != "")

    @property
    def name(self) -> str:
        """Name of its network: the ablation's, or its number."""
        return self.ablation or f"trial {self.number}"


def counts_of(found: Sequence[TrialResult]) -> Counter[str]:
    """Count the trials by state; those that were retried are not counted."""
    return Counter(each.state for each in found if each.state != "failed" or each.error)


def complete_of(found: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that were trained to their end."""
    return [each for each in found if each.state == "complete" and each.accuracy is not None]


def front_of(found: Sequence[TrialResult], field: str) -> list[TrialResult]:
    """Return the Pareto front: complete trials of which none is as accurate for less.

    Args:
        found: trials in any state.
        field: cost, one of the values of `FIELDS`.

    Returns:
        The cheapest first.
    """
    known = [each for each in complete_of(found) if getattr(each, field) is not None]
    known.sort(key=lambda each: (getattr(each, field), -(each.accuracy or 0), each.number))
    front: list[TrialResult] = []
    for each in known:
        if not front or (each.accuracy or 0) > (front[-1].accuracy or 0):
            front.append(each)
    return front


def is_within(trial: TrialResult, field: str, budget: float | None) -> bool:
    """Return whether a trial's cost is known to keep to a budget; None allows anything."""
    cost = getattr(trial, field)
    return budget is None or (cost is not None and cost <= budget)


def winner(found: Sequence[TrialResult], field: str, budget: float | None) -> TrialResult | None:
    """Return the most accurate complete trial within the budget, the cheapest of equals."""

    def rank(trial: TrialResult) -> tuple[float, float]:
        cost = getattr(trial, field)
        return -(trial.accuracy or 0), inf if cost is None else cost

    allowed = [trial for trial in complete_of(found) if is_within(trial, field, budget)]
    return min(allowed, key=rank, default=None)
