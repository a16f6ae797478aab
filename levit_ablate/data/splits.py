"""The datasets that fit in memory, as uint8: digits, torchvision's, folders of small images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy
import torch
from filelock import FileLock
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets as torchvision_datasets

from levit_ablate.config import Data
from levit_ablate.data import idx
from levit_ablate.data.decoding import pixels
from levit_ablate.data.folder_index import Array, Index, Part
from levit_ablate.data.folder_layout import PARTS
from levit_ablate.data.indexing import array_name
from levit_ablate.data.parallel import over_files
from levit_ablate.errors import UserError
from levit_ablate.paths import is_file

DIGITS_TEST_SHARE = 0.25
"""Of the digits, which come without a test set."""
FASHION_CLASSES = tuple(torchvision_datasets.FashionMNIST.classes)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images (N, C, H, W) uint8 and their labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Labelled:
        """Some of them."""
        return Labelled(images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device) -> Labelled:
        """The same on a device."""
        return Labelled(images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A dataset in its three parts, and the names of its classes."""

    train: Labelled
    validation: Labelled
    test: Labelled
    classes: tuple[str, ...]


def held_out(labels: Tensor | numpy.ndarray, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices of `labels` into those kept and a share held out, class by class in proportion.

    Depends on the labels, the share and the seed alone. Raises UserError where a class has too few.
    """
    try:
        kept, held = train_test_split(
            numpy.arange(len(labels)), test_size=share, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise UserError(
            f"data.validation: {share} of {len(labels)} images cannot be held out class by class: "
            f"{error}"
        ) from error
    return torch.from_numpy(numpy.sort(kept)), torch.from_numpy(numpy.sort(held))


def digits(data: Data) -> Splits:
    """scikit-learn's digits, 8x8; a quarter is the test set. Raises UserError as `held_out`."""
    pixels, targets = load_digits(return_X_y=True)
    # 0 … 16 → 0 … 255
    images = torch.from_numpy(numpy.rint(pixels * (255 / 16)).astype("uint8")).view(-1, 1, 8, 8)
    labels = torch.from_numpy(targets)
    rest, test = held_out(labels, DIGITS_TEST_SHARE, data.split_seed)
    whole = Labelled(images=images, labels=labels)
    return _with_validation(whole.at(rest), whole.at(test), tuple("0123456789"), data)


def cifar(data: Data) -> Splits:
    """CIFAR-10 or CIFAR-100, found in `data.root` or downloaded to it, once.

    Raises UserError where it is neither there nor can be had.
    """
    make = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}
    root = Path(data.root)
    try:
        parts = [make[data.name](root, train=train) for train in (True, False)]
    except RuntimeError:  # torchvision: not there, or damaged
        parts = _downloaded(make[data.name], data)
    train, test = (
        Labelled(images=_channels_first(part.data), labels=torch.as_tensor(part.targets))
        for part in parts
    )
    return _with_validation(train, test, tuple(parts[0].classes), data)


def fashion_mnist(data: Data) -> Splits:
    """Fashion-MNIST, as it is published (and packaged by Debian) or as torchvision keeps it.

    Downloaded once where it is neither. Raises UserError where it cannot be had, or is damaged.
    """
    root = Path(data.root)
    files = [idx.path(root, k, n) for k in (idx.IMAGES, idx.LABELS) for n in ("train", "t10k")]
    if not any(map(is_file, files)):
        _downloaded(torchvision_datasets.FashionMNIST, data)
    parts = []
    for name in ("train", "t10k"):
        images = idx.read(idx.path(root, idx.IMAGES, name), (28, 28))
        labels = idx.read(idx.path(root, idx.LABELS, name), ())
        if len(images) != len(labels) or labels.max() >= len(FASHION_CLASSES):
            raise UserError(f"data.root: {root}: the images and labels of {name} do not match")
        parts.append(
            Labelled(
                images=torch.from_numpy(images).unsqueeze(1), labels=torch.from_numpy(labels).long()
            )
        )
    train, test = parts
    return _with_validation(train, test, FASHION_CLASSES, data)


def _downloaded(make: Callable[..., torchvision_datasets.VisionDataset], data: Data) -> list[Any]:
    root = Path(data.root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{data.name}.lock"):  # of several processes one downloads
            return [make(root, train=train, download=True) for train in (True, False)]
    except (OSError, URLError, RuntimeError) as error:
        raise UserError(
            f"data.root: {data.name} is not in {root} and cannot be downloaded "
            f"({str(error).strip().splitlines()[0]}); put torchvision's files there"
        ) from error


def _channels_first(pixels: numpy.ndarray) -> Tensor:
    """(N, H, W, C) → (N, C, H, W)."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).contiguous()


def small_folder(index: Index, data: Data) -> Splits:
    """A folder of small images, each brought to `data.image_size` (bicubic).

    They are decoded once and kept beside the index, which all later processes map from there.
    Raises UserError where they cannot be kept.
    """
    train = _decoded(index.parts["train"], data.image_size)
    names = evaluation_parts(index)
    test = _decoded(index.parts[names[-1]], data.image_size)
    if len(names) == 1:
        return _with_validation(train, test, index.classes, data)
    validation = _decoded(index.parts[names[0]], data.image_size)
    return Splits(train=train, validation=validation, test=test, classes=index.classes)


def evaluation_parts(index: Index) -> list[str]:
    """Which parts are the validation and the test images: ["val", "test"], or ["valid", "test"] …

    Where only one of them is there it is the test set, as the paper uses ImageNet's validation
    images.
    """
    return [name for name in PARTS[1:] if name in index.parts]


def _decoded(part: Part, side: int) -> Labelled:
    file = part.folder / array_name(part.name, f"pixels{side}", part.fingerprint)
    shape = (len(part), 3, side, side)
    try:
        with FileLock(f"{part.folder}.pixels.lock"):  # of several processes one decodes
            images = _kept(file, shape)
            if images is None:
                _keep(_decode(part, shape), file)
                images = _kept(file, shape)
    except OSError as error:
        raise UserError(
            f"hardware.work_dir: the pixels of {part.root} cannot be kept in {part.folder}: "
            f"{error.strerror or error}"
        ) from error
    assert images is not None
    return Labelled(images=images, labels=torch.from_numpy(numpy.array(part.labels)).long())


def _kept(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    """What was decoded, mapped from the disk; None where it is not there, or damaged."""
    try:
        images = numpy.load(file, mmap_mode="c")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    whole = images.shape == shape and images.dtype == numpy.uint8
    return torch.from_numpy(images) if whole else None


def _keep(images: Array, file: Path) -> None:
    """Write at once or not at all."""
    making = file.with_suffix(".making")
    with making.open("wb") as stream:
        numpy.save(stream, images)
    making.replace(file)


def _decode(part: Part, shape: tuple[int, ...]) -> Array:
    images = numpy.empty(shape, dtype=numpy.uint8)
    paths = map(part.path, range(len(part)))
    one = partial(pixels, side=shape[-1])
    for position, image in enumerate(over_files(one, paths, len(part), f"decoding {part.name}")):
        images[position] = image.transpose(2, 0, 1)
    return images


def _with_validation(
    train: Labelled, test: Labelled, classes: tuple[str, ...], data: Data
) -> Splits:
    kept, held = held_out(train.labels, data.validation, data.split_seed)
    return Splits(train=train.at(kept), validation=train.at(held), test=test, classes=classes)
