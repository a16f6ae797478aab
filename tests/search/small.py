"""A small search that trains in seconds."""

from __future__ import annotations

from typing import Any

from levit_ablate.recipes import RECIPES
from levit_ablate.search.plan import SearchPlan, plan
from levit_ablate.search.search import changed, read
from levit_ablate.serialization import plain

ARCHITECTURE = {
    "stages": [
        {"depth": 1, "width": 16, "num_heads": 1},
        {"depth": 1, "width": 32, "num_heads": 2},
    ],
    "value_dim": 16,
    "stem_depth": 3,
}
GIVEN = {
    "architecture": ARCHITECTURE,
    "design": {"distillation": "none"},
    "recipe": {**plain(RECIPES["smoke"]), "batch_size": 128},
    "hardware": {"accelerator": "cpu"},
}


def small(name: str = "equal_flops", **said: Any) -> SearchPlan:
    """A search of a small network, with what is said in place of the file's."""
    return plan(changed(read(name), {"pruner": "none", **said}), GIVEN)
