"""Jobs in processes of this machine, each forked off one that has loaded the libraries.

To load torch, lightning and mlflow takes longer than many a small job; a process for each job,
though, is what keeps the others alive when one is killed, or runs out of memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic

from levit_ablate import interrupts
from levit_ablate.hardware import num_cores
from levit_ablate.studies.orders import Event, J, Outcome, Station, Work
from levit_ablate.training.progress import Status

SERVER = multiprocessing.get_context("forkserver")
GRACE = 60.0
"""Seconds that a worker whose sweep is gone has to end with a checkpoint."""


class LocalLauncher(Generic[J]):
    """Starts each job in a process of its own, on its share of the cores or GPUs.

    Args:
        work: does a job.
        station: where jobs record; threads and GPU are of each place.
        jobs: how many jobs run at once, no more than the GPUs have places for; 0 for one, or as
            many as those.
        per_device: jobs on a GPU.
        gpus: how many GPUs there are.
        logs: folder of what jobs print.
    """

    def __init__(
        self,
        work: Work[J],
        station: Station,
        jobs: int,
        per_device: int,
        gpus: int,
        logs: Path,
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
        self.logs = logs
        self.at: list[_Job[J] | None] = [None] * self.places

    @staticmethod
    def prepare(work: Work[J]) -> None:
        """Begin to load what jobs need, beside whatever this process does next."""
        SERVER.set_forkserver_preload([work.__module__])
        forkserver.ensure_running()

    @property
    def running(self) -> list[J]:
        return [job.order for job in self.at if job]

    def start(self, order: J) -> None:
        place = self.at.index(None)
        log = self.logs / f"{order.log}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.at[place] = _Job(self.work, order, self.stations[place], log)

    def events(self, timeout: float) -> list[Event[J]]:
        jobs = [job for job in self.at if job]
        if not jobs:
            time.sleep(timeout)
            return []
        wait([source for job in jobs for source in (job.connection, job.process.sentinel)], timeout)
        found: list[Event[J]] = []
        for place, job in enumerate(self.at):
            if job:
                told = job.told()
                found += [Event(job.order, news) for news in told]
                if told and isinstance(told[-1], Outcome):
                    self.at[place] = None
        return found

    def stop(self, at_once: bool) -> None:
        for job in self.at:
            if job:
                job.signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def close(self) -> None:
        self.stop(at_once=True)
        for job in self.at:
            if job:
                job.process.join()


class _Job(Generic[J]):
    """A job's process, and what came of it."""

    def __init__(self, work: Work[J], order: J, station: Station, log: Path) -> None:
        self.order = order
        self.log = log
        self.connection, theirs = multiprocessing.Pipe(duplex=False)
        self.process = SERVER.Process(target=_live, args=(work, order, station, theirs, log))
        self.process.start()
        theirs.close()

    def told(self) -> list[Status | Outcome]:
        """What it has told since; last, where it has ended, how: in its words, or how it died."""
        dead = not self.process.is_alive()
        heard: list[Status | Outcome] = []
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                heard.append(self.connection.recv())
        if dead and not (heard and isinstance(heard[-1], Outcome)):
            heard.append(Outcome(error=self._how_it_died()))
        if heard and isinstance(heard[-1], Outcome):
            self.process.join()
            if heard[-1].error and not heard[-1].interrupted:
                heard[-1] = heard[-1]._replace(error=f"{heard[-1].error} (log: {self.log})")
        return heard

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


def _live(work: Work[J], order: J, station: Station, connection: Connection, log: Path) -> None:
    """A worker's life. It ends when the sweep that started it does, however that ended."""
    os.setsid()  # Ctrl-C is the sweep's matter
    with log.open("a", encoding="utf-8", buffering=1) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    interrupts.listen()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if station.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(station.gpu)

    def tell(news: Status | Outcome) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more
            connection.send(news)

    tell(work(order, station, tell))


def _visible(gpu: int) -> str:
    """The name of the GPU of this number, among those that this process may use."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names[gpu] if names[0] else str(gpu)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpid(), signal.SIGKILL)
