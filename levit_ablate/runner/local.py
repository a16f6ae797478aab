"""Runs jobs in local processes, each forked off one that has loaded the libraries.

Loading torch, Lightning and MLflow takes longer than many a small job. Each job has a process of
its own, so that the others live on when one is killed or runs out of memory. It works in the folder
and the environment that the caller had when it made the launcher.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

from levit_ablate import signals
from levit_ablate.runner.job import Job, Outcome, Question, Station, Work
from levit_ablate.runner.loop import Event
from levit_ablate.runtime import num_cores
from levit_ablate.training.callbacks import Status

VISIBLE = "CUDA_VISIBLE_DEVICES"
SERVER = multiprocessing.get_context("forkserver")
GRACE = 60.0
"""Seconds that a worker whose driver is gone has to end with a checkpoint."""


class LocalLauncher:
    """Starts each job in a process of its own, with its share of the cores or GPUs.

    Args:
        work: the worker function.
        station: the store; threads and GPU are set for each place.
        jobs: jobs at once, no more than the GPUs have places for; 0 for as many as those, or one.
        per_device: jobs on a GPU.
        gpus: number of GPUs.
        logs: folder of the jobs' logs.
    """

    def __init__(
        self, work: Work, station: Station, jobs: int, per_device: int, gpus: int, logs: Path
    ) -> None:
        self.places = jobs or max(1, gpus * per_device)
        self.stations = [
            replace(
                station,
                num_threads=max(1, num_cores() // self.places),
                gpu=place // per_device % gpus if gpus and self.places > 1 else None,
            )
            for place in range(self.places)
        ]
        self.work = work
        self.logs = logs.absolute()
        self.environment = dict(os.environ)
        self.workers: list[_Worker | None] = [None] * self.places

    @staticmethod
    def prepare(work: Work) -> None:
        """Begin to load what jobs need, beside whatever this process does next."""
        SERVER.set_forkserver_preload([work.__module__])
        forkserver.ensure_running()

    @property
    def running(self) -> list[Job]:
        return [worker.job for worker in self.workers if worker]

    def start(self, job: Job) -> None:
        place = self.workers.index(None)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{job.result.stem}.log"
        self.workers[place] = _Worker(self.work, job, self.stations[place], log, self.environment)

    def events(self, timeout: float) -> list[Event]:
        workers = [worker for worker in self.workers if worker]
        if not workers:
            time.sleep(timeout)
            return []
        wait([each for w in workers for each in (w.connection, w.process.sentinel)], timeout)
        events: list[Event] = []
        for place, worker in enumerate(self.workers):
            if worker:
                news = worker.news()
                events += [Event(worker.job, each) for each in news]
                if news and isinstance(news[-1], Outcome):
                    self.workers[place] = None
        return events

    def answer(self, job: Job, go_on: bool) -> None:
        for worker in self.workers:
            if worker and worker.job is job:
                with contextlib.suppress(OSError):  # it has died meanwhile
                    worker.connection.send(go_on)

    def stop(self, at_once: bool) -> None:
        for worker in self.workers:
            if worker:
                worker.signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def close(self) -> None:
        self.stop(at_once=True)
        for worker in self.workers:
            if worker:
                worker.process.join()


class _Worker:
    """A job's process, seen from the driver."""

    def __init__(
        self, work: Work, job: Job, station: Station, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.job = job
        self.log = log
        self.connection, theirs = multiprocessing.Pipe()
        arguments = (work, job, station, theirs, log, environment)
        self.process = SERVER.Process(target=_live, args=arguments)
        with without_main():
            self.process.start()
        theirs.close()

    def news(self) -> list[Status | Question | Outcome]:
        """Return what came since the last call; last, where the process has ended, the outcome."""
        has_ended = not self.process.is_alive()
        news: list[Status | Question | Outcome] = []
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                news.append(self.connection.recv())
        outcome = news[-1] if news and isinstance(news[-1], Outcome) else None
        if outcome is None and has_ended:
            outcome = Outcome(error=self._how_it_died(), died=True)
            news.append(outcome)
        if outcome:
            self.process.join()
            self.connection.close()
            if outcome.error and not (outcome.interrupted or outcome.given_up):
                log = f"{platform.node()}:{self.log.absolute()}"  # the error may be read elsewhere
                news[-1] = outcome._replace(error=f"{outcome.error} (log: {log})")
        return news

    def _how_it_died(self) -> str:
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; perhaps for want of memory" if -code == signal.SIGKILL else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with exit code {code}"

    def signal(self, number: int) -> None:
        """Send a signal to the process; SIGKILL to all that it started too."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)


class _Pipe:
    """The driver, seen from a worker's process. One that is gone ends the worker by SIGTERM."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def tell(self, news: Status | Question | Outcome) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(news)

    def go_on(self, curve: Sequence[float]) -> bool:
        self.tell(Question(tuple(curve)))
        with contextlib.suppress(EOFError, OSError):
            return bool(self.connection.recv())
        return True


@contextmanager
def without_main() -> Iterator[None]:
    """Hide the caller's script from multiprocessing, which would run it once more in each job."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _live(
    work: Work,
    job: Job,
    station: Station,
    connection: Connection,
    log: Path,
    environment: Mapping[str, str],
) -> None:
    """Main function of a worker's process. It ends when the driver does, however that ended."""
    os.setsid()  # Ctrl-C is for the driver
    os.chdir(station.folder)
    os.environ.clear()
    os.environ.update(environment)
    with log.open("a", encoding="utf-8", buffering=1) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    signals.listen()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if station.gpu is not None:
        names = environment.get(VISIBLE, "").split(",")  # of the GPUs that may be used
        os.environ[VISIBLE] = names[station.gpu] if names[0] else str(station.gpu)
    driver = _Pipe(connection)
    driver.tell(work(job, station, driver))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpid(), signal.SIGKILL)
