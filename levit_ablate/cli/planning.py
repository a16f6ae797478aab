"""What `levit-ablate plan` does once its options are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from levit_ablate.analysis.formats import console
from levit_ablate.analysis.table import conditions_line
from levit_ablate.cli.study_options import Wanted
from levit_ablate.experiment import Variant
from levit_ablate.runner.estimate import Estimate, probe
from levit_ablate.schema import plain
from levit_ablate.studies.conduct import check
from levit_ablate.studies.jobs import jobs_of
from levit_ablate.studies.plan import Plan, plan
from levit_ablate.studies.record import JobState, Stale, stale_of, states_of
from levit_ablate.tracking.store import is_empty, open_store, tracking_uri

TO_RUN = ("missing", "failed", "interrupted")
"""States of a run that a sweep would train."""


def run(wanted: Wanted, options: Mapping[str, Any]) -> None:
    """Check everything, and print what a sweep would do. Nothing is recorded or trained."""
    planned = plan(wanted.read(), wanted.given)
    check(planned)
    uri = tracking_uri(options.get("tracking_uri"))
    if is_empty(uri):
        states, stale = [JobState(job, "missing", "") for job in planned.jobs], []
    else:
        open_store(uri)
        states, stale = states_of(planned), stale_of(planned)
    orders = jobs_of([state.job for state in states if state.state in TO_RUN])
    estimate = probe(planned.variants) if orders and options.get("probe", True) else None
    at_once = min(options.get("jobs", 1), len(orders))
    seconds = estimate.whole(orders) / at_once if estimate else None
    said = _figures(planned, states, stale, estimate, seconds)
    if options.get("format") == "json":
        print(json.dumps(said))
    else:
        _print(planned, said, options.get("jobs", 1), console())


def _figures(
    planned: Plan,
    states: Sequence[JobState],
    stale: Sequence[Stale],
    estimate: Estimate | None,
    seconds: float | None,
) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "study": planned.study.name,
        "dataset": planned.dataset,
        "key": planned.key,
        "seeds": list(planned.seeds),
        "variants": [
            {
                "name": variant.name,
                "summary": variant.ablation.summary,
                "params": variant.cost.params,
                "flops": variant.cost.flops,
                "matched": variant.matched,
                "stages": plain(variant.architecture.stages),
                "value_dim": variant.architecture.value_dim,
                "differs": {name: plain(own) for name, (_, own) in variant.differences().items()},
                "seconds": estimate.run[variant.name] if estimate else None,
                "runs": [_run(state) for state in states if state.job.name == variant.name],
            }
            for variant in planned.variants
        ],
        "runs": len(states),
        "to_run": sum(state.state in TO_RUN for state in states),
        "recorded": sum(state.state == "recorded" for state in states),
        "stale": [each._asdict() for each in stale],
        "seconds": seconds,
    }


def _run(state: JobState) -> dict[str, Any]:
    job = state.job
    return {"seed": job.experiment.seed, "state": state.state, "key": job.key, "run": state.run}


def _print(planned: Plan, said: Mapping[str, Any], jobs: int, out: Console) -> None:
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
    """The geometry, with what the cost was matched to."""
    stages = ", ".join(map(str, variant.architecture.stages))
    matched = f" (matched: {variant.matched})" if variant.matched != "none" else ""
    return f"{stages}; V {variant.architecture.value_dim}{matched}"


def _seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """By state: recorded 0, 1; missing 2."""
    by_state: dict[str, list[str]] = {}
    for each in runs:
        by_state.setdefault(each["state"], []).append(str(each["seed"]))
    return "; ".join(f"{state} {', '.join(seeds)}" for state, seeds in by_state.items())


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
