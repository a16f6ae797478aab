"""A trial that this driver is at work on, from its network to its last seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna import Trial
from optuna.storages._heartbeat import BaseHeartbeatThread

from levit_ablate.experiment import Variant
from levit_ablate.training.train import Result


@dataclass
class AtWork:
    """A trial whose network is trained, a seed at a time."""

    trial: Trial
    variant: Variant
    latency: float | None
    heartbeat: BaseHeartbeatThread
    started: float = field(default_factory=time.monotonic)
    num_reported: int = 0
    """Epochs that were reported to Optuna."""
    is_pruned: bool = False
    """Whether it is given up after these."""
    results: list[Result] = field(default_factory=list)
    """Results of the seeds that are done."""

    def values(self, objectives: Sequence[str]) -> list[float]:
        """Return what the trial came to: its accuracy over all seeds, then its costs."""
        accuracy = sum(each.validation_accuracy for each in self.results) / len(self.results)
        cost = self.variant.cost
        costs = {"flops": cost.flops, "params": cost.params, "latency": self.latency}
        return [accuracy, *(float(costs[name] or 0) for name in objectives[1:])]
