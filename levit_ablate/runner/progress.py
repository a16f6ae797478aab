"""Progress of a study or a search: bars on a terminal, elsewhere a line for each job that ended."""

from __future__ import annotations

import sys
from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from levit_ablate.bars import bars, error_console
from levit_ablate.runner.job import Job
from levit_ablate.training.callbacks import Status


class Display:
    """One bar for the whole and one for each job at work, with lines above them.

    Args:
        title: name of the study or search.
        total: number of runs, those that are done included.
        done: number of runs that are done.
    """

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.failed = 0
        self.lines: set[str] = set()
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
        self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        """Print a line on standard error, above the bars."""
        if self.console.is_terminal:
            self.bars.console.print(escape(line), soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def say_once(self, line: str) -> None:
        """Print a line that was not printed yet."""
        if line not in self.lines:
            self.lines.add(line)
            self.say(line)

    def started(self, job: Job) -> None:
        """Add the bar of a job."""
        self.jobs[job.title] = self.bars.add_task(
            f"  {escape(job.title)}", total=None, epochs="starting", accuracy=""
        )

    def show(self, job: Job, status: Status) -> None:
        """Update the bar of a job, which may be training its teacher before."""
        is_run = status.title == job.variant.name and not job.only_teacher
        doing = "" if is_run or job.only_teacher else f" ({status.title})"
        self.bars.update(
            self.jobs[job.title],
            description=f"  {escape(job.title + doing)}",
            completed=status.done,
            total=status.total,
            epochs=f"epoch {status.epoch}/{status.epochs}",
            accuracy="" if status.accuracy is None else f"{100 * status.accuracy:.1f} %",
        )
        if is_run:
            self.parts[job.title] = status.done / max(1, status.total)
        self.refresh()

    def removed(self, job: Job) -> None:
        """Remove the bar of a job that has ended."""
        self.bars.remove_task(self.jobs.pop(job.title))
        self.parts.pop(job.title, None)
        self.refresh()

    def refresh(self) -> None:
        """Show how many runs are done and failed."""
        failed = f", {self.failed} failed" if self.failed else ""
        self.bars.update(
            self.whole,
            description=f"{escape(self.title)}: {self.done} of {self.total} runs{failed}",
            completed=self.done + sum(self.parts.values()),
        )
