"""The options of a study: which, under which conditions, over which variants and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentParser

from levit_ablate.cli.options import add_conditions, of_experiment, read_config
from levit_ablate.errors import UserError
from levit_ablate.library import STUDIES, names
from levit_ablate.schema import merge, seeds_from

Format = Literal["text", "markdown", "latex", "csv", "html", "json"]


def add_study(parser: ArgumentParser, *, formats: Any = Literal["text", "json"]) -> None:
    """A study's name, the variants and seeds, the store, and the fields of an experiment."""
    parser.add_argument("study", nargs="?", help="A study's name, or its YAML file.")
    parser.add_argument(
        "--seeds", type=str, metavar="N", help="How many, from 0 on (3), or which (0,1,5)."
    )
    parser.add_argument(
        "--variants", type=str, metavar="NAMES", help="Only these of the study: no_pyramid,no_..."
    )
    parser.add_argument("--baseline", type=str, help="An ablation in place of the baseline.")
    parser.add_argument(
        "--tracking-uri", type=str, help="Where MLflow records; ./mlflow.db unless set."
    )
    add_conditions(parser, "seed", formats=formats)


class Wanted(NamedTuple):
    """What the words of a command ask for of a study."""

    study: str
    """Its name, or its file."""
    variants: tuple[str, ...]
    """Of its variants only these; empty for all."""
    seeds: tuple[int, ...]
    """In place of its own; empty for these."""
    baseline: str | None
    given: dict[str, Any]
    """The parts of an experiment that the user set."""

    def chosen(self) -> dict[str, Any]:
        """What is chosen of the study, as keyword arguments of `api.sweep.sweep`."""
        seeds = self.seeds or None
        return {"variants": self.variants, "seeds": seeds, "baseline": self.baseline}


def study_options(options: Mapping[str, Any]) -> Wanted:
    """What is asked for; of the parts of an experiment those in config files come first.

    Raises UserError where a number or a file is wrong, or where no study is named.
    """
    if not options.get("study"):
        raise UserError(f"the name of a study is missing; there are {', '.join(names(STUDIES))}")
    given: dict[str, Any] = {}
    for path in map(Path, options.get("config", [])):
        given = merge(given, read_config(path))
    if "seed" in given or "name" in given:
        raise UserError("--config: seed and name are for run; a study has --seeds and its own name")
    return Wanted(
        study=options["study"],
        variants=tuple(word.strip() for word in options.get("variants", "").split(",") if word),
        seeds=seeds_from(options["seeds"], "--seeds") if "seeds" in options else (),
        baseline=options.get("baseline"),
        given=merge(given, of_experiment(options)),
    )
