"""The command line: finds the command, and ends with its exit code. Loads no other command."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper

from levit_ablate import signals
from levit_ablate.errors import RunError, UserError, closest

TASKS = {
    "Look": {
        "list": "the ablations, studies, searches and models there are",
        "show": "an ablation's network: stages, cost, and the paper's figures",
        "ui": "MLflow's page on the recorded runs",
    },
    "Run one ablation": {
        "run": "train an ablation and its baseline; print what the ablation costs",
        "teacher": "train a dataset's teacher, once; or see what a given one is worth",
    },
    "Run a study": {
        "plan": "what a study would run, what is recorded, how long it will take",
        "sweep": "run what a study lacks, several at once; print its table",
        "table": "a study's table beside the paper's, as text, LaTeX, HTML and more",
    },
    "Search": {"search": "look for networks that beat the hand-made ones at equal cost"},
    "Measure": {"bench": "this machine's speed: data stream, distillation, sweeps"},
    "Set up": {"completion": "a script that completes commands, options and names in a shell"},
}
"""The commands by task, each with a line that says what it does or shows."""
COMMANDS = {name: summary for commands in TASKS.values() for name, summary in commands.items()}
HELP, VERSION = ("help", "--help", "-h"), ("version", "--version")
USAGE = """\
usage: levit-ablate COMMAND [NAME] [options]

LeViT's ablation table (Graham et al., ICCV 2021) as software: every design
choice is an option, every ablation a YAML file, every run a record in MLflow.

Start with:  levit-ablate run no_pyramid
Then:        levit-ablate COMMAND --help, for the options of a command
"""
EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130
INTERRUPTED = "interrupted; what was recorded is kept"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the run failed, 2 the user's mistake, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that a terminal lacks
    signals.listen()
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """Run the command that `argv` names, and return the exit code."""
    try:
        command, rest = _command(argv)
        import_module(f"levit_ablate.cli.{command}").main(rest)
    except UserError as error:
        return _complain(with_dashes(str(error)), EXIT_USER)
    except RunError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader is gone: `levit-ablate list | head -1`
        sys.stderr.close()
    except Exception:
        if signals.came:  # a library turned the interrupt into another error
            return _complain(INTERRUPTED, EXIT_INTERRUPTED)
        raise
    return 0


def _command(argv: list[str]) -> tuple[str, list[str]]:
    """Return the command and its words; `help run` is `run --help`. Raises UserError."""
    if argv and argv[0] in HELP and argv[1:]:
        argv = [argv[1], "--help", *argv[2:]]
    if not argv or argv[0] in HELP:
        print(_help())
        sys.exit(0 if argv else EXIT_USER)
    command, *rest = argv
    if command in VERSION:
        print(version("levit-ablate"))
        sys.exit(0)
    if command not in COMMANDS:
        raise UserError(f"command {command!r} is not known; {_meant(command)}")
    return command, rest


def _help() -> str:
    lines = [USAGE]
    for task, commands in TASKS.items():
        lines += [f"{task}:", *(f"  {name:11}{summary}" for name, summary in commands.items())]
    return "\n".join(lines)


def _meant(word: str) -> str:
    """Suggest what to type in place of a word that is no command."""
    from levit_ablate import library  # reads YAML: 0.1 s

    if word.startswith("-"):
        return f"options follow the command; {closest(word, [*COMMANDS, '--help', '--version'])}"
    if word in library.names():
        return f"did you mean levit-ablate run {word}?"
    return closest(word, COMMANDS)


def with_dashes(message: str) -> str:
    """Name the arguments of `api` as options: `jobs: 0 …` and `launcher=ray` in an error."""
    from levit_ablate.api.settings import SECTIONS
    from levit_ablate.cli.options import ARGUMENTS

    def option(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}{match[2].replace('=', ' ')}"

    names = "|".join((*map(re.escape, (*ARGUMENTS, *SECTIONS)), "export", r"budget\.\w+"))
    message = re.sub(rf"^({names})(: )", option, message)
    return re.sub(rf"(?<!\S)({names})(=)", option, message)


def _complain(message: object, code: int) -> int:
    print(f"levit-ablate: {' '.join(str(message).split())}", file=sys.stderr)
    return code
