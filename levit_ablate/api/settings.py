"""The settings of an experiment as Python says them: the words of the command line. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args, get_type_hints

from levit_ablate.config import (
    Architecture,
    Data,
    Design,
    Experiment,
    Hardware,
    Recipe,
    Teacher,
    differences,
)
from levit_ablate.errors import UserError, closest
from levit_ablate.library import SUFFIXES
from levit_ablate.paths import is_file
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import check_keys, merge, plain, read_yaml

NAMED: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "data": {name: {"name": name} for name in get_args(get_type_hints(Data)["name"])},
    "recipe": {name: asdict(recipe) for name, recipe in RECIPES.items()},
}
"""Sections that have names: the fields that `recipe="smoke"` or `data="cifar10"` stand for."""

SECTIONS: dict[str, type] = {
    "architecture": Architecture,
    "data": Data,
    "design": Design,
    "hardware": Hardware,
    "recipe": Recipe,
    "teacher": Teacher,
    "teacher.recipe": Recipe,
}
"""The parts of an experiment that are mappings, and their configs."""
SHOWN = 60
"""Characters of a value in an error."""

Words = str | Path | Mapping[str, Any]
Format = Literal["text", "markdown", "latex", "csv", "html", "json"]
"""Formats of a study's table."""


class Settings(TypedDict, total=False):
    """Keyword arguments that set up an experiment: the same words as on the command line.

    A section is a mapping of its fields ({"epochs": 3}), a YAML file of them, a name where there
    are any (data="cifar10", recipe="smoke"), an object (la.Design(stem="patch"), whose fields that
    are not at their default count), or a list of these, of which a later one wins
    (recipe=["smoke", {"epochs": 3}]). What is not set is the dataset's own or the default.
    """

    model: str
    architecture: Words | Architecture
    design: Words | Design
    match: Literal["none", "flops", "params"]
    data: Words | Data | Sequence[Words]
    recipe: Words | Recipe | Sequence[Words]
    teacher: Words | Teacher
    seed: int
    hardware: Words | Hardware


class SearchSettings(Settings, total=False):
    """Keyword arguments of a search: how it searches, over the file's words, and the conditions."""

    trials: int
    """Networks to train, those given up early included."""
    confirm: int
    """How many of the best are trained again on fresh seeds; 0 for none."""
    objectives: str | Sequence[str]
    """accuracy, or accuracy and a cost for a front: accuracy,flops."""
    sampler: str
    """tpe, nsga2, gp, random, or grid: every combination once."""
    pruner: str
    """asha, median, wilcoxon (over seeds), or none."""
    seeds: str | Sequence[int]
    """Of the trainings of a trial: 0, or 0,1,2."""
    confirm_seeds: str | Sequence[int]
    """Fresh ones: 101,102,103."""
    enqueue: str | Sequence[str]
    """Ablations to try first, by name: baseline,no_pyramid."""
    trial_epochs: int
    """Epochs of a trial, fewer than the recipe's, which the best are given."""
    space: Mapping[str, Any]
    """What is searched: {"width": "32:64", "design": {"norm": ["batch", "layer"]}}."""
    budget: Mapping[str, Any]
    """The most that a network may cost: {"flops": "baseline"}, {"latency": "5ms"}."""


HOW = tuple(name for name in SearchSettings.__annotations__ if name not in Settings.__annotations__)
"""Settings that say how it is searched."""


def given_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as nested mappings, checked. Raises UserError with the closest valid word."""
    given: dict[str, Any] = {}
    for key, value in settings.items():
        if value is not None:
            given[key] = _section(key, value) if key in SECTIONS else value
    check_keys(given, Experiment, "")
    return given


def conditions_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that hold for all runs of a study, as `given_by`; UserError for a seed."""
    if settings.get("seed") is not None:
        raise UserError("seed: is for run; a study has seeds")
    return given_by(settings)


def _section(key: str, value: Any) -> dict[str, Any]:
    layers = value if isinstance(value, list | tuple) else [value]
    return merge(*(_fields(key, layer) for layer in layers))


def _fields(key: str, value: Any) -> Mapping[str, Any]:
    """Return one layer of a section as a mapping of fields."""
    config = SECTIONS[key]
    if isinstance(value, Mapping):
        recipe: Any = value.get("recipe") if key == "teacher" else None
        return value if recipe is None else {**value, "recipe": _section("recipe", recipe)}
    if isinstance(value, config):
        if isinstance(value, Architecture):  # a geometry is whole
            return dict(plain(value))
        changed = differences(config(), value)
        return {name: plain(own) for name, (_, own) in changed.items()}
    if isinstance(value, str | Path):
        return from_word(key, str(value))
    names = ", ".join(field.name for field in fields(config))
    raise UserError(f"{key}: {value!r} is no mapping; keys: {names}")


def from_word(key: str, word: str) -> Mapping[str, Any]:
    """Return the fields of a section that a name or a YAML file stands for. Raises UserError."""
    config, named = SECTIONS[key], NAMED.get(key, {})
    if word in named:
        return named[word]
    if word.endswith(SUFFIXES) or is_file(word):
        mapping = read_yaml(Path(word))
        check_keys(mapping, config, word, f"{key}.")
        return mapping
    kinds = f"neither a YAML file nor a name; {closest(word, named)}"
    shown = word if len(word) <= SHOWN else f"{word[:SHOWN]}…"
    raise UserError(f"{key}: {shown!r} is {kinds if named else 'no YAML file'}")
