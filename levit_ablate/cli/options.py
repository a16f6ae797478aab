"""The options that commands share: of an experiment, made from the config; of studies; of jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from docstring_parser import parse_from_object

from levit_ablate import library
from levit_ablate.api.settings import HOW, NAMED, SECTIONS, from_word
from levit_ablate.cli.parser import Names, Parser, nested
from levit_ablate.config import Experiment
from levit_ablate.errors import UserError, closest
from levit_ablate.library import RECORDED, Ablation
from levit_ablate.models import presets
from levit_ablate.schema import check_keys, merge, read_yaml

FIRST_PAGE = (
    "model",
    "seed",
    "data",
    "data.root",
    "recipe",
    "recipe.epochs",
    "recipe.batch_size",
    "design",
)
"""The settings of an experiment that the first page of the help shows."""

LAUNCH = ("jobs", "workers", "jobs_per_device", "launcher", "address")
ARGUMENTS = (*LAUNCH, *HOW, "variants", "baseline", "storage", "tracking_uri")
"""Options that are arguments of a function of `api`, by their names there."""
Format = Literal["text", "json"]


def _named(plural: str, kind: library.Kind, shipped: Iterable[str] = ()) -> Names:
    """Return the names of files of a kind, after those of `shipped`."""
    folder = str(library.folders(kind)[0])
    return Names(plural, lambda: dict.fromkeys([*shipped, *library.names(kind)]), folder)


NAMES: dict[str, Names] = {
    "name": _named("Ablations", library.ABLATIONS),
    "study": _named("Studies", library.STUDIES),
    "search": _named("Searches", library.SEARCHES),
    "model": _named("Models", library.MODELS, presets.PRESETS),
    "recipe": Names("Recipes", lambda: NAMED["recipe"]),
    "data": Names("Datasets", lambda: NAMED["data"]),
}
"""Options that take a name, and the names."""


def parser_for(command: str, description: str) -> Parser:
    """Return a parser to which a command adds its options, and those below."""
    return Parser(command, description, NAMES)


def add_experiment(parser: Parser) -> None:
    """Add an ablation's name, every setting of its run, and --print_config."""
    parser.add_argument("name", nargs="?", help="An ablation's name, or its YAML file.")
    add_conditions(parser)
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="Print the explicit experiment as YAML that --config accepts, and exit.",
    )


def add_conditions(parser: Parser, *without: str, formats: Any = Format) -> None:
    """Add config files, a format of `formats`, and the fields of an experiment, but `without`."""
    parser.epilog = "A dataset brings a model, a recipe and a teacher in place of these defaults."
    _add_fields(parser, Experiment, without)
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML with any of these settings, by section; a later file wins over an earlier, "
        "options over both.",
    )
    add_format(parser, formats)


def add_format(parser: Parser, formats: Any = Format) -> None:
    """Add the format of the output."""
    parser.add_argument(
        "--format", type=formats, default="text", help="For people, or for machines."
    )


def add_store(parser: Parser) -> None:
    """Add the MLflow store."""
    parser.add_argument("--tracking-uri", help="Where MLflow records; ./mlflow.db unless set.")


def add_study(parser: Parser, *, formats: Any = Format) -> None:
    """Add a study's name, its variants and seeds, the store, and the fields of an experiment."""
    parser.add_argument("study", nargs="?", help="A study's name, or its YAML file.")
    parser.add_argument("--seeds", metavar="N", help="How many, from 0 on (3), or which (0,1,5).")
    parser.add_argument(
        "--variants", metavar="NAMES", help="Only these of the study: no_pyramid,no_..."
    )
    parser.add_argument("--baseline", metavar="NAME", help="An ablation in place of the baseline.")
    add_store(parser)
    add_conditions(parser, "seed", formats=formats)


