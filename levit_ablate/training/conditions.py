"""Whether an experiment can be trained here and now: asked before anything is trained."""

from __future__ import annotations

import sys

from levit_ablate.config import Experiment
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.datasets import images_of
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.hardware import check_hardware
from levit_ablate.training import teacher
from levit_ablate.training.averaging import horizon_warning


def check_conditions(experiment: Experiment) -> ImageData:
    """The experiment's data, ready; UserError where hardware, data or teacher do not fit."""
    data = ready_data(experiment)
    if experiment.design.distillation != "none":
        check_teacher(experiment)
    return data


def report_horizon(experiment: Experiment, data: ImageData) -> None:
    """Say on standard error, in one line, that an average will not have converged."""
    steps = data.stream.steps * experiment.recipe.epochs
    if warning := horizon_warning(experiment.recipe, steps):
        print(warning, file=sys.stderr)


def ready_data(experiment: Experiment) -> ImageData:
    """The experiment's data, ready; UserError where hardware or data do not fit."""
    check_hardware(experiment)
    data = ImageData(experiment.data, experiment.recipe, experiment.hardware, experiment.seed)
    data.setup()
    hardware = experiment.hardware
    data.stream.shard(0, hardware.devices * hardware.num_nodes * hardware.accumulate)
    return data


def check_teacher(experiment: Experiment) -> None:
    """Refuse a teacher that cannot be had for these images. Raises UserError."""
    images = images_of(experiment.data)
    if experiment.teacher.weights == "pretrained":
        teacher.check_pretrained(experiment.teacher.model, images)
    elif experiment.teacher.weights != "trained":
        teacher.loaded(experiment, images, None)
    else:
        teacher.build(experiment.teacher.model, images)
        try:
            ready_data(teacher.teaching(experiment))
        except UserError as error:
            raise UserError(str(error).replace("recipe.", "teacher.recipe.")) from error


def check_distilled(variant: Variant) -> None:
    """Refuse a variant without a teacher where one is asked for. Raises UserError."""
    if variant.experiment.design.distillation == "none":
        raise UserError(f"{variant.name}: has no teacher (design.distillation: none)")
