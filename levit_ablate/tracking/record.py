"""Record one training as an MLflow run: begin or resume it, write to it, end it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from levit_ablate.runtime import is_first_process, lock_of, replacing
from levit_ablate.schema import flat, plain
from levit_ablate.tracking import runs
from levit_ablate.tracking.outbox import FOR_GOOD, Outbox
from levit_ablate.tracking.runs import ERROR, HOST, LOCK, PACKAGES, PARENT, PRUNED, tags_of
from levit_ablate.tracking.store import EXPERIMENT_NAME, STORE_ERRORS, experiment_id, the_record

MARKER = "run_id"
"""File in a run's folder that names the run, by which a killed one is resumed."""
MODEL = "model"
"""Artifact of a run that holds its network: `runs:/ID/model`."""
PATIENCE = 30.0
"""Seconds that an ending run waits for a store that does not answer."""


class TakenError(Exception):
    """A process of another machine or folder, with other locks, trains the same key."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.info.run_id)
        self.run = run


class GivenUpError(Exception):
    """Raised in a training to prune it: end it for good, without a result."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"given up after epoch {epoch}")
        self.epoch = epoch


@contextmanager
def record(variant: Variant, folder: Path, parent: Run | None = None) -> Iterator[Recorder]:
    """Record a training as a run that ends as FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED.

    A run that is given up (`GivenUpError`) is KILLED, with the epoch as a tag. A run that did not
    finish before is resumed. Only the first process of a training records. Writes that the store
    does not take are sent later, by this process or by the next command (`outbox`).

    Raises TakenError where a process of another machine or folder trains the same; RunError
    where the store cannot be reached at the beginning, or again at the end.

    The folder is the run's, with what a resumed run needs; its lock is beside it. The run is put in
    the experiment of its parent.
    """
    if not is_first_process():
        yield Recorder(folder)
        return
    with runs.reading_the_record():
        recorder = _resumed(folder) or _begun(variant, folder, parent)
    recorder.path.unlink(missing_ok=True)  # a resumed training writes all of it again
    try:
        with runs.heartbeat(recorder.run_id):
            yield recorder
    except BaseException as error:
        _end_early(recorder, error)
        raise
    try:
        recorder.put("end", status="FINISHED", timestamp=_now())
        is_sent = recorder.deliver(PATIENCE)
    except RunError:  # a write was refused; those behind it wait
        recorder.keep()
        raise
    if not is_sent:
        recorder.keep()
        raise RunError(
            f"trained, but {the_record()} does not answer ({recorder.why}); what it misses is kept "
            f"in {recorder.folder}, and recorded by the next command that reaches it"
        )


def _end_early(outbox: Outbox, error: BaseException) -> None:
    """End a run that did not finish; raises nothing, since the store may be what failed."""
    status, tags = "KILLED", {}
    if isinstance(error, GivenUpError):
        tags = {PRUNED: str(error.epoch)}
    elif not isinstance(error, KeyboardInterrupt):
        status, tags = "FAILED", {ERROR: f"{type(error).__name__}: {error}"[:500]}
    if tags:
        with contextlib.suppress(RunError):
            outbox.put("tags", values=tags)
    with contextlib.suppress(RunError):
        outbox.put("end", status=status, timestamp=_now())
    with contextlib.suppress(RunError):
        outbox.keep()


def _create_run(variant: Variant, parent: Run | None, tags: Mapping[str, str]) -> Run:
    experiment = parent.info.experiment_id if parent else experiment_id(EXPERIMENT_NAME)
    tags = {**tags_of(variant), "mlflow.note.content": variant.ablation.summary, **tags}
    if parent:
        tags[PARENT] = parent.info.run_id
    name = f"{variant.name} seed {variant.experiment.seed}"
    return MlflowClient().create_run(experiment, tags=resolve_tags(tags), run_name=name)


