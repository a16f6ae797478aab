"""The driver's loop: gives jobs of a study or a search to workers until there are no more."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, NamedTuple, Protocol

from levit_ablate.errors import RunError
from levit_ablate.runner.job import Job, Outcome, Question
from levit_ablate.runner.progress import Display
from levit_ablate.training.callbacks import Status

TICK = 0.5
"""Seconds between two looks at the jobs."""


class Event(NamedTuple):
    """A message of a job: its progress, a question, or how it ended."""

    job: Job
    news: Status | Question | Outcome


class Launcher(Protocol):
    """Starts jobs somewhere, up to `places` at once."""

    places: int

    @property
    def running(self) -> list[Job]:
        """The jobs that were started and have not ended."""
        ...

    def start(self, job: Job) -> None:
        """Start a job; there is a free place."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, or happens within `timeout` seconds."""
        ...

    def answer(self, job: Job, go_on: bool) -> None:
        """Answer a job's question."""
        ...

    def stop(self, at_once: bool) -> None:
        """Stop all jobs: after the current step, with a checkpoint; or at once."""
        ...

    def close(self) -> None:
        """Stop everything that was started."""
        ...


class Source(Protocol):
    """Where jobs come from: a study's missing runs, or a search's trials.

    A RunError that it raises stops the other jobs with a checkpoint, and is raised by `run`.
    """

    @property
    def is_done(self) -> bool:
        """True if there are no more jobs, and none of another command to wait for."""
        ...

    def next(self) -> Job | Literal["again"] | None:
        """Return the next job that can start now, or None.

        "again" after something that took a while: other jobs' messages are taken, then it is
        called again.
        """
        ...

    def go_on(self, job: Job, curve: Sequence[float]) -> bool:
        """Return whether a job goes on, from its validation accuracy after each epoch so far."""
        ...

    def ended(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        """Take the outcome of a job; `is_stopping` if all jobs were told to stop."""
        ...

    def update(self) -> None:
        """Write and show what is new; called between two looks at the jobs."""
        ...


@dataclass
class Signals:
    """Counts Ctrl-C and SIGTERM. A signal handler may do little, so the loop passes them on."""

    count: int = 0
    passed_on: int = 0

    def pass_on(self, launcher: Launcher, display: Display) -> None:
        """Stop the jobs after the first signal with a checkpoint, after the second at once."""
        if self.count <= self.passed_on:
            return
        if not self.passed_on:
            display.say(
                "ending: each job leaves a checkpoint after its step; once more ends them at once"
            )
        self.passed_on = self.count
        launcher.stop(at_once=self.count > 1)


@contextmanager
def counting_signals() -> Iterator[Signals]:
    """Count Ctrl-C and SIGTERM within the block, instead of ending the process."""
    signals = Signals()

    def count(signum: int, frame: FrameType | None) -> None:
        signals.count += 1

    handlers: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread: no signals here
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, count)
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run(source: Source, launcher: Launcher, display: Display) -> bool:
    """Run the jobs of a source until it is done; return whether it was interrupted.

    Ctrl-C or SIGTERM lets every job end its step, with a checkpoint; a second one ends them at
    once. Raises the RunError of a source, once its jobs have ended.
    """
    errors: list[RunError] = []
    with counting_signals() as signals:
        while launcher.running or not (signals.count or errors or source.is_done):
            signals.pass_on(launcher, display)
            asks_again = False
            if not (signals.count or errors):
                with _stopping(launcher, errors):
                    asks_again = _start(source, launcher, display, signals)
                    source.update()
            for event in launcher.events(0 if asks_again else TICK):
                with _stopping(launcher, errors):
                    _take(event, source, launcher, display, bool(signals.count or errors))
    if errors and not signals.count:
        raise errors[0]
    return signals.count > 0


@contextmanager
def _stopping(launcher: Launcher, errors: list[RunError]) -> Iterator[None]:
    """Stop the jobs on the first RunError within the block, and keep it."""
    try:
        yield
    except RunError as error:
        if not errors:
            launcher.stop(at_once=False)
        errors.append(error)


def _start(source: Source, launcher: Launcher, display: Display, signals: Signals) -> bool:
    """Fill the free places with jobs that can start; return whether to ask again at once."""
    while len(launcher.running) < launcher.places and not signals.count:
        job = source.next()
        if not isinstance(job, Job):
            return job == "again"
        display.started(job)
        launcher.start(job)
    return False


def _take(
    event: Event, source: Source, launcher: Launcher, display: Display, is_stopping: bool
) -> None:
    if isinstance(event.news, Status):
        display.show(event.job, event.news)
    elif isinstance(event.news, Question):
        go_on = True
        try:
            go_on = is_stopping or source.go_on(event.job, event.news.curve)
        finally:
            launcher.answer(event.job, go_on)  # the worker waits for it, whatever happened
    else:
        display.removed(event.job)
        source.ended(event.job, event.news, is_stopping)
