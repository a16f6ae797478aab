"""Real data that ships with a dependency: scikit-learn's 1,797 handwritten digits of 8x8 pixels."""

from __future__ import annotations

from collections.abc import Iterator

import lightning
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Sampler, TensorDataset

from levit_ablate.config import Data
from levit_ablate.errors import UserError
from levit_ablate.streams import stream_seed

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.1
"""Of what the test leaves."""


class DigitsDataModule(lightning.LightningDataModule):
    """Batches of (images (B, 1, side, side), labels (B,)).

    A quarter of the digits is held out for the test, a tenth of the rest for validation, class by
    class in proportion, by `data.split_seed`. Images are enlarged bilinearly, then brought to mean
    0 and deviation 1 by the figures of the training images. A training epoch's order depends on
    the run's seed and the epoch alone; its last, incomplete batch is left out.
    """

    def __init__(self, data: Data, seed: int) -> None:
        super().__init__()
        self.data = data
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)
        side = (self.data.image_size, self.data.image_size)
        images = interpolate(images, size=side, mode="bilinear", align_corners=False)
        rest, test = _split(range(len(labels)), labels, TEST_SHARE, self.data.split_seed)
        train, validation = _split(rest, labels, VALIDATION_SHARE, self.data.split_seed)
        if self.data.batch_size > len(train):
            raise UserError(
                f"data.batch_size: {self.data.batch_size} is more than the {len(train)} training "
                f"images of {self.data.name}; make it smaller"
            )
        deviation, mean = torch.std_mean(images[train])
        images, targets = (images - mean) / deviation, torch.tensor(labels)
        self.train, self.validation, self.test = (
            TensorDataset(images[part], targets[part]) for part in (train, validation, test)
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        order = EpochOrder(len(self.train), self.seed)
        return DataLoader(self.train, self.data.batch_size, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.validation, batch_size=512)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.test, batch_size=512)


class EpochOrder(Sampler[int]):
    """A random order of the images that depends on the seed and the epoch, and on nothing else.

    Lightning calls `set_epoch` before every epoch.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", self.epoch))
        yield from torch.randperm(self.num_images, generator=generator).tolist()


def _split(
    indices: range | list[int], labels: list[int], share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split off a share of the indices, every class in proportion."""
    wanted = [labels[index] for index in indices]
    kept, split_off = train_test_split(
        list(indices), test_size=share, stratify=wanted, random_state=seed
    )
    return kept, split_off
