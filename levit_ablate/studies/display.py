"""What people see of a sweep: bars on a terminal, a line for each job's end elsewhere."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import (
    BarColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from levit_ablate.bars import bars, error_console
from levit_ablate.studies.orders import Job, Order, Outcome
from levit_ablate.training.progress import Status


class Bars:
    """One bar for the whole, one for each job at work; lines above them.

    Args:
        title: of the whole.
        total: number of runs, those that are recorded already included.
        done: number of those.
    """

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.failed = 0
        self.said: set[str] = set()
        self.console = error_console()
        self.bars = bars(
            self.console,
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[epochs]}"),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            transient=True,
        )
        self.whole = self.bars.add_task(title, total=float(total), epochs="", accuracy="")
        self.jobs: dict[str, TaskID] = {}
        self.parts: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        self._show_whole()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def started(self, job: Job) -> None:
        """A job begins."""
        self.jobs[job.title] = self.bars.add_task(
            f"  {escape(job.title)}", total=None, epochs="starting", accuracy=""
        )

    def say_once(self, line: str) -> None:
        """Say a line that has not been said yet."""
        if line not in self.said:
            self.said.add(line)
            self.say(line)

    def say(self, line: str) -> None:
        """A line on standard error, above the bars."""
        if self.console.is_terminal:
            self.bars.console.print(escape(line), soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _show(self, job: Job, status: Status, described: str, is_part: bool) -> None:
        """A job is so far; `is_part`: what it does is a run of the whole."""
        accuracy = "" if status.accuracy is None else f"{100 * status.accuracy:.1f} %"
        self.bars.update(
            self.jobs[job.title],
            description=f"  {escape(described)}",
            completed=status.done,
            total=status.total,
            epochs=f"epoch {status.epoch}/{status.epochs}",
            accuracy=accuracy,
        )
        if is_part:
            self.parts[job.title] = status.done / max(1, status.total)
        self._show_whole()

    def _gone(self, job: Job) -> None:
        self.bars.remove_task(self.jobs.pop(job.title))
        self.parts.pop(job.title, None)

    def _show_whole(self) -> None:
        failed = f", {self.failed} failed" if self.failed else ""
        self.bars.update(
            self.whole,
            description=f"{escape(self.title)}: {self.done} of {self.total} runs{failed}",
            completed=self.done + sum(self.parts.values()),
        )


class Display(Bars):
    """Of a sweep: a line for each run that has ended."""

    def show(self, order: Order, status: Status) -> None:
        """A job is so far."""
        own = status.title == order.variant.name or order.only_teacher
        described = order.title + ("" if own else f" ({status.title})")
        self._show(order, status, described, is_part=own and not order.only_teacher)

    def ended(self, order: Order, outcome: Outcome) -> None:
        """A job has ended."""
        self._gone(order)
        if outcome.interrupted:
            self.say(f"{order.title}: interrupted; it goes on when the sweep is given again")
        elif outcome.error:
            self.failed += 1
            self.say(f"{order.title}: FAILED: {outcome.error}")
        else:
            self.done += not order.only_teacher
            took = timedelta(seconds=round(outcome.seconds))
            came = "" if order.only_teacher else f"{100 * outcome.accuracy:.2f} % "
            self.say(f"[{self.done}/{self.total}] {order.title}: {came}({took} of training)")
        self._show_whole()

    def found(self, order: Order) -> None:
        """Another process has done a job."""
        self.done += 1
        self.say(f"[{self.done}/{self.total}] {order.title}: recorded by another process")
        self._show_whole()
