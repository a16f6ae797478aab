"""A Trainer of the user's: settings of the recipe that it leaves out are warned of."""

from __future__ import annotations

import warnings
from dataclasses import fields

from lightning import Trainer

from levit_ablate.config import Recipe
from levit_ablate.data.module import ImageData
from levit_ablate.keys import STREAM
from levit_ablate.training.averaging import horizon_warning
from levit_ablate.training.classifier import Classifier


class TrainerWarning(UserWarning):
    """A setting has no effect, or not the one that it seems to have."""


def warn_of_ignored(module: Classifier, trainer: Trainer) -> None:
    """Warn of the settings of a module's recipe, and of a trainer, that have no effect together."""
    data = getattr(trainer, "datamodule", None)
    for line in _ignored(module.recipe, trainer, isinstance(data, ImageData)):
        warnings.warn(line, TrainerWarning, stacklevel=2)
    if warning := horizon_warning(module.recipe, module.num_steps):
        warnings.warn(warning, TrainerWarning, stacklevel=2)


def _ignored(recipe: Recipe, trainer: Trainer, is_image_data: bool) -> list[str]:
    """Settings that have no effect in this trainer, a line each."""
    lines = []
    if trainer.gradient_clip_val is not None:
        lines.append(
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) has no effect: gradients are "
            f"clipped by recipe.clipping ({recipe.clipping}) and recipe.clip ({recipe.clip})"
        )
    if trainer.max_epochs not in (recipe.epochs, -1) or trainer.max_steps != -1:
        lines.append(
            f"recipe.epochs: {recipe.epochs} has no effect: the trainer ends the training "
            f"(max_epochs {trainer.max_epochs}, max_steps {trainer.max_steps})"
        )
    if recipe.precision not in ("auto", trainer.precision):
        lines.append(
            f"recipe.precision: {recipe.precision} has no effect: the trainer has "
            f"{trainer.precision}"
        )
    default = Recipe()
    names = [f.name for f in fields(Recipe) if f.name in STREAM and f.name != "precision"]
    set_here = [name for name in names if getattr(recipe, name) != getattr(default, name)]
    if set_here and not is_image_data:
        lines.append(
            f"recipe.{', recipe.'.join(set_here)}: no effect on a DataLoader of yours; augment "
            f"there, or train on ImageData"
        )
    return lines
