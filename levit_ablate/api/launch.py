"""Where the jobs of a study or a search run: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

from levit_ablate.config import Hardware
from levit_ablate.errors import UserError
from levit_ablate.runner.job import Driver, Job, Outcome, Station, Work
from levit_ablate.runner.local import LocalLauncher
from levit_ablate.runner.loop import Launcher

GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Places:
    """How many jobs run at once, and where. Raises UserError for numbers that make no sense."""

    jobs: int | None = None
    """Jobs at once; None: one, or the places of all GPUs."""
    jobs_per_device: int = 1
    """Jobs at once on a GPU."""
    launcher: Literal["local", "ray"] = "local"
    address: str | None = None
    """Ray cluster: auto, or HOST:PORT; a new one unless given."""
    word: str = "jobs"
    """Name of the argument that says how many, for errors."""

    def __post_init__(self) -> None:
        for word, number in ((self.word, self.jobs), ("jobs_per_device", self.jobs_per_device)):
            if number is not None and number < 1:
                raise UserError(f"{word}: {number} must be at least 1")
        if self.launcher not in ("local", "ray"):
            raise UserError(f"launcher: {self.launcher!r} is not a choice; valid: local, ray")
        if self.address and self.launcher != "ray":
            raise UserError("address: is of a Ray cluster; give launcher=ray with it")

    def prepare(self, work: Work) -> None:
        """Begin to load what local jobs need, beside whatever this process does next."""
        if self.launcher == "local":
            LocalLauncher.prepare(work)

    def launch(self, work: Work, hardware: Hardware, uri: str) -> Launcher:
        """Return what starts jobs of `work`, recorded at `uri`. UserError without such places."""
        station = Station(uri=uri)
        on_gpu = hardware.accelerator != "cpu"
        jobs, per_device = self.jobs or 0, self.jobs_per_device
        if self.launcher == "ray":
            from levit_ablate.runner.ray import RayLauncher  # an extra

            return RayLauncher(work, station, self.address, jobs, per_device, on_gpu)
        gpus = torch.cuda.device_count() if on_gpu else 0
        check_places(jobs, per_device, gpus, self.word)
        logs = Path(hardware.work_dir, "logs").absolute()
        here = partial(_as_here, Path.cwd(), dict(os.environ), work)
        return _OwnMain(here, station, jobs, per_device, gpus, logs)


def check_places(jobs: int, per_device: int, gpus: int, word: str) -> None:
    """Refuse more at once on this machine than its GPUs have places for. Raises UserError."""
    if gpus and jobs > gpus * per_device:
        raise UserError(
            f"{word}: {gpus} GPUs have places for {gpus * per_device}, not for {jobs}; "
            f"jobs_per_device={math.ceil(jobs / gpus)} makes room"
        )
    if per_device > 1 and not gpus:
        raise UserError(
            f"jobs_per_device: there is no GPU to be shared; {word}=N says how many at once"
        )


class _OwnMain(LocalLauncher):
    """Starts jobs that do not import the caller's script, which would run it once more."""

    def start(self, job: Job) -> None:
        with _without_main():
            super().start(job)


@contextmanager
def _without_main() -> Iterator[None]:
    """Within, multiprocessing finds no script to import: jobs are functions of this package."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _as_here(
    folder: Path,
    environment: Mapping[str, str],
    work: Work,
    job: Job,
    station: Station,
    driver: Driver,
) -> Outcome:
    """Do a job in the caller's folder and environment, which are not the fork server's.

    The GPU of the job's place stays.
    """
    os.chdir(folder)
    gpus = {} if station.gpu is None else {GPUS: os.environ[GPUS]}
    os.environ.clear()
    os.environ.update({**environment, **gpus})
    return work(job, station, driver)
