"""The training loop: prepare the data, fit, resume from the last checkpoint, test."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import LayerSync, TorchCheckpointIO
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm

from levit_ablate.config import Experiment
from levit_ablate.data.datamodule import ImageData
from levit_ablate.data.loader import worker_errors
from levit_ablate.errors import RunError
from levit_ablate.runtime import check_hardware, replacing
from levit_ablate.signals import keeping_handlers
from levit_ablate.training.callbacks import StopOnSignal
from levit_ablate.training.classifier import Classifier, TrainerWarning, batch_norms
from levit_ablate.training.optimization import horizon_warning

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints so that a killed process never leaves half of one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside `path`, then rename. Raises RunError where that fails."""
        try:
            with replacing(Path(path)) as temporary:
                super().save_checkpoint(checkpoint, temporary, storage_options)
        except (OSError, RuntimeError) as error:  # torch's own for a full disk
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"{path}: the checkpoint cannot be written: {reason}") from error


class SynchronizeAnywhere(LayerSync):
    """Lightning plugin that makes `synchronized` the forward of every BatchNorm of a model.

    torch's SyncBatchNorm needs a GPU, and replaces timm's BatchNormAct2d without its activation.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        for norm in batch_norms(model):
            norm.forward = partial(synchronized, norm)  # type: ignore[method-assign]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for norm in batch_norms(model):
            norm.__dict__.pop("forward", None)
        return model


def synchronized(norm: _BatchNorm, values: Tensor) -> Tensor:
    """Apply BatchNorm with the statistics of all processes: (B, C, …) → the same shape.

    Every process must have as many inputs. Means and variances are exchanged in one differentiable
    step. In evaluation it is the BatchNorm itself; timm's BatchNormAct2d keeps its activation.
    """
    if not norm.training:
        return type(norm).forward(norm, values)
    others = [dim for dim in range(values.ndim) if dim != 1]
    exact = values.float()
    moments = torch.stack([exact.mean(dim=others), exact.var(dim=others, unbiased=False)])  # (2, C)
    means, variances = torch.stack(all_gather(moments)).unbind(1)  # (processes, C) each
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + means.var(dim=0, unbiased=False)
    count = len(means) * values.numel() // values.shape[1]
    if norm.track_running_stats:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(mean.detach(), norm.momentum or 0.0)
        unbiased = variance.detach() * (count / (count - 1))
        norm.running_var.lerp_(unbiased, norm.momentum or 0.0)
    shape = [1, -1] + [1] * (values.ndim - 2)
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    normal = (exact * scale.view(shape) + shift.view(shape)).to(values.dtype)
    return norm.act(norm.drop(normal)) if isinstance(norm, BatchNormAct2d) else normal


def ready_data(experiment: Experiment) -> ImageData:
    """Return the experiment's data, set up. Raises UserError where hardware or data do not fit."""
    check_hardware(experiment)
    data = ImageData(experiment.data, experiment.recipe, experiment.hardware, experiment.seed)
    data.setup()
    hardware = experiment.hardware
    data.stream.shard(0, hardware.devices * hardware.num_nodes * hardware.accumulate)
    return data


def report_horizon(data: ImageData) -> None:
    """Print a line on standard error if a moving average will not have converged."""
    if warning := horizon_warning(data.recipe, data.stream.steps * data.recipe.epochs):
        print(warning, file=sys.stderr)


def fit(
    module: Classifier, data: ImageData, folder: Path, callbacks: Sequence[Callback]
) -> Trainer:
    """Train to the end of the recipe, with checkpoints of the last and the best epoch in `folder`.

    It runs on the hardware of the data. Resumes from the last checkpoint if there is one, with the
    numbers of an uninterrupted training. Raises KeyboardInterrupt on Ctrl-C, and on SIGTERM after a
    checkpoint; RunError where a checkpoint is damaged or cannot be written.
    """
    recipe, hardware = module.recipe, data.hardware
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
    common: dict[str, Any] = {
        "dirpath": folder,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    stop = StopOnSignal(last)
    checkpoints = [
        ModelCheckpoint(filename="best", monitor="val_loss", **common),
        ModelCheckpoint(filename="last", **common),
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
            callbacks=[stop, *callbacks, *checkpoints],  # stop: before an epoch begins
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
