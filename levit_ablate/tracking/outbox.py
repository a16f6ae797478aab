"""What is to be recorded, kept on disk for as long as the store does not take it.

A store that goes away does not stop a training: what it misses is kept in the run's folder, in
order, and sent when it answers again, by this process or by the next one that opens the store.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from levit_ablate.errors import DamagedError, RunError
from levit_ablate.tracking.store import STORE_ERRORS, the_record
from levit_ablate.tracking.uris import reason, without_password

FILE = "outbox.jsonl"
PAUSE = 10.0
"""Seconds after a failure before the store is tried again."""
FOR_GOOD = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")
"""Answers of a store that is there and refuses: to wait would not help."""


def _metrics(
    client: MlflowClient, run_id: str, values: Mapping[str, float], step: int, timestamp: int
) -> None:
    metrics = [Metric(name, value, timestamp, step) for name, value in values.items()]
    client.log_batch(run_id, metrics=metrics)


def _tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in values.items()])


def _artifact(client: MlflowClient, run_id: str, path: str, folder: str | None) -> None:
    client.log_artifact(run_id, path, folder)


def _end(client: MlflowClient, run_id: str, status: str, timestamp: int) -> None:
    client.set_terminated(run_id, status, timestamp)


WRITERS: dict[str, Callable[..., None]] = {
    "metrics": _metrics,
    "tags": _tags,
    "artifact": _artifact,
    "end": _end,
}
"""What makes a write of each kind."""


def open_uri() -> str:
    """By which a write says which store it is for; its file on disk holds no password."""
    return without_password(mlflow.get_tracking_uri())


class Outbox:
    """The way of all writes to one run, in order; what the store does not take waits in `folder`.

    Args:
        folder: where writes wait, and the files that are to be written lie until they are.
        run_id: the run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / FILE
        self.run_id = run_id
        self.failed_at: float | None = None
        self.why = ""

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """The writes that the store has not taken yet, the first first.

        Raises DamagedError where one cannot be read.
        """
        if not self.path.is_file():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")  # the last may be cut off
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            found = [None]
        if not all(
            isinstance(write, dict) and write.get("kind") in WRITERS and "uri" in write
            for write in found
        ):
            raise DamagedError(
                f"{self.path}: is damaged; what it holds of a run cannot be recorded"
            )
        return found

    def put(self, kind: str, **content: Any) -> None:
        """Write, now if the store takes it, and else as soon as it does.

        Raises RefusedError where the store does, RunError where it cannot be kept either.
        """
        write = {"kind": kind, "run_id": self.run_id, "uri": open_uri(), **content}
        if self.path.is_file() or not self._sent(write):
            self._keep([*self.waiting, write])
            self.deliver()

    def deliver(self, patience: float = 0.0) -> bool:
        """Send what waits; whether all is sent. Tries again for `patience` seconds.

        Raises as `put`.
        """
        end = time.monotonic() + patience
        while waiting := self.waiting:
            resting = self.failed_at is not None and time.monotonic() < self.failed_at + PAUSE
            if not (resting and not patience) and self._sent(waiting[0]):
                self._keep(waiting[1:])
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(1.0)
        return True

    def _sent(self, write: dict[str, Any]) -> bool:
        content = {k: v for k, v in write.items() if k not in ("kind", "run_id", "uri")}
        try:
            WRITERS[write["kind"]](MlflowClient(), self.run_id, **content)
        except STORE_ERRORS as error:
            if getattr(error, "error_code", "") in FOR_GOOD:
                raise RefusedError(error) from error
            self._say_failed(error)
            return False
        if self.failed_at is not None:
            self.failed_at = None
            print(f"{the_record()} answers again", file=sys.stderr)
        return True

    def set_aside(self) -> Path:
        """Give up what waits; the file that it is kept in."""
        return self.path.replace(self.path.with_suffix(".refused"))

    def _say_failed(self, error: Exception) -> None:
        self.why = reason(error, mlflow.get_tracking_uri())
        if self.failed_at is None:
            print(
                f"{the_record()} does not answer ({self.why}); the training goes on, and what is "
                f"to be recorded is kept in {self.path.parent}",
                file=sys.stderr,
            )
        self.failed_at = time.monotonic()

    def _keep(self, writes: list[dict[str, Any]]) -> None:
        if not writes:
            self.path.unlink(missing_ok=True)
            return
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(write)}\n" for write in writes)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RunError(
                f"neither the record ({self.why}) nor {self.path} can be written: {error.strerror}"
            ) from error


class RefusedError(RunError):
    """A store that is there does not take something, and will not."""

    def __init__(self, error: Exception) -> None:
        why = reason(error, mlflow.get_tracking_uri())
        super().__init__(f"{the_record()} refuses a write: {why}")
