"""Facts and default settings of every dataset, without loading it. Imports no torch."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from levit_ablate.config import Data, Hardware, Images, Recipe
from levit_ablate.data.folder_index import Index, open_index
from levit_ablate.data.folder_layout import class_names, is_image
from levit_ablate.errors import UserError
from levit_ablate.recipes import RECIPES

IN_MEMORY_SIDE = 64
"""Largest side, in pixels, of images that are held in memory."""
IMAGENET_CLASSES = 1000
WORDNET = re.compile(r"n\d{8}")
"""Names of ImageNet's class folders, whose order is that of its labels."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset's facts, and its default settings."""

    mean: tuple[float, ...]
    """Mean of the training images' channels, 0 to 1."""
    deviation: tuple[float, ...]
    num_classes: int | None
    """None for a folder, which says it."""
    image_size: int
    model: str
    recipe: str
    teacher: str
    """The teacher, a model of timm's."""
    teacher_recipe: Recipe | None = None
    """The teacher's recipe; None where it comes pretrained."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Other defaults of `Data`."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Default settings of an experiment on this dataset."""
        teacher: dict[str, Any] = {"model": self.teacher}
        if self.teacher_recipe:
            teacher["recipe"] = asdict(self.teacher_recipe)
        else:
            teacher["weights"] = "pretrained"
        return {
            "model": self.model,
            "data": {"image_size": self.image_size, **self.data},
            "recipe": asdict(RECIPES[self.recipe]),
            "teacher": teacher,
        }


DIGITS = Dataset(
    mean=(0.3053,),
    deviation=(0.3760,),
    num_classes=10,
    image_size=32,
    model="levit_nano",
    recipe="quick",
    teacher="test_resnet",
    teacher_recipe=Recipe(epochs=10, crop=False, flip=0.0, precision="32-true"),
)
SMALL_TEACHER = Recipe(
    epochs=20,
    batch_size=128,
    learning_rate=2e-3,
    weight_decay=0.05,
    erasing=0.1,
)
CIFAR10 = Dataset(
    mean=(0.4914, 0.4822, 0.4465),
    deviation=(0.2470, 0.2435, 0.2616),
    num_classes=10,
    image_size=32,
    model="levit_micro",
    recipe="cifar",
    teacher="regnety_002",
    teacher_recipe=SMALL_TEACHER,
)
CIFAR100 = replace(
    CIFAR10,
    mean=(0.5071, 0.4865, 0.4409),
    deviation=(0.2673, 0.2564, 0.2762),
    num_classes=100,
)
FASHION_MNIST = replace(
    CIFAR10,
    mean=(0.2860,),
    deviation=(0.3530,),
    image_size=28,  # 28 / 4 = 7, 4, 2 tokens a side
)
IMAGENET = Dataset(
    mean=(0.485, 0.456, 0.406),
    deviation=(0.229, 0.224, 0.225),
    num_classes=None,
    image_size=224,
    model="levit_128s",
    recipe="paper",
    teacher="regnety_160.deit_in1k",
    data={"validation": 0.02},
)
LARGE_FOLDER = replace(  # other classes than ImageNet's: timm has no weights for them
    IMAGENET,
    teacher="regnety_016",
    teacher_recipe=replace(RECIPES["paper"], batch_size=256, repeats=1),
)
SMALL_FOLDER = replace(CIFAR10, mean=IMAGENET.mean, deviation=IMAGENET.deviation, num_classes=None)
DATASETS = {
    "digits": DIGITS,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "fashion_mnist": FASHION_MNIST,
}
"""The datasets with a name of their own; `dataset_of` knows folders too."""


def dataset_of(data: Data) -> Dataset:
    """Facts and defaults of a dataset. Raises UserError where a folder has no images.

    A folder whose first image is small is treated as CIFAR-10, any other as ImageNet; its teacher
    is pretrained only if its classes are ImageNet's in number and name. Mean and deviation are
    ImageNet's either way.
    """
    if data.name != "folder":
        return DATASETS[data.name]
    root = Path(data.root)
    side = first_image_side(root)
    if side <= IN_MEMORY_SIDE:
        return replace(SMALL_FOLDER, image_size=side)
    names = class_names(root)
    is_imagenet = len(names) == IMAGENET_CLASSES and all(map(WORDNET.fullmatch, names))
    return IMAGENET if is_imagenet else LARGE_FOLDER


def images_of(data: Data) -> Images:
    """Shape of a dataset's images as a network gets them, and its number of classes."""
    dataset = dataset_of(data)
    num_classes = dataset.num_classes or len(class_names(Path(data.root)))
    side = data.image_size
    return Images(channels=len(dataset.mean), height=side, width=side, num_classes=num_classes)


def first_image_side(root: Path) -> int:
    """Longer side, in pixels, of the first image of the first class. Raises UserError."""
    folder = root / "train" / class_names(root)[0]
    for path in sorted(path for path in folder.iterdir() if is_image(path.name)):
        with contextlib.suppress(OSError, Image.DecompressionBombError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images
            with Image.open(path) as image:
                return max(image.size)
    raise UserError(f"{folder}: holds no image that can be read")


def index_of(data: Data, hardware: Hardware) -> Index:
    """Open the index of a folder, or make it, in the work folder. Raises as `open_index`."""
    cache = Path(hardware.work_dir) / "indexes"
    index = open_index(Path(data.root), cache, data.on_error)
    check_fingerprint(data, index.fingerprint)
    return index


def check_fingerprint(data: Data, found: str) -> None:
    """Raise UserError for other images than those that an experiment was recorded with."""
    if data.fingerprint and data.fingerprint != found:
        raise UserError(
            f"data.root: {data.root} holds other images (fingerprint {found}) than the "
            f"experiment was recorded with (data.fingerprint {data.fingerprint}); "
            f"give the folder that it was, or leave data.fingerprint out"
        )
