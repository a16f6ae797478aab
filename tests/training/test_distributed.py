"""Two processes and one train alike, when they see the same global batch."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy
import pytest
from mlflow import MlflowClient
from processes import CLI, Started

# 64 images a step, two views of each, mixed and averaged; paths of the network are dropped
RUN = """
--no-baseline --format json --hardware.accelerator cpu --hardware.num_threads 1
--recipe.epochs 2 --recipe.learning_rate 1e-3 --recipe.batch_size 64 --recipe.warmup_epochs 0.5
--recipe.precision 32-true --recipe.mixup 0.5 --recipe.cutmix 0.5 --recipe.repeats 2
--recipe.ema_decay 0.9 --teacher.recipe.epochs 3 --teacher.recipe.warmup_epochs 0.5
--architecture small.yaml
""".split()
ARCHITECTURE = """
stages: [{depth: 1, width: 16, num_heads: 1}, {depth: 1, width: 32, num_heads: 2}]
value_dim: 16
stem_depth: 3
drop_path: 0.2
"""
PLAIN = "no_distillation"
TWO = ("--hardware.devices", "2")
PARTS = ("--hardware.accumulate", "2")
RANK = """
import os
from lightning.pytorch.utilities import rank_zero_only
rank_zero_only.rank = int(os.environ["RANK"])  # which lightning reads when it is loaded
"""
Curves = dict[str, list[float]]


def together(folder: Path, code: str, *arguments: str) -> list[Started]:
    """The two processes of a training, started as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "small.yaml").write_text(ARCHITECTURE)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    return [
        Started(
            RANK + code, *arguments, cwd=folder, env=shared | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in "01"
    ]


def losses(folder: Path, ablation: str, *options: str) -> Curves:
    """The curves of a run of one process, or, with TWO, of two."""
    folder.mkdir(exist_ok=True)
    arguments = ("run", ablation, *RUN, *options)
    if "--hardware.devices" in options:
        processes = together(folder, CLI, *arguments)
    else:
        (folder / "small.yaml").write_text(ARCHITECTURE)
        processes = [Started(CLI, *arguments, cwd=folder)]
    printed = [process.communicate() for process in processes]
    for process, (_, err) in zip(processes, printed, strict=True):
        assert process.returncode == 0, err
    return recorded(folder, "".join(out for out, _ in printed))


def recorded(folder: Path, printed: str) -> Curves:
    (line,) = printed.splitlines()  # one process speaks
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    client = MlflowClient()
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    names = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
    histories = {n: client.get_metric_history(json.loads(line)["run_id"], n) for n in names}
    return {n: [metric.value for metric in history] for n, history in histories.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def whole(folder) -> Curves:
    """BatchNorm over the whole batch."""
    return losses(folder / "whole", PLAIN)


@pytest.fixture(scope="module")
def devices(folder) -> Curves:
    """BatchNorm over each of two devices."""
    return losses(folder / "devices", PLAIN, *TWO)


def assert_alike(one: Curves, two: Curves) -> None:
    for name, curve in one.items():
        rounding = 0.03 if "accuracy" in name else 2e-3  # an image of 135 is 0.007
        assert two[name] == pytest.approx(curve, rel=rounding, abs=rounding), name


def test_two_processes_give_the_loss_curve_of_one_with_layer_norm(tmp_path):
    ablation = "no_batch_norm"
    one = losses(tmp_path / "one", ablation)
    (weights,) = tmp_path.rglob("teachers/*.pt")  # BatchNorm is of each device there
    taught = ("--teacher.weights", str(weights))
    assert_alike(one, losses(tmp_path / "two", ablation, *TWO, *taught))
    answers = [
        numpy.concatenate([numpy.load(path) for path in sorted(folder.rglob("epoch_*.npy"))])
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert len(answers[0]) == 2 * 18 * 64
    assert len(numpy.unique(answers[0])) > 5
    assert (answers[0] == answers[1]).mean() > 0.99  # asked by both processes, each for its half
    assert_alike(one, losses(tmp_path / "parts", ablation, *PARTS, *taught))


def test_two_processes_give_the_loss_curve_of_one_with_synchronized_batch_norm(whole, tmp_path):
    synchronized = losses(tmp_path, PLAIN, *TWO, "--hardware.sync_batchnorm", "true")
    assert_alike(whole, synchronized)


def test_batch_norm_is_of_each_device_unless_it_is_synchronized(whole, devices, tmp_path):
    parts = losses(tmp_path, PLAIN, *PARTS)
    assert parts["train_loss"] == pytest.approx(devices["train_loss"], rel=1e-4)
    # the running statistics are those of the first device's share, and of the first part
    assert parts["val_loss"] == pytest.approx(devices["val_loss"], rel=1e-4)
    assert devices["train_loss"] != pytest.approx(whole["train_loss"], rel=1e-4)


def test_two_hosts_started_by_hand_train_as_two_devices(devices, tmp_path):
    (tmp_path / "small.yaml").write_text(ARCHITECTURE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    hosts = [
        Started(CLI, "run", PLAIN, *RUN, "--hardware.num_nodes", "2", env=place | {"NODE_RANK": n})
        for n in "01"
    ]
    printed = [host.communicate(120) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], printed
    assert recorded(tmp_path, "".join(out for out, _ in printed)) == devices


def test_one_command_starts_the_processes_of_all_devices(devices, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "small.yaml").write_text(ARCHITECTURE)
    command = [sys.executable, "-m", "levit_ablate", "run", PLAIN, *RUN, *TWO]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path, done.stdout) == devices


INTERRUPTED = """
import os, signal, sys
from levit_ablate.cli.main import main
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


def test_two_processes_stopped_within_an_epoch_go_on_with_the_same_numbers(devices, tmp_path):
    processes = together(tmp_path, INTERRUPTED, "run", PLAIN, *RUN, *TWO)
    for process in processes:
        assert process.wait() == 130, process.said()
    assert losses(tmp_path, PLAIN, *TWO) == devices


SYNCHRONIZED = """
import os, sys, timm, torch
import torch.distributed as dist
from levit_ablate.training.fit import SynchronizeAnywhere

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
    for process in [Started(SYNCHRONIZED, rank, model, tmp_path) for rank in (0, 1)]:
        assert process.wait() == 0, process.said()
