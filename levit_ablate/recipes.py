"""The recipes by name: `--recipe smoke`. Imports no torch."""

from __future__ import annotations

from levit_ablate.config import Recipe

RECIPES = {
    "quick": Recipe(),
    "smoke": Recipe(epochs=2, warmup_epochs=1.0),
}
"""quick: half a minute on the digits. smoke: two epochs, to see that everything runs."""
