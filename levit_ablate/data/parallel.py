"""A function over many files, in processes, with its progress shown."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

CHUNK = 256
"""Items that a process is given at once."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    title: str,
    num_processes: int | None = None,
) -> Iterator[Result]:
    """The results in order, as they come; progress on standard error where it is a terminal.

    One process for each core unless told otherwise; few items are done here. An exception of
    `function` is raised here, and ends the processes, as Ctrl-C does.
    """
    if len(items) <= CHUNK:
        yield from map(function, items)
        return
    console = Console(stderr=True)
    progress = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    processes = num_processes or len(os.sched_getaffinity(0))
    with progress, multiprocessing.Pool(processes, initializer=_default_signals) as pool:
        yield from progress.track(pool.imap(function, items, CHUNK), total=len(items))


def _default_signals() -> None:
    """Ctrl-C is the parent's matter, and SIGTERM, with which it ends its processes, ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
