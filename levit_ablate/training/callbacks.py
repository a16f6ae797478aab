"""Callbacks of a training: stop on signals, record metrics, provide the teacher's answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from levit_ablate.config import Experiment
from levit_ablate.errors import RunError
from levit_ablate.signals import GracefulStop
from levit_ablate.tracking.record import GivenUpError, Recorder
from levit_ablate.training.teacher_cache import Answers, LiveTeacher, TeacherCache

GoOn = Callable[[Sequence[float]], bool]
"""Decides whether to go on, from the validation accuracy after each epoch so far."""


class StopOnSignal(Callback):
    """Stops a training after its step on SIGTERM, with a checkpoint, and at once on Ctrl-C.

    If any of several processes gets the signal, all stop at the same step. Without a checkpoint it
    stops where it has waited `signals.PATIENCE` seconds for a batch or a lock. A Ctrl-C that Python
    drops, since it came in a finalizer, stops the training after its step too.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.signals = GracefulStop()

    def on_train_start(self, *_: object) -> None:
        self.signals.open()

    def on_exception(self, *_: object) -> None:
        self.signals.close()

    def teardown(self, *_: object, **__: object) -> None:
        self.signals.close()

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        """Stop if a signal came in the last validation, after which there was a checkpoint."""
        self.stop_if_requested(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done % trainer.accumulate_grad_batches == 0 and self.is_requested(trainer):
            trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, *_: object) -> None:
        """Stop if a signal came in the validation of the last epoch; only the test is left."""
        self.stop_if_requested(trainer)

    def is_requested(self, trainer: Trainer) -> bool:
        """Return whether any process of the training got a signal; all of them must call this."""
        if trainer.world_size == 1:
            return self.signals.requested
        return trainer.strategy.reduce_boolean_decision(self.signals.requested, all=False)

    def stop_if_requested(self, trainer: Trainer) -> None:
        """Raise KeyboardInterrupt in all processes if any of them got a signal."""
        if self.is_requested(trainer):
            raise KeyboardInterrupt


def stop_of(trainer: Trainer) -> StopOnSignal:
    """Return the trainer's StopOnSignal; `fit` adds one to every training."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next(each for each in callbacks if isinstance(each, StopOnSignal))


class RecordEpochs(Callback):
    """Writes the metrics of each epoch to the record in one batch, and asks whether to go on.

    Checkpoints hold the metrics of all epochs so far. A resumed training writes those again that
    its record lacks, because it is another record or was out of reach when they were due. It asks
    again too: it may have been killed before it asked. If `go_on` returns false after an epoch, not
    the last, the training ends with GivenUpError.
    """

    def __init__(self, recorder: Recorder, go_on: GoOn | None = None) -> None:
        self.recorder = recorder
        self.go_on = go_on
        self.started = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def seconds(self) -> float:
        """Total duration of the epochs, validation included."""
        return sum(metrics["epoch_seconds"] for metrics in self.history)

    @property
    def curve(self) -> list[float]:
        """Validation accuracy after each epoch so far."""
        return [metrics["val_accuracy"] for metrics in self.history]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for epoch, metrics in enumerate(self.history):
            self.recorder.metrics(metrics, epoch)
        self._ask(trainer)
        self.started = time.perf_counter()  # one that is resumed within an epoch does not start it

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
        self._ask(trainer)

    def _ask(self, trainer: Trainer) -> None:
        epochs = len(self.history)
        if self.go_on and 0 < epochs < (trainer.max_epochs or 0) and not self.go_on(self.curve):
            raise GivenUpError(epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]


class AskTeacher(Callback):
    """Provides the teacher's answers of each epoch, from the cache where they are.

    Otherwise the teacher is loaded and asked before the epoch begins, about whole batches of the
    stream. With several devices each asks about its shard.
    """

    def __init__(self, experiment: Experiment, folder: Path, load: Callable[[], nn.Module]) -> None:
        soft = experiment.design.distillation == "soft"
        self.top_k = experiment.teacher.top_k if soft else 1
        self.folder = folder
        self.load = load
        self.teacher: LiveTeacher | None = None
        self.seconds = 0.0
        self.total = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        num_positions = trainer.datamodule.stream.num_positions  # type: ignore[attr-defined]
        num_classes = pl_module.num_classes
        assert isinstance(num_classes, int)
        self.cache = TeacherCache(
            self.folder, num_positions, num_classes, self.top_k, pl_module.device
        )
        pl_module.teacher = self.cache  # type: ignore[assignment]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the epoch of a training that is resumed within it: that epoch is not started."""
        self._open(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(trainer)
        pl_module.log("teacher_seconds", self.seconds)
        self.seconds = 0.0

    def _open(self, trainer: Trainer) -> None:
        epoch, strategy = trainer.current_epoch, trainer.strategy
        started = time.perf_counter()
        if trainer.world_size == 1:
            with stop_of(trainer).signals.at_once():
                self.cache.open(epoch, lambda: self._ask(trainer, epoch))
        else:
            self.cache.open(epoch, lambda: self._ask_all(trainer, epoch), strategy.broadcast)
        self.seconds += time.perf_counter() - started
        self.total += time.perf_counter() - started

    def _ask_all(self, trainer: Trainer, epoch: int) -> list[tuple[Tensor, Answers]]:
        """Ask in every process about its shard; return the answers of all."""
        strategy = trainer.strategy
        answered = list(self._ask(trainer, epoch))
        parts = [
            torch.cat([positions for positions, _ in answered]).to(strategy.root_device),
            torch.cat([each.classes for _, each in answered]),
            torch.cat([each.probabilities for _, each in answered]),
        ]
        positions, *answers = (strategy.all_gather(part).flatten(0, 1) for part in parts)
        return [(positions.cpu(), Answers(*answers))]

    def _ask(self, trainer: Trainer, epoch: int) -> Iterator[tuple[Tensor, Answers]]:
        device = trainer.strategy.root_device
        if self.teacher is None:
            self.teacher = LiveTeacher(self.load().to(device), self.cache.top_k)
        data = trainer.datamodule  # type: ignore[attr-defined]
        shard = (trainer.global_rank, trainer.world_size)
        for batch in data.training_batches(device, shard, lambda: (epoch, 0)):
            with trainer.precision_plugin.forward_context():
                answers = self.teacher(batch)
            yield batch.positions, answers
            stop_of(trainer).stop_if_requested(trainer)
