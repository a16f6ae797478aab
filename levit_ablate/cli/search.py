"""`levit-ablate search NAME`: look for networks that beat the hand-made ones at equal cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from levit_ablate.cli.options import (
    add_conditions,
    of_experiment,
    parse,
    parser_for,
    read_config,
)
from levit_ablate.cli.study_options import add_launcher, check_launcher, places
from levit_ablate.cli.table import write_pictures
from levit_ablate.config import OWN_GEOMETRY, Experiment
from levit_ablate.errors import RunError, UserError
from levit_ablate.library import SEARCHES, names
from levit_ablate.schema import merge, read_word
from levit_ablate.searches.numbers import NETWORK_NUMBERS, STAGE_NUMBERS
from levit_ablate.searches.search import OTHERS, Search, changed, read

DOTTED = ("space", "budget")
"""Options that are mappings: --space.design.norm batch,layer"""
RARE = ("pruner", "confirm-seeds", "enqueue", "trial-epochs", "storage", "serve", "figures")
"""Options that only `--help trials` explains."""


def main(argv: Sequence[str]) -> None:
    """Do the trials that a search lacks, confirm the best on fresh seeds, and report.

    Raises RunError, after the report, where the search failed or a confirmation has no result.
    """
    parser = parser_for(
        "search",
        "Look for networks that beat the hand-made ones, with Optuna; a search that was begun goes "
        "on. The best are trained again on fresh seeds before anything is claimed.",
    )
    parser.add_argument("search", nargs="?", help="A search's name, or its YAML file.")
    for name, what in (
        ("trials", "Networks to train, those given up early included."),
        ("confirm", "How many of the best are trained again on fresh seeds; 0 for none."),
    ):
        parser.add_argument(f"--{name}", type=int, help=what)
    for name, what in (
        ("objectives", "accuracy, or accuracy and a cost for a front: accuracy,flops."),
        ("sampler", "tpe, nsga2, gp, random, or grid: every combination once."),
        ("pruner", "asha, median, wilcoxon (over seeds), or none."),
        ("seeds", "Of the trainings of a trial: 0, or 0,1,2."),
        ("confirm-seeds", "Fresh ones: 101,102,103."),
        ("enqueue", "Ablations to try first, by name: baseline,no_pyramid."),
        ("trial-epochs", "Epochs of a trial, fewer than the recipe's, which the best are given."),
        ("storage", "Where trials are kept: postgresql://…, grpc://HOST:PORT; a file unless set."),
        ("serve", "HOST:PORT: run a gRPC proxy there before the database of --storage."),
        ("tracking-uri", "Where MLflow records; ./mlflow.db unless set."),
        ("figures", "A folder for the plots."),
    ):
        section = "trials" if name in RARE else ""
        parser.add_argument(f"--{name}", type=str, help=what, section=section)
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
    rest, laid = dotted(argv)
    options = parse(parser, rest)
    check_launcher(options, "workers")
    if options.get("address") and not options.get("storage"):
        raise UserError(
            "--launcher ray: workers on other machines need their trials in a database; give "
            "--storage postgresql://…"
        )
    if "serve" in options:
        from levit_ablate.searches.storage import serve

        if not options.get("storage"):
            raise UserError("--serve: of which database? give --storage postgresql://… with it")
        serve(options["storage"], options["serve"])
        return
    file, given, is_plain = search_options(options, laid)
    from levit_ablate.api import search as api  # loads torch, lightning, mlflow and optuna

    kept: dict[str, Any] = {key: options.get(key) for key in ("storage", "tracking_uri")}
    if options.get("report") or "export" in options:
        found = api.open_search(
            options["search"] if is_plain else file, **kept, progress=True, **given
        )
    else:
        started = places(options)
        workers = {"workers": started.pop("jobs")} if "jobs" in started else {}
        how = {**kept, **workers, **started}
        with redirect_stdout(sys.stderr):  # what libraries print, as Ray's threads do
            found = api.search(file, **how, progress=True, allow_failures=True, **given)
    if "export" in options:
        which, name = options["export"]
        path = found.export(which, name)
        word = path.stem if path.parent == Path("ablations") else path
        here = " ".join(_conditions(found.report.planned.baseline.experiment))
        print(f"{path}: {found.origin(which)}; levit-ablate show {word} {here}, or run")
        return
    if "figures" in options:
        write_pictures(found.pictures(), Path(options["figures"]))
    if options.get("format") == "json":
        print(found.to_json())
    else:
        from levit_ablate.analysis import formats
        from levit_ablate.searches.report_tables import show

        show(found.report, formats.console())
    if found.failed:
        raise RunError("; ".join(found.failed))


def _conditions(experiment: Experiment) -> list[str]:
    """Return the options for the same images and the same baseline."""
    data = experiment.data
    root = ["--data.root", data.root] if data.name == "folder" else []
    own = experiment.model == OWN_GEOMETRY
    start = ["--architecture", "FILE"] if own else ["--model", experiment.model]
    return ["--data", data.name, *root, *start]


def search_options(
    options: Mapping[str, Any], dotted: Mapping[str, Any]
) -> tuple[Search, dict[str, Any], bool]:
    """The search that is asked for, the conditions that the user set, and whether none was set.

    Raises UserError.
    """
    if not options.get("search"):
        raise UserError(f"the name of a search is missing; there are {', '.join(names(SEARCHES))}")
    keys = (
        "trials",
        "confirm",
        "objectives",
        "sampler",
        "pruner",
        "seeds",
        "confirm_seeds",
        "enqueue",
    )
    said = {key: options[key] for key in keys if key in options}
    if "trial_epochs" in options:
        epochs = read_word(options["trial_epochs"])
        if type(epochs) is not int or epochs < 1:
            raise UserError(f"--trial-epochs: {options['trial_epochs']!r} is no number from 1 on")
        said["trial"] = {"recipe": {"epochs": epochs}}
    given: dict[str, Any] = {}
    for path in map(Path, options.get("config", [])):
        given = merge(given, read_config(path))
    given = merge(given, of_experiment(options))
    search = changed(read(options["search"]), {**said, **dotted})
    return search, given, not (said or dotted or given)


def dotted(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--space.design.norm VALUE` and the like out of the words, as nested mappings."""
    rest: list[str] = []
    found: dict[str, Any] = {}
    value: Any
    words = list(argv)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        keys = option.removeprefix("--").split(".")
        if not option.startswith("--") or keys[0] not in DOTTED or len(keys) < 2:
            rest.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{option}: a value is missing")
            value = words.pop(0)
        if keys[0] == "space" and keys[1] != "design":  # of all stages, or of one
            stages = keys[2:] or [OTHERS]
            found = merge(found, {"space": {keys[1]: {".".join(stages): value}}})
        else:
            for key in reversed(keys):
                value = {key: value}
            found = merge(found, value)
    space = found.get("space", {})
    found |= {"space": {key: _plain(said) for key, said in space.items()}} if space else {}
    return rest, found


def _plain(said: Any) -> Any:
    """Let a setting of all stages, given alone, replace the file's of each stage."""
    return said[OTHERS] if isinstance(said, Mapping) and said.keys() == {OTHERS} else said
