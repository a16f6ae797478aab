"""Decode images in worker processes (torch's DataLoader); a dead or silent one is a RunError."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from levit_ablate import signals
from levit_ablate.bars import bars, error_console
from levit_ablate.data.folder_layout import Array, shown
from levit_ablate.errors import RunError
from levit_ablate.runtime import num_cores

PREFETCH = 4
"""Batches that a worker makes ahead in training."""
FEW = 64
"""So few files are processed without workers."""
CHUNK, CHUNKS_AHEAD = 16, 4
"""Files that `over_files` gives a worker at once, and how often ahead."""
ANSWER_WITHIN = 600.0
"""Timeout in seconds for the next batch."""
SETTING = "hardware.num_workers"
"""The setting that errors about the workers of a training name."""
SHARED_MEMORY = Path("/dev/shm")
"""Linux's memory shared by processes; a container has 64 MB of it unless told otherwise."""

Result = TypeVar("Result")


@contextlib.contextmanager
def worker_errors(
    where: str = SETTING,
    advice: Callable[[], str] = lambda: "where memory is short, take fewer workers",
) -> Iterator[None]:
    """Raise an error about a dead or silent worker as a RunError of one line.

    torch raises it when the worker dies, wherever the main thread then is: in a training step too.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if text.startswith("DataLoader timed out"):
            or_none = f"; --{SETTING} 0 reads them without workers" if where == SETTING else ""
            raise RunError(
                f"{where}: no batch came from the worker processes for {ANSWER_WITHIN:.0f} s; look "
                f"whether the images' disk answers{or_none}"
            ) from error
        if text.removeprefix("a ").startswith("DataLoader worker"):  # is killed, exited, died
            line = text.splitlines()[0].rstrip(". ")
            raise RunError(f"{where}: {line}; {advice()}") from error
        raise


class Loader:
    """The batches of a dataset: images (B, C, side, side) uint8 and labels (B,), on a device.

    Raises RunError where an image cannot be read, a worker dies, or no batch comes for
    `ANSWER_WITHIN` seconds.

    Args:
        dataset: gives an image and its label.
        device: where the batches go.
        num_workers: processes that decode; with 0 this process does. They outlive an epoch.
        options: of torch's `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Tensor, int]],
        device: torch.device,
        num_workers: int,
        **options: Any,
    ) -> None:
        self.device = device
        self.is_told = False
        if num_workers:
            options |= {"persistent_workers": True, "prefetch_factor": PREFETCH}
        self.loader = _data_loader(
            dataset,
            num_workers,
            collate_fn=collated,
            pin_memory=device.type == "cuda",
            **options,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with worker_errors():
            batches = _started(self.loader, SETTING)
            try:
                for images, labels in _received(batches, self.loader.num_workers):
                    if isinstance(images, numpy.ndarray) and not self.is_told:
                        self.is_told = True
                        print(self._no_room(images.nbytes), file=sys.stderr)
                    batch = (torch.as_tensor(each) for each in (images, labels))
                    on_device = [each.to(self.device, non_blocking=True) for each in batch]
                    yield on_device[0], on_device[1]
            except Exception:
                if self.loader.num_workers:  # when they are collected it takes 5 s for each
                    batches._shutdown_workers()
                    self.loader._iterator = None  # to iterate again starts others
                raise

    def _no_room(self, size: int) -> str:
        """Report that a batch of so many bytes had to come through a pipe."""
        num_workers = self.loader.num_workers
        wanted = (PREFETCH * num_workers + 1) * size / 2**20
        return (
            f"{SETTING}: {SHARED_MEMORY} ({shutil.disk_usage(SHARED_MEMORY).total / 2**20:,.1f} "
            f"MB) has no room for the {wanted:,.1f} MB of batches that {num_workers} workers may "
            f"hold; they come through pipes, which is slower; give it more (docker run "
            f"--shm-size), or take fewer workers"
        )


def collated(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor | Array, Array]:
    """Stack images and labels; a worker's go to shared memory, or through a pipe as arrays.

    torch itself moves tensors to shared memory after this, and would move the labels: where there
    is no room it drops the batch, which then never comes.
    """
    images, labels = zip(*items, strict=True)
    is_shared = bool(get_worker_info()) and SHARED_MEMORY.is_dir()
    size = sum(image.nbytes for image in images)
    # to try and fail would leave an empty file in shared memory each time
    if not is_shared or shutil.disk_usage(SHARED_MEMORY).free >= size:
        with contextlib.suppress(RuntimeError):  # another process took the room
            return default_collate(list(images)), numpy.array(labels)
    return torch.stack(images).numpy(), numpy.array(labels)


@contextlib.contextmanager
def over_files(
    function: Callable[[Path], Result],
    paths: Sequence[Path],
    doing: str,
    num_workers: int | None = None,
) -> Iterator[Iterator[Result]]:
    """Apply a function to files in worker processes; iterate over the results within the block.

    They come in the files' order; the function's exceptions are raised here. Leaving the block, by
    Ctrl-C as well, ends the workers. A terminal is shown the progress on standard error.
    Raises RunError where no worker can be started, one dies, or none answers.

    Args:
        function: is pickled where workers are not forked.
        paths: the files; likewise.
        doing: what is done, for the progress and for errors.
        num_workers: one for each core unless told otherwise, none for a `FEW` files.
    """
    count = len(paths)
    num_workers = min(num_workers or num_cores(), math.ceil(count / CHUNK)) if count > FEW else 0
    ahead = {"prefetch_factor": CHUNKS_AHEAD, "worker_init_fn": _detach_silently}
    loader = _data_loader(
        paths,
        num_workers,
        batch_size=CHUNK,
        collate_fn=partial(_applied, function),
        **(ahead if num_workers else {}),
    )
    received = 0

    def advice() -> str:
        """Name the files that workers may have had."""
        end = min(count, received + CHUNK * (CHUNKS_AHEAD * num_workers + 1))
        first, last = (shown(str(paths[position])) for position in (received, end - 1))
        return f"one of the files from {first} to {last} may be to blame, or a want of memory"

    def results(batches: Iterator[list[Result]]) -> Iterator[Result]:
        nonlocal received
        for result in chain.from_iterable(_received(batches, num_workers)):
            yield result
            received += 1

    done = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    progress = bars(error_console(), *done, TextColumn("left"), TimeRemainingColumn())
    batches: Any = None
    with worker_errors(doing, advice):
        try:
            with signals.deferred():  # torch does not bear them while it starts its workers
                batches = _started(loader, doing)  # before the thread of the progress: it forks
            with progress:
                yield iter(progress.track(results(batches), total=count, description=doing))
        finally:
            if num_workers and batches:
                batches._shutdown_workers()  # a traceback may hold them


def _applied(function: Callable[[Path], Result], paths: Sequence[Path]) -> list[Result]:
    return [function(path) for path in paths]


def _data_loader(dataset: Any, num_workers: int, **options: Any) -> DataLoader[Any]:
    """A DataLoader that leaves the global random state alone."""
    if num_workers:
        options = {"worker_init_fn": _detach, "timeout": ANSWER_WITHIN} | options
    return DataLoader(dataset, num_workers=num_workers, generator=torch.Generator(), **options)


def _detach(worker: int) -> None:
    """Initialise a worker: its parent alone ends it, by SIGTERM or by its own end.

    A signal to the whole job, as Ctrl-C, does not reach it. Without the thread a worker whose
    parent was killed may live on, as it waits for its batches to be read.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _detach_silently(worker: int) -> None:
    """Initialise a worker without standard error: libtiff prints what is reported anyway."""
    _detach(worker)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _started(loader: DataLoader[Any], where: str) -> Any:
    """Start the workers, or those that outlived an epoch again. Raises RunError where it fails."""
    try:
        with signals.waiting():
            return iter(loader)
    except OSError as error:
        or_none = ", or take 0 workers" if where == SETTING else ""
        raise RunError(
            f"{where}: no worker process can be started: {error}; give {SHARED_MEMORY} room "
            f"(docker run --shm-size){or_none}"
        ) from error


def _received(batches: Iterator[Any], num_workers: int) -> Iterator[Any]:
    """Yield the batches. Raises the dataset's errors as they are, others for `worker_errors`."""
    while True:
        try:
            with signals.waiting():
                batch = next(batches, None)
        except RunError as error:  # raised in a worker, with its traceback in the text
            line = str(error).strip().splitlines()[-1]
            raise RunError(line.rpartition("RunError: ")[2]) from error
        except (EOFError, OSError) as error:
            # A worker hands its batch over when it is read, and may be dead by then. An error that
            # was raised in a worker is told apart by the text that torch puts before it.
            if not num_workers or str(error).startswith("Caught "):
                raise
            raise RuntimeError(
                f"a DataLoader worker died before its batch was read ({type(error).__name__})"
            ) from error
        if batch is None:
            return
        yield batch
