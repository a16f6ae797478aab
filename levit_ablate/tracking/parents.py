"""A run that others stand below, of a study or a search: found again, alive while worked on."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags

from levit_ablate.config import Hardware
from levit_ablate.experiment import Variant
from levit_ablate.hardware import settle_rank
from levit_ablate.locks import lock_of, one_at_a_time
from levit_ablate.schema import flat
from levit_ablate.tracking.record import heartbeat
from levit_ablate.tracking.runs import children, find, reading_the_record, search
from levit_ablate.tracking.store import EXPERIMENT_NAME, STORE_ERRORS, experiment_id
from levit_ablate.tracking.tags import (
    ALIVE,
    DATASET,
    HOST,
    KEY,
    LOCK,
    ORIGINAL,
    PARENT,
    machine_tags,
    tags_of,
)

MOST_METRICS = 1000
"""MLflow takes no more in one write."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What the parent run is of."""

    kind: str
    """The tag of its name: `tags.STUDY`, or `tags.SEARCH`."""
    name: str
    dataset: str
    key: str
    """By which it is found again."""
    summary: str
    conditions: Mapping[str, Any]
    """The experiment that all runs below it share most of, as plain data: its params."""

    @property
    def experiment(self) -> str:
        """The name of the experiment of its runs."""
        return experiment_name(self.name, self.dataset)


def experiment_name(name: str, dataset: str) -> str:
    """Of the runs of a study or a search on a dataset."""
    return f"{EXPERIMENT_NAME}/{name}/{dataset}"


def key_tag(kind: str) -> str:
    """The tag of the key beside that of the name."""
    return f"{kind}_key"


@contextmanager
def at_work(
    whole: Whole,
    work_dir: Path,
    describe: Callable[[Run, bool], None],
    is_complete: Callable[[Run], bool],
) -> Iterator[Run]:
    """The parent run, made where it is missing, which is at work until the end of the block.

    Its status is then FINISHED where it is complete, KILLED where it was interrupted, FAILED else.
    Of several processes at work on one the last to end decides. Raises RunError where the record
    cannot be written.

    Args:
        whole: what it is of.
        work_dir: where its lock lies.
        describe: writes what it is into the run; is told whether the run was there before.
        is_complete: whether all is recorded.
    """
    settle_rank(Hardware())  # one process, whatever its environment says: srun may start several
    folder = work_dir / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{whole.key}.{os.getpid()}"
    with FileLock(lock_of(own)):
        life = {HOST: platform.node(), LOCK: str(lock_of(own).absolute())}
        begins = one_at_a_time(folder / whole.key, "records what was trained before")
        with reading_the_record(), begins:
            earlier = found(whole)
            parent = earlier or _made(whole)
            _begin(parent, life)
            describe(parent, earlier is not None)
        status = "FAILED"
        try:
            with heartbeat(parent.info.run_id):
                yield parent
            if is_complete(parent):
                status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with reading_the_record():
                MlflowClient().set_terminated(parent.info.run_id, status)
    lock_of(own).unlink(missing_ok=True)


def found(whole: Whole) -> Run | None:
    """Its run in the open store; the oldest, so that all processes choose the same."""
    runs = search(f"tags.`{key_tag(whole.kind)}` = '{whole.key}'")
    return runs[-1] if runs else None


def _made(whole: Whole) -> Run:
    client = MlflowClient()
    tags = {
        whole.kind: whole.name,
        key_tag(whole.kind): whole.key,
        DATASET: whole.dataset,
        "mlflow.note.content": whole.summary,
    }
    name = f"{whole.name} on {whole.dataset}"
    experiment = experiment_id(whole.experiment)
    run: Run = client.create_run(experiment, tags=resolve_tags(tags), run_name=name)
    params = flat(whole.conditions)
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
    return run


def _begin(parent: Run, life: Mapping[str, str]) -> None:
    client, run_id = MlflowClient(), parent.info.run_id
    client.update_run(run_id, "RUNNING")
    tags = {**machine_tags(), **life, ALIVE: f"{time.time():.0f}"}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


@reading_the_record()
def link_recorded(whole: Whole, jobs: Sequence[Variant], parent: Run, work_dir: Path) -> list[str]:
    """Put runs that were recorded elsewhere below the parent too; the keys of what is recorded.

    MLflow keeps a run below one parent, so that what another study or `run` trained is repeated
    here: params, metrics, tags and artifacts, with the name of the original.
    """
    with one_at_a_time(work_dir / "studies" / whole.key, "records what was trained before"):
        below = children(parent.info.run_id)
        here = {run.data.tags.get(KEY) for run in below if run.info.status == "FINISHED"}
        done = []
        for job in jobs:
            key = job.key
            if key in here:
                done.append(key)
            elif original := find(*job.keys):
                _repeat(original, parent, tags_of(job))
                done.append(key)
    return done


def _repeat(original: Run, parent: Run, tags: Mapping[str, str]) -> None:
    """A run like the original below the parent; it is FINISHED once all of it is there."""
    client = MlflowClient()
    own = {**original.data.tags, **tags, PARENT: parent.info.run_id, ORIGINAL: original.info.run_id}
    own |= {LOCK: "", ALIVE: f"{time.time():.0f}"}  # at work, until the last artifact is copied
    run = client.create_run(
        parent.info.experiment_id,
        start_time=original.info.start_time,
        tags=own,
        run_name=original.info.run_name,
    )
    run_id = run.info.run_id
    try:
        with heartbeat(run_id):
            client.log_batch(run_id, params=[Param(k, v) for k, v in original.data.params.items()])
            metrics: list[Metric] = [
                metric
                for name in original.data.metrics
                for metric in client.get_metric_history(original.info.run_id, name)
            ]
            for start in range(0, len(metrics), MOST_METRICS):
                client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
            _copy_artifacts(client, original.info.run_id, run_id)
        client.set_terminated(run_id, "FINISHED", original.info.end_time)
    except BaseException:
        with contextlib.suppress(*STORE_ERRORS):
            client.delete_run(run_id)
        raise


def _copy_artifacts(client: MlflowClient, source: str, target: str, folder: str = "") -> None:
    """Copy the artifacts of a run into another, file by file: checkpoints are large."""
    for artifact in client.list_artifacts(source, folder or None):
        if artifact.is_dir:
            _copy_artifacts(client, source, target, artifact.path)
            continue
        with tempfile.TemporaryDirectory() as name:
            path = client.download_artifacts(source, artifact.path, name)
            client.log_artifact(target, path, folder or None)
