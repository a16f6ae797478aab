"""Experiments from and to plain mappings and YAML, with errors that say where and what instead."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from levit_ablate.config import Experiment
from levit_ablate.errors import UserError, closest

T = TypeVar("T")


_DIGITS = "[0-9]+(?:_[0-9]+)*"
_SCALARS = {
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (
        f"[-+]?{_DIGITS}|0o[0-7]+(?:_[0-7]+)*|0x[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|0b[01]+(?:_[01]+)*",
        list("-+0123456789"),
    ),
    "float": (
        rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": ("<<", ["<"]),
}
"""What is no text in YAML 1.2, and Python's own 1_000 and 0b11; with the first characters."""


class YamlLoader(yaml.SafeLoader):
    """YAML in which a key stands once, and words and numbers are as in YAML 1.2.

    Files are read with it, and so are the options of the command line.

    In YAML 1.1, which PyYAML reads, 010 is 8, 2:5 is 125, `no` and `on` are no text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0b", "0o", "0x") else int(text)  # 010 is 10

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                problem = f"the key {key.value} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts text between quotes that would not be text here, or in YAML 1.1."""


YamlLoader.add_constructor("tag:yaml.org,2002:int", YamlLoader.construct_yaml_int)
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (YamlLoader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), _first
        )


def yaml_of(mapping: Mapping[str, Any]) -> str:
    """Plain data as YAML that `read_yaml` reads back, and every other reader of YAML too."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError, with the line, where there is none."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), YamlLoader)  # a SafeLoader
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    except Exception as error:  # YAML's errors, and Python's: too many digits, !!bool x
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if content is None:
        raise UserError(f"{path}: is empty, where keys and values are needed")
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, where keys and values are needed")
    return content


def read_word(said: Any) -> Any:
    """Read text as a value in a file: a number, a truth value, or text. What is no text stays."""
    try:
        return yaml.load(said, YamlLoader) if isinstance(said, str) else said  # a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError):  # no YAML; too many digits; !!bool x
        return said


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings of mappings laid over each other: the last that has a key decides it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flattened: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = isinstance(value, Mapping)
        flattened |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flattened


def check_keys(mapping: Mapping[str, Any], config: type, where: str, prefix: str = "") -> None:
    """Refuse keys, choices and types that `config` does not have (UserError, with the closest).

    Keys may be missing: what is checked may be laid over something that has them.

    Args:
        mapping: what was read.
        config: the dataclass whose fields are the valid keys, the nested ones too.
        where: the file, or what else the error names first.
        prefix: the keys that lead to `mapping`, with a dot after each.
    """
    with _named(where):
        _check_keys(mapping, config, prefix)


def experiment_from(mapping: Mapping[str, Any], where: str = "") -> Experiment:
    """The experiment that a mapping describes; what it leaves out is the default.

    Raises UserError for unknown keys and values that do not fit, naming `where`, a file.
    """
    return config_from(Experiment, mapping, where)


def config_from(config: type[T], mapping: Mapping[str, Any], where: str, key: str = "") -> T:
    """The config that a mapping under `key` describes; errors as those of `experiment_from`."""
    with _named(where):
        _check_keys(mapping, config, f"{key}." if key else "")
        return _built(mapping, config, key)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the file before an error about what it holds."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


def _check_keys(mapping: Mapping[str, Any], config: type, prefix: str) -> None:
    hints = get_type_hints(config)
    for key, value in mapping.items():
        if key not in hints:
            raise UserError(f"unknown key {prefix}{key}; {closest(key, hints)}")
        if value is not None or NoneType not in get_args(hints[key]):
            _check_value(value, _required(hints[key]), f"{prefix}{key}")


def _check_value(value: Any, hint: Any, key: str) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = closest(value, map(str, get_args(hint)))
            raise UserError(f"{key}: {value!r} is not a choice; {choices}")
    elif is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{key}: {value!r} is no mapping; keys: {_names(hint)}")
        _check_keys(value, hint, f"{key}.")  # type: ignore[arg-type]
    elif get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{key}: list needed, not {value!r}")
        for index, item in enumerate(value):
            _check_value(item, get_args(hint)[0], f"{key}[{index}]")
    elif type(_number(value, hint)) is not hint:
        remedy = "; write true or false" if hint is bool else ""
        raise UserError(f"{key}: {hint.__name__} needed, not {value!r}{remedy}")
    elif hint is float and not math.isfinite(_number(value, hint)):
        raise UserError(f"{key}: a finite number needed, not {value!r}")


def _built(value: Any, hint: Any, key: str) -> Any:
    """A checked value as `hint`. Raises UserError where a config lacks a key or refuses a value."""
    if get_origin(hint) is tuple:
        item_hint = get_args(hint)[0]
        return tuple(_built(item, item_hint, f"{key}[{i}]") for i, item in enumerate(value))
    if value is None or not is_dataclass(hint):
        return _number(value, hint)
    required = {f.name for f in fields(hint) if f.default is f.default_factory is MISSING}
    if missing := sorted(required - set(value)):
        raise UserError(f"{key}: needs {', '.join(missing)}; keys: {_names(hint)}")
    hints = get_type_hints(hint)
    prefix = f"{key}." if key else ""
    values = {k: _built(v, _required(hints[k]), f"{prefix}{k}") for k, v in value.items()}
    return hint(**values)  # type: ignore[operator]


def _required(hint: Any) -> Any:
    """`X` of `X | None`."""
    return next((h for h in get_args(hint) if NoneType in get_args(hint)), hint)


def _number(value: Any, hint: Any) -> Any:
    """A whole number or text as the float that it is meant to be."""
    try:
        return float(value) if hint is float and type(value) in (int, str) else value
    except ValueError:
        return value


def _names(config: Any) -> str:
    return ", ".join(field.name for field in fields(config))


def to_yaml(experiment: Experiment) -> str:
    """The experiment as YAML that `experiment_from` reads back to an equal one."""
    return yaml_of(to_mapping(experiment))


def to_mapping(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain dicts, lists, numbers and strings."""
    mapping: dict[str, Any] = plain(experiment)
    return mapping


def plain(value: Any) -> Any:
    """Configs, tuples and what is in them as dicts and lists."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
