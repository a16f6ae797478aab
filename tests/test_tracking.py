import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import mlflow
import pytest

from levit_ablate import tracking
from levit_ablate.errors import RunError, UserError
from levit_ablate.experiments import variant


def statuses() -> list[str]:
    return [run.info.status for run in mlflow.search_runs(output_format="list")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (RuntimeError("out of luck"), "FAILED")],
)
def test_a_run_ends_with_the_status_of_how_it_ended(store, error, status):
    def leave() -> None:
        with tracking.record(variant("baseline", {}), Path("run_id")):
            assert statuses() == ["RUNNING"]
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            leave()
    else:
        leave()
    assert statuses() == [status]
    assert mlflow.active_run() is None


def test_only_a_finished_run_of_the_same_key_is_found(store):
    own, other = variant("no_pyramid", {}), variant("no_pyramid", {"seed": 1})
    with pytest.raises(KeyboardInterrupt), tracking.record(own, Path("run_id")):
        raise KeyboardInterrupt
    assert tracking.find(own.key) is None
    with tracking.record(own, Path("run_id")) as recorder:
        pass
    assert tracking.find(own.key).info.run_id == recorder.run_id
    assert tracking.find(other.key) is None


def test_the_store_is_the_option_then_the_environment_then_a_file_here(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.tracking_uri(None) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.tracking_uri(None) == "http://server:5000"
    assert tracking.tracking_uri("sqlite:///other.db") == "sqlite:///other.db"


def test_artifacts_lie_beside_the_database(store, tmp_path):
    with tracking.record(variant("baseline", {}), Path("run_id")):
        pass
    assert list((tmp_path / "mlartifacts").rglob("experiment.yaml"))


def test_a_store_is_opened_again_without_losing_what_it_holds(store):
    with tracking.record(variant("baseline", {}), Path("run_id")):
        pass
    tracking.open_store(store)
    assert statuses() == ["FINISHED"]


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
        tracking.open_store(uri)
    assert str(caught.value).count(f"tracking uri {uri}") == 1
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_two_processes_that_open_a_fresh_store_at_once_both_succeed(tmp_path):
    code = "from levit_ablate.tracking import open_store; open_store('sqlite:///mlflow.db')"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()


def test_a_store_that_fails_at_work_fails_the_run_in_a_line(store, tmp_path):
    def leave() -> None:
        with tracking.record(variant("baseline", {}), Path("run_id")) as recorder:
            (tmp_path / "mlflow.db").unlink()
            (tmp_path / "mlflow.db").mkdir()
            recorder.metrics({"val_loss": 1.0}, epoch=0)

    with pytest.raises(
        RunError, match=r"the record at sqlite.*cannot be read or written"
    ) as caught:
        leave()
    assert "\n" not in str(caught.value)


def test_a_run_is_named_after_the_options_that_made_it_another_than_its_file(store):
    with tracking.record(variant("baseline", {"design": {"stem": "patch"}}), Path("run_id")):
        pass
    found = tracking.find(variant("no_patch_conv", {}).key)
    assert found.info.run_name == "baseline + design.stem=patch seed 0"
    assert found.data.tags["levit_ablate.paper_row"] == ""
    assert found.data.tags["levit_ablate.differs"] == "design.stem=patch"


def test_a_real_server_records_a_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.3)
        tracking.open_store(uri)
        own = variant("no_pyramid", {})
        with tracking.record(own, Path("run_id")) as recorder:
            recorder.metrics({"test_accuracy": 0.5}, epoch=None)
        found = tracking.find(own.key)
        assert found.data.metrics["test_accuracy"] == 0.5
        assert list((tmp_path / "artifacts").rglob("experiment.yaml"))
    finally:
        server.terminate()
        server.wait(timeout=30)
