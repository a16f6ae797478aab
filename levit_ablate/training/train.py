"""Train one experiment, once: what was recorded before is read back in place of trained again."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from levit_ablate import tracking
from levit_ablate.config import Experiment, Images
from levit_ablate.data.module import ImageData
from levit_ablate.experiments import Variant
from levit_ablate.hardware import is_first_process
from levit_ablate.tracking import Recorder
from levit_ablate.training import answers, teacher
from levit_ablate.training.callbacks import AskTeacher, RecordEpochs, ShowProgress
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.conditions import check_conditions, ready_data
from levit_ablate.training.fit import BEST, fit, quiet
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.signals import interruptible
from levit_ablate.training.turns import one_at_a_time

DEFAULT_THREADS = torch.get_num_threads()
SMALL_FLOPS = 10_000_000
"""Multiply-adds below which a second CPU thread was measured to be no gain."""


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
    run = tracking.find(variant.key)
    return _result(variant, run.info.run_id, run.data.metrics, trained=False) if run else None


def train(variant: Variant) -> Result:
    """Train, test and record one variant in the open store; a run that was killed goes on.

    The test is that of the best checkpoint by validation loss, made once, at the end. Raises
    UserError before there is a run where data or hardware do not fit; KeyboardInterrupt on Ctrl-C
    and SIGTERM, the run marked KILLED; RunError where the loss is no longer finite.
    """
    data = check_conditions(variant.experiment)
    folder = Path(variant.experiment.hardware.work_dir) / "runs" / variant.key
    with one_at_a_time(folder, "trains it"):
        if result := recorded(variant):  # meanwhile, by the process that was waited for
            return result
        weights = ensure_teacher(variant)
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(num_threads(variant))
        with tracking.record(variant, folder / "run_id") as recorder:
            metrics = _train(variant, data, folder, weights, recorder)
            recorder.metrics(metrics)
        if is_first_process():
            shutil.rmtree(folder, ignore_errors=True)
    return _result(variant, recorder.run_id, metrics, trained=True)


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
    automatic = 1 if base.cost.flops < SMALL_FLOPS else DEFAULT_THREADS
    return variant.experiment.hardware.num_threads or automatic


def ensure_teacher(variant: Variant) -> Path | None:
    """The weights of the variant's teacher, trained now if it is to be and no one has.

    None without distillation, and where the weights come from elsewhere. Raises UserError where
    they cannot be had from there and are needed.
    """
    experiment = variant.experiment
    if experiment.design.distillation == "none":
        return None
    path = teacher.trained_weights(experiment) if experiment.teacher.weights == "trained" else None
    if path:
        with one_at_a_time(path, "trains it"):
            if not path.exists():
                train_teacher(experiment, variant.images, path)
    if not answers.complete(experiment):
        teacher.loaded(experiment, variant.images, path)
    return path


def train_teacher(experiment: Experiment, images: Images, path: Path) -> None:
    """Train a teacher from scratch, test it, and keep its weights in `path`, its figures beside it.

    Killed, it goes on from its last epoch. The record is a JSON file: a teacher is no run of a
    study.
    """
    lesson = teacher.teaching(experiment)
    data = ready_data(lesson)
    module = teacher.TeacherModule(experiment.teacher, images)
    name = f"teacher {experiment.teacher.model}"
    print(
        f"no teacher for {experiment.data.name} yet: training {experiment.teacher.model} from "
        f"scratch, once, {lesson.recipe.epochs} epochs",
        file=sys.stderr,
    )
    torch.set_num_threads(lesson.hardware.num_threads or DEFAULT_THREADS)
    folder = path.with_suffix("")
    show = ShowProgress(name, announce=True)
    trainer = fit(module, data, lesson.recipe, lesson.hardware, folder, [show])
    state = torch.load(folder / BEST, map_location="cpu", weights_only=False)["state_dict"]
    module.load_state_dict(state)
    tested = _tested(trainer, module, data)
    if is_first_process():
        said = {"model": experiment.teacher.model, **tested}
        _figures(path).write_text(json.dumps(said, indent=2), encoding="utf-8")
        weights = {k: v.cpu() for k, v in module.network.state_dict().items()}
        temporary = path.with_suffix(".tmp")
        torch.save(weights, temporary)
        temporary.replace(path)  # last: what is there is whole
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: test accuracy {100 * tested['test_accuracy']:.2f} %", file=sys.stderr)
    trainer.strategy.barrier()


def _figures(weights: Path) -> Path:
    return weights.with_suffix(".json")


def teacher_figures(variant: Variant, weights: Path | None) -> dict[str, float]:
    """Loss and accuracy of the variant's teacher on the test images.

    Of one that was trained here as they were found then; others are tested now.
    """
    if weights:
        with contextlib.suppress(OSError, ValueError, KeyError):  # damaged: found out anew
            said: dict[str, Any] = json.loads(_figures(weights).read_text("utf-8"))
            return {name: said[name] for name in ("test_loss", "test_accuracy")}
    lesson = teacher.teaching(variant.experiment)
    module = teacher.TeacherModule(lesson.teacher, variant.images)
    module.network = teacher.loaded(lesson, variant.images, weights)
    with quiet():
        trainer = Trainer(
            accelerator=lesson.hardware.accelerator,
            devices=1,
            precision=lesson.recipe.precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    return _tested(trainer, module, ready_data(lesson))


def _tested(trainer: Trainer, module: Classifier, data: ImageData) -> dict[str, float]:
    with quiet():
        interruptible(lambda: trainer.test(module, data, verbose=False))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _train(
    variant: Variant, data: ImageData, folder: Path, weights: Path | None, recorder: Recorder
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
    callbacks: list[Callback] = [record, ShowProgress(variant.name)]
    if experiment.design.distillation != "none":  # before its epoch is timed
        folder_of_answers = answers.folder_of(experiment)
        answers.describe(folder_of_answers, experiment)
        asks = AskTeacher(experiment, variant.images, weights, folder_of_answers)
        callbacks.insert(0, asks)
    trainer = fit(module, data, experiment.recipe, experiment.hardware, folder, callbacks)
    best = torch.load(folder / BEST, map_location="cpu", weights_only=False)
    module.load_state_dict(best["state_dict"])
    tested = _tested(trainer, module, data)
    recorder.checkpoint(folder / BEST)
    recorder.model(module.network.cpu(), variant.images)
    trainer.strategy.barrier()
    return {**tested, "best_epoch": best["epoch"], "train_seconds": record.seconds}
