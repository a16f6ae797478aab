"""The parser of a command: argparse with help by section, one-line errors, and typed values.

Values are read and checked by `levit_ablate.schema`, as those in files are.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import make_dataclass
from shutil import get_terminal_size
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from levit_ablate.errors import UserError, closest
from levit_ablate.schema import check_keys, merge, read_word
from levit_ablate.tracking.uris import without_password

HAND_OVER = "\0"
"""A word that no shell can pass: on it `Parser.read` raises `Ready`."""
ALL = "all"
"""The help page with every section."""


class Names(NamedTuple):
    """The names that an option takes."""

    plural: str
    """Plural noun for the help: Ablations."""
    find: Callable[[], Iterable[str]]
    """Lists the names."""
    folder: str = ""
    """Folder of the user's own YAML files, each of which is a name too."""


class Ready(Exception):  # noqa: N818
    """Carries the finished parser of a command, for shell completion."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """The options of a command, by section; what is parsed is what the user gave, no defaults.

    `names` are those that options take, for the help and for shell completion.
    """

    def __init__(self, command: str, description: str, names: Mapping[str, Names]) -> None:
        super().__init__(
            prog=f"levit-ablate {command}",
            description=description,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        self.names = names
        self.options: dict[str, argparse.Action] = {}
        self.types: dict[str, Any] = {}
        self.sections: dict[str, list[str]] = {}
        self._briefs: dict[str, str] = {}
        self._defaults_shown: dict[str, Any] = {}
        text = "This page, or all options of a section."
        self.add_argument(
            "-h", "--help", action=_Help, nargs="?", const="", metavar="SECTION", help=text
        )

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an option as argparse does.

        `type` is a type hint, whose values are read and checked as in a file; `default` is for the
        help only, `section` the page that explains the option, `brief` its help on the first page.
        """
        hint, default = settings.pop("type", str), settings.pop("default", None)
        section, brief = settings.pop("section", ""), settings.pop("brief", "")
        settings["help"] = _escaped(settings.get("help", ""))
        action = super().add_argument(*names, **settings)
        self.options[action.dest] = action
        if "action" not in settings and settings.get("nargs") in (None, "?"):
            self.types[action.dest] = hint
            action.metavar = action.metavar or _metavar(action, hint)
        self._defaults_shown[action.dest] = default
        self.sections.setdefault(section, []).append(action.dest)
        if brief or not section:
            self._briefs[action.dest] = brief
        return action

    def set_defaults(self, **defaults: Any) -> None:
        """Show other defaults in the help."""
        self._defaults_shown |= defaults

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the options that the user gave by their dotted names, typed but not checked.

        Raises UserError where one is not known or lacks its value.
        """
        if HAND_OVER in argv:
            raise Ready(self)
        given = vars(self.parse_args(argv))
        return {name: _typed(value, self.types.get(name)) for name, value in given.items()}

    def check(self, options: Mapping[str, Any], sections: Mapping[str, type]) -> None:
        """Refuse values that do not fit their types, or the config of a section. UserError."""
        hints = {name: hint for name, hint in self.types.items() if "." not in name}
        hints |= sections
        known = {name: value for name, value in options.items() if name in hints}
        check_keys(known, make_dataclass("Options", hints.items()), "")

    def error(self, message: str) -> NoReturn:
        """Raise a mistake as UserError, with the closest option where one is not known."""
        words = message.split()
        unknown = [word.partition("=")[0] for word in words if word.startswith("-")]
        if "unrecognized arguments" in message and unknown:
            match = closest(unknown[0], self._option_string_actions).partition("valid: ")[0]
            raise UserError(f"unknown option {unknown[0]}; {match}see {self.prog} --help")
        line = " ".join(without_password(word) if "://" in word else word for word in words)
        raise UserError(f"{line}; see {self.prog} --help")

    def page(self, section: str = "") -> str:
        """Return the help on a section, on `all`, or on the options people use most.

        Raises UserError where there is no such section.
        """
        sections = [name for name in self.sections if name]
        if section not in ("", ALL, *sections):
            raise UserError(
                f"--help: {section!r} is no section; {closest(section, [*sections, ALL])}"
            )
        formatter = argparse.RawDescriptionHelpFormatter(self.prog, max_help_position=26)
        needed = [str(a.metavar) for a in self.options.values() if not a.option_strings]
        formatter.add_usage(" ".join(["%(prog)s", *needed, "[options]"]), [], [])
        shown: dict[str, Mapping[str, str]] = {
            name or "command": dict.fromkeys(options, "")
            for name, options in self.sections.items()
            if section in (name, ALL)
        }
        if not section:
            formatter.add_text(_filled(self.description or ""))
            shown = {"": self._briefs}
        for name, texts in shown.items():
            formatter.start_section(name or None)
            formatter.add_arguments(self._explained(texts))
            formatter.end_section()
        formatter.add_text(_filled(self.epilog or ""))
        if not section:
            formatter.add_text(self._more(sections))
        return formatter.format_help()

    def _explained(self, texts: Mapping[str, str]) -> Iterable[argparse.Action]:
        """Yield options as the help shows them: with another text, if given, and the default."""
        for name in sorted(texts, key="help".__eq__):  # --help comes last
            action, default = copy(self.options[name]), self._defaults_shown[name]
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            ending = f" (default: {shown})" if default not in (None, "") else ""
            action.help = f"{_escaped(texts[name]) or action.help}{ending}"
            action.nargs = None if action.nargs == "?" else action.nargs  # no brackets
            action.option_strings = action.option_strings[-1:]  # no -h
            if name == "help" and not any(self.sections):
                action.nargs, action.help = 0, "This page."
            yield action

    def _more(self, sections: Sequence[str]) -> str:
        """List the names that the command takes, and the sections with its other options."""
        taken = [self.names[name] for name in self.names if name in self.options]
        lines = [f"{names.plural}: {', '.join(names.find())}" for names in taken]
        if sections:
            where = f"{', '.join(sections)}, or {ALL}"
            lines.append(f"More options: {self.prog} --help SECTION, which is {where}")
        return _filled("\n".join(lines), "  ")


class _Help(argparse.Action):
    """Print a page of the help, and exit."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: Any, option: Any = None
    ) -> None:
        assert isinstance(parser, Parser)
        print(parser.page(values), end="")
        parser.exit()


