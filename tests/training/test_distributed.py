"""Two processes and one train alike, when they see the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy
import pytest
from mlflow import MlflowClient

# 64 images a step, two views of each, mixed; a teacher asked by both processes
RUN = """
--no-baseline --format json --hardware.accelerator cpu --hardware.num_threads 1
--recipe.epochs 2 --recipe.learning_rate 1e-3 --recipe.batch_size 64 --recipe.warmup_epochs 0.5 --recipe.precision 32-true
--recipe.mixup 0.5 --recipe.cutmix 0.5 --recipe.repeats 2 --recipe.ema_decay 0
--teacher.recipe.epochs 3 --teacher.recipe.warmup_epochs 0.5
""".split()


def without_store() -> dict[str, str]:
    """The environment, in which MLflow leaves what it was told last."""
    return {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}


def losses(folder: Path, ablation: str, *options: str) -> dict[str, list[float]]:
    """The curves of a run in a process of its own, or in as many as the options say."""
    command = [sys.executable, "-m", "levit_ablate", "run", ablation, *RUN, *options]
    done = subprocess.run(
        command, cwd=folder, env=without_store(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(done.stdout.splitlines()) == 1, "one process speaks"
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    client = MlflowClient()
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    names = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
    histories = {n: client.get_metric_history(result["run_id"], n) for n in names}
    return {n: [metric.value for metric in history] for n, history in histories.items()}


def assert_alike(one: dict[str, list[float]], two: dict[str, list[float]]) -> None:
    for name, curve in one.items():
        rounding = 0.03 if "accuracy" in name else 2e-3  # an image of 135 is 0.007
        assert two[name] == pytest.approx(curve, rel=rounding, abs=rounding), name


ARCHITECTURE = """
stages: [{depth: 1, width: 16, num_heads: 1}, {depth: 1, width: 32, num_heads: 2}]
value_dim: 16
stem_depth: 3
drop_path: 0.2
"""


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Three, each with the file of a small network that drops paths."""
    found = [tmp_path / name for name in ("one", "two", "three")]
    for folder in found:
        folder.mkdir()
        (folder / "small.yaml").write_text(ARCHITECTURE)
    return found


def test_two_processes_give_the_loss_curve_of_one_with_layer_norm(folders):
    ablation, small = "no_batch_norm", ("--architecture", "small.yaml")
    one = losses(folders[0], ablation, *small)
    (weights,) = folders[0].glob(".levit_ablate/teachers/*.pt")  # BatchNorm is of each device there
    two = losses(
        folders[1], ablation, *small, "--hardware.devices", "2", "--teacher.weights", str(weights)
    )
    assert_alike(one, two)
    answers = [
        numpy.concatenate([numpy.load(path) for path in sorted(folder.rglob("epoch_*.npy"))])
        for folder in folders[:2]
    ]
    assert len(answers[0]) == 2 * 18 * 64
    assert len(numpy.unique(answers[0])) > 5
    assert (answers[0] == answers[1]).mean() > 0.99  # asked by both processes, each for its half
    parts = losses(
        folders[2],
        ablation,
        *small,
        "--hardware.accumulate",
        "2",
        "--teacher.weights",
        str(weights),
    )
    assert_alike(one, parts)


def test_two_processes_give_the_loss_curve_of_one_with_synchronized_batch_norm(folders):
    one = losses(folders[0], "no_distillation")
    synchronized = ("--hardware.devices", "2", "--hardware.sync_batchnorm", "true")
    assert_alike(one, losses(folders[1], "no_distillation", *synchronized))


INTERRUPTED = """
import os, signal, sys
from levit_ablate.cli import main
from levit_ablate.training.classifier import Classifier
calls, log_loss = [], Classifier.log_loss
def counted(self, loss):
    calls.append(1)
    if len(calls) == 25:  # in the second epoch
        os.kill(os.getpid(), signal.SIGTERM)
    log_loss(self, loss)
Classifier.log_loss = counted
main()
"""


def test_two_processes_stopped_within_an_epoch_go_on_with_the_same_numbers(folders):
    options = ("--recipe.ema_decay", "0.9", "--hardware.devices", "2")
    expected = losses(folders[0], "no_distillation", *options)
    script = folders[1] / "interrupted.py"  # which each process starts again
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), "run", "no_distillation", *RUN, *options]
    done = subprocess.run(
        command, cwd=folders[1], env=without_store(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 130, done.stderr
    assert losses(folders[1], "no_distillation", *options) == expected
    parts = losses(folders[2], "no_distillation", *options[:2], "--hardware.accumulate", "2")
    assert parts["val_loss"] == pytest.approx(expected["val_loss"], rel=2e-6)


SYNCHRONIZED = """
import os, sys, timm, torch
import torch.distributed as dist
from levit_ablate.training.distributed import SynchronizeAnywhere

def half(rank, model, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(timm.create_model(model, num_classes=10).train())
    whole, synchronized = networks
    SynchronizeAnywhere().apply(synchronized)
    own = images[4 * rank : 4 * rank + 4].requires_grad_()
    expected = whole(images)
    answered = synchronized(own)
    torch.testing.assert_close(answered, expected[4 * rank : 4 * rank + 4], atol=1e-4, rtol=1e-3)
    expected.square().sum().backward()
    answered.square().sum().backward()
    for ours, theirs in zip(synchronized.parameters(), whole.parameters()):
        dist.all_reduce(ours.grad)
        difference = (ours.grad - theirs.grad).norm() / (theirs.grad.norm() + 1e-3)
        assert difference < 1e-2, difference
    SynchronizeAnywhere().revert(synchronized)
    for ours, theirs in zip(synchronized.buffers(), whole.buffers()):
        if ours.is_floating_point():
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    assert synchronized.eval()(images).shape == (8, 10)

half(int(sys.argv[1]), *sys.argv[2:])
"""


@pytest.mark.parametrize("model", ["test_resnet", "regnety_002"])  # BatchNorm2d, BatchNormAct2d
def test_synchronized_batch_norm_is_that_of_the_whole_batch(tmp_path, model):
    command = [sys.executable, "-c", SYNCHRONIZED]
    both = [
        subprocess.Popen(
            [*command, str(rank), model, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error


def test_batch_norm_is_of_each_device_unless_it_is_synchronized(folders):
    ablation = "no_distillation"
    devices = losses(folders[0], ablation, "--hardware.devices", "2")
    parts = losses(folders[1], ablation, "--hardware.accumulate", "2")
    whole = losses(folders[2], ablation)
    assert_alike(devices, parts)
    assert devices["train_loss"] == pytest.approx(parts["train_loss"], rel=1e-4)
    assert devices["train_loss"] != pytest.approx(whole["train_loss"], rel=1e-4)
