"""Find runs by key, tell whether they are alive, and end those whose process is gone."""

from __future__ import annotations

import contextlib
import json
import platform
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from levit_ablate.errors import DamagedError, RunError
from levit_ablate.runtime import is_held
from levit_ablate.tracking.store import STORE_ERRORS, the_record
from levit_ablate.tracking.tags import ALIVE, ERROR, HOST, KEY, LOCK, ORIGINAL, PARENT
from levit_ablate.tracking.uris import reason

SILENCE = 300.0
"""Seconds without a heartbeat after which a process of another machine counts as dead."""
HEARTBEAT = 60.0
"""Seconds between two heartbeats."""


@contextmanager
def reading_the_record() -> Iterator[None]:
    """Turn errors of a store that cannot be read or written into a RunError of one line."""
    try:
        yield
    except STORE_ERRORS as error:
        why = reason(error, mlflow.get_tracking_uri())
        raise RunError(
            f"{the_record()} cannot be read or written: {why}; what was written before is kept"
        ) from error


@reading_the_record()
def search(filter_string: str, experiments: list[str] | None = None) -> list[Run]:
    """Return the runs that match an MLflow filter, latest first, in these experiments or in all."""
    found: list[Run] = mlflow.search_runs(
        experiment_ids=experiments,
        search_all_experiments=experiments is None,
        filter_string=filter_string,
        output_format="list",
    )
    return found


def of_key(*keys: str) -> list[Run]:
    """Return all trained runs with one of these keys, however they ended; no copies.

    Those of an earlier key come first; of one key the latest.
    """
    found = [run for key in keys for run in search(f"tags.`{KEY}` = '{key}'")]
    return [run for run in found if ORIGINAL not in run.data.tags]


def find(*keys: str) -> Run | None:
    """Return the latest finished run of the first of these keys that has one, or None."""
    return next((run for run in of_key(*keys) if run.info.status == "FINISHED"), None)


class TakenError(Exception):
    """A process of another machine or folder, with other locks, trains the same key."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.info.run_id)
        self.run = run


def others_at_work(run: Run) -> tuple[list[Run], list[Run]]:
    """Return the other runs of its key with status RUNNING, as (alive, dead), latest first.

    The process that holds the lock of this run is the only one with it, so that other runs with the
    same lock are dead.
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
    """Sort key by which one of several runs that began at once is the first."""
    return run.info.start_time, run.info.run_id


def children(parent: str) -> list[Run]:
    """Return the runs below a parent, in all experiments."""
    return search(f"tags.`{PARENT}` = '{parent}'")


def is_alive(run: Run) -> bool:
    """Return whether a run's process is running.

    On this machine by its lock; on another machine or file system by its last heartbeat.
    """
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return False
    tags = run.data.tags
    lock = Path(tags.get(LOCK, ""))
    if tags.get(HOST) == platform.node() and lock.is_file():
        return is_held(lock)
    last = float(tags.get(ALIVE, run.info.start_time / 1000))
    return time.time() - last < SILENCE


def life_tags(lock: Path) -> dict[str, str]:
    """Tags by which `is_alive` knows whether the process that holds a lock is running."""
    return {HOST: platform.node(), LOCK: str(lock.absolute()), ALIVE: _heartbeat()}


def _heartbeat() -> str:
    return f"{time.time():.0f}"


@contextmanager
def heartbeat(run_id: str) -> Iterator[None]:
    """Send heartbeats of a run, for processes that cannot see its lock."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(*STORE_ERRORS):
                MlflowClient().set_tag(run_id, ALIVE, _heartbeat())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


@reading_the_record()
def settle(runs: Iterable[Run]) -> list[Run]:
    """End the runs with status RUNNING whose process is gone, and return them.

    What they recorded stays: `run` and `sweep` resume them where their last checkpoint is.
    """
    orphans = [run for run in runs if run.info.status == "RUNNING" and not is_alive(run)]
    for run in orphans:
        end_orphan(run)
    return orphans


def end_orphan(run: Run) -> None:
    """End a run whose process is gone as KILLED."""
    end(run.info.run_id, "KILLED", "its process was killed, or its machine went down")


@reading_the_record()
def end(run_id: str, status: str, error: str = "") -> None:
    """End a run from another process, with the reason as a tag."""
    assert status in RunStatus._STRING_TO_STATUS
    client = MlflowClient()
    if error:
        client.set_tag(run_id, ERROR, error[:500])
    client.set_terminated(run_id, status)


def read_json(run: Run, name: str) -> dict[str, Any]:
    """Return a JSON artifact of a run, which is a mapping.

    Raises RunError where it cannot be read, DamagedError where it is cut or no mapping.
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