def _escaped(text: str) -> str:
    """Return a help text in one line, with no % for argparse to replace."""
    return " ".join(text.split()).replace("%", "%%")


def _filled(text: str, indent: str = "") -> str:
    """Wrap each line of a text to the terminal's width."""
    width = get_terminal_size().columns - 2
    wrap = textwrap.TextWrapper(width, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(map(wrap.fill, text.splitlines()))


def choices(hint: Any) -> list[str]:
    """Return the words that a type takes, or none where they cannot be listed."""
    if hint is bool:
        return ["true", "false"]
    return [str(value) for value in get_args(hint)] if get_origin(hint) is Literal else []


def _metavar(action: argparse.Action, hint: Any) -> str:
    """Return what stands for the value in the help: its choices, N for a number, or its name."""
    words = choices(hint)
    if words:
        return "{" + ",".join(words) + "}"
    if int in (hint, *get_args(hint)):
        return "N"
    return "X" if float in (hint, *get_args(hint)) else re.split(r"[._]", action.dest)[-1].upper()


def _typed(value: Any, hint: Any) -> Any:
    """Read a word as a value in a file is read, but text needs no quotes."""
    is_text = hint is None or get_origin(hint) is Literal or str in (hint, *get_args(hint))
    return value if is_text or not value.strip() else read_word(value)


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with dotted names as nested mappings."""
    layers = []
    for name, value in options.items():
        for key in reversed(name.split(".")):
            value = {key: value}
        layers.append(value)
    return merge(*layers)
