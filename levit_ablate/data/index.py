"""The index of an image folder: which files there are, checked once, opened again at once.

The layout is ImageNet's: `train/CLASS/IMAGE`, and `val/` or `test/` beside it with the same
classes. No image is held. While it is made an entry costs about 300 bytes (its path, its outcome),
when it is open its path and 16 bytes more, mapped from the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy
from filelock import FileLock

from levit_ablate.data.parallel import in_processes
from levit_ablate.data.verify import IMAGE_SUFFIXES, check_image
from levit_ablate.errors import UserError

PARTS = ("train", "val", "test")
FORMAT = 1
"""Of the cache; a cache of another format is made anew."""
NAMED = 5
"""Of many bad things, those that an error names."""


@dataclass(frozen=True)
class Part:
    """The images of train, val or test, ordered by class and name."""

    root: Path
    cache: Path
    name: str
    skip: bool
    """Without the images that cannot be read."""

    @cached_property
    def _kept(self) -> numpy.ndarray[Any, Any]:
        readable = numpy.load(self.cache / f"{self.name}_readable.npy", mmap_mode="r")
        return numpy.flatnonzero(readable) if self.skip else numpy.arange(len(readable))

    @cached_property
    def _paths(self) -> tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]:
        """All paths as one run of bytes, and where each begins and the last ends."""
        names = numpy.load(self.cache / f"{self.name}_paths.npy", mmap_mode="r")
        return names, numpy.load(self.cache / f"{self.name}_offsets.npy", mmap_mode="r")

    @cached_property
    def labels(self) -> numpy.ndarray[Any, Any]:
        """The class of every image, (N,) int32."""
        labels = numpy.load(self.cache / f"{self.name}_labels.npy", mmap_mode="r")
        return labels[self._kept] if self.skip else labels

    def __len__(self) -> int:
        return len(self._kept)

    def path(self, position: int) -> Path:
        """The file of an image."""
        names, offsets = self._paths
        place = self._kept[position]
        relative = names[offsets[place] : offsets[place + 1]].tobytes()
        return self.root / os.fsdecode(relative)

    def __getstate__(self) -> dict[str, Any]:
        """Its fields alone: a worker process maps the files for itself."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


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
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}; it is to hold train/CLASS/IMAGE")
    if not (root / "train").is_dir():
        raise UserError(f"data.root: {root} has no folder train; train/CLASS/IMAGE is needed")
    names = _folders(root / "train")
    if len(names) < 2:
        found = f"only one class, {names[0]}" if names else "no class folders"
        raise UserError(f"data.root: {root / 'train'} has {found}; at least two are needed")
    return tuple(names)


def open_index(
    root: Path, cache: Path, on_error: Literal["stop", "skip"] = "stop", workers: int | None = None
) -> Index:
    """The index of a folder, opened from `cache` or made now: then every image is decoded once.

    It is made again when a class folder has changed. Raises UserError, in a line, where the layout
    is wrong, and for unreadable images unless `on_error` is skip; they are listed in a file.
    """
    classes = class_names(root)
    root = root.resolve()
    folder = cache / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):  # of several processes one makes it
            header = _header(folder)
            if header is None or header["state"] != _state(root):
                _make(root, classes, folder, workers)
                header = _header(folder)
    except OSError as error:
        raise UserError(
            f"hardware.work_dir: the index of {root} cannot be written to {cache}: {error.strerror}"
        ) from error
    assert header is not None
    return _opened(root, folder, header, on_error)


def _opened(root: Path, folder: Path, header: dict[str, Any], on_error: str) -> Index:
    bad = header["bad"]
    if bad and on_error == "stop":
        some = "; ".join(bad[:NAMED]) + (f"; and {len(bad) - NAMED} more" if bad[NAMED:] else "")
        raise UserError(
            f"data.root: {len(bad)} of {header['images']} images cannot be read: {some}; all are "
            f"listed in {folder / 'bad.txt'}; mend them, or go on without by --data.on_error skip"
        )
    parts = {name: Part(root, folder, name, skip=bool(bad)) for name in header["parts"]}
    for name, part in parts.items():
        empty = set(range(len(header["classes"]))) - set(numpy.unique(part.labels).tolist())
        if empty:
            names = _some(header["classes"][label] for label in sorted(empty))
            raise UserError(f"data.root: {root / name}: no image of {names} can be read")
    return Index(
        root=root,
        classes=tuple(header["classes"]),
        parts=parts,
        max_side=header["max_side"],
        fingerprint=header["fingerprint"],
        skipped=tuple(bad),
    )


