"""One training, from wherever it stands to its end: killed at any moment, it goes on from there."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from levit_ablate.config import Hardware, Recipe
from levit_ablate.data.datamodule import ImageData
from levit_ablate.errors import RunError
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.distributed import SynchronizeAnywhere
from levit_ablate.training.signals import StopOnSignal, interruptible, stop_together
from levit_ablate.training.trainer_checks import TrainerWarning

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint is there whole or not at all, whenever the process is killed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside `path`, then rename. Raises RunError where that fails."""
        temporary = Path(f"{path}.{os.getpid()}.tmp")
        try:
            super().save_checkpoint(checkpoint, temporary, storage_options)
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # torch's own for a full disk
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"{path}: the checkpoint cannot be written: {reason}") from error
        finally:
            temporary.unlink(missing_ok=True)


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
    training. Raises KeyboardInterrupt on Ctrl-C, and on SIGTERM after a checkpoint; RunError where
    a checkpoint is damaged, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / LAST
    if last.is_file() and not is_zipfile(last):  # as torch writes it
        raise RunError(f"{last}: is damaged; remove {folder}, and the training starts anew")
    if hardware.compile:
        for part in module.network.children():
            part.compile()
    several = hardware.devices * hardware.num_nodes > 1
    plugins: list[Any] = [AtomicCheckpoints()]
    if not several:
        plugins.append(LightningEnvironment())  # no cluster is looked for
    if hardware.sync_batchnorm and several:
        plugins.append(SynchronizeAnywhere())
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    every: list[Callback] = [
        StopOnSignal(last),  # before an epoch is begun
        *callbacks,
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
            callbacks=every,
            logger=False,
            default_root_dir=folder,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the stream deals out the shards
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        resumed = last if last.is_file() else None
        interruptible(lambda: trainer.fit(module, data, ckpt_path=resumed, weights_only=False))
    stop_together(trainer)  # told while Lightning tidied up
    return trainer


def tested(trainer: Trainer, module: Classifier, data: ImageData) -> dict[str, float]:
    """Loss and accuracy of a network on the test images. Raises KeyboardInterrupt on Ctrl-C."""
    with quiet():
        interruptible(lambda: trainer.test(module, data, verbose=False))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's notices: what this project chose (no workers, no logger) is no news."""
    for name in (
        "lightning.pytorch",
        "pytorch_lightning",
        "lightning.fabric",  # each in its own version's turn
        "timm",
        "huggingface_hub",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*all_gather", category=FutureWarning)
        warnings.filterwarnings("ignore", category=TrainerWarning)  # the commands say it in a line
        yield
