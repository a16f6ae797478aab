"""Teachers: any timm model, pretrained, from a file, or trained here once for each dataset."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from timm.models import load_state_dict
from torch import Tensor, nn
from torchvision.transforms import Normalize

from levit_ablate.config import Experiment, Images, Teacher
from levit_ablate.data.batches import Batch
from levit_ablate.data.datasets import dataset_of, images_of
from levit_ablate.errors import UserError, closest
from levit_ablate.experiment import Variant
from levit_ablate.keys import NO_WEIGHTS, teacher_key
from levit_ablate.runtime import (
    is_first_process,
    one_at_a_time,
    own_threads,
    replacing,
    settle_rank,
)
from levit_ablate.training import teacher_cache
from levit_ablate.training.callbacks import Bar, Tell, TellProgress
from levit_ablate.training.classifier import Classifier, label_loss
from levit_ablate.training.fit import BEST, fit, quiet, ready_data, report_horizon, tested
from levit_ablate.training.teacher_cache import AskTeacher

SMALL_SIDE = 64
"""Side in pixels up to which five halvings leave nothing of an image; see `build`."""
BUILD_ERRORS = (TypeError, AssertionError, RuntimeError, ValueError)
"""Errors of timm's models for options that they cannot be built with."""


class TeacherModule(Classifier):
    """Trains a teacher from scratch, on labels alone."""

    def __init__(self, teacher: Teacher, images: Images) -> None:
        torch.manual_seed(0)  # one teacher for the runs of all seeds
        network = build(teacher.model, images)
        super().__init__(network, teacher.recipe, images.num_classes, seed=0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = label_loss(self.network(batch.images), batch, self.recipe.label_smoothing)
        self.log_loss(loss)
        return loss


def build(model: str, images: Images, pretrained: bool = False) -> nn.Module:
    """Build a timm model for images of this shape and number of classes.

    For small images its stages keep more resolution where the model can (`output_stride` of timm,
    which dilates): five halvings would leave one pixel of 32. A model of fixed size is built for
    these images. Raises UserError for a name that timm does not know and for a model that does not
    fit the images; with `pretrained` also what timm raises where its weights cannot be had.
    """
    if not timm.is_model(model):
        names = timm.list_models() + timm.list_pretrained()
        raise UserError(
            f"teacher.model: timm has no {model}; "
            f"{closest(model, names).partition('valid: ')[0]}timm.list_models() shows them"
        )
    options: dict[str, Any] = {"in_chans": images.channels, "num_classes": images.num_classes}
    ways: list[dict[str, Any]] = [{"img_size": (images.height, images.width)}, {}]
    if max(images.height, images.width) <= SMALL_SIDE and not pretrained:
        ways.insert(0, {"output_stride": 8})
    image = torch.zeros(1, images.channels, images.height, images.width)
    refused = (TypeError,) if pretrained else BUILD_ERRORS
    reason: Exception | None = None
    for way in ways:
        try:
            network = timm.create_model(model, pretrained=pretrained, **options, **way)
        except refused as error:
            reason = error
            continue
        try:
            with torch.inference_mode():
                network.eval()(image)
        except BUILD_ERRORS as error:
            reason = error
        else:
            return network.train()
    first_line = " ".join(str(reason).split())[:200]
    raise UserError(
        f"teacher.model: {model} cannot be built for images of {images.height}x{images.width} "
        f"pixels and {images.channels} channels: {first_line}; choose another"
    )


def check_distilled(variant: Variant) -> None:
    """Raise UserError for a variant without a teacher."""
    if variant.experiment.design.distillation == "none":
        raise UserError(f"{variant.name}: has no teacher (design.distillation: none)")


def check_teacher(experiment: Experiment) -> None:
    """Raise UserError where the experiment's teacher cannot be had for its images."""
    teacher, images = experiment.teacher, images_of(experiment.data)
    if teacher.weights == "pretrained":
        check_pretrained(teacher.model, images)
    elif teacher.weights != "trained":
        loaded(experiment, images, None)
    else:
        build(teacher.model, images)
        try:
            ready_data(teaching(experiment))
        except UserError as error:
            raise UserError(str(error).replace("recipe.", "teacher.recipe.")) from error


def check_pretrained(model: str, images: Images) -> None:
    """Raise UserError where timm has no weights of a model, or weights for other classes.

    For other classes timm would give the model an untrained head.
    """
    way_out = "train one here (--teacher.weights trained) or give a file"
    if not timm.is_model_pretrained(model):
        build(model, images)  # raises a better error where it is no model either
        raise UserError(f"teacher.weights: timm has no weights of {model}; {way_out}")
    weights = timm.get_pretrained_cfg(model)
    num_classes = weights.num_classes if weights else 0
    if num_classes != images.num_classes:
        raise UserError(
            f"teacher.weights: timm's weights of {model} tell {num_classes:,} classes apart, these "
            f"images have {images.num_classes:,}; {way_out}"
        )


def pretrained_teacher(model: str, images: Images) -> nn.Module:
    """Return a timm model with pretrained weights. Raises UserError where they cannot be had."""
    check_pretrained(model, images)
    try:
        with quiet():  # no line for each attempt to download
            return build(model, images, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"teacher.weights: timm's weights of {model} cannot be had "
            f"({str(error).splitlines()[0][:120]}); give a file"
        ) from error


def loaded(experiment: Experiment, images: Images, weights: Path | None) -> nn.Module:
    """Return the experiment's teacher with its weights, from `weights` if it was trained here.

    Raises UserError where the weights cannot be had or do not fit.
    """
    teacher = experiment.teacher
    if teacher.weights == "pretrained":
        dataset = dataset_of(experiment.data)
        network = pretrained_teacher(teacher.model, images)
        return renormalized(network, dataset.mean, dataset.deviation)
    network = build(teacher.model, images)
    path = weights or Path(teacher.weights)
    if not os.path.isfile(path):
        raise UserError(NO_WEIGHTS.format(path))
    try:
        network.load_state_dict(load_state_dict(str(path)))
    except Exception as error:  # for a file of the user's torch and safetensors raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise UserError(
            f"teacher.weights: {path} does not hold {teacher.model}: {reason}"
        ) from error
    return network


