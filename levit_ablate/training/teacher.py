"""The teacher: any model of timm's, pretrained, from a file, or trained here, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from levit_ablate.config import Experiment, Images, Teacher
from levit_ablate.data.batches import Batch
from levit_ablate.data.datasets import dataset_of
from levit_ablate.errors import UserError, closest
from levit_ablate.keys import NO_WEIGHTS, teacher_key
from levit_ablate.paths import is_file
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.fit import quiet
from levit_ablate.training.objective import Answers, label_loss

SMALL_SIDE = 64
"""Images up to this side leave nothing to a network that halves them five times; see `build`."""

BUILD_ERRORS = (TypeError, AssertionError, RuntimeError, ValueError)
"""What timm's models raise for options that they cannot be built with."""


class TeacherModule(Classifier):
    """Trains a teacher from scratch, on labels alone."""

    def __init__(self, teacher: Teacher, images: Images) -> None:
        torch.manual_seed(0)  # of its start: one teacher serves the runs of all seeds
        network = build(teacher.model, images)
        super().__init__(network, teacher.recipe, images.num_classes, seed=0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = label_loss(self.network(batch.images), batch, self.recipe.label_smoothing)
        self.log_loss(loss)
        return loss


class LiveTeacher:
    """Asks a network about every batch, as the paper does.

    Args:
        network: images as the student is given them → logits.
        top_k: classes of an answer; one for hard distillation.
    """

    def __init__(self, network: nn.Module, top_k: int) -> None:
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.top_k = top_k

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answers:
        logits = self.network(batch.images).float()
        top = logits.softmax(dim=1).topk(min(self.top_k, logits.shape[1]), dim=1)
        return Answers(top.indices, top.values / top.values.sum(dim=1, keepdim=True))


def build(model: str, images: Images, pretrained: bool = False) -> nn.Module:
    """A model of timm's that answers for these images.

    For small images its stages keep more resolution (timm's `output_stride`, dilating), where the
    model can: five halvings would leave a single pixel of 32. A model of fixed size is given it.
    Raises UserError for a name that timm does not have, and for a model that such images do not
    fit; with `pretrained` also what timm raises where its weights cannot be had.
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
    refused = (TypeError,) if pretrained else BUILD_ERRORS
    reason: Exception | None = None
    for way in ways:
        try:
            network = timm.create_model(model, pretrained=pretrained, **options, **way)
        except refused as error:
            reason = error
            continue
        if (failed := _failing(network, images)) is None:
            return network
        reason = failed
    said = " ".join(str(reason).split())[:200]
    raise UserError(
        f"teacher.model: {model} cannot be built for images of {images.height}x{images.width} "
        f"pixels and {images.channels} channels: {said}; choose another"
    )


@torch.inference_mode()
def _failing(network: nn.Module, images: Images) -> Exception | None:
    """What goes wrong when a network is asked about such images; None where nothing does."""
    image = torch.zeros(1, images.channels, images.height, images.width)
    was_training = network.training
    try:
        network.eval()(image)
    except BUILD_ERRORS as error:
        return error
    finally:
        network.train(was_training)
    return None


def check_pretrained(model: str, images: Images) -> None:
    """Refuse weights of timm's that are not there, or that tell other classes apart.

    Raises UserError. timm would give them a new head, which was taught nothing.
    """
    way_out = "train one here (--teacher.weights trained) or give a file"
    if not timm.is_model_pretrained(model):
        build(model, images)  # says so where it is no model either
        raise UserError(f"teacher.weights: timm has no weights of {model}; {way_out}")
    weights = timm.get_pretrained_cfg(model)
    num_classes = weights.num_classes if weights else 0
    if num_classes != images.num_classes:
        raise UserError(
            f"teacher.weights: timm's weights of {model} tell {num_classes:,} classes apart, these "
            f"images have {images.num_classes:,}; {way_out}"
        )


def pretrained_teacher(model: str, images: Images) -> nn.Module:
    """A model of timm's with its weights. Raises UserError where they cannot be had."""
    try:
        with quiet():  # the hub's attempts, one by one
            return build(model, images, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"teacher.weights: timm's weights of {model} cannot be had "
            f"({str(error).splitlines()[0][:120]}); give a file"
        ) from error


def loaded(experiment: Experiment, images: Images, weights: Path | None) -> nn.Module:
    """The experiment's teacher as a network, with its weights.

    Args:
        experiment: whose teacher.
        images: what it is asked about.
        weights: of one that was trained here; None where it comes from elsewhere.

    Raises UserError where the weights cannot be had or do not fit.
    """
    teacher = experiment.teacher
    if teacher.weights == "pretrained":
        dataset = dataset_of(experiment.data)
        network = pretrained_teacher(teacher.model, images)
        return renormalized(network, dataset.mean, dataset.deviation)
    network = build(teacher.model, images)
    path = weights or Path(teacher.weights)
    if not is_file(path):
        raise UserError(NO_WEIGHTS.format(path))
    try:
        network.load_state_dict(load_state_dict(str(path)))
    except Exception as error:  # a file of the user's: torch and safetensors raise what comes up
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise UserError(
            f"teacher.weights: {path} does not hold {teacher.model}: {reason}"
        ) from error
    return network


def renormalized(
    network: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> nn.Module:
    """A network of timm's that is given images normalised by another mean and deviation than its.

    It is given what it was trained on: x · deviation + mean, less its own mean, over its own
    deviation. The network itself where they are the same, or where its channels are other ones.
    """
    cfg: Any = network.pretrained_cfg
    if len(cfg["mean"]) != len(mean) or (cfg["mean"], cfg["std"]) == (mean, deviation):
        return network
    ours, own = torch.tensor([mean, deviation]), torch.tensor([cfg["mean"], cfg["std"]])
    return nn.Sequential(Affine(ours[1] / own[1], (ours[0] - own[0]) / own[1]), network)


class Affine(nn.Module):
    """Scales and shifts every channel of images (B, C, H, W) by (C,) each."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def trained_weights(experiment: Experiment) -> Path:
    """The file of a teacher that is trained here."""
    folder = Path(experiment.hardware.work_dir) / "teachers"
    return folder / f"{experiment.data.name}-{teacher_key(experiment)}.pt"


def teaching(experiment: Experiment) -> Experiment:
    """The experiment's dataset under the teacher's recipe and of seed 0, not compiled."""
    return replace(
        experiment,
        recipe=experiment.teacher.recipe,
        hardware=replace(experiment.hardware, compile=False),
        seed=0,
        data=replace(experiment.data, seed=None),
    )
