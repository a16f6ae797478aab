"""A study's own run in MLflow: its description, speeds, table and plots."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.analysis import formats, plots, speed
from levit_ablate.analysis.results import (
    DESCRIPTION,
    LATENCY,
    MEASURED_OF,
    MEASURED_ON,
    THROUGHPUT,
    Results,
    description_of,
    metric_name,
    results_of,
)
from levit_ablate.bars import error_console
from levit_ablate.errors import DamagedError
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking import parent_run
from levit_ablate.tracking.runs import STUDY, reading_the_record, search


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
    run_id = parent.info.run_id
    results = results_of(MlflowClient().get_run(run_id))
    mlflow.log_metrics(_metrics(results), step=0, run_id=run_id)
    pictures = plots.pictures(results)
    files: dict[str, str | bytes] = {f"{title}.png": each for title, each in pictures.items()}
    for kind, make in formats.FORMATS.items():
        table = formats.html(results, pictures) if kind == "html" else make(results)
        files[f"table.{formats.SUFFIXES.get(kind, kind)}"] = table
    parent_run.write_files(run_id, files)
    return results


@reading_the_record()
def measure_speed(plan: Plan, parent: Run) -> None:
    """Measure and record the speed of the networks, unless all of them were measured."""
    known = json.loads(parent.data.tags.get(MEASURED_OF, "{}"))
    if known.items() >= plan.networks.items():
        return
    with error_console().status(f"measuring the speed of {len(plan.variants)} networks"):
        speeds, measured_on = speed.measure(plan.variants)
    metrics = {
        metric_name(kind, name): value
        for name, measured in speeds.items()
        for kind, value in zip((THROUGHPUT, LATENCY), measured, strict=True)
    }
    mlflow.log_metrics(metrics, step=0, run_id=parent.info.run_id)
    tags = {MEASURED_ON: measured_on, MEASURED_OF: json.dumps(known | plan.networks)}
    for name, value in tags.items():
        MlflowClient().set_tag(parent.info.run_id, name, value)


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
