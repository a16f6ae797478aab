"""What `levit-ablate sweep` does once its options are read."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from levit_ablate.analysis import formats, speed, table
from levit_ablate.analysis.results import LATENCY, THROUGHPUT, Results, metric_name
from levit_ablate.errors import RunError
from levit_ablate.experiments import identified
from levit_ablate.hardware import has_gpu
from levit_ablate.studies.display import Display
from levit_ablate.studies.local import LocalLauncher
from levit_ablate.studies.orders import Launcher, Order, Station
from levit_ablate.studies.parent import at_work, experiment_name, link_recorded, refresh
from levit_ablate.studies.plan import Plan, plan
from levit_ablate.studies.study import Study
from levit_ablate.studies.sweep import Sweep, orders_of, sweep
from levit_ablate.tracking.record import deliver_pending
from levit_ablate.tracking.runs import reading_the_record, search, settle
from levit_ablate.tracking.store import experiment_id, open_store, tracking_uri
from levit_ablate.tracking.tags import PARENT
from levit_ablate.training.conditions import check_conditions

REFRESH = 10.0
"""Seconds between two writings of the table, while jobs are at work."""


def run(study: Study, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Check everything, run what is missing, and print the table.

    Raises KeyboardInterrupt where it was interrupted, and RunError where a run has no result.
    """
    if options.get("launcher", "local") == "local":
        LocalLauncher.prepare()
    planned = plan(study, identified(given))
    checked(planned)
    uri = tracking_uri(options.get("tracking_uri"))
    open_store(uri)
    work_dir = Path(planned.baseline.experiment.hardware.work_dir)
    deliver_pending(work_dir)
    settle_orphans(planned)
    with at_work(planned, work_dir) as parent:
        state, results = _run(planned, parent, uri, options)
    _print(results, options)
    if state.is_interrupted:
        raise KeyboardInterrupt
    if state.failed:
        count = len(state.failed)
        raise RunError(
            f"{count} {'runs have' if count > 1 else 'run has'} no result: "
            f"{'; '.join(state.failed)}; sweep again runs what is missing"
        )


def checked(planned: Plan) -> None:
    """Refuse a study of which a variant could not be trained here. Raises UserError."""
    distilled = [v for v in planned.variants if v.experiment.design.distillation != "none"]
    for variant in {v.experiment.design.distillation: v for v in distilled}.values():
        check_conditions(variant.experiment)
    if not distilled:
        check_conditions(planned.baseline.experiment)


def settle_orphans(planned: Plan) -> None:
    """End the runs of a study whose processes are gone. Raises RunError."""
    with reading_the_record():
        experiment = experiment_id(experiment_name(planned.study.name, planned.dataset))
    orphans = settle(search("attributes.status = 'RUNNING'", [experiment]))
    children = [run for run in orphans if PARENT in run.data.tags]
    if children:
        print(
            f"{len(children)} run{'s' if len(children) > 1 else ''} of a sweep that was killed: "
            f"settled, and taken up where the last checkpoint is",
            file=sys.stderr,
        )


def _run(planned: Plan, parent: Run, uri: str, options: Mapping[str, Any]) -> tuple[Sweep, Results]:
    done = set(link_recorded(planned, parent))
    measure_speed(planned, parent)
    orders = orders_of([job for job in planned.jobs if job.key not in done])
    launcher = _launcher(planned, parent, uri, options)
    writer = Writer(planned, parent)
    title = f"{planned.study.name} on {planned.dataset}"
    try:
        with Display(title, len(planned.jobs), len(done)) as display:
            _announce(display, orders, len(done), launcher.places)
            state = sweep(orders, launcher, display, writer.write)
    finally:
        launcher.close()
    link_recorded(planned, parent)  # what another sweep trained meanwhile
    return state, refresh(planned, parent)


def _announce(display: Display, orders: Sequence[Order], done: int, places: int) -> None:
    runs = sum(not order.only_teacher for order in orders)
    teachers = len(orders) - runs
    said = [f"{done} recorded", f"{runs} to run"] + [f"{teachers} teacher to train"] * (
        teachers > 0
    )
    at_once = f", {places} at once" if places > 1 else ""
    display.say(f"{display.title}: {', '.join(said)}{at_once}")


def _launcher(planned: Plan, parent: Run, uri: str, options: Mapping[str, Any]) -> Launcher:
    hardware = planned.baseline.experiment.hardware
    station = Station(uri=uri, parent=parent.info.run_id)
    gpus = torch.cuda.device_count() if hardware.accelerator != "cpu" else 0
    jobs, per_device = options.get("jobs", 0), options.get("jobs_per_device", 1)
    if options.get("launcher") == "ray":
        from levit_ablate.studies.cluster import RayLauncher  # an extra

        return RayLauncher(station, options.get("address"), jobs, per_device, gpus > 0)
    return LocalLauncher(station, jobs, per_device, gpus, Path(hardware.work_dir) / "logs")


class Writer:
    """Writes the study's table after a run has ended; not more often than now and then."""

    def __init__(self, planned: Plan, parent: Run) -> None:
        self.planned = planned
        self.parent = parent
        self.last = 0.0

    def write(self) -> None:
        if time.monotonic() < self.last + REFRESH:
            return
        try:
            refresh(self.planned, self.parent)
        except RunError as error:
            print(f"{error}; the table is written later", file=sys.stderr)
        self.last = time.monotonic()


@reading_the_record()
def measure_speed(planned: Plan, parent: Run) -> None:
    """Measure and record the speed of the networks, where that of one of them is not known."""
    known = parent.data.metrics
    if all(metric_name(THROUGHPUT, v.name) in known for v in planned.variants):
        return
    on_gpu = planned.baseline.experiment.hardware.accelerator != "cpu" and has_gpu()
    speeds, measured_on = speed.measure(planned.variants, on_gpu)
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(metric_name(kind, name), value, now, 0)
        for name, (throughput, latency) in speeds.items()
        for kind, value in ((THROUGHPUT, throughput), (LATENCY, latency))
    ]
    client = MlflowClient()
    client.log_batch(parent.info.run_id, metrics=metrics)
    client.set_tag(parent.info.run_id, f"{THROUGHPUT}.hardware", measured_on)


def _print(results: Results, options: Mapping[str, Any]) -> None:
    if options.get("format") == "json":
        print(table.as_json(results))
    else:
        formats.show(results, formats.console())
