"""Told to end, a training ends soon, and nothing that was made is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from folders import draw
from lightning.pytorch.strategies import SingleDeviceStrategy
from processes import CLI, Started, levit_ablate, wait_for

from levit_ablate.data.folder_index import open_index
from levit_ablate.experiment import variant
from levit_ablate.signals import GracefulStop, keeping_handlers
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.teacher_cache import LiveTeacher
from levit_ablate.training.train import train

SMOKE = {
    "recipe": {"epochs": 2, "warmup_epochs": 0.5},
    "teacher": {"model": "test_resnet", "recipe": {"epochs": 1, "warmup_epochs": 0.5}},
    "hardware": {"accelerator": "cpu"},
}


IMPATIENT = """
import multiprocessing
from levit_ablate import signals
multiprocessing.set_start_method("fork", force=True)  # as where it was not started by a test
signals.PATIENCE = 0.1
"""


def told_at(call: int, monkeypatch: pytest.MonkeyPatch, kind: type, method: str) -> list[int]:
    """The number of every call of a method; at one of them SIGTERM comes."""
    calls: list[int] = []
    original = getattr(kind, method)

    def counted(self, *args):
        calls.append(len(calls))
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(kind, method, counted)
    return calls


@pytest.mark.parametrize("call", [5, 42])  # of 37 batches an epoch
def test_sigterm_ends_the_asking_of_a_teacher_at_once(store, monkeypatch, call):
    before = signal.getsignal(signal.SIGTERM)
    asked = told_at(call, monkeypatch, LiveTeacher, "__call__")
    with pytest.raises(KeyboardInterrupt):
        train(variant("baseline", SMOKE))
    assert len(asked) == call
    assert len(list(Path(".levit_ablate").rglob("epoch_*.npy"))) == call // 37
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_while_lightning_tidies_up_ends_the_run_before_its_test(store, monkeypatch):
    told_at(1, monkeypatch, SingleDeviceStrategy, "teardown")
    tests = told_at(0, monkeypatch, Classifier, "test_step")
    with pytest.raises(KeyboardInterrupt):
        train(variant("no_distillation", SMOKE))
    assert not tests


def test_sigterm_in_a_validation_ends_the_training_before_the_next_epoch(store, monkeypatch):
    shown = variant("no_distillation", SMOKE)
    validated = told_at(1, monkeypatch, Classifier, "validation_step")
    with pytest.raises(KeyboardInterrupt):
        train(shown)
    assert len(validated) == 1
    (last,) = Path(".levit_ablate").rglob("last.ckpt")
    assert last.is_file()
    assert train(shown).trained
    assert len(validated) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_whole_job_ends_a_training_that_decodes_in_processes(tmp_path, number):
    for part, count in (("train", 24), ("val", 2)):
        for name in ("ant", "bee"):
            for index in range(count):
                draw(tmp_path / "set" / part / name / f"{part}{index}.jpg", 96, 96)
    options = """--no-baseline --data folder --data.root set --data.image_size 96 --model levit_nano
    --recipe smoke --recipe.epochs 500 --recipe.batch_size 16 --hardware.num_workers 2
    --hardware.accelerator cpu --data.validation 0.2""".split()
    process = levit_ablate("run", "no_distillation", *options)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "levit-ablate: interrupted; what was recorded is kept"
    assert "Traceback" not in said


def test_sigterm_ends_a_training_whose_batch_never_comes(tmp_path):
    root = tmp_path / "set"
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            for index in range(24):
                draw(root / part / name / f"{part}{index}.jpg", 96, 96)
    open_index(root, tmp_path / ".levit_ablate" / "indexes")
    folder = root / "train" / "bee"
    pipes = sorted(folder.iterdir())
    time_of = folder.stat().st_mtime_ns
    for path in pipes:
        path.unlink()
        os.mkfifo(path)  # as a network's disk that does not answer
    os.utime(folder, ns=(time_of, time_of))  # the index holds
    options = """--no-baseline --data folder --data.root set --data.image_size 96 --model levit_nano
    --recipe smoke --recipe.batch_size 32 --hardware.num_workers 1 --hardware.accelerator cpu
    --data.validation 0.2""".split()
    process = Started(IMPATIENT + CLI, "run", "no_distillation", *options)
    held: list[int] = []

    def is_read() -> bool:
        for path in pipes:
            with contextlib.suppress(OSError):  # by nobody yet
                held.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held)

    wait_for(is_read, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    for descriptor in held:
        os.close(descriptor)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "levit-ablate: interrupted; what was recorded is kept"
    assert "Traceback" not in said


class Dropping:
    """Ctrl-C comes while it is finalized, where Python ignores the exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_ends_the_training_after_its_step(store, monkeypatch):
    steps = []
    original = LeViTModule.training_step

    def dropping(self, *args):
        steps.append(len(steps))
        if len(steps) == 3:
            Dropping()
        return original(self, *args)

    monkeypatch.setattr(LeViTModule, "training_step", dropping)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(variant("no_distillation", SMOKE))
    assert len(steps) == 3
    assert signal.getsignal(signal.SIGINT) == before


def test_another_librarys_handler_is_not_asked_and_is_put_back():
    stop = GracefulStop()
    exits = Mock(side_effect=SystemExit)  # as Ray's
    with keeping_handlers():
        signal.signal(signal.SIGTERM, exits)
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == exits
    assert stop.requested and not exits.called
