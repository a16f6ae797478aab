"""Small searches, as plans and as processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from networks import SMALL, write_small
from processes import FORKS, Started

from levit_ablate.recipes import RECIPES
from levit_ablate.schema import plain
from levit_ablate.searches.plan import SearchPlan, plan
from levit_ablate.searches.search import changed, read

WORDS = """
equal_flops --trials 4 --confirm 0 --sampler random --pruner none --recipe smoke
--design.distillation none --recipe.batch_size 512 --hardware.accelerator cpu
--architecture small.yaml --space.width 4:32:2 --format json
""".split()
"""In this space every network can be brought within the budget, whatever is drawn."""
LONG = ("--recipe.epochs", "16", "--trials", "3")
"""Of some seconds each, in which they can be killed."""
GIVEN = {
    "architecture": SMALL,
    "design": {"distillation": "none"},
    "recipe": {**plain(RECIPES["smoke"]), "batch_size": 128},
    "hardware": {"accelerator": "cpu"},
}


def small(name: str = "equal_flops", **said: Any) -> SearchPlan:
    """A search of a small network, with what is said in place of the file's."""
    return plan(changed(read(name), {"pruner": "none", **said}), GIVEN)


def search(folder: Path, *words: str) -> Started:
    """`levit-ablate search` of a small network."""
    write_small(folder)
    return Started(FORKS, "search", *WORDS, *words, cwd=folder)


def workers_of(process: Started) -> list[int]:
    """The processes that a search has started, each the first of its session."""
    own = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in own if _is_leader(int(child))]


def _is_leader(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
