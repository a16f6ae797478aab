"""Results of a search's trials, read from Optuna, and which of them are the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any, Literal

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.runner.progress import Display
from levit_ablate.searches import sampling, trials

FIELDS = {"flops": "flops", "params": "num_params", "latency": "latency"}
"""Name of a cost in a search's file → field of a trial."""
SHOWN = ("complete", "pruned", "failed")
"""States of trials that a line is printed for."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Result of a trial."""

    number: int
    state: Literal["complete", "pruned", "invalid", "failed", "running", "waiting"]
    params: Mapping[str, Any] = field(default_factory=dict)
    """Settings by name; widths as they were fitted to the budget."""
    accuracy: float | None = None
    """Accuracy on the validation images, 0 to 1; of a pruned trial the last that was reported."""
    flops: int | None = None
    num_params: int | None = None
    latency: float | None = None
    """Seconds for one image."""
    ablation: str = ""
    """Name of the ablation that was enqueued; empty for others."""
    seconds: float = 0.0
    """Time of its training."""
    error: str = ""
    """Why it failed or was invalid; empty otherwise."""
    key: str = ""
    """Key of its experiment; empty before its network is known."""

    @property
    def has_ended(self) -> bool:
        """Whether it counts as one of the trials asked for, and is not retried."""
        return self.state in ("complete", "pruned") or (self.state == "failed" and self.error != "")

    @property
    def name(self) -> str:
        """Name of its network: the ablation's, or its number."""
        return self.ablation or f"trial {self.number}"


def ordered(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values of a setting, numbers by size and others by their text."""
    distinct = set(values)
    are_numbers = all(type(each) in (int, float) for each in distinct)
    return sorted(distinct, key=None if are_numbers else str)


def counts_of(found: Sequence[TrialResult]) -> Counter[str]:
    """Count the trials by state; those that were retried are not counted."""
    return Counter(each.state for each in found if each.state != "failed" or each.error)


def complete_of(found: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that were trained to their end."""
    return [each for each in found if each.state == "complete" and each.accuracy is not None]


def front_of(found: Sequence[TrialResult], field: str) -> list[TrialResult]:
    """Return the Pareto front: complete trials of which none is as accurate for less.

    The cheapest come first; the cost is a value of `FIELDS`.
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


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the settings of a sampled network, its widths as they were fitted to the budget.

    A width that the space does not vary is left out: it follows from the others.
    """
    stages = trial.user_attrs.get(trials.ARCHITECTURE, {}).get("stages", [])
    widths = {f"width.{number}": stage["width"] for number, stage in enumerate(stages, start=1)}
    return {name: widths.get(name, value) for name, value in trial.params.items()}


def trial_results(study: Study) -> list[TrialResult]:
    """Return the trials as a report needs them, in the order of their numbers."""
    found = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
    return [_trial_result(trial) for trial in found]


def _trial_result(trial: FrozenTrial) -> TrialResult:
    own = trial.user_attrs
    state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
    accuracy = trial.values[0] if trial.values and trials.INVALID not in own else None
    if accuracy is None and trial.intermediate_values:
        accuracy = trial.intermediate_values[max(trial.intermediate_values)]
    return TrialResult(
        number=trial.number,
        state="invalid" if trials.INVALID in own else state,  # type: ignore[arg-type]
        params=settings_of(trial),
        accuracy=accuracy,
        flops=own.get(trials.FLOPS),
        num_params=own.get(trials.PARAMS),
        latency=own.get(trials.LATENCY),
        ablation=own.get(sampling.NAME, ""),
        seconds=own.get(trials.SECONDS, 0.0),
        error=own.get(trials.ERROR) or own.get(trials.INVALID, ""),
        key=own.get(trials.KEY, ""),
    )


class TrialLines:
    """Prints a line for each trial that has ended, of any command, unless `found` had it."""

    def __init__(self, display: Display, found: Sequence[TrialResult]) -> None:
        self.display = display
        self.known = {each.number for each in found if each.state in SHOWN}
        self.best = max((f.accuracy or 0 for f in found if f.state == "complete"), default=0.0)

    def show(self, found: Sequence[TrialResult]) -> None:
        """Print a line for each trial that has ended since the last call."""
        for each in found:
            if each.state in SHOWN and each.number not in self.known:
                self.known.add(each.number)
                self.display.done += each.has_ended
                self.display.failed += each.has_ended and each.state == "failed"
                self.display.say(self._line(each))
        self.display.refresh()

    def _line(self, each: TrialResult) -> str:
        name = f"trial {each.number}" + (f" ({each.ablation})" if each.ablation else "")
        took = timedelta(seconds=round(each.seconds))
        start = f"[{self.display.done}/{self.display.total}] {name}: "
        if each.state == "failed":
            failed = f"FAILED: {each.error}"
            return start + (failed if each.error else "interrupted, or killed; it is tried again")
        accuracy = "–" if each.accuracy is None else f"{100 * each.accuracy:.2f} %"
        if each.state == "pruned":
            return f"{start}given up at {accuracy} ({took})"
        is_best = (each.accuracy or 0) > self.best
        self.best = max(self.best, each.accuracy or 0)
        cost = f"{(each.flops or 0) / 1e6:.4g} M multiply-adds"
        return f"{start}{accuracy}, {cost} ({took}){', the best so far' if is_best else ''}"
