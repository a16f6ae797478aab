"""Decode an image file, or check that it can be decoded. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from PIL import Image, UnidentifiedImageError

from levit_ablate.data.folder_layout import shown
from levit_ablate.errors import RunError

BITS_PER_SAMPLE = 258
"""A tag of TIFF's."""
SCALED = b"deep, scaled"
"""Sets the digests of deep images apart from those recorded when their pixels were clipped."""


def decoded(path: Path) -> Image.Image:
    """Decode an image to RGB. Raises RunError, naming the file, where it cannot be read.

    Every file was read once before, when its folder was indexed (`check_image`).
    """
    try:
        with Image.open(path) as file:
            return in_rgb(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise RunError(f"{path}: cannot be read any more: {error}") from error


def pixels(path: Path, side: int) -> numpy.ndarray[Any, Any]:
    """Decode an image and resize it (bicubic): (side, side, 3) uint8. Raises as `decoded`."""
    image = decoded(path)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return numpy.array(image)


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than eight bits, which `in_rgb` scales to eight."""
    return image.mode.startswith("I;16")


def in_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB of eight bits as torchvision's loader does, but scale deep grey.

    Pillow by itself clips what is above 255 to white. Raises ValueError where the range of the
    values is not known: Pillow's modes I (32-bit integers, a 16-bit PGM among them) and F (floats).
    """
    if image.mode in ("I", "F"):
        raise ValueError(
            f"values of unknown range (Pillow's mode {image.mode}); save it with 8 or 16 bits, "
            f"as PNG for one"
        )
    if is_deep(image):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]  # in a TIFF 12 or 16
        scaled = numpy.asarray(image) >> (bits - 8)
        image = Image.fromarray(scaled.astype(numpy.uint8))
    return image.convert("RGB")


class Checked(NamedTuple):
    """The result of checking an image."""

    error: str = ""
    """Why it cannot be used, in a line; empty where it can."""
    side: int = 0
    """The larger of height and width, in pixels."""
    digest: bytes = b""
    """16 bytes from the file's content. A deep image has another digest than before such images
    were scaled: what was recorded of it is not reused."""


def check_image(path: Path) -> Checked:
    """Read an image and decode it to RGB as training will. Raises nothing that an image causes.

    A JPEG is decoded at an eighth of its size, which reads all of it: what stops the full
    decoder, such as a file cut short, stops this one too.
    """
    content = b""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Checked("not a file")
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # opening a large image warns already
            with Image.open(io.BytesIO(content)) as image:
                side = max(image.size)
                image.draft("RGB", (1, 1))
                in_rgb(image)
                person = SCALED if is_deep(image) else b""
    except UnidentifiedImageError:
        return Checked("not an image" if content else "empty file")
    except MemoryError:
        return Checked("not enough memory")
    except Exception as error:  # decoders raise anything on broken files
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Checked(shown(text))
    return Checked("", side, hashlib.blake2b(content, digest_size=16, person=person).digest())
