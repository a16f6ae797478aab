"""The index of an image folder: which files there are, checked once, opened again at once.

The layout is ImageNet's, `folder_layout`. No image is held. An image costs its path from the root and
12 bytes: twice while the index is made, once when it is open, and then they are mapped from the
disk and shared by all processes.

An index is opened as it was made until one of these folders changes: a file is added, removed or
renamed. An image that is overwritten in place goes unnoticed, unless it could not be read before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy
from filelock import FileLock

from levit_ablate.data.folder_layout import class_folders, reading_folders, shown, some
from levit_ablate.data.indexing import (
    UNREADABLE,
    array_name,
    is_current,
    make_index,
    read_header,
)
from levit_ablate.errors import RunError, UserError

Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """The images of a part, ordered by class and name.

    Its arrays are mapped from the disk when they are first used, read-only, in each process anew.
    """

    name: str
    root: Path
    folder: Path
    """That the index is kept in."""
    fingerprint: str
    """Of the index."""

    @cached_property
    def labels(self) -> Array:
        """The class of every image: (N,) int32. Raises RunError as `path`."""
        return self._mapped("labels")

    @cached_property
    def _offsets(self) -> Array:
        return self._mapped("offsets")

    @cached_property
    def _paths(self) -> Array:
        return self._mapped("paths")

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, position: int) -> Path:
        """The file of an image. Raises IndexError, or RunError where the index was made anew."""
        position = range(len(self))[position]
        path = self._paths[self._offsets[position] : self._offsets[position + 1]]
        return self.root / os.fsdecode(path.tobytes())

    def _mapped(self, kind: str) -> Array:
        try:
            path = self.folder / array_name(self.name, kind, self.fingerprint)
            return numpy.load(path, mmap_mode="r")
        except FileNotFoundError as error:
            raise RunError(
                f"the images in {self.root} changed while they were in use; start again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Without the arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Index:
    """An image folder, checked."""

    root: Path
    folder: Path
    """That the index is kept in, with the list of unreadable images."""
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    """Those that exist, `train` always."""
    max_side: int
    """The largest height or width of any image, in pixels."""
    fingerprint: str
    """16 hexadecimal digits, of relative paths and contents, wherever the folder lies."""
    skipped: tuple[str, ...]
    """Path and reason of the unreadable images that are left out."""
    left_out: tuple[str, ...]
    """What else lies there and is not used, in lines: when the index was made."""


def class_names(root: Path) -> tuple[str, ...]:
    """The classes of a folder, which are the folders in its `train`. Raises UserError."""
    with reading_folders():
        if not root.is_dir():
            raise UserError(
                f"data.root: there is no folder {root}; it is to hold train/CLASS/IMAGE"
            )
        if not (root / "train").is_dir():
            raise UserError(f"data.root: {root} has no folder train; train/CLASS/IMAGE is needed")
        names = list(class_folders(root / "train").values())
    if len(names) < 2:
        found = f"only one class, {some(names)}" if names else "no class folders"
        raise UserError(f"data.root: {root / 'train'} has {found}; at least two are needed")
    return tuple(names)


def open_index(
    root: Path,
    cache: Path,
    on_error: Literal["stop", "skip"] = "stop",
    num_workers: int | None = None,
) -> Index:
    """The index of a folder, opened from `cache` or made now: then every image is decoded once.

    Of several processes one makes it, by `num_workers` processes of its own, one for each core
    unless told otherwise. Raises UserError, in a line, where the layout is wrong, where `cache`
    cannot be written, and for unreadable images unless `on_error` is skip.
    """
    classes = class_names(root)
    root, cache = root.resolve(), cache.absolute()
    folder = cache / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            header = read_header(folder)
            if header is None or not is_current(header, root, folder):
                header = make_index(root, classes, folder, num_workers)
    except OSError as error:
        said = error.strerror or error
        raise UserError(
            f"hardware.work_dir: the index of {root} cannot be kept in {cache}: {said}"
        ) from error
    _check_readable(header, root, folder, on_error)
    return Index(
        root=root,
        folder=folder,
        classes=classes,
        parts={part: Part(part, root, folder, header["fingerprint"]) for part in header["parts"]},
        max_side=header["max_side"],
        fingerprint=header["fingerprint"],
        skipped=tuple(f"{shown(path)}: {reason}" for path, reason, _ in header["unreadable"]),
        left_out=tuple(header["left_out"]),
    )


def _check_readable(header: dict[str, Any], root: Path, folder: Path, on_error: str) -> None:
    listed = f"all are listed in {folder / UNREADABLE}"
    unreadable = header["unreadable"]
    if unreadable and on_error == "stop":
        reasons = some((f"{path}: {reason}" for path, reason, _ in unreadable), "; ")
        raise UserError(
            f"data.root: {len(unreadable)} of {header['num_images']} images in {root} cannot be "
            f"read: {reasons}; {listed}; mend them, or go on without them by --data.on_error skip"
        )
    if header["emptied"]:
        raise UserError(
            f"data.root: no image in {some(header['emptied'])} of {root} can be read; {listed}"
        )
