"""Jobs on a Ray cluster: any number of machines that share a file system and a store.

Ray gives each job its CPU threads and its part of a GPU, and begins it again where its machine is
lost; begun again it goes on from its last checkpoint, as any run does.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError, TaskCancelledError
except ImportError:  # an extra
    ray = None

from levit_ablate import signals
from levit_ablate.errors import UserError
from levit_ablate.signals import keeping_handlers
from levit_ablate.studies.orders import Event, J, Outcome, Station, Work
from levit_ablate.training.progress import Status

RETRIES = 3
"""How often a job is begun again whose machine or process was lost."""
MAILBOX = "levit-ablate"


class RayLauncher(Generic[J]):
    """Starts each job as a task of a Ray cluster.

    Args:
        work: does a job.
        station: where jobs record. A SQLite store, and the work folder, must be on a file system
            that all machines share.
        address: of the cluster: `auto`, or HOST:PORT; None for a new one on this machine.
        jobs: how many jobs run at once; 0 for as many as the cluster has places for.
        per_device: jobs on a GPU.
        on_gpu: whether jobs take a GPU where the cluster has any.
        num_threads: CPU threads of a job.
    """

    def __init__(
        self,
        work: Work[J],
        station: Station,
        address: str | None,
        jobs: int,
        per_device: int,
        on_gpu: bool,
        num_threads: int = 1,
    ) -> None:
        self.work = work
        self.station = replace(station, num_threads=num_threads)
        self.folder = Path.cwd()
        self._connect(address)
        share = 1 / per_device if on_gpu and ray.cluster_resources().get("GPU", 0) else 0
        options = {"num_cpus": num_threads, "num_gpus": share, "max_retries": RETRIES}
        self.remote = ray.remote(**options)(_work)
        mailbox = ray.remote(num_cpus=0)(Mailbox)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.mailbox: Any = mailbox.options(scheduling_strategy=here).remote()
        self.places = jobs or _places(num_threads, share)
        self.tasks: dict[Any, J] = {}

    def _connect(self, address: str | None) -> None:
        if ray is None:
            raise UserError("--launcher ray: Ray is missing; pip install 'levit-ablate[ray]'")
        try:
            if address and ":" in address:  # Ray itself would try for ever
                host, _, port = address.rpartition("/")[2].rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            with keeping_handlers():
                ray.init(
                    address=address,
                    ignore_reinit_error=True,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if address is None else None,
                )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"--address: no Ray cluster is to be had at {address or 'this machine'}: {reason}"
            ) from error

    @property
    def running(self) -> list[J]:
        return list(self.tasks.values())

    def start(self, order: J) -> None:
        task = self.remote.remote(self.work, order, self.station, self.mailbox, str(self.folder))
        self.tasks[task] = order

    def events(self, timeout: float) -> list[Event[J]]:
        if not self.tasks:
            time.sleep(timeout)
            return []
        ready, _ = ray.wait(list(self.tasks), num_returns=1, timeout=timeout)
        found = [Event(order, status) for order, status in self._told()]
        return found + [Event(self.tasks.pop(task), _outcome(task)) for task in ready]

    def _told(self) -> list[tuple[J, Status]]:
        by_title = {order.title: order for order in self.tasks.values()}
        try:
            told: dict[str, Status] = ray.get(self.mailbox.emptied.remote(), timeout=10)
        except (RayError, GetTimeoutError):
            return []  # news, not results: they come again
        return [(by_title[title], status) for title, status in told.items() if title in by_title]

    def stop(self, at_once: bool) -> None:
        for task in self.tasks:
            ray.cancel(task, force=at_once)

    def close(self) -> None:
        self.stop(at_once=True)
        ray.shutdown()


class Mailbox:
    """What the jobs told last: an actor, for tasks cannot speak while they run."""

    def __init__(self) -> None:
        self.last: dict[str, Status] = {}

    def put(self, title: str, status: Status) -> None:
        self.last[title] = status

    def emptied(self) -> dict[str, Status]:
        """What came since it was asked last."""
        last, self.last = self.last, {}
        return last


def _work(work: Work[J], order: J, station: Station, mailbox: Any, folder: str) -> Outcome:
    """A job, on whichever machine, in the sweep's folder."""
    os.chdir(folder)
    with keeping_handlers():  # Ray's process does another job after this one
        signals.listen()
        return work(order, station, lambda status: mailbox.put.remote(order.title, status))


def _outcome(task: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(task)
    except TaskCancelledError:
        return Outcome(error="interrupted", interrupted=True)
    except RayTaskError as error:
        return Outcome(error=f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}")
    except RayError as error:
        said = " ".join(str(error).split())[:300]
        return Outcome(error=f"its machine or process was lost {RETRIES + 1} times: {said}")
    return outcome


def _places(num_threads: int, share: float) -> int:
    """Jobs that the cluster has room for."""
    resources = ray.cluster_resources()
    places = int(resources.get("CPU", 0)) // num_threads
    if share:
        places = min(places, math.floor(resources.get("GPU", 0) / share))
    return max(1, places)
