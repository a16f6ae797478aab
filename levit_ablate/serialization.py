"""Experiments from and to plain mappings and YAML, with errors that say where and what instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from levit_ablate.config import Experiment
from levit_ablate.errors import UserError, closest


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError, with the line, where there is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, where keys and values are needed")
    return content


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings of mappings laid over each other: the last that has a key decides it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def check_keys(mapping: Mapping[str, Any], config: type, where: str, prefix: str = "") -> None:
    """Refuse keys and choices that `config` does not have, with the closest match (UserError).

    Args:
        mapping: what was read.
        config: the dataclass whose fields are the valid keys, the nested ones too.
        where: the file, or what else the error names first.
        prefix: the keys that lead to `mapping`, with a dot after each.
    """
    hints = get_type_hints(config)
    for key, value in mapping.items():
        if key not in hints:
            raise UserError(f"{where}: unknown key {prefix}{key}; {closest(key, hints)}")
        for hint in get_args(hints[key]) if isinstance(hints[key], UnionType) else (hints[key],):
            _check_value(value, hint, where, f"{prefix}{key}")


def _check_value(value: Any, hint: Any, where: str, key: str) -> None:
    if get_origin(hint) is Literal and value not in get_args(hint):
        choices = closest(value, map(str, get_args(hint)))
        raise UserError(f"{where}: {key}: {value!r} is not a choice; {choices}")
    if is_dataclass(hint):
        if isinstance(value, Mapping):
            check_keys(value, hint, where, f"{key}.")  # type: ignore[arg-type]
        elif value is not None:
            raise UserError(f"{where}: {key}: {value!r} is no mapping; keys: {_names(hint)}")
    elif get_origin(hint) is tuple and isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_value(item, get_args(hint)[0], where, f"{key}[{index}]")


def _names(config: Any) -> str:
    return ", ".join(field.name for field in fields(config))


def experiment_from(mapping: Mapping[str, Any], where: str = "") -> Experiment:
    """The experiment that a mapping describes; what it leaves out is the default.

    Raises UserError for unknown keys and values that do not fit, naming `where`, a file.
    """
    before = f"{where}: " if where else ""
    check_keys(mapping, Experiment, where or "experiment")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Experiment)
    try:
        return Experiment(**parser.instantiate(parser.parse_object(dict(mapping))).as_dict())
    except UserError as error:
        raise UserError(f"{before}{error}") from error
    except Exception as error:  # jsonargparse raises several kinds, and means the user by all
        raise UserError(f"{before}{plain(str(error))}") from error


def plain(message: str) -> str:
    """A jsonargparse message in one line, without its own vocabulary of types."""
    line = " ".join(message.split()).replace("Parser key ", "").replace('"', "")
    line = re.sub(r"<class '(\w+)'>", r"\1", line)
    if found := re.search(r"^(.*?):? Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)$", line):
        key, choices, value = found.groups()
        valid = re.findall(r"[\w-]+", choices)
        line = f"{key}: {value!r} is not a choice; {closest(value, valid)}"
    line = re.sub(
        r"(\S+): Does not validate against any .*", r"\1: needs its fields, as YAML", line
    )
    return re.sub(r"Expected an? (.*?)\. Got value: (.*)", r"\1 needed, not \2", line)


def to_yaml(experiment: Experiment) -> str:
    """The experiment as YAML that `experiment_from` reads back to an equal one."""
    return yaml.safe_dump(to_mapping(experiment), sort_keys=False)


def to_mapping(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain dicts, lists, numbers and strings."""
    return _plain_types(asdict(experiment))


def _plain_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_types(item) for key, item in value.items()}
    return [_plain_types(item) for item in value] if isinstance(value, tuple | list) else value
