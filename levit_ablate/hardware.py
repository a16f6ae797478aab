"""What the machine can do, and what is asked of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import torch
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from levit_ablate.config import Experiment, Hardware
from levit_ablate.errors import UserError

CLUSTERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment)
"""What Lightning looks for: where one started the processes, each has its rank from there."""
PLACES = {"NODE_RANK", "RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"}
"""Variables of the environment by which a process knows its place among several hosts."""


def has_gpu() -> bool:
    """Whether torch finds a GPU here."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def own_threads() -> int:
    """The CPU threads that this process may use: torch's choice, or what it was told at first."""
    return torch.get_num_threads()


def settle_rank(hardware: Hardware) -> None:
    """Set the rank that Lightning and `is_first_process` know of this process.

    A training on one device is its own first process, whatever RANK or SLURM_PROCID say: tasks of
    srun may each have a training of their own. Of several devices, where no cluster has started the
    processes, Lightning starts those of a host, and a host is told from NODE_RANK.
    """
    if hardware.devices * hardware.num_nodes == 1:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    elif not any(environment.detect() for environment in CLUSTERS):
        host, device = (int(os.environ.get(n) or 0) for n in ("NODE_RANK", "LOCAL_RANK"))
        rank_zero_only.rank = host * hardware.devices + device  # type: ignore[attr-defined]


def is_first_process() -> bool:
    """Whether this process speaks and records for all processes of its training."""
    return not rank_zero_only.rank  # type: ignore[attr-defined]


@contextmanager
def one_voice(hardware: Hardware) -> Iterator[None]:
    """Of the processes of a training only the first writes; an error of any is still raised."""
    settle_rank(hardware)
    if is_first_process():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def check_hardware(experiment: Experiment) -> None:
    """Refuse what this machine cannot do, and a work folder without use. Raises UserError."""
    hardware, precision = experiment.hardware, experiment.recipe.precision
    try:
        Path(hardware.work_dir).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=hardware.work_dir).close()
    except OSError as error:
        raise UserError(
            f"hardware.work_dir: {hardware.work_dir} cannot be written: {error.strerror}"
        ) from error
    if hardware.num_nodes > 1 and not PLACES & os.environ.keys():
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
    """bf16-mixed where the hardware multiplies it faster than float32, else 32-true.

    GPUs from NVIDIA's Ampere on, and CPUs with AVX512-BF16 or AMX.
    """
    if hardware.accelerator != "cpu" and has_gpu():
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"
