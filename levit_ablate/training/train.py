"""Train one experiment, once: what was recorded before is read back in place of trained again."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from levit_ablate import tracking
from levit_ablate.config import Experiment
from levit_ablate.data.digits import DigitsDataModule
from levit_ablate.errors import UserError
from levit_ablate.experiments import Variant
from levit_ablate.streams import stream_seed
from levit_ablate.tracking import Recorder
from levit_ablate.training.callbacks import RecordEpochs, ShowProgress
from levit_ablate.training.module import LeViTModule

DATA_MODULES = {"digits": DigitsDataModule}
DEFAULT_THREADS = torch.get_num_threads()
SMALL_FLOPS = 10_000_000
"""Multiply-adds below which a second CPU thread was measured to be no gain."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to."""

    variant: Variant
    run_id: str
    """MLflow's name of it."""
    trained: bool
    """Whether it was trained now; else it was found recorded."""
    accuracy: float
    """On the test images, from 0 to 1."""
    loss: float
    """Cross-entropy on the test images."""
    seconds: float
    """Of the training, validation included."""


def recorded(variant: Variant) -> Result | None:
    """The result of the variant's key in the open store; None if it is not there."""
    run = tracking.find(variant.key)
    return _result(variant, run.info.run_id, run.data.metrics, trained=False) if run else None


def train(variant: Variant) -> Result:
    """Train, test and record one variant in the open store.

    The test is that of the best checkpoint by validation loss, made once, at the end. Raises
    UserError before there is a run where data or hardware do not fit; KeyboardInterrupt on Ctrl-C
    and SIGTERM, the run marked KILLED; RunError where the loss is no longer finite.
    """
    data = check_conditions(variant.experiment)
    torch.set_num_threads(_num_threads(variant))
    with tracking.record(variant) as recorder:
        metrics = _train(variant, data, recorder)
        recorder.metrics(metrics)
    return _result(variant, recorder.run_id, metrics, trained=True)


def _result(variant: Variant, run_id: str, metrics: Mapping[str, float], trained: bool) -> Result:
    return Result(
        variant=variant,
        run_id=run_id,
        trained=trained,
        accuracy=metrics["test_accuracy"],
        loss=metrics["test_loss"],
        seconds=metrics["train_seconds"],
    )


def check_conditions(experiment: Experiment) -> LightningDataModule:
    """The experiment's data, ready; UserError where hardware or data do not fit."""
    _check_hardware(experiment)
    data = DATA_MODULES[experiment.data.name](experiment.data, experiment.seed)
    data.setup()
    return data


def _check_hardware(experiment: Experiment) -> None:
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    accelerator = experiment.hardware.accelerator
    if accelerator == "gpu" and not has_gpu:
        raise UserError("hardware.accelerator: gpu: torch finds none here; use auto or cpu")
    if experiment.recipe.precision == "16-mixed" and (accelerator == "cpu" or not has_gpu):
        raise UserError("recipe.precision: 16-mixed needs a GPU; use bf16-mixed or 32-true")


def _num_threads(variant: Variant) -> int:
    """Of the pair: by the baseline's cost, so that an ablation trains as its baseline does."""
    base = variant.baseline or variant
    automatic = 1 if base.cost.flops < SMALL_FLOPS else DEFAULT_THREADS
    return variant.experiment.hardware.num_threads or automatic


def _train(variant: Variant, data: LightningDataModule, recorder: Recorder) -> dict[str, float]:
    experiment, recipe = variant.experiment, variant.experiment.recipe
    module = LeViTModule(
        design=experiment.design,
        model=experiment.model,
        architecture=variant.architecture,
        images=variant.images,
        recipe=recipe,
        seed=experiment.seed,
    )
    torch.manual_seed(stream_seed(experiment.seed, "training"))  # drop path
    with tempfile.TemporaryDirectory() as folder, _quiet():
        best = ModelCheckpoint(folder, filename="best", monitor="val_loss")
        trainer = Trainer(
            accelerator=experiment.hardware.accelerator,
            devices=1,
            precision=recipe.precision,
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.clip_norm,
            deterministic=True,
            callbacks=[best, RecordEpochs(recorder), ShowProgress(variant.name)],
            logger=False,
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        started = time.perf_counter()
        _interruptible(lambda: trainer.fit(module, data))
        seconds = time.perf_counter() - started
        checkpoint = Path(best.best_model_path)
        best_epoch = torch.load(checkpoint, weights_only=True)["epoch"]
        module = LeViTModule.load_from_checkpoint(checkpoint)
        _interruptible(lambda: trainer.test(module, data, verbose=False))
        recorder.checkpoint(checkpoint)
        recorder.model(module.network.cpu(), variant.images)
    tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {**tested, "best_epoch": best_epoch, "train_seconds": seconds}


def _interruptible(call: Callable[[], object]) -> None:
    """Turn Lightning's own exit on Ctrl-C or SIGTERM back into a KeyboardInterrupt.

    Lightning leaves Ctrl-C ignored as well; here the handler is put back.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        call()
    except SystemExit as exit_:
        raise KeyboardInterrupt from exit_
    finally:
        with contextlib.suppress(ValueError):  # not the main thread: no Ctrl-C here either
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notices: what this project chose (no workers, no logger) is no news."""
    for name in ("lightning.pytorch", "pytorch_lightning"):  # each in its own version's turn
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield
