"""The parent run of a study or a search, and copies of earlier runs below it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags

from levit_ablate.config import Experiment, Hardware
from levit_ablate.experiment import Variant
from levit_ablate.runtime import lock_of, one_at_a_time, settle_rank
from levit_ablate.schema import flat, plain
from levit_ablate.tracking.runs import (
    ALIVE,
    DATASET,
    KEY,
    LOCK,
    ORIGINAL,
    PARENT,
    children,
    find,
    heartbeat,
    life_tags,
    machine_tags,
    now,
    reading_the_record,
    search,
    settle,
    tags_of,
)
from levit_ablate.tracking.store import EXPERIMENT_NAME, STORE_ERRORS, experiment_id

RECORDS = "records what was trained before"
"""What the process that holds the lock of a study or search does."""
MOST_METRICS = 1000
"""Metrics that MLflow takes in one write."""


@dataclass(frozen=True)
class Whole:
    """A study or a search, as its parent run describes it."""

    kind: str
    """Tag of its name: `runs.STUDY` or `runs.SEARCH`."""
    name: str
    key: str
    """Key by which its run is found again."""
    summary: str
    baseline: Experiment
    """Its settings, which most runs below it share, are its params."""

    @property
    def dataset(self) -> str:
        """Name of the dataset, or of its folder."""
        data = self.baseline.data
        root = Path(data.root)
        return (root.name or root.resolve().name) if data.name == "folder" else data.name

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment of its runs."""
        return f"{EXPERIMENT_NAME}/{self.name}/{self.dataset}"

    @property
    def key_tag(self) -> str:
        """Tag of the key, beside the tag of the name."""
        return f"{self.kind}_key"


@contextmanager
def at_work(
    whole: Whole,
    work_dir: Path,
    describe: Callable[[Run, bool], None],
    is_complete: Callable[[Run], bool],
) -> Iterator[Run]:
    """Yield the parent run, created if it is missing; it is RUNNING until the block ends.

    Its status is then FINISHED if it is complete, KILLED if it was interrupted, else FAILED. If
    several processes work on it, the last to end decides. Raises RunError where the record cannot
    be written.

    Args:
        whole: the study or search.
        work_dir: folder of its lock.
        describe: writes into the run what it is; its second argument: the run existed before.
        is_complete: whether all is recorded.
    """
    settle_rank(Hardware())  # rank 0, whatever the environment says: srun may start several drivers
    folder = work_dir / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_of(folder / f"{whole.key}.{os.getpid()}")
    client = MlflowClient()
    with FileLock(lock):
        with reading_the_record(), one_at_a_time(folder / whole.key, RECORDS):
            earlier = found(whole)
            parent = earlier or _created(whole)
            run_id = parent.info.run_id
            client.update_run(run_id, "RUNNING")
            tags = {**machine_tags(), **life_tags(lock)}
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            describe(parent, earlier is not None)
        status = "FAILED"
        try:
            with heartbeat(run_id):
                yield parent
            if is_complete(parent):
                status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with reading_the_record():
                client.set_terminated(run_id, status)
    lock.unlink(missing_ok=True)


def found(whole: Whole) -> Run | None:
    """Return its run in the open store, or None; of several the oldest, for all processes."""
    runs = search(f"tags.`{whole.key_tag}` = '{whole.key}'")
    return runs[-1] if runs else None


def _created(whole: Whole) -> Run:
    client = MlflowClient()
    tags = {
        whole.kind: whole.name,
        whole.key_tag: whole.key,
        DATASET: whole.dataset,
        "mlflow.note.content": whole.summary,
    }
    name = f"{whole.name} on {whole.dataset}"
    experiment = experiment_id(whole.experiment)
    run: Run = client.create_run(experiment, tags=resolve_tags(tags), run_name=name)
    params = flat(plain(whole.baseline))
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
    return run


@reading_the_record()
def link_recorded(whole: Whole, jobs: Sequence[Variant], parent: Run, work_dir: Path) -> list[str]:
    """Copy runs that were recorded elsewhere below the parent; return the keys recorded there.

    MLflow keeps a run below one parent, so what another study or `run` trained is copied: params,
    metrics, tags and artifacts, with a tag that names the original.
    """
    with one_at_a_time(work_dir / "studies" / whole.key, RECORDS):
        below = children(parent.info.run_id)
        here = {run.data.tags.get(KEY) for run in below if run.info.status == "FINISHED"}
        done = []
        for job in jobs:
            key = job.key
            if key in here:
                done.append(key)
            elif original := find(*job.keys):
                _copy(original, parent, tags_of(job))
                done.append(key)
    return done


def _copy(original: Run, parent: Run, tags: Mapping[str, str]) -> None:
    """Copy a run below the parent; the copy is FINISHED once all of it is there."""
    client = MlflowClient()
    source = original.info.run_id
    run = client.create_run(
        parent.info.experiment_id,
        start_time=original.info.start_time,
        tags={
            **original.data.tags,
            **tags,
            PARENT: parent.info.run_id,
            ORIGINAL: source,
            LOCK: "",
            ALIVE: now(),  # until the last artifact is copied
        },
        run_name=original.info.run_name,
    )
    run_id = run.info.run_id
    try:
        with heartbeat(run_id):
            client.log_batch(run_id, params=[Param(k, v) for k, v in original.data.params.items()])
            metrics: list[Metric] = [
                metric
                for name in original.data.metrics
                for metric in client.get_metric_history(source, name)
            ]
            for start in range(0, len(metrics), MOST_METRICS):
                client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
            for artifact in client.list_artifacts(source):
                with tempfile.TemporaryDirectory() as folder:
                    client.log_artifact(
                        run_id, client.download_artifacts(source, artifact.path, folder)
                    )
        client.set_terminated(run_id, "FINISHED", original.info.end_time)
    except BaseException:
        with contextlib.suppress(*STORE_ERRORS):
            client.delete_run(run_id)
        raise


def write_files(run_id: str, files: Mapping[str, str | bytes]) -> None:
    """Write texts and pictures into a run as its artifacts, by their names."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            Path(folder, name).write_bytes(content)
        MlflowClient().log_artifacts(run_id, folder)


def settle_orphans(whole: Whole) -> list[Run]:
    """End the runs that are marked as running and whose processes are gone, and return them."""
    with reading_the_record():
        experiment = experiment_id(whole.experiment)
    return settle(search("attributes.status = 'RUNNING'", [experiment]))
