"""What the training of every network shares: optimizer, schedule, clipping, average, evaluation."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from levit_ablate.config import Recipe
from levit_ablate.data.batches import Batch, as_batch
from levit_ablate.errors import UserError
from levit_ablate.streams import stream_seed
from levit_ablate.training.clipping import clip_adaptively
from levit_ablate.training.distributed import batch_norms
from levit_ablate.training.optimization import averaged, decay_of, follow


class Classifier(lightning.LightningModule):
    """Trains `network`, images (B, C, H, W) → logits (B, K), by a recipe.

    A subclass has the `training_step`, which gives its loss to `log_loss`. Everything that a
    resumed training needs is in a checkpoint, the running mean of the loss too.

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
        self.train_loss = MeanMetric(nan_strategy="disable")  # no number is to be seen as none
        self.taken_up: Tensor | None = None  # each process's sum, of the epoch of a checkpoint
        self.average = averaged(network) if recipe.ema_decay or recipe.ema_horizon else None
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
        """The network, or its average, as `recipe.evaluate` says."""
        return self._weights_of(self.recipe.evaluate)

    def _weights_of(self, name: str) -> nn.Module:
        """`network` or `average`; an average of no steps yet is the network."""
        if name == "average" and self.average is not None and self.average.n_averaged:
            return self.average.module
        return self.network

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave our own batches: they are on the device, and their positions on the CPU."""
        if isinstance(batch, Batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def log_loss(self, loss: Tensor) -> None:
        """Count a batch's loss into the epoch's `train_loss`."""
        self.train_loss.update(loss.detach())
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The sum of the epoch's losses is each process's own."""
        own = torch.stack([self.train_loss.mean_value, self.train_loss.weight])
        trained = self._trainer is not None  # else it is saved by itself, of one process
        sums = self.trainer.strategy.all_gather(own) if trained else own
        checkpoint["losses"] = sums.view(-1, 2).cpu()  # (processes, 2)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.taken_up = checkpoint["losses"]
        if self.average and "average.n_averaged" not in checkpoint["state_dict"]:
            # up to version 0.1 the average stood in the network's place
            own = {f"average.{name}": value for name, value in self.average.state_dict().items()}
            checkpoint["state_dict"] |= own

    def on_train_start(self) -> None:
        """Take up the losses; where there are not as many processes as before, the first does."""
        if self.average:
            follow(self.average, decay_of(self.recipe, self.num_steps))
        if self.taken_up is None:
            return
        rank, count = self.trainer.global_rank, self.trainer.world_size
        sums = self.taken_up
        if len(sums) != count:
            sums = torch.cat([sums.sum(dim=0, keepdim=True), torch.zeros(count - 1, 2)])
        self.train_loss.mean_value, self.train_loss.weight = sums[rank].to(self.device)

    def on_train_epoch_start(self) -> None:
        """The checkpoint of an epoch's end still has its sum; one within an epoch needs it."""
        self.train_loss.reset()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """What is drawn in the network depends on the step alone, resumed or not.

        Of the parts of a step the first counts into the running statistics of BatchNorm, as of
        several devices the first does.
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
        """All processes evaluate with the running statistics of the first, which are kept."""
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
        """Count cross-entropy and accuracy, image by image: exact however a set is dealt out."""
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
    def highest_learning_rate(self) -> float:
        """The recipe's learning rate, scaled to its batch."""
        recipe = self.recipe
        scale = (
            recipe.batch_size / recipe.reference_batch_size if recipe.reference_batch_size else 1
        )
        return recipe.learning_rate * scale

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the training. Raises UserError where the trainer does not know."""
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:  # Lightning says -1 of data without a length
            raise UserError(
                "the schedule needs the number of steps, and the training data have no length; "
                "give Trainer(max_steps=…, max_epochs=-1), or a DataLoader with a length"
            )
        return int(steps)

    def configure_optimizers(self) -> Any:
        """AdamW; a linear warm-up, then a cosine, by timm, by the step or by the epoch."""
        recipe = self.recipe
        is_scaled = self.trainer.precision == "16-mixed"
        optimizer = AdamW(
            self.parameter_groups(),
            lr=self.highest_learning_rate,
            eps=1e-8,
            fused=not is_scaled,  # its gradients would be clipped still scaled
        )
        unit = self.num_steps / recipe.epochs if recipe.schedule == "step" else 1
        schedule = CosineLRScheduler(
            optimizer,
            t_initial=round(recipe.epochs * unit),
            lr_min=recipe.final_learning_rate,
            warmup_t=round(recipe.warmup_epochs * unit),
            warmup_lr_init=recipe.warmup_learning_rate,
            t_in_epochs=recipe.schedule == "epoch",
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": recipe.schedule},
        }

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and the network after it into the average."""
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.network)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Tell timm's schedule what is done.

        By the epoch it lags by one, as in the official code, which passes the epoch that has ended.
        """
        scheduler.step_update(num_updates=self.global_step)
        scheduler.step(epoch=self.current_epoch)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the recipe, with timm; adaptively every parameter, as the official code does."""
        clip, network = self.recipe.clip, self.network
        if self.recipe.clipping == "norm":
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        elif self.recipe.clipping == "adaptive":
            clip_adaptively(network.parameters(), self.joint_vectors(), clip)

    def joint_vectors(self) -> list[tuple[nn.Parameter, ...]]:
        """Vectors of the network that adaptive clipping takes as one; none unless overridden."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Decay the weights of linear layers and convolutions, and nothing else."""
        layers = (m for m in self.network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        decayed = {id(layer.weight) for layer in layers}
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in self.network.parameters():
            groups[id(parameter) in decayed].append(parameter)
        return [
            {"params": groups[True], "weight_decay": self.recipe.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ]
