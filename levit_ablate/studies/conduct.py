"""A study from its plan to its table: what is recorded is read, what is missing is run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from rich.console import Console

from levit_ablate.analysis import speed
from levit_ablate.analysis.results import (
    LATENCY,
    MEASURED_OF,
    MEASURED_ON,
    THROUGHPUT,
    Results,
    metric_name,
)
from levit_ablate.errors import RunError
from levit_ablate.runtime import has_gpu
from levit_ablate.studies.display import Display
from levit_ablate.studies.orders import Launcher, Order
from levit_ablate.studies.parent import at_work, refresh
from levit_ablate.studies.plan import Plan
from levit_ablate.studies.sweep import Sweep, orders_of, sweep
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.parent_run import link_recorded
from levit_ablate.tracking.runs import reading_the_record, search, settle
from levit_ablate.tracking.store import experiment_id
from levit_ablate.tracking.tags import PARENT
from levit_ablate.training.conditions import check_conditions
from levit_ablate.training.fit import report_horizon

REFRESH = 10.0
"""Seconds between two writings of the table, while jobs are at work."""
UNRECORDED = "its process ended without an error, and MLflow has no result of it"


def check(planned: Plan) -> None:
    """Refuse a study of which a variant could not be trained here. Raises UserError."""
    by_kind = {v.experiment.design.distillation: v for v in planned.variants}
    data = [check_conditions(variant.experiment) for variant in by_kind.values()]
    report_horizon(planned.baseline.experiment, data[0])


def conduct(planned: Plan, launcher: Launcher[Order]) -> tuple[list[str], Results]:
    """Run what the open store lacks of a study, and write its table there.

    Returns which jobs have no result and why, a line each, and the results.

    Args:
        planned: the study, checked.
        launcher: starts the jobs.

    Raises RunError where the record is out of reach in the beginning or in the end, and
    KeyboardInterrupt where it was interrupted, after it has written what there is.
    """
    work_dir = Path(planned.baseline.experiment.hardware.work_dir)
    deliver_pending(work_dir)
    _settle_orphans(planned)
    with at_work(planned, work_dir) as parent:
        done = set(link_recorded(planned.whole, planned.jobs, parent, work_dir))
        measure_speed(planned, parent)
        missing = [job for job in planned.jobs if job.key not in done]
        orders = orders_of(missing, parent.info.run_id)
        title = f"{planned.study.name} on {planned.dataset}"
        with Display(title, len(planned.jobs), len(done)) as display:
            _announce(display, orders, len(done), launcher.places)
            state = sweep(orders, launcher, display, _Writer(parent).write)
        deliver_pending(work_dir)
        # what came late, and what another sweep trained
        done = set(link_recorded(planned.whole, planned.jobs, parent, work_dir))
        results = refresh(parent)
        if state.is_interrupted:
            raise KeyboardInterrupt
        failed = [*state.failed, *_unrecorded(orders, state)]
        lost = [(order, error) for order, error in failed if order.variant.key not in done]
        return [f"{order.title}: {error}" for order, error in lost], results


def _unrecorded(orders: Sequence[Order], state: Sweep) -> list[tuple[Order, str]]:
    """The runs that told of no error."""
    failed = {order.variant.key for order, _ in state.failed}
    runs = [order for order in orders if not order.only_teacher]
    return [(run, UNRECORDED) for run in runs if run.variant.key not in failed]


def _settle_orphans(planned: Plan) -> None:
    """End the runs of a study whose processes are gone."""
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


def _announce(display: Display, orders: Sequence[Order], done: int, places: int) -> None:
    runs = sum(not order.only_teacher for order in orders)
    teachers = len(orders) - runs
    said = [f"{done} recorded", f"{runs} to run"]
    said += [f"{teachers} teacher to train"] if teachers else []
    at_once = f", {places} at once" if places > 1 else ""
    display.say(f"{display.title}: {', '.join(said)}{at_once}")


class _Writer:
    """Writes the study's table after a run has ended; not more often than now and then."""

    def __init__(self, parent: Run) -> None:
        self.parent = parent
        self.last = 0.0

    def write(self) -> bool:
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
    """Measure and record the speed of the networks, unless that of all of them is known."""
    known = json.loads(parent.data.tags.get(MEASURED_OF, "{}"))
    if known.items() >= planned.networks.items():
        return
    on_gpu = planned.baseline.experiment.hardware.accelerator != "cpu" and has_gpu()
    saying = f"measuring the speed of {len(planned.variants)} networks"
    with Console(stderr=True).status(saying):  # on a terminal alone
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
