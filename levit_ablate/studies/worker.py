"""One job, in a process of its own or on a machine of a cluster."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from mlflow import MlflowClient

from levit_ablate.errors import RunError, UserError
from levit_ablate.hardware import num_cores
from levit_ablate.studies.orders import Order, Outcome, Station
from levit_ablate.tracking.afterwards import deliver_pending
from levit_ablate.tracking.runs import reading_the_record
from levit_ablate.tracking.store import open_store
from levit_ablate.training.conditions import check_conditions
from levit_ablate.training.progress import Status
from levit_ablate.training.teaching import ensure_teacher
from levit_ablate.training.train import train

OFTEN = 0.5
"""Seconds between two tellings of a job."""


def work(order: Order, station: Station, tell: Callable[[Status], None]) -> Outcome:
    """Do what is ordered; whatever happens is told in the end, and no error is raised.

    Args:
        order: the job.
        station: where.
        tell: is told how far it is, a few times a second.
    """
    torch.set_num_threads(station.num_threads)  # before the first training: `own_threads`
    try:
        return _work(order, station, seldom(tell))
    except KeyboardInterrupt:
        return Outcome(error="interrupted", interrupted=True)
    except (UserError, RunError) as error:
        return Outcome(error=" ".join(str(error).split()))
    except Exception as error:  # whatever a training raises is the job's end, not the study's
        sys.excepthook(type(error), error, error.__traceback__)  # into the job's log
        said = " ".join(str(error).split())[:300]
        return Outcome(error=f"{type(error).__name__}: {said}")


def _work(order: Order, station: Station, tell: Callable[[Status], None]) -> Outcome:
    variant = _with_share_of_cores(order, station).variant
    if order.only_teacher:
        check_conditions(variant.experiment)
        started = time.perf_counter()
        ensure_teacher(variant, tell)
        return Outcome(seconds=time.perf_counter() - started)
    open_store(station.uri)
    with contextlib.suppress(RunError):  # of another run; it is kept
        deliver_pending(order.folder.parents[1])
    with reading_the_record():
        parent = MlflowClient().get_run(order.parent)
    result = train(variant, parent, tell)
    return Outcome(seconds=result.seconds, accuracy=result.accuracy)


def _with_share_of_cores(order: Order, station: Station) -> Order:
    """The same job with as many decoding processes as it has cores for."""
    hardware = order.variant.experiment.hardware
    if hardware.num_workers >= 0 or station.num_threads >= num_cores():
        return order
    hardware = replace(hardware, num_workers=station.num_threads)
    experiment = replace(order.variant.experiment, hardware=hardware)
    return replace(order, variant=replace(order.variant, experiment=experiment))


def seldom(tell: Callable[[Status], None]) -> Callable[[Status], None]:
    """What is told a few times a second, and when an epoch begins or the end is there."""
    last: tuple[float, int] = (0.0, -1)

    def told(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if status.ended or status.epoch != last[1] or now > last[0] + OFTEN:
            last = now, status.epoch
            tell(status)

    return told
