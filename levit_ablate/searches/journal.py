"""The file that holds the trials of a search on one machine: Optuna's journal, a line a change.

Optuna's own lock is a symbolic link, which stays behind a process that is killed; and a line that
a full disk or a power loss has cut would be joined to the next one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from levit_ablate.errors import DamagedError
from levit_ablate.runtime import lock_of

PATIENCE = 10.0
"""Seconds for which a process waits in silence for another that writes."""


def journal_storage(path: Path) -> JournalStorage:
    """The trials in a file, which is made where it is missing.

    Raises DamagedError, with the line, where the file is damaged; OSError where it cannot be
    opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    try:
        return JournalStorage(journal)
    except (DamagedError, OSError):
        raise
    except Exception as error:  # Optuna raises whatever comes up on a line with something missing
        raise journal.damaged() from error


class Journal(JournalFileBackend):
    """Optuna's journal with a lock that ends with its process, and errors that name the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        super().__init__(str(path), lock_obj=JournalLock(path))  # type: ignore[arg-type]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The changes from this one on, without a last line that is cut or damaged."""
        self.line = log_number_from + 1  # the one that is read next, or at work
        try:
            for log in super().read_logs(log_number_from):
                yield log
                self.line += 1
        except ValueError as error:
            raise self.damaged() from error

    def damaged(self) -> DamagedError:
        """The error for the line that was read last."""
        kept = self.line - 1
        return DamagedError(
            f"{self.path}:{self.line}: the line is damaged; restore the file from a copy, or keep "
            f"the lines before it (head -n {kept}): the search goes on from there, and trains "
            f"nothing again that MLflow has"
        )


class JournalLock:
    """Held while a process appends: a lock of the operating system, gone with the process.

    Has the two methods of Optuna's locks, whose base class is not public.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # not FILE.lock: Optuna's link of that name may still be there, and lead to the journal
        self.lock = FileLock(lock_of(path.with_suffix(".append")))

    def acquire(self) -> bool:
        """Wait for the right to append, and cut off what a process left of a line."""
        try:
            self.lock.acquire(timeout=PATIENCE, poll_interval=0.005)
        except Timeout:
            print(f"{self.path}: another process writes it; waiting for it", file=sys.stderr)
            self.lock.acquire()
        try:
            _cut_to_whole_lines(self.path)
        except BaseException:
            self.lock.release()
            raise
        return True

    def release(self) -> None:
        """Let others append."""
        self.lock.release()


def _cut_to_whole_lines(path: Path) -> None:
    """Cut off the end of a file that is no whole line of JSON: nothing is written behind it."""
    with path.open("r+b") as file:
        if not (size := file.seek(0, os.SEEK_END)):
            return
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
            start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
            last = content[start:end]
        try:
            json.loads(last or "0")
        except ValueError:
            end = start
        if end < size:
            file.truncate(end)
