"""A study's own run in MLflow: found again, kept up to date, its children below it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags

from levit_ablate.analysis import formats, plots
from levit_ablate.analysis.results import (
    DESCRIPTION,
    Results,
    description_of,
    metric_name,
    results_of,
)
from levit_ablate.locks import lock_of
from levit_ablate.serialization import flat
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking.record import heartbeat
from levit_ablate.tracking.runs import children, find, reading_the_record, search
from levit_ablate.tracking.store import EXPERIMENT_NAME, experiment_id
from levit_ablate.tracking.tags import (
    ALIVE,
    DATASET,
    HOST,
    KEY,
    LOCK,
    ORIGINAL,
    PARENT,
    STUDY,
    STUDY_KEY,
    machine_tags,
    tags_of,
)

MOST_METRICS = 1000
"""MLflow takes no more in one write."""


def experiment_name(study: str, dataset: str) -> str:
    """Of a study's runs on a dataset."""
    return f"{EXPERIMENT_NAME}/{study}/{dataset}"


@contextmanager
def at_work(plan: Plan, work_dir: Path) -> Iterator[Run]:
    """The study's run, made where it is missing, which is at work until the end of the block.

    Its status is then FINISHED where every run of the study is recorded, KILLED where it was
    interrupted, FAILED else. Of several sweeps of one study the last to end decides. Raises
    RunError where the record cannot be written.
    """
    folder = work_dir / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{plan.key}.{os.getpid()}"
    with FileLock(lock_of(own)):
        life = {HOST: platform.node(), LOCK: str(lock_of(own).absolute())}
        with reading_the_record(), FileLock(lock_of(folder / plan.key)):
            earlier = _found(plan)
            parent = earlier or _made(plan)
            _describe(parent, plan.described(earlier and _said(earlier)), life)
        status = "FAILED"
        try:
            with heartbeat(parent.info.run_id):
                yield parent
            if results_of(parent, plan.described()).is_complete:
                status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with reading_the_record():
                MlflowClient().set_terminated(parent.info.run_id, status)
    lock_of(own).unlink(missing_ok=True)


def study_runs(study: str) -> list[Run]:
    """The runs of a study on all datasets and under all conditions, the latest first."""
    return [run for run in _all_studies() if run.data.tags[STUDY] == study]


def recorded_studies() -> set[str]:
    """The names of the studies that are recorded."""
    return {run.data.tags[STUDY] for run in _all_studies()}


def _all_studies() -> list[Run]:
    return search(f"tags.`{STUDY}` LIKE '%'")


def _found(plan: Plan) -> Run | None:
    found = search(f"tags.`{STUDY_KEY}` = '{plan.key}'")
    return found[-1] if found else None  # the oldest: all sweeps choose the same


def _made(plan: Plan) -> Run:
    client = MlflowClient()
    experiment = experiment_id(experiment_name(plan.study.name, plan.dataset))
    tags = {
        STUDY: plan.study.name,
        STUDY_KEY: plan.key,
        DATASET: plan.dataset,
        "mlflow.note.content": plan.study.summary,
    }
    name = f"{plan.study.name} on {plan.dataset}"
    run: Run = client.create_run(experiment, tags=resolve_tags(tags), run_name=name)
    params = flat(plan.described()["conditions"])
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
    return run


def _said(parent: Run) -> dict[str, Any] | None:
    """What a study's run says of the study; None where it was killed before it said anything."""
    names = [artifact.path for artifact in MlflowClient().list_artifacts(parent.info.run_id)]
    return description_of(parent) if DESCRIPTION in names else None


def _describe(parent: Run, described: Mapping[str, Any], life: Mapping[str, str]) -> None:
    client, run_id = MlflowClient(), parent.info.run_id
    client.update_run(run_id, "RUNNING")
    tags = {**machine_tags(), **life, ALIVE: f"{time.time():.0f}"}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    client.log_text(run_id, json.dumps(described, indent=1), DESCRIPTION)


@reading_the_record()
def link_recorded(plan: Plan, parent: Run, work_dir: Path) -> list[str]:
    """Put runs that were recorded elsewhere below the study too; the keys of what is recorded.

    MLflow keeps a run below one parent, so that what another study or `run` trained is repeated
    here: params, metrics and tags, with the name of the original; not its artifacts.
    """
    with FileLock(lock_of(work_dir / "studies" / plan.key)):  # of several sweeps one repeats it
        below = children(parent.info.run_id)
        here = {run.data.tags.get(KEY) for run in below if run.info.status == "FINISHED"}
        done = []
        for job in plan.jobs:
            key = job.key
            if key in here:
                done.append(key)
            elif original := find(key):
                _repeat(original, parent, tags_of(job))
                done.append(key)
    return done


def _repeat(original: Run, parent: Run, tags: Mapping[str, str]) -> None:
    client = MlflowClient()
    own = {**original.data.tags, **tags, PARENT: parent.info.run_id, ORIGINAL: original.info.run_id}
    run = client.create_run(
        parent.info.experiment_id,
        start_time=original.info.start_time,
        tags=own,
        run_name=original.info.run_name,
    )
    run_id = run.info.run_id
    client.log_batch(run_id, params=[Param(k, v) for k, v in original.data.params.items()])
    metrics = [
        metric
        for name in original.data.metrics
        for metric in client.get_metric_history(original.info.run_id, name)
    ]
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
    client.set_terminated(run_id, "FINISHED", original.info.end_time)


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
