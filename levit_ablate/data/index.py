"""The index of an image folder: which files there are, checked once, opened again at once.

The layout is ImageNet's: `train/CLASS/IMAGE`, and `val/` or `test/` beside it with the same
classes. No image is held. An image costs its path from the root and 12 bytes: twice while the index
is made, once when it is open, and then they are mapped from the disk and shared by all processes.

An index is opened as it was made until one of these folders changes: a file is added, removed or
renamed. An image that is overwritten in place goes unnoticed, unless it could not be read before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from levit_ablate.data.verify import (
    Listing,
    check_image,
    check_images,
    folder_state,
    folders,
    list_parts,
    reading_folders,
    shown,
    some,
)
from levit_ablate.errors import RunError, UserError

FORMAT = 2
"""Of the cache; a cache of another format is made anew."""
UNREADABLE = "unreadable.txt"
Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """The images of train, val or test, ordered by class and name.

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
            path = self.folder / _array_name(self.name, kind, self.fingerprint)
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
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    """Those that exist, `train` always."""
    max_side: int
    """The largest height or width of any image, in pixels."""
    fingerprint: str
    """16 hexadecimal digits, of relative paths and contents, wherever the folder lies."""
    skipped: tuple[str, ...]
    """Path and reason of the unreadable images that are left out."""


def class_names(root: Path) -> tuple[str, ...]:
    """The classes of a folder, which are the folders in its `train`. Raises UserError."""
    with reading_folders():
        if not root.is_dir():
            raise UserError(
                f"data.root: there is no folder {root}; it is to hold train/CLASS/IMAGE"
            )
        if not (root / "train").is_dir():
            raise UserError(f"data.root: {root} has no folder train; train/CLASS/IMAGE is needed")
        names = folders(root / "train")
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
            header = _header(folder)
            if header is None or not _holds(header, root, folder):
                header = _make(root, classes, folder, num_workers)
    except OSError as error:
        said = error.strerror or error
        raise UserError(
            f"hardware.work_dir: the index of {root} cannot be kept in {cache}: {said}"
        ) from error
    _check_readable(header, root, folder, on_error)
    return Index(
        root=root,
        classes=classes,
        parts={part: Part(part, root, folder, header["fingerprint"]) for part in header["parts"]},
        max_side=header["max_side"],
        fingerprint=header["fingerprint"],
        skipped=tuple(f"{shown(path)}: {reason}" for path, reason, _ in header["unreadable"]),
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


def _header(folder: Path) -> dict[str, Any] | None:
    """What an index says of itself; None where there is none, a damaged or an old one."""
    try:
        digest, _, text = (folder / "header").read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return json.loads(text) if digest == _header_digest(text) else None


def _header_digest(text: str) -> str:
    return f"{FORMAT} {hashlib.sha256(text.encode()).hexdigest()}"


def _holds(header: dict[str, Any], root: Path, folder: Path) -> bool:
    """Whether the images are those that were indexed, and the arrays those that were written."""
    files = {folder / name: digest for name, digest in header["files"].items()}
    return (
        header["state"] == folder_state(root)
        and all(_is_unreadable(root / path, time) for path, _, time in header["unreadable"])
        and all(path.is_file() and _digest(path) == digest for path, digest in files.items())
    )


def _is_unreadable(path: Path, time: int | None) -> bool:
    """Whether an image that was unreadable, last changed at some time, is so still.

    Where there is no time the file could not even be read, which may have been no fault of its own.
    """
    return bool(check_image(path).error) if time is None else _changed_at(path) == time


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(
    root: Path, classes: tuple[str, ...], folder: Path, num_workers: int | None
) -> dict[str, Any]:
    """List, check and write, in place of what `folder` holds, all at once or not at all."""
    state = folder_state(root)
    listed = list_parts(root, classes)
    making, old = folder.with_suffix(".making"), folder.with_suffix(".old")
    for left in (making, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    making.mkdir()
    try:
        header = _write(root, classes, listed, making, num_workers) | {"state": state}
        text = json.dumps(header)
        (making / "header").write_text(f"{_header_digest(text)}\n{text}", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return header


def _write(
    root: Path,
    classes: tuple[str, ...],
    listed: dict[str, Listing],
    folder: Path,
    num_workers: int | None,
) -> dict[str, Any]:
    """Check all images and write the arrays of those that can be read; the header."""
    count = sum(map(len, listed.values()))
    readable = {part: Listing() for part in listed}
    unreadable: list[tuple[str, str, int | None]] = []
    digest, max_side = hashlib.sha256(), 0
    paths = chain.from_iterable(listed.values())
    with closing(check_images(root, paths, count, num_workers)) as checks, _progress() as progress:
        every = (
            (part, path, label)
            for part, listing in listed.items()
            for path, label in zip(listing, listing.labels, strict=True)
        )
        tracked = progress.track(checks, total=count, description="checking images")
        for (part, path, label), checked in zip(every, tracked, strict=True):
            if checked.error:
                name = os.fsdecode(path)
                time = _changed_at(root / name) if checked.digest else None
                unreadable.append((name, checked.error, time))
            else:
                digest.update(path + b"\0" + checked.digest)
                max_side = max(max_side, checked.side)
                readable[part].add(path, label)
    fingerprint = digest.hexdigest()[:16]
    for part, listing in readable.items():
        for kind in ("labels", "offsets", "paths"):
            array = numpy.asarray(getattr(listing, kind))
            numpy.save(folder / _array_name(part, kind, fingerprint), array)
    lines = [f"{shown(name)}: {reason}\n" for name, reason, _ in unreadable]
    (folder / UNREADABLE).write_text("".join(lines), encoding="utf-8")
    emptied = [
        f"{part}/{classes[label]}"
        for part, listing in readable.items()
        for label in sorted(set(range(len(classes))) - set(listing.labels))
    ]
    return {
        "classes": classes,
        "parts": list(listed),
        "num_images": count,
        "max_side": max_side,
        "fingerprint": fingerprint,
        "unreadable": unreadable,
        "emptied": emptied,
        "files": {path.name: _digest(path) for path in sorted(folder.iterdir())},
    }


def _array_name(part: str, kind: str, fingerprint: str) -> str:
    """With the fingerprint, so that an index made anew is not taken for the one that was opened."""
    return f"{part}_{kind}_{fingerprint}.npy"


def _progress() -> Progress:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
