"""The LightningDataModule of an experiment: training and evaluation batches of its dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import lightning
import torch
from torch import Tensor

from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data.batches import Normalization, Source, TrainingBatches
from levit_ablate.data.datasets import IN_MEMORY_SIDE, check_fingerprint, dataset_of, index_of
from levit_ablate.data.folder_index import UNREADABLE
from levit_ablate.data.folder_layout import some
from levit_ablate.data.randaugment import RandAugment
from levit_ablate.data.sources import InMemory, OnDisk
from levit_ablate.data.splits import fashion_mnist_fingerprint, load, small_folder
from levit_ablate.data.stream import Stream
from levit_ablate.runtime import num_cores

Batches = Iterable[tuple[Tensor, Tensor]]
Shard = tuple[int, int]
"""Number of a process, and how many there are."""
Served = InMemory | OnDisk


class ImageData(lightning.LightningDataModule):
    """Training batches by position in the stream, evaluation images in order.

    Training batches are `batches.Batch`, evaluation batches (images (B, C, side, side), labels
    (B,)), both on the trainer's device. Each process of a trainer gets its shard. `setup` raises
    UserError where the recipe does not fit the data.
    """

    def __init__(self, data: Data, recipe: Recipe, hardware: Hardware, seed: int) -> None:
        super().__init__()
        self.data = data
        self.recipe = recipe
        self.hardware = hardware
        self.seed = seed if data.seed is None else data.seed
        self.dataset = dataset_of(data)
        mean, deviation = self.dataset.mean, self.dataset.deviation
        self.normalization = Normalization(mean=mean, deviation=deviation, side=data.image_size)

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "served"):
            return
        if self.recipe.rand_augment:
            RandAugment(self.recipe.rand_augment, fill=(0,))  # raises UserError
        self.served: Served = served(replace(self.data, seed=None), self.hardware)
        self.stream = Stream(num_images=self.served.num_train, seed=self.seed, recipe=self.recipe)
        self.sources: dict[torch.device, Source] = {}

    def training_batches(
        self, device: torch.device, shard: Shard, position: Callable[[], tuple[int, int]]
    ) -> TrainingBatches:
        """The batches of a shard, from the (epoch, batches done) that `position` returns."""
        if device not in self.sources:
            self.sources[device] = self.served.source(self.stream, device)
        return TrainingBatches(
            source=self.sources[device],
            stream=self.stream,
            normalization=self.normalization,
            device=device,
            shard=shard,
            parts=self.hardware.accumulate,
            position=position,
        )

    def train_dataloader(self) -> TrainingBatches:
        return self.training_batches(*self._place(), self._position)

    def val_dataloader(self) -> Batches:
        return self.served.evaluation("validation", self.normalization, *self._place())

    def test_dataloader(self) -> Batches:
        return self.served.evaluation("test", self.normalization, *self._place())

    def _place(self) -> tuple[torch.device, Shard]:
        assert self.trainer is not None
        shard = (self.trainer.global_rank, self.trainer.world_size)
        return self.trainer.strategy.root_device, shard

    def _position(self) -> tuple[int, int]:
        """The trainer's epoch, and the batches of it that are done."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return epoch, loop.epoch_loop.batch_progress.current.ready


@lru_cache(maxsize=2)
def served(data: Data, hardware: Hardware) -> Served:
    """Load a dataset: into memory where its images are small, else from files. Raises UserError.

    A variant and its baseline share it (cached).
    """
    mean = dataset_of(data).mean
    if data.name != "folder":
        return InMemory(load(data), mean)
    index = index_of(data, hardware)
    if index.max_side <= IN_MEMORY_SIDE and data.image_size <= IN_MEMORY_SIDE:
        return InMemory(small_folder(index, data), mean)
    return OnDisk(index, data, num_workers(hardware), mean)


def fingerprint_of(data: Data, hardware: Hardware) -> str:
    """Return the hash of the images of a folder, or of Fashion-MNIST's files.

    A folder's is in its index, which is read, or made, which checks every image: what is left out
    is printed. Fashion-MNIST has one because other datasets have files of the same names. Raises
    UserError as `folder_index.open_index` and where the images are not those that were recorded.
    """
    if data.name == "fashion_mnist":
        served(data, hardware)  # downloads what is not there
        fingerprint = fashion_mnist_fingerprint(Path(data.root))
        check_fingerprint(data, fingerprint)
        return fingerprint
    index = index_of(data, hardware)
    for line in index.left_out:
        print(line, file=sys.stderr)
    if index.skipped:
        print(
            f"data.root: {len(index.skipped)} images of {index.root} are left out: "
            f"{some(index.skipped, '; ')}; all are listed in {index.folder / UNREADABLE}",
            file=sys.stderr,
        )
    return index.fingerprint


def num_workers(hardware: Hardware) -> int:
    """Decoding processes of each device: as set, or the cores divided among the devices."""
    if hardware.num_workers >= 0:
        return hardware.num_workers
    return max(1, num_cores() // hardware.devices)
