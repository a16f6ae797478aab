"""The validation curve of a run, and a training that is given up for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from networks import SMALL

from levit_ablate.errors import RunError
from levit_ablate.experiment import variant
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import plain
from levit_ablate.tracking.record import GivenUpError
from levit_ablate.training.train import recorded, train


@pytest.fixture
def network():
    """A small one, to be trained for three epochs."""
    return variant(
        "no_distillation",
        {
            "architecture": SMALL,
            "recipe": {**plain(RECIPES["smoke"]), "batch_size": 128, "epochs": 3},
            "hardware": {"accelerator": "cpu"},
        },
    )


class Judge:
    """Remembers the curves it is asked about; false after some epochs."""

    def __init__(self, until: int = 99) -> None:
        self.until = until
        self.lengths: list[int] = []

    def __call__(self, curve) -> bool:
        self.lengths.append(len(curve))
        return len(curve) < self.until


def test_the_curve_is_returned_and_read_back_and_the_last_epoch_is_not_asked_about(store, network):
    judge = Judge()
    result = train(network, go_on=judge)
    assert judge.lengths == [1, 2] and len(result.curve) == 3
    history = MlflowClient().get_metric_history(result.run_id, "val_accuracy")
    assert result.curve == tuple(metric.value for metric in history)
    metrics = MlflowClient().get_run(result.run_id).data.metrics
    assert result.best_epoch == metrics["best_epoch"]
    assert result.validation_accuracy == result.curve[result.best_epoch]
    assert recorded(network) == replace(result, trained=False)


def test_a_curve_that_the_record_lacks_is_one_line(store, network):
    client = MlflowClient()
    run_id = client.create_run("0", tags={"levit_ablate.key": network.key}).info.run_id
    for name in ("test_accuracy", "test_loss", "train_seconds", "best_epoch"):
        client.log_metric(run_id, name, 1.0)
    client.log_metric(run_id, "val_accuracy", 0.5, step=1)
    client.set_terminated(run_id, "FINISHED")
    with pytest.raises(RunError, match=f"lacks the curve of run {run_id}; delete that run"):
        assert recorded(network).validation_accuracy
    client.log_metric(run_id, "val_accuracy", 0.25, step=0)
    result = recorded(network)
    assert (result.curve, result.validation_accuracy) == ((0.25, 0.5), 0.5)
    client.log_metric(run_id, "val_accuracy", 0.4, step=3)  # a gap after the best epoch
    assert recorded(network) == result


def test_a_training_that_is_given_up_is_recorded_so_and_leaves_no_folder(store, network):
    with pytest.raises(GivenUpError, match="after epoch 2"):
        train(network, go_on=Judge(until=2))
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "KILLED" and run.data.tags["levit_ablate.pruned"] == "2"
    assert "levit_ablate.error" not in run.data.tags
    assert not list(Path(".levit_ablate/runs").glob("*/last.ckpt"))


def test_one_that_goes_on_is_asked_about_the_epochs_before_it_too(store, network):
    def interrupt(curve) -> bool:
        if len(curve) == 2:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        train(network, go_on=interrupt)
    judge = Judge()
    assert len(train(network, go_on=judge).curve) == 3
    assert judge.lengths[0] >= 1  # asked at the start, about what was done before
