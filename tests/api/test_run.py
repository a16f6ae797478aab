"""Runs from Python are what MLflow holds."""

from __future__ import annotations

import logging
import signal

import pytest
import torch
from mlflow import MlflowClient
from processes import Started, wait_for
from quick import QUICK, TEACHER

import levit_ablate as la

WORDS = (
    "--architecture small.yaml --recipe smoke --recipe.batch_size 128 --hardware.accelerator cpu"
).split()


def test_a_network_is_that_of_the_ablation_for_the_models_images():
    network = la.network("no_pyramid", model="levit_128s").eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    same, other = (la.network(design={"stem": "patch"}, seed=seed) for seed in (1, 2))
    again = la.network("no_patch_conv", seed=1)
    weights, others = same.state_dict(), other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    assert not all(torch.equal(value, weights[name]) for name, value in others.items())


def test_a_run_is_what_mlflow_holds(alone, result, client):
    assert alone.trained and result.baseline and result.baseline.trained
    for each in (result, result.baseline):
        run = client.get_run(each.run_id)
        assert run.info.status == "FINISHED" and run.data.tags["levit_ablate.key"] == each.key
        metrics = run.data.metrics
        assert each.accuracy == metrics["test_accuracy"] and each.loss == metrics["test_loss"]
        assert (each.params, each.flops) == (metrics["params"], metrics["flops"])
        curves = result.curves.query("name == @each.name")
        assert list(curves["epoch"]) == [1, 2]
        for metric in ("train_loss", "val_loss", "val_accuracy"):
            history = client.get_metric_history(each.run_id, metric)
            assert list(curves[metric]) == [point.value for point in history]
    assert result.difference == result.accuracy - result.baseline.accuracy
    assert "RunResult no_distillation: accuracy" in repr(result)


def test_the_recorded_network_reads_the_test_images_as_well_as_it_was_found_to(result):
    network, right, count = result.network(), 0, 0
    for images, labels in result.test_batches():
        with torch.inference_mode():
            right += int((network(images).argmax(dim=1) == labels).sum())
        count += len(labels)
    assert count == 450 and right / count == pytest.approx(result.accuracy)


def test_what_is_recorded_is_not_trained_again_and_nothing_is_printed(result, capfd, caplog):
    caplog.set_level(logging.INFO, "levit_ablate")
    again = la.run("no_distillation", teacher=TEACHER, **QUICK)
    assert not again.trained and (again.run_id, again.accuracy) == (result.run_id, result.accuracy)
    assert capfd.readouterr() == ("", "")
    assert sum("already recorded" in record.message for record in caplog.records) == 2
    la.run("no_distillation", baseline=False, progress=True, **QUICK)
    out, err = capfd.readouterr()
    assert not out and err.count("already recorded") == 1


def test_the_command_line_finds_what_python_recorded_and_the_other_way(alone, printed):
    words = ["run", "no_distillation", "--no-baseline", *WORDS]
    figures = printed(*words)
    assert not figures["trained"] and figures["run_id"] == alone.run_id
    trained = printed(*words, "--seed", "5")
    own = la.run("no_distillation", baseline=False, seed=5, **QUICK)
    assert trained["trained"] and not own.trained
    assert own.as_dict() == {**trained, "trained": False}


INTERRUPTED = """
import signal, sys
import levit_ablate as la
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
try:
    la.run("no_distillation", baseline=False, recipe={"epochs": 500})
except KeyboardInterrupt:
    print("interrupted", before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
print(la.network("baseline").__class__.__name__)
"""


def test_ctrl_c_interrupts_a_run_and_python_goes_on(tmp_path):
    process = Started(INTERRUPTED, cwd=tmp_path)
    client = None

    def is_training() -> bool:
        nonlocal client
        if not (tmp_path / "mlartifacts").is_dir():
            return False
        client = client or MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("levit-ablate")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return any("train_loss" in run.data.metrics for run in runs)

    wait_for(is_training, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert out.splitlines() == ["interrupted True", "LeViT"], err
    experiment = client.get_experiment_by_name("levit-ablate")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
