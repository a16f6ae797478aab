"""`levit-ablate completion SHELL`: a script that completes what is typed after levit-ablate."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib import import_module

import shtab

from levit_ablate.cli.main import COMMANDS
from levit_ablate.cli.options import parse, parser_for
from levit_ablate.cli.parser import ALL, HAND_OVER, Parser, Ready, choices
from levit_ablate.errors import UserError, closest

PATHS = {
    "FILE": shtab.FILE,
    "FOLDER": shtab.DIRECTORY,
    "ROOT": shtab.DIRECTORY,
    "DIR": shtab.DIRECTORY,
}
"""How a path is completed, by the word that stands for it in the help."""
SAFE = re.compile(r"[A-Za-z0-9_.-]+")
"""Names in which a shell finds nothing to execute."""
STEMS = r"sed -n 's/^\([A-Za-z0-9_.-]*\)\.ya*ml$/\1/p'"
"""Shell command from file names to such names."""
DESCRIPTION = """\
Print a script that completes commands, options and names when you press Tab.
Install it with a line:
  bash  levit-ablate completion bash >> ~/.bash_completion
  zsh   levit-ablate completion zsh > ~/.zfunc/_levit-ablate   (in $fpath)
  fish  levit-ablate completion fish | source   (in config.fish)
or try it in this shell alone: eval "$(levit-ablate completion bash)"."""


def main(argv: Sequence[str]) -> None:
    """Print the script. It starts no Python when it completes."""
    parser = parser_for("completion", DESCRIPTION)
    parser.add_argument("shell", nargs="?", help="bash, zsh, tcsh, fish or powershell.")
    shell = parse(parser, argv).get("shell", "")
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UserError(
            f"completion: {shell!r} is no shell; {closest(shell, shtab.SUPPORTED_SHELLS)}"
        )
    print(script(shell))


def script(shell: str) -> str:
    """Return the completion script of a shell that shtab supports."""
    top = argparse.ArgumentParser(prog="levit-ablate")
    top.add_argument("--version", action="version")
    commands = top.add_subparsers()
    for command, summary in COMMANDS.items():
        parser = _parser(command)
        for name, action in parser.options.items():
            _complete(parser, name, action, shell)
        commands.add_parser(command, parents=[parser], add_help=False, help=summary)
    return shtab.complete(top, shell)


def _parser(command: str) -> Parser:
    """Return the parser that a command makes."""
    try:
        import_module(f"levit_ablate.cli.{command}").main([HAND_OVER])
    except Ready as ready:
        return ready.parser
    raise AssertionError(f"{command} parses no options")


def _complete(parser: Parser, name: str, action: argparse.Action, shell: str) -> None:
    """Set how shtab completes an option's value: by choices, names or paths."""
    if action.nargs == "?" and action.option_strings:
        action.nargs = None  # one value, not an optional one: the next word is something else
    if words := choices(parser.types.get(name)):
        action.choices = words
    elif name == "help":
        action.choices = [*filter(None, parser.sections), ALL]
    elif name == "shell":
        action.choices = shtab.SUPPORTED_SHELLS
    elif name in parser.names:
        names = parser.names[name]
        action.choices = [word for word in names.find() if SAFE.fullmatch(word)]
        if shell == "bash" and names.folder:  # the files that are there when Tab is pressed, too
            own = f"command ls {names.folder} 2> /dev/null | {STEMS}"
            vars(action)["complete"] = shtab.cmd(f"echo {' '.join(action.choices)}; {own}")
    elif action.metavar in PATHS:
        vars(action)["complete"] = PATHS[action.metavar]
