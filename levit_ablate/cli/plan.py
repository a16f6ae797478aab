"""`levit-ablate plan STUDY`: what a sweep would do, without doing it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from levit_ablate.cli.options import parse, parser_for
from levit_ablate.cli.study_options import add_study, study_options
from levit_ablate.errors import UserError

if TYPE_CHECKING:
    from levit_ablate.api.plan import StudyPlan
    from levit_ablate.experiment import Variant


def main(argv: Sequence[str]) -> None:
    """Print every variant with its cost and its runs, and how long a sweep would take."""
    parser = parser_for(
        "plan", "What a sweep would run, what is recorded already, and how long it will take."
    )
    add_study(parser)
    parser.add_argument("--jobs", type=int, default=1, help="Runs at once, for the estimate.")
    parser.add_argument(
        "--probe",
        type=bool,
        default=True,
        help="Train every variant for a few steps, to estimate the time.",
    )
    options = parse(parser, argv)
    jobs = options.get("jobs", 1)
    if jobs < 1:
        raise UserError(f"--jobs: {jobs} must be at least 1")
    wanted = study_options(options)
    from levit_ablate.api.plan import plan  # loads torch, lightning and mlflow: seconds

    found = plan(
        wanted.study,
        **wanted.chosen(),
        jobs=jobs,
        probe_time=options.get("probe", True),
        tracking_uri=options.get("tracking_uri"),
        progress=True,
        **wanted.given,
    )
    if options.get("format") == "json":
        print(json.dumps(found.as_dict()))
    else:
        _print(found, jobs)


def _print(found: StudyPlan, jobs: int) -> None:
    from levit_ablate.analysis.formats import console
    from levit_ablate.analysis.table import conditions_line

    planned, said, out = found.planned, found.as_dict(), console()
    out.print(
        f"[bold]{escape(planned.study.name)}[/bold] on {escape(planned.dataset)}: "
        f"{escape(planned.study.summary)}\n"
        f"{escape(conditions_line(planned.described()['conditions']))}\n"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("variant", "parameters", "multiply-adds", "stages", "seeds", "a run"):
        numbers = name in ("parameters", "multiply-adds", "a run")
        table.add_column(name, justify="right" if numbers else "left", no_wrap=name != "stages")
    for variant, figures in zip(planned.variants, said["variants"], strict=True):
        took = figures["seconds"]
        table.add_row(
            escape(variant.name),
            f"{figures['params']:,}",
            f"{figures['flops']:,}",
            _stages(variant),
            _seeds(figures["runs"]),
            "" if took is None else _time(took),
        )
    out.print(table)
    out.print(f"\n{said['recorded']} of {said['runs']} runs are recorded, {said['to_run']} to run.")
    for stale in said["stale"]:
        out.print(
            f"Stale: {escape(stale['name'])} seed {stale['seed']} (run {stale['run']}) was "
            f"recorded under other settings; it is not used."
        )
    if said["seconds"] is not None:
        out.print(
            f"About {_time(said['seconds'])} with {jobs} at once, from a few steps of each, "
            f"teacher and its answers included."
        )


def _stages(variant: Variant) -> str:
    """Return the geometry, with what the cost was matched to."""
    stages = ", ".join(map(str, variant.architecture.stages))
    matched = f" (matched: {variant.matched})" if variant.matched != "none" else ""
    return f"{stages}; V {variant.architecture.value_dim}{matched}"


def _seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the seeds by state: recorded 0, 1; missing 2."""
    by_state: dict[str, list[str]] = {}
    for each in runs:
        by_state.setdefault(each["state"], []).append(str(each["seed"]))
    return "; ".join(f"{state} {', '.join(seeds)}" for state, seeds in by_state.items())


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
