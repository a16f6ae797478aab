"""Checks of a path that a user gave.

`Path.is_file` and `Path.is_dir` raise OSError for a name that is too long and for a path through a
folder that may not be read; these return false.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_file(path: Path | str) -> bool:
    """Return whether a file is there; false where the name cannot be one."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path | str) -> bool:
    """Return whether a folder is there; false where the name cannot be one."""
    return os.path.isdir(path)  # noqa: PTH112
