"""Teachers that are trained here, each once, and what any teacher is worth."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from levit_ablate.config import Experiment, Images
from levit_ablate.experiment import Variant
from levit_ablate.locks import one_at_a_time
from levit_ablate.runtime import is_first_process, own_threads, settle_rank
from levit_ablate.training import teacher, teacher_cache
from levit_ablate.training.conditions import ready_data, report_horizon
from levit_ablate.training.fit import BEST, fit, quiet, tested
from levit_ablate.training.progress import Bar, Tell, TellProgress


def ensure_teacher(variant: Variant, tell: Tell | None = None) -> Path | None:
    """The weights of the variant's teacher, trained now if it is to be and no one has.

    `tell` is told how far that is. None without distillation, and where the weights come from
    elsewhere. Raises UserError where they cannot be had from there and are needed.
    """
    experiment = variant.experiment
    if experiment.design.distillation == "none":
        return None
    settle_rank(experiment.hardware)
    path = teacher.trained_weights(experiment) if experiment.teacher.weights == "trained" else None
    if path:
        with one_at_a_time(path, "trains it"):
            if not path.exists():
                train_teacher(experiment, variant.images, path, tell or Bar())
    if not teacher_cache.complete(experiment):
        teacher.loaded(experiment, variant.images, path)
    return path


def train_teacher(experiment: Experiment, images: Images, path: Path, tell: Tell) -> None:
    """Train a teacher from scratch, test it, and keep its weights in `path`, its figures beside it.

    Killed, it goes on from its last epoch. The record is a JSON file: a teacher is no run of a
    study.
    """
    lesson = teacher.teaching(experiment)
    data = ready_data(lesson)
    report_horizon(lesson, data)
    module = teacher.TeacherModule(experiment.teacher, images)
    name = f"teacher {experiment.teacher.model}"
    print(
        f"no teacher for {experiment.data.name} yet: training {experiment.teacher.model} from "
        f"scratch, once, {lesson.recipe.epochs} epochs",
        file=sys.stderr,
    )
    torch.set_num_threads(lesson.hardware.num_threads or own_threads())
    folder = path.with_suffix("")
    show = TellProgress(name, tell, announce=True)
    trainer = fit(module, data, lesson.recipe, lesson.hardware, folder, [show])
    state = torch.load(folder / BEST, map_location="cpu", weights_only=False)["state_dict"]
    module.load_state_dict(state)
    figures = tested(trainer, module, data)
    if is_first_process():
        said = {"model": experiment.teacher.model, **figures}
        _figures(path).write_text(json.dumps(said, indent=2), encoding="utf-8")
        weights = {k: v.cpu() for k, v in module.evaluated.state_dict().items()}
        temporary = path.with_suffix(".tmp")
        torch.save(weights, temporary)
        temporary.replace(path)  # last: what is there is whole
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: test accuracy {100 * figures['test_accuracy']:.2f} %", file=sys.stderr)
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
            plugins=[LightningEnvironment()],
            precision=lesson.recipe.precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    return tested(trainer, module, ready_data(lesson))
