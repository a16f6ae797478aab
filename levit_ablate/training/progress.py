"""Progress of a training: reported as it goes, and shown as a bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from lightning import Callback, Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from levit_ablate.bars import bars, error_console

ESTIMATE_FROM, ESTIMATE_AT = 2, 12
"""Steps between which the speed of a training is measured for its ETA."""
OFTEN = 0.2
"""Seconds between two reports."""


class Status(NamedTuple):
    """Progress of a training."""

    title: str
    """Name of the run."""
    epoch: int
    """Current epoch, from 1."""
    epochs: int
    done: int
    """Steps done."""
    total: int
    """Steps of the whole training."""
    accuracy: float | None
    """Accuracy on the validation images, 0 to 1; None before the first validation."""
    ended: bool = False


Tell = Callable[[Status], None]
"""Receives the progress."""


class TellProgress(Callback):
    """Reports the progress a few times a second, from the first of several processes."""

    def __init__(self, title: str, tell: Tell, announce: bool = False) -> None:
        """Report to `tell`; with `announce` also print an ETA once the speed is known."""
        self.title = title
        self.tell = tell
        self.announce = announce
        self.started = self.told = 0.0
        self.accuracy: float | None = None

    def _tell(self, trainer: Trainer, ended: bool = False) -> None:
        if not trainer.is_global_zero:
            return
        self.told = time.monotonic()
        self.tell(
            Status(
                title=self.title,
                epoch=min(trainer.current_epoch + 1, trainer.max_epochs or 0),
                epochs=trainer.max_epochs or 0,
                done=trainer.global_step,
                total=int(trainer.estimated_stepping_batches),
                accuracy=self.accuracy,
                ended=ended,
            )
        )

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._tell(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        if self.announce and step == ESTIMATE_FROM:
            self.started = time.perf_counter()
        if self.announce and step == ESTIMATE_AT:
            self.announce = False
            each = (time.perf_counter() - self.started) / (ESTIMATE_AT - ESTIMATE_FROM)
            left = timedelta(seconds=round(each * (trainer.estimated_stepping_batches - step)))
            print(f"{self.title}: about {left} more (h:mm:ss)", file=sys.stderr)
        if time.monotonic() - self.told > OFTEN:
            self._tell(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None:
            self.accuracy = float(accuracy)
            self._tell(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self._tell(trainer, ended=True)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        self._tell(trainer, ended=True)


class Bar:
    """Shows a progress bar for each training in turn; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __call__(self, status: Status) -> None:
        if self.progress is None:
            self.progress = bars(
                error_console(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("epoch {task.fields[epochs]}"),
                TextColumn("accuracy {task.fields[accuracy]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.task = self.progress.add_task(status.title, epochs="", accuracy="")
            self.progress.start()
        self.progress.update(
            self.task,
            description=status.title,
            completed=status.done,
            total=status.total,
            epochs=f"{status.epoch}/{status.epochs}",
            accuracy="–" if status.accuracy is None else f"{100 * status.accuracy:.1f} %",
        )
        if status.ended:
            self.progress.stop()
            self.progress = None
