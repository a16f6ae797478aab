"""Runs that are there: found by their key, and settled where their process is gone."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from levit_ablate.errors import DamagedError, RunError
from levit_ablate.locks import is_held
from levit_ablate.tracking.store import STORE_ERRORS, the_record
from levit_ablate.tracking.tags import ALIVE, ERROR, HOST, KEY, LOCK, ORIGINAL, PARENT
from levit_ablate.tracking.uris import reason

SILENCE = 300.0
"""Seconds without a sign of life after which a process of another machine is taken for dead."""
HEARTBEAT = 60.0
"""Seconds between two signs of life."""


@contextmanager
def reading_the_record() -> Iterator[None]:
    """A store that cannot be read or written is a RunError, in a line."""
    try:
        yield
    except STORE_ERRORS as error:
        why = reason(error, mlflow.get_tracking_uri())
        raise RunError(
            f"{the_record()} cannot be read or written: {why}; what was written before is kept"
        ) from error


@reading_the_record()
def search(filter_string: str, experiments: list[str] | None = None) -> list[Run]:
    """All runs that a filter of MLflow's finds, the latest first, in these experiments or any."""
    found: list[Run] = mlflow.search_runs(
        experiment_ids=experiments,
        search_all_experiments=experiments is None,
        filter_string=filter_string,
        output_format="list",
    )
    return found


def of_key(*keys: str) -> list[Run]:
    """The runs with one of these keys that were trained, however they ended.

    Those of an earlier key come first, and of one key the latest.
    """
    found = [run for key in keys for run in search(f"tags.`{KEY}` = '{key}'")]
    return [run for run in found if ORIGINAL not in run.data.tags]


def find(*keys: str) -> Run | None:
    """The latest finished run with the first of these keys that has one, in any experiment."""
    return next((run for run in of_key(*keys) if run.info.status == "FINISHED"), None)


class TakenError(Exception):
    """Another process trains what was asked for, where this process's locks do not reach."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.info.run_id)
        self.run = run


def others_at_work(run: Run) -> tuple[list[Run], list[Run]]:
    """The other runs of its key that say they are at work: those that are, and those that died.

    A process that holds the lock of a run is its only one: of others with this lock none lives.
    Each list is in the order of `of_key`, the latest first.
    """

    def place(of: Run) -> tuple[str | None, str | None]:
        return of.data.tags.get(HOST), of.data.tags.get(LOCK)

    alive: list[Run] = []
    dead: list[Run] = []
    for other in of_key(run.data.tags[KEY]):
        if other.info.status == "RUNNING" and other.info.run_id != run.info.run_id:
            at_work = place(other) != place(run) and is_alive(other)
            (alive if at_work else dead).append(other)
    return alive, dead


def order(run: Run) -> tuple[int, str]:
    """By which of several that began at once the first is told."""
    return run.info.start_time, run.info.run_id


def children(parent: str) -> list[Run]:
    """The runs below a parent, in whichever experiment."""
    return search(f"tags.`{PARENT}` = '{parent}'")


def is_alive(run: Run) -> bool:
    """Whether a run is at work.

    On this machine by the lock that its process holds; of another machine, or another file system,
    by the time of its last sign of life.
    """
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return False
    tags = run.data.tags
    lock = Path(tags.get(LOCK, ""))
    if tags.get(HOST) == platform.node() and lock.is_file():
        return is_held(lock)
    last = float(tags.get(ALIVE, run.info.start_time / 1000))
    return time.time() - last < SILENCE


@reading_the_record()
def settle(runs: Iterable[Run]) -> list[Run]:
    """End the runs that say that they are at work and are not; which those were.

    What they recorded is kept: `run` and `sweep` take them up where their last checkpoint is.
    """
    orphans = [run for run in runs if run.info.status == "RUNNING" and not is_alive(run)]
    for run in orphans:
        end_orphan(run)
    return orphans


def end_orphan(run: Run) -> None:
    """End a run whose process is gone."""
    end(run.info.run_id, "KILLED", "its process was killed, or its machine went down")


@reading_the_record()
def end(run_id: str, status: str, error: str = "") -> None:
    """End a run from outside, with the reason."""
    assert status in RunStatus._STRING_TO_STATUS
    client = MlflowClient()
    if error:
        client.set_tag(run_id, ERROR, error[:500])
    client.set_terminated(run_id, status)


def read_json(run: Run, name: str) -> dict[str, Any]:
    """An artifact of a run, which is a mapping.

    Raises RunError where it cannot be read, DamagedError where it is cut or is something else.
    """
    with reading_the_record(), tempfile.TemporaryDirectory() as folder:
        path = MlflowClient().download_artifacts(run.info.run_id, name, folder)
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DamagedError(
            f"run {run.info.run_id}: its artifact {name} is damaged; the command that recorded "
            f"it, given again, writes it anew"
        )
    return content
