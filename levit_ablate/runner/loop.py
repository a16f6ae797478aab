"""The driver's loop: gives jobs of a study or a search to workers until there are no more."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple, Protocol

from levit_ablate.errors import RunError
from levit_ablate.runner.job import Job, Outcome, Question
from levit_ablate.runner.progress import Display
from levit_ablate.signals import SIGNALS, keeping_handlers
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

    def start(self, job: Job) -> None:
        """Start a job; there is a free place."""

    def events(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, or happens within `timeout` seconds."""

    def answer(self, job: Job, go_on: bool) -> None:
        """Answer a job's question."""

    def stop(self, at_once: bool) -> None:
        """Stop all jobs: after the current step, with a checkpoint; or at once."""

    def close(self) -> None:
        """Stop everything that was started."""


class Source(Protocol):
    """Where jobs come from: a study's missing runs, or a search's trials.

    A RunError that it raises stops the other jobs with a checkpoint, and is raised by `run`.
    """

    @property
    def is_done(self) -> bool:
        """True if there are no more jobs, and none of another command to wait for."""

    def next(self) -> Job | Literal["again"] | None:
        """Return the next job that can start now, or None.

        "again" after something that took a while: other jobs' messages are taken, then it is
        called again.
        """

    def go_on(self, job: Job, curve: Sequence[float]) -> bool:
        """Return whether a job goes on, from its validation accuracy after each epoch so far."""

    def ended(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        """Take the outcome of a job; `is_stopping` if all jobs were told to stop."""

    def update(self) -> None:
        """Write and show what is new; called between two looks at the jobs."""


def run(source: Source, launcher: Launcher, display: Display) -> bool:
    """Run the jobs of a source until it is done; return whether it was interrupted.

    Ctrl-C or SIGTERM lets every job end its step, with a checkpoint; a second one ends them at
    once. Raises the RunError of a source, once its jobs have ended.
    """
    loop = _Loop(source, launcher, display)
    with _collected_signals() as loop.signals:
        loop.run()
    if loop.errors and not loop.signals:
        raise loop.errors[0]
    return bool(loop.signals)


@contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM within the block, instead of ending the process."""
    received: list[int] = []
    with keeping_handlers():
        with suppress(ValueError):  # not the main thread: no signals here
            for each in SIGNALS:
                signal.signal(each, lambda number, _: received.append(number))
        yield received


class _Loop:
    def __init__(self, source: Source, launcher: Launcher, display: Display) -> None:
        self.source = source
        self.launcher = launcher
        self.display = display
        self.errors: list[RunError] = []
        self.signals: list[int] = []
        self.passed_on = 0
        """Signals that were passed on: a handler may do little, so the loop does it."""

    @property
    def is_stopping(self) -> bool:
        return bool(self.signals or self.errors)

    def run(self) -> None:
        while self.launcher.running or not (self.is_stopping or self.source.is_done):
            self._pass_on_signals()
            asks_again = False
            with self._stopping_on_error():
                if not self.is_stopping:
                    asks_again = self._start_jobs()
                self.source.update()
            for event in self.launcher.events(0 if asks_again else TICK):
                with self._stopping_on_error():
                    self._take(event)

    def _pass_on_signals(self) -> None:
        """Stop the jobs after the first signal with a checkpoint, after the second at once."""
        if len(self.signals) == self.passed_on:
            return
        if not self.passed_on:
            self.display.say(
                "ending: each job leaves a checkpoint after its step; once more ends them at once"
            )
        self.passed_on = len(self.signals)
        self.launcher.stop(at_once=self.passed_on > 1)

    @contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        """Stop the jobs on the first RunError within the block, and keep it."""
        try:
            yield
        except RunError as error:
            if not self.errors:
                self.launcher.stop(at_once=False)
            self.errors.append(error)

    def _start_jobs(self) -> bool:
        """Fill the free places with jobs that can start; return whether to ask again at once."""
        while len(self.launcher.running) < self.launcher.places and not self.signals:
            job = self.source.next()
            if not isinstance(job, Job):
                return job == "again"
            self.display.started(job)
            self.launcher.start(job)
        return False

    def _take(self, event: Event) -> None:
        job, news = event
        if isinstance(news, Status):
            self.display.show(job, news)
        elif isinstance(news, Question):
            go_on = True
            try:
                go_on = self.is_stopping or self.source.go_on(job, news.curve)
            finally:
                self.launcher.answer(job, go_on)  # the worker waits for it, whatever happened
        else:
            self.display.removed(job)
            self.source.ended(job, news, self.is_stopping)
