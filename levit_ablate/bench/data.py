"""How fast training images come, in memory and from files, against torchvision's ordinary way.

The images are tiles of the two photographs that ship with scikit-learn: real ones, on any machine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data.batches import Normalization, TrainingBatches
from levit_ablate.data.datamodule import Served, num_workers
from levit_ablate.data.datasets import IMAGENET
from levit_ablate.data.folder_index import open_index
from levit_ablate.data.sources import InMemory, OnDisk
from levit_ablate.data.splits import Labelled, Splits
from levit_ablate.data.stream import Stream
from levit_ablate.runtime import has_gpu
from levit_ablate.timing import rates

SMALL_SIDE, NUM_SMALL = 32, 12_800
TILE, NUM_TILES = (400, 320), 384
CPU = torch.device("cpu")


def measure(rounds: int, hardware: Hardware) -> dict[str, dict[str, float]]:
    """Images a second, ours and torchvision's, and their ratio: of `memory` and of `files`."""
    return {
        "memory": compared(memory_ways(hardware), rounds),
        "files": files_compared(rounds, hardware),
    }


def compared(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """The rates of `ours` and `torchvision`, and how many times as fast ours is."""
    measured = rates(ways, rounds)
    return {**measured, "ratio": measured["ours"] / measured["torchvision"]}


def tiles(count: int, height: int, width: int) -> numpy.ndarray[Any, Any]:
    """Parts of two photographs: (count, height, width, 3) uint8."""
    photographs = load_sample_images().images
    rng = numpy.random.default_rng(0)
    cut = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top = rng.integers(photograph.shape[0] - height + 1)
        left = rng.integers(photograph.shape[1] - width + 1)
        cut.append(photograph[top : top + height, left : left + width])
    return numpy.stack(cut)


def memory_ways(hardware: Hardware) -> dict[str, Callable[[], int]]:
    """An epoch of small images with crop, flip and erasing, on a GPU where there is one."""
    pixels = tiles(NUM_SMALL, SMALL_SIDE, SMALL_SIDE)
    recipe = Recipe(batch_size=128, crop=True, flip=0.5, erasing=0.25)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    labelled = Labelled(images, torch.arange(NUM_SMALL) % 10)
    splits = Splits(labelled, labelled, labelled)
    on_gpu = hardware.accelerator != "cpu" and has_gpu()
    device = torch.device("cuda" if on_gpu else "cpu")
    ours = _ours(InMemory(splits, IMAGENET.mean), recipe, SMALL_SIDE, device)
    ordinary = [
        transforms.RandomCrop(SMALL_SIDE, padding=SMALL_SIDE // 8),
        transforms.RandomHorizontalFlip(),
        *_to_tensor(recipe),
    ]
    theirs = _loader(_Pictures(pixels, transforms.Compose(ordinary)), recipe, hardware)
    return {"ours": lambda: _counted(ours), "torchvision": lambda: _counted(theirs)}


def files_compared(rounds: int, hardware: Hardware) -> dict[str, float]:
    """Epochs of JPEG files at 224 px under the paper's augmentation, three views of an image."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number, pixels in enumerate(tiles(NUM_TILES, *reversed(TILE))):
            for part in ("train", "val"):
                folder = root / part / f"class{number % 2}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        recipe = Recipe(batch_size=48, repeats=3, rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25)
        data = Data(name="folder", root=name, image_size=224)
        index = open_index(root, root / "cache")
        served = OnDisk(index, data, num_workers(hardware), IMAGENET.mean)
        ours = _ours(served, recipe, 224, CPU)
        ordinary = [
            transforms.RandomResizedCrop(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(2, 9),
            *_to_tensor(recipe),
        ]
        folder_set = ImageFolder(str(root / "train"), transforms.Compose(ordinary))
        theirs = _loader(folder_set, recipe, hardware)
        ways: dict[str, Callable[[], int]] = {
            "ours": lambda: _counted(ours),
            "torchvision": lambda: _counted(theirs),
        }
        return compared(ways, rounds)


def _ours(served: Served, recipe: Recipe, side: int, device: torch.device) -> TrainingBatches:
    stream = Stream(num_images=served.num_train, seed=0, recipe=recipe)
    epochs = itertools.count()
    return TrainingBatches(
        source=served.source(stream, device),
        stream=stream,
        normalization=Normalization(mean=IMAGENET.mean, deviation=IMAGENET.deviation, side=side),
        device=device,
        shard=(0, 1),
        parts=1,
        position=lambda: (next(epochs), 0),
    )


def _to_tensor(recipe: Recipe) -> list[Any]:
    return [
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET.mean, IMAGENET.deviation),
        transforms.RandomErasing(recipe.erasing, value="random"),
    ]


def _loader(dataset: Dataset[Any], recipe: Recipe, hardware: Hardware) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers(hardware),
        persistent_workers=num_workers(hardware) > 0,
    )


class _Pictures(Dataset[Any]):
    """Images in an array, as torchvision's CIFAR10 serves them."""

    def __init__(self, pixels: numpy.ndarray[Any, Any], transform: Callable[[Any], Any]) -> None:
        self.pixels = pixels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.pixels[index])), index % 10


def _counted(batches: Iterable[Any]) -> int:
    """Take all batches; how many images they had."""
    assert isinstance(batches, Sized)
    images = sum(len(batch[0]) for batch in batches)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images
