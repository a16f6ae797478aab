"""The record: every run in MLflow, found again by its key."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import mlflow
import numpy
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from levit_ablate.config import Images
from levit_ablate.errors import UserError
from levit_ablate.experiments import Variant
from levit_ablate.serialization import to_mapping, to_yaml

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT_NAME = "levit-ablate"
TAG = "levit_ablate."
"""Before the name of every tag of ours."""
PACKAGES = ("levit-ablate", "torch", "lightning", "timm", "mlflow", "scikit-learn")


def tracking_uri(given: str | None) -> str:
    """Where runs are recorded: what was given, or MLFLOW_TRACKING_URI, or ./mlflow.db."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_store(uri: str) -> None:
    """Make MLflow record at `uri`; create database and experiment where they are missing.

    The artifacts of a SQLite store lie beside its file, in `mlartifacts`. Raises UserError, in a
    line, where the store cannot be reached.
    """
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else a line for each table
    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)  # else a warning of our own pickle
    try:
        if uri.startswith("http"):
            urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()  # MLflow retries for minutes
        mlflow.set_tracking_uri(uri)
        if mlflow.get_experiment_by_name(EXPERIMENT_NAME) is None:
            mlflow.create_experiment(EXPERIMENT_NAME, _artifacts_beside(uri))
        mlflow.set_experiment(EXPERIMENT_NAME)
    except (MlflowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"tracking uri {uri}: cannot be opened: {reason}") from error


def _artifacts_beside(uri: str) -> str | None:
    """For a SQLite file the folder beside it; a server knows its own."""
    if not uri.startswith("sqlite:///"):
        return None
    database = Path(uri.removeprefix("sqlite:///")).absolute()
    return (database.parent / "mlartifacts").as_uri()


def find(key: str) -> Run | None:
    """The latest finished run with this key, in any experiment; None if there is none."""
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{TAG}key` = '{key}' and attributes.status = 'FINISHED'",
        max_results=1,
        output_format="list",
    )
    return runs[0] if runs else None


@contextmanager
def record(variant: Variant) -> Iterator[Recorder]:
    """A run that ends as FINISHED, as KILLED by Ctrl-C or SIGTERM, or as FAILED with its error."""
    name = f"{variant.name} seed {variant.experiment.seed}"
    client = MlflowClient()
    active = mlflow.start_run(
        run_name=name, tags=tags_of(variant), description=variant.ablation.summary
    )
    run_id = active.info.run_id
    try:
        with active:
            mlflow.log_params(_flat(to_mapping(variant.experiment)))
            mlflow.log_text(
                f"name: {variant.name}\n{to_yaml(variant.experiment)}", "experiment.yaml"
            )
            mlflow.log_metrics({"params": variant.cost.params, "flops": variant.cost.flops})
            yield Recorder(run_id)
    except KeyboardInterrupt:
        client.set_terminated(run_id, "KILLED")
        raise
    except BaseException as error:
        client.set_tag(run_id, f"{TAG}error", f"{type(error).__name__}: {error}"[:500])
        raise


@dataclass(frozen=True)
class Recorder:
    """Writes into the run that is active."""

    run_id: str

    def metrics(self, values: Mapping[str, float], epoch: int | None = None) -> None:
        """Record several metrics at once: every call is one write to the store."""
        mlflow.log_metrics(dict(values), step=epoch)

    def checkpoint(self, path: Path) -> None:
        """Keep a checkpoint of the training."""
        mlflow.log_artifact(str(path), "checkpoints")

    def model(self, network: nn.Module, images: Images) -> None:
        """Keep a network, for `mlflow.pytorch.load_model`."""
        image = (-1, images.channels, images.height, images.width)
        kind = numpy.dtype("float32")
        signature = ModelSignature(
            inputs=Schema([TensorSpec(kind, image)]),
            outputs=Schema([TensorSpec(kind, (-1, images.num_classes))]),
        )
        requirements = [f"{package}=={version(package)}" for package in PACKAGES]
        mlflow.pytorch.log_model(
            network,
            name="model",
            signature=signature,
            pip_requirements=requirements,
            serialization_format="pickle",  # the module itself; a traced graph has no heads apart
        )


def tags_of(variant: Variant) -> dict[str, str]:
    """What a run is, and what it ran on: key, ablation, seed, commit, versions, hardware."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cpu = torch.backends.cpu.get_cpu_capability()
    paper = variant.ablation.paper
    tags = {
        "key": variant.key,
        "ablation": variant.name,
        "paper_row": paper.row if paper else "",
        "seed": variant.experiment.seed,
        "matched": variant.matched,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "hardware": f"{os.cpu_count()} x {platform.machine()} {cpu}",
        "threads": torch.get_num_threads(),
        "gpus": ", ".join(gpus),
        **{f"version.{package}": version(package) for package in PACKAGES},
    }
    return {f"{TAG}{name}": str(value) for name, value in tags.items()}


def _git_commit() -> str:
    """The commit that the working folder is at, with a + if files differ from it."""
    git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
