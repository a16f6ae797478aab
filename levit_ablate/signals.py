"""Make SIGINT and SIGTERM stop the process, even where Python drops the exception.

Python ignores an exception that is raised inside a finalizer or a weak reference's callback, and
garbage collection runs these for seconds at a time. So a signal is also remembered, and checked for
before anything long begins. Imports no torch: the command line starts with this module.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 20.0
"""Seconds that a stopping training waits for a batch or a lock, in order to leave a checkpoint."""

came: list[int] = []
"""The signals received since `listen`."""
_waits: list[float] = []
"""Start times (`time.monotonic`) of the waits for other processes that are going on."""


def listen() -> None:
    """Handle Ctrl-C and SIGTERM (sent by a cluster that takes a machine back) from now on.

    Call it in the main thread of a process of our own, when it starts.
    """
    came.clear()
    sys.unraisablehook = hide_interrupt
    _handle(interrupt)


def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Signal handler: remember the signal and raise KeyboardInterrupt."""
    came.append(signum)
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal came since `listen`, in case Python dropped the first."""
    if came:
        raise KeyboardInterrupt


def hide_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Hook for `sys.unraisablehook`: print nothing about a dropped KeyboardInterrupt."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _handle(handler: Callable[[int, FrameType | None], object]) -> None:
    """Install a handler, but not for a signal that is ignored: SIGINT is in a background job."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """Restore the handlers of both signals afterwards: Lightning, Ray and SLURM set their own."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Mark this process as waiting for others, which may never answer; see `waited`."""
    _waits.append(time.monotonic())
    try:
        yield
    finally:
        _waits.pop()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM after the block: within a fork Python drops what a handler raises.

    Processes forked in the block do not handle them at all. Only the main thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []
    handlers = [signal.signal(each, lambda signum, _: late.append(signum)) for each in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
        for signum in late:
            signal.raise_signal(signum)


def waited() -> float:
    """Seconds since this process began to wait for others; 0 while it does not. Thread-safe."""
    return max((time.monotonic() - began for began in tuple(_waits)), default=0.0)


class GracefulStop:
    """Signal handling of one training: SIGTERM sets `requested`, SIGINT raises as well.

    The training checks `requested` after every step. Where it has waited `PATIENCE` seconds for a
    batch or a lock, SIGTERM raises KeyboardInterrupt too, from a thread that watches for it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._closed = threading.Event()

    def open(self) -> None:
        """Take over both signals, in the main thread, and begin to watch."""
        threading.Thread(target=self._watch, daemon=True).start()
        with contextlib.suppress(ValueError):  # not the main thread
            _handle(self._received)

    def close(self) -> None:
        """Stop watching. The handlers stay: `keeping_handlers` restores those of before."""
        self._closed.set()

    def _received(self, signum: int, frame: FrameType | None) -> None:
        at_once = signum == signal.SIGINT or (self.requested and waited() >= PATIENCE)
        self.requested = True
        if at_once:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Send SIGTERM again to a main thread that waits: only a signal wakes it."""
        main = threading.main_thread().ident
        assert main is not None
        while not self._closed.wait(1.0):
            if self.requested and waited() >= PATIENCE:
                signal.pthread_kill(main, signal.SIGTERM)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on SIGTERM: there is nothing yet to keep in a checkpoint."""

        def stop(signum: int, frame: FrameType | None) -> NoReturn:
            self.requested = True  # in case the KeyboardInterrupt is dropped
            raise KeyboardInterrupt

        with keeping_handlers():
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, stop)
            yield