def renormalized(
    network: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> nn.Module:
    """Adapt a timm network to images normalised by another mean and deviation than its own.

    It gets x · deviation + mean, less its own mean, over its own deviation. Returns the network
    itself where they are the same, or where it has another number of channels.
    """
    cfg: Any = network.pretrained_cfg
    if len(cfg["mean"]) != len(mean) or (cfg["mean"], cfg["std"]) == (mean, deviation):
        return network
    (our_mean, our_std), (mean_, std) = torch.tensor([[mean, deviation], [cfg["mean"], cfg["std"]]])
    again = Normalize(((mean_ - our_mean) / our_std).tolist(), (std / our_std).tolist())
    return nn.Sequential(again, network)


def ask_teacher(experiment: Experiment, images: Images, weights: Path | None) -> AskTeacher:
    """Return the callback that provides the teacher's answers; arguments as of `loaded`."""
    folder = teacher_cache.folder_of(experiment)
    teacher_cache.describe(folder, experiment)
    return AskTeacher(experiment, folder, partial(loaded, experiment, images, weights))


def trained_weights(experiment: Experiment) -> Path:
    """File of a teacher that is trained here."""
    folder = Path(experiment.hardware.work_dir) / "teachers"
    return folder / f"{experiment.data.name}-{teacher_key(experiment)}.pt"


def teaching(experiment: Experiment) -> Experiment:
    """Return the experiment that trains the teacher: its recipe, seed 0, not compiled."""
    return replace(
        experiment,
        recipe=experiment.teacher.recipe,
        hardware=replace(experiment.hardware, compile=False),
        seed=0,
        data=replace(experiment.data, seed=None),
    )


def ensure_teacher(variant: Variant, tell: Tell | None = None) -> Path | None:
    """Return the file of the variant's teacher; train it first if no process has yet.

    Reports the progress of that to `tell`. Returns None without distillation, and where the weights
    come from elsewhere. Raises UserError where these cannot be had and are needed.
    """
    experiment = variant.experiment
    if experiment.design.distillation == "none":
        return None
    settle_rank(experiment.hardware)
    path = trained_weights(experiment) if experiment.teacher.weights == "trained" else None
    if path:
        with one_at_a_time(path, "trains it"):
            if not path.exists():
                train_teacher(experiment, variant.images, path, tell or Bar())
    if not teacher_cache.complete(experiment):
        loaded(experiment, variant.images, path)
    return path


def train_teacher(experiment: Experiment, images: Images, path: Path, tell: Tell) -> None:
    """Train and test a teacher; write its weights to `path` and its metrics beside it, as JSON.

    If it was killed, it resumes from its last epoch. It is not a run of a study.
    """
    taught = teaching(experiment)
    data = ready_data(taught)
    report_horizon(data)
    module = TeacherModule(experiment.teacher, images)
    name = f"teacher {experiment.teacher.model}"
    print(
        f"no teacher for {experiment.data.name} yet: training {experiment.teacher.model} from "
        f"scratch, once, {taught.recipe.epochs} epochs",
        file=sys.stderr,
    )
    torch.set_num_threads(taught.hardware.num_threads or own_threads())
    folder = path.with_suffix("")
    trainer = fit(module, data, folder, [TellProgress(name, tell, announce=True)])
    state = torch.load(folder / BEST, map_location="cpu", weights_only=False)["state_dict"]
    module.load_state_dict(state)
    metrics = tested(trainer, module, data)
    if is_first_process():
        record = {"model": experiment.teacher.model, **metrics}
        path.with_suffix(".json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        weights = {k: v.cpu() for k, v in module.evaluated.state_dict().items()}
        with replacing(path) as temporary:  # last: a file that exists is complete
            torch.save(weights, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: test accuracy {100 * metrics['test_accuracy']:.2f} %", file=sys.stderr)
    trainer.strategy.barrier()


def teacher_figures(variant: Variant, weights: Path | None) -> dict[str, float]:
    """Return loss and accuracy of the variant's teacher on the test images.

    They were saved where the teacher was trained here; else it is tested now.
    """
    if weights:
        with contextlib.suppress(OSError, ValueError, KeyError):  # damaged: test it again
            saved: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text("utf-8"))
            return {name: saved[name] for name in ("test_loss", "test_accuracy")}
    taught = teaching(variant.experiment)
    module = TeacherModule(taught.teacher, variant.images)
    module.network = loaded(taught, variant.images, weights)
    with quiet():
        trainer = Trainer(
            accelerator=taught.hardware.accelerator,
            devices=1,
            plugins=[LightningEnvironment()],
            precision=taught.recipe.precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    return tested(trainer, module, ready_data(taught))
