"""Keeps standard streams and MLflow's settings as a call found them."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import mlflow
from mlflow.tracking import fluent

from levit_ablate.config import Hardware
from levit_ablate.errors import UserError
from levit_ablate.tracking.store import open_recorded, open_store, tracking_uri
from levit_ablate.tracking.uris import without_password

LOG = logging.getLogger("levit_ablate")
"""Gets the lines of calls that print nothing, at level INFO."""
EXPERIMENT_ID = "MLFLOW_EXPERIMENT_ID"
TRACKING_URI = "MLFLOW_TRACKING_URI"
STREAMS = ("stdout", "stderr")

_lock = threading.RLock()
_targets = threading.local()
"""Where the calling thread's standard streams go, by name."""
_talking: list[dict[str, TextIO]] = []
"""The standard streams before the first call that is under way, one entry a call."""
_stores: list[tuple[str, dict[str, str | None], Any]] = []
"""A store for each call that has it open, and MLflow's settings before the first of them."""


class _LogStream(io.TextIOBase):
    """A text stream whose lines become log records; what the log's handlers print is not."""

    is_log = True
    encoding = "utf-8"

    def __init__(self, handlers: TextIO) -> None:
        self.handlers = handlers
        self.line = ""
        self.is_logging = False

    def write(self, text: str) -> int:
        if self.is_logging:
            return self.handlers.write(text)
        *lines, self.line = (self.line + text).split("\n")
        self.is_logging = True
        try:
            for line in lines:
                if line.strip():
                    LOG.info(line)
        finally:
            self.is_logging = False
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handlers, name)

    def fileno(self) -> int:
        return self.handlers.fileno()


class _ThreadStream:
    """A standard stream with a target of its own for threads that have one."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_targets, self._name, self.stream), name)


def _own_stream(name: str) -> TextIO:
    """Return a standard stream; not ours, which a redirection that outlived a call put back."""
    stream = getattr(sys, name)
    while isinstance(stream, _ThreadStream):
        stream = stream.stream
    return cast(TextIO, stream)


@contextmanager
def talking(progress: bool) -> Iterator[None]:
    """Within, what this thread prints goes to standard error, or to the log without `progress`.

    Other threads print as they did.
    """
    with _lock:
        if not _talking:
            before = {name: _own_stream(name) for name in STREAMS}
            for name, stream in before.items():
                setattr(sys, name, _ThreadStream(name, stream))
        else:
            before = _talking[0]
        _talking.append(before)
    outer = dict(vars(_targets))
    target = before["stderr"] if progress else _LogStream(before["stderr"])
    vars(_targets).update(dict.fromkeys(STREAMS, target))
    try:
        yield
    finally:
        vars(_targets).clear()
        vars(_targets).update(outer)
        with _lock:
            _talking.pop()
            for name in STREAMS if not _talking else ():
                if isinstance(getattr(sys, name), _ThreadStream):
                    setattr(sys, name, before[name])


@contextmanager
def opened(uri: str, existing: bool = False) -> Iterator[None]:
    """Within, MLflow records at `uri`; afterwards its settings are what they were.

    MLflow has one store a process: threads may share it. Raises UserError as `open_store`, and
    where another thread has another store open; with `existing` where nothing is recorded there.
    """
    with _lock:
        if _stores and _stores[0][0] != uri:
            raise UserError(
                f"tracking uri {without_password(uri)}: another thread of this process has "
                f"{without_password(_stores[0][0])} open, and MLflow has one store a process; wait "
                f"for it, or use another process"
            )
        before = {name: os.environ.get(name) for name in (TRACKING_URI, EXPERIMENT_ID)}
        experiment = getattr(fluent, "_active_experiment_id", None)
        entry = _stores[0] if _stores else (uri, before, experiment)
        try:
            open_recorded(uri) if existing else open_store(uri)
        except BaseException:
            if not _stores:
                _restore(entry)
            raise
        _stores.append(entry)
    try:
        yield
    finally:
        with _lock:
            _stores.pop()
            if not _stores:
                _restore(entry)


def _restore(entry: tuple[str, dict[str, str | None], Any]) -> None:
    _, before, experiment = entry
    mlflow.set_tracking_uri(before[TRACKING_URI])
    fluent._active_experiment_id = experiment
    if (own := before[EXPERIMENT_ID]) is None:
        os.environ.pop(EXPERIMENT_ID, None)
    else:
        os.environ[EXPERIMENT_ID] = own


def store_uri(given: str | None) -> str:
    """Return the URI of the store: the one given, or MLFLOW_TRACKING_URI, or ./mlflow.db.

    A SQLite file by its full path: MLflow goes on with the file that a relative path named first,
    although the folder has changed since.
    """
    uri = tracking_uri(given)
    scheme, mark, path = uri.partition(":///")
    if scheme.startswith("sqlite") and mark and path and path[0] not in "/:":
        return f"{scheme}:///{Path(path).resolve()}"
    return uri


def check_devices(hardware: Hardware) -> None:
    """Refuse several devices in an interactive session, which cannot start their processes.

    Raises UserError.
    """
    if hardware.devices * hardware.num_nodes > 1 and hasattr(sys, "ps1"):
        raise UserError(
            f"hardware.devices: {hardware.devices}: an interactive Python cannot start a process "
            f"for each device; use levit-ablate run, or a script"
        )