def _header(folder: Path) -> dict[str, Any] | None:
    """What a cache says of itself; None where there is none, or none of this format."""
    try:
        header: dict[str, Any] = json.loads((folder / "header.json").read_text(encoding="utf-8"))
        complete = all((folder / name).is_file() for name in header["files"])
        return header if header["format"] == FORMAT and complete else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(root: Path) -> list[Any]:
    """What changes when a file is added, removed or renamed: the folders and their times."""
    parts = [name for name in PARTS if (root / name).is_dir()]
    return [
        [
            name,
            [
                [folder, (root / name / folder).stat().st_mtime_ns]
                for folder in _folders(root / name)
            ],
        ]
        for name in parts
    ]


def _make(root: Path, classes: tuple[str, ...], folder: Path, workers: int | None) -> None:
    """Scan, check and write, in place of what `folder` holds, all at once or not at all."""
    state = _state(root)
    parts = [name for name, _ in state]
    if parts == ["train"]:
        raise UserError(f"data.root: {root} has neither val nor test beside train; one is needed")
    for name in parts:
        _check_classes(root / name, classes)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        header = _write(root, parts, classes, making, workers)
        header |= {"format": FORMAT, "state": state, "parts": parts, "classes": list(classes)}
        (making / "bad.txt").write_text("\n".join(header["bad"]), encoding="utf-8")
        header["files"] = sorted(path.name for path in making.iterdir())
        (making / "header.json").write_text(json.dumps(header), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write(
    root: Path, parts: list[str], classes: tuple[str, ...], folder: Path, workers: int | None
) -> dict[str, Any]:
    """Write the arrays of every part; what was found out of all images together."""
    digest, bad, max_side, images = hashlib.sha256(), [], 0, 0
    for part in parts:
        names, labels = _scan(root, part, classes)
        offsets = numpy.cumsum([0, *map(len, names)], dtype=numpy.int64)
        readable = numpy.ones(len(names), dtype=bool)
        checks = in_processes(partial(check_image, root), names, f"checking {part}", workers)
        for position, (name, check) in enumerate(zip(names, checks, strict=True)):
            if check.error:
                readable[position] = False
                bad.append(f"{os.fsdecode(name)}: {check.error}")
            else:
                digest.update(name + b"\0" + check.digest)
                max_side = max(max_side, check.side)
        images += len(names)
        arrays: dict[str, numpy.ndarray[Any, Any]] = {
            "paths": numpy.frombuffer(b"".join(names), dtype=numpy.uint8),
            "offsets": offsets,
            "labels": numpy.array(labels, dtype=numpy.int32),
            "readable": readable,
        }
        for kind, array in arrays.items():
            numpy.save(folder / f"{part}_{kind}.npy", array)
    return {
        "bad": bad, "images": images, "max_side": max_side, "fingerprint": digest.hexdigest()[:16],
    }  # fmt: skip


def _scan(root: Path, part: str, classes: tuple[str, ...]) -> tuple[list[bytes], list[int]]:
    """Paths from the root, and labels. Raises UserError where a class has no image."""
    names: list[bytes] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(classes):
        with os.scandir(root / part / name) as entries:
            found = sorted(
                os.fsencode(f"{part}/{name}/{entry.name}")
                for entry in entries
                if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".")
            )
        names += found
        labels += [label] * len(found)
        if not found:
            empty.append(name)
    if empty:
        raise UserError(f"data.root: {root / part}: no images in {_some(empty)}; remove or fill it")
    return names, labels


def _check_classes(folder: Path, classes: tuple[str, ...]) -> None:
    own = set(_folders(folder))
    for names, said in (
        (own - set(classes), "which train has not"),
        (set(classes) - own, "missing, which train has"),
    ):
        if names:
            raise UserError(f"data.root: {folder}: classes {said}: {_some(sorted(names))}")


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - NAMED} more" if every[NAMED:] else ""
    return ", ".join(every[:NAMED]) + more
