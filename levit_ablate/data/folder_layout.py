"""The layout of an image folder, ImageNet's: which images it has, or what is wrong with it.

`train/CLASS/IMAGE`, and `val/` or `test/` beside it with the same classes. `val` may be called
`valid` or `validation` too. Names are the same class where they are in Unicode's normal form: a
Mac writes an accent as a character of its own.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from levit_ablate.errors import UserError

VALIDATION = ("val", "valid", "validation")
"""The names of the validation images' folder, of which a dataset has one."""
PARTS = ("train", *VALIDATION, "test")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".jfif", ".gif",
)  # fmt: skip
"""torchvision's, and two more; of an animation the first picture is used."""
NAMED = 5
"""Of many bad things, those that an error names."""


class Listing:
    """The images of a part, ordered by class and name: the path of each and 12 bytes."""

    def __init__(self) -> None:
        self.paths = bytearray()
        """All paths from the root, one after another."""
        self.offsets = array("q", [0])
        """Where each path begins, and the last one ends."""
        self.labels = array("i")

    def add(self, path: bytes, label: int) -> None:
        """One more image."""
        self.paths += path
        self.offsets.append(len(self.paths))
        self.labels.append(label)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[bytes]:
        """The paths, in turn."""
        for index in range(len(self)):
            yield bytes(self.paths[self.offsets[index] : self.offsets[index + 1]])


@contextlib.contextmanager
def reading_folders() -> Iterator[None]:
    """A folder of images that cannot be listed is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"data.root: {error.filename} cannot be read: {error.strerror}") from error


def folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def class_folders(folder: Path) -> dict[str, str]:
    """The class folders of a part, sorted: their names in normal form → as they are written.

    Raises UserError where two of them look the same.
    """
    found: dict[str, str] = {}
    for name in folders(folder):
        other = found.setdefault(in_normal_form(name), name)
        if other != name:
            raise UserError(
                f"data.root: {folder} has two class folders that look the same, {shown(name)}: "
                f"their names differ in Unicode's normal form alone; merge them, or rename one"
            )
    return found


def in_normal_form(name: str) -> str:
    """A name as it is compared, whichever way its accents are written."""
    return unicodedata.normalize("NFC", name)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name. A hidden one, as a Mac's `._1.jpg`, is none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def folder_state(root: Path) -> list[list[Any]]:
    """What changes when an image is added, removed or renamed: its folders and their times.

    Raises UserError where one cannot be read.
    """

    def times(folder: Path, names: Iterable[str]) -> list[list[Any]]:
        return [[name, (folder / name).stat().st_mtime_ns] for name in names]

    with reading_folders():
        parts = [part.name for part in _parts(root)]
        return [times(root, parts), *(times(root / part, folders(root / part)) for part in parts)]


def _parts(root: Path) -> list[Path]:
    parts = [part for name in PARTS if (part := root / name).is_dir()]
    several = [part.name for part in parts if part.name in VALIDATION]
    if several[1:]:
        raise UserError(
            f"data.root: {root} has {' and '.join(several)}, which all are names of the validation "
            f"images; keep one of them"
        )
    return parts


def list_parts(root: Path, classes: tuple[str, ...]) -> dict[str, Listing]:
    """The images of every part.

    Raises UserError where there is neither val nor test, where a part has other classes than train,
    where a class has no image, and where a folder cannot be read.
    """
    with reading_folders():
        parts = _parts(root)
        if len(parts) < 2:
            raise UserError(
                f"data.root: {root} has neither val nor test beside train; one of them is needed, "
                f"with the same classes"
            )
        return {part.name: _list_part(root, part.name, classes) for part in parts}


def _list_part(root: Path, part: str, classes: tuple[str, ...]) -> Listing:
    own = class_folders(root / part)
    wanted = {in_normal_form(name) for name in classes}
    for names, said in (
        (own.keys() - wanted, "has classes that train has not"),
        (wanted - own.keys(), "has not all classes of train, it lacks"),
    ):
        if names:
            raise UserError(f"data.root: {root / part} {said}: {some(sorted(names))}")
    listing, empty = Listing(), []
    for label, name in enumerate(own[in_normal_form(name)] for name in classes):
        with os.scandir(root / part / name) as entries:
            paths = sorted(
                os.fsencode(f"{part}/{name}/{entry.name}")
                for entry in entries
                if is_image(entry.name) and not entry.is_dir(follow_symlinks=False)
            )
        for path in paths:
            listing.add(path, label)
        if not paths:
            empty.append(name)
    if empty:
        raise UserError(
            f"data.root: {root / part} has class folders without images: {some(empty)}; they lie "
            f"directly in it, with a suffix of images ({', '.join(IMAGE_SUFFIXES)}); fill or "
            f"remove them"
        )
    return listing


def some(names: Iterable[str], separator: str = ", ") -> str:
    """The first few of many, and how many more there are."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - NAMED} more" if every[NAMED:] else ""
    return separator.join(every[:NAMED]) + more


def shown(name: str) -> str:
    """A name as it can be printed, in a line: whatever else is in it is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
