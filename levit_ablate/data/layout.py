"""The layout of an image folder, ImageNet's: which images it has, or what is wrong with it.

`train/CLASS/IMAGE`, and `val/` or `test/` beside it with the same classes.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from levit_ablate.errors import UserError

PARTS = ("train", "val", "test")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""torchvision's."""
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
    return [part for name in PARTS if (part := root / name).is_dir()]


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
    own = folders(root / part)
    for names, said in (
        (set(own) - set(classes), "has classes that train has not"),
        (set(classes) - set(own), "has not all classes of train, it lacks"),
    ):
        if names:
            raise UserError(f"data.root: {root / part} {said}: {some(sorted(names))}")
    listing, empty = Listing(), []
    for label, name in enumerate(classes):
        with os.scandir(root / part / name) as entries:
            paths = sorted(
                os.fsencode(f"{part}/{name}/{entry.name}")
                for entry in entries
                if entry.name.lower().endswith(IMAGE_SUFFIXES)
                and not entry.name.startswith(".")
                and not entry.is_dir(follow_symlinks=False)
            )
        for path in paths:
            listing.add(path, label)
        if not paths:
            empty.append(name)
    if empty:
        raise UserError(
            f"data.root: {root / part} has class folders without images: {some(empty)}; "
            f"fill or remove them"
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
