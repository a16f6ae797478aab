"""Measures a sweep's overhead beside its trainings, and the gain of several jobs at once."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from levit_ablate.errors import RunError
from levit_ablate.runner.job import Station, work
from levit_ablate.runner.local import LocalLauncher
from levit_ablate.studies.conduct import conduct
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking.runs import find
from levit_ablate.tracking.store import open_store


class Swept(NamedTuple):
    """One sweep."""

    wall: float
    """Seconds from the first look at the record to the table, the start of Python excluded."""
    bare: float
    """Seconds of its training loops alone, validation included, summed over its runs."""

    @property
    def overhead(self) -> float:
        """Time beyond the training loops, as a share of them; means little with several at once."""
        return self.wall / self.bare - 1


def measure(planned: Plan, jobs: tuple[int, ...]) -> dict[int, Swept]:
    """Run a study with so many jobs at once, each time in a store and a folder of its own.

    Raises RunError where a run fails.
    """
    LocalLauncher.prepare(work)
    return {places: _swept(planned, places) for places in jobs}


def _swept(planned: Plan, places: int) -> Swept:
    with tempfile.TemporaryDirectory() as name:
        uri = f"sqlite:///{name}/mlflow.db"
        open_store(uri)
        own = in_folder(planned, Path(name) / "work")
        started = time.perf_counter()
        launcher = LocalLauncher(work, Station(uri=uri), places, 1, 0, Path(name) / "logs")
        failed, _ = conduct(own, launcher)
        wall = time.perf_counter() - started
        if failed:
            raise RunError(f"a run failed, and nothing is measured: {failed[0]}")
        runs = [find(job.key) for job in own.jobs]
        return Swept(wall, sum(run.data.metrics["train_seconds"] for run in runs if run))


def in_folder(planned: Plan, folder: Path) -> Plan:
    """The same study with another work folder."""
    variants = []
    for variant in planned.variants:
        hardware = replace(variant.experiment.hardware, work_dir=str(folder))
        variants.append(replace(variant, experiment=replace(variant.experiment, hardware=hardware)))
    return replace(planned, variants=tuple(variants))
