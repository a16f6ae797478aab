"""What the tests of `import levit_ablate as la` share: a folder, and in its store some trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from networks import write_small
from quick import QUICK, SEARCH, SWEEP, TEACHER, UNDISTILLED

import levit_ablate as la
from levit_ablate.cli.main import run_command


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all of this works in, with its default store."""
    folder = tmp_path_factory.mktemp("api")
    write_small(folder)
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path) -> Iterator[None]:
    with working_in(folder):
        yield


@pytest.fixture(scope="session")
def alone(folder: Path) -> la.RunResult:
    """An ablation without a teacher, trained without its baseline."""
    with working_in(folder):
        return la.run("no_distillation", baseline=False, data="digits", **QUICK)


@pytest.fixture(scope="session")
def result(alone: la.RunResult, folder: Path) -> la.RunResult:
    """The same beside its baseline, and before that a teacher."""
    with working_in(folder):
        return la.run("no_distillation", data="digits", teacher=TEACHER, **QUICK)


@pytest.fixture(scope="session")
def study(alone: la.RunResult, folder: Path) -> la.Study:
    """A study whose baseline is recorded already."""
    with working_in(folder):
        return la.sweep("paper", data="digits", jobs=2, **SWEEP, **UNDISTILLED)


@pytest.fixture(scope="session")
def search(alone: la.RunResult, folder: Path) -> la.Search:
    """A search whose first trial is recorded already."""
    with working_in(folder):
        return la.search("equal_flops", data="digits", **SEARCH, **UNDISTILLED)


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Runs a command; gives what it says as JSON."""

    def run(*words: str) -> dict:
        assert run_command([*words, "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run
