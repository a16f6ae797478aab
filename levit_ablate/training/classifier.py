"""Training shared by students and teachers: steps, moving average, evaluation, warnings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, cast

import lightning
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from levit_ablate.config import Recipe, differences
from levit_ablate.data.batches import Batch, as_batch
from levit_ablate.data.datamodule import ImageData
from levit_ablate.errors import UserError
from levit_ablate.keys import STREAM
from levit_ablate.streams import stream_seed
from levit_ablate.training.optimization import (
    averaging,
    clip_adaptively,
    cosine,
    decay_of,
    highest_learning_rate,
    horizon_warning,
    parameter_groups,
)

AUGMENTATION = set(STREAM) - {"batch_size", "precision"}
"""Fields of `Recipe` that act on the images, in the data and not in the module."""


class TrainerWarning(UserWarning):
    """A setting has no effect in this trainer, or another than it seems to have."""


class Classifier(lightning.LightningModule):
    """Trains `network`, images (B, C, H, W) → logits (B, K), by a recipe.

    A subclass has the `training_step`, which passes its loss to `log_loss`. A checkpoint holds all
    that a resumed training needs, the running mean of the loss too.

    With `recipe.ema_decay` or `recipe.ema_horizon` a moving `average` of the weights is kept beside
    the network, and both are evaluated. `recipe.evaluate` chooses one of them: its metrics are
    called `val_loss`, `test_accuracy` and so on, and select the best epoch. The metrics of the
    other have the prefix `network_` or `average_`.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, num_classes: int, seed: int) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.num_classes = num_classes
        self.seed = seed
        self.train_loss = MeanMetric(nan_strategy="disable")  # let a NaN be seen
        self.resumed_losses: Tensor | None = None  # (processes, 2): sum and weight
        self.average: AveragedModel | None = None  # its first update copies the network
        if recipe.ema_decay or recipe.ema_horizon:
            self.average = AveragedModel(network, use_buffers=True).requires_grad_(False)
        other = {"network": "average", "average": "network"}[recipe.evaluate]
        self.weights = {"": recipe.evaluate} | ({f"{other}_": other} if self.average else {})
        names = [f"{prefix}{part}" for prefix in self.weights for part in ("val", "test")]
        self.accuracies = nn.ModuleDict(
            {name: MulticlassAccuracy(num_classes, average="micro") for name in names}
        )
        self.losses = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the evaluated weights: (B, channels, height, width) → (B, num_classes)."""
        return self.evaluated(images)

    @property
    def evaluated(self) -> nn.Module:
        """The network or its average, as `recipe.evaluate` says."""
        return self._weights_of(self.recipe.evaluate)

    def _weights_of(self, name: str) -> nn.Module:
        """Return `network` or `average`; before the first step the average is the network."""
        if name == "average" and self.average is not None and self.average.n_averaged:
            return self.average.module
        return self.network

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave our own batches alone: they are on the device, and their positions on the CPU."""
        if isinstance(batch, Batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def log_loss(self, loss: Tensor) -> None:
        """Add the loss of a batch to the epoch's `train_loss`."""
        self.train_loss.update(loss.detach())
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the loss sum of every process."""
        sums = torch.stack([self.train_loss.mean_value, self.train_loss.weight])
        if self._trainer is not None:  # else there is only this process
            sums = self.trainer.strategy.all_gather(sums)
        checkpoint["losses"] = sums.view(-1, 2).cpu()  # (processes, 2)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.resumed_losses = checkpoint["losses"]
        if self.average and "average.n_averaged" not in checkpoint["state_dict"]:
            # up to version 0.1 the average was saved as the network
            start = {f"average.{name}": value for name, value in self.average.state_dict().items()}
            checkpoint["state_dict"] |= start

    def on_train_start(self) -> None:
        """Restore the loss sums; if the number of processes changed, the first takes them all."""
        if self.average:
            self.average.multi_avg_fn = averaging(decay_of(self.recipe, self.num_steps))
        if self.resumed_losses is None:
            return
        rank, count = self.trainer.global_rank, self.trainer.world_size
        sums = self.resumed_losses
        if len(sums) != count:
            sums = torch.cat([sums.sum(dim=0, keepdim=True), torch.zeros(count - 1, 2)])
        self.train_loss.mean_value, self.train_loss.weight = sums[rank].to(self.device)

    def on_train_epoch_start(self) -> None:
        """Drop the loss sum in a checkpoint of an epoch's end; one within an epoch needs it."""
        self.train_loss.reset()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch by the step, so that a resumed training draws the same.

        Only the first of several accumulated parts updates the running statistics of BatchNorm, as
        only the first of several devices does.
        """
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(stream_seed(self.seed, "training", *place))
        self._track_statistics(batch_idx % self.trainer.accumulate_grad_batches == 0)

    def on_train_batch_end(self, *_: Any) -> None:
        self._track_statistics(True)

    def _track_statistics(self, on: bool) -> None:
        if self.trainer.accumulate_grad_batches > 1:
            for norm in batch_norms(self.network):
                norm.track_running_stats = on

    def on_validation_epoch_start(self) -> None:
        """Evaluate in all processes with the running statistics of the first."""
        if self.trainer.world_size > 1:
            for norm in batch_norms(self):
                for statistic in (norm.running_mean, norm.running_var):
                    if statistic is not None:
                        torch.distributed.broadcast(statistic, 0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, part: str, batch: Any) -> None:
        """Add up cross-entropy and accuracy by image, so that the batching does not matter."""
        images, labels = as_batch(batch)[:2]
        for prefix, weights in self.weights.items():
            name = f"{prefix}{part}"
            logits = self._weights_of(weights)(images).float()
            accuracy = cast(MulticlassAccuracy, self.accuracies[name])
            loss = cast(MeanMetric, self.losses[name])
            accuracy.update(logits, labels)
            loss.update(nn.functional.cross_entropy(logits, labels), weight=len(labels))
            self.log_dict({f"{name}_loss": loss, f"{name}_accuracy": accuracy})

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the training. Raises UserError where the trainer does not know."""
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:  # Lightning returns -1 for data without a length
            raise UserError(
                "the schedule needs the number of steps, and the training data have no length; "
                "give Trainer(max_steps=…, max_epochs=-1), or a DataLoader with a length"
            )
        return int(steps)

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine, from `optimization`."""
        is_scaled = self.trainer.precision == "16-mixed"  # fused, it would clip scaled gradients
        groups = parameter_groups(self.network, self.recipe.weight_decay)
        rate = highest_learning_rate(self.recipe)
        optimizer = AdamW(groups, lr=rate, eps=1e-8, fused=not is_scaled)
        schedule = cosine(optimizer, self.recipe, self.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.recipe.schedule},
        }

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, then update the average."""
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.network)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Advance timm's schedule.

        By the epoch it lags by one, as in the official code, which passes the epoch that has ended.
        """
        scheduler.step_update(num_updates=self.global_step)
        scheduler.step(epoch=self.current_epoch)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip by the recipe; adaptive clipping takes every parameter, as in the official code."""
        clip, network = self.recipe.clip, self.network
        if self.recipe.clipping == "norm":
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        elif self.recipe.clipping == "adaptive":
            clip_adaptively(network.parameters(), self.joint_vectors(), clip)

    def joint_vectors(self) -> list[tuple[nn.Parameter, ...]]:
        """Vectors that adaptive clipping takes as one; none unless overridden."""
        return []