def _begun(variant: Variant, folder: Path, parent: Run | None) -> Recorder:
    """Create a run with its tags, params and cost."""
    client = MlflowClient()
    run = _create_run(variant, parent, runs.life_tags(lock_of(folder)))
    run_id = run.info.run_id
    try:
        alive, dead = _others_running(run)
        place = run.info.start_time, run_id  # of several that began at once
        if earlier := [r for r in alive if (r.info.start_time, r.info.run_id) < place]:
            raise TakenError(earlier[-1])
        for orphan in dead:  # killed before its folder named it: it cannot be resumed
            runs.end(orphan.info.run_id, "KILLED", runs.DIED)
        params = flat(plain(variant.experiment))
        client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        client.log_text(run_id, variant.recorded_yaml, "experiment.yaml")
        client.log_metric(run_id, "params", variant.cost.params)
        client.log_metric(run_id, "flops", variant.cost.flops)
        with replacing(folder / MARKER) as temporary:
            temporary.write_text(run_id, encoding="utf-8")
    except BaseException:
        with contextlib.suppress(*STORE_ERRORS):
            client.delete_run(run_id)
        raise
    return Recorder(folder, run_id)


def _resumed(folder: Path) -> Recorder | None:
    """Reopen the run that a folder's marker names; None where this store does not have it."""
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
    for name, value in runs.life_tags(lock_of(folder)).items():
        client.set_tag(run_id, name, value)
    alive, _ = _others_running(client.get_run(run_id))
    if alive:
        raise TakenError(alive[-1])
    client.update_run(run_id, "RUNNING")
    if ERROR in run.data.tags:
        client.delete_tag(run_id, ERROR)
    recorder = Recorder(folder, run_id)
    recorder.last_epoch = max((metric.step for metric in history), default=-1)
    return recorder


def _others_running(run: Run) -> tuple[list[Run], list[Run]]:
    """Return the other runs of its key with status RUNNING, as (alive, dead), latest first.

    This process alone holds the run's lock: other runs with the same lock are dead.
    """
    alive: list[Run] = []
    dead: list[Run] = []
    for other in runs.of_key(run.data.tags[runs.KEY]):
        if other.info.status == "RUNNING" and other.info.run_id != run.info.run_id:
            has_lock = all(other.data.tags.get(t) == run.data.tags[t] for t in (HOST, LOCK))
            is_dead = has_lock or not runs.is_alive(other)
            (dead if is_dead else alive).append(other)
    return alive, dead


class Recorder(Outbox):
    """Writes to a run, from the first process of a training only."""

    last_epoch = -1
    """Last epoch whose metrics are recorded already."""

    @rank_zero_only
    def metrics(self, values: Mapping[str, float], epoch: int | None = None) -> None:
        """Record several metrics in one write; an epoch that is recorded already is left out."""
        if epoch is None or epoch > self.last_epoch:
            self.put("metrics", values=dict(values), step=epoch or 0, timestamp=_now())

    @rank_zero_only
    def checkpoint(self, path: Path) -> None:
        """Record a checkpoint, a file in the run's folder."""
        self.put("artifact", path=str(path), folder="checkpoints")

    @rank_zero_only
    def model(self, network: nn.Module, images: Images) -> None:
        """Record a network, for `mlflow.pytorch.load_model("runs:/ID/model")`.

        As an artifact like any other, so that it may be sent later and by another process: MLflow's
        `log_model` takes the active experiment of the process for the run's.
        """
        path = self.folder / self.run_id / MODEL  # it names the run
        shutil.rmtree(path, ignore_errors=True)  # left by a killed process
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
            serialization_format="pickle",  # a traced graph would not have separate heads
        )
        self.put("artifact", path=str(path), folder=None)


def _now() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


@runs.reading_the_record()
def record_failure(variant: Variant, parent: str, error: str) -> None:
    """Record a run as FAILED for a process that could not: it was killed, or did not begin.

    A run that recorded its own end, or that is running, is left alone. `parent` is the id of the
    parent run.
    """
    run = next(iter(runs.of_key(variant.key)), None)
    if run is None:
        run = _create_run(variant, MlflowClient().get_run(parent), {})
    elif run.info.status in ("FINISHED", "FAILED") or runs.is_alive(run):
        return
    runs.end(run.info.run_id, "FAILED", error)
