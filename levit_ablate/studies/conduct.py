"""Runs a study: reads what is recorded, trains what is missing, writes the table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag

from levit_ablate.analysis import speed
from levit_ablate.analysis.results import (
    LATENCY,
    MEASURED_OF,
    MEASURED_ON,
    THROUGHPUT,
    Results,
    metric_name,
)
from levit_ablate.bars import error_console
from levit_ablate.errors import RunError
from levit_ablate.runner import loop
from levit_ablate.runner.job import Job
from levit_ablate.runner.loop import Launcher
from levit_ablate.runner.progress import Display
from levit_ablate.runtime import has_gpu
from levit_ablate.studies.jobs import StudyJobs, jobs_of
from levit_ablate.studies.plan import Plan
from levit_ablate.studies.report import at_work, refresh
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.parent_run import link_recorded
from levit_ablate.tracking.runs import reading_the_record, search, settle
from levit_ablate.tracking.store import experiment_id
from levit_ablate.tracking.tags import PARENT
from levit_ablate.training.conditions import check_conditions
from levit_ablate.training.fit import report_horizon

REFRESH = 10.0
"""Least seconds between two writings of the table, while jobs are at work."""
UNRECORDED = "its process ended without an error, and MLflow has no result of it"


def check(planned: Plan) -> None:
    """Raise UserError for a study with a variant that could not be trained here."""
    by_kind = {v.experiment.design.distillation: v for v in planned.variants}
    data = [check_conditions(variant.experiment) for variant in by_kind.values()]
    report_horizon(planned.baseline.experiment, data[0])


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
            source = StudyJobs(jobs, display, _Writer(parent).write)
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
    """End the runs of a study that are marked as running and whose processes are gone."""
    with reading_the_record():
        experiment = experiment_id(planned.whole.experiment)
    orphans = settle(search("attributes.status = 'RUNNING'", [experiment]))
    if count := sum(PARENT in run.data.tags for run in orphans):
        runs = "runs" if count > 1 else "run"
        print(
            f"{count} {runs} of a sweep that was killed: settled, and to go on from the last "
            f"checkpoint",
            file=sys.stderr,
        )


def _announce(display: Display, jobs: Sequence[Job], done: int, places: int) -> None:
    runs = sum(not job.only_teacher for job in jobs)
    teachers = len(jobs) - runs
    parts = [f"{done} recorded", f"{runs} to run"]
    parts += [f"{teachers} teacher to train"] if teachers else []
    at_once = f", {places} at once" if places > 1 else ""
    display.say(f"{display.title}: {', '.join(parts)}{at_once}")


class _Writer:
    """Writes the study's table after a run has ended, at most every `REFRESH` seconds."""

    def __init__(self, parent: Run) -> None:
        self.parent = parent
        self.last = 0.0

    def write(self) -> bool:
        """Write the table, unless it was written a moment ago; return whether it is settled."""
        if time.monotonic() < self.last + REFRESH:
            return False
        try:
            refresh(self.parent)
        except RunError as error:
            print(f"{error}; the table is written later", file=sys.stderr)
        self.last = time.monotonic()
        return True


@reading_the_record()
def measure_speed(planned: Plan, parent: Run) -> None:
    """Measure and record the speed of the networks, unless all of them were measured."""
    known = json.loads(parent.data.tags.get(MEASURED_OF, "{}"))
    if known.items() >= planned.networks.items():
        return
    on_gpu = planned.baseline.experiment.hardware.accelerator != "cpu" and has_gpu()
    saying = f"measuring the speed of {len(planned.variants)} networks"
    with error_console().status(saying):  # on a terminal alone
        speeds, measured_on = speed.measure(planned.variants, on_gpu)
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(metric_name(kind, name), value, now, 0)
        for name, (throughput, latency) in speeds.items()
        for kind, value in ((THROUGHPUT, throughput), (LATENCY, latency))
    ]
    client = MlflowClient()
    tags = [
        RunTag(MEASURED_ON, measured_on),
        RunTag(MEASURED_OF, json.dumps(known | planned.networks)),
    ]
    client.log_batch(parent.info.run_id, metrics=metrics, tags=tags)
