"""What each key of a search's file, or option of the command line, may say.

A reader takes the value and where it stands, `--budget` or `file.yaml: budget`, which its UserError
begins with; it returns the value as `Search` holds it. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from levit_ablate.config import Experiment
from levit_ablate.errors import UserError, closest
from levit_ablate.schema import check_keys, read_word

COSTS = ("flops", "params", "latency")
OBJECTIVES = ("accuracy", *COSTS)
SAMPLERS = ("tpe", "nsga2", "gp", "random", "grid")
PRUNERS = ("none", "asha", "median", "wilcoxon")
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BASELINE = "baseline"
"""As a budget: what the baseline costs."""


def _amount(said: Any, cost: str, where: str) -> float | str:
    text = str(read_word(said)).strip().lower()
    if text == BASELINE and cost != "latency":
        return BASELINE
    units = SECONDS if cost == "latency" else SUFFIXES
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*([a-z]*)", text)
    if isinstance(said, bool) or not match or match[2] not in units or float(match[1]) <= 0:
        example = "5ms" if cost == "latency" else "305M, or baseline"
        raise UserError(f"{where}: {said!r} is no amount; write {example}")
    amount = float(match[1]) * units[match[2]]
    if not math.isfinite(amount):
        raise UserError(f"{where}: {said!r} is no amount that anything could cost")
    return amount


def amount_said(amount: float | str, cost: str) -> str:
    """A budget as a file says it."""
    return f"{amount}s" if cost == "latency" else str(amount)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {value!r} is no mapping of names to values")
    return value


def _space(value: Any, where: str) -> dict[str, Any]:
    """With the numbers of stages as text: YAML has them as numbers, the command line has not."""
    return {
        key: {str(stage): setting for stage, setting in said.items()}
        if isinstance(said, Mapping)
        else said
        for key, said in _mapping(value, where).items()
    }


def _conditions(value: Any, where: str) -> Mapping[str, Any]:
    file, _, key = where.rpartition(": ")
    check_keys(_mapping(value, where), Experiment, file, f"{key}.")
    if "seed" in value:
        raise UserError(f"{where}.seed: a search has seeds of its own; set seeds")
    return value


def _budget(value: Any, where: str) -> dict[str, float | str]:
    """Costs and the most of each."""
    found: dict[str, float | str] = {}
    for cost, most in _mapping(value, where).items():
        if cost not in COSTS:
            raise UserError(f"{where}.{cost}: unknown; {closest(cost, COSTS)}")
        found[cost] = _amount(most, cost, f"{where}.{cost}")
    return found


def _objectives(value: Any, where: str) -> tuple[str, ...]:
    words = _words(value, where)
    for word in words:
        if word not in OBJECTIVES:
            raise UserError(f"{where}: {word!r}: {closest(word, OBJECTIVES)}")
    if words[:1] != ("accuracy",) or len(words) > 2 or len(set(words)) < len(words):
        raise UserError(f"{where}: accuracy, or accuracy and one cost ({', '.join(COSTS)})")
    return words


def _words(value: Any, where: str) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or not all(isinstance(word, str) for word in listed):
        raise UserError(f"{where}: {value!r} is no list of names")
    return tuple(word.strip() for word in listed if word.strip())


def _one_of(known: Sequence[str]) -> Any:
    def check(value: Any, where: str) -> str:
        if value not in known:
            raise UserError(f"{where}: {value!r} is not a choice; {closest(str(value), known)}")
        return str(value)

    return check


def _count(low: int) -> Any:
    def check(value: Any, where: str) -> int:
        if type(value) is not int or value < low:
            raise UserError(f"{where}: {value!r} is no whole number from {low} on")
        return value

    return check


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    seeds = tuple(map(read_word, listed if isinstance(listed, Sequence) else [listed]))
    if not seeds or not all(type(seed) is int and 0 <= seed < 10**9 for seed in seeds):
        raise UserError(f"{where}: {value!r} is no list of seeds (0,1,2)")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: {value!r}: a seed stands twice")
    return seeds


READERS: dict[str, Any] = {
    "space": _space,
    "objectives": _objectives,
    "budget": _budget,
    "sampler": _one_of(SAMPLERS),
    "pruner": _one_of(PRUNERS),
    "trials": _count(1),
    "seeds": _seeds,
    "enqueue": _words,
    "given": _conditions,
    "trial": _conditions,
    "confirm": _count(0),
    "confirm_seeds": _seeds,
}
