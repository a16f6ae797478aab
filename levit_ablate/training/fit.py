"""One training, from wherever it stands to its end: killed at any moment, it goes on from there."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from lightning.pytorch.plugins import TorchCheckpointIO

from levit_ablate.config import Hardware, Recipe
from levit_ablate.data.module import ImageData
from levit_ablate.hardware import has_gpu
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.distributed import layer_sync

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint is there whole or not at all, whenever the process is killed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside `path`, then rename."""
        temporary = Path(f"{path}.{os.getpid()}.tmp")
        try:
            super().save_checkpoint(checkpoint, temporary, storage_options)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


class StopOnSignal(Callback):
    """SIGTERM, with which a cluster takes a machine back, ends a training after the step it is in.

    It leaves a checkpoint. Of several processes, whichever is told, all stop at the same step.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, signum: int, frame: FrameType | None) -> None:
        self.told = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done % trainer.accumulate_grad_batches == 0 and self._stop(trainer):
            trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Told in the last epoch's validation: all but the test is done, and in a checkpoint."""
        if self._stop(trainer):
            raise KeyboardInterrupt

    def _stop(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self.told
        return trainer.strategy.reduce_boolean_decision(self.told, all=False)


def fit(
    module: Classifier,
    data: ImageData,
    recipe: Recipe,
    hardware: Hardware,
    folder: Path,
    callbacks: Sequence[Callback],
) -> Trainer:
    """Train to the end of the recipe; checkpoints in `folder`, of the last epoch and of the best.

    Goes on from the last checkpoint where there is one, with the numbers of an uninterrupted
    training. Raises KeyboardInterrupt on Ctrl-C, and on SIGTERM after a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / LAST
    if hardware.compile:
        for part in module.network.children():
            part.compile()
    on_gpu = hardware.accelerator != "cpu" and has_gpu()
    several = hardware.devices * hardware.num_nodes > 1
    plugins: list[Any] = [AtomicCheckpoints()]
    if hardware.sync_batchnorm and several:
        plugins.append(layer_sync(on_gpu))
    own: list[Callback] = []
    if recipe.ema_decay:
        own.append(EMAWeightAveraging(decay=recipe.ema_decay))
    own.append(StopOnSignal(last))  # with the step's average
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    own += [
        ModelCheckpoint(
            filename="best", monitor="val_loss", save_on_train_epoch_end=True, **common
        ),
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common),
    ]
    with quiet():
        trainer = Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            strategy="ddp" if several else "auto",
            plugins=plugins,
            precision=recipe.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=hardware.accumulate,
            max_epochs=recipe.epochs,
            deterministic=True,
            callbacks=[*callbacks, *own],
            logger=False,
            default_root_dir=folder,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the stream deals out the shards
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        resumed = last if last.is_file() else None
        interruptible(lambda: trainer.fit(module, data, ckpt_path=resumed, weights_only=False))
    return trainer


def interruptible(call: Callable[[], object]) -> None:
    """Turn Lightning's own exit on Ctrl-C back into a KeyboardInterrupt.

    Lightning leaves Ctrl-C ignored as well; here the handlers are put back.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        call()
    except SystemExit as exit_:
        raise KeyboardInterrupt from exit_
    finally:
        with contextlib.suppress(ValueError):  # not the main thread: no signals here either
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's notices: what this project chose (no workers, no logger) is no news."""
    for name in (
        "lightning.pytorch",
        "pytorch_lightning",
        "lightning.fabric",
    ):  # each in its own version's turn
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield
