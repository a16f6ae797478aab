"""Train one experiment, once: what was recorded before is read back in place of trained again."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback
from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.data.datamodule import ImageData
from levit_ablate.experiment import Variant
from levit_ablate.hardware import is_first_process, own_threads, settle_rank
from levit_ablate.interrupts import raise_if_interrupted
from levit_ablate.locks import one_at_a_time
from levit_ablate.tracking.record import GivenUpError, Recorder, record
from levit_ablate.tracking.runs import TakenError, find, is_alive, reading_the_record
from levit_ablate.tracking.tags import HOST
from levit_ablate.training import answers
from levit_ablate.training.callbacks import AskTeacher, RecordEpochs
from levit_ablate.training.conditions import check_conditions
from levit_ablate.training.fit import BEST, fit, tested
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.progress import Bar, Tell, TellProgress
from levit_ablate.training.teaching import ensure_teacher

SMALL_FLOPS = 10_000_000
"""Multiply-adds below which a second CPU thread was measured to be no gain."""
POLL = 5.0
"""Seconds between two looks at a run of another machine."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to."""

    variant: Variant
    run_id: str
    """MLflow's name of it."""
    trained: bool
    """Whether it was trained now; else it was found recorded."""
    accuracy: float
    """On the test images, from 0 to 1."""
    loss: float
    """Cross-entropy on the test images."""
    seconds: float
    """Of the training, validation included."""


def recorded(variant: Variant) -> Result | None:
    """The result of the variant's key in the open store; None if it is not there."""
    run = find(*variant.keys)
    return _result(variant, run.info.run_id, run.data.metrics, trained=False) if run else None


def train(
    variant: Variant,
    parent: Run | None = None,
    tell: Tell | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train, test and record one variant in the open store; a run that was killed goes on.

    The test is that of the best checkpoint by validation loss, made once, at the end. What another
    process trains is waited for. Raises UserError before there is a run where data or hardware do
    not fit; KeyboardInterrupt on Ctrl-C and SIGTERM, the run marked KILLED; RunError where the loss
    is no longer finite, or where the record is out of reach, `tracking.record.record`.

    Args:
        variant: what is trained.
        parent: the run of a study that the run stands below.
        tell: is told how far it is; a bar on the terminal unless given.
        callbacks: further ones; one that raises GivenUpError ends the training for good.
    """
    tell = tell or Bar()
    settle_rank(variant.experiment.hardware)
    data = check_conditions(variant.experiment)
    folder = run_folder(variant)
    with one_at_a_time(folder, "trains it"):
        while True:
            if result := recorded(variant):  # meanwhile, by the process that was waited for
                return result
            raise_if_interrupted()
            weights = ensure_teacher(variant, tell)
            folder.mkdir(parents=True, exist_ok=True)
            torch.set_num_threads(num_threads(variant))
            try:
                with record(variant, folder, parent) as recorder:
                    metrics = _train(variant, data, folder, weights, recorder, tell, callbacks)
                    recorder.metrics(metrics)
            except TakenError as taken:
                _wait_for(taken.run)
                continue
            except GivenUpError:
                _forget(folder)
                raise
            _forget(folder)
            return _result(variant, recorder.run_id, metrics, trained=True)


def run_folder(variant: Variant) -> Path:
    """Where an unfinished run keeps what it needs to go on; its lock lies beside it."""
    return Path(variant.experiment.hardware.work_dir) / "runs" / variant.key


def _forget(folder: Path) -> None:
    if is_first_process():
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(run: Run) -> None:
    """Until a run of another machine or folder has ended, or its process has."""
    host = run.data.tags.get(HOST, "another machine")
    print(f"{run.info.run_name}: {host} trains it; waiting for it", file=sys.stderr)
    while is_alive(run):
        time.sleep(POLL)
        with reading_the_record():
            run = MlflowClient().get_run(run.info.run_id)


def _result(variant: Variant, run_id: str, metrics: Mapping[str, float], trained: bool) -> Result:
    return Result(
        variant=variant,
        run_id=run_id,
        trained=trained,
        accuracy=metrics["test_accuracy"],
        loss=metrics["test_loss"],
        seconds=metrics["train_seconds"],
    )


def num_threads(variant: Variant) -> int:
    """Of the pair: by the baseline's cost, so that an ablation trains as its baseline does."""
    base = variant.baseline or variant
    automatic = 1 if base.cost.flops < SMALL_FLOPS else own_threads()
    return variant.experiment.hardware.num_threads or automatic


def _train(
    variant: Variant,
    data: ImageData,
    folder: Path,
    weights: Path | None,
    recorder: Recorder,
    tell: Tell,
    further: Sequence[Callback],
) -> dict[str, float]:
    experiment = variant.experiment
    module = LeViTModule(
        design=experiment.design,
        model=experiment.model,
        architecture=variant.architecture,
        images=variant.images,
        recipe=experiment.recipe,
        seed=experiment.seed,
    )
    record = RecordEpochs(recorder)
    callbacks: list[Callback] = [record, TellProgress(variant.name, tell), *further]
    if experiment.design.distillation != "none":  # before its epoch is timed
        folder_of_answers = answers.folder_of(experiment)
        answers.describe(folder_of_answers, experiment)
        asks = AskTeacher(experiment, variant.images, weights, folder_of_answers)
        callbacks.insert(0, asks)
    trainer = fit(module, data, experiment.recipe, experiment.hardware, folder, callbacks)
    best = torch.load(folder / BEST, map_location="cpu", weights_only=False)
    module.load_state_dict(best["state_dict"])
    figures = tested(trainer, module, data)
    recorder.checkpoint(folder / BEST)
    network = module.evaluated.requires_grad_().eval()  # an average was frozen
    recorder.model(network.cpu(), variant.images)
    trainer.strategy.barrier()
    return {**figures, "best_epoch": best["epoch"], "train_seconds": record.seconds}
