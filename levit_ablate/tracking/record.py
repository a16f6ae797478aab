"""One run of the record, from its beginning to its end, whatever that is."""

from __future__ import annotations

import contextlib
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy
from lightning.pytorch.utilities import rank_zero_only
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec
from torch import nn

from levit_ablate.config import Images
from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.runtime import is_first_process, lock_of
from levit_ablate.schema import flat, to_mapping
from levit_ablate.tracking import runs
from levit_ablate.tracking.outbox import FOR_GOOD, Outbox
from levit_ablate.tracking.store import (
    EXPERIMENT_NAME,
    STORE_ERRORS,
    experiment_id,
    the_record,
)
from levit_ablate.tracking.tags import ALIVE, ERROR, HOST, LOCK, PACKAGES, PARENT, PRUNED, tags_of

MARKER = "run_id"
"""File in a run's folder that names the run, by which a killed one goes on."""
MODEL = "model"
"""The artifact of a run that holds its network: `runs:/ID/model`."""
PATIENCE = 30.0
"""Seconds that a run which ends waits for a store that does not answer."""


class GivenUpError(Exception):
    """A training is not worth going on with, whatever it would have come to."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"given up after epoch {epoch}")
        self.epoch = epoch


@contextmanager
def record(variant: Variant, folder: Path, parent: Run | None = None) -> Iterator[Recorder]:
    """A run that ends as FINISHED, as KILLED by Ctrl-C or SIGTERM, or as FAILED with its error.

    One that is given up (`GivenUpError`) is KILLED too, and says after which epoch.

    One that did not finish goes on. Of the processes of one training the first records. What the
    store does not take is kept in `folder` and sent as soon as it does, by this process or by the
    next command that opens the store (`afterwards`).

    Raises `runs.TakenError` where a process of another machine or folder trains the same; RunError
    where the store cannot be had in the beginning, or is not there again in the end.

    Args:
        variant: what is run.
        folder: the run's own, of what it needs to go on; beside it is the lock of its process.
        parent: the run that it stands below, in the parent's experiment.
    """
    if not is_first_process():
        yield Recorder("", Outbox(folder, ""))
        return
    with runs.reading_the_record():
        recorder = _taken_up(folder) or _begun(variant, folder, parent)
    status = "FAILED"
    try:
        with heartbeat(recorder.run_id):
            yield recorder
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except GivenUpError as given_up:
        status = "KILLED"
        with contextlib.suppress(RunError):
            recorder.outbox.put("tags", values={PRUNED: str(given_up.epoch)})
        raise
    except BaseException as error:
        with contextlib.suppress(RunError):  # the store may be what failed
            recorder.outbox.put("tags", values={ERROR: f"{type(error).__name__}: {error}"[:500]})
        raise
    finally:
        _end(recorder.outbox, status)


def _end(outbox: Outbox, status: str) -> None:
    """End a run. Where it did not finish, its own error is the one to be seen."""
    if status != "FINISHED":
        with contextlib.suppress(RunError):
            outbox.put("end", status=status, timestamp=_now())
        return
    outbox.put("end", status=status, timestamp=_now())
    if not outbox.deliver(PATIENCE):
        raise RunError(
            f"trained, but {the_record()} does not answer ({outbox.why}); what it misses is kept "
            f"in {outbox.path.parent}, and recorded by the next command that reaches it"
        )


def _begun(variant: Variant, folder: Path, parent: Run | None) -> Recorder:
    """A new run, described."""
    client = MlflowClient()
    experiment = parent.info.experiment_id if parent else experiment_id(EXPERIMENT_NAME)
    tags = {
        **tags_of(variant),
        **_life_tags(folder),
        "mlflow.note.content": variant.ablation.summary,
    }
    if parent:
        tags[PARENT] = parent.info.run_id
    run = client.create_run(experiment, tags=resolve_tags(tags), run_name=name_of(variant))
    run_id = run.info.run_id
    try:
        rivals, orphans = runs.others_at_work(run)
        if earlier := [r for r in rivals if runs.order(r) < runs.order(run)]:
            raise runs.TakenError(earlier[-1])
        for orphan in orphans:  # killed before its folder named it: no process takes it up
            runs.end_orphan(orphan)
        params = flat(to_mapping(variant.experiment))
        client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        client.log_text(run_id, variant.recorded_yaml, "experiment.yaml")
        client.log_metric(run_id, "params", variant.cost.params)
        client.log_metric(run_id, "flops", variant.cost.flops)
        temporary = folder / f"{MARKER}.tmp"
        temporary.write_text(run_id, encoding="utf-8")
        temporary.replace(folder / MARKER)
    except BaseException:
        with contextlib.suppress(*STORE_ERRORS):
            client.delete_run(run_id)
        raise
    return Recorder(run_id, Outbox(folder, run_id))


def name_of(variant: Variant) -> str:
    """What its run is called."""
    return f"{variant.name} seed {variant.experiment.seed}"


def _taken_up(folder: Path) -> Recorder | None:
    """The run that a folder's marker names, open again; None where there is none in this store."""
    marker = folder / MARKER
    run_id = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""
    if not run_id.strip():
        return None
    client = MlflowClient()
    try:
        history = client.get_metric_history(run_id, "train_loss")
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in FOR_GOOD:
            raise
        return None
    if run.info.lifecycle_stage != "active":  # deleted in MLflow's page
        return None
    for name, value in _life_tags(folder).items():
        client.set_tag(run_id, name, value)
    rivals, _ = runs.others_at_work(client.get_run(run_id))
    if rivals:
        raise runs.TakenError(rivals[-1])
    client.update_run(run_id, "RUNNING")
    if ERROR in run.data.tags:
        client.delete_tag(run_id, ERROR)
    last = max((metric.step for metric in history), default=-1)
    return Recorder(run_id, Outbox(folder, run_id), last_epoch=last)


