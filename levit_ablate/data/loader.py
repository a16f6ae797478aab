"""Batches of images that worker processes decode; a worker that fails or hangs is a RunError."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from levit_ablate.errors import RunError
from levit_ablate.signals import waiting

PREFETCH = 4
"""Batches that a worker makes ahead."""
ANSWER_WITHIN = 600.0
"""Seconds that the next batch may take."""
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps what processes share; a container has 64 MB of it unless told otherwise."""

Array = numpy.ndarray[Any, Any]


class Loader:
    """The batches of a dataset: images (B, C, side, side) uint8 and labels (B,), on a device.

    Raises RunError where an image cannot be read, a worker dies, or no batch comes for
    `ANSWER_WITHIN` seconds.

    Args:
        dataset: gives an image and its label.
        device: where the batches go.
        num_workers: processes that decode; none: this one does.
        how: further options of torch's `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Tensor, int]],
        device: torch.device,
        num_workers: int,
        **how: Any,
    ) -> None:
        self.dataset = dataset
        self.device = device
        self.is_told = False
        self.loader = DataLoader(
            dataset,
            collate_fn=collated,
            generator=torch.Generator(),  # not the global one, from which a loader seeds workers
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            **_for_workers(num_workers),
            **how,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            with _answering(hands_over=False):
                batches = iter(self.loader)
        except OSError as error:
            raise RunError(
                f"hardware.num_workers: no worker process can be started: {error}; give "
                f"{SHARED_MEMORY} room (docker run --shm-size), or take 0 workers"
            ) from error
        while True:
            with _answering(hands_over=self.loader.num_workers > 0):
                batch = next(batches, None)
            if batch is None:
                return
            images, labels = batch
            if isinstance(images, numpy.ndarray):
                self._tell_of_shared_memory(images.nbytes)
            yield self._moved(images), self._moved(labels)

    def _moved(self, batch: Tensor | Array) -> Tensor:
        return torch.as_tensor(batch).to(self.device, non_blocking=True)

    def _tell_of_shared_memory(self, batch: int) -> None:
        """Say, once, that a batch of so many bytes had to come through a pipe."""
        if self.is_told:
            return
        self.is_told = True
        there = shutil.disk_usage(SHARED_MEMORY).total
        wanted = (PREFETCH * self.loader.num_workers + 1) * batch
        print(
            f"hardware.num_workers: {SHARED_MEMORY} ({_megabytes(there)}) has no room for the "
            f"{_megabytes(wanted)} of batches that {self.loader.num_workers} workers may hold; "
            f"they come through pipes, which is slower; give it more (docker run --shm-size), or "
            f"take fewer workers",
            file=sys.stderr,
        )


def collated(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor | Array, Array]:
    """One batch of images and labels; in a worker in shared memory, or as arrays for a pipe.

    Torch itself moves tensors to shared memory after this, as it would the labels: where there is
    no room it drops the batch, which then never comes.
    """
    images, labels = zip(*items, strict=True)
    batch = None
    if not get_worker_info() or _has_room(sum(image.nbytes for image in images)):
        with contextlib.suppress(RuntimeError):  # another took the room
            batch = default_collate(list(images))
    return torch.stack(images).numpy() if batch is None else batch, numpy.array(labels)


def _has_room(size: int) -> bool:
    """Whether shared memory has it. To try and fail leaves an empty file there each time."""
    return not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free >= size


def _for_workers(num_workers: int) -> dict[str, Any]:
    """Options that only workers take: they outlive an epoch, and work ahead."""
    if not num_workers:
        return {}
    return {
        "persistent_workers": True,
        "prefetch_factor": PREFETCH,
        "worker_init_fn": _apart,
        "timeout": ANSWER_WITHIN,
    }


def _apart(worker: int) -> None:
    """A worker's end is its parent's matter: what is sent to all of a job does not reach it.

    Nor has it the handlers that it was forked with: its parent ends it by SIGTERM.
    """
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _answering(hands_over: bool) -> Iterator[None]:
    """Wait for the workers; what is wrong with one is a RunError of one line.

    Args:
        hands_over: whether a worker hands a batch over meanwhile.
    """
    try:
        with waiting():
            yield
    except RunError as error:  # raised in a worker, with its traceback in the text
        line = str(error).strip().splitlines()[-1]
        raise RunError(line.rpartition("RunError: ")[2]) from error
    except RuntimeError as error:
        said = str(error).strip()
        if said.startswith("DataLoader timed out"):
            raise RunError(
                f"hardware.num_workers: no batch came from the worker processes for "
                f"{ANSWER_WITHIN:.0f} s; look whether the images' disk answers; "
                f"--hardware.num_workers 0 reads them without workers"
            ) from error
        if said.startswith("DataLoader worker"):  # is killed by signal, exited unexpectedly
            raise RunError(
                f"hardware.num_workers: {said.splitlines()[0].rstrip('. ')}; where memory is "
                f"short, take fewer workers"
            ) from error
        raise
    except (EOFError, OSError) as error:
        # A worker hands its batch over when it is read, and may be dead by then. An error that was
        # raised in a worker is told apart by the text that torch puts before it.
        if not hands_over or str(error).startswith("Caught "):
            raise
        raise RunError(
            f"hardware.num_workers: a DataLoader worker died before its batch was read "
            f"({type(error).__name__}); where memory is short, take fewer workers"
        ) from error


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
