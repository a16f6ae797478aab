"""Studies, which are files: variants that are compared with a baseline over seeds.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, combinations
from pathlib import Path
from typing import Annotated, Any

from levit_ablate import library
from levit_ablate.config import Match
from levit_ablate.errors import UserError, closest
from levit_ablate.library import STUDIES, Ablation, conditions, line
from levit_ablate.schema import config_from, merge, read_yaml, seeds_from

LISTS = ("variants", "steps", "pairs")
"""Keys of a study's file that list variants; one study may use several."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants that are compared with one baseline, each over the same seeds."""

    name: str
    """The file's name, without its suffix."""
    path: Path
    """The file."""
    summary: str
    """One line on what it is about."""
    baseline: Ablation
    """The ablation that the variants change."""
    variants: tuple[Ablation, ...]
    """Each a difference from the baseline."""
    parts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The two names of each variant that is a pair."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs of every variant."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The parts of an experiment that hold unless the command line says otherwise."""


def _listed(given: Any, key: str) -> list[Any]:
    if given is not None and not isinstance(given, list):
        raise UserError(f"{key}: {given!r} is no list of ablations")
    return given or []


@dataclass(frozen=True, kw_only=True)
class _StudyFile:
    """A study's file. An ablation in it is a name or, in place, what its file would say, named."""

    summary: Annotated[str, line("what is studied")]
    baseline: Annotated[Any, lambda given, _: given] = library.BASELINE
    """An ablation."""
    variants: Annotated[list[Any], _listed] = field(default_factory=list)
    """Ablations."""
    steps: Annotated[list[Any], _listed] = field(default_factory=list)
    """Ablations, each added to those before it."""
    pairs: Annotated[list[Any], _listed] = field(default_factory=list)
    """Ablations, each a variant, and every two together."""
    seeds: Annotated[tuple[int, ...], seeds_from] = (0, 1, 2)
    """How many, or which."""
    match: Match | None = None
    """In place of the ablations' own."""
    given: Annotated[Mapping[str, Any], conditions("a study")] = field(default_factory=dict)
    """Parts of an experiment."""


def read(name: str) -> Study:
    """Return the study of this name, or in this file. Raises UserError, with the closest name."""
    return read_file(library.path_of(name, STUDIES))


def narrowed(
    study: Study, variants: Sequence[str], seeds: Sequence[int], baseline: str | None = None
) -> Study:
    """Return the study with what the command line says in place of the file; what is empty stays.

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
    """Read one file and check all of it. Raises UserError with file and key."""
    file = config_from(_StudyFile, {"summary": None, **read_yaml(path)}, str(path))
    listed = {
        key: [_ablation(each, path, f"{key}[{n}]") for n, each in enumerate(getattr(file, key))]
        for key in LISTS
    }
    pairs = list(combinations(listed["pairs"], 2))
    both = [_together(*pair, path) for pair in pairs]
    variants = (*listed["variants"], *_steps(listed["steps"]), *listed["pairs"], *both)
    baseline = _ablation(file.baseline, path, "baseline")
    names = [baseline.name, *(variant.name for variant in variants)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: {twice[0]}: is there twice; give every variant a name of its own")
    if not variants:
        raise UserError(f"{path}: has no variants; list them under {', '.join(LISTS)}")
    return Study(
        name=path.stem,
        path=path,
        summary=file.summary,
        baseline=baseline,
        variants=variants,
        parts={each.name: (a.name, b.name) for each, (a, b) in zip(both, pairs, strict=True)},
        seeds=file.seeds,
        given=merge(file.given, {"match": file.match} if file.match else {}),
    )


def _ablation(given: Any, path: Path, key: str) -> Ablation:
    """Return an ablation that is named, or written out."""
    if isinstance(given, str):
        return library.read(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UserError(f"{path}: {key}: {given!r} is neither a name nor an ablation with a name")
    content = {word: value for word, value in given.items() if word != "name"}
    return library.from_mapping(content, given["name"], path, f"{path}: {key}")


def _steps(listed: Sequence[Ablation]) -> list[Ablation]:
    """Return each on top of those before it; the paper has a figure for none but the first."""

    def added(before: Ablation, step: Ablation) -> Ablation:
        design = {**before.design, **step.design}
        architecture = step.architecture or before.architecture
        return replace(step, paper=None, design=design, architecture=architecture)

    return list(accumulate(listed, added))


def _together(first: Ablation, second: Ablation, path: Path) -> Ablation:
    """Return both at once. UserError where they change the same choice, or one the geometry."""
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
