"""A study's own run in MLflow: what it says of the study, kept up to date."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking import parent_run
from levit_ablate.tracking.runs import reading_the_record, search
from levit_ablate.tracking.tags import STUDY


@contextmanager
def at_work(plan: Plan, work_dir: Path) -> Iterator[Run]:
    """The study's run: `parent_run.at_work`; complete when every run of the study is recorded."""

    def describe(parent: Run, was_there: bool) -> None:
        described = plan.described(_said(parent) if was_there else None)
        MlflowClient().log_text(parent.info.run_id, json.dumps(described, indent=1), DESCRIPTION)

    def is_complete(parent: Run) -> bool:
        return results_of(parent, plan.described()).is_complete

    with parent_run.at_work(plan.whole, work_dir, describe, is_complete) as parent:
        yield parent


def study_runs(study: str) -> list[Run]:
    """The runs of a study on all datasets and under all conditions, the latest first."""
    return [run for run in _all_studies() if run.data.tags[STUDY] == study]


def recorded_studies() -> set[str]:
    """The names of the studies that are recorded."""
    return {run.data.tags[STUDY] for run in _all_studies()}


def _all_studies() -> list[Run]:
    return search(f"tags.`{STUDY}` LIKE '%'")


def _said(parent: Run) -> dict[str, Any] | None:
    """What a study's run says of the study; None where it was killed before it had said it."""
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
    """Write what the study has come to into its run: metrics, table, plots, figures."""
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
    """Of every variant: number of runs, mean, deviation, difference, the bounds of its interval."""
    found: dict[str, float | None] = {}
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
        found |= {metric_name(kind, row.name): value for kind, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}
