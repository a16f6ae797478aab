"""Of several processes that need the same thing made, one makes it and the others wait."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from levit_ablate.runtime import is_first_process
from levit_ablate.signals import waiting


def lock_of(result: Path) -> Path:
    """The file that is locked by the process that makes `result`, and by no other."""
    return result.with_name(f"{result.name}.lock")


@contextmanager
def one_at_a_time(result: Path, doing: str) -> Iterator[None]:
    """Hold the right to make `result`; a process that waits for it says so, once.

    The lock is a file beside the result, and is gone with the process that held it, however that
    ended. The processes of one training are one: its first holds the lock.

    Args:
        result: what is made.
        doing: what the other process does, in words: "trains it".
    """
    if not is_first_process():
        yield
        return
    result.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(result))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{result.name}: another process {doing}; waiting for it", file=sys.stderr)
        with waiting():
            lock.acquire()
    with lock:
        yield


def is_held(lock: Path) -> bool:
    """Whether a process of this machine, not this one, holds a lock; false where there is none."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