def label_loss(logits: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """Cross-entropy on the labels of each image and of its mixing partner, by their shares."""
    num_classes = logits.shape[1]
    share = batch.share[:, None]
    labels, partner_labels = (
        nn.functional.one_hot(each, num_classes) for each in (batch.labels, batch.partner_labels)
    )
    targets = labels * share + partner_labels * (1 - share)
    return nn.functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return all BatchNorm layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def warn_of_ignored(module: Classifier, trainer: Trainer) -> None:
    """Warn of settings of a recipe that a trainer of the user's, or its data, do not follow."""
    for line in _ignored(module, trainer):
        warnings.warn(line, TrainerWarning, stacklevel=2)


def _ignored(module: Classifier, trainer: Trainer) -> Iterator[str]:
    recipe, data = module.recipe, getattr(trainer, "datamodule", None)
    if trainer.gradient_clip_val is not None:
        yield (
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) has no effect: gradients are "
            f"clipped by recipe.clipping ({recipe.clipping}) and recipe.clip ({recipe.clip})"
        )
    if trainer.max_epochs not in (recipe.epochs, -1) or trainer.max_steps != -1:
        effect = {
            "step": "is stretched to that, its warm-up in proportion",
            "epoch": f"stays one of {recipe.epochs} epochs",
        }[recipe.schedule]
        yield (
            f"recipe.epochs: {recipe.epochs}: the trainer ends the training (max_epochs "
            f"{trainer.max_epochs}, max_steps {trainer.max_steps}), and the schedule of the "
            f"learning rate {effect}"
        )
    if recipe.precision not in ("auto", trainer.precision):
        yield (
            f"recipe.precision: {recipe.precision} has no effect: the trainer has "
            f"{trainer.precision}"
        )
    if isinstance(data, ImageData):
        other = differences(recipe, data.recipe).keys() & {*AUGMENTATION, "batch_size"}
        if other:
            names = ", recipe.".join(sorted(other))
            yield f"recipe.{names}: ImageData has another recipe, which is used"
    else:
        if set_here := sorted(differences(recipe, Recipe()).keys() & AUGMENTATION):
            yield (
                f"recipe.{', recipe.'.join(set_here)}: no effect on a DataLoader of yours; augment "
                f"there, or train on ImageData"
            )
        size = getattr(trainer.train_dataloader, "batch_size", None)
        if recipe.reference_batch_size and size not in (None, recipe.batch_size):
            yield (
                f"recipe.batch_size: the learning rate, {highest_learning_rate(recipe):g}, is "
                f"meant for batches of {recipe.batch_size}, and the DataLoader's have {size}"
            )
    if module.average and (warning := horizon_warning(recipe, module.num_steps)):
        yield warning
