"""A study's own run in MLflow, with its table and plots, and the states of its runs."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from levit_ablate.analysis import formats, plots
from levit_ablate.analysis.results import (
    DESCRIPTION,
    Results,
    description_of,
    metric_name,
    results_of,
)
from levit_ablate.errors import DamagedError
from levit_ablate.experiment import Variant
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking import parent_run
from levit_ablate.tracking.runs import children, is_alive, of_key, reading_the_record, search
from levit_ablate.tracking.tags import ABLATION, KEY, SEED, STUDY, STUDY_KEY


@contextmanager
def at_work(plan: Plan, work_dir: Path) -> Iterator[Run]:
    """Open the study's run, `parent_run.at_work`; it is complete when every run is recorded."""

    def describe(parent: Run, was_there: bool) -> None:
        described = plan.described(_description(parent) if was_there else None)
        MlflowClient().log_text(parent.info.run_id, json.dumps(described, indent=1), DESCRIPTION)

    def is_complete(parent: Run) -> bool:
        return results_of(parent, plan.described()).is_complete

    with parent_run.at_work(plan.whole, work_dir, describe, is_complete) as parent:
        yield parent


def study_runs(study: str) -> list[Run]:
    """Return a study's runs on all datasets and under all conditions, the latest first."""
    return [run for run in _all_studies() if run.data.tags[STUDY] == study]


def recorded_studies() -> set[str]:
    """Return the names of the studies that are recorded."""
    return {run.data.tags[STUDY] for run in _all_studies()}


def _all_studies() -> list[Run]:
    return search(f"tags.`{STUDY}` LIKE '%'")


def _description(parent: Run) -> dict[str, Any] | None:
    """Return the description of a study from its run; None where there is none or it is damaged."""
    names = [artifact.path for artifact in MlflowClient().list_artifacts(parent.info.run_id)]
    if DESCRIPTION not in names:
        return None
    try:
        return description_of(parent)
    except DamagedError:
        print(
            f"run {parent.info.run_id}: its {DESCRIPTION} is damaged, and written anew: the table "
            f"has what is swept now",
            file=sys.stderr,
        )
        return None


@reading_the_record()
def refresh(parent: Run) -> Results:
    """Write the metrics, tables and plots of a study into its run."""
    client, run_id = MlflowClient(), parent.info.run_id
    results = results_of(client.get_run(run_id))
    now = time.time_ns() // 1_000_000
    metrics = [Metric(name, value, now, 0) for name, value in _metrics(results).items()]
    client.log_batch(run_id, metrics=metrics)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = plots.pictures(results)
        for title, picture in pictures.items():
            (folder / f"{title}.png").write_bytes(picture)
        for kind, make in formats.FORMATS.items():
            content = formats.html(results, pictures) if kind == "html" else make(results)
            suffix = formats.SUFFIXES.get(kind, kind)
            (folder / f"table.{suffix}").write_text(content, encoding="utf-8")
        client.log_artifacts(run_id, name)
    return results


def _metrics(results: Results) -> dict[str, float]:
    """Return the figures of every variant: runs, mean, deviation, difference and its interval."""
    metrics: dict[str, float | None] = {}
    for row in results.rows:
        low, high = (row.difference and row.difference.interval) or (None, None)
        values: dict[str, Any] = {
            "n": len(row.accuracies),
            "accuracy_mean": row.mean,
            "accuracy_sd": row.deviation,
            "difference": row.difference.mean if row.difference else None,
            "interval_low": low,
            "interval_high": high,
            "p_holm": row.p_holm,
        }
        metrics |= {metric_name(kind, row.name): value for kind, value in values.items()}
    return {name: value for name, value in metrics.items() if value is not None}


State = Literal["recorded", "at work", "failed", "interrupted", "missing"]


class JobState(NamedTuple):
    """The state of one run of a study."""

    job: Variant
    state: State
    run: str
    """MLflow's ID of the run; empty if there is none."""


class Stale(NamedTuple):
    """A recorded run that is no longer part of its study: its settings have changed."""

    name: str
    seed: int
    run: str


def states_of(plan: Plan) -> list[JobState]:
    """Return the state of every run of a study. Raises RunError if the store cannot be read."""
    return [JobState(job, *_state(of_key(*job.keys))) for job in plan.jobs]


def _state(runs: Sequence[Run]) -> tuple[State, str]:
    kinds: list[tuple[State, list[Run]]] = [
        ("recorded", [run for run in runs if run.info.status == "FINISHED"]),
        ("at work", [run for run in runs if is_alive(run)]),
        ("failed", [run for run in runs if run.info.status == "FAILED"]),
        ("interrupted", list(runs)),
    ]
    for state, of_state in kinds:
        if of_state:
            return state, of_state[0].info.run_id
    return "missing", ""


@reading_the_record()
def stale_of(plan: Plan) -> list[Stale]:
    """Return recorded runs with a planned name and seed but another key.

    Their ablation's file has changed since.
    """
    keys = {job.key for job in plan.jobs}
    planned = {(job.name, str(job.experiment.seed)) for job in plan.jobs}
    stale = []
    for parent in search(f"tags.`{STUDY_KEY}` = '{plan.key}'"):
        for run in children(parent.info.run_id):
            tags = run.data.tags
            if tags.get(KEY) not in keys and (tags.get(ABLATION), tags.get(SEED)) in planned:
                stale.append(Stale(tags[ABLATION], int(tags[SEED]), run.info.run_id))
    return stale
