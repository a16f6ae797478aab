"""Runs in MLflow: their tags, how they are found by key, and whether their process is alive."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from levit_ablate.errors import DamagedError, RunError
from levit_ablate.experiment import Variant
from levit_ablate.runtime import is_held
from levit_ablate.tracking.store import STORE_ERRORS, the_record
from levit_ablate.tracking.uris import reason

TAG = "levit_ablate."
"""Prefix of all our tags."""
KEY, ABLATION, SEED = f"{TAG}key", f"{TAG}ablation", f"{TAG}seed"
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
SILENCE = 300.0
"""Seconds without a heartbeat after which a process of another machine counts as dead."""
HEARTBEAT = 60.0
"""Seconds between two heartbeats."""
DIED = "its process was killed, or its machine went down"


@contextmanager
def reading_the_record() -> Iterator[None]:
    """Turn errors of a store that cannot be read or written into a RunError of one line."""
    try:
        yield
    except STORE_ERRORS as error:
        why = reason(error, mlflow.get_tracking_uri())
        raise RunError(
            f"{the_record()} cannot be read or written: {why}; what was written before is kept"
        ) from error


def tags_of(variant: Variant) -> dict[str, str]:
    """Tags of a variant's run: key, ablation, seed, paper row, differences, and the machine's."""
    paper = variant.ablation.paper
    differences = variant.differences().items()
    tags = {
        KEY: variant.key,
        ABLATION: variant.name,
        f"{TAG}paper_row": paper.row if paper else "",
        SEED: variant.experiment.seed,
        f"{TAG}matched": variant.matched,
        f"{TAG}differs": ", ".join(f"{name}={value}" for name, (_, value) in differences),
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
        done = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@reading_the_record()
def search(filter_string: str, experiments: list[str] | None = None) -> list[Run]:
    """Return the runs that match an MLflow filter, latest first, in these experiments or in all."""
    runs: list[Run] = mlflow.search_runs(
        experiment_ids=experiments,
        search_all_experiments=experiments is None,
        filter_string=filter_string,
        output_format="list",
    )
    return runs


def of_key(*keys: str) -> list[Run]:
    """Return all trained runs with one of these keys, however they ended; no copies.

    Those of an earlier key come first; of one key the latest.
    """
    runs = [run for key in keys for run in search(f"tags.`{KEY}` = '{key}'")]
    return [run for run in runs if ORIGINAL not in run.data.tags]


def find(*keys: str) -> Run | None:
    """Return the latest finished run of the first of these keys that has one, or None."""
    return next((run for run in of_key(*keys) if run.info.status == "FINISHED"), None)


def children(parent: str) -> list[Run]:
    """Return the runs below a parent, in all experiments."""
    return search(f"tags.`{PARENT}` = '{parent}'")


def is_alive(run: Run) -> bool:
    """Return whether a run's process is running.

    On this machine by its lock; on another machine or file system by its last heartbeat.
    """
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return False
    tags = run.data.tags
    lock = Path(tags.get(LOCK, ""))
    if tags.get(HOST) == platform.node() and lock.is_file():
        return is_held(lock)
    last = float(tags.get(ALIVE, run.info.start_time / 1000))
    return time.time() - last < SILENCE


def life_tags(lock: Path) -> dict[str, str]:
    """Tags by which `is_alive` knows whether the process that holds a lock is running."""
    return {HOST: platform.node(), LOCK: str(lock.absolute()), ALIVE: now()}


def now() -> str:
    """Time of a heartbeat, as its tag has it."""
    return f"{time.time():.0f}"


@contextmanager
def heartbeat(run_id: str) -> Iterator[None]:
    """Send heartbeats of a run, for processes that cannot see its lock."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(*STORE_ERRORS):
                MlflowClient().set_tag(run_id, ALIVE, now())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def settle(runs: Iterable[Run]) -> list[Run]:
    """End the runs with status RUNNING whose process is gone, and return them.

    What they recorded stays: `run` and `sweep` resume them where their last checkpoint is.
    """
    orphans = [run for run in runs if run.info.status == "RUNNING" and not is_alive(run)]
    for run in orphans:
        end(run.info.run_id, "KILLED", DIED)
    return orphans


@reading_the_record()
def end(run_id: str, status: str, error: str) -> None:
    """End a run from another process, with the reason as a tag."""
    client = MlflowClient()
    client.set_tag(run_id, ERROR, error[:500])
    client.set_terminated(run_id, status)


def read_json(run: Run, name: str) -> dict[str, Any]:
    """Return a JSON artifact of a run, which is a mapping.

    Raises RunError where it cannot be read, DamagedError where it is cut or no mapping.
    """
    with reading_the_record(), tempfile.TemporaryDirectory() as folder:
        path = MlflowClient().download_artifacts(run.info.run_id, name, folder)
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DamagedError(
            f"run {run.info.run_id}: its artifact {name} is damaged; the command that recorded "
            f"it, given again, writes it anew"
        )
    return content
