"""Runs jobs on a Ray cluster: any number of machines that share a file system and a store.

Ray gives each job its CPU threads and its part of a GPU, and starts it again when its machine is
lost; it then goes on from its last checkpoint, as any run does.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError, TaskCancelledError
except ImportError:  # an extra
    ray = None

from levit_ablate import signals
from levit_ablate.errors import UserError
from levit_ablate.runner.job import Job, Outcome, Question, Station, Work
from levit_ablate.runner.loop import Event
from levit_ablate.signals import keeping_handlers
from levit_ablate.training.progress import Status

RETRIES = 3
"""Times that Ray starts a job again whose machine or process was lost."""
POLL = 0.1
"""Seconds between two looks of a worker for the driver's answer."""


class RayLauncher:
    """Starts each job as a task of a Ray cluster.

    Args:
        work: the worker function.
        station: the store. If it is SQLite, it and the work folder must be on a file system that
            all machines share.
        address: address of the cluster, `auto` or HOST:PORT; None for a new one on this machine.
        jobs: jobs at once; 0 for as many as the cluster has places for.
        per_device: jobs on a GPU.
        on_gpu: whether jobs take a GPU where the cluster has any.
        num_threads: CPU threads of a job.

    Raises UserError where Ray is missing or the cluster cannot be reached.
    """

    def __init__(
        self,
        work: Work,
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
        self.tasks: dict[Any, Job] = {}

    def _connect(self, address: str | None) -> None:
        if ray is None:
            raise UserError("launcher=ray: Ray is missing; pip install 'levit-ablate[ray]'")
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
                f"address: no Ray cluster is to be had at {address or 'this machine'}: {reason}"
            ) from error

    @property
    def running(self) -> list[Job]:
        return list(self.tasks.values())

    def start(self, job: Job) -> None:
        task = self.remote.remote(self.work, job, self.station, self.mailbox, str(self.folder))
        self.tasks[task] = job

    def events(self, timeout: float) -> list[Event]:
        if not self.tasks:
            time.sleep(timeout)
            return []
        ready, _ = ray.wait(list(self.tasks), num_returns=1, timeout=timeout)
        news = self._messages()
        return news + [Event(self.tasks.pop(task), _outcome(task)) for task in ready]

    def _messages(self) -> list[Event]:
        by_title = {job.title: job for job in self.tasks.values()}
        try:
            messages: dict[str, list[Status | Question]] = ray.get(
                self.mailbox.emptied.remote(), timeout=10
            )
        except (RayError, GetTimeoutError):
            return []  # progress comes again, and questions are kept until they are answered
        return [
            Event(by_title[title], each)
            for title, news in messages.items()
            if title in by_title
            for each in news
        ]

    def answer(self, job: Job, go_on: bool) -> None:
        self.mailbox.answer.remote(job.title, go_on)

    def stop(self, at_once: bool) -> None:
        for task in self.tasks:
            ray.cancel(task, force=at_once)

    def close(self) -> None:
        self.stop(at_once=True)
        ray.shutdown()


class Mailbox:
    """Passes messages between jobs and driver: an actor, as tasks cannot speak while they run.

    A job is named by its title. A question stays until it is answered, so that none is lost with
    a message.
    """

    def __init__(self) -> None:
        self.progress: dict[str, Status] = {}
        self.questions: dict[str, Question] = {}
        self.answers: dict[str, bool] = {}

    def put(self, title: str, status: Status) -> None:
        self.progress[title] = status

    def ask(self, title: str, question: Question) -> None:
        """Ask the driver; an answer to an earlier question is void."""
        self.answers.pop(title, None)
        self.questions[title] = question

    def emptied(self) -> dict[str, list[Status | Question]]:
        """Return the last progress of each job since the last call, and the open questions."""
        progress, self.progress = self.progress, {}
        news: dict[str, list[Status | Question]] = {t: [each] for t, each in progress.items()}
        for title, question in self.questions.items():
            news.setdefault(title, []).append(question)
        return news

    def answer(self, title: str, go_on: bool) -> None:
        if self.questions.pop(title, None):
            self.answers[title] = go_on

    def answered(self, title: str) -> bool | None:
        """Return the answer to a job's question, or None."""
        return self.answers.get(title)


class _Mail:
    """The driver, seen from a job."""

    def __init__(self, mailbox: Any, title: str) -> None:
        self.mailbox = mailbox
        self.title = title

    def tell(self, status: Status) -> None:
        self.mailbox.put.remote(self.title, status)

    def go_on(self, curve: Sequence[float]) -> bool:
        ray.get(self.mailbox.ask.remote(self.title, Question(tuple(curve))))
        while (answer := ray.get(self.mailbox.answered.remote(self.title))) is None:
            time.sleep(POLL)
        return bool(answer)


def _work(work: Work, job: Job, station: Station, mailbox: Any, folder: str) -> Outcome:
    """Run a job on whichever machine, in the driver's folder."""
    os.chdir(folder)
    try:
        with keeping_handlers():  # Ray's process runs another job after this one
            signals.listen()
            return work(job, station, _Mail(mailbox, job.title))
    finally:
        gc.collect()  # Lightning's cycles keep network and images, on a GPU too


def _outcome(task: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(task)
    except TaskCancelledError:
        return Outcome(error="interrupted", interrupted=True)
    except RayTaskError as error:
        return Outcome(error=f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}")
    except RayError as error:
        said = " ".join(str(error).split())[:300]
        return Outcome(
            error=f"its machine or process was lost {RETRIES + 1} times: {said}", died=True
        )
    return outcome


def _places(num_threads: int, share: float) -> int:
    """Return the number of jobs that the cluster has room for."""
    resources = ray.cluster_resources()
    places = int(resources.get("CPU", 0)) // num_threads
    if share:
        places = min(places, math.floor(resources.get("GPU", 0) / share))
    return max(1, places)
