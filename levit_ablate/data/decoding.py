"""From an image file to its pixels. Imports no torch: processes that decode start with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from levit_ablate.errors import RunError


def decoded(path: Path) -> Image.Image:
    """An image in RGB. Raises RunError, naming the file, where it cannot be read.

    Every file was read once when its folder was indexed (`data.verify`).
    """
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise RunError(f"{path}: cannot be read any more: {error}") from error


def pixels(path: Path, side: int) -> numpy.ndarray[Any, Any]:
    """(side, side, 3) uint8, brought to this size bicubically. Raises as `decoded`."""
    image = decoded(path)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return numpy.array(image)
