"""A search is a file: what is searched, for what, within which budget, and how.

The user's own `./ablations/searches` comes first, then those that ship with the package. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from levit_ablate import library
from levit_ablate.errors import UserError, closest
from levit_ablate.schema import merge, read_yaml
from levit_ablate.searches.readers import READERS

FEWEST_SEEDS = 5
"""With which Wilcoxon's test can reach Optuna's threshold of 0.1 before the last of them."""
OTHERS = "others"
"""Stages that nothing else is said of, in a space."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how."""

    name: str
    """The file's name, without its suffix."""
    path: Path
    """The file."""
    summary: str
    """What it is about, in a line."""
    space: Mapping[str, Any] = field(default_factory=dict)
    """As said, for `space_from`."""
    objectives: tuple[str, ...] = ("accuracy",)
    """Accuracy alone, or accuracy and a cost: then a front is looked for."""
    budget: Mapping[str, float | str] = field(default_factory=dict)
    """Of a cost the most, in multiply-adds, parameters or seconds; or `baseline`."""
    sampler: str = "tpe"
    pruner: str = "asha"
    trials: int = 50
    """How many networks are trained, those included that are given up early."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings of a trial, whose mean accuracy counts."""
    enqueue: tuple[str, ...] = (library.BASELINE,)
    """Ablations by name that are tried first, whatever the sampler would choose."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The conditions: parts of an experiment."""
    trial: Mapping[str, Any] = field(default_factory=dict)
    """In which a trial differs from them: fewer epochs."""
    confirm: int = 3
    """How many of the best are trained again, on fresh seeds and without what `trial` says."""
    confirm_seeds: tuple[int, ...] = (101, 102, 103)
    """Fresh: no trial has them."""

    @property
    def cost(self) -> str:
        """The cost that a front is looked for against, or the budget's; flops else."""
        return next(iter([*self.objectives[1:], *self.budget]), "flops")


KEYS = tuple(n for n in Search.__dataclass_fields__ if n not in ("name", "path"))


def folders() -> list[Path]:
    """Where searches are looked for, in this order."""
    return [folder / "searches" for folder in library.folders()]


def names() -> dict[str, Path]:
    """Every search that can be named, and its file."""
    return library.named_files(folders())


def read(name: str) -> Search:
    """The search of this name, or in this file. Raises UserError, with the closest name."""
    if name.endswith(library.SUFFIXES):
        return read_file(Path(name))
    paths = names()
    if name not in paths:
        raise UserError(
            f"search {name!r}: not in ./ablations/searches, nor shipped; {closest(name, paths)}"
        )
    return read_file(paths[name])


def read_file(path: Path) -> Search:
    """Read one file and check what it says. Raises UserError with file and key."""
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: unknown key {key}; {closest(key, KEYS)}")
    summary = library.summary_of(content, str(path), "what is searched")
    plain = Search(name=path.stem, path=path, summary=summary)
    said = {key: value for key, value in content.items() if key != "summary"}
    return changed(plain, said, f"{path}: ")


def changed(search: Search, said: Mapping[str, Any], where: str = "--") -> Search:
    """The search with what a file or the command line says in place of its own.

    Mappings are laid over each other. Raises UserError; `where` stands before the key in it.
    """
    values = {k: READERS[k](v, f"{where}{k}") for k, v in said.items() if v is not None}
    values["space"] = _over(search.space, values.get("space", {}))
    for key in ("budget", "given", "trial"):
        values[key] = merge(getattr(search, key), values.get(key, {}))
    search = replace(search, **values)
    if again := set(search.seeds) & set(search.confirm_seeds):
        word = "confirm-seeds" if where == "--" else "confirm_seeds"
        raise UserError(
            f"{where}{word}: {min(again)} is a seed of the trials; what is confirmed "
            f"needs fresh ones"
        )
    if search.pruner == "wilcoxon" and len(search.seeds) < FEWEST_SEEDS:
        raise UserError(
            f"{where}pruner: wilcoxon compares over seeds, and tells nothing from fewer than "
            f"{FEWEST_SEEDS}; give --seeds 0,1,2,3,4"
        )
    if len(search.objectives) > 1 and search.pruner != "none":
        if "pruner" in said:
            raise UserError(
                f"{where}pruner: {search.pruner}: a search for a front is not pruned by accuracy "
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
