"""Making the index of an image folder, and telling whether one that was made still holds.

It lies in a folder of its own: a header in JSON under its digest, and three arrays a part.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy

from levit_ablate.data.folder_layout import Listing, folder_state, list_parts, shown
from levit_ablate.data.left_out import left_out
from levit_ablate.data.parallel import over_files
from levit_ablate.data.verify import check_image

FORMAT = 3
"""Of what is written; an index of another format is made anew."""
UNREADABLE = "unreadable.txt"


def read_header(folder: Path) -> dict[str, Any] | None:
    """What an index says of itself; None where there is none, a damaged or an old one."""
    try:
        digest, _, text = (folder / "header").read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return json.loads(text) if digest == _header_digest(text) else None


def _header_digest(text: str) -> str:
    return f"{FORMAT} {hashlib.sha256(text.encode()).hexdigest()}"


def is_current(header: dict[str, Any], root: Path, folder: Path) -> bool:
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


def make_index(
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
        header = _write(root, classes, listed, making, num_workers)
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
    paths = (root / os.fsdecode(path) for path in chain.from_iterable(listed.values()))
    with closing(over_files(check_image, paths, count, "checking images", num_workers)) as checks:
        every = (
            (part, path, label)
            for part, listing in listed.items()
            for path, label in zip(listing, listing.labels, strict=True)
        )
        for (part, path, label), checked in zip(every, checks, strict=True):
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
            numpy.save(folder / array_name(part, kind, fingerprint), array)
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


def array_name(part: str, kind: str, fingerprint: str) -> str:
    """With the fingerprint, so that an index made anew is not taken for the one that was opened."""
    return f"{part}_{kind}_{fingerprint}.npy"
