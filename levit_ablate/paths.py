"""Checks of a path that a user gave, and files that are written as a whole.

`Path.is_file` and `Path.is_dir` raise OSError for a name that is too long and for a path through a
folder that may not be read; `is_file` and `is_folder` return false.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_file(path: Path | str) -> bool:
    """Return whether a file is there; false where the name cannot be one."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path | str) -> bool:
    """Return whether a folder is there; false where the name cannot be one."""
    return os.path.isdir(path)  # noqa: PTH112


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of `path` once it is whole.

    One process at a time: what a killed one left there is overwritten.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
