"""From an image file to its pixels. Imports no torch: processes that decode start with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from levit_ablate.errors import RunError

BITS_PER_SAMPLE = 258
"""A tag of TIFF's."""


def decoded(path: Path) -> Image.Image:
    """An image in RGB. Raises RunError, naming the file, where it cannot be read.

    Every file was read once when its folder was indexed (`data.verify`).
    """
    try:
        with Image.open(path) as file:
            return in_rgb(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise RunError(f"{path}: cannot be read any more: {error}") from error


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than eight bits, which `in_rgb` scales to eight."""
    return image.mode.startswith("I;16")


def in_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB of eight bits, as by torchvision's loader, but that deep grey is scaled.

    Pillow by itself clips what is above 255 to white. Raises ValueError where the range of the
    values is not known: Pillow's modes I (32-bit integers, a 16-bit PGM among them) and F (floats).
    """
    if image.mode in ("I", "F"):
        raise ValueError(
            f"values of unknown range (Pillow's mode {image.mode}); save it with 8 or 16 bits, "
            f"as PNG for one"
        )
    if is_deep(image):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]  # of a TIFF, 12 or 16
        scaled = numpy.asarray(image) >> (bits - 8)
        image = Image.fromarray(scaled.astype(numpy.uint8))
    return image.convert("RGB")


def pixels(path: Path, side: int) -> numpy.ndarray[Any, Any]:
    """(side, side, 3) uint8, brought to this size bicubically. Raises as `decoded`."""
    image = decoded(path)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return numpy.array(image)
