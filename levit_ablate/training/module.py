"""LeViT as a LightningModule: every design choice of the paper is a field of `design`."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy

from levit_ablate.config import Architecture, Design, Images, Recipe, Stage
from levit_ablate.models import weights
from levit_ablate.models.levit import LeViT
from levit_ablate.models.presets import preset
from levit_ablate.training.objective import OBJECTIVES, TEACHERS

# a checkpoint holds the configs themselves, and opens without trusting any other pickled class
torch.serialization.add_safe_globals([Architecture, Design, Images, Recipe, Stage])

Batch = tuple[Tensor, Tensor]
"""Images (B, channels, height, width) and labels (B,)."""
WARMUP_START = 0.002
"""The learning rate starts at this share of its highest (the official code's 1e-6 of 5e-4)."""
DECAY_END = 0.02
"""The learning rate ends at this share of its highest (the official code's 1e-5 of 5e-4)."""


class LeViTModule(lightning.LightningModule):
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

    A checkpoint restores all of them: `LeViTModule.load_from_checkpoint(path)`.
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
    ) -> None:
        super().__init__()
        self.design = design or Design()
        self.recipe = recipe or Recipe()
        self.images = images or preset(model).images
        self.save_hyperparameters(ignore=["pretrained"])
        architecture = architecture or preset(model).architecture
        self.network = LeViT(architecture, self.design, self.images, seed)
        if pretrained:
            weights.load_pretrained(self.network, model)
        self.objective = OBJECTIVES[self.design.distillation]
        self.teacher = TEACHERS[self.recipe.teacher]
        self.accuracies = nn.ModuleDict(
            {
                part: MulticlassAccuracy(self.images.num_classes, average="micro")
                for part in ("val", "test")
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """The mean of the heads' logits. (B, channels, height, width) → (B, num_classes)."""
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        heads = self.network.forward_heads(images)
        teacher = self.teacher(images, labels, self.images.num_classes)
        loss = self.objective(heads, labels, teacher, self.recipe.label_smoothing)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, part: str, batch: Batch) -> None:
        """Log cross-entropy and accuracy of the heads' mean."""
        images, labels = batch
        logits = self(images)
        loss = nn.functional.cross_entropy(logits, labels)
        accuracy = cast(MulticlassAccuracy, self.accuracies[part])
        accuracy(logits, labels)
        self.log_dict({f"{part}_loss": loss, f"{part}_accuracy": accuracy}, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """AdamW; linear warm-up, then half a cosine, step by step."""
        optimizer = AdamW(self._parameter_groups(), lr=self.recipe.learning_rate)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(total * self.recipe.warmup_epochs / self.recipe.epochs)

        def factor(step: int) -> float:
            if step < warmup:
                return WARMUP_START + (1 - WARMUP_START) * step / warmup
            done = min(1.0, (step - warmup) / max(1, total - warmup))
            return DECAY_END + (1 - DECAY_END) * (1 + math.cos(math.pi * done)) / 2

        scheduler = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Decay the weights of linear layers and convolutions, and nothing else."""
        layers = (m for m in self.network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        decayed = {id(layer.weight) for layer in layers}
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in self.network.parameters():
            groups[id(parameter) in decayed].append(parameter)
        return [
            {"params": groups[True], "weight_decay": self.recipe.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ]
