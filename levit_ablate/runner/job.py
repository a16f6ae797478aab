"""A job: one training that a study or a search asks for, and the worker function that does it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from mlflow import MlflowClient

from levit_ablate.errors import RunError, UserError
from levit_ablate.experiment import Variant
from levit_ablate.runtime import num_cores
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.record import GivenUpError
from levit_ablate.tracking.runs import reading_the_record
from levit_ablate.tracking.store import open_store
from levit_ablate.training.callbacks import Status
from levit_ablate.training.teacher import ensure_teacher, trained_weights
from levit_ablate.training.train import Result, run_folder, train

OFTEN = 0.5
"""Seconds between two progress messages of a worker."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: a variant at its seed, or the teacher that it needs."""

    variant: Variant
    only_teacher: bool = False
    """Train the variant's teacher, and nothing else."""
    parent: str = ""
    """ID of the parent run in MLflow."""
    name: str = ""
    """Name for people, such as `trial 3`; by default the variant and its seed."""
    number: int = -1
    """Number of the search's trial; -1 in a study."""
    may_be_given_up: bool = False
    """Ask the driver after every epoch whether to go on."""

    @property
    def title(self) -> str:
        """Name for people; no two jobs at work have the same."""
        experiment = self.variant.experiment
        if self.only_teacher:
            return f"teacher {experiment.teacher.model}"
        return self.name or f"{self.variant.name} seed {experiment.seed}"

    @property
    def result(self) -> Path:
        """The file or folder that is locked while the job is at work."""
        if self.only_teacher:
            return trained_weights(self.variant.experiment)
        return run_folder(self.variant)

    @property
    def teacher(self) -> Path | None:
        """Weights of the teacher that is trained here; None if it needs none."""
        experiment = self.variant.experiment
        if experiment.design.distillation == "none" or experiment.teacher.weights != "trained":
            return None
        return trained_weights(experiment)

    @property
    def is_ready(self) -> bool:
        """True if it can start now: its teacher is trained."""
        return self.only_teacher or self.teacher is None or self.teacher.exists()


@dataclass(frozen=True, kw_only=True)
class Station:
    """Place of a worker: the store it records in, its folder, its CPU threads and its GPU."""

    uri: str
    """Tracking URI of the store."""
    folder: Path = field(default_factory=Path.cwd)
    """Folder that it works in: the driver's."""
    num_threads: int = 1
    gpu: int | None = None
    """Number of its GPU; None for all there are, or none."""


class Outcome(NamedTuple):
    """How a job ended."""

    error: str = ""
    """Reason why there is no result; empty if there is one."""
    kind: str = ""
    """Class of the error, such as RunError, where `error` does not begin with it."""
    interrupted: bool = False
    """True if it was told to stop."""
    died: bool = False
    """True if its process was lost."""
    given_up: bool = False
    """True if the driver gave it up (pruning)."""
    seconds: float = 0.0
    """Seconds of training."""
    result: Result | None = None
    """Result of the run; None for a teacher, and where there is none."""


class Question(NamedTuple):
    """A worker asks whether to go on, and waits for the answer."""

    curve: tuple[float, ...]
    """Validation accuracy after each epoch so far, 0 to 1."""


class Driver(Protocol):
    """A worker's channel to the driver."""

    def tell(self, status: Status) -> None:
        """Report the progress."""

    def go_on(self, curve: Sequence[float]) -> bool:
        """Ask whether to go on, and wait for the answer."""


Work = Callable[[Job, Station, Driver], Outcome]
"""A worker function."""


def work(job: Job, station: Station, driver: Driver) -> Outcome:
    """Train what the job says. Raises nothing: errors are in the outcome."""
    torch.set_num_threads(station.num_threads)  # before the first training: `own_threads`
    try:
        return _train(job, station, driver)
    except GivenUpError as error:
        return Outcome(error=str(error), given_up=True)
    except KeyboardInterrupt:
        return Outcome(error="interrupted", interrupted=True)
    except (UserError, RunError) as error:
        return Outcome(error=one_line(error), kind=type(error).__name__)
    except Exception as error:  # whatever a training raises ends this job and no other
        sys.excepthook(type(error), error, error.__traceback__)  # into the job's log
        return Outcome(error=f"{type(error).__name__}: {one_line(error)[:300]}")


def one_line(error: BaseException) -> str:
    """Return an error's text in a line."""
    return " ".join(str(error).split())


def _train(job: Job, station: Station, driver: Driver) -> Outcome:
    variant = _with_share_of_cores(job.variant, station)
    tell = _seldom(driver.tell)
    if job.only_teacher:
        started = time.perf_counter()
        ensure_teacher(variant, tell)
        return Outcome(seconds=time.perf_counter() - started)
    open_store(station.uri)
    with contextlib.suppress(RunError):  # about another run; what it could not send is kept
        deliver_pending(job.result.parents[1])
    with reading_the_record():
        parent = MlflowClient().get_run(job.parent)
    result = train(variant, parent, tell, driver.go_on if job.may_be_given_up else None)
    return Outcome(seconds=result.seconds, result=result)


def _with_share_of_cores(variant: Variant, station: Station) -> Variant:
    """Return the variant with as many decoding processes as the worker has cores."""
    hardware = variant.experiment.hardware
    if hardware.num_workers >= 0 or station.num_threads >= num_cores():
        return variant
    return on_hardware(variant, num_workers=station.num_threads)


def on_hardware(variant: Variant, **changes: Any) -> Variant:
    """Return the variant with other fields of its `Hardware`."""
    hardware = replace(variant.experiment.hardware, **changes)
    return replace(variant, experiment=replace(variant.experiment, hardware=hardware))


def _seldom(tell: Callable[[Status], None]) -> Callable[[Status], None]:
    """Pass on progress twice a second, and whenever an epoch begins or the training ends."""
    last: tuple[float, int] = (0.0, -1)

    def tell_seldom(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if status.ended or status.epoch != last[1] or now > last[0] + OFTEN:
            last = now, status.epoch
            tell(status)

    return tell_seldom
