"""MNIST's file format, in which Fashion-MNIST comes. Imports no torch."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import Any

import numpy

from levit_ablate.errors import UserError
from levit_ablate.paths import is_file

IMAGES, LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
"""The files of `train` and of `t10k`, as they are published."""
OF_BYTES = 0x800
"""What a file of bytes begins with, but for its number of dimensions."""


def is_packaged(root: Path) -> bool:
    """Whether a folder holds the files as they are published, not as torchvision keeps them."""
    return is_file(root / IMAGES.format("train"))


def path(root: Path, kind: str, part: str) -> Path:
    """A file of a set: compressed as it is published, or as torchvision keeps it."""
    file = root / kind.format(part)
    return file if is_packaged(root) else root / "FashionMNIST" / "raw" / file.stem


def read(file: Path, shape: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
    """A file, compressed or not: (N, *shape) uint8. Raises UserError where it is damaged."""
    content = _content(file)
    start = 4 * (2 + len(shape))
    magic, count, *sides = numpy.frombuffer(content[:start].ljust(start, b"\0"), ">i4").tolist()
    values = numpy.frombuffer(content[start:], "uint8")
    if magic != OF_BYTES + len(shape) + 1 or tuple(sides) != shape or count < 1:
        raise UserError(f"data.root: {file} is not the idx file of Fashion-MNIST")
    if len(values) != count * math.prod(shape):
        raise UserError(f"data.root: {file} is cut short, or too long; fetch it anew")
    return values.copy().reshape(count, *shape)


def fingerprint(root: Path) -> str:
    """16 hexadecimal digits of a set's four files, compressed or as torchvision keeps them.

    Other sets, MNIST for one, have files of the same names. Raises UserError where one is missing.
    """
    digest = hashlib.sha256()
    for name in ("train", "t10k"):
        for kind in (IMAGES, LABELS):
            digest.update(_content(path(root, kind, name)))
    return digest.hexdigest()[:16]


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data.root: {path} cannot be read: {error}") from error
