"""How a training ends when it is told to: by Ctrl-C at once, by SIGTERM with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning import Callback, LightningModule, Trainer

from levit_ablate.signals import waited

PATIENCE = 20.0
"""Seconds that a training told to end waits for a batch or a lock, to leave a checkpoint."""


class StopOnSignal(Callback):
    """SIGTERM, with which a cluster takes a machine back, ends a training after the step it is in.

    It leaves a checkpoint, except where it has waited `PATIENCE` seconds for a batch or a lock:
    then it ends where it is. Of several processes, whichever is told, all stop at the same step.
    Ctrl-C ends it at once; where Python drops the KeyboardInterrupt, for it came within a finalizer
    or a weak reference's callback, the training ends after its step too.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.told = False
        self.ended = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        threading.Thread(target=self._watch, daemon=True).start()
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, self._tell)
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as a shell's background job has
                signal.signal(signal.SIGINT, self._tell)

    def _tell(self, signum: int, frame: FrameType | None) -> None:
        at_once = signum == signal.SIGINT or (self.told and waited() >= PATIENCE)
        self.told = True
        if at_once:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """A thread: tell the main one again, which is woken by it, where a batch does not come."""
        main = threading.main_thread().ident
        assert main is not None
        while not self.ended.wait(1.0):
            if self.told and waited() >= PATIENCE:
                signal.pthread_kill(main, signal.SIGTERM)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.ended.set()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.ended.set()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Told in the validation of the epoch before, which left a checkpoint."""
        if self.is_told(trainer):
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done % trainer.accumulate_grad_batches == 0 and self.is_told(trainer):
            trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Told in the last epoch's validation: all but the test is done, and in a checkpoint."""
        if self.is_told(trainer):
            raise KeyboardInterrupt

    def is_told(self, trainer: Trainer) -> bool:
        """Whether any process of the training is; asked by all of them at once."""
        if trainer.world_size == 1:
            return self.told
        return trainer.strategy.reduce_boolean_decision(self.told, all=False)


def stop_together(trainer: Trainer) -> None:
    """Raise KeyboardInterrupt in all processes of a training where one was told to end."""
    if any(callback.is_told(trainer) for callback in _stops(trainer)):
        raise KeyboardInterrupt


@contextlib.contextmanager
def stopping_at_once(trainer: Trainer) -> Iterator[None]:
    """Within, SIGTERM is as Ctrl-C: there is nothing for a checkpoint to hold."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        for callback in _stops(trainer):  # should the KeyboardInterrupt be dropped
            callback.told = True
        raise KeyboardInterrupt

    with keeping_handlers():
        with contextlib.suppress(ValueError):  # not the main thread: no signals here
            signal.signal(signal.SIGTERM, stop)
        yield


def _stops(trainer: Trainer) -> list[StopOnSignal]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if isinstance(each, StopOnSignal)]


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """What takes Ctrl-C or SIGTERM for itself within, as Lightning and Ray do, gives them back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)


def interruptible(call: Callable[[], object]) -> None:
    """Turn Lightning's own exit on Ctrl-C back into a KeyboardInterrupt.

    Lightning leaves Ctrl-C ignored as well; here the handlers are put back.
    """
    with keeping_handlers():
        try:
            call()
        except SystemExit as exit_:
            raise KeyboardInterrupt from exit_
