"""What all tests share: a quiet MLflow, one thread a process, and a store in a temporary folder."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with nothing in it: MLflow takes a second to make its tables."""
    from levit_ablate.tracking.store import open_store

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> str:
    """A fresh SQLite store, open for recording."""
    from levit_ablate.tracking.store import open_store

    path = tmp_path / "mlflow.db"
    shutil.copy(empty_database, path)
    with closing(sqlite3.connect(path)) as database:
        there = (str(empty_database.parent), str(tmp_path))
        database.execute(
            "update experiments set artifact_location = replace(artifact_location, ?, ?)", there
        )
        database.commit()
    open_store(f"sqlite:///{path}")
    return f"sqlite:///{path}"
