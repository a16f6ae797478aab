"""One ablation beside its baseline: its network, its training, its teacher."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from levit_ablate import library
from levit_ablate.api.session import check_devices, opened, store_uri, talking
from levit_ablate.api.settings import Settings, given_by
from levit_ablate.config import Images
from levit_ablate.experiment import Variant, hardware_of
from levit_ablate.experiment import variant as resolved
from levit_ablate.keys import teacher_key
from levit_ablate.library import Ablation
from levit_ablate.models.presets import preset
from levit_ablate.runtime import one_voice
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.runs import reading_the_record
from levit_ablate.training.conditions import check_conditions, check_distilled
from levit_ablate.training.fit import ready_data, report_horizon
from levit_ablate.training.teacher import ensure_teacher, teacher_figures
from levit_ablate.training.train import Result, module_of, recorded, train
from levit_ablate.validity import check_changes

METRICS = ("train_loss", "val_loss", "val_accuracy")
"""Metrics of every epoch, in `RunResult.curves`."""


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult(Result):
    """A recorded training, and its baseline's under the same conditions and seed.

    Fields: variant, run_id (in MLflow), trained (now, or before), accuracy (test images, 0 to 1),
    loss (cross-entropy there), seconds (of training), baseline, tracking_uri.
    """

    baseline: RunResult | None = None
    """The baseline's result; None for the baseline itself, and where none was asked for."""
    tracking_uri: str = ""
    """MLflow store that holds the run."""

    @property
    def name(self) -> str:
        """Name of the ablation."""
        return self.variant.name

    @property
    def key(self) -> str:
        """Hash of everything that decides the result: a key is never trained twice."""
        return self.variant.key

    @property
    def params(self) -> int:
        """Number of parameters, with one head."""
        return self.variant.cost.params

    @property
    def flops(self) -> int:
        """Multiply-adds for an image, with one head."""
        return self.variant.cost.flops

    @property
    def difference(self) -> float | None:
        """Accuracy less the baseline's; None without a baseline."""
        return self.accuracy - self.baseline.accuracy if self.baseline else None

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each network and epoch (from 1): train_loss, val_loss, val_accuracy (0 to 1).

        Column `name` says whose. Raises RunError where the record cannot be read.
        """
        frames = [each._own_curves() for each in (self.baseline, self) if each]
        return pd.concat(frames, ignore_index=True)

    @reading_the_record()
    def _own_curves(self) -> pd.DataFrame:
        client = MlflowClient(tracking_uri=self.tracking_uri)
        points = {
            metric: {p.step + 1: p.value for p in client.get_metric_history(self.run_id, metric)}
            for metric in METRICS
        }
        frame = pd.DataFrame(points).rename_axis("epoch").reset_index()
        frame.insert(0, "name", self.name)
        return frame

    def network(self) -> nn.Module:
        """Return the trained network of the best epoch, on the CPU, in evaluation mode.

        Images (B, channels, height, width), normalized as `test_batches` gives them, become logits
        (B, num_classes). Raises RunError where the record cannot be read.
        """
        from mlflow.pytorch import load_model

        with opened(self.tracking_uri, existing=True), reading_the_record():
            network: nn.Module = load_model(f"runs:/{self.run_id}/model", map_location="cpu")
        return network.eval()

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test images on the CPU: float images (B, channels, H, W), int64 labels (B,)."""
        data = ready_data(self.variant.experiment)
        yield from data.served.evaluation("test", data.normalization, torch.device("cpu"), (0, 1))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; accuracies and their difference from 0 to 1."""
        base = self.baseline
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "baseline_accuracy": base.accuracy if base else None,
            "difference": self.difference,
            "params": self.params,
            "flops": self.flops,
            "seconds": self.seconds,
            "key": self.key,
            "run_id": self.run_id,
            "baseline_key": base.key if base else None,
            "baseline_run_id": base.run_id if base else None,
            "trained": self.trained,
        }

    def __repr__(self) -> str:
        beside = f", baseline {self.baseline.accuracy:.4f}" if self.baseline else ""
        return f"<RunResult {self.name}: accuracy {self.accuracy:.4f}{beside}, run {self.run_id}>"


def variant(
    name: str | Path | Ablation = library.BASELINE,
    *,
    images: Images | None = None,
    identify: bool = True,
    **settings: Unpack[Settings],
) -> Variant:
    """Return the whole experiment of an ablation, explicit and with its baseline.

    Args:
        name: the ablation's name, or its YAML file.
        images: what the network is built for, in place of the dataset's images.
        identify: find the fingerprint of the images, which is part of the key. It reads a folder's
            index, or makes it.
        settings: as those of `run`.

    Raises UserError where a name or a value is wrong, or a cost cannot be matched.
    """
    return resolved(_ablation(name), given_by(settings), images, identify=identify)


def network(
    name: str | Path | Ablation = library.BASELINE, **settings: Unpack[Settings]
) -> nn.Module:
    """Return the network of an ablation as it starts training.

    It is built for the dataset's images where `data` is given, else for the model's own; its
    weights are drawn from `seed`. Images (B, channels, height, width) become logits (B, classes).
    With distillation it has two heads, whose mean that is.

    Args:
        name: the ablation's name, or its YAML file.
        settings: as those of `run`: model="levit_128s", design={"stem": "patch"}, …

    Raises UserError as `variant`.
    """
    images = None
    if settings.get("data") is None and settings.get("model") is not None:
        images = preset(settings["model"]).images
    return module_of(variant(name, images=images, identify=False, **settings)).network


def run(
    name: str | Path | Ablation,
    *,
    baseline: bool = True,
    tracking_uri: str | None = None,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> RunResult:
    """Train an ablation and its baseline, and record them; what is recorded is not trained again.

        result = la.run("no_pyramid", data="digits", recipe={"epochs": 3}, seed=1)
        result.accuracy, result.baseline.accuracy, result.difference, result.run_id

    A run that was interrupted goes on from its last checkpoint when it is called again.

    Args:
        name: the ablation's name, or its YAML file.
        baseline: train the baseline beside it, under the same conditions and seed.
        tracking_uri: MLflow store; MLFLOW_TRACKING_URI, or ./mlflow.db, unless given.
        progress: show a bar, on a terminal or in Jupyter, and a line for each training. Without
            it nothing is printed; the lines go to the logger `levit_ablate`.
        settings: model, architecture, design, match, data, recipe, teacher, seed, hardware:
            `api.settings.Settings`.

    Raises UserError for a mistake, before anything is trained; RunError where a training fails or
    the store is out of reach; KeyboardInterrupt on Ctrl-C, the run marked KILLED.
    """
    given, ablation = given_by(settings), _ablation(name)
    uri = store_uri(tracking_uri)
    check_devices(hardware_of(given))
    with talking(progress), one_voice(hardware_of(given)):
        planned = resolved(ablation, given)
        check_changes(planned)
        report_horizon(planned.experiment, check_conditions(planned.experiment))
        with opened(uri):
            deliver_pending(Path(planned.experiment.hardware.work_dir))
            base = _result(planned.baseline, uri) if baseline and planned.baseline else None
            return _result(planned, uri, base)


def _result(planned: Variant, uri: str, baseline: RunResult | None = None) -> RunResult:
    """Return what is recorded, or train it now; say which on standard error."""
    result = recorded(planned)
    where = f"{planned.name}, seed {planned.experiment.seed}"
    if result:
        print(
            f"{where}: already recorded as run {result.run_id}, not trained again", file=sys.stderr
        )
    else:
        print(f"{where}: training, {planned.experiment.recipe.epochs} epochs", file=sys.stderr)
        result = train(planned)
    return RunResult(**vars(result), baseline=baseline, tracking_uri=uri)


def teacher(
    name: str | Path | Ablation = library.BASELINE,
    *,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Train a dataset's teacher, unless it was trained before, and return what it is worth.

    `run` does it by itself where a teacher is needed. The result has model, dataset, weights (the
    file), key, test_loss and test_accuracy (0 to 1).

    Args:
        name: the ablation whose teacher it is.
        progress: as in `run`.
        settings: as those of `run`; teacher={"recipe": {"epochs": 3}} trains it for 3 epochs.

    Raises UserError for a mistake, or where the ablation has no teacher.
    """
    given, ablation = given_by(settings), _ablation(name)
    check_devices(hardware_of(given))
    with talking(progress), one_voice(hardware_of(given)):
        planned = resolved(ablation, given)
        check_distilled(planned)
        check_conditions(planned.experiment)
        path = ensure_teacher(planned)
        return {
            "model": planned.experiment.teacher.model,
            "dataset": planned.experiment.data.name,
            "weights": str(path or planned.experiment.teacher.weights),
            "key": teacher_key(planned.experiment),
            **teacher_figures(planned, path),
        }


def _ablation(name: str | Path | Ablation) -> Ablation:
    return name if isinstance(name, Ablation) else library.read(str(name))
