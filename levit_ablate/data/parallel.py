"""A function over many files, in processes, with its progress shown."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from levit_ablate.data.folder_layout import shown
from levit_ablate.errors import RunError

CHUNK = 64
"""Files that a process is given at once. So few are done without a process."""
Result = TypeVar("Result")


def over_files(
    function: Callable[[Path], Result],
    paths: Iterable[Path],
    count: int,
    doing: str,
    num_workers: int | None = None,
) -> Generator[Result, None, None]:
    """What a function makes of `count` files, in their order, as it comes.

    Progress, under the words of `doing`, is shown on standard error where that is a terminal. One
    process for each core unless told otherwise, to which the function is pickled. Its exceptions
    are raised here. Raises RunError where a process dies or none can be started. Ctrl-C, or closing
    the iterator, ends them at once.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    num_workers = min(num_workers or num_cores(), math.ceil(count / CHUNK))
    results = (
        _in_processes(function, iter(paths), doing, num_workers)
        if count > CHUNK
        else (function(path) for path in paths)
    )
    with contextlib.closing(results), progress:
        yield from progress.track(results, total=count, description=doing)


def _in_processes(
    function: Callable[[Path], Result],
    paths: Iterator[Path],
    doing: str,
    num_workers: int,
) -> Generator[Result, None, None]:
    with contextlib.ExitStack() as stack:
        try:
            processes = [stack.enter_context(_Process(function, doing)) for _ in range(num_workers)]
        except OSError as error:
            raise RunError(f"{doing}: no process can be started: {error}") from error
        threads = stack.enter_context(ThreadPoolExecutor(num_workers))
        for process in processes:
            stack.callback(process.kill)  # the threads would wait for them
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        idle: SimpleQueue[_Process[Result]] = SimpleQueue()
        for process in processes:
            idle.put(process)

        def done(chunk: list[Path]) -> list[Result]:
            process = idle.get()
            try:
                return process.results(chunk)
            finally:
                idle.put(process)

        begun: deque[Future[list[Result]]] = deque()
        while chunk := list(islice(paths, CHUNK)):
            begun.append(threads.submit(done, chunk))
            if len(begun) > 2 * num_workers:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()


class _Process(Generic[Result]):
    """A Python process that applies a function; it ends when this one does, however that ends.

    Not multiprocessing's: forked beside torch's threads it may lock up, spawned it runs the user's
    script again; `Pool` waits for ever for a process that was killed, and those of
    `ProcessPoolExecutor` outlive a parent that was.
    """

    def __init__(self, function: Callable[[Path], Result], doing: str) -> None:
        self.doing = doing
        code = "import sys; from levit_ablate.data.parallel import _serve; _serve(int(sys.argv[1]))"
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is this process's matter
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
                },
            )
        self.connection.send(function)

    def results(self, paths: list[Path]) -> list[Result]:
        """Those of some files. Raises what the function raises, RunError where the process died."""
        try:
            self.connection.send(paths)
            answer: list[Result] | Exception = self.connection.recv()
        except (EOFError, OSError) as error:
            first, last = (shown(str(path)) for path in (paths[0], paths[-1]))
            raise RunError(
                f"{self.doing}: a process died (exit code {self.process.wait()}) between {first} "
                f"and {last}; one of these files may be to blame, or a want of memory"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        """End it now."""
        self.process.kill()

    def __enter__(self) -> _Process[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.wait()
        self.connection.close()


def _serve(descriptor: int) -> None:
    """The life of such a process: apply the function to what comes, until its parent is gone."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())  # libtiff prints what is reported anyway
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        function: Callable[[Path], Any] = connection.recv()
        while True:
            paths: list[Path] = connection.recv()
            try:
                answer: Any = [function(path) for path in paths]
            except Exception as error:  # is raised where the function was given
                answer = error
            connection.send(answer)


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
