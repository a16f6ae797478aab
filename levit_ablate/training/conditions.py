"""Checks that an experiment can be trained here, made before anything is trained."""

from __future__ import annotations

from levit_ablate.config import Experiment
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.datasets import images_of
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.training import teacher
from levit_ablate.training.fit import ready_data


def check_conditions(experiment: Experiment) -> ImageData:
    """Return the experiment's data, set up.

    Raises UserError where hardware, data or teacher do not fit.
    """
    data = ready_data(experiment)
    if experiment.design.distillation != "none":
        check_teacher(experiment)
    return data


def check_teacher(experiment: Experiment) -> None:
    """Raise UserError where the teacher cannot be had for these images."""
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
    """Raise UserError for a variant without a teacher."""
    if variant.experiment.design.distillation == "none":
        raise UserError(f"{variant.name}: has no teacher (design.distillation: none)")
