"""A study is a file: which variants are compared with which baseline, over which seeds.

The user's own `./ablations/studies` comes first, then those that ship with the package. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from levit_ablate import library
from levit_ablate.config import Experiment, Match
from levit_ablate.errors import UserError, closest
from levit_ablate.library import Ablation
from levit_ablate.schema import check_keys, merge, read_yaml

KEYS = ("summary", "baseline", "variants", "steps", "pairs", "seeds", "match", "given")
LISTS = ("variants", "steps", "pairs")
"""How the variants of a study are told; one study may use several."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants that are compared with one baseline, each over the same seeds."""

    name: str
    """The file's name, without its suffix."""
    path: Path
    """The file."""
    summary: str
    """What it is about, in a line."""
    baseline: Ablation
    """What the variants change."""
    variants: tuple[Ablation, ...]
    """Each a difference from the baseline."""
    parts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Of a variant that is two others at once: which."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs of every variant."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The parts of an experiment that hold unless the command line says otherwise."""


def folders() -> list[Path]:
    """Where studies are looked for, in this order."""
    return [folder / "studies" for folder in library.folders()]


def names() -> dict[str, Path]:
    """Every study that can be named, and its file."""
    return library.named_files(folders())


def read(name: str) -> Study:
    """The study of this name, or in this file. Raises UserError, with the closest name."""
    if name.endswith(library.SUFFIXES):
        return read_file(Path(name))
    paths = names()
    if name not in paths:
        raise UserError(
            f"study {name!r}: not in ./ablations/studies, nor shipped; {closest(name, paths)}"
        )
    return read_file(paths[name])


def narrowed(
    study: Study, variants: Sequence[str], seeds: Sequence[int], baseline: str | None = None
) -> Study:
    """The study with what the command line says in place of the file; what is empty stays.

    Raises UserError where a name is not one of the study's variants, or no ablation's.
    """
    by_name = {variant.name: variant for variant in study.variants}
    for name in variants:
        if name not in by_name:
            raise UserError(
                f"--variants: {name!r} is no variant of {study.name}; {closest(name, by_name)}"
            )
    if variants:
        study = replace(study, variants=tuple(by_name[name] for name in variants))
    if baseline:
        study = replace(study, baseline=library.read(baseline))
    return replace(study, seeds=tuple(seeds)) if seeds else study


def read_file(path: Path) -> Study:
    """Read one file and check all that it says. Raises UserError with file and key.

    Its keys: `summary`; `baseline`, an ablation; `variants`, ablations; `steps`, ablations of which
    each is added to those before it; `pairs`, ablations of which each is a variant and every two
    together; `seeds`, how many or which; `match`, in place of the ablations' own; `given`, parts of
    an experiment. An ablation is a name or, in place, what its file would say, with a name.
    """
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: unknown key {key}; {closest(key, KEYS)}")
    summary = library.summary_of(content, str(path), "what is studied")
    listed = {key: _ablations(content.get(key) or [], path, key) for key in LISTS}
    pairs = [
        (_together(*pair, path), (pair[0].name, pair[1].name))
        for pair in combinations(listed["pairs"], 2)
    ]
    variants = (
        *listed["variants"],
        *_steps(listed["steps"]),
        *listed["pairs"],
        *(both for both, _ in pairs),
    )
    baseline = _ablation(content.get("baseline", library.BASELINE), path, "baseline")
    found = [baseline.name, *(variant.name for variant in variants)]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise UserError(f"{path}: {twice[0]}: is there twice; give every variant a name of its own")
    if not variants:
        raise UserError(f"{path}: has no variants; list them under {', '.join(LISTS)}")
    given = _given(content, path)
    return Study(
        name=path.stem,
        path=path,
        summary=summary,
        baseline=baseline,
        variants=variants,
        parts={both.name: names for both, names in pairs},
        seeds=_seeds(content.get("seeds", 3), f"{path}: seeds"),
        given=given,
    )


def _given(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The parts of an experiment that a study sets, its matching among them."""
    given = content.get("given") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: given: {given!r} is no mapping of parts of an experiment")
    check_keys(given, Experiment, str(path), "given.")
    if "seed" in given:
        raise UserError(f"{path}: given.seed: a study has seeds of its own")
    if "match" not in content:
        return given
    if content["match"] not in get_args(Match):
        known = closest(str(content["match"]), get_args(Match))
        raise UserError(f"{path}: match: {content['match']!r}: {known}")
    return merge(given, {"match": content["match"]})


def _seeds(said: Any, where: str) -> tuple[int, ...]:
    """How many, from 0 on, or which."""
    listed = said if isinstance(said, list) else []
    seeds = tuple(range(said)) if type(said) is int else tuple(listed)
    whole = all(type(seed) is int and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: {said!r} is neither how many seeds, nor a list of them")
    return seeds


def _ablations(said: Any, path: Path, key: str) -> tuple[Ablation, ...]:
    if not isinstance(said, list):
        raise UserError(f"{path}: {key}: {said!r} is no list of ablations")
    return tuple(_ablation(each, path, f"{key}[{number}]") for number, each in enumerate(said))


def _ablation(said: Any, path: Path, where: str) -> Ablation:
    """An ablation that is named, or written out."""
    if isinstance(said, str):
        return library.read(said)
    if not isinstance(said, Mapping) or not isinstance(said.get("name"), str):
        raise UserError(f"{path}: {where}: {said!r} is neither a name nor an ablation with a name")
    content = {key: value for key, value in said.items() if key != "name"}
    try:
        return library.from_mapping(content, said["name"], path)
    except UserError as error:
        raise UserError(f"{path}: {where}: {str(error).removeprefix(f'{path}: ')}") from error


def _steps(listed: Sequence[Ablation]) -> list[Ablation]:
    """Each on top of those before it; the paper has a figure for none but the first."""
    steps: list[Ablation] = []
    for step in listed:
        if not steps:
            steps.append(step)
            continue
        before = steps[-1]
        steps.append(
            replace(
                step,
                paper=None,
                design={**before.design, **step.design},
                architecture=step.architecture or before.architecture,
            )
        )
    return steps


def _together(first: Ablation, second: Ablation, path: Path) -> Ablation:
    """Both at once. Raises UserError where they change the same choice, or one the geometry."""
    name = f"{first.name} + {second.name}"
    both = first.design.keys() & second.design.keys()
    if both or first.architecture or second.architecture:
        what = ", ".join(sorted(both)) or "the architecture"
        raise UserError(f"{path}: pairs: {name}: both change {what}, which has one value")
    return replace(
        first,
        name=name,
        summary=f"{first.summary}; {second.summary}",
        paper=None,
        match=first.match if first.match != "none" else second.match,
        design={**first.design, **second.design},
        path=path,
    )
