"""List an image folder of ImageNet's layout; say what is wrong with it, and what is not used.

`train/CLASS/IMAGE`, and `val/` or `test/` beside it with the same classes. `val` may be called
`valid` or `validation` too. Class names are compared in Unicode's normal form (NFC): a Mac writes
an accent as a character of its own.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from levit_ablate.errors import UserError

Array = numpy.ndarray[Any, Any]
VALIDATION = ("val", "valid", "validation")
"""Names of the validation images' folder; a dataset has one of them."""
PARTS = ("train", *VALIDATION, "test")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".jfif", ".gif",
)  # fmt: skip
"""torchvision's, and two more; of an animation the first picture is used."""
NAMED = 5
"""Number of bad things that an error names."""


class Files(Sequence[Path]):
    """The paths of files below a root, (N,) bytes."""

    def __init__(self, root: Path, relative: Array) -> None:
        self.root = root
        self.relative = relative

    def __len__(self) -> int:
        return len(self.relative)

    def __getitem__(self, position: int) -> Path:  # type: ignore[override] # no slices
        return self.root / os.fsdecode(self.relative[position])


def class_names(root: Path) -> tuple[str, ...]:
    """List the classes of a folder, which are the folders in its `train`. Raises UserError."""
    with _reading_folders():
        if not root.is_dir():
            raise UserError(
                f"data.root: there is no folder {root}; it is to hold train/CLASS/IMAGE"
            )
        if not (root / "train").is_dir():
            raise UserError(f"data.root: {root} has no folder train; train/CLASS/IMAGE is needed")
        names = list(_class_folders(root / "train").values())
    if len(names) < 2:
        contents = f"only one class, {some(names)}" if names else "no class folders"
        raise UserError(f"data.root: {root / 'train'} has {contents}; at least two are needed")
    return tuple(names)


def folder_state(root: Path) -> list[list[Any]]:
    """The times of the folders, which change when an image is added, removed or renamed.

    Raises UserError where one cannot be read.
    """
    with _reading_folders():
        parts = _parts(root)
        folders = parts + [part / name for part in parts for name in _folders(part)]
        return [[str(each.relative_to(root)), each.stat().st_mtime_ns] for each in folders]


def list_parts(root: Path, classes: tuple[str, ...]) -> tuple[dict[str, Array], list[str]]:
    """List the images of every part, and describe what is not used, a line for each kind.

    A part is an array (N,) of `label`, int32, and `path`, bytes relative to the root, ordered by
    class and name. Raises UserError where there is neither val nor test, where a part has other
    classes than train, where a class has no image, and where a folder cannot be read.
    """
    with _reading_folders():
        parts = [part.name for part in _parts(root)]
        if len(parts) < 2:
            raise UserError(
                f"data.root: {root} has neither val nor test beside train; one of them is needed, "
                f"with the same classes"
            )
        unused: Counter[str] = Counter()
        listed = {part: _list_part(root, part, classes, unused) for part in parts}
        folders = [
            name
            for name in _folders(root)
            if name not in PARTS and any((root / name / each).is_dir() for each in classes)
        ]
    lines = []
    if folders:
        lines.append(
            f"{some(folders)}: with classes of train, but not used: the parts are train, val (or "
            f"valid, validation) and test"
        )
    if unused:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(unused.items()))
        lines.append(
            f"{unused.total():,} files left out, as images are CLASS/IMAGE with a suffix of "
            f"images: {counts}"
        )
    return listed, [f"data.root: {root}: {line}" for line in lines]


def is_image(name: str) -> bool:
    """Whether a file's name is an image's. A hidden file, such as a Mac's `._1.jpg`, is none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def some(names: Iterable[str], separator: str = ", ") -> str:
    """Join the first few names, and say how many more there are."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - NAMED} more" if every[NAMED:] else ""
    return separator.join(every[:NAMED]) + more


def shown(name: str) -> str:
    """Escape what cannot be printed in a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@contextlib.contextmanager
def _reading_folders() -> Iterator[None]:
    """Raise UserError where a folder cannot be listed."""
    try:
        yield
    except OSError as error:
        raise UserError(f"data.root: {error.filename} cannot be read: {error.strerror}") from error


def _parts(root: Path) -> list[Path]:
    parts = [part for name in PARTS if (part := root / name).is_dir()]
    several = [part.name for part in parts if part.name in VALIDATION]
    if several[1:]:
        raise UserError(
            f"data.root: {root} has {' and '.join(several)}, which all are names of the validation "
            f"images; keep one of them"
        )
    return parts


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _class_folders(folder: Path) -> dict[str, str]:
    """Map the class names of a part (NFC) to the folders' names as written, sorted.

    Raises UserError where two of them look the same.
    """
    names: dict[str, str] = {}
    for name in _folders(folder):
        other = names.setdefault(_nfc(name), name)
        if other != name:
            raise UserError(
                f"data.root: {folder} has two class folders that look the same, {shown(name)}: "
                f"their names differ in Unicode's normal form alone; merge them, or rename one"
            )
    return names


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _list_part(root: Path, part: str, classes: tuple[str, ...], unused: Counter[str]) -> Array:
    """List the images of a part, and count its other files by kind."""
    folders = _class_folders(root / part)
    wanted = {_nfc(name) for name in classes}
    for names, problem in (
        (folders.keys() - wanted, "has classes that train has not"),
        (wanted - folders.keys(), "has not all classes of train, it lacks"),
    ):
        if names:
            raise UserError(f"data.root: {root / part} {problem}: {some(sorted(names))}")
    loose = sum(is_image(path.name) for path in (root / part).iterdir() if path.is_file())
    if loose:
        unused["outside of class folders"] += loose
    by_class = [_images(root, f"{part}/{folders[_nfc(name)]}", unused) for name in classes]
    counts = [len(paths) for paths in by_class]
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise UserError(
            f"data.root: {root / part} has class folders without images: {some(empty)}; they lie "
            f"directly in it, with a suffix of images ({', '.join(IMAGE_SUFFIXES)}); fill or "
            f"remove them"
        )
    paths = numpy.concatenate(by_class)
    listed = numpy.empty(len(paths), dtype=[("label", "i4"), ("path", paths.dtype)])
    listed["label"] = numpy.repeat(numpy.arange(len(classes)), counts)
    listed["path"] = paths
    return listed


def _images(root: Path, folder: str, unused: Counter[str]) -> Array:
    """List the images of a class, sorted, and count the other files in and below its folder."""

    def stop(error: OSError) -> None:
        if error.filename == str(root / folder):  # a folder below it is not used
            raise error

    images = []
    for current, _, files in os.walk(root / folder, onerror=stop):
        below = Path(current).relative_to(root / folder).parts
        in_hidden = any(name.startswith(".") for name in below)
        for file in files:
            if in_hidden or file.startswith("."):
                if is_image(file.lstrip("._")):
                    unused["hidden"] += 1
            elif not is_image(file):
                unused[shown(Path(file).suffix.lower()) or "without a suffix"] += 1
            elif below:
                unused["in folders below"] += 1
            else:
                images.append(os.fsencode(f"{folder}/{file}"))
    return numpy.array(sorted(images), dtype=bytes)
