"""The training loop: prepare the data, fit, resume from the last checkpoint, test."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from levit_ablate.config import Experiment, Hardware, Recipe
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.loader import worker_errors
from levit_ablate.errors import RunError
from levit_ablate.runtime import check_hardware
from levit_ablate.signals import keeping_handlers
from levit_ablate.training.callbacks import StopOnSignal
from levit_ablate.training.classifier import Classifier, TrainerWarning
from levit_ablate.training.distributed import SynchronizeAnywhere
from levit_ablate.training.optimization import horizon_warning

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints so that a killed process never leaves half of one."""

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


def ready_data(experiment: Experiment) -> ImageData:
    """Return the experiment's data, set up. Raises UserError where hardware or data do not fit."""
    check_hardware(experiment)
    data = ImageData(experiment.data, experiment.recipe, experiment.hardware, experiment.seed)
    data.setup()
    hardware = experiment.hardware
    data.stream.shard(0, hardware.devices * hardware.num_nodes * hardware.accumulate)
    return data


def report_horizon(experiment: Experiment, data: ImageData) -> None:
    """Print a line on standard error if a moving average will not have converged."""
    steps = data.stream.steps * experiment.recipe.epochs
    if warning := horizon_warning(experiment.recipe, steps):
        print(warning, file=sys.stderr)


def fit(
    module: Classifier,
    data: ImageData,
    recipe: Recipe,
    hardware: Hardware,
    folder: Path,
    callbacks: Sequence[Callback],
) -> Trainer:
    """Train to the end of the recipe, with checkpoints of the last and the best epoch in `folder`.

    Resumes from the last checkpoint if there is one, with the numbers of an uninterrupted training.
    Raises KeyboardInterrupt on Ctrl-C, and on SIGTERM after a checkpoint; RunError where a
    checkpoint is damaged or cannot be written.
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
        plugins.append(LightningEnvironment())  # do not look for a cluster
    if hardware.sync_batchnorm and several:
        plugins.append(SynchronizeAnywhere())
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    stop = StopOnSignal(last)
    every: list[Callback] = [
        stop,  # the first: it stops before an epoch begins
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
    stop.stop_if_requested(trainer)  # a signal came while Lightning tidied up
    return trainer


def tested(trainer: Trainer, module: Classifier, data: ImageData) -> dict[str, float]:
    """Return loss and accuracy on the test images. Raises KeyboardInterrupt on Ctrl-C."""
    with quiet():
        interruptible(lambda: trainer.test(module, data, verbose=False))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def interruptible(call: Callable[[], object]) -> None:
    """Call, and turn Lightning's exit on Ctrl-C back into a KeyboardInterrupt.

    Lightning leaves Ctrl-C ignored as well; the handlers of before are restored.
    """
    with keeping_handlers(), worker_errors():
        try:
            call()
        except SystemExit as exit_:
            raise KeyboardInterrupt from exit_


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence notices of Lightning, timm and the hub about choices that this project made."""
    for name in (
        "lightning.pytorch",
        "pytorch_lightning",
        "lightning.fabric",  # the name depends on the version
        "timm",
        "huggingface_hub",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*all_gather", category=FutureWarning)
        warnings.filterwarnings("ignore", category=TrainerWarning)  # commands print it themselves
        yield
