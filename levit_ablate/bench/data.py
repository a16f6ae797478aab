"""How fast training images come, in memory and from files, against torchvision's ordinary way.

The images are tiles of the two photographs that ship with scikit-learn: real ones, on any machine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from levit_ablate.analysis.speed import rates
from levit_ablate.config import Data, Hardware, Recipe
from levit_ablate.data.batches import Normalization, TrainingBatches
from levit_ablate.data.datamodule import Served, num_workers
from levit_ablate.data.datasets import IMAGENET
from levit_ablate.data.folder_index import open_index
from levit_ablate.data.sources import InMemory, OnDisk
from levit_ablate.data.splits import Labelled, Splits
from levit_ablate.data.stream import Stream
from levit_ablate.runtime import has_gpu

SMALL_SIDE, NUM_SMALL = 32, 12_800
TILE, NUM_TILES = (400, 320), 384


def measure(rounds: int, hardware: Hardware) -> dict[str, dict[str, float]]:
    """Images a second, ours and torchvision's, and their ratio: of `memory` and of `files`."""
    return {"memory": _from_memory(rounds, hardware), "files": _from_files(rounds, hardware)}


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


def _from_memory(rounds: int, hardware: Hardware) -> dict[str, float]:
    """An epoch of small images with crop, flip and erasing, on a GPU where there is one."""
    pixels = tiles(NUM_SMALL, SMALL_SIDE, SMALL_SIDE)
    recipe = Recipe(batch_size=128, crop=True, flip=0.5, erasing=0.25)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    labelled = Labelled(images, torch.arange(NUM_SMALL) % 10)
    served = InMemory(Splits(labelled, labelled, labelled), IMAGENET.mean)
    on_gpu = hardware.accelerator != "cpu" and has_gpu()
    ours = _ours(served, recipe, SMALL_SIDE, torch.device("cuda" if on_gpu else "cpu"))
    transform = transforms.Compose(
        [
            transforms.RandomCrop(SMALL_SIDE, padding=SMALL_SIDE // 8),
            transforms.RandomHorizontalFlip(),
            *_to_tensor(recipe),
        ]
    )
    theirs = _loader(pixels, recipe, hardware, collate_fn=partial(_transformed, transform))
    return _compared(ours, theirs, rounds)


def _transformed(transform: Callable[[Any], Any], pixels: list[Any]) -> Any:
    """Make a batch of images as torchvision's CIFAR10 serves them."""
    return default_collate([(transform(Image.fromarray(each)), 0) for each in pixels])


def _from_files(rounds: int, hardware: Hardware) -> dict[str, float]:
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
        ours = _ours(served, recipe, 224, torch.device("cpu"))
        ordinary = [
            transforms.RandomResizedCrop(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(2, 9),
            *_to_tensor(recipe),
        ]
        folder_set = ImageFolder(str(root / "train"), transforms.Compose(ordinary))
        return _compared(ours, _loader(folder_set, recipe, hardware), rounds)


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


def _loader(dataset: Any, recipe: Recipe, hardware: Hardware, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers(hardware),
        persistent_workers=num_workers(hardware) > 0,
        **options,
    )


def _compared(ours: Iterable[Any], theirs: Iterable[Any], rounds: int) -> dict[str, float]:
    """The rates of `ours` and `torchvision`, and how many times as fast ours is."""
    ways = {"ours": partial(_counted, ours), "torchvision": partial(_counted, theirs)}
    measured = rates(ways, rounds)
    return {**measured, "ratio": measured["ours"] / measured["torchvision"]}


def _counted(batches: Iterable[Any]) -> int:
    """Take all batches; how many images they had."""
    images = sum(len(batch[0]) for batch in batches)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images
