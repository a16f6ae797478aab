"""Whether a path that a user gave leads to a file or a folder.

`Path.is_file` and `Path.is_dir` raise OSError for a name that is too long, and for a path through a
folder that may not be read; these are false.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_file(path: Path | str) -> bool:
    """Whether there is a file; false where the name cannot be one."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder; false where the name cannot be one."""
    return os.path.isdir(path)  # noqa: PTH112
