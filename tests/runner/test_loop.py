"""The loop between a source and a launcher: errors and signals stop it with checkpoints."""

from __future__ import annotations

import os
import signal

import pytest

from levit_ablate.errors import RunError
from levit_ablate.experiment import variant
from levit_ablate.runner import loop
from levit_ablate.runner.job import Job, Outcome, Question
from levit_ablate.runner.loop import Event
from levit_ablate.runner.progress import Display

VARIANT = variant("no_distillation", {})


class Launcher:
    """Its jobs ask once whether to go on, and end when they are answered or stopped."""

    places = 2

    def __init__(self) -> None:
        self.running: list[Job] = []
        self.asked: set[str] = set()
        self.answers: dict[str, bool] = {}
        self.stops: list[bool] = []

    def start(self, job: Job) -> None:
        self.running.append(job)

    def events(self, timeout: float) -> list[Event]:
        events = []
        for job in list(self.running):
            if job.title not in self.asked:
                self.asked.add(job.title)
                events.append(Event(job, Question((0.5,))))
            elif job.title in self.answers:
                self.running.remove(job)
                stopped = bool(self.stops)
                error = "interrupted" if stopped else ""
                events.append(Event(job, Outcome(error=error, interrupted=stopped)))
        return events

    def answer(self, job: Job, go_on: bool) -> None:
        self.answers[job.title] = go_on

    def stop(self, at_once: bool) -> None:
        self.stops.append(at_once)

    def close(self) -> None: ...


class Source:
    """Gives jobs by name; `go_on` may raise or send signals."""

    def __init__(self, names: str, judge=lambda: True) -> None:
        self.waiting = names.split()
        self.judge = judge
        self.outcomes: dict[str, tuple[Outcome, bool]] = {}
        self.agains = 2

    @property
    def is_done(self) -> bool:
        return not self.waiting

    def next(self):
        if self.agains:
            self.agains -= 1
            return "again"
        return Job(variant=VARIANT, name=self.waiting.pop(0)) if self.waiting else None

    def go_on(self, job: Job, curve) -> bool:
        return self.judge()

    def ended(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        self.outcomes[job.title] = (outcome, is_stopping)

    def update(self) -> None: ...


def run(source: Source, launcher: Launcher) -> bool:
    with Display("x", 3, 0) as display:
        return loop.run(source, launcher, display)


def test_every_job_is_run_and_answered():
    source, launcher = Source("a b c"), Launcher()
    assert run(source, launcher) is False
    assert source.outcomes == {name: (Outcome(), False) for name in "abc"}
    assert launcher.answers == dict.fromkeys("abc", True) and not launcher.stops


def test_an_error_of_the_source_stops_the_other_jobs_with_a_checkpoint_and_is_raised():
    def fail() -> bool:
        raise RunError("the trials cannot be read")

    source, launcher = Source("a b c", fail), Launcher()
    with pytest.raises(RunError, match="the trials cannot be read"):
        run(source, launcher)
    assert launcher.stops == [False] and set(source.outcomes) == {"a", "b"}
    assert launcher.answers == {"a": True, "b": True}  # none waits for its answer
    assert all(is_stopping for _, is_stopping in source.outcomes.values())


@pytest.mark.parametrize("times", [1, 2])
def test_a_first_signal_stops_with_checkpoints_and_a_second_at_once(times, capsys):
    def interrupt() -> bool:
        if not launcher.answers:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return True

    source, launcher = Source("a b c", interrupt), Launcher()
    assert run(source, launcher) is True
    assert launcher.stops == [times == 2] and set(source.outcomes) == {"a", "b"}
    assert "leaves a checkpoint" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # the handler is as before
