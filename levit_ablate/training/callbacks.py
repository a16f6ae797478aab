"""What happens beside the training: its progress on the screen, its metrics in the record."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from levit_ablate.errors import RunError
from levit_ablate.tracking import Recorder


class RecordEpochs(Callback):
    """Writes an epoch's metrics to the record, all in one batch."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(metrics["train_loss"]):
            raise RunError(
                f"training diverged: its loss is {metrics['train_loss']} in epoch "
                f"{trainer.current_epoch + 1}; lower recipe.learning_rate or recipe.clip_norm"
            )
        metrics["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics["epoch_seconds"] = time.perf_counter() - self.started
        self.recorder.metrics(metrics, epoch=trainer.current_epoch)


class ShowProgress(Callback):
    """One bar for a run: epoch, accuracy on the validation images, time left.

    On a terminal only: nothing is written where standard error is a file or a pipe.
    """

    def __init__(self, title: str) -> None:
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            TextColumn("accuracy {task.fields[accuracy]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.title = title

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.task = self.progress.add_task(
            self.title,
            total=trainer.estimated_stepping_batches,
            epoch=0,
            epochs=trainer.max_epochs,
            accuracy="–",
        )
        self.progress.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.progress.update(
            self.task, completed=trainer.global_step, epoch=trainer.current_epoch + 1
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None:
            self.progress.update(self.task, accuracy=f"{100 * float(accuracy):.1f} %")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.progress.stop()
