"""Measures a teacher's cost: asked in every run, as in the paper, or once, with stored answers."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from levit_ablate.experiment import Variant
from levit_ablate.training.fit import fit, ready_data
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.teacher import ensure_teacher, loaded
from levit_ablate.training.teacher_cache import AskTeacher, LiveTeacher
from levit_ablate.training.train import check_conditions, num_threads

EPOCHS = 2
"""Epochs of a timed training."""


class Timed(Callback):
    """Seconds of an epoch's training steps, without its validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _synchronize()
        self.seconds.append(time.perf_counter() - self.started)


class AskLive(Callback):
    """Asks the teacher about every batch."""

    def __init__(self, teacher: LiveTeacher) -> None:
        self.teacher = teacher

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.teacher.network.to(pl_module.device)
        pl_module.teacher = self.teacher  # type: ignore[assignment]


def measure(distilled: Variant, plain: Variant, rounds: int) -> dict[str, float]:
    """Seconds of an epoch: `none` without a teacher, `stored`, `live`, and `asking` it alone.

    Args:
        distilled: what is trained with the teacher, which is trained first if it is to be.
        plain: the same without distillation.
        rounds: trainings of each kind, in turn.
    """
    check_conditions(distilled.experiment)
    weights = ensure_teacher(distilled)
    torch.set_num_threads(num_threads(distilled))
    seconds: dict[str, list[float]] = {"none": [], "stored": [], "live": [], "asking": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            load = partial(loaded, distilled.experiment, distilled.images, weights)
            teacher = LiveTeacher(load(), 1)
            folder = Path(name)
            asks = AskTeacher(distilled.experiment, folder / "answers", load)
            seconds["none"] += _epochs(plain, folder / "none", [])
            seconds["stored"] += _epochs(distilled, folder / "stored", [asks])
            seconds["live"] += _epochs(distilled, folder / "live", [AskLive(teacher)])
            seconds["asking"].append(asks.total / EPOCHS)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def study(seconds: dict[str, float], variants: int, seeds: int, epochs: int) -> dict[str, float]:
    """Hours of a whole study of distilled variants, with a live teacher and with stored answers."""
    runs = variants * seeds * epochs / 3600
    asking = seeds * epochs / 3600 * seconds["asking"]
    live, stored = runs * seconds["live"], runs * seconds["stored"] + asking
    return {"live_hours": live, "stored_hours": stored, "saving": 1 - stored / live}


def _epochs(variant: Variant, folder: Path, callbacks: list[Callback]) -> list[float]:
    """Train briefly; the seconds of each epoch."""
    experiment = variant.experiment
    recipe = replace(experiment.recipe, epochs=EPOCHS, warmup_epochs=0.0)
    module = LeViTModule(
        design=experiment.design,
        architecture=variant.architecture,
        images=variant.images,
        recipe=recipe,
    )
    timed = Timed()
    data = ready_data(experiment)
    fit(module, data, folder, [*callbacks, timed])
    return timed.seconds


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
