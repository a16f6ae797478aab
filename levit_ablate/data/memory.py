"""Images that live in memory as one uint8 tensor, on the device, augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from levit_ablate.data import augment
from levit_ablate.data.batches import Normalization, Plan
from levit_ablate.data.randaugment import RandAugment
from levit_ablate.data.splits import Labelled, Splits
from levit_ablate.data.stream import Stream

EVALUATION_BATCH = 512


class MemorySource:
    """The training images of a set in memory, augmented by operations on whole batches.

    No worker processes and nothing done image by image; `batches.Source` says what it gives.
    """

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


class EvaluationBatches:
    """A shard's part of the images of a set in memory, in order: (images, labels)."""

    def __init__(
        self,
        images: Labelled,
        normalization: Normalization,
        device: torch.device,
        shard: tuple[int, int],
    ) -> None:
        index, count = shard
        self.images = images.at(torch.arange(index, len(images), count)).to(device)
        self.normalization = normalization

    def __len__(self) -> int:
        return -(-len(self.images) // EVALUATION_BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = zip(
            self.images.images.split(EVALUATION_BATCH),
            self.images.labels.split(EVALUATION_BATCH),
            strict=True,
        )
        for images, labels in batches:
            yield self.normalization(images), labels


class InMemory:
    """A dataset held in memory, its three parts served from there."""

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
        """A shard's share of the images of `validation` or `test`."""
        return EvaluationBatches(getattr(self.splits, part), normalization, device, shard)
