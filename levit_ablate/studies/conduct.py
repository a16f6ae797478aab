"""Runs a study: reads what is recorded, trains what is missing, writes the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from mlflow.entities import Run

from levit_ablate.analysis.results import Results
from levit_ablate.errors import RunError
from levit_ablate.runner import loop
from levit_ablate.runner.job import Job, Outcome
from levit_ablate.runner.loop import Launcher
from levit_ablate.runner.progress import Display
from levit_ablate.runtime import is_held, lock_of
from levit_ablate.studies.plan import Plan, jobs_of
from levit_ablate.studies.report import at_work, measure_speed, refresh
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.parent_run import link_recorded, settle_orphans
from levit_ablate.tracking.record import record_failure
from levit_ablate.tracking.runs import PARENT, is_alive, of_key
from levit_ablate.tracking.store import answers
from levit_ablate.training.fit import report_horizon
from levit_ablate.training.train import check_conditions

POLL = 5.0
"""Seconds between two looks at the jobs of other processes, or at a store that is away."""
REFRESH = 10.0
"""Least seconds between two writings of the table, while jobs are at work."""
UNRECORDED = "its process ended without an error, and MLflow has no result of it"


def check(planned: Plan) -> None:
    """Raise UserError for a study with a variant that could not be trained here."""
    by_kind = {v.experiment.design.distillation: v for v in planned.variants}
    data = [check_conditions(variant.experiment) for variant in by_kind.values()]
    report_horizon(data[0])


def conduct(planned: Plan, launcher: Launcher) -> tuple[list[str], Results]:
    """Run what the open store lacks of a study, and write its table there.

    Args:
        planned: the study, checked.
        launcher: starts the jobs.

    Returns the jobs without a result and why, a line each, and the results. Raises RunError where
    the store is out of reach at the start or the end, and KeyboardInterrupt where it was
    interrupted, after writing what there is.
    """
    work_dir = Path(planned.baseline.experiment.hardware.work_dir)
    deliver_pending(work_dir)
    _settle_orphans(planned)
    with at_work(planned, work_dir) as parent:
        done = set(link_recorded(planned.whole, planned.jobs, parent, work_dir))
        measure_speed(planned, parent)
        missing = [job for job in planned.jobs if job.key not in done]
        jobs = jobs_of(missing, parent.info.run_id)
        title = f"{planned.study.name} on {planned.dataset}"
        with Display(title, len(planned.jobs), len(done)) as display:
            _announce(display, jobs, len(done), launcher.places)
            source = StudyJobs(jobs, parent, display)
            is_interrupted = loop.run(source, launcher, display)
        deliver_pending(work_dir)
        # also what came late, and what another sweep trained
        done = set(link_recorded(planned.whole, planned.jobs, parent, work_dir))
        results = refresh(parent)
        if is_interrupted:
            raise KeyboardInterrupt
        errors = {job.title: error for job, error in source.failed}
        lost = {
            job.title: errors.get(job.title, UNRECORDED)
            for job in jobs
            if job.variant.key not in done and (job.title in errors or not job.only_teacher)
        }
        return [f"{title}: {error}" for title, error in lost.items()], results


def _settle_orphans(planned: Plan) -> None:
    orphans = settle_orphans(planned.whole)
    if count := sum(PARENT in run.data.tags for run in orphans):
        runs = "runs" if count > 1 else "run"
        print(
            f"{count} {runs} of a sweep that was killed: settled, and to go on from the last "
            f"checkpoint",
            file=sys.stderr,
        )


def _announce(display: Display, jobs: Sequence[Job], done: int, places: int) -> None:
    teachers = sum(job.only_teacher for job in jobs)
    parts = [f"{done} recorded", f"{len(jobs) - teachers} to run"]
    parts += [f"{teachers} teacher to train"] if teachers else []
    at_once = f", {places} at once" if places > 1 else ""
    display.say(f"{display.title}: {', '.join(parts)}{at_once}")


class StudyJobs:
    """Gives the jobs of a study to the loop (a `runner.loop.Source`).

    A job that fails does not stop the others. A run that waits for a teacher lets others pass.

    Args:
        jobs: the jobs, in their order.
        parent: the study's run, whose table is written while there are new results.
        display: shows a line for each job that has ended.
    """

    def __init__(self, jobs: Sequence[Job], parent: Run, display: Display) -> None:
        self.waiting = list(jobs)
        self.parent = parent
        self.display = display
        self.failed: list[tuple[Job, str]] = []
        """Jobs without a result, and why."""
        self.num_running = 0
        self.is_store_away = self.is_table_old = False
        self.next_look = self.next_table = 0.0

    @property
    def is_done(self) -> bool:
        return not self.waiting

    def next(self) -> Job | None:
        """Return the first job that is ready and that no other process is at work on."""
        if not self.waiting or time.monotonic() < self.next_look:
            return None
        try:
            if not self.is_store_away or answers():
                self.is_store_away = False
                if job := self._first_free():
                    self.waiting.remove(job)
                    self.num_running += 1
                    return job
                if self.waiting and not self.num_running:
                    line = "another process has what remains in hand; waiting for it"
                    self.display.say_once(line)
        except RunError as error:
            self.is_store_away = True  # asked whether it answers first, which takes less long
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
        self.num_running -= 1
        self.next_look = 0.0  # what waited for it can start
        took = f"({timedelta(seconds=round(outcome.seconds))} of training)"
        if outcome.result:
            self.is_table_old |= not is_stopping  # else it is written at the end
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
        """Write the table if there are new results, in a tenth of the time at most."""
        started = time.monotonic()
        if not self.is_table_old or started < self.next_table:
            return
        try:
            refresh(self.parent)
        except RunError as error:
            print(f"{error}; the table is written later", file=sys.stderr)
        self.is_table_old = False
        ended = time.monotonic()
        self.next_table = ended + max(REFRESH, 10 * (ended - started))

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