def add_launcher(parser: Parser, jobs: str, what: str) -> None:
    """Add how many `jobs` (or workers) run at once, and where; `what` they are: Runs, Trials."""
    parser.add_argument(
        f"--{jobs}",
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


def _add_fields(parser: Parser, config: type, without: Sequence[str], section: str = "") -> None:
    """Add an option for every field of a config, explained by the docstring under the field."""
    documented = {p.arg_name: p.description or "" for p in parse_from_object(config).params}
    hints = get_type_hints(config)
    for field in fields(config):
        name = f"{section}.{field.name}" if section else field.name
        text = documented[field.name]
        first_words = re.split(r"[.:]\s|\.$", text)[0]
        if name in without:
            continue
        if name not in SECTIONS:
            parser.add_argument(
                f"--{name}",
                type=hints[field.name],
                default=None if field.default is MISSING else field.default,
                help=text,
                section=section or "experiment",
                brief=f"{first_words}." if name in FIRST_PAGE else "",
            )
            continue
        named = NAMED.get(name, {})
        text = f"{first_words}, {'by name or ' if named else ''}in a YAML file."
        usual = asdict(SECTIONS[name]()).items() if named else set()
        parser.add_argument(
            f"--{name}",
            nargs="?",  # so that without a value the names are listed
            const="",
            action="append",
            metavar="NAME" if named else "FILE",
            default=next((key for key, value in named.items() if value.items() <= usual), None),
            help=text,
            section=name,
            brief=text if name in FIRST_PAGE else "",
        )
        _add_fields(parser, SECTIONS[name], without, name)


def parse(parser: Parser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the options that the user gave, and no others, as nested mappings.

    A single field wins over its section, whichever comes first. Raises UserError.
    """
    given = parser.read(argv)
    sections = [
        nested({name: from_word(name, value)}) for name in SECTIONS for value in given.pop(name, [])
    ]
    options = merge(*sections, nested(given))
    parser.check(options, {name: config for name, config in SECTIONS.items() if "." not in name})
    return options


def experiment_options(options: Mapping[str, Any]) -> tuple[Ablation, dict[str, Any]]:
    """Return the ablation and the settings that the options give; options win over config files.

    Without a name on the command line, a config file may name the ablation. A recorded experiment
    is an ablation itself, whose geometry stays; beside another name, only its conditions count.
    Raises UserError.
    """
    ablation = library.read(options["name"]) if options.get("name") else None
    recorded: Ablation | None = None
    given: dict[str, Any] = {}
    own = of_experiment(options)
    chosen = set(own)  # set by the user, not by a recorded experiment
    for path, mapping in _configs(options):
        if mapping.keys() >= {"name", "summary", "architecture"}:
            recorded, mapping = library.from_recorded(mapping, path)
            ablation = ablation or recorded
        else:
            chosen |= mapping.keys()
        if "name" in mapping and ablation is None:
            ablation = library.read(str(mapping["name"]))
        given = merge(given, {key: mapping[key] for key in mapping if key not in RECORDED})
    if ablation is None:
        raise UserError("the name of an ablation is missing; levit-ablate list shows them")
    for option in ("model", "architecture"):
        if ablation is recorded and option in chosen:
            raise UserError(
                f"--{option}: {ablation.path} records a network of its own; name an ablation "
                f"beside --config to give another to it and to its baseline"
            )
    return ablation, merge(given, own)


def arguments(options: Mapping[str, Any], kind: library.Kind) -> dict[str, Any]:
    """Return options as arguments of a function of `api`, the conditions among them.

    Raises UserError where a config file is wrong, or no study or search is named.
    """
    if not options.get(kind.name):
        known = ", ".join(library.names(kind))
        raise UserError(f"the name of a {kind.name} is missing; there are {known}")
    given = merge(*(mapping for _, mapping in _configs(options)))
    if "seed" in given or "name" in given:
        raise UserError("--config: seed and name are for run; a study has --seeds and its own name")
    chosen = {name: options[name] for name in ARGUMENTS if name in options}
    return chosen | merge(given, of_experiment(options))


def of_experiment(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an experiment among the options."""
    keys = Experiment.__dataclass_fields__
    return {key: value for key, value in options.items() if key in keys}


def _configs(options: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in map(Path, options.get("config", [])):
        yield path, read_config(path)


def read_config(path: Path) -> dict[str, Any]:
    """Return a config file's mapping, a named section as its fields. Raises UserError."""
    mapping = read_yaml(path)
    for section, named in NAMED.items():
        value = mapping.get(section)
        if isinstance(value, str):
            if value not in named:
                raise UserError(f"{path}: {section}: {value!r} is no name; {closest(value, named)}")
            mapping[section] = dict(named[value])
    experiment = {key: value for key, value in mapping.items() if key not in RECORDED}
    check_keys(experiment, Experiment, str(path))
    return mapping
