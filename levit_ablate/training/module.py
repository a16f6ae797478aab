"""LeViT as a LightningModule: every design choice of the paper is a field of `design`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from levit_ablate.config import Architecture, Design, Images, Recipe
from levit_ablate.data.batches import Batch, as_batch
from levit_ablate.errors import UserError
from levit_ablate.models import weights
from levit_ablate.models.levit import Attention, LeViT
from levit_ablate.models.parts import DropPath
from levit_ablate.models.presets import preset
from levit_ablate.streams import stream_seed
from levit_ablate.training.classifier import Classifier, label_loss, warn_of_ignored
from levit_ablate.training.teacher import pretrained_teacher
from levit_ablate.training.teacher_cache import Answers, LiveTeacher


def hard(logits: Tensor, answers: Answers) -> Tensor:
    """Cross-entropy of logits (B, K) on the teacher's decision."""
    return cross_entropy(logits, answers.classes[:, 0])


def soft(logits: Tensor, answers: Answers) -> Tensor:
    """KL(teacher ‖ logits (B, K)), averaged over images.

    Hinton et al. 2015, with the temperature of 1 of `DistillationLoss` in the official code. There
    the divergence is averaged over classes too; here it is summed over the teacher's k most
    probable classes.
    """
    student = log_softmax(logits, dim=1).gather(1, answers.classes)
    teacher = answers.probabilities
    return (teacher * (teacher.clamp(min=1e-12).log() - student)).sum(dim=1).mean()


DISTILLATION_LOSSES = {"hard": hard, "soft": soft}


class LeViTModule(Classifier):
    """Trains one LeViT. `LeViTModule(design=Design(stem="patch"))` is row A2 of the paper.

    Args:
        design: the design choices.
        model: a preset's name (`levit_ablate.models.presets`).
        architecture: the geometry, in place of the preset's.
        images: shape of the images and number of classes, in place of the preset's.
        recipe: optimizer, schedule and objective.
        seed: seed of the initialisation.
        pretrained: start from the released weights, fetched through timm: for the paper's five
            sizes, with the baseline's design and 224 px images.
        teacher: asked about every training batch, where the design has distillation: a network,
            images as the student gets them → logits (B, num_classes), or the name of a timm model
            with pretrained weights. It is in no checkpoint.

    Trains on batches of `ImageData`, or of any DataLoader that gives (images, labels): float
    images (B, channels, height, width), int64 labels (B,). In a `Trainer` of yours it brings
    optimizer, schedule, clipping, label smoothing and moving average; augmentation, epochs and
    precision are your DataLoader's and Trainer's, and a `TrainerWarning` names settings of the
    recipe that they do not follow.

    A checkpoint restores all arguments but the teacher: `LeViTModule.load_from_checkpoint(path)`.
    Raises UserError for an unknown name and, when a training begins, for what cannot work.
    """

    def __init__(
        self,
        design: Design | None = None,
        model: str = "levit_nano",
        architecture: Architecture | None = None,
        images: Images | None = None,
        recipe: Recipe | None = None,
        seed: int = 0,
        pretrained: bool = False,
        teacher: nn.Module | str | None = None,
    ) -> None:
        self.design = design or Design()
        self.images = images = images or preset(model).images
        architecture = architecture or preset(model).architecture
        network = LeViT(architecture, self.design, self.images, seed)
        super().__init__(network, recipe or Recipe(), self.images.num_classes, seed)
        self.save_hyperparameters(ignore=["pretrained", "teacher"])
        self.teacher: Callable[[Batch], Answers] | None = self._live(teacher)
        if pretrained:
            weights.load_pretrained(network, model)
        layers = (layer for layer in network.modules() if isinstance(layer, DropPath))
        self.drop_paths = [layer for layer in layers if layer.probability]
        self.distillation_loss = DISTILLATION_LOSSES.get(self.design.distillation)

    def _live(self, teacher: nn.Module | str | None) -> LiveTeacher | None:
        if teacher is None:
            return None
        if self.design.distillation == "none":
            raise UserError(
                "teacher: no one is asked with design.distillation: none; leave the teacher out, "
                "or take hard or soft"
            )
        if isinstance(teacher, str):
            teacher = pretrained_teacher(teacher, self.images)
        return LiveTeacher(teacher, 1 if self.design.distillation == "hard" else self.num_classes)

    def on_fit_start(self) -> None:
        """Check that a needed teacher is there, and move it to the device."""
        if self.design.distillation != "none" and self.teacher is None:
            raise UserError(
                f"design.distillation: {self.design.distillation} needs a teacher: give "
                f"LeViTModule(teacher=…) a network or the name of a model of timm's, or train "
                f"without one, Design(distillation='none')"
            )
        if isinstance(self.teacher, LiveTeacher):
            self.teacher.network.to(self.device)
        warn_of_ignored(self, self.trainer)

    def joint_vectors(self) -> list[tuple[nn.Parameter, ...]]:
        """Norms and biases of queries and of keys and values: one layer in the official code.

        The queries of a shrinking block have their own layer there, as here.
        """
        blocks = [m for m in self.network.modules() if isinstance(m, Attention)]
        layers = [
            (b.queries, b.keys_values) for b in blocks if isinstance(b.subsample, nn.Identity)
        ]
        return [
            pair
            for queries, keys_values in layers
            for pair in zip(queries.parameters(), keys_values.parameters(), strict=True)
            if pair[0].ndim == 1
        ]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw dropped paths by image and step, independent of devices and accumulated parts."""
        super().on_train_batch_start(batch, batch_idx)
        if not self.drop_paths or not isinstance(batch, Batch):
            return
        place = (self.current_epoch, batch_idx // self.trainer.accumulate_grad_batches)
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "drop_path", *place))
        size = self.recipe.batch_size
        draws = torch.rand(len(self.drop_paths), size, generator=generator)
        draws = draws[:, batch.positions % size].to(self.device)
        for layer, own in zip(self.drop_paths, draws, strict=True):
            layer.draws = own

    def on_train_batch_end(self, *_: Any) -> None:
        super().on_train_batch_end(*_)
        for layer in self.drop_paths:
            layer.draws = None

    def training_step(self, batch: Batch | Sequence[Tensor], batch_idx: int) -> Tensor:
        batch = as_batch(batch)
        heads = cast(LeViT, self.network).forward_heads(batch.images)
        loss = self.loss(heads, batch, self.teacher(batch) if self.teacher else None)
        self.log_loss(loss)
        return loss

    def loss(self, heads: dict[str, Tensor], batch: Batch, answers: Answers | None) -> Tensor:
        """½ of the supervised head's loss on the labels, ½ of the distilled head's on the answers.

        Without distillation it is that on the labels (row A4). Logits of the heads are (B, K).
        """
        loss = label_loss(heads["supervised"], batch, self.recipe.label_smoothing)
        if self.distillation_loss is None:
            return loss
        assert answers is not None
        return (loss + self.distillation_loss(heads["distilled"].float(), answers)) / 2
