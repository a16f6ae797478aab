"""What all tests share: a quiet MLflow, one thread a process, and a store in a temporary folder."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
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
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Put a fresh SQLite store, `mlflow.db`, into a folder, and return its URI.

    MLflow takes a second of CPU time to make one; copies of the first cost nothing.
    """
    from levit_ablate.tracking.store import open_store

    original = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracked = os.environ.get("MLFLOW_TRACKING_URI")
    open_store(f"sqlite:///{original}")
    if tracked is None:
        del os.environ["MLFLOW_TRACKING_URI"]

    def put(folder: Path) -> str:
        copy = folder / "mlflow.db"
        shutil.copy(original, copy)
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(
                "update experiments set artifact_location = replace(artifact_location, ?, ?)",
                (str(original.parent), str(folder)),
            )
        return f"sqlite:///{copy}"

    return put


@pytest.fixture
def store(tmp_path: Path, new_store: Callable[[Path], str]) -> str:
    """A fresh SQLite store, open for recording."""
    from levit_ablate.tracking.store import open_store

    uri = new_store(tmp_path)
    open_store(uri)
    return uri
