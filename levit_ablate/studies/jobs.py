"""The jobs of a study: its missing runs, and before them the teachers that they need."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.runner.job import Job, Outcome
from levit_ablate.runner.progress import Display
from levit_ablate.runtime import is_held, lock_of
from levit_ablate.tracking.record import record_failure
from levit_ablate.tracking.runs import is_alive, of_key

POLL = 5.0
"""Seconds between two looks at the jobs of other processes, or at a store that is away."""


def jobs_of(runs: Sequence[Variant], parent: str = "") -> list[Job]:
    """Return the jobs of some runs, first the teachers that are to be trained.

    Args:
        runs: variants at their seeds.
        parent: ID of the study's run.
    """
    jobs = [Job(variant=run, parent=parent) for run in runs]
    teachers = {job.teacher: job for job in jobs if job.teacher and not job.is_ready}
    return [*(Job(variant=job.variant, only_teacher=True) for job in teachers.values()), *jobs]


class StudyJobs:
    """Gives the jobs of a study to the loop (a `runner.loop.Source`).

    A job that fails does not stop the others. A run that waits for a teacher lets others pass.

    Args:
        jobs: the jobs, in their order.
        display: shows a line for each that has ended.
        write_table: called while there are new results, until it returns true.
    """

    def __init__(
        self, jobs: Sequence[Job], display: Display, write_table: Callable[[], bool]
    ) -> None:
        self.waiting = list(jobs)
        self.display = display
        self.write_table = write_table
        self.failed: list[tuple[Job, str]] = []
        """Jobs without a result, and why."""
        self.at_work = 0
        self.is_table_old = False
        self.next_look = 0.0

    @property
    def is_done(self) -> bool:
        return not self.waiting

    def next(self) -> Job | None:
        """Return the first job that is ready and that no other process is at work on."""
        if not self.waiting or time.monotonic() < self.next_look:
            return None
        try:
            if job := self._first_free():
                self.waiting.remove(job)
                self.at_work += 1
                return job
            if self.waiting and not self.at_work:
                self.display.say_once("another process has what remains in hand; waiting for it")
        except RunError as error:
            self.display.say_once(f"{error}; {len(self.waiting)} jobs wait for it")
        self.next_look = time.monotonic() + POLL
        return None

    def _first_free(self) -> Job | None:
        for job in list(self.waiting):
            if job.only_teacher and job.result.exists():
                self.waiting.remove(job)
            elif is_held(lock_of(job.result)) or not job.is_ready:
                continue
            elif job.only_teacher:
                return job
            else:
                runs = of_key(*job.variant.keys)
                if any(run.info.status == "FINISHED" for run in runs):
                    self.waiting.remove(job)
                    self._count(job, "recorded by another process")
                elif not any(is_alive(run) for run in runs):
                    return job
        return None

    def go_on(self, job: Job, curve: Sequence[float]) -> bool:
        return True

    def ended(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        self.at_work -= 1
        self.next_look = 0.0  # what waited for it can start
        took = f"({timedelta(seconds=round(outcome.seconds))} of training)"
        if outcome.result:
            self.is_table_old = True
            self._count(job, f"{100 * outcome.result.accuracy:.2f} % {took}")
        elif not outcome.error:
            self.display.say(f"[{self.display.done}/{self.display.total}] {job.title}: {took}")
        elif outcome.interrupted and is_stopping:
            self.display.say(f"{job.title}: interrupted; it goes on when the sweep is given again")
        else:
            self.display.failed += 1
            self.display.say(f"{job.title}: FAILED: {outcome.error}")
            self._fail(job, outcome.error)
            if job.only_teacher:
                for run in [each for each in self.waiting if each.teacher == job.teacher]:
                    self.waiting.remove(run)
                    self._fail(run, f"its teacher could not be trained: {outcome.error}")

    def update(self) -> None:
        if self.is_table_old:
            self.is_table_old = not self.write_table()

    def _count(self, job: Job, line: str) -> None:
        self.display.done += 1
        self.display.say(f"[{self.display.done}/{self.display.total}] {job.title}: {line}")
        self.display.refresh()

    def _fail(self, job: Job, error: str) -> None:
        self.failed.append((job, error))
        if job.only_teacher:
            return
        try:
            record_failure(job.variant, job.parent, error)
        except RunError as lost:
            print(f"{job.title}: {error}; {lost}", file=sys.stderr)
