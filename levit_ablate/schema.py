"""YAML to dataclasses and back, with errors that say where and what instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from levit_ablate.config import Experiment
from levit_ablate.errors import UserError, closest

T = TypeVar("T")
MOST_SEEDS = 10_000
"""A number from here on is a seed, and not how many."""

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
"""Pattern of each type of YAML 1.2 but text, and its first characters; 1_000 and 0b11 too."""


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
    """Return plain data as YAML, which other readers of YAML take as `read_yaml` does."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UserError, with the line, where there is none."""
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


def read_word(text: Any) -> Any:
    """Read text as a value in a file: a number, a truth value, or text. What is no text stays."""
    try:
        return yaml.load(text, YamlLoader) if isinstance(text, str) else text  # a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError):  # no YAML; too many digits; !!bool x
        return text


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay mappings of mappings over each other: the last that has a key decides it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a mapping with nested keys joined by dots."""
    flattened: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = isinstance(value, Mapping)
        flattened |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flattened


def check_keys(mapping: Mapping[str, Any], config: type, where: str, prefix: str = "") -> None:
    """Refuse keys, choices and types that a dataclass does not have; keys may be missing.

    Raises UserError, with the closest: it names `where`, a file, then the key after `prefix`.
    """
    fields_from(config, mapping, where, prefix, partly=True)


def experiment_from(mapping: Mapping[str, Any], where: str = "") -> Experiment:
    """Return the experiment that a mapping describes; what it leaves out is the default.

    Raises UserError for unknown keys and values that do not fit, naming `where`, a file.
    """
    return config_from(Experiment, mapping, where)


def config_from(
    config: type[T], mapping: Mapping[str, Any], where: str, key: str = "", **known: Any
) -> T:
    """Return the dataclass that a mapping under `key` describes.

    A field whose type is Annotated with a `Reader` is read by that. `known` are fields that a
    mapping cannot have: a file's name and path. Raises UserError, which begins with `where`, for
    unknown and missing keys and for values that do not fit.
    """
    with named(where):
        values = _read_fields(mapping, config, f"{key}." if key else "", False, tuple(known))
        return _made(config, values | known, key)


def fields_from(
    config: type,
    mapping: Mapping[str, Any],
    where: str,
    prefix: str = "",
    *,
    partly: bool = False,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the fields of a dataclass that a mapping has, read as `config_from` reads them.

    `prefix` stands before a key in an error. With `partly`, nested dataclasses may lack keys and
    stay mappings. Fields `without` a key are none that a mapping can have.
    """
    with named(where):
        return _read_fields(mapping, config, prefix, partly, without)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put the file before an error about what it holds."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


def _read_fields(
    mapping: Mapping[str, Any], config: Any, prefix: str, partly: bool, without: Sequence[str] = ()
) -> dict[str, Any]:
    hints = get_type_hints(config, include_extras=True)
    hints = {name: hint for name, hint in hints.items() if name not in without}
    for key in mapping:
        if key not in hints:
            raise UserError(f"unknown key {prefix}{key}; {closest(key, hints)}")
    return {k: _read(value, hints[k], f"{prefix}{k}", partly) for k, value in mapping.items()}


def _read(value: Any, hint: Any, key: str, partly: bool) -> Any:
    """A value as `hint`. Raises UserError where it does not fit."""
    if NoneType in get_args(hint):
        if value is None:
            return None
        hint = next(each for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0](value, key)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = closest(value, map(str, get_args(hint)))
            raise UserError(f"{key}: {value!r} is not a choice; {choices}")
        return value
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{key}: {value!r} is no mapping; keys: {_names(hint)}")
        values = _read_fields(value, hint, f"{key}.", partly)
        return values if partly else _made(hint, values, key)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{key}: list needed, not {value!r}")
        own = get_args(hint)[0]
        return tuple(_read(each, own, f"{key}[{i}]", partly) for i, each in enumerate(value))
    number = value
    if hint is float and type(value) in (int, str):
        with suppress(ValueError):
            number = float(value)
    if type(number) is not hint:
        remedy = "; write true or false" if hint is bool else ""
        raise UserError(f"{key}: {hint.__name__} needed, not {value!r}{remedy}")
    if hint is float and not math.isfinite(number):
        raise UserError(f"{key}: a finite number needed, not {value!r}")
    return number


def _made(config: Any, values: Mapping[str, Any], key: str) -> Any:
    required = {f.name for f in fields(config) if f.default is f.default_factory is MISSING}
    if missing := sorted(required - set(values)):
        raise UserError(f"{key}: needs {', '.join(missing)}; keys: {_names(config)}")
    return config(**values)


def _names(config: Any) -> str:
    return ", ".join(field.name for field in fields(config))


Reader = Callable[[Any, str], Any]
"""Returns a value as a field holds it, from a file's value and its key. Raises UserError."""


def seeds_from(value: Any, where: str, *, counted: bool = True) -> tuple[int, ...]:
    """Return seeds from a list, from text (0,1,5), or, where they are `counted`, from how many.

    A count gives the seeds from 0 on. Raises UserError where there is none, or one twice.
    """
    listed = read_word(value)
    if isinstance(listed, str):
        listed = [read_word(word) for word in listed.split(",")]
    if type(listed) is int:
        listed = range(listed) if counted and 0 <= listed < MOST_SEEDS else [listed]
    seeds = tuple(listed) if isinstance(listed, list | tuple | range) else (None,)
    if not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds):
        what = "neither how many (3) nor which (0,1,5)" if counted else "no list of seeds (0,1,2)"
        raise UserError(f"{where}: {value!r} is {what}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: {value!r}: at least one is needed, and none twice")
    return seeds


def plain(value: Any) -> Any:
    """Return configs, tuples and what is in them as the dicts and lists of a file."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
