"""MLflow tag names, and the tags every run gets."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version

import torch

from levit_ablate.experiment import Variant

TAG = "levit_ablate."
"""Prefix of all our tags."""
KEY, ABLATION, SEED, PAPER_ROW = f"{TAG}key", f"{TAG}ablation", f"{TAG}seed", f"{TAG}paper_row"
ERROR = f"{TAG}error"
"""Error of a failed run."""
ORIGINAL = f"{TAG}original"
"""Run id of the run that this one is a copy of."""
STUDY, STUDY_KEY, DATASET = f"{TAG}study", f"{TAG}study_key", f"{TAG}dataset"
SEARCH = f"{TAG}search"
PRUNED = f"{TAG}pruned"
"""Epoch after which a search pruned the run."""
HOST, LOCK, ALIVE = f"{TAG}host", f"{TAG}lock", f"{TAG}alive"
"""Machine of a running run, lock file of its process, and last heartbeat (seconds since 1970)."""
PARENT = "mlflow.parentRunId"
PACKAGES = ("levit-ablate", "torch", "lightning", "timm", "mlflow", "scikit-learn")


def tags_of(variant: Variant) -> dict[str, str]:
    """Tags of a variant's run: key, ablation, seed, paper row, differences, and the machine's."""
    paper = variant.ablation.paper
    tags = {
        KEY: variant.key,
        ABLATION: variant.name,
        PAPER_ROW: paper.row if paper else "",
        SEED: variant.experiment.seed,
        f"{TAG}matched": variant.matched,
        f"{TAG}differs": ", ".join(
            f"{name}={own}" for name, (_, own) in variant.differences().items()
        ),
        f"{TAG}threads": torch.get_num_threads(),
        **machine_tags(),
    }
    return {name: str(value) for name, value in tags.items()}


def machine_tags() -> dict[str, str]:
    """Tags for the git commit, the versions and the hardware."""
    return {
        f"{TAG}git_commit": _git_commit(),
        f"{TAG}python": platform.python_version(),
        f"{TAG}hardware": _cpu(),
        f"{TAG}gpus": ", ".join(_gpus()),
        **{f"{TAG}version.{package}": version(package) for package in PACKAGES},
    }


def hardware() -> str:
    """CPUs and GPUs of this machine in words."""
    return " and ".join([_cpu(), *_gpus()])


def _cpu() -> str:
    return f"{os.cpu_count()} x {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _gpus() -> list[str]:
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


@cache
def _git_commit() -> str:
    """Commit of the working folder, with a + if files differ from it."""
    git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()
