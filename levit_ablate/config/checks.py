"""Checks that all configs share: choices and ranges, with errors that say what is meant."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from levit_ablate.errors import UserError, closest


def section(config: Any) -> str:
    """The keys that lead to a config's fields in an experiment, with a dot after each."""
    name = type(config).__name__.lower()
    return "" if name == "experiment" else f"{name}."


def check_literals(config: Any) -> None:
    """Refuse a value outside its field's `Literal`, with the closest one. Raises UserError."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = closest(value, get_args(hint))
            raise UserError(f"{section(config)}{name}: {value!r} is not a choice; {choices}")


def check_range(
    config: Any, low: float, *names: str, above: bool = False, high: float = math.inf
) -> None:
    """Refuse a number below `low` (or equal to it, with `above`) or beyond `high`."""
    for name in names:
        value = getattr(config, name)
        if not (low < value if above else low <= value) or not value <= high:
            bound = f"{'above' if above else 'at least'} {low:,}"
            bound += f" and at most {high:,}" if high < math.inf else ""
            raise UserError(f"{section(config)}{name}: {value} must be {bound}")
