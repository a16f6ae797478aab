"""Load the datasets that fit in memory: digits, torchvision's, folders of small images."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets as torchvision_datasets

from levit_ablate.config import Data
from levit_ablate.data.decoding import pixels
from levit_ablate.data.folder_index import Index, Part
from levit_ablate.data.folder_layout import Array
from levit_ablate.data.loader import over_files
from levit_ablate.errors import UserError

DIGITS_TEST_SHARE = 0.25
"""The digits come without a test set."""
FASHION_CLASSES = 10
FASHION_FILES = (
    "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz",
)  # fmt: skip
"""Fashion-MNIST as it is published, in MNIST's idx format."""
IDX_BYTES = 0x800
"""First number of an idx file of bytes, less its number of dimensions."""


@dataclass(frozen=True)
class Labelled:
    """Images (N, C, H, W) uint8 and their labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Labelled:
        """Select images."""
        return Labelled(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """A dataset in its three parts."""

    train: Labelled
    validation: Labelled
    test: Labelled


def load(data: Data) -> Splits:
    """Load a dataset by its name; a folder has none. Raises UserError where it cannot be had."""
    loaders = {"digits": digits, "fashion_mnist": fashion_mnist}
    return loaders.get(data.name, cifar)(data)


def held_out(labels: Tensor | numpy.ndarray, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices of `labels` into those kept and a share held out, stratified by class.

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


def _with_validation(train: Labelled, test: Labelled, data: Data) -> Splits:
    kept, held = held_out(train.labels, data.validation, data.split_seed)
    return Splits(train.at(kept), train.at(held), test)


def digits(data: Data) -> Splits:
    """Load scikit-learn's digits, 8x8; a quarter is the test set. Raises as `held_out`."""
    values, targets = load_digits(return_X_y=True)
    # 0 … 16 → 0 … 255
    images = torch.from_numpy(numpy.rint(values * (255 / 16)).astype("uint8")).view(-1, 1, 8, 8)
    labels = torch.from_numpy(targets)
    rest, test = held_out(labels, DIGITS_TEST_SHARE, data.split_seed)
    whole = Labelled(images, labels)
    return _with_validation(whole.at(rest), whole.at(test), data)


def cifar(data: Data) -> Splits:
    """Load CIFAR-10 or CIFAR-100 from `data.root`; downloaded to it once.

    Raises UserError where it is neither there nor can be had.
    """
    make = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}
    root = Path(data.root)
    try:
        parts = [make[data.name](root, train=train) for train in (True, False)]
    except RuntimeError:  # torchvision: not there, or damaged
        parts = _downloaded(make[data.name], data)
    train, test = (
        Labelled(
            torch.as_tensor(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.as_tensor(part.targets),
        )
        for part in parts
    )
    return _with_validation(train, test, data)


def _downloaded(make: Callable[..., torchvision_datasets.VisionDataset], data: Data) -> list[Any]:
    root = Path(data.root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{data.name}.lock"):  # of several processes one downloads
            return [make(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"data.root: {data.name} is not in {root} and cannot be downloaded "
            f"({str(error).strip().splitlines()[0]}); put torchvision's files there"
        ) from error


def fashion_mnist(data: Data) -> Splits:
    """Load Fashion-MNIST, as published (and packaged by Debian) or as torchvision keeps it.

    Downloaded once where it is neither. Raises UserError where it cannot be had, or is damaged.
    """
    root = Path(data.root)
    files = _fashion_files(root)
    if not any(map(os.path.isfile, files)):
        _downloaded(torchvision_datasets.FashionMNIST, data)
    parts = []
    for name, of_part in (("train", files[:2]), ("t10k", files[2:])):
        images, labels = _read_idx(of_part[0], (28, 28)), _read_idx(of_part[1], ())
        if len(images) != len(labels) or labels.max() >= FASHION_CLASSES:
            raise UserError(f"data.root: {root}: the images and labels of {name} do not match")
        parts.append(Labelled(images[:, None], labels.long()))
    train, test = parts
    return _with_validation(train, test, data)


def fashion_mnist_fingerprint(root: Path) -> str:
    """16 hexadecimal digits of Fashion-MNIST's four files, compressed or not.

    Other sets, such as MNIST, have files of the same names. Raises UserError where one is missing.
    """
    digest = hashlib.sha256()
    for file in _fashion_files(root):
        digest.update(_content(file))
    return digest.hexdigest()[:16]


def _fashion_files(root: Path) -> list[Path]:
    """Images and labels of each part: compressed as published, or as torchvision keeps them."""
    files = [root / name for name in FASHION_FILES]
    return (
        files
        if os.path.isfile(files[0])
        else [root / "FashionMNIST/raw" / file.stem for file in files]
    )


def _read_idx(file: Path, shape: tuple[int, ...]) -> Tensor:
    """Read a file, compressed or not: (N, *shape) uint8. Raises UserError where it is damaged."""
    content = _content(file)
    start = 4 * (2 + len(shape))
    magic, count, *sides = numpy.frombuffer(content[:start].ljust(start, b"\0"), ">i4").tolist()
    values = numpy.frombuffer(content[start:], "uint8")
    if magic != IDX_BYTES + len(shape) + 1 or tuple(sides) != shape or count < 1:
        raise UserError(f"data.root: {file} is not the idx file of Fashion-MNIST")
    if len(values) != count * math.prod(shape):
        raise UserError(f"data.root: {file} is cut short, or too long; fetch it anew")
    return torch.from_numpy(values.copy()).view(count, *shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data.root: {path} cannot be read: {error}") from error


def small_folder(index: Index, data: Data) -> Splits:
    """Load a folder of small images, each resized to `data.image_size` (bicubic).

    They are decoded once and cached beside the index, from where later processes map them. Raises
    UserError where they cannot be cached.
    """
    parts = {name: _decoded(part, data.image_size) for name, part in index.parts.items()}
    *validation, test = (parts[name] for name in index.evaluation_parts)
    if not validation:
        return _with_validation(parts["train"], test, data)
    return Splits(parts["train"], validation[0], test)


def _decoded(part: Part, side: int) -> Labelled:
    file = part.kept(f"pixels{side}")
    shape = (len(part), 3, side, side)
    try:
        with FileLock(f"{part.folder}.pixels.lock"):  # of several processes one decodes
            images = _mapped(file, shape)
            if images is None:
                making = file.with_name(f"making_{file.name}")
                numpy.save(making, _decode(part, shape))
                making.replace(file)
                images = _mapped(file, shape)
    except OSError as error:
        raise UserError(
            f"hardware.work_dir: the pixels of {part.root} cannot be kept in {part.folder}: "
            f"{error.strerror or error}"
        ) from error
    assert images is not None
    return Labelled(images, torch.from_numpy(numpy.array(part.labels)).long())


def _mapped(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Map decoded images from the disk; None where they are not there, or damaged."""
    try:
        images = numpy.load(file, mmap_mode="c")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return torch.from_numpy(images) if images.shape == shape else None


def _decode(part: Part, shape: tuple[int, ...]) -> Array:
    images = numpy.empty(shape, dtype=numpy.uint8)
    one = partial(pixels, side=shape[-1])
    with over_files(one, part.files, f"decoding {part.name}") as decoded:
        for position, image in enumerate(decoded):
            images[position] = image.transpose(2, 0, 1)
    return images
