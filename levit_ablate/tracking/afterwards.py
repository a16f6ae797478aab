"""What is recorded of a run when its process is gone: what it could not send, or why it failed."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from levit_ablate.errors import DamagedError
from levit_ablate.experiment import Variant
from levit_ablate.runtime import lock_of
from levit_ablate.tracking import outbox, runs
from levit_ablate.tracking.outbox import Outbox, RefusedError
from levit_ablate.tracking.record import MARKER, name_of
from levit_ablate.tracking.tags import PARENT, tags_of


def deliver_pending(work_dir: Path) -> None:
    """Send what earlier runs could not record in the open store, and forget what it took.

    What it refuses, or cannot be read, is set aside, with a line. Runs that are at work send what
    is theirs.
    """
    for path in sorted((work_dir / "runs").glob(f"*/{outbox.FILE}")):
        folder = path.parent
        # a run that is at work holds the lock; one that has just ended has removed its folder
        with (
            contextlib.suppress(Timeout, FileNotFoundError),
            FileLock(lock_of(folder), timeout=0),
        ):
            try:
                _deliver(folder)
            except DamagedError as error:
                kept = path.replace(path.with_suffix(".damaged"))
                print(f"{error}; the file is now {kept}", file=sys.stderr)


def _deliver(folder: Path) -> None:
    waiting = Outbox(folder, (folder / MARKER).read_text(encoding="utf-8", errors="replace"))
    ours = [w for w in waiting.waiting if w["uri"] == outbox.open_uri()]
    if not ours:
        return
    try:
        all_sent = waiting.deliver()
    except RefusedError as error:
        print(f"{error}; what it refused is kept in {waiting.set_aside()}", file=sys.stderr)
        return
    if all_sent and ours[-1].get("status") == "FINISHED":
        shutil.rmtree(folder, ignore_errors=True)


@runs.reading_the_record()
def record_failure(variant: Variant, parent: str, error: str) -> None:
    """Record why a run has no result, where its own process could not.

    It was killed, or has not even begun. A run that did record how it ended is left as it is.

    Args:
        variant: what was to be run.
        parent: the run that it stands below.
        error: why.
    """
    client = MlflowClient()
    found = runs.of_key(variant.key)
    if found and (found[0].info.status in ("FINISHED", "FAILED") or runs.is_alive(found[0])):
        return
    if found:
        run_id = found[0].info.run_id
    else:
        experiment = client.get_run(parent).info.experiment_id
        tags = resolve_tags({**tags_of(variant), PARENT: parent})
        name = name_of(variant)
        run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    runs.end(run_id, "FAILED", error)
