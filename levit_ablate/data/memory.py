"""Datasets in memory: one uint8 tensor on the device, augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from levit_ablate.data import augment
from levit_ablate.data.batches import EvaluationBatches, Normalization, Plan
from levit_ablate.data.randaugment import RandAugment
from levit_ablate.data.splits import Labelled, Splits
from levit_ablate.data.stream import Stream

EVALUATION_BATCH = 512


class MemorySource:
    """A `batches.Source` in memory: no workers, and nothing is done image by image."""

    def __init__(
        self, images: Labelled, stream: Stream, device: torch.device, mean: tuple[float, ...]
    ) -> None:
        recipe = stream.recipe
        padding = images.images.shape[-1] // 8 if recipe.crop else 0
        self.images = augment.Store(images.images.to(device), padding)
        self.labels = images.labels.to(device)
        self.stream = stream
        self.device = device
        fill = tuple(round(255 * value) for value in mean)
        self.rand_augment = RandAugment(recipe.rand_augment, fill) if recipe.rand_augment else None

    def follow(self, epoch: int, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.stream.order(epoch).view(self.stream.steps, -1)
        for step, places in plan:
            indices = order[step, places].to(self.device)
            yield self._augmented(epoch, step, places, indices), self.labels[indices]

    def _augmented(self, epoch: int, step: int, places: Tensor, indices: Tensor) -> Tensor:
        recipe = self.stream.recipe

        def draws(use: str, count: int) -> Tensor:
            return self.stream.draws(use, epoch, step, count)[places].to(self.device)

        images = self.images.crop_and_flip(indices, draws("crop", augment.CROP_DRAWS), recipe.flip)
        if self.rand_augment:
            return self.rand_augment(images, draws("rand_augment", self.rand_augment.num_draws))
        if recipe.color_jitter:
            jitter = draws("color_jitter", augment.JITTER_DRAWS)
            return augment.color_jitter(images, jitter, recipe.color_jitter)
        return images


class InMemory:
    """A dataset in memory."""

    def __init__(self, splits: Splits, mean: tuple[float, ...]) -> None:
        self.splits = splits
        self.classes = splits.classes
        self.num_train = len(splits.train)
        self.num_validation = len(splits.validation)
        self.mean = mean

    def source(self, stream: Stream, device: torch.device) -> MemorySource:
        """The training images, augmented."""
        return MemorySource(self.splits.train, stream, device, self.mean)

    def evaluation(
        self, part: str, normalization: Normalization, device: torch.device, shard: tuple[int, int]
    ) -> EvaluationBatches:
        """A shard's part of `validation` or `test`, in order."""
        index, count = shard
        whole: Labelled = getattr(self.splits, part)
        own = whole.at(torch.arange(index, len(whole), count)).to(device)
        batches = zip(
            own.images.split(EVALUATION_BATCH), own.labels.split(EVALUATION_BATCH), strict=True
        )
        return EvaluationBatches(list(batches), normalization)
