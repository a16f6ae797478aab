"""Datasets on disk: images are decoded when needed, by timm's transforms, in worker processes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from levit_ablate.config import Data
from levit_ablate.data.batches import EvaluationBatches, Normalization, Plan
from levit_ablate.data.decoding import decoded
from levit_ablate.data.folder_index import Index, Part
from levit_ablate.data.loader import Loader
from levit_ablate.data.splits import held_out
from levit_ablate.data.stream import Stream

CROP_SHARE = 224 / 256
"""Evaluation crops this share of the shorter side: resize to 256, central 224 (official code)."""
EVALUATION_BATCH = 256

BELOW_HIGHEST = 9.99
"""Magnitude where posterizing keeps one bit."""

Slot = tuple[int, int, int]
"""Epoch, position in it, and the number of the image there."""


class FileSource:
    """A `batches.Source` of files: decoded, cropped and recoloured by timm, bicubic.

    Each position has a seed of its own, so that it does not matter which worker makes it. The views
    of an image that are in one batch are decoded once.

    Args:
        part: the indexed files.
        chosen: which of them are the training images, (N,) int64.
        stream: the order of the images and the random draws.
        device: where the batches go.
        side: height and width of the batches' images.
        mean: mean of the channels, the colour outside of an image.
        num_workers: processes that decode.
    """

    def __init__(
        self,
        part: Part,
        chosen: Tensor,
        stream: Stream,
        device: torch.device,
        side: int,
        mean: tuple[float, ...],
        num_workers: int,
    ) -> None:
        self.stream = stream
        self.planned: list[list[Slot]] = []
        views = _Views(part, chosen.numpy(), stream, side, mean)
        self.loader = Loader(views, device, num_workers, batch_sampler=self.planned)

    def follow(self, epoch: int, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.stream.order(epoch)
        size = self.stream.recipe.batch_size
        self.planned[:] = [
            [
                (epoch, position, image)
                for position, image in zip(
                    (step * size + places).tolist(),
                    order[step * size + places].tolist(),
                    strict=True,
                )
            ]
            for step, places in plan
        ]
        yield from self.loader


class _Views(Dataset[tuple[Tensor, int]]):
    """The augmented image at each position."""

    def __init__(
        self, part: Part, chosen: numpy.ndarray, stream: Stream, side: int, mean: tuple[float, ...]
    ) -> None:
        recipe = stream.recipe
        self.part = part
        self.chosen = chosen
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
                mean=mean,
                use_prefetcher=True,  # gives (C, side, side) uint8, not normalised
            )
        )

    def __getitems__(self, slots: Sequence[Slot]) -> list[tuple[Tensor, int]]:
        places = {slot[2] for slot in slots}
        images = {index: decoded(self.part.files[self.chosen[index]]) for index in places}
        with _restored_random_states():
            return [
                (self._view(images[index], epoch, position), int(self._label(index)))
                for epoch, position, index in slots
            ]

    def _label(self, index: int) -> int:
        return self.part.labels[self.chosen[index]]

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


class _Whole(Dataset[tuple[Tensor, int]]):
    """Images for evaluation: resized, then the central crop."""

    def __init__(self, part: Part, chosen: numpy.ndarray, side: int) -> None:
        self.part = part
        self.chosen = chosen
        self.transform = create_transform(
            side, interpolation="bicubic", crop_pct=CROP_SHARE, use_prefetcher=True
        )

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = self.chosen[index]
        return self.transform(decoded(self.part.files[place])), int(self.part.labels[place])


@contextmanager
def _restored_random_states() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch, which timm draws from."""
    states = random.getstate(), numpy.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


class OnDisk:
    """A dataset of image files, decoded when needed."""

    def __init__(self, index: Index, data: Data, num_workers: int, mean: tuple[float, ...]) -> None:
        self.index = index
        self.classes = index.classes
        self.num_workers = num_workers
        self.mean = mean
        self.side = data.image_size
        names = index.evaluation_parts
        train = torch.arange(len(index.parts["train"]))
        self.parts = {"train": (index.parts["train"], train)}
        if len(names) == 1:
            kept, held = held_out(index.parts["train"].labels, data.validation, data.split_seed)
            self.parts = {
                "train": (index.parts["train"], kept),
                "validation": (index.parts["train"], held),
            }
        for served, name in zip(("test", "validation"), reversed(names), strict=False):
            part = index.parts[name]
            self.parts[served] = part, torch.arange(len(part))
        self.num_train = len(self.parts["train"][1])
        self.num_validation = len(self.parts["validation"][1])

    def source(self, stream: Stream, device: torch.device) -> FileSource:
        """The training images, augmented."""
        part, chosen = self.parts["train"]
        return FileSource(part, chosen, stream, device, self.side, self.mean, self.num_workers)

    def evaluation(
        self, part: str, normalization: Normalization, device: torch.device, shard: tuple[int, int]
    ) -> EvaluationBatches:
        """A shard's part of `validation` or `test`, in order."""
        files, chosen = self.parts[part]
        index, count = shard
        images = _Whole(files, chosen[index::count].numpy(), normalization.side)
        loader = Loader(images, device, self.num_workers, batch_size=EVALUATION_BATCH)
        return EvaluationBatches(loader, normalization)
