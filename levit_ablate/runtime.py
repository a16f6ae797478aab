"""The machine and the process: hardware, threads, rank, and locks between processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from levit_ablate.config import Experiment, Hardware
from levit_ablate.errors import UserError
from levit_ablate.signals import waiting

CLUSTERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment)
"""Cluster managers that Lightning detects; each gives its processes their ranks."""
RANK_VARIABLES = {"NODE_RANK", "RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"}
"""Environment variables that say which of several hosts or processes this one is."""


def has_gpu() -> bool:
    """Return whether torch finds a GPU here."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def device_of(hardware: Hardware) -> torch.device:
    """Return the device of one process on this hardware."""
    if hardware.accelerator == "cpu" or not has_gpu():
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "mps")


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def own_threads() -> int:
    """CPU threads that this process may use: torch's number when first asked."""
    return torch.get_num_threads()


def settle_rank(hardware: Hardware) -> None:
    """Set the rank that Lightning and `is_first_process` use.

    A training on one device has rank 0 whatever RANK or SLURM_PROCID say: each task of srun may run
    a training of its own. With several devices and no cluster manager, Lightning starts the
    processes of a host itself, and NODE_RANK says which host this is.
    """
    if hardware.devices * hardware.num_nodes == 1:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    elif not any(environment.detect() for environment in CLUSTERS):
        host, device = (int(os.environ.get(n) or 0) for n in ("NODE_RANK", "LOCAL_RANK"))
        rank_zero_only.rank = host * hardware.devices + device  # type: ignore[attr-defined]


def is_first_process() -> bool:
    """Return whether this process prints and records for all processes of its training."""
    return not rank_zero_only.rank  # type: ignore[attr-defined]


@contextmanager
def one_voice(hardware: Hardware) -> Iterator[None]:
    """Let only the first process of a training print; exceptions are raised in all."""
    settle_rank(hardware)
    if is_first_process():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def check_hardware(experiment: Experiment) -> None:
    """Check that this machine has the hardware, and that the work folder can be written.

    Raises UserError.
    """
    hardware, precision = experiment.hardware, experiment.recipe.precision
    try:
        Path(hardware.work_dir).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=hardware.work_dir).close()
    except OSError as error:
        raise UserError(
            f"hardware.work_dir: {hardware.work_dir} cannot be written: {error.strerror}"
        ) from error
    if hardware.num_nodes > 1 and not RANK_VARIABLES & os.environ.keys():
        raise UserError(
            f"hardware.num_nodes: {hardware.num_nodes}: this process does not know which host it "
            f"is on; start it on every host by srun or torchrun, or with MASTER_ADDR, MASTER_PORT "
            f"and NODE_RANK set"
        )
    if hardware.accelerator == "gpu" and not has_gpu():
        raise UserError("hardware.accelerator: gpu: torch finds none here; use auto or cpu")
    on_gpu = hardware.accelerator != "cpu" and has_gpu()
    if precision == "16-mixed" and not on_gpu:
        raise UserError("recipe.precision: 16-mixed needs a GPU; use bf16-mixed or 32-true")
    if on_gpu and torch.cuda.is_available() and hardware.devices > torch.cuda.device_count():
        raise UserError(
            f"hardware.devices: {hardware.devices}: torch finds {torch.cuda.device_count()} here"
        )


def best_precision(hardware: Hardware) -> Literal["bf16-mixed", "32-true"]:
    """Return bf16-mixed where the hardware multiplies it faster than float32, else 32-true.

    That is on NVIDIA GPUs from Ampere on, and on CPUs with AVX512-BF16 or AMX.
    """
    if hardware.accelerator != "cpu" and has_gpu():
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def lock_of(result: Path) -> Path:
    """Path of the lock file of whatever makes `result`; it lies beside it."""
    return result.with_name(f"{result.name}.lock")


@contextmanager
def one_at_a_time(result: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a file or folder while it is made.

    The operating system releases the lock with its process, however that ends. Of the processes of
    one training the first holds it for all. Before waiting for another process it prints what that
    is `doing`: "trains it".
    """
    if not is_first_process():
        yield
        return
    result.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(result))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{result.name}: another process {doing}; waiting for it", file=sys.stderr)
        with waiting():
            lock.acquire()
    with lock:
        yield


def is_held(lock: Path) -> bool:
    """Return whether another process of this machine holds a lock; false where it has no file."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of `path` once it is whole.

    One process at a time: what a killed one left there is overwritten.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
