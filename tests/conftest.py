"""What all tests share: a quiet MLflow, one thread a process, and a store in a temporary folder."""

import os
import signal
from pathlib import Path

import pytest
import torch

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
signal.signal(signal.SIGINT, signal.default_int_handler)  # `nox &` ignores it, and so would ours
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is in a folder of its own: `hardware.work_dir` lies under the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A fresh SQLite store, open for recording."""
    from levit_ablate.tracking.store import open_store

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    open_store(uri)
    return uri
