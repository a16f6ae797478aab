"""A network that trains in seconds, for tests of what trains it."""

from __future__ import annotations

from pathlib import Path

import yaml

SMALL = {
    "stages": [
        {"depth": 1, "width": 16, "num_heads": 1},
        {"depth": 1, "width": 32, "num_heads": 2},
    ],
    "value_dim": 16,
    "stem_depth": 3,
}


def write_small(folder: Path) -> None:
    """As small.yaml, for `--architecture`."""
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
