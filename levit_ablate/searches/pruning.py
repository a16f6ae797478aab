"""When a training is given up: ASHA, which is our own, and Optuna's other pruners."""

from __future__ import annotations

from collections.abc import Callable

from optuna import Study
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState

REDUCTION = 3
"""Of the networks that reach a rung one in so many goes on; the next is so many times as far."""


class Asha(BasePruner):
    """Asynchronous successive halving (Li et al., MLSys 2020), for accuracies told every epoch.

    A training goes on from a rung if it is among the best third of all that reached it so far, the
    best always. Optuna's SuccessiveHalvingPruner decides so too, but notes the rungs as attributes
    when it is asked: those of a process that died stay beside its retry's, and a network that was
    recorded before, which is not asked about, has none. Here the curves themselves are compared.

    Args:
        first: the epoch of the first rung, from 1; the others are 3, 9, … times as far.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to be given up, at its last epoch."""
        epoch = trial.last_step
        if epoch is None or not self._is_rung(epoch):
            return False
        own = trial.intermediate_values[epoch]
        others = [
            each.intermediate_values[epoch]
            for each in study.get_trials(deepcopy=False)
            if each.number != trial.number
            and each.state != TrialState.FAIL
            and epoch in each.intermediate_values
        ]
        better = sum(value > own for value in others)
        return better >= max(1, (len(others) + 1) // REDUCTION)

    def _is_rung(self, epoch: int) -> bool:
        rung = self.first
        while rung < epoch:
            rung *= REDUCTION
        return rung == epoch


def pruner_of(name: str, epochs: int) -> BasePruner:
    """The pruner of a search whose trials have so many epochs; from a ninth of them on."""
    first = -(-epochs // REDUCTION**2)
    makers: dict[str, Callable[[], BasePruner]] = {
        "none": lambda: NopPruner(),
        "asha": lambda: Asha(first),
        "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=first),
        "wilcoxon": lambda: WilcoxonPruner(),
    }
    return makers[name]()
