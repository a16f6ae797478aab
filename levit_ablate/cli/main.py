"""The command line. Loads a command's libraries only when the command is used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper

from levit_ablate import signals
from levit_ablate.errors import RunError, UserError, closest

COMMANDS = {
    "list": "the ablations that can be run, and their rows in the paper",
    "show": "the network of an ablation: stages, parameters, multiply-adds, the paper's figures",
    "run": "train an ablation and its baseline, and print what the ablation cost",
    "plan": "what a study would run: what is recorded, what is not, how long it will take",
    "sweep": "run what a study lacks: all variants, all seeds, several at once; its table",
    "table": "the table of a study, ours beside the paper's, as text, LaTeX, HTML and more",
    "search": "look for architectures that beat the hand-made ones at equal cost",
    "teacher": "train a dataset's teacher, once; or see what a given one is worth",
    "bench": "measure the speed of data stream, distillation and sweeps on this machine",
    "ui": "open MLflow's page on the recorded runs",
}
EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130
INTERRUPTED = "interrupted; what was recorded is kept"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the run failed, 2 the user's mistake, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal's encoding lacks is no error
    signals.listen()
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """Run the command that `argv` names; the exit code."""
    try:
        command, rest = _command(argv)
        import_module(f"levit_ablate.cli.{command}").main(rest)
    except UserError as error:
        return _complain(error, EXIT_USER)
    except RunError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader has gone: `levit-ablate list | head -1`
        sys.stderr.close()
    except Exception:
        if signals.came:  # a library that was being loaded made another error of it
            return _complain(INTERRUPTED, EXIT_INTERRUPTED)
        raise
    return 0


def _command(argv: list[str]) -> tuple[str, list[str]]:
    parser = argparse.ArgumentParser(
        prog="levit-ablate",
        description="The ablation table of LeViT (Graham et al., ICCV 2021) as software.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:9}{summary}" for name, summary in COMMANDS.items()),
                "",
                "Start with: levit-ablate run no_pyramid",
                "Options of a command: levit-ablate run --help",
            ]
        ),
    )
    parser.add_argument("--version", action="version", version=version("levit-ablate"))
    parser.add_argument("command", metavar="command", help=", ".join(COMMANDS))
    if not argv:
        parser.print_help()
        sys.exit(EXIT_USER)
    command = argv[0]
    if command not in {*COMMANDS, "-h", "--help", "--version"}:
        raise UserError(f"command {command!r} is not known; {closest(command, COMMANDS)}")
    parser.parse_args([command])  # prints help or version, and exits
    return command, argv[1:]


def _complain(message: object, code: int) -> int:
    print(f"levit-ablate: {' '.join(str(message).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
