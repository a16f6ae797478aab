"""Whether an image can be decoded, as training will."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from levit_ablate.data.decoding import in_rgb, is_deep
from levit_ablate.data.folder_layout import shown

SCALED = b"deep, scaled"
"""What tells the digests of deep images from those of when their pixels were clipped."""


class Checked(NamedTuple):
    """What an image came to."""

    side: int
    """The larger of height and width, in pixels."""
    digest: bytes
    """Of the file's content, 16 bytes; none where it could not be read at all. Of a deep image it
    is another than before such were scaled, so that what was recorded of it is not found again."""
    error: str
    """Why it cannot be used, in a line; empty where it can."""


def check_image(path: Path) -> Checked:
    """Read an image and decode it to RGB, as training will. Raises nothing that an image causes.

    A JPEG is decoded at an eighth of its size, which reads all of it: what stops the whole
    decoder, a file cut short for one, stops this one too.
    """
    content, digest = b"", b""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Checked(0, b"", "not a file")
        content = path.read_bytes()
        digest = _digest(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # opening a large image warns already
            with Image.open(io.BytesIO(content)) as image:
                side = max(image.size)
                image.draft("RGB", (1, 1))
                in_rgb(image)
                if is_deep(image):
                    digest = _digest(content, SCALED)
    except UnidentifiedImageError:
        return Checked(0, digest, "not an image" if content else "empty file")
    except MemoryError:  # no fault of the file: without a digest it is tried again
        return Checked(0, b"", "not enough memory")
    except Exception as error:  # decoders of broken files raise whatever comes up
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Checked(0, digest, shown(said))
    return Checked(side, digest, "")


def _digest(content: bytes, person: bytes = b"") -> bytes:
    return hashlib.blake2b(content, digest_size=16, person=person).digest()
