"""Train one experiment, or read back its result where it is recorded already."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

import torch
from lightning import Callback
from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.config import Experiment
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.loader import worker_errors
from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.runtime import one_at_a_time, own_threads, settle_rank
from levit_ablate.signals import raise_if_interrupted
from levit_ablate.tracking.record import GivenUpError, Recorder, TakenError, record
from levit_ablate.tracking.runs import HOST, find, is_alive, reading_the_record
from levit_ablate.training.callbacks import Bar, GoOn, RecordEpochs, Tell, TellProgress
from levit_ablate.training.fit import BEST, fit, ready_data, tested
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.teacher import ask_teacher, check_teacher, ensure_teacher

SMALL_FLOPS = 10_000_000
"""Multiply-adds below which a second CPU thread was measured to be no gain."""
POLL = 5.0
"""Seconds between two looks at a run of another machine."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run."""

    variant: Variant
    run_id: str
    """MLflow's ID of the run."""
    trained: bool
    """True if it was trained now, false if it was recorded before."""
    accuracy: float
    """Accuracy on the test images, 0 to 1."""
    loss: float
    """Cross-entropy on the test images."""
    seconds: float
    """Seconds of training, validation included."""
    curve: tuple[float, ...]
    """Validation accuracy after each epoch, 0 to 1; up to the first that the record lacks."""
    best_epoch: int
    """Epoch of the lowest validation loss, from 0, whose weights were kept."""

    @property
    def validation_accuracy(self) -> float:
        """Validation accuracy of the weights that were kept, 0 to 1.

        Raises RunError where the record lacks that epoch.
        """
        if not 0 <= self.best_epoch < len(self.curve):
            raise RunError(
                f"{self.variant.name}: MLflow lacks the curve of run {self.run_id}; delete that "
                f"run there, and the network is trained again"
            )
        return self.curve[self.best_epoch]


def check_conditions(experiment: Experiment) -> ImageData:
    """Return the experiment's data, set up: the driver's check before anything is trained.

    Raises UserError where hardware, data or teacher do not fit. What depends on the machine,
    `train` and `ensure_teacher` see for themselves where they run.
    """
    data = ready_data(experiment)
    if experiment.design.distillation != "none":
        check_teacher(experiment)
    return data


@reading_the_record()
def recorded(variant: Variant) -> Result | None:
    """Return the result of the variant's key from the open store, or None."""
    run = find(*variant.keys)
    if run is None:
        return None
    history = MlflowClient().get_metric_history(run.info.run_id, "val_accuracy")
    by_epoch = {metric.step: float(metric.value) for metric in history}
    curve = [by_epoch[epoch] for epoch in takewhile(by_epoch.__contains__, count())]
    return _result(variant, run.info.run_id, run.data.metrics, curve, trained=False)


def train(
    variant: Variant,
    parent: Run | None = None,
    tell: Tell | None = None,
    go_on: GoOn | None = None,
) -> Result:
    """Train, test and record one variant in the open store; a killed run goes on.

    The best checkpoint by validation loss is tested, once, at the end. If another process trains
    the same run, wait for it.

    Args:
        variant: the variant to train.
        parent: the parent run, of a study or a search.
        tell: called with the progress; a bar on the terminal by default.
        go_on: called after each epoch but the last; false gives the training up.

    Raises UserError before there is a run where this machine lacks data, hardware or teacher;
    KeyboardInterrupt on Ctrl-C and SIGTERM, the run marked KILLED; GivenUpError where `go_on` said
    no; RunError if the loss is not finite, or the store is out of reach (`tracking.record.record`).
    """
    tell = tell or Bar()
    settle_rank(variant.experiment.hardware)
    data = ready_data(variant.experiment)
    folder = run_folder(variant)
    with one_at_a_time(folder, "trains it"):
        while True:
            if result := recorded(variant):  # by the process that was waited for
                return result
            raise_if_interrupted()
            weights = ensure_teacher(variant, tell)
            folder.mkdir(parents=True, exist_ok=True)
            torch.set_num_threads(num_threads(variant))
            try:
                with record(variant, folder, parent) as recorder:
                    result = _train(variant, data, weights, recorder, tell, go_on)
            except TakenError as taken:
                _wait_for(taken.run)
                continue
            except GivenUpError:
                recorder.remove_folder()
                raise
            recorder.remove_folder()
            return result


def run_folder(variant: Variant) -> Path:
    """Return the folder of an unfinished run's checkpoints; its lock lies beside it."""
    return Path(variant.experiment.hardware.work_dir) / "runs" / variant.key


def _wait_for(run: Run) -> None:
    """Wait until a run of another machine or work folder has ended, or its process is gone."""
    host = run.data.tags.get(HOST, "another machine")
    print(f"{run.info.run_name}: {host} trains it; waiting for it", file=sys.stderr)
    while is_alive(run):
        time.sleep(POLL)
        with reading_the_record():
            run = MlflowClient().get_run(run.info.run_id)


def _result(
    variant: Variant,
    run_id: str,
    metrics: Mapping[str, float],
    curve: Sequence[float],
    trained: bool,
) -> Result:
    return Result(
        variant=variant,
        run_id=run_id,
        trained=trained,
        accuracy=metrics["test_accuracy"],
        loss=metrics["test_loss"],
        seconds=metrics["train_seconds"],
        curve=tuple(curve),
        best_epoch=int(metrics.get("best_epoch", -1)),
    )


def num_threads(variant: Variant) -> int:
    """Return the CPU threads, by the baseline's cost: an ablation trains as its baseline does."""
    base = variant.baseline or variant
    automatic = 1 if base.cost.flops < SMALL_FLOPS else own_threads()
    return variant.experiment.hardware.num_threads or automatic


def module_of(variant: Variant) -> LeViTModule:
    """Return the variant's network as it is before its training."""
    experiment = variant.experiment
    return LeViTModule(
        design=experiment.design,
        model=experiment.model,
        architecture=variant.architecture,
        images=variant.images,
        recipe=experiment.recipe,
        seed=experiment.seed,
    )


@worker_errors()
def _train(
    variant: Variant,
    data: ImageData,
    weights: Path | None,
    recorder: Recorder,
    tell: Tell,
    go_on: GoOn | None,
) -> Result:
    """Train, test and record."""
    experiment, folder = variant.experiment, recorder.folder
    module = module_of(variant)
    record = RecordEpochs(recorder, go_on)
    callbacks: list[Callback] = [record, TellProgress(variant.name, tell)]
    if experiment.design.distillation != "none":  # before its epoch is timed
        callbacks.insert(0, ask_teacher(experiment, variant.images, weights))
    trainer = fit(module, data, folder, callbacks)
    best = torch.load(folder / BEST, map_location="cpu", weights_only=False)
    module.load_state_dict(best["state_dict"])
    figures = tested(trainer, module, data)
    recorder.checkpoint(folder / BEST)
    network = module.evaluated.requires_grad_().eval()  # an average was frozen
    recorder.model(network.cpu(), variant.images)
    trainer.strategy.barrier()
    metrics = {**figures, "best_epoch": best["epoch"], "train_seconds": record.seconds}
    recorder.metrics(metrics)
    return _result(variant, recorder.run_id, metrics, record.curve, trained=True)
