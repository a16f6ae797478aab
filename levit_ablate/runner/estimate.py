"""Estimates how long a study takes, from a few steps of each variant by the trainer itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from levit_ablate.analysis.speed import threads
from levit_ablate.config import Experiment
from levit_ablate.data.batches import Batch
from levit_ablate.experiment import Variant
from levit_ablate.runner.job import Job, on_hardware
from levit_ablate.runtime import device_of
from levit_ablate.training import teacher_cache
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.fit import fit, ready_data
from levit_ablate.training.objective import Answers
from levit_ablate.training.teacher import TeacherModule, teaching
from levit_ablate.training.teacher_cache import LiveTeacher
from levit_ablate.training.train import module_of, num_threads

WARM, TIMED = 1, 3
"""Steps before the clock runs, and steps that are timed."""
LOOKS = 2
"""Validation batches that are timed."""


class Estimate(NamedTuple):
    """Seconds that the parts of a study take."""

    run: Mapping[str, float]
    """One run of each variant, by name, without asking a teacher."""
    asking: float
    """Asking the teacher, for all epochs of one seed."""
    teaching: float
    """Training the teacher."""

    def whole(self, jobs: Iterable[Job]) -> float:
        """Return the seconds of all these jobs, one after the other."""
        jobs = list(jobs)
        runs = [job.variant for job in jobs if not job.only_teacher]
        seeds = {
            teacher_cache.folder_of(variant.experiment)
            for variant in runs
            if variant.experiment.design.distillation != "none"
            and not teacher_cache.complete(variant.experiment)
        }
        teachers = sum(job.only_teacher for job in jobs)
        trainings = sum(self.run[variant.name] for variant in runs)
        return trainings + len(seeds) * self.asking + teachers * self.teaching


def probe(variants: Iterable[Variant]) -> Estimate:
    """Train each variant for a few steps on this machine, with its own images.

    Other work on the machine is not foreseen, nor compilation, nor several devices.
    """
    variants = [on_hardware(v, devices=1, num_nodes=1, compile=False) for v in variants]
    with threads(num_threads(variants[0])):
        run = {variant.name: _run_seconds(variant) for variant in variants}
        distilled = [v for v in variants if v.experiment.design.distillation != "none"]
        asking, teaching = _teacher_seconds(distilled[0]) if distilled else (0.0, 0.0)
    return Estimate(run=run, asking=asking, teaching=teaching)


class Clock(Callback):
    """Ends a training after a few steps and validation batches, and times them."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        """Times of the start, and after each step."""
        self.validation = 0.0
        """Seconds of validation."""
        self.num_validated = 0
        """Images of it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.limit_train_batches = (WARM + TIMED) * trainer.accumulate_grad_batches
        trainer.limit_val_batches = LOOKS
        trainer.fit_loop.max_epochs = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.marks.append(now())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.marks.append(now())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation = -now()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.num_validated += len(batch[0])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += now()


def now() -> float:
    """Return the time in seconds at which all that a GPU was given to do is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _run_seconds(variant: Variant) -> float:
    """Return the seconds of all epochs of a run, validation included."""
    design, teacher = variant.experiment.design, variant.experiment.teacher
    module = module_of(variant)
    top_k = min(teacher.top_k if design.distillation == "soft" else 1, module.num_classes)

    def answer(batch: Batch) -> Answers:
        shape = (len(batch.labels), top_k)
        classes = torch.zeros(shape, dtype=torch.int64, device=batch.labels.device)
        return Answers(classes, torch.full(shape, 1 / top_k, device=batch.labels.device))

    module.teacher = None if design.distillation == "none" else answer
    return _seconds(module, variant.experiment)


def _seconds(module: Classifier, experiment: Experiment) -> float:
    """Return the seconds of a whole training."""
    data = ready_data(experiment)
    clock = Clock()
    with TemporaryDirectory() as name:
        fit(module, data, experiment.recipe, experiment.hardware, Path(name), [clock])
    step = _between(clock.marks)  # the making of its batch included
    image = clock.validation / max(1, clock.num_validated)
    epoch = data.stream.steps * step + data.served.num_validation * image
    return experiment.recipe.epochs * epoch


def _between(marks: Sequence[float]) -> float:
    """Return the mean seconds between two marks, the first `WARM` left out if there are others."""
    timed = marks[min(WARM, len(marks) - 2) :]
    return (timed[-1] - timed[0]) / (len(timed) - 1)


def _teacher_seconds(variant: Variant) -> tuple[float, float]:
    """Return the seconds of asking a teacher for all epochs of a seed, and of its training."""
    experiment = variant.experiment
    module = TeacherModule(experiment.teacher, variant.images)
    seconds = _seconds(module, teaching(experiment))
    device = device_of(experiment.hardware)
    teacher = LiveTeacher(module.network.to(device), experiment.teacher.top_k)
    precision = experiment.recipe.precision
    kind = torch.float16 if precision.startswith("16") else torch.bfloat16
    data = ready_data(experiment)
    batches = data.training_batches(device, (0, 1), lambda: (0, 0))
    marks = [now()]
    with torch.autocast(device.type, kind, enabled="mixed" in precision):
        for batch in islice(batches, WARM + TIMED):
            teacher(batch)
            marks.append(now())
    num_batches = data.stream.steps * experiment.hardware.accumulate
    return num_batches * experiment.recipe.epochs * _between(marks), seconds
