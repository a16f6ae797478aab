"""The index of an image folder: every image is checked once, and later runs open the index at once.

`folder_layout` says how the images lie. The index holds paths and labels, no images: a path and 12
bytes an image, twice while it is made, once when it is open; it is then mapped from the disk and
shared by all processes. On the disk it is a folder: a header in JSON under its digest, and three
arrays a part.

An index is valid until a file is added, removed or renamed. An image that is overwritten in place
goes unnoticed, unless it could not be read before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy
from filelock import FileLock

from levit_ablate.data.decoding import check_image
from levit_ablate.data.folder_layout import (
    PARTS,
    Listing,
    class_names,
    folder_state,
    left_out,
    list_parts,
    shown,
    some,
)
from levit_ablate.errors import RunError, UserError

Array = numpy.ndarray[Any, Any]
FORMAT = 3
"""Version of the files; an index of another version is made anew."""
UNREADABLE = "unreadable.txt"
"""The file beside an index that lists the unreadable images."""


@dataclass(frozen=True)
class Part:
    """The images of `train`, `val` or `test`, ordered by class and name.

    Each process maps the arrays from the disk, read-only, when it first uses them.
    """

    name: str
    root: Path
    folder: Path
    """Where the index is kept."""
    fingerprint: str
    """The index's."""

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

    def kept(self, kind: str) -> Path:
        """The file of an array, with the fingerprint: an index made anew has others."""
        return self.folder / f"{self.name}_{kind}_{self.fingerprint}.npy"

    def _mapped(self, kind: str) -> Array:
        try:
            return numpy.load(self.kept(kind), mmap_mode="r")
        except FileNotFoundError as error:
            raise RunError(
                f"the images in {self.root} changed while they were in use; start again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Index:
    """A checked image folder."""

    root: Path
    folder: Path
    """Where the index is kept, with the list of unreadable images."""
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    """The parts that exist, `train` always."""
    max_side: int
    """The largest height or width of any image, in pixels."""
    fingerprint: str
    """16 hexadecimal digits from relative paths and contents, wherever the folder lies."""
    skipped: tuple[str, ...]
    """Path and reason of the unreadable images that are left out."""
    left_out: tuple[str, ...]
    """Unused files and folders when the index was made, a line for each kind."""

    @property
    def evaluation_parts(self) -> list[str]:
        """The validation and the test part: ["val", "test"], ["valid", "test"] …

        A single one is the test set, as the paper uses ImageNet's validation images.
        """
        return [name for name in PARTS[1:] if name in self.parts]


def open_index(
    root: Path,
    cache: Path,
    on_error: Literal["stop", "skip"] = "stop",
    num_workers: int | None = None,
) -> Index:
    """Open the index of a folder from `cache`, or make it: then every image is decoded once.

    Where several processes open it one makes it, with `num_workers` workers (one for each core
    unless told otherwise), and the others wait. Raises UserError, in a line, where the layout is
    wrong, where `cache` cannot be written, and for unreadable images unless `on_error` is skip.
    """
    classes = class_names(root)
    root, cache = root.resolve(), cache.absolute()
    folder = cache / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            header = _read_header(folder)
            if header is None or not _is_current(header, root, folder):
                header = _make_index(root, classes, folder, num_workers)
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
    """Raise UserError for unreadable images, unless they are to be skipped and others remain."""
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


def _read_header(folder: Path) -> dict[str, Any] | None:
    """Read the header of an index; None where there is none, a damaged or an old one."""
    try:
        digest, _, text = (folder / "header").read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return json.loads(text) if digest == _header_digest(text) else None


def _header_digest(text: str) -> str:
    return f"{FORMAT} {hashlib.sha256(text.encode()).hexdigest()}"


def _is_current(header: dict[str, Any], root: Path, folder: Path) -> bool:
    """Whether the images are those that were indexed, and the arrays those that were written."""
    files = {folder / name: digest for name, digest in header["files"].items()}
    return (
        header["state"] == folder_state(root)
        and all(_is_still_unreadable(root / path, time) for path, _, time in header["unreadable"])
        and all(path.is_file() and _digest(path) == digest for path, digest in files.items())
    )


def _is_still_unreadable(path: Path, time: int | None) -> bool:
    """Whether an image that was unreadable, last changed at `time`, still is.

    Without a time the file could not even be opened, perhaps for another reason than itself.
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


def _make_index(
    root: Path, classes: tuple[str, ...], folder: Path, num_workers: int | None
) -> dict[str, Any]:
    """List, check and write, in place of what `folder` holds, all at once or not at all."""
    state = folder_state(root)
    listed = list_parts(root, classes)
    unused = left_out(root, listed, classes)
    making, old = folder.with_suffix(".making"), folder.with_suffix(".old")
    for left in (making, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    making.mkdir()
    try:
        header = _write(classes, listed, making, num_workers)
        header |= {"state": state, "left_out": unused}
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
    classes: tuple[str, ...], listed: dict[str, Listing], folder: Path, num_workers: int | None
) -> dict[str, Any]:
    """Check all images and write the arrays of the readable ones; return the header."""
    from torch.utils.data import ConcatDataset  # torch takes a second to load

    from levit_ablate.data.loader import over_files

    paths: Any = ConcatDataset(listed.values())  # type: ignore[arg-type] # sequences are enough
    images = ((part, position) for part in listed for position in range(len(listed[part])))
    readable = {part: Listing(listing.root) for part, listing in listed.items()}
    unreadable: list[tuple[str, str, int | None]] = []
    digest, max_side = hashlib.sha256(), 0
    doing = "checking images"
    with over_files(check_image, paths.__getitem__, len(paths), doing, num_workers) as checks:
        for (part, position), checked in zip(images, checks, strict=True):
            path = listed[part].relative(position)
            if checked.error:
                time = _changed_at(listed[part][position]) if checked.digest else None
                unreadable.append((os.fsdecode(path), checked.error, time))
            else:
                digest.update(path + b"\0" + checked.digest)
                max_side = max(max_side, checked.side)
                readable[part].add(path, listed[part].labels[position])
    fingerprint = digest.hexdigest()[:16]
    for part, listing in readable.items():
        for kind in ("labels", "offsets", "paths"):
            file = Part(part, listing.root, folder, fingerprint).kept(kind)
            numpy.save(file, numpy.asarray(getattr(listing, kind)))
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
        "num_images": len(paths),
        "max_side": max_side,
        "fingerprint": fingerprint,
        "unreadable": unreadable,
        "emptied": emptied,
        "files": {path.name: _digest(path) for path in sorted(folder.iterdir())},
    }
