"""The estimate of a study's time: its steps are the trainer's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import SMALL

from levit_ablate.experiment import variant
from levit_ablate.recipes import RECIPES
from levit_ablate.runner.estimate import LOOKS, TIMED, WARM, probe
from levit_ablate.runner.job import Job
from levit_ablate.schema import plain
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.module import LeViTModule

GIVEN = {
    "architecture": SMALL,
    "recipe": {**plain(RECIPES["smoke"]), "batch_size": 64, "ema_decay": 0.9},
    "teacher": {"model": "test_resnet", "recipe": {"epochs": 1, "warmup_epochs": 0}},
    "hardware": {"accelerator": "cpu"},
}


@pytest.mark.parametrize("name", ["baseline", "no_distillation"])
def test_a_few_steps_are_taken_by_the_module_that_is_trained_and_nothing_is_left(name, monkeypatch):
    steps, averaged = [], []
    step, validate = Classifier.optimizer_step, Classifier.validation_step

    def stepped(self, *args, **kwargs):
        step(self, *args, **kwargs)
        steps.append(type(self).__name__)
        if isinstance(self, LeViTModule):
            averaged.append(int(self.average.n_averaged))

    monkeypatch.setattr(Classifier, "optimizer_step", stepped)
    looks = []
    monkeypatch.setattr(
        Classifier,
        "validation_step",
        lambda self, *args: (looks.append(type(self).__name__), validate(self, *args))[1],
    )
    own = variant(name, GIVEN)
    estimate = probe([own])
    assert steps.count("LeViTModule") == WARM + TIMED == averaged[-1]
    assert 0 < looks.count("LeViTModule") <= LOOKS
    has_teacher = name == "baseline"
    assert steps.count("TeacherModule") == (WARM + TIMED) * has_teacher
    assert estimate.run[name] > 0
    assert (estimate.asking > 0) == (estimate.teaching > 0) == has_teacher
    jobs = [Job(variant=own), Job(variant=own.at_seed(1))]
    asking = 2 * estimate.asking
    assert estimate.whole(jobs) == pytest.approx(2 * estimate.run[own.name] + asking)
    assert not list(Path().rglob("*.ckpt"))
