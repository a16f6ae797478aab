"""Writes to one run, in order; what a store that is away does not take is sent later.

During a training the writes wait in memory: the epochs of a killed one are written again from its
checkpoint. What still waits when a run ends is kept in its folder, in a file of this run alone, and
sent by the next command that opens the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from levit_ablate.errors import DamagedError, RunError
from levit_ablate.runtime import lock_of, replacing
from levit_ablate.tracking.store import STORE_ERRORS, the_record
from levit_ablate.tracking.uris import reason, without_password

FILES = "outbox*.jsonl"
"""Files in a run's folder with what waits, one for each run of its key, in whichever store."""
PAUSE = 10.0
"""Seconds between a failed write and the next try."""
FOR_GOOD = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")
"""Error codes of a store that refuses a write; a retry would not help."""


class RefusedError(RunError):
    """A store that can be reached refuses a write."""


def _send(write: Mapping[str, Any]) -> None:
    client, run_id = MlflowClient(), write["run_id"]
    match write["kind"]:
        case "metrics":
            when = (write["timestamp"], write["step"])
            metrics = [Metric(name, value, *when) for name, value in write["values"].items()]
            client.log_batch(run_id, metrics=metrics)
        case "tags":
            tags = [RunTag(name, value) for name, value in write["values"].items()]
            client.log_batch(run_id, tags=tags)
        case "artifact":
            client.log_artifact(run_id, write["path"], write["folder"])
        case "end":
            client.set_terminated(run_id, write["status"], write["timestamp"])


class Outbox:
    """Sends the writes of one run in order; `keep` puts what waits into a file in its folder."""

    def __init__(self, folder: Path, run_id: str = "", file: str = "") -> None:
        self.folder = folder
        self.run_id = run_id
        self.path = folder / (file or f"outbox-{run_id}.jsonl")
        self.waiting: list[dict[str, Any]] = []
        self.why = ""  # the store is away; empty where it is not
        self.failed_at = 0.0

    def put(self, kind: str, **content: Any) -> None:
        """Write now if the store takes it, else later. Raises RefusedError if it refuses it."""
        self.waiting.append({"kind": kind, "run_id": self.run_id, "uri": _open_uri(), **content})
        self.deliver()

    def deliver(self, patience: float = 0.0) -> bool:
        """Send what waits, with retries for `patience` seconds; return whether all is sent.

        Raises RefusedError; the refused write is dropped.
        """
        end = time.monotonic() + patience
        while self.waiting:
            is_pausing = self.why and not patience and time.monotonic() < self.failed_at + PAUSE
            if not is_pausing and self._is_sent():
                if self.path.is_file():
                    self.keep()
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(1.0)
        return True

    def _is_sent(self) -> bool:
        """Send the first write; return whether the store took it."""
        try:
            _send(self.waiting[0])
        except STORE_ERRORS as error:
            why = reason(error, mlflow.get_tracking_uri())
            if getattr(error, "error_code", "") in FOR_GOOD:
                self.waiting.pop(0)
                raise RefusedError(f"{the_record()} refuses a write: {why}") from error
            if not self.why:
                print(
                    f"{the_record()} does not answer ({why}); the training goes on, and what is "
                    f"to be recorded is sent when it answers again",
                    file=sys.stderr,
                )
            self.why, self.failed_at = why, time.monotonic()
            return False
        self.waiting.pop(0)
        if self.why:
            self.why = ""
            print(f"{the_record()} answers again", file=sys.stderr)
        return True

    def keep(self) -> None:
        """Make the file hold what waits. Raises RunError if it cannot."""
        if not self.waiting:
            self.path.unlink(missing_ok=True)
            return
        try:
            with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(write)}\n" for write in self.waiting)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"neither the record ({self.why}) nor {self.path} can be written: {error.strerror}"
            ) from error

    def load(self) -> None:
        """Let the writes in the file wait again. Raises DamagedError where it cannot be read."""
        *lines, _ = self.path.read_bytes().split(b"\n")  # the last may be cut off
        try:
            writes = [json.loads(line) for line in lines]
        except ValueError:
            writes = [None]
        needed = {"kind", "run_id", "uri"}
        if not all(isinstance(write, dict) and needed <= write.keys() for write in writes):
            raise DamagedError(
                f"{self.path}: is damaged; what it holds of a run cannot be recorded"
            )
        self.waiting = writes

    @rank_zero_only
    def remove_folder(self) -> None:
        """Remove the run's folder with what waits, unless something waits for another run there."""
        self.path.unlink(missing_ok=True)
        if not any(self.folder.glob(FILES)):
            shutil.rmtree(self.folder, ignore_errors=True)


def _open_uri() -> str:
    """URI of the open store, as a write on disk names it: without user and password."""
    return re.sub("//[^/@]*@", "//", without_password(mlflow.get_tracking_uri()))


def deliver_pending(work_dir: Path) -> None:
    """Send to the open store what earlier runs could not, and remove what is sent.

    What the store refuses or cannot be read is set aside, with a printed line. Running runs are
    left alone: they send their own.
    """
    for path in sorted((work_dir / "runs").glob(f"*/{FILES}")):
        # a running process holds the lock; one that has just ended has removed its folder
        with (
            contextlib.suppress(Timeout, FileNotFoundError),
            FileLock(lock_of(path.parent), timeout=0),
        ):
            outbox = Outbox(path.parent, file=path.name)
            try:
                outbox.load()
                writes = [write for write in outbox.waiting if write["uri"] == _open_uri()]
                if writes and outbox.deliver() and writes[-1].get("status") == "FINISHED":
                    outbox.remove_folder()
            except DamagedError as error:
                kept = path.replace(path.with_suffix(".damaged"))
                print(f"{error}; the file is now {kept}", file=sys.stderr)
            except RefusedError as error:
                kept = path.replace(path.with_suffix(".refused"))
                print(f"{error}; what it refused is kept in {kept}", file=sys.stderr)