def _life_tags(folder: Path) -> dict[str, str]:
    """By which others know whether this process lives: `runs.is_alive`."""
    lock = str(lock_of(folder).absolute())
    return {HOST: platform.node(), LOCK: lock, ALIVE: f"{time.time():.0f}"}


@contextmanager
def heartbeat(run_id: str) -> Iterator[None]:
    """Within, a run gives a sign of life now and then, for those who cannot see its lock."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(runs.HEARTBEAT):
            with contextlib.suppress(*STORE_ERRORS):
                MlflowClient().set_tag(run_id, ALIVE, f"{time.time():.0f}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


@dataclass(frozen=True)
class Recorder:
    """Writes into a run; in the first process of a training, and in no other."""

    run_id: str
    outbox: Outbox
    last_epoch: int = -1
    """The last epoch whose metrics are recorded already."""

    @rank_zero_only
    def metrics(self, values: Mapping[str, float], epoch: int | None = None) -> None:
        """Record several metrics at once: every call is one write to the store.

        An epoch that was recorded before its training was killed is not recorded twice.
        """
        if epoch is None or epoch > self.last_epoch:
            self.outbox.put("metrics", values=dict(values), step=epoch or 0, timestamp=_now())

    @rank_zero_only
    def checkpoint(self, path: Path) -> None:
        """Keep a checkpoint of the training, a file in the run's folder."""
        self.outbox.put("artifact", path=str(path), folder="checkpoints")

    @rank_zero_only
    def model(self, network: nn.Module, images: Images) -> None:
        """Keep a network, for `mlflow.pytorch.load_model("runs:/ID/model")`.

        It is an artifact of the run like any other, written whole by whichever process reaches the
        store: MLflow's `log_model` would take the active experiment of the process for the run's.
        """
        path = self.outbox.path.parent / MODEL
        shutil.rmtree(path, ignore_errors=True)  # of a process that was killed here
        kind = numpy.dtype("float32")
        image = (images.channels, images.height, images.width)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(kind, (-1, *image))]),
            outputs=Schema([TensorSpec(kind, (-1, images.num_classes))]),
        )
        mlflow.pytorch.save_model(
            network,
            path,
            mlflow_model=Model(artifact_path=MODEL, run_id=self.run_id),
            signature=signature,
            pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
            serialization_format="pickle",  # the module itself; a traced graph has no heads apart
        )
        self.outbox.put("artifact", path=str(path), folder=None)


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000
