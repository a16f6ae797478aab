"""The record: every run in MLflow, found again by its key."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy
import torch
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from levit_ablate.ablations import recorded_yaml
from levit_ablate.config import Images
from levit_ablate.errors import RunError
from levit_ablate.experiments import Variant
from levit_ablate.hardware import is_first_process
from levit_ablate.serialization import flat, to_mapping
from levit_ablate.store import STORE_ERRORS, reason

TAG = "levit_ablate."
"""Before the name of every tag of ours."""
ERROR_TAG = f"{TAG}error"
"""Of a run that failed: why."""
PACKAGES = ("levit-ablate", "torch", "lightning", "timm", "mlflow", "scikit-learn")


@contextmanager
def _store_at_work() -> Iterator[None]:
    """A store that fails while it is used fails the run, in a line (RunError)."""
    try:
        yield
    except STORE_ERRORS as error:
        raise RunError(
            f"the record at {mlflow.get_tracking_uri()} cannot be read or written: "
            f"{reason(error)}; what was written before is kept"
        ) from error


@_store_at_work()
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
def record(variant: Variant, marker: Path) -> Iterator[Recorder]:
    """A run that ends as FINISHED, as KILLED by Ctrl-C or SIGTERM, or as FAILED with its error.

    One that did not finish goes on: `marker` is a file that names it. Of the processes of one
    training the first records.
    """
    if not is_first_process():
        yield Recorder("")
        return
    with _store_at_work():
        recorder = _taken_up(marker) or _begun(variant, marker)
    status = "FAILED"
    try:
        yield recorder
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as error:
        with contextlib.suppress(*STORE_ERRORS):  # the store may be what failed
            mlflow.set_tag(ERROR_TAG, f"{type(error).__name__}: {error}"[:500])
        raise
    finally:
        _end(status)


def _begun(variant: Variant, marker: Path) -> Recorder:
    """A new run, described."""
    active = mlflow.start_run(
        run_name=f"{variant.name} seed {variant.experiment.seed}",
        tags=tags_of(variant),
        description=variant.ablation.summary,
    )
    recorder = Recorder(active.info.run_id)
    try:
        recorder.describe(variant)
        temporary = marker.with_suffix(".tmp")
        temporary.write_text(recorder.run_id, encoding="utf-8")
        temporary.replace(marker)
    except BaseException:
        _end("FAILED")
        raise
    return recorder


def _taken_up(marker: Path) -> Recorder | None:
    """The run that a marker names, open again; None where there is none in this store."""
    run_id = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""
    if not run_id.strip():
        return None
    client = mlflow.MlflowClient()
    try:
        history = client.get_metric_history(run_id, "train_loss")
        if ERROR_TAG in mlflow.start_run(run_id=run_id).data.tags:
            mlflow.delete_tag(ERROR_TAG)
    except MlflowException:
        return None
    return Recorder(run_id, last_epoch=max((metric.step for metric in history), default=-1))


def _end(status: str) -> None:
    """End the active run. Where it did not finish, its own error is the one to be seen."""
    hidden = () if status == "FINISHED" else (RunError,)
    with contextlib.suppress(*hidden), _store_at_work():
        mlflow.end_run(status)


@dataclass(frozen=True)
class Recorder:
    """Writes into the run that is active; in the first process of a training, and in no other."""

    run_id: str
    last_epoch: int = -1
    """The last epoch whose metrics are recorded already."""

    @rank_zero_only
    @_store_at_work()
    def describe(self, variant: Variant) -> None:
        """Record what is run: as params, as YAML that `run --config` takes, and its cost."""
        mlflow.log_params(flat(to_mapping(variant.experiment)))
        text = recorded_yaml(variant.ablation, variant.experiment)
        mlflow.log_text(text, "experiment.yaml")
        mlflow.log_metrics({"params": variant.cost.params, "flops": variant.cost.flops})

    @rank_zero_only
    @_store_at_work()
    def metrics(self, values: Mapping[str, float], epoch: int | None = None) -> None:
        """Record several metrics at once: every call is one write to the store.

        An epoch that was recorded before its training was killed is not recorded twice.
        """
        if epoch is None or epoch > self.last_epoch:
            mlflow.log_metrics(dict(values), step=epoch)

    @rank_zero_only
    @_store_at_work()
    def checkpoint(self, path: Path) -> None:
        """Keep a checkpoint of the training."""
        mlflow.log_artifact(str(path), "checkpoints")

    @rank_zero_only
    @_store_at_work()
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
        "differs": ", ".join(f"{name}={own}" for name, (_, own) in variant.differences().items()),
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
