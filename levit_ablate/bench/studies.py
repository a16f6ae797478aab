"""Measures what a study costs: its teacher, its overhead, and the gain of several jobs at once."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.runner.estimate import now
from levit_ablate.runner.job import Station, on_hardware, work
from levit_ablate.runner.local import LocalLauncher
from levit_ablate.studies.conduct import conduct
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking.runs import find
from levit_ablate.tracking.store import open_store
from levit_ablate.training.callbacks import AskTeacher
from levit_ablate.training.conditions import check_conditions
from levit_ablate.training.fit import fit, ready_data
from levit_ablate.training.teacher import ensure_teacher, loaded
from levit_ablate.training.teacher_cache import LiveTeacher
from levit_ablate.training.train import module_of, num_threads

EPOCHS = 2
"""Epochs of a timed training."""


class EpochTimer(Callback):
    """Measures the seconds of each epoch's training steps, without its validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = now()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(now() - self.started)


def measure_teacher(distilled: Variant, plain: Variant, rounds: int) -> dict[str, float]:
    """Return the seconds of an epoch: `none` without a teacher, `stored`, `live`, `asking` it.

    A teacher is asked in every run, as in the paper (live), or once, and its answers are stored.

    Args:
        distilled: what is trained with the teacher, which is trained first if it is to be.
        plain: the same without distillation.
        rounds: trainings of each kind, in turn.
    """
    check_conditions(distilled.experiment)
    load = partial(loaded, distilled.experiment, distilled.images, ensure_teacher(distilled))
    torch.set_num_threads(num_threads(distilled))
    seconds: dict[str, list[float]] = {"none": [], "stored": [], "live": [], "asking": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            asks = AskTeacher(distilled.experiment, folder / "answers", load)
            seconds["none"] += _epochs(plain, folder / "none")
            seconds["stored"] += _epochs(distilled, folder / "stored", callbacks=[asks])
            seconds["live"] += _epochs(distilled, folder / "live", LiveTeacher(load(), 1))
            seconds["asking"].append(asks.total / EPOCHS)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def _epochs(
    variant: Variant,
    folder: Path,
    teacher: LiveTeacher | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[float]:
    """Train briefly, and return the seconds of each epoch."""
    experiment = variant.experiment
    recipe = replace(experiment.recipe, epochs=EPOCHS, warmup_epochs=0.0)
    module = module_of(replace(variant, experiment=replace(experiment, recipe=recipe)))
    module.teacher = teacher
    timer = EpochTimer()
    fit(module, ready_data(experiment), recipe, experiment.hardware, folder, [*callbacks, timer])
    return timer.seconds


def hours_of_study(
    seconds: dict[str, float], variants: int, seeds: int, epochs: int
) -> dict[str, float]:
    """Return the hours of a study of distilled variants, with a live teacher and stored answers."""
    runs = variants * seeds * epochs / 3600
    asking = seeds * epochs / 3600 * seconds["asking"]
    live, stored = runs * seconds["live"], runs * seconds["stored"] + asking
    return {"live_hours": live, "stored_hours": stored, "saving": 1 - stored / live}


class Swept(NamedTuple):
    """One sweep."""

    wall: float
    """Seconds from the first look at the record to the table, the start of Python excluded."""
    bare: float
    """Seconds of its training loops alone, validation included, summed over its runs."""

    @property
    def overhead(self) -> float:
        """Time beyond the training loops, as a share of them; means little with several at once."""
        return self.wall / self.bare - 1


def measure_sweep(planned: Plan, jobs: Sequence[int]) -> dict[int, Swept]:
    """Run a study with so many jobs at once, each time in a store and a folder of its own.

    Raises RunError where a run fails.
    """
    LocalLauncher.prepare(work)
    return {places: _swept(planned, places) for places in jobs}


def _swept(planned: Plan, places: int) -> Swept:
    with tempfile.TemporaryDirectory() as name:
        uri = f"sqlite:///{name}/mlflow.db"
        open_store(uri)
        variants = tuple(on_hardware(v, work_dir=f"{name}/work") for v in planned.variants)
        study = replace(planned, variants=variants)
        started = time.perf_counter()
        launcher = LocalLauncher(work, Station(uri=uri), places, 1, 0, Path(name, "logs"))
        failed, _ = conduct(study, launcher)
        wall = time.perf_counter() - started
        if failed:
            raise RunError(f"a run failed, and nothing is measured: {failed[0]}")
        runs = [find(job.key) for job in study.jobs]
        return Swept(wall, sum(run.data.metrics["train_seconds"] for run in runs if run))
