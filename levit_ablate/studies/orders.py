"""What a worker is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from levit_ablate.experiment import Variant
from levit_ablate.runtime import is_held
from levit_ablate.training.progress import Status
from levit_ablate.training.teacher import trained_weights
from levit_ablate.training.train import run_folder


class Job(Protocol):
    """What a launcher starts: anything that has a name, and a name for its log."""

    @property
    def title(self) -> str: ...

    @property
    def log(self) -> str: ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job of a study: a run, or the teacher that runs wait for."""

    variant: Variant
    """What is trained, at its seed."""
    only_teacher: bool = False
    """Train its teacher, and nothing else."""
    parent: str = ""
    """The run of the study, below which it records."""

    @property
    def title(self) -> str:
        """What people call it."""
        experiment = self.variant.experiment
        if self.only_teacher:
            return f"teacher {experiment.teacher.model}"
        return f"{self.variant.name} seed {experiment.seed}"

    @property
    def folder(self) -> Path:
        """Where the run keeps what it needs to go on."""
        return run_folder(self.variant)

    @property
    def result(self) -> Path:
        """What is locked while it is made."""
        return trained_weights(self.variant.experiment) if self.only_teacher else self.folder

    @property
    def log(self) -> str:
        """The name of the file of what it prints."""
        return self.result.stem

    @property
    def is_taken(self) -> bool:
        """Whether another process of this machine makes it."""
        return is_held(self.result.with_name(f"{self.result.name}.lock"))

    @property
    def is_ready(self) -> bool:
        """Whether it would start at once, and not wait for a teacher that is still trained."""
        return self.only_teacher or self.teacher is None or self.teacher.exists()

    @property
    def teacher(self) -> Path | None:
        """The file of the teacher that is trained here, if it needs one."""
        experiment = self.variant.experiment
        if experiment.design.distillation == "none" or experiment.teacher.weights != "trained":
            return None
        return trained_weights(experiment)


@dataclass(frozen=True, kw_only=True)
class Station:
    """Where a worker works, and with what."""

    uri: str
    """The store."""
    num_threads: int = 1
    """CPU threads that it may use."""
    gpu: int | None = None
    """Number of the GPU that it works on; None for all that there are, or none."""


class Outcome(NamedTuple):
    """How a job ended."""

    error: str = ""
    """Why it has no result; empty where it has."""
    interrupted: bool = False
    """Whether it was told to end."""
    seconds: float = 0.0
    """Of its training."""
    accuracy: float = 0.0
    """On the test images, from 0 to 1; 0 for a teacher."""


Work = Callable[[J, Station, Callable[[Status], None]], Outcome]
"""Does a job, tells how far it is, and returns how it ended."""


class Event(NamedTuple, Generic[J]):
    """What a job told: how far it is, or how it ended."""

    order: J
    news: Status | Outcome


class Launcher(Protocol[J]):
    """Starts jobs somewhere, as many at once as it has places for."""

    places: int

    @property
    def running(self) -> list[J]:
        """The jobs that were started and have not ended."""
        ...

    def start(self, order: J) -> None:
        """Start a job; there is a place for it."""
        ...

    def events(self, timeout: float) -> list[Event[J]]:
        """What happened since, or happens within so many seconds."""
        ...

    def stop(self, at_once: bool) -> None:
        """End the jobs: after the step that they are in, with a checkpoint; or at once."""
        ...

    def close(self) -> None:
        """Let go of what was started."""
        ...
