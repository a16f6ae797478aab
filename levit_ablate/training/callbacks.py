"""What happens beside the training: its metrics in the record, its teacher's answers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from levit_ablate.config import Experiment, Images
from levit_ablate.errors import RunError
from levit_ablate.tracking.record import Recorder
from levit_ablate.training import teacher_cache
from levit_ablate.training.objective import Answers
from levit_ablate.training.signals import stop_together, stopping_at_once
from levit_ablate.training.teacher import LiveTeacher, loaded


class RecordEpochs(Callback):
    """Writes an epoch's metrics to the record, all in one batch, and counts the training's seconds.

    A training that goes on remembers the epochs before it: where it is recorded elsewhere than
    before they are written there too.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.started = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def seconds(self) -> float:
        """What the epochs took, validation included."""
        return sum(metrics["epoch_seconds"] for metrics in self.history)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for epoch, metrics in enumerate(self.history):
            self.recorder.metrics(metrics, epoch)
        self.started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(metrics["train_loss"]):
            raise RunError(
                f"training diverged: its loss is {metrics['train_loss']} in epoch "
                f"{trainer.current_epoch + 1}; lower recipe.learning_rate or recipe.clip"
            )
        metrics["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics["epoch_seconds"] = time.perf_counter() - self.started
        self.history.append(metrics)
        self.recorder.metrics(metrics, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]


class AskTeacher(Callback):
    """Gives the training its teacher's answers, an epoch at a time, asked once and stored.

    Where an epoch's answers are not stored yet, they are asked for before it, by the whole batch of
    the stream; of several devices each asks for its shard. The teacher is loaded only then.

    Args:
        experiment: whose teacher and stream.
        images: what the teacher is built for.
        weights: the file of a teacher that was trained here, or None.
        folder: where the answers are stored.
    """

    def __init__(
        self, experiment: Experiment, images: Images, weights: Path | None, folder: Path
    ) -> None:
        self.folder = folder
        self.experiment = experiment
        self.images = images
        self.weights = weights
        self.teacher: LiveTeacher | None = None
        self.seconds = 0.0
        self.total = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        soft = self.experiment.design.distillation == "soft"
        self.stored = teacher_cache.StoredAnswers(
            self.folder,
            data.stream.num_positions,
            self.images.num_classes,
            self.experiment.teacher.top_k if soft else 1,
            pl_module.device,
        )
        pl_module.teacher = self.stored  # type: ignore[assignment]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training that is taken up within an epoch does not start that epoch again."""
        self._open(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(trainer)
        pl_module.log("teacher_seconds", self.seconds)
        self.seconds = 0.0

    def _open(self, trainer: Trainer) -> None:
        epoch = trainer.current_epoch
        started = time.perf_counter()
        if trainer.world_size == 1:
            with stopping_at_once(trainer):
                self.stored.open(epoch, lambda: self._ask(trainer, epoch))
        else:
            self._open_together(trainer, epoch)
        self.seconds += time.perf_counter() - started
        self.total += time.perf_counter() - started

    def _open_together(self, trainer: Trainer, epoch: int) -> None:
        """Every process asks for its shard; the first writes what all of them were told."""
        strategy = trainer.strategy
        with self.stored.turn():
            if not strategy.broadcast(self.stored.path(epoch).exists()):
                told = list(self._ask(trainer, epoch))
                parts = [
                    torch.cat([positions for positions, _ in told]).to(strategy.root_device),
                    torch.cat([each.classes for _, each in told]),
                    torch.cat([each.probabilities for _, each in told]),
                ]
                positions, classes, probabilities = (
                    strategy.all_gather(part).flatten(0, 1) for part in parts
                )
                if trainer.is_global_zero:
                    answers = Answers(classes, probabilities)
                    self.stored.write(epoch, [(positions.cpu(), answers)])
                strategy.barrier()
        self.stored.map(epoch)

    def _ask(self, trainer: Trainer, epoch: int) -> Iterator[tuple[Tensor, Answers]]:
        device = trainer.strategy.root_device
        if self.teacher is None:
            network = loaded(self.experiment, self.images, self.weights).to(device)
            self.teacher = LiveTeacher(network, self.stored.top_k)
        data = trainer.datamodule  # type: ignore[attr-defined]
        shard = (trainer.global_rank, trainer.world_size)
        batches = data.training_batches(device, shard, lambda: (epoch, 0))
        for batch in batches:
            with trainer.precision_plugin.forward_context():
                told = self.teacher(batch)
            yield batch.positions, told
            stop_together(trainer)
