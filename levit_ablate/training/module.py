"""LeViT as a LightningModule: every design choice of the paper is a field of `design`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from levit_ablate.config import Architecture, Design, Images, Recipe, Stage
from levit_ablate.data.batches import Batch
from levit_ablate.models import weights
from levit_ablate.models.layers import DropPath
from levit_ablate.models.levit import LeViT
from levit_ablate.models.presets import preset
from levit_ablate.streams import stream_seed
from levit_ablate.training.classifier import Classifier
from levit_ablate.training.objective import OBJECTIVES, Answers, Objective

# a checkpoint holds the configs themselves, and opens without trusting any other pickled class
torch.serialization.add_safe_globals([Architecture, Design, Images, Recipe, Stage])


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

    A checkpoint restores all of them: `LeViTModule.load_from_checkpoint(path)`. To train with
    distillation, set `teacher`: what answers for a batch.
    """

    teacher: Callable[[Batch], Answers] | None = None

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
        self.design = design or Design()
        self.images = images or preset(model).images
        architecture = architecture or preset(model).architecture
        network = LeViT(architecture, self.design, self.images, seed)
        super().__init__(network, recipe or Recipe(), self.images.num_classes, seed)
        self.save_hyperparameters(ignore=["pretrained"])
        if pretrained:
            weights.load_pretrained(network, model)
        layers = (layer for layer in network.modules() if isinstance(layer, DropPath))
        self.drop_paths = [layer for layer in layers if layer.probability]
        self.objective: Objective = OBJECTIVES[self.design.distillation]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Drop paths by image and step, however the batch is dealt to devices and parts."""
        super().on_train_batch_start(batch, batch_idx)
        if not self.drop_paths:
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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        heads = cast(LeViT, self.network).forward_heads(batch.images)
        answers = self.teacher(batch) if self.teacher else None
        loss = self.objective(heads, batch, answers, self.recipe.label_smoothing)
        self.log_loss(loss)
        return loss
