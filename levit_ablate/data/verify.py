"""Reads and decodes an image once, to know that it can be."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""torchvision's."""


class Checked(NamedTuple):
    """What an image came to."""

    side: int
    """The larger of height and width, in pixels."""
    digest: bytes
    """Of the file's content, 16 bytes."""
    error: str
    """Why it cannot be read; empty where it can."""


def check_image(root: Path, name: bytes) -> Checked:
    """Read and decode one image. A JPEG is decoded at an eighth of its size: all of it is read."""
    try:
        content = (root / os.fsdecode(name)).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            side = max(image.size)
            image.draft("RGB", (1, 1))
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = getattr(error, "strerror", None) or str(error).partition(" <_io")[0]
        return Checked(0, b"", said or type(error).__name__)
    return Checked(side, hashlib.blake2b(content, digest_size=16).digest(), "")
