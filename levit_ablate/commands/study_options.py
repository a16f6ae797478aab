"""The options of a study: which, under which conditions, over which variants and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from levit_ablate.commands.options import add_conditions, of_experiment, read_config
from levit_ablate.errors import UserError
from levit_ablate.serialization import merge
from levit_ablate.studies import study
from levit_ablate.studies.study import Study

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


def study_options(options: Mapping[str, Any]) -> tuple[Study, dict[str, Any]]:
    """The study and the parts of an experiment among the options, config files first.

    Raises UserError where a name, a number or a file is wrong.
    """
    if not options.get("study"):
        raise UserError(f"the name of a study is missing; there are {', '.join(study.names())}")
    words = {
        "seeds": _seeds(options["seeds"]) if "seeds" in options else (),
        "variants": _names(options.get("variants", "")),
        "baseline": options.get("baseline"),
    }
    given: dict[str, Any] = {}
    for path in map(Path, options.get("config", [])):
        given = merge(given, read_config(path))
    if "seed" in given or "name" in given:
        raise UserError("--config: seed and name are for run; a study has --seeds and its own name")
    return study.narrowed(study.read(options["study"]), words), merge(given, of_experiment(options))


def _seeds(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9][0-9]{0,3}", text.strip()):
        return tuple(range(int(text)))
    parts = text.strip("[] ").split(",")
    if not all(re.fullmatch(r"[0-9]{1,9}", part.strip()) for part in parts):
        raise UserError(f"--seeds: {text!r} is neither how many (3) nor which (0,1,5)")
    seeds = tuple(int(part) for part in parts)
    if text.strip() == "0" or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: {text!r}: at least one is needed, and none twice")
    return seeds


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
