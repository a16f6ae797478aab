"""The index of an image folder: every image is checked once, and later runs open the index at once.

`folder_layout` says how the images lie. The index holds paths and labels, no images, and is mapped
from the disk, shared by all processes. It is a folder: an array a part, and a header in JSON under
its digest, which is written last.

An index is valid until a file is added, removed or renamed. An image that is overwritten in place
goes unnoticed, unless it could not be read before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy
from filelock import FileLock

from levit_ablate.data.decoding import check_image
from levit_ablate.data.folder_layout import (
    PARTS,
    Array,
    Files,
    class_names,
    folder_state,
    list_parts,
    shown,
    some,
)
from levit_ablate.errors import RunError, UserError

FORMAT = 4
"""Version of the files; an index of another version is made anew."""
UNREADABLE = "unreadable.txt"
"""The file beside an index that lists the unreadable images."""


@dataclass(frozen=True)
class Part:
    """The images of `train`, `val` or `test`, ordered by class and name."""

    name: str
    root: Path
    folder: Path
    """Where the index is kept."""
    fingerprint: str
    """The index's."""

    @cached_property
    def images(self) -> Array:
        """The `label` and the `path` of every image, (N,); each process maps it read-only.

        Raises RunError where the index was made anew.
        """
        try:
            return numpy.load(self.kept("images"), mmap_mode="r")
        except FileNotFoundError as error:
            raise RunError(
                f"the images in {self.root} changed while they were in use; start again"
            ) from error

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Array:
        """The class of every image: (N,) int32."""
        return self.images["label"]

    @property
    def files(self) -> Files:
        """The file of every image."""
        return Files(self.root, self.images["path"])

    def kept(self, kind: str) -> Path:
        """The file of an array, with the fingerprint: an index made anew has others."""
        return self.folder / f"{self.name}_{kind}_{self.fingerprint}.npy"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the array."""
        return {name: value for name, value in vars(self).items() if name != "images"}


@dataclass(frozen=True)
class Index:
    """A checked image folder."""

    root: Path
    folder: Path
    """Where the index is kept, with the list of unreadable images."""
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
            header = _current_header(root, folder)
            if header is None:
                header = _make_index(root, classes, folder, num_workers)
    except OSError as error:
        raise UserError(
            f"hardware.work_dir: the index of {root} cannot be kept in {cache}: "
            f"{error.strerror or error}"
        ) from error
    _check_readable(header, root, folder, on_error)
    return Index(
        root=root,
        folder=folder,
        parts={part: Part(part, root, folder, header["fingerprint"]) for part in header["parts"]},
        max_side=header["max_side"],
        fingerprint=header["fingerprint"],
        skipped=tuple(f"{shown(path)}: {reason}" for path, reason in header["unreadable"]),
        left_out=tuple(header["left_out"]),
    )


def _check_readable(header: dict[str, Any], root: Path, folder: Path, on_error: str) -> None:
    """Raise UserError for unreadable images, unless they are to be skipped and others remain."""
    listed = f"all are listed in {folder / UNREADABLE}"
    unreadable = header["unreadable"]
    if unreadable and on_error == "stop":
        reasons = some((f"{path}: {reason}" for path, reason in unreadable), "; ")
        raise UserError(
            f"data.root: {len(unreadable)} of {header['num_images']} images in {root} cannot be "
            f"read: {reasons}; {listed}; mend them, or go on without them by --data.on_error skip"
        )
    if header["emptied"]:
        raise UserError(
            f"data.root: no image in {some(header['emptied'])} of {root} can be read; {listed}"
        )


def _current_header(root: Path, folder: Path) -> dict[str, Any] | None:
    """Read the header of an index; None where it is missing, damaged, old or no longer true."""
    try:
        digest, _, content = (folder / "header").read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != _header_digest(content):
        return None
    header: dict[str, Any] = json.loads(content)
    files = {folder / name: digest for name, digest in header["files"].items()}
    is_current = (
        header["state"] == folder_state(root)
        and all(check_image(root / path).error for path, _ in header["unreadable"])
        and all(path.is_file() and _digest(path) == digest for path, digest in files.items())
    )
    return header if is_current else None


def _header_digest(content: bytes) -> bytes:
    return f"{FORMAT} {hashlib.sha256(content).hexdigest()}".encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_index(
    root: Path, classes: tuple[str, ...], folder: Path, num_workers: int | None
) -> dict[str, Any]:
    """Check all images and write the index of the readable ones; return its header.

    A process may be killed at any time: without its header an index is made anew.
    """
    from levit_ablate.data.loader import over_files  # torch takes a second to load

    state = folder_state(root)
    listed, left_out = list_parts(root, classes)
    files = Files(root, numpy.concatenate([part["path"] for part in listed.values()]))
    is_readable = numpy.ones(len(files), dtype=bool)
    unreadable: list[tuple[str, str]] = []
    digest, max_side = hashlib.sha256(), 0
    with over_files(check_image, files, "checking images", num_workers) as checks:
        for position, checked in enumerate(checks):
            path = files.relative[position]
            if checked.error:
                is_readable[position] = False
                unreadable.append((os.fsdecode(path), checked.error))
            else:
                digest.update(path + b"\0" + checked.digest)
                max_side = max(max_side, checked.side)
    fingerprint = digest.hexdigest()[:16]
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)  # NFS keeps what another process has open
    emptied, files_written = [], [folder / UNREADABLE]
    ends = numpy.cumsum([len(images) for images in listed.values()])
    for name, chosen in zip(listed, numpy.split(is_readable, ends[:-1]), strict=True):
        images = listed[name][chosen]
        files_written.append(Part(name, root, folder, fingerprint).kept("images"))
        numpy.save(files_written[-1], images)
        missing = numpy.setdiff1d(range(len(classes)), images["label"])
        emptied += [f"{name}/{classes[label]}" for label in missing]
    lines = [f"{shown(path)}: {reason}\n" for path, reason in unreadable]
    (folder / UNREADABLE).write_text("".join(lines), encoding="utf-8")
    header = {
        "state": state,
        "parts": list(listed),
        "num_images": len(files),
        "max_side": max_side,
        "fingerprint": fingerprint,
        "unreadable": unreadable,
        "emptied": emptied,
        "left_out": left_out,
        "files": {path.name: _digest(path) for path in files_written},
    }
    content = json.dumps(header).encode()
    (folder / "header").write_bytes(_header_digest(content) + b"\n" + content)
    return header
