"""Learning curves: told to a trial while it trains, which may be given up for them."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from optuna import Study, Trial
from optuna.exceptions import TrialPruned
from optuna.trial import TrialState

from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.searches import trials
from levit_ablate.tracking.record import GivenUpError
from levit_ablate.tracking.runs import reading_the_record
from levit_ablate.training.callbacks import RecordEpochs
from levit_ablate.training.train import recorded


class Watch(Callback):
    """Tells a trial the accuracy after every epoch, and ends a training that is not worth it."""

    def __init__(self, trial: Trial, by_epoch: bool) -> None:
        self.trial = trial
        self.by_epoch = by_epoch
        self.told = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer)  # one that goes on has epochs behind it

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer)

    def _tell(self, trainer: Trainer) -> None:
        if not self.by_epoch:
            return
        records: Any = trainer.callbacks  # type: ignore[attr-defined]
        (record,) = [callback for callback in records if isinstance(callback, RecordEpochs)]
        for epoch, metrics in enumerate(record.history[self.told :], start=self.told + 1):
            self.trial.report(metrics["val_accuracy"], step=epoch)
            self.told = epoch
            if epoch < (trainer.max_epochs or 0) and self.trial.should_prune():
                raise GivenUpError(epoch)


class Curve(NamedTuple):
    """The accuracies of a recorded run on the validation images, from 0 to 1.

    That of the test images is recorded too, and is not looked at by a search.
    """

    accuracies: list[float]
    """After each epoch."""
    best: float
    """In the epoch of the lowest validation loss, whose weights were kept."""


@reading_the_record()
def validation_curve(variant: Variant) -> Curve:
    """The curve of the variant's recorded run.

    Raises RunError where there is none, or where it lacks the epoch whose weights were kept.
    """
    result = recorded(variant)
    if result is None:
        raise RunError(f"{variant.name}: it was trained, and MLflow has no result of it")
    client = MlflowClient()
    best = client.get_run(result.run_id).data.metrics.get("best_epoch", 0)
    history = client.get_metric_history(result.run_id, "val_accuracy")
    by_epoch = {metric.step: float(metric.value) for metric in history}
    if best not in by_epoch:
        raise RunError(
            f"{variant.name}: MLflow lacks the curve of run {result.run_id}; delete that run "
            f"there, and the network is trained again"
        )
    return Curve([by_epoch[epoch] for epoch in sorted(by_epoch)], by_epoch[best])


def check_given_up(trial: Trial, study: Study, key: str) -> None:
    """A network that was given up before in this search is not trained again.

    Raises TrialPruned, the trial told the same curve.
    """
    for earlier in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
        if earlier.number != trial.number and earlier.user_attrs.get(trials.KEY) == key:
            for step, value in earlier.intermediate_values.items():
                trial.report(value, step)
            raise TrialPruned(f"given up before, as trial {earlier.number}")
