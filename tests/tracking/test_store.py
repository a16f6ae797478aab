"""Opening the store of all runs."""

import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from processes import Started

from levit_ablate.errors import UserError
from levit_ablate.tracking import store


def test_the_store_is_the_option_then_the_environment_then_a_file_here(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.tracking_uri(None) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert store.tracking_uri(None) == "http://server:5000"
    assert store.tracking_uri("sqlite:///other.db") == "sqlite:///other.db"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///file.txt/mlflow.db",  # its folder is a file
        "sqlite:///missing/mlflow.db",
        "sqlite:///folder",
        "sqlite:///file.txt",  # no database
        "sqlite:///",
        "sqlite:///:memory:",  # gone when the command ends
        "sqlite://mlflow.db",
        "postgresql://127.0.0.1:9/there",
        "http://127.0.0.1:9",
        "nonsense://there",
        "file.txt",
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line_and_soon(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no store" * 100)
    (tmp_path / "folder").mkdir()
    started = time.monotonic()
    with pytest.raises(UserError, match="tracking uri") as caught:
        store.open_store(uri)
    assert str(caught.value).count(f"tracking uri {uri}") == 1
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("with space", "mlflow.db"),
        ("per%20cent", "mlflow.db?timeout=5"),
        ("what?", "with%20space.db"),
        ("ü#", "mlflow.db"),
    ],
)
def test_a_store_lies_where_its_uri_says_whatever_the_path(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    code = f"""
import mlflow
from levit_ablate.tracking.store import open_store
open_store("sqlite:///{name}")
mlflow.start_run()
mlflow.log_text("kept", "note.txt")
"""
    process = Started(code, cwd=tmp_path / folder)
    assert process.wait() == 0, process.said()
    file = name.partition("?")[0].replace("%20", " ")
    found = {path.name for path in (tmp_path / folder).iterdir()}
    assert found == {file, f"{file}.lock", "mlartifacts"}
    assert list((tmp_path / folder).rglob("note.txt"))
    assert [path.name for path in tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize("tables", [0, 1, 20])
def test_a_process_killed_while_it_makes_a_store_leaves_none(tmp_path, tables):
    code = f"""
import os, signal, sqlalchemy
from levit_ablate.tracking.store import open_store
made = []
def count(connection, cursor, statement, *_):
    made.extend([1] if statement.strip().upper().startswith("CREATE TABLE") else [])
    if len(made) > {tables}:
        os.kill(os.getpid(), signal.SIGKILL)
sqlalchemy.event.listen(sqlalchemy.engine.Engine, "after_cursor_execute", count)
open_store("sqlite:///mlflow.db")
"""
    assert Started(code).wait() == -9
    store.open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert mlflow.search_runs(output_format="list") == []
    assert not list(tmp_path.glob("*.making*"))


def test_two_processes_that_open_a_fresh_store_at_once_both_succeed():
    code = "from levit_ablate.tracking.store import open_store; open_store('sqlite:///mlflow.db')"
    for process in [Started(code) for _ in range(2)]:
        assert process.wait() == 0, process.said()


def test_a_server_that_may_be_away_is_asked_briefly_and_once(monkeypatch):
    """A driver asks it between two looks at its jobs."""
    requests = []

    def times_out(*_, timeout, max_retries, **__):
        requests.append((timeout, max_retries))
        raise MlflowException("timed out")

    monkeypatch.setattr(store, "http_request", times_out)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:9")
    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda _: pytest.fail("without a limit"))
    assert not store.answers()
    assert requests == [(store.ANSWER, 0)] and store.ANSWER <= 5
