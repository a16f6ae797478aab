"""The options of many runs: a study, and where the jobs of a study or a search run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from levit_ablate.cli.options import Format, add_conditions, of_experiment, read_config
from levit_ablate.cli.parser import Parser
from levit_ablate.errors import UserError
from levit_ablate.library import STUDIES, names
from levit_ablate.schema import merge, seeds_from

TableFormat = Literal["text", "markdown", "latex", "csv", "html", "json"]


def add_study(parser: Parser, *, formats: Any = Format) -> None:
    """Add a study's name, its variants and seeds, the store, and the fields of an experiment."""
    parser.add_argument("study", nargs="?", help="A study's name, or its YAML file.")
    parser.add_argument("--seeds", metavar="N", help="How many, from 0 on (3), or which (0,1,5).")
    parser.add_argument(
        "--variants", metavar="NAMES", help="Only these of the study: no_pyramid,no_..."
    )
    parser.add_argument("--baseline", metavar="NAME", help="An ablation in place of the baseline.")
    parser.add_argument("--tracking-uri", help="Where MLflow records; ./mlflow.db unless set.")
    add_conditions(parser, "seed", formats=formats)


class Wanted(NamedTuple):
    """The study that a command is given, and what it changes of it."""

    study: str
    """Its name, or its file."""
    variants: tuple[str, ...]
    """Names of variants, to leave the others out; empty for all."""
    seeds: tuple[int, ...]
    """Seeds in place of the study's own; empty for those."""
    baseline: str | None
    """Name of an ablation in place of the study's baseline."""
    given: dict[str, Any]
    """The settings of an experiment that the user gave."""

    def chosen(self) -> dict[str, Any]:
        """Return variants, seeds and baseline as keyword arguments of `api.sweep.sweep`."""
        seeds = self.seeds or None
        return {"variants": self.variants, "seeds": seeds, "baseline": self.baseline}


def study_options(options: Mapping[str, Any]) -> Wanted:
    """Return the study that the options ask for; options win over config files.

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


def add_launcher(parser: Parser, jobs: str, what: str) -> None:
    """Add how many jobs run at once, and where.

    Args:
        parser: is given the options.
        jobs: the option's name: jobs, or workers.
        what: what a job is, in the plural, with a capital: Runs, Trials.
    """
    parser.add_argument(
        f"--{jobs}",
        dest="jobs",
        type=int,
        help=f"{what} at once, on this machine; one unless set, or a GPU's places on every GPU.",
    )
    parser.add_argument(
        "--jobs-per-device",
        type=int,
        default=1,
        section="launch",
        help=f"{what} at once on a GPU, which they share.",
    )
    parser.add_argument(
        "--launcher",
        type=Literal["local", "ray"],
        default="local",
        section="launch",
        help=f"Where {what.lower()} run: in processes of this machine, or on a Ray cluster (pip "
        "install 'levit-ablate[ray]').",
    )
    parser.add_argument(
        "--address",
        section="launch",
        help="The Ray cluster's: auto, or HOST:PORT; a new cluster unless set.",
    )


def check_launcher(options: Mapping[str, Any], jobs: str) -> None:
    """Refuse numbers that make no sense. Raises UserError."""
    for name, word in (("jobs", jobs), ("jobs_per_device", "jobs-per-device")):
        if options.get(name, 1) < 1:
            raise UserError(f"--{word}: {options[name]} must be at least 1")
    if options.get("address") and options.get("launcher") != "ray":
        raise UserError("--address: is of a Ray cluster; give --launcher ray with it")


def places(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `add_launcher` that were given, as keyword arguments of `sweep`."""
    names = ("jobs", "jobs_per_device", "launcher", "address")
    return {name: options[name] for name in names if name in options}
