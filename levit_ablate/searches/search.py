"""Searches, which are files: what is searched, for what, within which budget, and how.

Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from levit_ablate import library
from levit_ablate.errors import UserError, closest
from levit_ablate.library import BASELINE, SEARCHES, conditions, line
from levit_ablate.schema import Reader, fields_from, merge, named, read_word, read_yaml, seeds_from

FEWEST_SEEDS = 5
"""Fewer cannot reach Optuna's threshold of 0.1 in Wilcoxon's test before the last seed."""
OTHERS = "others"
"""Stages that nothing else is said of, in a space."""
COSTS = ("flops", "params", "latency")
OBJECTIVES = ("accuracy", *COSTS)
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


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
    """Settings with the numbers of stages as text, which YAML has as numbers."""
    return {
        key: {str(stage): setting for stage, setting in said.items()}
        if isinstance(said, Mapping)
        else said
        for key, said in _mapping(value, where).items()
    }


def _budget(value: Any, where: str) -> dict[str, float | str]:
    """The most of each cost, in multiply-adds, parameters or seconds; or `baseline`."""
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


def _count(low: int) -> Reader:
    def read(value: Any, where: str) -> int:
        if type(value) is not int or value < low:
            raise UserError(f"{where}: {value!r} is no whole number from {low} on")
        return value

    return read


_seeds = partial(seeds_from, counted=False)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search as its file has it."""

    name: str
    """The file's name, without its suffix."""
    path: Path
    """The file."""
    summary: Annotated[str, line("what is searched")]
    """One line on what it is about."""
    space: Annotated[Mapping[str, Any], _space] = field(default_factory=dict)
    """Settings, as `space_from` takes them."""
    objectives: Annotated[tuple[str, ...], _objectives] = ("accuracy",)
    """Accuracy alone, or accuracy and a cost: then a front is looked for."""
    budget: Annotated[Mapping[str, float | str], _budget] = field(default_factory=dict)
    """The most of a cost, in multiply-adds, parameters or seconds; or `baseline`."""
    sampler: Literal["tpe", "nsga2", "gp", "random", "grid"] = "tpe"
    pruner: Literal["none", "asha", "median", "wilcoxon"] = "asha"
    trials: Annotated[int, _count(1)] = 50
    """How many networks are trained, those included that are given up early."""
    seeds: Annotated[tuple[int, ...], _seeds] = (0,)
    """Seeds of the trainings of a trial, whose mean accuracy counts."""
    enqueue: Annotated[tuple[str, ...], _words] = (library.BASELINE,)
    """Ablations by name that are tried first, whatever the sampler would choose."""
    given: Annotated[Mapping[str, Any], conditions("a search")] = field(default_factory=dict)
    """The conditions: parts of an experiment."""
    trial: Annotated[Mapping[str, Any], conditions("a search")] = field(default_factory=dict)
    """Parts of an experiment in which a trial differs from them: fewer epochs."""
    confirm: Annotated[int, _count(0)] = 3
    """How many of the best are trained again, on fresh seeds and without what `trial` says."""
    confirm_seeds: Annotated[tuple[int, ...], _seeds] = (101, 102, 103)
    """Fresh: no trial has them."""

    @property
    def cost(self) -> str:
        """The cost that a front is looked for against, or the budget's; flops else."""
        return next(iter([*self.objectives[1:], *self.budget]), "flops")


KEYS = tuple(n for n in Search.__dataclass_fields__ if n not in ("name", "path"))


def read(name: str) -> Search:
    """Return the search of this name, or in this file. Raises UserError, with the closest name."""
    return read_file(library.path_of(name, SEARCHES))


def read_file(path: Path) -> Search:
    """Read one file and check what it says. Raises UserError with file and key."""
    content = read_yaml(path)
    with named(str(path)):
        summary = line("what is searched")(content.get("summary"), "summary")
        return changed(Search(name=path.stem, path=path, summary=summary), content)


def changed(search: Search, said: Mapping[str, Any]) -> Search:
    """Return the search with what a file or the caller says in place of its own. UserError.

    Mappings are laid over each other.
    """
    given = {key: value for key, value in said.items() if value is not None}
    values = fields_from(Search, given, "", without=("name", "path"))
    values["space"] = _over(search.space, values.get("space", {}))
    for key in ("budget", "given", "trial"):
        values[key] = merge(getattr(search, key), values.get(key, {}))
    search = replace(search, **values)
    if again := set(search.seeds) & set(search.confirm_seeds):
        raise UserError(
            f"confirm_seeds: {min(again)} is a seed of the trials; what is confirmed needs fresh "
            f"ones"
        )
    if search.pruner == "wilcoxon" and len(search.seeds) < FEWEST_SEEDS:
        raise UserError(
            f"pruner: wilcoxon compares over seeds, and tells nothing from fewer than "
            f"{FEWEST_SEEDS}; give seeds=0,1,2,3,4"
        )
    if len(search.objectives) > 1 and search.pruner != "none":
        if "pruner" in said:
            raise UserError(
                f"pruner: {search.pruner}: a search for a front is not pruned by accuracy "
                f"alone; use none"
            )
        search = replace(search, pruner="none")
    return search


def _over(below: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """A space laid over another: of a number, one stage's setting leaves the others theirs."""
    kept = {
        key: {OTHERS: setting}
        if isinstance(space.get(key), Mapping) and not isinstance(setting, Mapping)
        else setting
        for key, setting in below.items()
    }
    return merge(kept, space)
