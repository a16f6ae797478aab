"""Checkpoints are there whole or not at all, and a worker that dies is an error in a line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
from folders import draw
from lightning import Callback
from processes import Started

from levit_ablate.errors import RunError
from levit_ablate.experiment import variant
from levit_ablate.training.fit import fit
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.train import check_conditions, module_of


def test_a_damaged_checkpoint_is_named():
    shown = variant("no_distillation", {"recipe": {"epochs": 1, "warmup_epochs": 0.5}})
    data = check_conditions(shown.experiment)
    Path("run").mkdir()
    Path("run/last.ckpt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"run/last\.ckpt: is damaged; remove run, and"):
        fit(LeViTModule(), data, Path("run"), [])


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_a_line_and_the_last_one_stays(tmp_path):
    code = """
import resource, torch
from levit_ablate.data.datasets import images_of
from levit_ablate.errors import RunError
from levit_ablate.training.fit import AtomicCheckpoints
save = AtomicCheckpoints().save_checkpoint
save({"epoch": 1}, "last.ckpt")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save({"epoch": 2, "weights": torch.zeros(100_000)}, "last.ckpt")
except RunError as error:
    print(error)
print(torch.load("last.ckpt"))
"""
    said, kept = Started(code).communicate()[0].splitlines()
    assert said.startswith("last.ckpt: the checkpoint cannot be written: ")
    assert kept == "{'epoch': 1}"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class KillsAWorker(Callback):
    """Kills a process that decodes images, in a step, and waits for what torch makes of it."""

    def __init__(self) -> None:
        self.before = set(multiprocessing.active_children())

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        worker = (set(multiprocessing.active_children()) - self.before).pop()
        os.kill(worker.pid, signal.SIGKILL)
        threading.Event().wait()


def test_a_worker_that_dies_during_a_step_is_an_error_in_a_line():
    for part in ("train", "val"):
        for number in range(24):
            draw(Path("set") / part / f"class{number % 2}" / f"{number}.jpg", 96, 96)
    given = {
        "data": {"name": "folder", "root": "set", "image_size": 96, "validation": 0.25},
        "recipe": {"epochs": 1, "warmup_epochs": 0.5, "batch_size": 16},
        "hardware": {"num_workers": 1, "accelerator": "cpu"},
        "model": "levit_nano",
    }
    small = variant("no_distillation", given)
    data = check_conditions(small.experiment)
    said = r"^hardware\.num_workers: DataLoader worker \(pid \d+\) is killed[^\n]* fewer workers$"
    with pytest.raises(RunError, match=said):
        fit(module_of(small), data, Path("run"), [KillsAWorker()])
