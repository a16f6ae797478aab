"""A process that is told to end does, also where Python drops the KeyboardInterrupt that says so.

Python drops what is raised within a finalizer or a weak reference's callback, and the collection of
garbage runs such ones for seconds. So what came is remembered, and asked for where a process would
begin something long. Imports no torch.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

came: list[int] = []
"""The signals that came to end this process."""
_waits: list[float] = []
"""When this process began to wait for others, `time.monotonic`; empty while it does not."""


def listen() -> None:
    """From now on Ctrl-C and SIGTERM, with which a cluster takes a machine back, are remembered.

    To be called by a process of our own, in its main thread, at its start.
    """
    came.clear()
    sys.unraisablehook = dropped
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as Ctrl-C is for a shell's background job
            signal.signal(number, interrupt)


def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """A signal's handler."""
    came.append(signum)
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that was dropped, if one was."""
    if came:
        raise KeyboardInterrupt


def dropped(unraisable: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interrupt that was dropped; a hook for Python."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM after the block: within a fork Python drops what a handler raises.

    Processes forked in the block do not handle them at all. Only the main thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    handlers = [signal.signal(each, lambda signum, _: late.append(signum)) for each in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        for signum in late:
            signal.raise_signal(signum)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within, this process waits for others, which may never answer: `waited` says how long."""
    _waits.append(time.monotonic())
    try:
        yield
    finally:
        _waits.pop()


def waited() -> float:
    """Seconds since this process began to wait; 0 while it does not. Any thread may ask."""
    return max((time.monotonic() - began for began in tuple(_waits)), default=0.0)
