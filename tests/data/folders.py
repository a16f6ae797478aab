"""Folders of images for tests, and all that an index says of one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
from PIL import Image

from levit_ablate.data.folder_index import Index
from levit_ablate.data.folder_layout import class_names


def draw(path: Path, width: int = 9, height: int = 8) -> None:
    """An image of its own, whatever its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = numpy.random.default_rng(list(os.fsencode(path.name))).integers(
        0, 256, (height, width, 3)
    )
    Image.fromarray(drawn.astype("uint8")).save(path, "JPEG")


def fill(root: Path, parts=("train", "test"), classes=("cat", "dog"), count: int = 3) -> Path:
    for part in parts:
        for name in classes:
            for number in range(count):
                draw(root / part / name / f"{part}{number}.jpg")
    return root


def content(index: Index) -> tuple:
    """All that an index says."""
    parts = {name: (list(part.files), part.labels.tolist()) for name, part in index.parts.items()}
    return class_names(index.root), parts, index.max_side, index.fingerprint, index.skipped
