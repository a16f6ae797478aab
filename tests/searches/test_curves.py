"""A training whose curve is not worth it is given up, recorded as such, and not begun again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from optuna.exceptions import TrialPruned
from optuna.pruners import ThresholdPruner
from searching import small

from levit_ablate.errors import RunError
from levit_ablate.searches import trials
from levit_ablate.searches.curves import Watch, check_given_up, validation_curve
from levit_ablate.tracking.record import GivenUpError
from levit_ablate.training.train import train


class Reported:
    """A trial that remembers what it is told, and asks for an end after some epochs."""

    def __init__(self, until: int = 99) -> None:
        self.values: dict[int, float] = {}
        self.until = until

    def report(self, value: float, step: int) -> None:
        self.values[step] = value

    def should_prune(self) -> bool:
        return max(self.values) >= self.until


@pytest.fixture
def network():
    """A small one, to be trained for four epochs."""
    plain = small().baseline
    recipe = replace(plain.experiment.recipe, epochs=4)
    return replace(plain, experiment=replace(plain.experiment, recipe=recipe))


def test_every_epoch_is_told_and_the_last_is_not_given_up(store, network):
    told = Reported(until=4)
    train(network, callbacks=[Watch(told, by_epoch=True)])
    curve = validation_curve(network)
    assert list(told.values) == [1, 2, 3, 4]
    assert list(told.values.values()) == pytest.approx(curve.accuracies)
    assert curve.best in curve.accuracies


def test_a_curve_that_the_record_lacks_is_one_line(store, network):
    with pytest.raises(RunError, match="MLflow has no result of it"):
        validation_curve(network)
    client = MlflowClient()
    run_id = client.create_run("0", tags={"levit_ablate.key": network.key}).info.run_id
    for name in ("test_accuracy", "test_loss", "train_seconds", "best_epoch"):
        client.log_metric(run_id, name, 1.0)
    client.log_metric(run_id, "val_accuracy", 0.5, step=2)
    client.set_terminated(run_id, "FINISHED")
    with pytest.raises(RunError, match=f"lacks the curve of run {run_id}; delete that run"):
        validation_curve(network)
    client.log_metric(run_id, "val_accuracy", 0.25, step=1)
    assert validation_curve(network) == ([0.25, 0.5], 0.25)


def test_a_training_that_is_given_up_is_recorded_so_and_leaves_no_folder(store, network):
    told = Reported(until=2)
    with pytest.raises(GivenUpError, match="after epoch 2"):
        train(network, callbacks=[Watch(told, by_epoch=True)])
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "KILLED" and run.data.tags["levit_ablate.pruned"] == "2"
    assert "levit_ablate.error" not in run.data.tags
    assert not list(Path(".levit_ablate/runs").glob("*/last.ckpt"))


def test_one_that_goes_on_tells_the_epochs_before_it_too(store, network, monkeypatch):
    monkeypatch.setattr(Reported, "should_prune", lambda self: interrupt(self))

    def interrupt(told):
        if max(told.values) == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train(network, callbacks=[Watch(Reported(), by_epoch=True)])
    monkeypatch.setattr(Reported, "should_prune", lambda self: False)
    told = Reported()
    train(network, callbacks=[Watch(told, by_epoch=True)])
    assert list(told.values) == [1, 2, 3, 4]


def test_without_pruning_by_epoch_nothing_is_told(store, network):
    told = Reported()
    train(network, callbacks=[Watch(told, by_epoch=False)])
    assert told.values == {}


def test_a_network_that_was_given_up_is_not_trained_again():
    study = optuna.create_study(pruner=ThresholdPruner(lower=0.5))
    first = study.ask()
    first.set_user_attr(trials.KEY, "abc")
    first.report(0.2, 1)
    study.tell(first, state=optuna.trial.TrialState.PRUNED)
    other, same = study.ask(), study.ask()
    check_given_up(other, study, "def")
    with pytest.raises(TrialPruned, match="as trial 0"):
        check_given_up(same, study, "abc")
    assert study.trials[same.number].intermediate_values == {1: 0.2}
