"""Progress bars on a terminal, and in Jupyter without widgets; none elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID

OFTEN = 0.2
"""Seconds between two updates of a cell's output."""


def error_console() -> Console:
    """Return a console on standard error: a terminal, or lines of text. not Jupyter's cells."""
    # Jupyter sets FORCE_COLOR, by which rich would take any stream for a terminal
    text = False if _in_jupyter() or _is_log() else None
    return Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=text)


def bars(console: Console, *columns: str | ProgressColumn, transient: bool = False) -> Progress:
    """Return progress bars with these columns; they show nothing where no one looks on.

    `transient` bars go when they have ended.
    """
    if _in_jupyter() and not _is_log():
        return _CellProgress(*columns, console=console, transient=transient)
    disable = not console.is_terminal
    return Progress(*columns, console=console, disable=disable, transient=transient)


def _in_jupyter() -> bool:
    return Console(stderr=True).is_jupyter


def _is_log() -> bool:
    """Return whether standard error goes to a log: nothing is shown (`api.session.talking`)."""
    return bool(getattr(sys.stderr, "is_log", False))


class _CellProgress(Progress):
    """Bars in the output of a notebook's cell, which is updated in place."""

    def __init__(
        self, *columns: str | ProgressColumn, console: Console, transient: bool = False
    ) -> None:
        super().__init__(*columns, console=console, auto_refresh=False)
        self.transient = transient
        self.cell: Any = None
        self.drawn = 0.0

    def start(self) -> None:
        from IPython.display import display

        self.cell = display(  # type: ignore[no-untyped-call]
            self.make_tasks_table(self.tasks), display_id=True
        )

    def stop(self) -> None:
        if self.cell and self.transient:
            self.cell.update({"text/plain": ""}, raw=True)
        elif self.cell:
            self.cell.update(self.make_tasks_table(self.tasks))
        self.cell = None

    def refresh(self) -> None:
        if self.cell and time.monotonic() > self.drawn + OFTEN:
            self.drawn = time.monotonic()
            self.cell.update(self.make_tasks_table(self.tasks))

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        self.refresh()
