"""`levit-ablate search NAME`: look for networks that beat the hand-made ones at equal cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from docstring_parser import parse_from_object

from levit_ablate.api.settings import SearchSettings
from levit_ablate.cli.options import (
    LAUNCH,
    add_conditions,
    add_launcher,
    add_store,
    arguments,
    parse,
    parser_for,
)
from levit_ablate.cli.table import write_pictures
from levit_ablate.config import OWN_GEOMETRY, Experiment
from levit_ablate.errors import RunError, UserError
from levit_ablate.library import SEARCHES
from levit_ablate.schema import merge
from levit_ablate.searches.numbers import NETWORK_NUMBERS, STAGE_NUMBERS
from levit_ablate.searches.search import OTHERS

DOTTED = ("space", "budget")
"""Options that are mappings: --space.design.norm batch,layer"""
RARE = ("pruner", "confirm_seeds", "enqueue", "trial_epochs")
"""Settings that only `--help trials` explains."""


def main(argv: Sequence[str]) -> None:
    """Do the trials that a search lacks, confirm the best on fresh seeds, and report."""
    parser = parser_for(
        "search",
        "Look for networks that beat the hand-made ones, with Optuna; a search that was begun goes "
        "on. The best are trained again on fresh seeds before anything is claimed.",
    )
    parser.add_argument("search", nargs="?", help="A search's name, or its YAML file.")
    for setting in parse_from_object(SearchSettings).params:
        name = setting.arg_name
        if name not in DOTTED:
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                type=int if name in ("trials", "confirm") else str,
                help=setting.description,
                section="trials" if name in RARE else "",
            )
    parser.add_argument(
        "--storage",
        section="trials",
        help="Where trials are kept: postgresql://…, grpc://HOST:PORT; a file unless set.",
    )
    parser.add_argument(
        "--serve",
        section="trials",
        help="HOST:PORT: run a gRPC proxy there before the database of --storage.",
    )
    parser.add_argument("--figures", help="A folder for the plots.")
    add_store(parser)
    parser.add_argument("--report", action="store_true", help="Show what there is; train nothing.")
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("WHICH", "FILE"),
        section="trials",
        help="Write a network (best, or a trial's number) as an ablation; train nothing.",
    )
    parser.add_argument(
        "--space.NAME",
        metavar="SETTING",
        section="space",
        brief="What is searched, of all stages or of one: width, depth.2, design.CHOICE; a value, "
        "LOW:HIGH, LOW:HIGH:STEP or a list with commas.",
        help=f"What is searched: {', '.join(STAGE_NUMBERS)} (of all stages, or width.2 of one), "
        f"num_stages, {', '.join(NETWORK_NUMBERS)}, design.CHOICE; each a value, LOW:HIGH, "
        "LOW:HIGH:STEP, or a list with commas. A width may be solved: what the budget leaves.",
    )
    parser.add_argument(
        "--budget.COST", metavar="MOST", help="flops 305M, params, latency 5ms; or baseline."
    )
    add_launcher(parser, "workers", "Trials")
    add_conditions(parser, "seed")
    rest, mappings = dotted(argv)
    options = parse(parser, rest) | mappings
    if "serve" in options:
        from levit_ablate.searches.storage import serve

        if not options.get("storage"):
            raise UserError("--serve: of which database? give --storage postgresql://… with it")
        serve(options["storage"], options["serve"])
        return
    given = arguments(options, SEARCHES)
    from levit_ablate.api import search as api  # loads torch, lightning, mlflow and optuna

    if options.get("report") or "export" in options:
        given = {name: value for name, value in given.items() if name not in LAUNCH}
        search = api.open_search(options["search"], progress=True, **given)
    else:
        with redirect_stdout(sys.stderr):  # what libraries print, as Ray's threads do
            search = api.search(options["search"], progress=True, allow_failures=True, **given)
    if "export" in options:
        which, name = options["export"]
        path = search.export(which, name)
        word = path.stem if path.parent == Path("ablations") else path
        here = " ".join(_conditions(search.report.planned.baseline.experiment))
        print(f"{path}: {search.origin(which)}; levit-ablate show {word} {here}, or run")
        return
    if "figures" in options:
        write_pictures(search.pictures(), Path(options["figures"]))
    if options.get("format") == "json":
        print(search.to_json())
    else:
        from levit_ablate.analysis import formats
        from levit_ablate.searches.report_tables import show

        show(search.report, formats.console())
    if search.failed:
        raise RunError("; ".join(search.failed))


def _conditions(experiment: Experiment) -> list[str]:
    """Return the options for the same images and the same baseline."""
    data = experiment.data
    root = ["--data.root", data.root] if data.name == "folder" else []
    is_own = experiment.model == OWN_GEOMETRY
    start = ["--architecture", "FILE"] if is_own else ["--model", experiment.model]
    return ["--data", data.name, *root, *start]


def dotted(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--space.design.norm VALUE` and the like out of the words, as nested mappings.

    A setting of all stages, given alone, replaces the file's of each stage. Raises UserError.
    """
    rest: list[str] = []
    mappings: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        section, *keys = option.removeprefix("--").split(".")
        if not option.startswith("--") or section not in DOTTED or not keys:
            rest.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{option}: a value is missing")
            value = words.pop(0)
        if section == "space" and keys[0] != "design":  # of all stages, or of one
            keys = [keys[0], ".".join(keys[1:]) or OTHERS]
        setting: Any = value
        for key in reversed([section, *keys]):
            setting = {key: setting}
        mappings = merge(mappings, setting)
    space = mappings.get("space", {})
    for key, setting in space.items():
        if setting.keys() == {OTHERS}:
            space[key] = setting[OTHERS]
    return rest, mappings
