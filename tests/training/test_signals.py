"""Told to end, a training ends soon, and nothing that was made is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from levit_ablate.experiments import variant
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.signals import stopping_at_once
from levit_ablate.training.teacher import LiveTeacher
from levit_ablate.training.train import train

SMOKE = {
    "recipe": {"epochs": 2, "warmup_epochs": 0.5},
    "teacher": {"model": "test_resnet", "recipe": {"epochs": 1, "warmup_epochs": 0.5}},
    "hardware": {"accelerator": "cpu"},
}


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


def test_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopping_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
