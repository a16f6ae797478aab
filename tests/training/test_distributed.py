"""Two processes and one train alike, when they see the same global batch."""

from __future__ import annotations

import json
import os
import shutil
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
--teacher.recipe.epochs 1 --teacher.recipe.warmup_epochs 0.5
""".split()


def losses(folder: Path, ablation: str, *options: str) -> dict[str, list[float]]:
    """The curves of a run in a process of its own, or in as many as the options say."""
    command = [sys.executable, "-m", "levit_ablate", "run", ablation, *RUN, *options]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
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


@pytest.mark.parametrize(
    ("ablation", "options"),
    [
        ("no_batch_norm", []),  # norm: layer, distilled
        ("no_distillation", ["--hardware.sync_batchnorm", "true"]),
    ],
)
def test_two_processes_give_the_loss_curve_of_one(tmp_path, ablation, options):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = losses(tmp_path / "one", ablation)
    work = ".levit_ablate"  # the same teacher, whose BatchNorm is of each device too
    if (tmp_path / "one" / work / "teachers").is_dir():
        shutil.copytree(tmp_path / "one" / work / "teachers", tmp_path / "two" / work / "teachers")
    two = losses(tmp_path / "two", ablation, "--hardware.devices", "2", *options)
    for name, curve in one.items():
        rounding = 0.03 if "accuracy" in name else 2e-3  # an image of 135 is 0.007
        assert two[name] == pytest.approx(curve, rel=rounding, abs=rounding), name
    for path in (tmp_path / "one" / work).glob("answers/*/*.npy"):  # asked by both, for each half
        answers = [
            numpy.load(tmp_path / name / path.relative_to(tmp_path / "one"))
            for name in ("one", "two")
        ]
        assert (answers[0] == answers[1]).mean() > 0.99


def test_batch_norm_is_of_each_device_unless_it_is_synchronized(tmp_path):
    folders = [tmp_path / name for name in ("devices", "parts", "whole")]
    for folder in folders:
        folder.mkdir()
    ablation = "no_distillation"
    devices = losses(folders[0], ablation, "--hardware.devices", "2")
    parts = losses(folders[1], ablation, "--hardware.accumulate", "2")
    whole = losses(folders[2], ablation)
    assert devices["train_loss"] == pytest.approx(parts["train_loss"], rel=1e-4)
    assert devices["train_loss"] != pytest.approx(whole["train_loss"], rel=1e-4)
