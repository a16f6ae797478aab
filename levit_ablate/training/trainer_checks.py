"""A Trainer of the user's: settings of the recipe that it leaves out are warned of."""

from __future__ import annotations

import warnings

from lightning import Trainer

from levit_ablate.config import Recipe, differences
from levit_ablate.data.datamodule import ImageData
from levit_ablate.keys import STREAM
from levit_ablate.training.averaging import horizon_warning
from levit_ablate.training.classifier import Classifier

AUGMENTATION = set(STREAM) - {"batch_size", "precision"}
"""Fields of `Recipe` that the images are served by, and no part of a module."""


class TrainerWarning(UserWarning):
    """A setting has no effect, or not the one that it seems to have."""


def warn_of_ignored(module: Classifier, trainer: Trainer) -> None:
    """Warn of what a module's recipe, a trainer and its data say differently."""
    data = getattr(trainer, "datamodule", None)
    lines = _of_trainer(module.recipe, trainer)
    if isinstance(data, ImageData):
        lines += _of_images(module.recipe, data.recipe)
    else:
        lines += _of_loader(module, trainer)
    if module.average and (warning := horizon_warning(module.recipe, module.num_steps)):
        lines.append(warning)
    for line in lines:
        warnings.warn(line, TrainerWarning, stacklevel=2)


def _of_trainer(recipe: Recipe, trainer: Trainer) -> list[str]:
    lines = []
    if trainer.gradient_clip_val is not None:
        lines.append(
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) has no effect: gradients are "
            f"clipped by recipe.clipping ({recipe.clipping}) and recipe.clip ({recipe.clip})"
        )
    if trainer.max_epochs not in (recipe.epochs, -1) or trainer.max_steps != -1:
        end = f"max_epochs {trainer.max_epochs}, max_steps {trainer.max_steps}"
        effect = {
            "step": "is stretched to that, its warm-up in proportion",
            "epoch": f"stays one of {recipe.epochs} epochs",
        }[recipe.schedule]
        lines.append(
            f"recipe.epochs: {recipe.epochs}: the trainer ends the training ({end}), and the "
            f"schedule of the learning rate {effect}"
        )
    if recipe.precision not in ("auto", trainer.precision):
        lines.append(
            f"recipe.precision: {recipe.precision} has no effect: the trainer has "
            f"{trainer.precision}"
        )
    return lines


def _of_images(recipe: Recipe, theirs: Recipe) -> list[str]:
    """What the module's recipe says otherwise than the one that the images are served by."""
    other = sorted(differences(recipe, theirs).keys() & {*AUGMENTATION, "batch_size"})
    if not other:
        return []
    return [f"recipe.{', recipe.'.join(other)}: ImageData has another recipe, which is used"]


def _of_loader(module: Classifier, trainer: Trainer) -> list[str]:
    """What has no effect on a DataLoader that is not ours."""
    recipe, lines = module.recipe, []
    if set_here := sorted(differences(recipe, Recipe()).keys() & AUGMENTATION):
        lines.append(
            f"recipe.{', recipe.'.join(set_here)}: no effect on a DataLoader of yours; augment "
            f"there, or train on ImageData"
        )
    size = getattr(trainer.train_dataloader, "batch_size", None)
    if recipe.reference_batch_size and size not in (None, recipe.batch_size):
        lines.append(
            f"recipe.batch_size: the learning rate, {module.highest_learning_rate:g}, is meant for "
            f"batches of {recipe.batch_size}, and the DataLoader's have {size}"
        )
    return lines
