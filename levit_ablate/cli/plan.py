"""`levit-ablate plan STUDY`: what a sweep would do, without doing it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from levit_ablate.cli.options import add_study, arguments, parse, parser_for
from levit_ablate.library import STUDIES

if TYPE_CHECKING:
    from levit_ablate.api.study_results import StudyPlan
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
    given = arguments(options, STUDIES)
    from levit_ablate.api import study as api  # loads torch, lightning and mlflow: seconds

    probe = options.get("probe", True)
    plan = api.plan(options["study"], probe_time=probe, progress=True, **given)
    if options.get("format") == "json":
        print(json.dumps(plan.as_dict()))
    else:
        _print(plan, options.get("jobs", 1))


def _print(plan: StudyPlan, jobs: int) -> None:
    from levit_ablate.analysis.formats import console
    from levit_ablate.analysis.table import conditions_line

    planned, figures, out = plan.planned, plan.as_dict(), console()
    out.print(
        f"[bold]{escape(planned.study.name)}[/bold] on {escape(planned.dataset)}: "
        f"{escape(planned.study.summary)}\n"
        f"{escape(conditions_line(planned.described()['conditions']))}\n"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("variant", "parameters", "multiply-adds", "stages", "seeds", "a run"):
        numbers = name in ("parameters", "multiply-adds", "a run")
        table.add_column(name, justify="right" if numbers else "left", no_wrap=name != "stages")
    for variant, row in zip(planned.variants, figures["variants"], strict=True):
        table.add_row(
            escape(variant.name),
            f"{row['params']:,}",
            f"{row['flops']:,}",
            _stages(variant),
            _seeds(row["runs"]),
            "" if row["seconds"] is None else _time(row["seconds"]),
        )
    out.print(table)
    out.print(
        f"\n{figures['recorded']} of {figures['runs']} runs are recorded, {figures['to_run']} to "
        f"run."
    )
    for stale in plan.stale:
        out.print(
            f"Stale: {escape(stale.name)} seed {stale.seed} (run {stale.run}) was recorded under "
            f"other settings; it is not used."
        )
    if plan.seconds is not None:
        out.print(
            f"About {_time(plan.seconds)} with {jobs} at once, from a few steps of each, "
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
