"""The options that describe an experiment, read by jsonargparse from the config dataclasses."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from jsonargparse import (
    ArgumentError,
    ArgumentParser,
    _loaders_dumpers,
    set_parsing_settings,
)

from levit_ablate import library
from levit_ablate.config import (
    Architecture,
    Data,
    Design,
    Experiment,
    Hardware,
    Recipe,
    Teacher,
)
from levit_ablate.errors import UserError, closest
from levit_ablate.library import RECORDED, Ablation
from levit_ablate.paths import is_file
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import YamlLoader, check_keys, merge, read_yaml
from levit_ablate.tracking.uris import without_password

set_parsing_settings(docstring_parse_attribute_docstrings=True)
# Options are read as files are. set_loader is not enough: jsonargparse reads int, float and bool
# with this class, YAML 1.1 unless replaced, whatever the loader or the parser_mode.
assert hasattr(_loaders_dumpers, "yaml_default_loader"), "jsonargparse reads words otherwise"
_loaders_dumpers.yaml_default_loader = YamlLoader  # type: ignore[assignment]

NAMED: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "data": {name: {"name": name} for name in get_args(get_type_hints(Data)["name"])},
    "recipe": {name: asdict(recipe) for name, recipe in RECIPES.items()},
}
"""Options that take a name: `--recipe smoke` is all its fields, `--data cifar10` the dataset."""

SECTIONS = {
    "data": Data,
    "recipe": Recipe,
    "design": Design,
    "teacher": Teacher,
    "teacher.recipe": Recipe,
    "hardware": Hardware,
    "architecture": Architecture,
}
"""Options that stand for a whole section: a name where there are any, or a YAML file."""

SHOWN = 60
"""Characters of a value in an error."""
Format = Literal["text", "json"]


def parser_for(command: str, description: str) -> ArgumentParser:
    """A parser whose mistakes are raised, and whose options have no defaults to hide behind."""
    return ArgumentParser(
        prog=f"levit-ablate {command}",
        description=description,
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )


def add_experiment(parser: ArgumentParser) -> None:
    """An ablation's name, and all that decides how it is run."""
    parser.add_argument("name", nargs="?", help="An ablation's name, or its YAML file.")
    add_conditions(parser)
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="Print the explicit experiment as YAML that --config accepts, and exit.",
    )


def add_conditions(parser: ArgumentParser, *without: str, formats: Any = Format) -> None:
    """Config files, the format of what is printed, and every field of an experiment.

    Args:
        parser: is given the options.
        without: fields that the command has a word of its own for.
        formats: the `Literal` of what `--format` takes.
    """
    parser.add_argument(
        "--config",
        action="append",
        type=str,
        metavar="FILE",
        help="YAML with any of the options below, by section; a later file wins over an earlier, "
        "options on the command line over both.",
    )
    parser.add_argument(
        "--format", type=formats, default="text", help="For people, or for machines."
    )
    parser.add_class_arguments(Experiment, skip={"architecture", *without})
    parser.add_argument("--architecture", type=dict[str, Any])
    for action in parser._actions:
        if action.dest in SECTIONS:
            names = f"{', '.join(NAMED[action.dest])}; or " if action.dest in NAMED else ""
            action.metavar, action.help = (
                "NAME" if names else "FILE",
                f"The whole section: {names}a YAML file.",
            )


def parse(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The options that the user gave, and no others, as nested mappings. Raises UserError."""
    try:
        return parser.parse_args(_named_first(argv), defaults=False).as_dict()
    except (ArgumentError, argparse.ArgumentError) as error:
        raise UserError(_explained(str(error), parser)) from error


def experiment_options(options: dict[str, Any]) -> tuple[Ablation, dict[str, Any]]:
    """The ablation and the parts of an experiment among the options, config files first.

    Without a name on the command line a config may name the ablation. A recorded experiment is the
    ablation itself, whose geometry stays; beside another's name, it gives its conditions alone.
    Raises UserError.
    """
    ablation = library.read(options["name"]) if options.get("name") else None
    recorded: Ablation | None = None
    given: dict[str, Any] = {}
    chosen = set(of_experiment(options))  # what nobody recorded
    for path in map(Path, options.get("config", [])):
        mapping = read_config(path)
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
    return ablation, merge(given, of_experiment(options))


def of_experiment(options: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an experiment among the options."""
    keys = Experiment.__dataclass_fields__
    return {key: value for key, value in options.items() if key in keys}


def read_config(path: Path) -> dict[str, Any]:
    """A config file's mapping, a named section as its fields. Raises UserError with the file."""
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


def _named_first(argv: Sequence[str]) -> list[str]:
    """Put `--recipe NAME` before all else, as its fields: single fields win wherever they stand.

    Sections in files are read here, so that their errors name the file and the key.
    """
    first, rest, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        option, _, value = word.partition("=")
        section = option.removeprefix("--")
        if not option.startswith("--") or section not in SECTIONS:
            rest.append(word)
            continue
        value = value or (words.pop(0) if words else "")
        named = NAMED.get(section, {})
        if value in named:
            mapping = dict(named[value])
        elif value.endswith(library.SUFFIXES) or is_file(value):
            mapping = read_yaml(Path(value))
            check_keys(mapping, SECTIONS[section], value, f"{section}.")
        else:
            kinds = f"neither a YAML file nor a name; {closest(value, named)}"
            shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
            raise UserError(f"--{section}: {shown!r} is {kinds if named else 'no YAML file'}")
        first += [f"--{section}", json.dumps(mapping)]
    return first + rest


def _explained(message: str, parser: ArgumentParser) -> str:
    """A parser's complaint in one line, with the closest option where one is not known."""
    words = plain(message).split()
    line = " ".join(without_password(word) if "://" in word else word for word in words)
    unknown = [word.partition("=")[0] for word in line.split() if word.startswith("--")]
    if "unrecognized arguments" not in line or not unknown:
        return f"{line}; see {parser.prog} --help"
    known = [o for a in parser._actions for o in a.option_strings if o.startswith("--")]
    match = closest(unknown[0], known).partition("valid: ")[0]
    return f"unknown option {unknown[0]}; {match}see {parser.prog} --help"


def plain(message: str) -> str:
    """A jsonargparse message in one line, without its own vocabulary of types."""
    line = " ".join(message.split()).replace("Parser key ", "").replace('"', "")
    line = re.sub(r"<class '(\w+)'>", r"\1", line)
    literal = r"^(.*?):? Expected a typing\.Literal\[(.*?)\]\. Got value: ?(.*)$"
    if found := re.search(literal, line):
        key, choices, value = found.groups()
        valid = re.findall(r"[\w-]+", choices)
        line = f"{key}: {value!r} is not a choice; {closest(value, valid)}"
    line = re.sub(r"Expected an? (.*?)\. Got value: (.*)", r"\1 needed, not \2", line)
    return f"{line}; write true or false" if ": bool needed" in line else line
