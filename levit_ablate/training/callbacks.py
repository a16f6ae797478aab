"""Callbacks of a training: stop on signals, record metrics, report progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from levit_ablate.bars import bars, error_console
from levit_ablate.errors import RunError
from levit_ablate.signals import GracefulStop
from levit_ablate.tracking.record import GivenUpError, Recorder

ESTIMATE_FROM, ESTIMATE_AT = 2, 12
"""Steps between which the speed of a training is measured for its ETA."""
OFTEN = 0.2
"""Seconds between two reports."""
GoOn = Callable[[Sequence[float]], bool]
"""Decides whether to go on, from the validation accuracy after each epoch so far."""


class StopOnSignal(Callback):
    """Stops a training after its step on SIGTERM, with a checkpoint, and at once on Ctrl-C.

    After the last step of an epoch the validation is done first.
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
        """Stop if a signal came since the last step, after which there was a checkpoint."""
        self.stop_if_requested(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch:  # Lightning would go on behind the validation: it comes first
            return
        is_step = progress.current.ready % trainer.accumulate_grad_batches == 0
        if is_step and self.is_requested(trainer):
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
