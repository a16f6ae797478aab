"""What processes left in the store of a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from torch import nn


def runs(folder: Path) -> list:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def children(folder: Path) -> list:
    """The runs below a study's, or a search's."""
    return [run for run in runs(folder) if "mlflow.parentRunId" in run.data.tags]


def tag(run, name: str) -> str:
    return run.data.tags.get(f"levit_ablate.{name}", "")


def trained(folder: Path) -> Counter:
    """How often every network and seed was trained to its end."""
    own = [run for run in runs(folder) if not tag(run, "original") and tag(run, "key")]
    return Counter(tag(run, "key") for run in own if run.info.status == "FINISHED")


def loaded(run) -> nn.Module:
    """The network of a finished run, with all that belongs to it there."""
    client, run_id = MlflowClient(), run.info.run_id
    there = {
        a.path for folder in (None, "checkpoints") for a in client.list_artifacts(run_id, folder)
    }
    assert there >= {"experiment.yaml", "checkpoints/best.ckpt", "model"}
    return mlflow.pytorch.load_model(f"runs:/{run_id}/model")
