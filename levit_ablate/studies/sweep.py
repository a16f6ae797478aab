"""Runs what a study lacks: jobs to places, news to the screen, results to the record."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.studies.display import Bars, Display
from levit_ablate.studies.orders import J, Launcher, Order, Outcome
from levit_ablate.tracking.record import record_failure
from levit_ablate.tracking.runs import is_alive, of_key
from levit_ablate.tracking.store import answers

TICK = 0.5
"""Seconds between two looks at the jobs."""
RESTS = 5.0
"""Seconds between two looks at what another process has in hand, or at a store that is away."""


@dataclass
class Signals:
    """Ctrl-C and SIGTERM, counted in their handler, and passed on to the jobs from a loop.

    For a signal's handler may do little.
    """

    came: int = 0
    passed_on: int = 0

    def pass_on(self, launcher: Launcher[J], display: Bars) -> None:
        """Tell the jobs to end, if so asked."""
        if self.came <= self.passed_on:
            return
        if not self.passed_on:
            display.say(
                "ending: each job leaves a checkpoint after its step; once more ends them at once"
            )
        self.passed_on = self.came
        launcher.stop(at_once=self.came > 1)


@contextmanager
def counting_signals(signals: Signals) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM are counted, and do nothing else."""

    def count(signum: int, frame: FrameType | None) -> None:
        signals.came += 1

    handlers: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread: no signals here
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, count)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass
class Sweep:
    """The jobs of a study, as they stand."""

    launcher: Launcher[Order]
    display: Display
    waiting: list[Order]
    """What has not been started, the first first."""
    failed: list[tuple[Order, str]] = field(default_factory=list)
    """The jobs that have no result, and why."""
    done: int = 0
    signals: Signals = field(default_factory=Signals)
    unwritten: bool = False
    """Whether there are results that the table lacks."""
    looked_at: float = 0.0

    @property
    def is_interrupted(self) -> bool:
        return self.signals.came > 0


def orders_of(jobs: Sequence[Variant], parent: str = "") -> list[Order]:
    """The runs, and before them the teachers that they need and that are to be trained.

    Args:
        jobs: the runs.
        parent: the run of the study.
    """
    runs = [Order(variant=job, parent=parent) for job in jobs]
    teachers = {order.teacher: order for order in runs if order.teacher and not order.is_ready}
    first = [Order(variant=order.variant, only_teacher=True) for order in teachers.values()]
    return [*first, *runs]


def sweep(
    orders: Sequence[Order],
    launcher: Launcher[Order],
    display: Display,
    write: Callable[[], bool],
) -> Sweep:
    """Run all jobs; one that fails does not stop the others.

    Ctrl-C, and SIGTERM, let every job end the step that it is in, with a checkpoint; the second
    ends them at once.

    Args:
        orders: the jobs, in their order; one that waits for a teacher lets others pass.
        launcher: where they run.
        display: what people see.
        write: is called while there are new results, until it returns that it has written them.
    """
    state = Sweep(launcher, display, list(orders))
    with counting_signals(state.signals):
        while state.launcher.running or (state.waiting and not state.is_interrupted):
            state.signals.pass_on(launcher, display)
            _start(state)
            if state.unwritten and not state.is_interrupted:  # after the free place is taken
                state.unwritten = not write()
            for order, news in launcher.events(TICK):
                if isinstance(news, Outcome):
                    _end(state, order, news)
                else:
                    display.show(order, news)
    return state


def _start(state: Sweep) -> None:
    """Fill the free places with jobs that can start."""
    while (
        state.waiting
        and not state.is_interrupted
        and len(state.launcher.running) < state.launcher.places
        and (order := _next(state)) is not None
    ):
        state.waiting.remove(order)
        state.display.started(order)
        state.launcher.start(order)


def _next(state: Sweep) -> Order | None:
    """The first job that nobody has in hand; jobs that others have done are counted as done."""
    if state.launcher.running and time.monotonic() < state.looked_at:
        return None  # a moment ago there was none
    for order in list(state.waiting):
        if order.only_teacher:
            if order.teacher and order.teacher.exists():
                state.waiting.remove(order)
            elif not order.is_taken:
                return order
        elif order.is_ready and not order.is_taken:
            try:
                runs = of_key(order.variant.key)
            except RunError as error:
                _wait_for_store(state, error)
                return None
            if any(run.info.status == "FINISHED" for run in runs):
                state.waiting.remove(order)
                state.done += 1
                state.display.found(order)
            elif not any(is_alive(run) for run in runs):
                return order
    if state.waiting:
        state.looked_at = time.monotonic() + RESTS
        if not state.launcher.running:
            _rest(state, "another process has what remains in hand; waiting for it", RESTS)
    return None


def _wait_for_store(state: Sweep, error: RunError) -> None:
    """No job is begun while the store is away; those at work go on."""
    state.looked_at = time.monotonic() + RESTS
    _rest(state, f"{error}; {len(state.waiting)} jobs wait for it", 0)
    while not state.launcher.running and not state.is_interrupted and not answers():
        time.sleep(TICK)


def _rest(state: Sweep, why: str, seconds: float) -> None:
    state.display.say_once(why)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not state.is_interrupted:
        time.sleep(TICK)


def _end(state: Sweep, order: Order, outcome: Outcome) -> None:
    state.display.ended(order, outcome)
    if not outcome.error:
        state.done += not order.only_teacher
        state.unwritten |= not order.only_teacher
        state.looked_at = 0.0
        return
    if outcome.interrupted and state.is_interrupted:
        return
    _fail(state, order, outcome.error)
    if order.only_teacher:
        for taught in [waiting for waiting in state.waiting if waiting.teacher == order.teacher]:
            state.waiting.remove(taught)
            _fail(state, taught, f"its teacher could not be trained: {outcome.error}")


def _fail(state: Sweep, order: Order, error: str) -> None:
    state.failed.append((order, error))
    if order.only_teacher:
        return
    try:
        record_failure(order.variant, order.parent, error)
    except RunError as lost:
        print(f"{order.title}: {error}; {lost}", file=sys.stderr)
