"""What lies in an image folder and is not used: counted, so that it can be said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from levit_ablate.data.folder_layout import PARTS, folders, is_image, reading_folders, shown, some


def left_out(root: Path, parts: Iterable[str], classes: tuple[str, ...]) -> list[str]:
    """The folders and files that are not used: one line for each kind, none if all are used.

    Raises UserError where a folder cannot be read.
    """
    with reading_folders():
        files: Counter[str] = Counter()
        for part in parts:
            files += _files_left_out(root / part)
        unused = [
            name
            for name in folders(root)
            if name not in PARTS and any((root / name / each).is_dir() for each in classes)
        ]
    lines = []
    if unused:
        lines.append(
            f"{some(unused)}: with classes of train, but not used: the parts are train, val (or "
            f"valid, validation) and test"
        )
    if files:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(files.items()))
        lines.append(
            f"{files.total():,} files left out, as images are CLASS/IMAGE with a suffix of "
            f"images: {counts}"
        )
    return [f"data.root: {root}: {line}" for line in lines]


def _files_left_out(part: Path) -> Counter[str]:
    """What the files are that a part does not use, and how many."""
    kinds: Counter[str] = Counter()
    with os.scandir(part) as entries:
        loose = [entry.name for entry in entries if entry.is_file()]
    kinds["outside of class folders"] += sum(map(is_image, loose))
    for name in folders(part):
        for folder, _, files in os.walk(part / name):
            inside = Path(folder).relative_to(part / name).parts
            hidden = any(each.startswith(".") for each in inside)
            for file in files:
                visible = file.lstrip(".")
                if hidden or file != visible:
                    kinds["hidden"] += is_image(visible.removeprefix("_"))
                elif not is_image(file):
                    suffix = Path(file).suffix.lower()
                    kinds[shown(suffix) if suffix else "without a suffix"] += 1
                elif inside:
                    kinds["in folders below"] += 1
    return +kinds  # without those of which there is none
