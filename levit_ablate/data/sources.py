"""Where training and evaluation images come from: memory, or files that worker processes decode."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from levit_ablate.config import Data
from levit_ablate.data import augment
from levit_ablate.data.batches import EvaluationBatches, Normalization, Plan
from levit_ablate.data.decoding import decoded
from levit_ablate.data.folder_index import Index, Part
from levit_ablate.data.loader import Loader
from levit_ablate.data.randaugment import RandAugment
from levit_ablate.data.splits import Labelled, Splits, held_out
from levit_ablate.data.stream import Stream

EVALUATION_BATCH = 512
"""Images of an evaluation batch from memory; half as many from files."""
CROP_SHARE = 224 / 256
"""Evaluation crops this share of the shorter side: resize to 256, central 224 (official code)."""
BELOW_HIGHEST = 9.99
"""Magnitude where posterizing keeps one bit."""

Slot = tuple[int, int, int]
"""Epoch, position in it, and the number of the file there."""


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
        def draws(use: str, count: int) -> Tensor:
            return self.stream.draws(use, epoch, step, count)[places].to(self.device)

        flip, jitter = self.stream.recipe.flip, self.stream.recipe.color_jitter
        images = self.images.crop_and_flip(indices, draws("crop", augment.CROP_DRAWS), flip)
        if self.rand_augment:
            return self.rand_augment(images, draws("rand_augment", self.rand_augment.num_draws))
        if jitter:
            return augment.color_jitter(images, draws("color_jitter", augment.JITTER_DRAWS), jitter)
        return images


class InMemory:
    """A dataset in memory; `mean` is that of its channels."""

    def __init__(self, splits: Splits, mean: tuple[float, ...]) -> None:
        self.splits = splits
        self.mean = mean
        self.num_train = len(splits.train)
        self.num_validation = len(splits.validation)

    def source(self, stream: Stream, device: torch.device) -> MemorySource:
        """The training images, augmented."""
        return MemorySource(self.splits.train, stream, device, self.mean)

    def evaluation(
        self, part: str, normalization: Normalization, device: torch.device, shard: tuple[int, int]
    ) -> EvaluationBatches:
        """A shard's part of `validation` or `test`, in order."""
        index, count = shard
        whole: Labelled = getattr(self.splits, part)
        images, labels = (
            values[index::count].to(device).split(EVALUATION_BATCH)
            for values in (whole.images, whole.labels)
        )
        return EvaluationBatches(list(zip(images, labels, strict=True)), normalization)


class FileSource:
    """A `batches.Source` of files: decoded, cropped and recoloured by timm, bicubic.

    Args:
        views: the files and what is done to them.
        chosen: which of them are the training images, (N,) int64.
        device: where the batches go.
        num_workers: processes that decode.
    """

    def __init__(
        self, views: Views, chosen: Tensor, device: torch.device, num_workers: int
    ) -> None:
        self.stream = views.stream
        self.chosen = chosen
        self.planned: list[list[Slot]] = []
        self.loader = Loader(views, device, num_workers, batch_sampler=self.planned)

    def follow(self, epoch: int, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        files = self.chosen[self.stream.order(epoch)]
        self.planned.clear()
        for step, places in plan:
            positions = step * self.stream.recipe.batch_size + places
            slots = zip(positions.tolist(), files[positions].tolist(), strict=True)
            self.planned.append([(epoch, position, file) for position, file in slots])
        yield from self.loader


class Views(Dataset[tuple[Tensor, int]]):
    """The augmented images at positions of a stream, (3, side, side) uint8, and their labels.

    Each position has a seed of its own, so that it does not matter which worker makes it. The views
    of an image that are in one batch are decoded once.
    """

    def __init__(self, part: Part, stream: Stream, side: int, mean: tuple[float, ...]) -> None:
        recipe = stream.recipe
        self.part = part
        self.stream = stream
        self.transform = _kept_above_zero_bits(
            create_transform(
                side,
                is_training=True,
                scale=None if recipe.crop else (1.0, 1.0),
                ratio=None if recipe.crop else (1.0, 1.0),
                hflip=recipe.flip,
                color_jitter=recipe.color_jitter,
                auto_augment=recipe.rand_augment or None,
                interpolation="bicubic",
                mean=mean,  # the colour outside of an image
                use_prefetcher=True,  # gives (C, side, side) uint8, not normalised
            )
        )

    def __getitems__(self, slots: Sequence[Slot]) -> list[tuple[Tensor, int]]:
        images = {file: decoded(self.part.files[file]) for file in {slot[2] for slot in slots}}
        with isolate_rng(include_cuda=False):
            return [
                (self._view(images[file], epoch, position), int(self.part.labels[file]))
                for epoch, position, file in slots
            ]

    def _view(self, image: Image.Image, epoch: int, position: int) -> Tensor:
        seed = self.stream.position_seed(epoch, position)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        return self.transform(image)


def _kept_above_zero_bits(transform: Compose) -> Compose:
    """Make a RandAugment's posterizing keep a bit.

    At the highest magnitude, which noise reaches for some images, timm 1.0.31 asks Pillow to keep
    no bit, which is an error from Pillow 12 on.
    """
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name == "PosterizeIncreasing":
                operation.magnitude_max = BELOW_HIGHEST
    return transform


class CentralCrops(Dataset[tuple[Tensor, int]]):
    """Images for evaluation, (3, side, side) uint8, and their labels: resized, then cropped."""

    def __init__(self, part: Part, chosen: Tensor, side: int) -> None:
        self.part = part
        self.chosen = chosen.numpy()
        self.transform = create_transform(
            side, interpolation="bicubic", crop_pct=CROP_SHARE, use_prefetcher=True
        )

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.chosen[index]
        return self.transform(decoded(self.part.files[file])), int(self.part.labels[file])


class OnDisk:
    """A dataset of image files, decoded when needed."""

    def __init__(self, index: Index, data: Data, num_workers: int, mean: tuple[float, ...]) -> None:
        self.num_workers = num_workers
        self.mean = mean
        self.side = data.image_size
        parts = {name: (part, torch.arange(len(part))) for name, part in index.parts.items()}
        *validation, test = index.evaluation_parts
        train, chosen = parts["train"]
        if validation:
            held = parts[validation[0]]
        else:
            chosen, left = held_out(train.labels, data.validation, data.split_seed)
            held = train, left
        self.parts = {"train": (train, chosen), "validation": held, "test": parts[test]}
        self.num_train = len(chosen)
        self.num_validation = len(held[1])

    def source(self, stream: Stream, device: torch.device) -> FileSource:
        """The training images, augmented."""
        part, chosen = self.parts["train"]
        views = Views(part, stream, self.side, self.mean)
        return FileSource(views, chosen, device, self.num_workers)

    def evaluation(
        self, part: str, normalization: Normalization, device: torch.device, shard: tuple[int, int]
    ) -> EvaluationBatches:
        """A shard's part of `validation` or `test`, in order."""
        files, chosen = self.parts[part]
        index, count = shard
        images = CentralCrops(files, chosen[index::count], normalization.side)
        loader = Loader(images, device, self.num_workers, batch_size=EVALUATION_BATCH // 2)
        return EvaluationBatches(loader, normalization)
